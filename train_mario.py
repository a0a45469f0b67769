"""Train PPO with Random Network Distillation on one stage of Super Mario Bros.

    python train_mario.py --timesteps 5000000 --action-set simple --n-envs 8 --gamma 0.9 ...

Writes a run folder (mario_runs.py), which `--resume-model` continues. From top to bottom: the
flags, what is derived from them, the callbacks, main. What recipes reached stands in docs/results/.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import imageio.v2 as imageio
import numpy as np
import torch as th
import tyro
import yaml
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize

from fastnes import BUTTON_BITS
from mario_checkpoints import load_tensors, read_model_zip, tensor_bytes, write_model_zip
from mario_cli import UsageError, exit_code, with_stages_flag
from mario_config import (
    EnvConfig,
    StagesFlag,
    buttons_of_actions,
    env_config_as_dict,
    env_config_from_dict,
    in_process,
)
from mario_curriculum import AnywhereStarts, BackwardStarts
from mario_demos import demo_samples, load_demos
from mario_doctor import Doctor, Finding
from mario_game import StageId, parse_stages, stages_label, stages_text, with_stages_field
from mario_networks import PPOPolicy, SmallCNN, TwoHeadCnnPolicy
from mario_ppo import MarioPPO, linear_schedule, plain
from mario_reward import reward_signature
from mario_rollout import (
    ProtocolName,
    Summary,
    best_episode,
    evaluate,
    film,
    game_fps,
    play,
    write_video,
)
from mario_runs import BadModelFile, MetricsLog, RunFolder, atomic_write, provenance, write_json
from mario_sb3 import MarioVecEnv, WorkerDied, make_vec_env, positions

DEFAULT_RECIPE = Path(__file__).parent / "configs" / "ppo_1-1.yaml"
ENOUGH = "enough clears"  # what stops a run that --eval-enough ends
LEAP_PX = 64  # in an agent step; more is a pipe or a maze, no walk
# Metrics of finished episodes, and what VecMonitor calls them.
EPISODE_METRICS = {
    "episode_return": "r",
    "episode_length": "l",
    "max_x": "max_x",
    "clear_rate": "is_success",
}

# --------------------------------------------------------------------------------------------
# Flags: these dataclasses are the parser, the keys of configs/*.yaml and of train_config.json
# --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PPOFlags:
    """PPO (Schulman et al. 2017) on Stable-Baselines3."""

    timesteps: int = 5_000_000
    """The run's target in agent steps, all environments together; resuming goes on to the same."""
    device: str = "auto"
    """auto (CUDA if there, else CPU), cpu, cuda or cuda:N."""
    features: Literal["small", "nature"] = "small"
    """CNN 16-32-32-256, or Nature's 32-64-64-512 (about twice the time per gradient pass)."""
    learning_rate: float = 2.5e-4
    """Adam's step size: 2.5e-4 is the Atari standard."""
    learning_rate_final: float | None = None
    """Falls linearly to this over the run. Unset: constant."""
    n_steps: int = 512
    """Agent steps per environment in a rollout; long enough to see a jump pay."""
    batch_size: int = 256
    """Samples in a minibatch; must divide n_steps * n_envs."""
    n_epochs: int = 4
    """Passes over each rollout. 10 helped the collapse of P4."""
    gamma: float = 0.9
    """Discount. With 0.99 the value is nearly constant along 1-1 and advantages vanish (P7, P8)."""
    gae_lambda: float = 0.95
    """GAE's lambda (Schulman et al. 2016): bias against variance."""
    clip_range: float = 0.2
    """PPO's epsilon."""
    ent_coef: float = 0.01
    """Entropy bonus: keeps the policy trying."""
    ent_coef_final: float | None = None
    """Falls linearly to this over the run. Unset: constant. Low at the end: clears every time."""
    imitation_coef: float = 0.0
    """Weight of doing what --backward-demos did (DAPG, Rajeswaran et al. 2018), 0 in the end."""
    imitation_until: float = 0.5
    """Part of the run over which that weight falls linearly to 0."""
    ema_decay: float = 0.0
    """Judge and keep a moving average of the weights, with this decay a rollout. 0: the weights."""
    temperature_final: float = 1.0
    """The policy ends sharpened to this sampling temperature: below 1, samples near its argmax."""
    temperature_from: float = 0.7
    """Part of the run after which the temperature begins to fall, geometrically."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this norm."""
    target_kl: float | None = None
    """Stop a rollout's updates beyond 1.5 times this KL divergence. Unset: never."""
    normalize_reward: bool = False
    """Divide rewards by the running std of their discounted return (gamma as above)."""
    norm_reward_clip: float = 10.0
    """Normalised rewards are clipped to this, so that one flag cannot shake the value."""
    action_bias_jump: float = 0.0
    """Added to the initial logits of actions that press A: e^1 = 2.7 times as likely at first."""
    action_bias_long_jump: float = 0.0
    """Added to the initial logit of the long jump."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Of the network's arithmetic; auto is bf16 where the CPU or GPU multiplies it natively."""
    channels_last: bool = True
    """Memory order of the convolutions; the same function, about twice as fast on a CPU."""


