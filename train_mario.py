"""Train PPO with Random Network Distillation on one stage of Super Mario Bros.

    python train_mario.py --timesteps 5000000 --action-set simple --n-envs 8 --gamma 0.9 ...

Writes a run folder (mario_runs.py), which `--resume-model` continues. From top to bottom: the
flags, what they make, resuming, main. What happens between rollouts stands in mario_callbacks.py.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import psutil
import pydantic
import torch as th
import tyro
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize

from fastnes import BUTTON_BITS
from mario_callbacks import (
    CheckpointCallback,
    EvalCallback,
    Film,
    Finish,
    KeepWholeState,
    MetricsCallback,
    PreviewCallback,
    TemperatureCallback,
    capture_state,
    restore_state,
    save_model,
    save_state,
)
from mario_checkpoints import (
    find_checkpoint,
    find_model,
    going_on_from,
    read_checkpoint,
    read_model_zip,
)
from mario_cli import UsageError, exit_code, with_stages_flag
from mario_config import EnvConfig, StagesFlag, buttons_of_actions
from mario_curriculum import AnywhereStarts, BackwardStarts
from mario_demos import demo_samples, load_demos
from mario_game import stages_label
from mario_judge import ProtocolName
from mario_networks import EXTRACTORS, FeaturesName, TwoHeadCnnPolicy
from mario_ppo import MarioPPO, linear_schedule
from mario_reward import reward_signature
from mario_runs import RunFolder, run_of_checkpoint, write_json
from mario_runtime import observation_space
from mario_sb3 import WorkerDied, make_vec_env
from mario_starts import Starts
from mario_training import (
    Exam,
    RunLog,
    StopRequest,
    config_content,
    config_of_content,
    describe_changes,
    refuse_another_game,
    refuse_fewer_steps,
    with_file_values,
    with_newer_flags,
)
from mario_values import (
    Amount,
    Checked,
    Count,
    Positive,
    Seed,
    Share,
    StepSize,
    Temperature,
    Weight,
    parse_flags,
    read_yaml,
)

AGENT = "ppo"
EntropyWeight = Annotated[float, pydantic.Field(ge=-1, le=1e6)]  # below 0 it makes the policy surer
DEFAULT_RECIPE = Path(__file__).parent / "configs" / "ppo_1-1.yaml"
LEAST_SCREEN = 36  # px, what the three convolutions leave something of
Bias = Annotated[float, pydantic.Field(ge=-50, le=50)]  # of a logit
WEIGHTS_ALONE = "--warm-start takes its weights alone"

# --------------------------------------------------------------------------------------------
# Flags: these dataclasses are the parser, the keys of configs/*.yaml and of train_config.json
# --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PPOFlags(Checked):
    """PPO (Schulman et al. 2017) on Stable-Baselines3."""

    timesteps: Count = 5_000_000
    """The run's target in agent steps, all environments together; resuming goes on to the same."""
    device: str = "auto"
    """auto (CUDA if there, else CPU), cpu, cuda or cuda:N."""
    features: FeaturesName = "small"
    """CNN 16-32-32-256, Nature's 32-64-64-512, or fine, which looks at smaller things; the others
    take twice small's time per gradient pass."""
    learning_rate: StepSize = 2.5e-4
    """Adam's step size: 2.5e-4 is the Atari standard."""
    learning_rate_final: StepSize | None = None
    """Falls linearly to this over the run. Unset: constant."""
    n_steps: Annotated[int, pydantic.Field(ge=1, le=10**6)] = 512
    """Agent steps per environment in a rollout; long enough to see a jump pay."""
    batch_size: Annotated[int, pydantic.Field(ge=2, le=10**8)] = 256
    """Samples in a minibatch; must divide n_steps * n_envs."""
    n_epochs: Annotated[int, pydantic.Field(ge=1, le=1000)] = 4
    """Passes over each rollout. With 10, a run collapsed (docs/journey.md, P4)."""
    gamma: Share = 0.9
    """Discount. With 0.99 the value is nearly constant along 1-1 and advantages vanish."""
    gae_lambda: Share = 0.95
    """GAE's lambda (Schulman et al. 2016): bias against variance."""
    clip_range: Annotated[float, pydantic.Field(gt=0, le=10)] = 0.2
    """PPO's epsilon."""
    ent_coef: EntropyWeight = 0.01
    """Entropy bonus: keeps the policy trying."""
    ent_coef_final: EntropyWeight | None = None
    """Falls linearly to this over the run. Unset: constant. Low at the end: clears every time."""
    imitation_coef: Weight = 0.0
    """Weight of doing what --backward-demos did (DAPG, Rajeswaran et al. 2018), 0 in the end."""
    imitation_until: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.5
    """Part of the run over which that weight falls linearly to 0."""
    critic_steps: Amount = 0
    """Agent steps at the beginning that teach the value alone: --warm-start brings no critic."""
    kickstart_coef: Weight = 0.0
    """Weight of doing what --warm-start does (kickstarting, Schmitt et al. 2018), 0 in the end."""
    kickstart_until: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.5
    """Part of the run over which that weight falls linearly to 0."""
    ema_decay: Share = 0.0
    """Judge and keep a moving average of the weights, with this decay a rollout. 0: the weights."""
    temperature_final: Temperature = 1.0
    """The policy ends sharpened to this sampling temperature: below 1, samples near its argmax."""
    temperature_from: Share = 0.7
    """Part of the run after which the temperature begins to fall, geometrically."""
    vf_coef: Weight = 0.5
    """Weight of the value loss."""
    max_grad_norm: Positive = 0.5
    """Gradients are scaled down to this norm."""
    target_kl: Positive | None = None
    """Stop a rollout's updates beyond 1.5 times this KL divergence. Unset: never."""
    normalize_reward: bool = False
    """Divide rewards by the running std of their discounted return (gamma as above)."""
    norm_reward_clip: Positive = 10.0
    """Normalised rewards are clipped to this, so that one flag cannot shake the value."""
    action_bias_jump: Bias = 0.0
    """Added to the initial logits of actions that press A: e^1 = 2.7 times as likely at first."""
    action_bias_long_jump: Bias = 0.0
    """Added to the initial logit of the long jump."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Of the network's arithmetic; auto is bf16 where the CPU or GPU multiplies it natively."""
    channels_last: bool = True
    """Memory order of the convolutions; the same function, about twice as fast on a CPU."""