@dataclasses.dataclass(frozen=True)
class RNDFlags:
    """Random Network Distillation (Burda et al. 2018): pay for screens not seen before."""

    rnd_coef: float = 0.0
    """Weight of the intrinsic advantage. 0 is off and costs nothing."""
    rnd_lr: float = 1e-4
    """Adam's step size of the predictor."""
    rnd_feature_dim: int = 512
    """Outputs of target and predictor."""
    rnd_warmup_steps: int = 512
    """Random agent steps per environment that fill the observation normaliser before training."""


@dataclasses.dataclass(frozen=True)
class RunFlags:
    """The run: where it writes, how often it looks at itself."""

    config: Path | None = None
    """A YAML file of any of these flags; the command line wins. Unset: configs/ppo_1-1.yaml."""
    run_dir: Path | None = None
    """The run folder. Unset: runs/ppo_<world>-<stage>_<date>-<time>, or the resumed run's own."""
    resume_model: Path | None = None
    """A checkpoint (.zip) or a run folder to continue, with its own flags unless given here."""
    warm_start: Path | None = None
    """A model whose weights alone begin a new run, under any stage or reward."""
    warm_temperature: float = 1.0
    """Sampling temperature of a warm start's policy. 4 makes one that was sharpened try again."""
    seed: int = 0
    """Seeds networks, sampling and environments (environment i: seed + i)."""
    checkpoint_freq: int = 50_000
    """Agent steps between checkpoints; the newest two are kept. 0: only at the end."""
    eval_freq: int = 50_000
    """Agent steps between evaluations that keep best_eval.zip. 0: never."""
    eval_protocol: ProtocolName = "noop"
    """fixed, noop or sticky: docs/protocol.md."""
    eval_episodes: int = 3
    """Episodes of an evaluation, each with no-ops of its own."""
    eval_modes: Literal["argmax", "both"] = "argmax"
    """Play argmax only, or argmax and sampled episodes: the worse of the two ranks the model."""
    eval_enough: float = 0.0
    """End the run, as finished, once an evaluation clears this share in every mode. 0: never."""
    eval_stages: StagesFlag = ()
    """Stages to evaluate, as --stages; more than are trained shows what is forgotten. Unset: those
    that are trained."""
    backward_demos: Path | None = None
    """A folder of demos (<world>-<stage>.npz) along which episodes begin."""
    demo_starts: Literal["backward", "anywhere"] = "backward"
    """Where along --backward-demos: first near the goal and moving back, or anywhere with half of
    the episodes at the level's start."""
    eval_steps: int = 1_000
    """Agent steps after which an evaluation episode is cut off; 1-1 takes 260. 0: by the clock."""
    preview_freq: int = 0
    """Agent steps between preview videos. 0: never."""
    preview_episodes: int = 1
    """Sampled episodes played for a preview; the best is filmed."""
    preview_steps: int = 1_000
    """Agent steps after which a preview episode is cut off. 0: the clock only."""
    preview_fps: float = 0.0
    """Frames a second of the preview. 0: the game's own speed."""
    stop_on_collapse: bool = False
    """Stop, with exit code 1 and a checkpoint, when the doctor sees that learning is over."""
    live_preview: bool = False
    """Also keep previews/live.png, the first environment's screen, fresh every rollout."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that a run depends on."""

    run: RunFlags = dataclasses.field(default_factory=RunFlags)
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    ppo: PPOFlags = dataclasses.field(default_factory=PPOFlags)
    rnd: RNDFlags = dataclasses.field(default_factory=RNDFlags)

    def __post_init__(self) -> None:
        rollout = self.ppo.n_steps * self.env.n_envs
        if self.ppo.batch_size < 2 or rollout % self.ppo.batch_size:
            raise UsageError(
                f"batch_size {self.ppo.batch_size} does not divide a rollout of "
                f"{self.ppo.n_steps} steps x {self.env.n_envs} environments = {rollout}"
            )
        for name in ("timesteps", "n_epochs"):
            if getattr(self.ppo, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self.ppo, name)}")
        for name, value in {
            "imitation_until": self.ppo.imitation_until,
            "temperature_final": self.ppo.temperature_final,
            "warm_temperature": self.run.warm_temperature,
        }.items():
            if value <= 0:
                raise UsageError(f"{name} must be above 0, not {value}")
        if self.ppo.imitation_coef < 0:
            raise UsageError(f"imitation_coef must not be negative: {self.ppo.imitation_coef}")
        if self.ppo.ema_decay == 1:
            raise UsageError("ema_decay 1 would keep the first weights for good; below 1 it moves")
        if self.ppo.imitation_coef and not self.run.backward_demos:
            raise UsageError("--imitation-coef needs the demos of --backward-demos")
        for name in ("gamma", "gae_lambda", "temperature_from", "ema_decay"):
            if not 0 <= getattr(self.ppo, name) <= 1:
                raise UsageError(f"{name} must be in [0, 1], not {getattr(self.ppo, name)}")