@dataclasses.dataclass(frozen=True)
class RNDFlags(Checked):
    """Random Network Distillation (Burda et al. 2018): pay for screens not seen before."""

    rnd_coef: Weight = 0.0
    """Weight of the intrinsic advantage. 0 is off and costs nothing."""
    rnd_lr: StepSize = 1e-4
    """Adam's step size of the predictor."""
    rnd_feature_dim: Annotated[int, pydantic.Field(ge=1, le=65_536)] = 512
    """Outputs of target and predictor."""
    rnd_warmup_steps: Annotated[int, pydantic.Field(ge=1, le=10**6)] = 512
    """Random agent steps per environment that fill the observation normaliser before training."""


@dataclasses.dataclass(frozen=True)
class RunFlags(Checked):
    """The run: where it writes, how often it looks at itself."""

    config: Path | None = None
    """A YAML file of any of these flags; the command line wins. Unset: configs/ppo_1-1.yaml."""
    run_dir: Path | None = None
    """The run folder. Unset: runs/ppo_<world>-<stage>_<date>-<time>, or the resumed run's own."""
    resume_model: Path | None = None
    """A checkpoint (.zip) or a run folder to continue, with its own flags unless given here."""
    warm_start: Path | None = None
    """A model or its folder: the weights alone begin a new run, under any stage or reward."""
    warm_temperature: Temperature = 1.0
    """Sampling temperature of a warm start's policy. 4 makes one that was sharpened try again."""
    seed: Seed = 0
    """Seeds networks, sampling and environments (environment i: seed + i)."""
    checkpoint_freq: Amount = 50_000
    """Agent steps between checkpoints; the newest two are kept. 0: only at the end."""
    eval_freq: Amount = 50_000
    """Agent steps between evaluations that keep best_eval.zip. 0: never."""
    eval_protocol: ProtocolName | Literal["auto"] = "auto"
    """fixed, noop or sticky: docs/protocol.md. auto: sticky if --sticky-prob is above 0, else
    noop."""
    eval_episodes: Annotated[int, pydantic.Field(ge=1, le=10_000)] = 3
    """Sampled or sticky episodes of an evaluation and stage. Argmax from no-ops has just 30: each
    is played once."""
    eval_modes: Literal["argmax", "both"] = "argmax"
    """Play argmax only, or argmax and sampled episodes: the worse of the two ranks the model."""
    eval_enough: Share = 0.0
    """End the run, as finished, once an evaluation clears this share in every mode. 0: never."""
    eval_stages: StagesFlag = ()
    """Stages to evaluate, as --stages; more than are trained shows what is forgotten. Unset: those
    that are trained."""
    backward_demos: Path | None = None
    """A folder of demos (<world>-<stage>.npz) along which episodes begin."""
    demo_starts: Literal["backward", "anywhere"] = "backward"
    """Where along --backward-demos: first near the goal and moving back, or anywhere with half of
    the episodes at the level's start."""
    eval_steps: Amount = 1_000
    """Agent steps after which an evaluation episode is cut off; 1-1 takes 260. 0: by the clock."""
    preview_freq: Amount = 0
    """Agent steps between preview videos. 0: never."""
    preview_episodes: Annotated[int, pydantic.Field(ge=1, le=1000)] = 1
    """Sampled episodes played for a preview; the best is filmed."""
    preview_steps: Amount = 1_000
    """Agent steps after which a preview episode is cut off. 0: the clock only."""
    preview_fps: Annotated[float, pydantic.Field(ge=0, le=1000)] = 0.0
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
        if rollout % self.ppo.batch_size:
            raise UsageError(
                f"batch_size {self.ppo.batch_size} does not divide a rollout of "
                f"{self.ppo.n_steps} steps x {self.env.n_envs} environments = {rollout}"
            )
        if self.env.screen_size < LEAST_SCREEN:
            raise UsageError(f"screen_size must be at least {LEAST_SCREEN} for the convolutions")
        if self.ppo.ema_decay == 1:
            raise UsageError("ema_decay 1 would keep the first weights for good; below 1 it moves")
        if self.ppo.imitation_coef and not self.run.backward_demos:
            raise UsageError("--imitation-coef needs the demos of --backward-demos")


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
    arguments = with_stages_flag(with_newer_flags(arguments))
    given, _ = files.parse_known_args(arguments)
    default = TrainConfig()
    if given.resume_model:
        default = config_from_dict(read_model_zip(find_checkpoint(given.resume_model, True))[0])
    config_path = given.config or (None if given.resume_model else DEFAULT_RECIPE)
    if config_path:
        default = with_file_values(default, read_yaml(config_path), str(config_path))
    description, markers = __doc__.split("\n\n")[0], (tyro.conf.OmitArgPrefixes,)
    config = parse_flags(TrainConfig, arguments, description, default, markers)
    env = dataclasses.replace(config.env, discount=config.ppo.gamma)
    run = config.run
    if config.ppo.kickstart_coef and not run.warm_start:  # a recipe leaves it to the command line
        raise UsageError("--kickstart-coef needs the policy of --warm-start")
    if run.run_dir is None:
        if run.resume_model:
            run_dir = run_to_go_on_in(run.resume_model)
        else:
            now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
            run_dir = Path("runs") / f"ppo_{stages_label(env.stages)}_{now}"
        run = dataclasses.replace(run, run_dir=run_dir)
    return dataclasses.replace(config, env=env, run=run)