def parse_config(arguments: Sequence[str]) -> TrainConfig:
    """Return the flags: defaults, under a resumed run's own, under --config's, under arguments.

    A new run without --config follows `DEFAULT_RECIPE`.

    Raises:
        UsageError: a file is missing or holds an unknown key, or values do not fit together.
        SystemExit: --help (0), or the arguments do not parse (2).
    """
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--config", type=Path)
    files.add_argument("--resume-model", "--resume_model", type=Path)
    arguments = with_stages_flag(arguments)
    given, _ = files.parse_known_args(arguments)
    default = TrainConfig()
    if given.resume_model:
        default = config_from_dict(read_model_zip(find_checkpoint(given.resume_model))[0])
    config_path = given.config or (None if given.resume_model else DEFAULT_RECIPE)
    if config_path:
        default = with_flat_values(default, read_yaml(config_path))
    config = tyro.cli(
        TrainConfig,
        args=list(arguments),
        default=default,
        description=__doc__.split("\n\n")[0],
        config=(tyro.conf.OmitArgPrefixes,),
    )
    env = dataclasses.replace(config.env, discount=config.ppo.gamma)
    run = config.run
    if run.run_dir is None:
        if run.resume_model:
            run_dir = find_checkpoint(run.resume_model).parents[2]
        else:
            now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
            run_dir = Path("runs") / f"ppo_{stages_label(env.stages)}_{now}"
        run = dataclasses.replace(run, run_dir=run_dir)
    return dataclasses.replace(config, env=env, run=run)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file."""
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold a mapping of flags to values")
    return content


def with_flat_values(instance: Any, values: dict[str, Any], nested: bool = False) -> Any:
    """Return a config dataclass with the flags in values replaced, wherever they are nested.

    Raises:
        UsageError: a flag that does not exist.
    """
    rest = {key.replace("-", "_"): value for key, value in values.items()}
    rest = rest if nested else with_stages_field(rest)
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(instance):
        current = getattr(instance, field.name)
        if dataclasses.is_dataclass(current):
            changes[field.name], rest = with_flat_values(current, rest, nested=True)
        elif field.name in rest:
            value: Any = rest.pop(field.name)
            if field.name in ("stages", "eval_stages"):
                value = parse_stages(str(value)) if value else ()
            value = tuple(value) if isinstance(value, list) else value
            if "float" in str(field.type) and isinstance(value, (int, str)):
                value = float(value)  # YAML reads 1 and 2.5e-4 as an int and a string
            elif "Path" in str(field.type) and value is not None:
                value = Path(value)
            changes[field.name] = value
    if nested:
        return dataclasses.replace(instance, **changes), rest
    if rest:
        raise UsageError(f"no flag --{min(rest).replace('_', '-')}; see --help")
    return dataclasses.replace(instance, **changes)


def config_as_dict(config: TrainConfig) -> dict[str, Any]:
    """Return train_config.json's content: the flags by group, and what belongs beside them."""

    def jsonable(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: jsonable(item) for key, item in value.items()}
        return value.as_posix() if isinstance(value, Path) else value

    run = dataclasses.asdict(config.run)
    run["eval_stages"] = stages_text(config.run.eval_stages)
    return jsonable(dataclasses.asdict(config)) | {
        "run": jsonable(run),
        "env": env_config_as_dict(config.env),
        "agent": "ppo",
        "reward_signature": reward_signature(config.env),
        "provenance": provenance(),
    }


def config_from_dict(content: dict[str, Any]) -> TrainConfig:
    """Return the flags of a train_config.json; where it ran and what it resumed are left out.

    What it was warm-started from stays: a resumed run's weights come from there, too.

    Raises:
        UsageError: keys that this version does not know.
    """
    try:
        run = {**content["run"], "config": None, "run_dir": None, "resume_model": None}
        for name in ("warm_start", "backward_demos"):
            run[name] = Path(run[name]) if run.get(name) else None
        evaluated = run.get("eval_stages")
        run["eval_stages"] = parse_stages(evaluated) if evaluated else ()
        return TrainConfig(
            run=RunFlags(**run),
            env=env_config_from_dict(content["env"]),
            ppo=PPOFlags(**content["ppo"]),
            rnd=RNDFlags(**content["rnd"]),
        )
    except (KeyError, TypeError) as error:
        raise UsageError(f"not this version's train_config.json: {error}") from error