def run_to_go_on_in(model: Path) -> Path:
    """Return the run folder of a checkpoint, or the folder itself that was named.

    Raises:
        UsageError: the checkpoint lies in no run folder, or is a best model: its run has gone on.
    """
    if model.is_dir():
        return model
    if (run := run_of_checkpoint(find_checkpoint(model, True))) is None:
        raise UsageError(f"{model} is no checkpoint in its run folder: --run-dir names a new one")
    return run


def config_as_dict(config: TrainConfig) -> dict[str, Any]:
    """Return train_config.json's content."""
    return config_content(config, AGENT, config.env)


def config_from_dict(content: dict[str, Any]) -> TrainConfig:
    """Return the flags of a train_config.json; where it ran and what it resumed are left out.

    What it was warm-started from stays: a resumed run's weights come from there, too.

    Raises:
        UsageError: it is another agent's, or holds what this version does not know.
    """
    config = config_of_content(TrainConfig(), content, AGENT)
    run = dataclasses.replace(config.run, config=None, run_dir=None, resume_model=None)
    return dataclasses.replace(config, run=run)


# --------------------------------------------------------------------------------------------
# What the flags make
# --------------------------------------------------------------------------------------------


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
    starts: Starts | None = None
    if config.run.backward_demos:
        demos = load_demos(config.run.backward_demos, config.env.stages)
        is_backward = config.run.demo_starts == "backward"
        starts = (BackwardStarts if is_backward else AnywhereStarts)(config.env, demos)
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
        critic_steps=ppo.critic_steps,
        kickstart_coef=linear_schedule(ppo.kickstart_coef, 0.0, ppo.kickstart_until),
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
            "features_extractor_class": EXTRACTORS[ppo.features],
            "action_bias": action_bias(config),
        },
    )
    if ppo.imitation_coef and config.run.backward_demos:
        demos = load_demos(config.run.backward_demos, config.env.stages)
        samples = [demo_samples(demo, config.env) for demo in demos]
        model.imitate(*(np.concatenate(part) for part in zip(*samples, strict=True)))
    return model