# --------------------------------------------------------------------------------------------
# What the flags make
# --------------------------------------------------------------------------------------------


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint zip that path names: itself, or a run folder's newest whole one.

    Raises:
        UsageError: there is none.
    """
    if path.is_dir():
        for checkpoint in RunFolder(path).checkpoints():
            try:
                read_model_zip(checkpoint)
                load_tensors(
                    checkpoint.with_suffix(".state"), str(checkpoint.with_suffix(".state"))
                )
                return checkpoint
            except BadModelFile as error:
                print(f"warning: {error}; using the checkpoint before it", file=sys.stderr)
        raise UsageError(f"{path} holds no checkpoint to resume")
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {path}")
    if not path.with_suffix(".state").is_file():
        raise UsageError(
            f"{path} has no {path.stem}.state beside it; --warm-start takes its weights"
        )
    return path


def resolve_device(name: str) -> th.device:
    """Return the device; `auto` falls back to the CPU, another that is not there is an error."""
    if name == "auto":
        return th.device("cuda" if th.cuda.is_available() else "cpu")
    try:
        device = th.device(name)
    except RuntimeError:
        raise UsageError(f"no device {name!r}; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not th.cuda.is_available():
        raise UsageError("there is no CUDA GPU that torch can use; --device auto or cpu runs here")
    return device


def action_bias(config: TrainConfig) -> list[float] | None:
    """Return the initial logit of every action, or None if all are 0."""
    buttons = buttons_of_actions(config.env)
    bias = [config.ppo.action_bias_jump * bool(b & BUTTON_BITS["A"]) for b in buttons]
    if config.env.long_jump_action:
        bias[-1] = config.ppo.action_bias_long_jump
    return bias if any(bias) else None


def make_training_env(config: TrainConfig) -> VecEnv:
    """Return the vec env with episode statistics and, if asked for, normalised rewards."""
    starts = None
    if config.run.backward_demos:
        demos = load_demos(config.run.backward_demos, config.env.stages)
        kind = BackwardStarts if config.run.demo_starts == "backward" else AnywhereStarts
        starts = kind(config.env, demos)
    venv: VecEnv = VecMonitor(
        make_vec_env(config.env, config.run.seed, starts),
        info_keywords=("max_x", "is_success", "from_start"),
    )
    if config.ppo.normalize_reward:
        venv = VecNormalize(
            venv, norm_obs=False, gamma=config.ppo.gamma, clip_reward=config.ppo.norm_reward_clip
        )
    return venv


def make_model(config: TrainConfig, venv: VecEnv) -> MarioPPO:
    """Return the learner that the flags describe."""
    ppo, rnd = config.ppo, config.rnd

    def schedule(initial: float, final: float | None) -> Any:
        return initial if final is None else linear_schedule(initial, final)

    model = MarioPPO(
        TwoHeadCnnPolicy,
        venv,
        learning_rate=schedule(ppo.learning_rate, ppo.learning_rate_final),
        ent_coef=schedule(ppo.ent_coef, ppo.ent_coef_final),
        ema_decay=ppo.ema_decay,
        imitation_coef=linear_schedule(ppo.imitation_coef, 0.0, ppo.imitation_until),
        n_steps=ppo.n_steps,
        batch_size=ppo.batch_size,
        n_epochs=ppo.n_epochs,
        gamma=ppo.gamma,
        gae_lambda=ppo.gae_lambda,
        clip_range=ppo.clip_range,
        vf_coef=ppo.vf_coef,
        max_grad_norm=ppo.max_grad_norm,
        target_kl=ppo.target_kl,
        rnd_coef=rnd.rnd_coef,
        rnd_lr=rnd.rnd_lr,
        rnd_feature_dim=rnd.rnd_feature_dim,
        rnd_warmup_steps=rnd.rnd_warmup_steps,
        precision=ppo.precision,
        channels_last=ppo.channels_last,
        seed=config.run.seed,
        device=resolve_device(ppo.device),
        policy_kwargs={
            "features_extractor_class": SmallCNN if ppo.features == "small" else NatureCNN,
            "action_bias": action_bias(config),
        },
    )
    if ppo.imitation_coef and config.run.backward_demos:
        demos = load_demos(config.run.backward_demos, config.env.stages)
        samples = [demo_samples(demo, config.env) for demo in demos]
        model.imitate(*(np.concatenate(part) for part in zip(*samples, strict=True)))
    return model


# --------------------------------------------------------------------------------------------
# State: what a checkpoint holds beside the weights
# --------------------------------------------------------------------------------------------


def capture_state(model: MarioPPO) -> dict[str, Any]:
    """Return all of the trainer's state but the policy's weights, as tensors and plain values.

    Environments outside the batched backend are not captured: a resumed run resets them.
    """
    state: dict[str, Any] = {"learner": model.trainer_state()}
    for venv in wrappers_of(model):
        if isinstance(venv, VecNormalize):
            statistics = venv.ret_rms
            state["reward_normalizer"] = {
                "mean": float(statistics.mean),
                "var": float(statistics.var),
                "count": float(statistics.count),
                "returns": venv.returns,
            }
        elif isinstance(venv, VecMonitor):
            state["monitor"] = {"returns": venv.episode_returns, "lengths": venv.episode_lengths}
        elif isinstance(venv, MarioVecEnv):
            state["environments"] = venv.env.state_dict()
    return plain(state)


def restore_state(model: MarioPPO, state: dict[str, Any]) -> None:
    """Continue from what `capture_state` returned; the weights are loaded before."""
    model.load_trainer_state(state["learner"])
    exact = "environments" in state and len(state["monitor"]["returns"]) == model.n_envs
    for venv in wrappers_of(model):
        if isinstance(venv, VecNormalize) and "reward_normalizer" in state:
            saved: dict[str, Any] = state["reward_normalizer"]
            statistics: Any = venv.ret_rms
            statistics.mean, statistics.var = np.float64(saved["mean"]), np.float64(saved["var"])
            statistics.count = saved["count"]
            if exact:
                venv.returns = saved["returns"].numpy().copy()
        elif isinstance(venv, VecMonitor) and exact:
            venv.episode_returns = state["monitor"]["returns"].numpy().copy()
            venv.episode_lengths = state["monitor"]["lengths"].numpy().copy()
        elif isinstance(venv, MarioVecEnv) and exact:
            venv.env.load_state_dict(state["environments"])
        elif not hasattr(venv, "venv"):
            model._last_obs = None  # learn() resets the environments
            print(
                "the environments begin new episodes: their state is kept for the batched backend"
            )


def wrappers_of(model: MarioPPO) -> list[VecEnv]:
    """Return the model's vec env and what it wraps, the outermost first."""
    venvs: list[Any] = [model.get_env()]
    while hasattr(venvs[-1], "venv"):
        venvs.append(venvs[-1].venv)
    return venvs


def save_checkpoint(
    run: RunFolder, model: MarioPPO, state: dict[str, Any], config: dict[str, Any]
) -> Path:
    """Write a checkpoint of the model's weights and a captured state.

    Raises:
        OSError: it could not be written; earlier checkpoints are untouched.
    """
    step = int(state["learner"]["counters"]["num_timesteps"])
    return run.save_checkpoint(
        step,
        lambda path: write_model_zip(path, model.save, config),
        tensor_bytes(state),
    )


# --------------------------------------------------------------------------------------------
# Callbacks: everything but the stop happens between rollouts, when the state is whole
# --------------------------------------------------------------------------------------------


class BetweenRollouts(BaseCallback):
    """Calls `tick` after each rollout has been trained on, before the next one is collected."""

    def __init__(self, every: int = 0) -> None:
        super().__init__()
        self.every = every  # agent steps; 0 is never
        self._done = 0  # multiples of `every` that have been acted on
        self._has_rollout = False

    def _on_training_start(self) -> None:
        self._done = self.num_timesteps // self.every if self.every else 0

    def _on_rollout_end(self) -> None:
        self._has_rollout = True

    def _on_rollout_start(self) -> None:
        if self._has_rollout:
            self.tick()
        self._has_rollout = False  # until it is complete: a stop may give it up

    def _on_training_end(self) -> None:
        if self._has_rollout:
            self.tick()

    def tick(self) -> None:
        """Act, if a multiple of `every` steps has been passed since the last time."""
        if self.every and self.num_timesteps // self.every > self._done:
            self._done = self.num_timesteps // self.every
            self.act()

    def act(self) -> None:
        """What the callback is for."""

    def _on_step(self) -> bool:
        return True


class StopOnSignal(BaseCallback):
    """Ctrl-C and SIGTERM end training at the next step; the state before the rollout is kept.

    The rollout under way is given up: its weights are still those that the kept state belongs to,
    so a resumed run collects the same rollout again. A complete one is not given up: its update
    follows, and no state from before it fits the weights any more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Any] | None = None

    def _on_training_start(self) -> None:
        self._before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        for number in self._before:
            signal.signal(number, self._request)

    def _request(self, number: int, frame: Any) -> None:
        self.model._stop_signal = signal.Signals(number).name  # type: ignore[attr-defined]

    def _on_rollout_start(self) -> None:
        self.kept = capture_state(self.model)  # type: ignore[arg-type]

    def _on_step(self) -> bool:
        return not getattr(self.model, "_stop_signal", None)

    def _on_rollout_end(self) -> None:
        self.kept = None

    def _on_training_end(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class CollapseMonitor:
    """The doctor in the loop: says what it finds when it finds it, and once more at the end."""

    def __init__(self, stop_on_collapse: bool) -> None:
        self.doctor = Doctor()
        self.stop_on_collapse = stop_on_collapse
        self.stopped_by: Finding | None = None

    def examine(self, row: dict[str, Any]) -> dict[str, float]:
        """Take a line of metrics and return what belongs into it about the run's health."""
        findings = self.doctor.add(row)
        for finding in findings:
            print(f"warning: {finding.rule}: {finding.message}", file=sys.stderr, flush=True)
            if finding.is_collapse and self.stop_on_collapse:
                self.stopped_by = self.stopped_by or finding
        return {f"doctor/{finding.rule}": 1.0 for finding in findings}

    def conclude(self) -> None:
        """Repeat the findings where they are not scrolled away."""
        for finding in self.doctor.findings:
            print(
                f"the doctor, at {finding.step:,} steps: {finding.rule}: {finding.message}",
                file=sys.stderr,
            )


class RolloutStatistics:
    """What the doctor wants to know of the episodes' steps, summed over a rollout."""

    def __init__(self, reward_clip: float | None) -> None:
        self.reward_clip = reward_clip
        self.x: np.ndarray | None = None  # px, of each environment, and the furthest of its episode
        self.max_x = np.zeros(0)
        self.begin()

    def begin(self) -> None:
        """Start counting anew."""
        self.walked_px = self.ground_px = 0.0
        self.clipped = self.rewards = self.episodes = 0

    def add(self, x: np.ndarray, max_x: np.ndarray, rewards: np.ndarray, dones: np.ndarray) -> None:
        """Count one step of all environments; x and max_x are in px, all arrays of [n]."""
        if self.x is not None:
            walked = np.abs(x - self.x)  # NaN in an episode's first step
            self.walked_px += float(walked[walked < LEAP_PX].sum())
            self.ground_px += float(np.nansum(np.maximum(max_x - self.max_x, 0)))
        self.x, self.max_x = np.where(dones, np.nan, x), np.where(dones, np.nan, max_x)
        self.episodes += int(dones.sum())
        if self.reward_clip is not None:
            self.clipped += int((np.abs(rewards) >= self.reward_clip).sum())
            self.rewards += len(rewards)

    def scalars(self) -> dict[str, float | None]:
        """Return the metrics of the steps since `begin`."""
        return {
            "ppo/walked_per_ground": self.walked_px / self.ground_px if self.ground_px else None,
            "ppo/reward_clipped": self.clipped / self.rewards if self.rewards else None,
        }