# --------------------------------------------------------------------------------------------
# Resuming, training
# --------------------------------------------------------------------------------------------


def resume(model: MarioPPO, config: TrainConfig) -> None:
    """Load the checkpoint that the flags name, or refuse it.

    Raises:
        UsageError: another stage, action set, picture or reward.
        BadModelFile: it is torn or hostile.
    """
    assert config.run.resume_model
    checkpoint = find_checkpoint(config.run.resume_model)
    path, content, weights, state = read_checkpoint(checkpoint)
    before = config_from_dict(content)
    refuse_another_game(before.env, config.env, path, WEIGHTS_ALONE)
    if content.get("reward_signature") != reward_signature(config.env):
        raise UsageError(f"{path} was trained under another reward: {WEIGHTS_ALONE}")
    if (before.rnd.rnd_coef > 0) != (config.rnd.rnd_coef > 0):
        raise UsageError(
            f"{path} was trained with rnd_coef {before.rnd.rnd_coef}: to switch RND on or off, "
            f"{WEIGHTS_ALONE}"
        )
    for name, change in describe_changes(before, config, {"run"}).items():
        print(f"resuming with {name.rpartition('.')[2]} {change}")
    with going_on_from(path, WEIGHTS_ALONE):
        done = state["learner"]["counters"]["num_timesteps"]
    refuse_fewer_steps(before.ppo.timesteps, config.ppo.timesteps, done)
    load_weights(model, weights, path)
    with going_on_from(path, WEIGHTS_ALONE):
        restore_state(model, state)
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