class MetricsCallback(BetweenRollouts):
    """One line of metrics.jsonl and TensorBoard a rollout, and the progress bar."""

    def __init__(
        self, run: RunFolder, target: int, monitor: CollapseMonitor, reward_clip: float | None
    ) -> None:
        super().__init__()
        self.run, self.target, self.monitor = run, target, monitor
        self.statistics = RolloutStatistics(reward_clip)

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self.innermost = wrappers_of(self.model)[-1]  # type: ignore[arg-type]
        self.log = MetricsLog(self.run, resume_step=self.num_timesteps)
        self.episodes = self.log.last.get("ppo/episodes", 0)
        self.started = self.last_time = time.monotonic()
        self.last_step = self.num_timesteps
        self.progress = Progress(
            TextColumn("{task.completed:,}/{task.total:,} steps"),
            BarColumn(),
            TextColumn("{task.fields[rate]:.0f} env-steps/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            disable=not sys.stderr.isatty(),
        )
        self.progress.start()
        self.bar = self.progress.add_task(
            "", total=self.target, completed=self.num_timesteps, rate=0.0, note=""
        )

    def _on_step(self) -> bool:
        infos, rewards, dones = (self.locals[name] for name in ("infos", "rewards", "dones"))
        self.statistics.add(*positions(self.innermost, infos), rewards, dones)
        return True

    def tick(self) -> None:
        now = time.monotonic()
        rate = (self.num_timesteps - self.last_step) / max(now - self.last_time, 1e-9)
        self.last_step, self.last_time = self.num_timesteps, now
        trained = self.logger.name_to_value
        scalars: dict[str, float | None] = {
            "wall_s": self.log.wall_s_before + now - self.started,
            "env_steps_per_s": rate,
            "entropy": trained.get("train/entropy"),
            "approx_kl": trained.get("train/approx_kl"),
            "clip_fraction": trained.get("train/clip_fraction"),
            "value_loss": trained.get("train/value_loss"),
            "policy_loss": trained.get("train/policy_gradient_loss"),
            "explained_variance": trained.get("train/explained_variance"),
            "learning_rate": trained.get("train/learning_rate"),
            "intrinsic_reward": trained.get("train/intrinsic_reward"),
            "ppo/imitation_loss": trained.get("train/imitation_loss"),
            "ppo/rnd_loss": trained.get("train/rnd_loss"),
            "ppo/intrinsic_value_loss": trained.get("train/intrinsic_value_loss"),
        }
        model: Any = self.model
        if model.n_epochs == 1 and model.batch_size == model.n_steps * model.n_envs:
            # Measured before the rollout's only step, these are 0 whatever the policy does.
            scalars["approx_kl"] = scalars["clip_fraction"] = None
        scalars |= self.statistics.scalars()
        self.episodes += self.statistics.episodes
        scalars["ppo/episodes"] = self.episodes
        self.statistics.begin()
        note = ""
        for venv in wrappers_of(self.model):  # type: ignore[arg-type]
            if isinstance(venv, MarioVecEnv):
                scalars |= venv.env.starts.scalars()
        recent: Any = self.model.ep_info_buffer or []  # the last 100, SB3's stats_window_size
        if episodes := [episode for episode in recent if episode["from_start"]]:
            means = {
                key: float(np.mean([episode[name] for episode in episodes]))
                for key, name in EPISODE_METRICS.items()
            }
            scalars.update(means)
            quartiles = np.percentile([episode["max_x"] for episode in episodes], (25, 50, 75))
            for name, quartile in zip(("p25", "median", "p75"), quartiles, strict=True):
                scalars[f"ppo/max_x_{name}"] = float(quartile)
            note = f"max-x {means['max_x']:.0f}, clears {100 * means['clear_rate']:.0f} %"
        row = {key: value for key, value in scalars.items() if value is not None}
        scalars |= self.monitor.examine({"step": self.num_timesteps, **row})
        self.log.write(self.num_timesteps, scalars)
        if self.monitor.stopped_by:
            self.model._stop_signal = self.monitor.stopped_by.rule  # type: ignore[attr-defined]
        self.progress.update(self.bar, completed=self.num_timesteps, rate=rate, note=note)
        if self.progress.disable:
            print(
                f"{self.num_timesteps:,}/{self.target:,} steps, {rate:.0f} env-steps/s, "
                f"ETA {(self.target - self.num_timesteps) / rate / 60:.0f} min {note}",
                flush=True,
            )

    def _on_training_end(self) -> None:
        super()._on_training_end()
        self.progress.stop()
        self.log.close()


class TemperatureCallback(BetweenRollouts):
    """Sharpens the policy toward the run's end, a little after each rollout's updates.

    A sampled policy keeps some percent of wrong actions for long: the rarer they are, the less
    the gradient sees of them. Lowering the temperature while training goes on removes them, and
    what is sampled stays what is trained.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.ppo = config.ppo
        self.rollout = config.ppo.n_steps * config.env.n_envs

    def temperature(self, step: int) -> float:
        """Return the temperature due at a step."""
        begin = self.ppo.temperature_from * self.ppo.timesteps
        part = (step - begin) / max(self.ppo.timesteps - begin, 1)
        return self.ppo.temperature_final ** min(max(part, 0.0), 1.0)

    def tick(self) -> None:
        now = self.temperature(self.num_timesteps)
        before = self.temperature(self.num_timesteps - self.rollout)
        if now != before:
            self.model.policy.sharpen(before / now)  # type: ignore[operator]


class CheckpointCallback(BetweenRollouts):
    """Keeps the newest checkpoints; a full disk is said, and training goes on."""

    def __init__(self, every: int, run: RunFolder, config: dict[str, Any]) -> None:
        super().__init__(every)
        self.run, self.config = run, config

    def act(self) -> None:
        try:
            save_checkpoint(self.run, self.model, capture_state(self.model), self.config)  # type: ignore[arg-type]
        except OSError as error:
            print(f"warning: no checkpoint at {self.num_timesteps}: {error}", file=sys.stderr)


class EvalCallback(BetweenRollouts):
    """Plays episodes under a protocol and keeps the best model as best_eval.zip."""

    def __init__(self, run: RunFolder, config: TrainConfig, content: dict[str, Any]) -> None:
        super().__init__(config.run.eval_freq)
        self.run, self.config, self.content = run, config, content
        self.best: tuple[float, ...] | None = None
        if run.best_summary.exists():
            self.best = tuple(json.loads(run.best_summary.read_text())["rank"])

    def act(self) -> None:
        with self.model.averaged():  # type: ignore[attr-defined]
            self._judge()

    def _judge(self) -> None:
        modes = ("argmax", "sampled") if self.config.run.eval_modes == "both" else ("argmax",)
        stages = self.config.run.eval_stages or self.config.env.stages
        found = {
            str(stage): {mode: self._evaluate(stage, mode) for mode in modes} for stage in stages
        }
        # the mean over stages of each part of the rank, in the mode that is worse at it
        rank = min(
            tuple(float(part) for part in np.mean([by[mode].rank for by in found.values()], axis=0))
            for mode in modes
        )
        if 0 < self.config.run.eval_enough <= rank[0] and (
            self.num_timesteps < self.config.ppo.timesteps
        ):
            self.model._stop_signal = ENOUGH  # type: ignore[attr-defined]
        first, *_ = found.values()
        content = dataclasses.asdict(first["argmax"]) | {"step": self.num_timesteps, "rank": rank}
        if "sampled" in modes:
            content["sampled"] = dataclasses.asdict(first["sampled"])
        if len(found) > 1:
            content["stages"] = {
                name: {mode: dataclasses.asdict(summary) for mode, summary in by.items()}
                for name, by in found.items()
            }
        try:
            write_json(
                self.run.evaluations / f"step_{self.num_timesteps}" / "summary.json", content
            )
            if self.best is None or rank > self.best:
                write_model_zip(self.run.best_model, self.model.save, self.content)
                write_json(self.run.best_summary, content)
                self.best = rank
        except OSError as error:
            print(f"warning: evaluation not written: {error}", file=sys.stderr)
        for name, by in found.items():
            flags = ", ".join(f"{m} {s.flags_cleared}/{s.episodes}" for m, s in by.items())
            print(
                f"evaluation at {self.num_timesteps:,}: {name} flags {flags}, "
                f"median max-x {by['argmax'].median_max_x:.0f}",
                flush=True,
            )

    def _evaluate(self, stage: StageId, mode: str) -> Summary:
        flags = self.config.run
        config = dataclasses.replace(
            in_process(self.config.env),
            stages=(stage,),
            n_envs=flags.eval_episodes,
        )
        return evaluate(
            PPOPolicy(self.model.policy, self.config.env),  # type: ignore[arg-type]
            config,
            protocol=flags.eval_protocol,
            episodes=flags.eval_episodes,
            deterministic=mode == "argmax",
            seed=flags.seed + 10_000,  # starts that training does not begin with
            max_steps=flags.eval_steps,
            model=f"{self.run.path.name} at {self.num_timesteps} steps",
        )[0]


class PreviewCallback(BetweenRollouts):
    """Films the best of a few sampled episodes; optionally keeps live.png fresh."""

    def __init__(self, run: RunFolder, config: TrainConfig) -> None:
        super().__init__(config.run.preview_freq)
        self.run, self.config = run, config

    def tick(self) -> None:
        super().tick()
        if self.config.run.live_preview:
            screen = np.asarray(self.training_env.get_images()[0])
            try:
                atomic_write(
                    self.run.previews / "live.png", imageio.imwrite("<bytes>", screen, "png")
                )
            except OSError as error:
                print(f"warning: no live.png: {error}", file=sys.stderr)

    def act(self) -> None:
        flags = self.config.run
        config = dataclasses.replace(in_process(self.config.env), n_envs=flags.preview_episodes)
        episodes = play(
            PPOPolicy(self.model.policy, config),  # type: ignore[arg-type]
            config,
            flags.preview_episodes,
            deterministic=False,
            seed=flags.seed + self.num_timesteps,
            max_steps=flags.preview_steps,
        )
        path = self.run.previews / f"step_{self.num_timesteps}" / "preview.mp4"
        try:
            write_video(
                path, film(best_episode(episodes), config), flags.preview_fps or game_fps(config)
            )
        except OSError as error:
            print(f"warning: no preview: {error}", file=sys.stderr)


# --------------------------------------------------------------------------------------------
# Main
# --------------------------------------------------------------------------------------------


def describe_changes(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Return "gamma 0.9 -> 0.95" for every flag of environment, PPO and RND that differs."""
    changes = []
    for group in ("env", "ppo", "rnd"):
        before, after = (dataclasses.asdict(getattr(config, group)) for config in (old, new))
        for flat in (before, after):
            flat.update(flat.pop("reward", {}))
        changes += [
            f"{key} {before[key]} -> {after[key]}" for key in before if before[key] != after[key]
        ]
    return changes


def resume(model: MarioPPO, config: TrainConfig) -> None:
    """Load the checkpoint that the flags name, or refuse it.

    Raises:
        UsageError: another stage, action set, picture or reward.
        BadModelFile: it is torn or hostile.
    """
    assert config.run.resume_model
    path = find_checkpoint(config.run.resume_model)
    content, weights = read_model_zip(path)
    before = config_from_dict(content)
    for name in ("stages", "action_set", "show_buttons", "observation"):
        old, new = getattr(before.env, name), getattr(config.env, name)
        if old != new:
            if name == "stages":
                old, new = stages_label(old), stages_label(new)
            raise UsageError(
                f"{path} was trained with {name} {old}, not {new}: "
                "--warm-start takes its weights alone"
            )
    if content["reward_signature"] != reward_signature(config.env):
        raise UsageError(
            f"{path} was trained under another reward: --warm-start takes its weights alone"
        )
    if (before.rnd.rnd_coef > 0) != (config.rnd.rnd_coef > 0):
        raise UsageError(
            f"{path} was trained with rnd_coef {before.rnd.rnd_coef}: to switch RND on or off, "
            "--warm-start takes its weights alone"
        )
    for change in describe_changes(before, config):
        print(f"resuming with {change}")
    load_weights(model, weights, path)
    state = load_tensors(path.with_suffix(".state"), str(path.with_suffix(".state")))
    try:
        restore_state(model, state)
    except KeyError as error:
        raise UsageError(
            f"{path} is of another version, its state lacks {error}: "
            "--warm-start takes its weights alone"
        ) from error
    print(f"resumed {path} at {model.num_timesteps:,} steps")


def load_weights(model: MarioPPO, weights: dict[str, th.Tensor], path: Path) -> None:
    """Load the policy's tensors, or say how they do not fit.

    The intrinsic value head may be missing or too much: RND can begin or end with a warm start.
    """
    try:
        keys = model.policy.load_state_dict(weights, strict=False)
        wrong = [*keys.missing_keys, *keys.unexpected_keys]
        if not all(key.startswith("intrinsic_value_net.") for key in wrong):
            raise RuntimeError(f"missing or too many: {', '.join(wrong)}")
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} does not fit these flags: {reason}") from error


def train(config: TrainConfig) -> int:
    """Run the training that the flags describe and return the exit code."""
    assert config.run.run_dir
    run = RunFolder(config.run.run_dir)
    resolve_device(config.ppo.device)  # a wrong device is said before anything is written
    with run.locked():
        if run.checkpoints() and not config.run.resume_model:
            raise UsageError(
                f"{run.path} holds a run already: --resume-model {run.path} continues it"
            )
        content = config_as_dict(config)
        venv = make_training_env(config)
        try:
            model = make_model(config, venv)
            if config.run.resume_model:
                resume(model, config)
            elif config.run.warm_start:
                load_weights(model, read_model_zip(config.run.warm_start)[1], config.run.warm_start)
                model.policy.sharpen(1 / config.run.warm_temperature)
            write_json(run.config_path, content)
            rollout = config.ppo.n_steps * config.env.n_envs
            print(
                f"{run.path}: {stages_label(config.env.stages)} on {config.env.emulator} "
                f"({config.env.vec_backend}), one rollout is {rollout:,} steps in "
                f"{rollout // config.ppo.batch_size} minibatches, device {model.device}",
                flush=True,
            )
            return run_training(run, model, config, content)
        finally:
            with contextlib.suppress(OSError, EOFError):
                venv.close()


def run_training(
    run: RunFolder, model: MarioPPO, config: TrainConfig, content: dict[str, Any]
) -> int:
    """Train to the target, or to a signal or a failure; what can be saved is."""
    stop = StopOnSignal()
    monitor = CollapseMonitor(config.run.stop_on_collapse)
    reward_clip = config.ppo.norm_reward_clip if config.ppo.normalize_reward else None
    callbacks = [
        TemperatureCallback(config),  # first: the others see the weights that the next rollout has
        MetricsCallback(run, config.ppo.timesteps, monitor, reward_clip),
        CheckpointCallback(config.run.checkpoint_freq, run, content),
        EvalCallback(run, config, content),
        PreviewCallback(run, config),
        stop,
    ]
    try:
        model.learn(
            config.ppo.timesteps,
            callback=CallbackList(callbacks),
            reset_num_timesteps=False,
            log_interval=None,  # type: ignore[arg-type]
        )
    except (WorkerDied, FloatingPointError) as error:
        if stop.kept and isinstance(error, WorkerDied):
            print(f"kept {save_checkpoint(run, model, stop.kept, content)}", file=sys.stderr)
        raise
    finally:
        monitor.conclude()
    if stop.kept and model._stop_signal != ENOUGH:  # type: ignore[attr-defined]
        path = save_checkpoint(run, model, stop.kept, content)
        print(f"stopped by {model._stop_signal}; go on with --resume-model {path}")  # type: ignore[attr-defined]
        return 1 if monitor.stopped_by else 0
    state = stop.kept or capture_state(model)
    save_checkpoint(run, model, state, content)
    write_model_zip(run.final_model, model.save, content)
    print(f"finished at {state['learner']['counters']['num_timesteps']:,} steps: {run.final_model}")
    return 1 if monitor.stopped_by else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, and turn every expected failure into one line and an exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: train(parse_config(given)))


if __name__ == "__main__":
    sys.exit(main())