def refuse_too_large(config: TrainConfig) -> None:
    """Raise a UsageError if a rollout's observations do not fit into this machine's memory."""
    screens = int(np.prod(observation_space(config.env).shape))
    needed, there = rollout_steps(config) * screens, psutil.virtual_memory().total
    if needed > there:
        raise UsageError(
            f"a rollout of {config.ppo.n_steps} steps x {config.env.n_envs} environments takes "
            f"{needed / 2**30:.0f} GiB, this machine has {there / 2**30:.0f}: lower one of them"
        )


def rollout_steps(config: TrainConfig) -> int:
    """Return the agent steps of a rollout, all environments together."""
    return config.ppo.n_steps * config.env.n_envs


def train(config: TrainConfig) -> int:
    """Run the training that the flags describe and return the exit code."""
    assert config.run.run_dir
    run = RunFolder(config.run.run_dir)
    refuse_too_large(config)
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
                path = find_model(config.run.warm_start)
                load_weights(model, read_model_zip(path)[1], path)
                model.policy.sharpen(1 / config.run.warm_temperature)
                if config.ppo.kickstart_coef:
                    model.kickstart()
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
    stop = StopRequest(run)
    flags = config.run
    keep = KeepWholeState(stop)
    log = RunLog(
        run, model.num_timesteps, config.ppo.timesteps, stop if flags.stop_on_collapse else None
    )
    with stop.on_signals():  # while it saves, too
        try:
            model.learn(
                config.ppo.timesteps,
                callback=make_callbacks(run, config, content, stop, log, keep),
                reset_num_timesteps=False,
                log_interval=None,  # type: ignore[arg-type]
            )
        except WorkerDied:
            if keep.kept:
                print(f"kept {save_state(run, model, keep.kept, content)}", file=sys.stderr)
            raise
        finally:
            log.close()
        code = 1 if stop.is_collapse else 0
        if keep.kept and stop.reason and not stop.is_finished:
            path = save_state(run, model, keep.kept, content)
            print(f"stopped by {stop.reason.name}; go on with --resume-model {path}")
            return code
        state = keep.kept or capture_state(model)
        save_state(run, model, state, content)
        save_model(run.final_model, model, content)
    steps = state["learner"]["counters"]["num_timesteps"]
    print(f"finished at {steps:,} steps: {run.final_model}")
    return code


def make_callbacks(
    run: RunFolder,
    config: TrainConfig,
    content: dict[str, Any],
    stop: StopRequest,
    log: RunLog,
    keep: KeepWholeState,
) -> CallbackList:
    """Return what happens between rollouts, in this order."""
    flags, ppo = config.run, config.ppo
    exam = Exam(
        config=config.env,
        stages=flags.eval_stages or config.env.stages,
        protocol=flags.eval_protocol,
        with_samples=flags.eval_modes == "both",
        episodes=flags.eval_episodes,
        max_steps=flags.eval_steps,
        seed=flags.seed,
    )
    film = Film(flags.preview_episodes, flags.preview_steps, flags.preview_fps, flags.live_preview)
    finish = Finish(stop, flags.eval_enough, ppo.timesteps)
    return CallbackList(
        [
            # First: the others see the weights that the next rollout has.
            TemperatureCallback(
                ppo.temperature_final,
                ppo.temperature_from,
                ppo.timesteps,
                ppo.n_steps * config.env.n_envs,
            ),
            MetricsCallback(log, ppo.norm_reward_clip if ppo.normalize_reward else None),
            EvalCallback(flags.eval_freq, run, exam, content, finish),
            PreviewCallback(flags.preview_freq, run, config.env, film, flags.seed),
            # After all that is due at its step: what a kill takes with it is done again.
            CheckpointCallback(flags.checkpoint_freq, run, content),
            keep,
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, and turn every expected failure into one line and an exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: train(parse_config(given)))


if __name__ == "__main__":
    sys.exit(main())
