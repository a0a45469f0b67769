"""Train DreamerV3, with Plan2Explore or without, on one stage of Super Mario Bros.

    python dreamer.py --configs mario_plan2explore --logdir logs/run --steps 7e5

Overlays of configs.yaml come first, then any flag: `--model.deter 1024 --env.stage 1-2`. The same
command again goes on where the run stopped. Writes the run folder of mario_runs.py, and replay/.
From top to bottom: the flags, the trainer, its loop, main.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import json
import math
import platform
import signal
import sys
import time
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
import yaml
from torch.utils._pytree import tree_map

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

from dreamerv3.envs.mario import (
    BackwardCurriculum,
    CurriculumConfig,
    FinishedEpisode,
    MarioFromPlaces,
    MarioStreams,
    mario_row,
    recompute_rewards,
    replay_contents,
)
from dreamerv3.exploration import ExplorationConfig
from dreamerv3.models import Batch, ModelConfig
from dreamerv3.policy import DreamerPolicy, make_agent, tuples
from dreamerv3.recurrence import draw_noise, noisy
from dreamerv3.replay import Replay, read_index, relabel
from mario_checkpoints import (
    POLICY_MEMBER,
    load_tensors,
    read_model_zip,
    tensor_bytes,
    write_model_zip,
)
from mario_cli import UsageError, exit_code, with_stages_flag
from mario_config import EnvConfig, env_config_as_dict, env_config_from_dict, in_process
from mario_game import parse_stages, stages_label, with_stages_field
from mario_reward import reward_signature
from mario_rollout import (
    Episode,
    Summary,
    best_episode,
    evaluate,
    film,
    game_fps,
    protocol_config,
    write_video,
)
from mario_runs import BadModelFile, MetricsLog, RunFolder, provenance, write_json

AGENT = "dreamerv3"
CONFIGS = Path(__file__).with_name("configs.yaml")
EPISODES_AVERAGED = 100  # as SB3's stats_window_size

# --------------------------------------------------------------------------------------------
# Flags
# --------------------------------------------------------------------------------------------


def whole_number(text: str) -> int:
    """Return 700000 for "7e5"."""
    value = float(text)
    if not value.is_integer():
        raise ValueError(f"{text} is not a whole number")
    return int(value)


Whole = Annotated[
    int,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: whole_number(words[0]),
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    ),
]


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The run: where it writes, how often it looks at itself."""

    logdir: Path = Path("logs/dreamer")
    """The run folder; one that holds a run is continued."""
    configs: tuple[str, ...] = ()
    """Overlays of configs.yaml, in order."""
    steps: Whole = 1_000_000
    """Agent steps, all environments together."""
    seed: int = 0
    """Seeds networks, sampling, replay and environments (environment i: seed + i)."""
    relabel: bool = False
    """Recompute the replay's rewards if they were made under other reward flags."""
    seed_demos: Path | None = None
    """A folder of episodes (scripts/demos_to_episodes.py) that every batch holds some of."""
    log_every: int = 1000
    """Agent steps between lines of metrics.jsonl."""
    checkpoint_every: int = 10_000
    """Agent steps between checkpoints; the newest two are kept."""
    eval_every: int = 25_000
    """Agent steps between evaluations (noop protocol, argmax and sampled) and the preview, the
    best of the sampled episodes. 0: never."""
    eval_episodes: int = 16
    """Episodes of each."""
    eval_steps: int = 1_000
    """Agent steps after which an evaluation episode is cut off. 0: by the clock."""
    threads: int = 0
    """Threads of torch. 0: one a core."""


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """The replay, and how much is learnt from it."""

    batch: int = 16
    """Sequences in a batch."""
    length: int = 64
    """Steps in a sequence."""
    train_ratio: float = 32.0
    """Replayed steps for every environment step."""
    capacity: Whole = 1_000_000
    """Steps kept on disk, about 4 KB each; the oldest go."""
    demo_fraction: float = 0.25
    """Share of a batch that is taken from --seed-demos."""
    demo_until: float = 0.8
    """Clear rate of the last 100 episodes from which demos are left out: they help no more."""


@dataclasses.dataclass(frozen=True)
class DreamerConfig:
    """Everything that a run depends on."""

    run: tyro.conf.OmitArgPrefixes[RunConfig] = dataclasses.field(default_factory=RunConfig)
    env: EnvConfig = dataclasses.field(
        default_factory=lambda: EnvConfig(frame_stack=1, screen_size=64)
    )
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    exploration: ExplorationConfig = dataclasses.field(default_factory=ExplorationConfig)
    replay: ReplayConfig = dataclasses.field(default_factory=ReplayConfig)
    curriculum: CurriculumConfig = dataclasses.field(default_factory=CurriculumConfig)

    def __post_init__(self) -> None:
        if self.env.vec_backend != "batched":
            raise UsageError("DreamerV3 plays the batched environment: --env.vec-backend batched")
        for group, names in {
            "run": ("steps", "log_every", "checkpoint_every", "eval_episodes"),
            "replay": ("batch", "capacity"),
            "model": ("deter", "hidden", "stoch", "blocks", "units", "depth", "imagined_steps"),
        }.items():
            for name in names:
                if getattr(getattr(self, group), name) < 1:
                    raise UsageError(f"{name} must be at least 1")
        if self.replay.length < 2 or self.model.horizon < 2 or self.model.classes < 2:
            raise UsageError("replay.length, model.horizon and model.classes must be at least 2")
        if not (self.replay.train_ratio > 0 and self.model.learning_rate > 0):
            raise UsageError("replay.train_ratio and model.learning_rate must be above 0")
        if not 0 <= self.replay.demo_fraction <= 1:
            raise UsageError("replay.demo_fraction must be in [0, 1]")
        if 0 < self.model.imagined_starts < self.replay.batch:
            raise UsageError("model.imagined_starts must be at least replay.batch, or 0 for all")
        if self.model.deter % self.model.blocks:
            raise UsageError(
                f"model.deter {self.model.deter} is not a multiple of model.blocks "
                f"{self.model.blocks}"
            )


def parse_config(arguments: Sequence[str]) -> DreamerConfig:
    """Return the flags: defaults, or those of the run in --logdir; overlays; the command line.

    Raises:
        UsageError: an overlay does not exist, or values do not fit together.
        SystemExit: --help (0), or the arguments do not parse (2).
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--logdir", type=Path)
    first.add_argument("--configs", nargs="*", default=[])
    arguments = with_stages_flag(arguments, "env.")
    given, _ = first.parse_known_args(arguments)
    default = DreamerConfig()
    if given.logdir and (checkpoints := RunFolder(given.logdir).checkpoints()):
        default = config_from_dict(read_model_zip(checkpoints[0])[0])
    overlays = read_overlays(CONFIGS)
    for name in given.configs:
        default = with_overlay(default, overlays, name)
    config = tyro.cli(
        DreamerConfig, args=list(arguments), default=default, description=__doc__.split("\n\n")[0]
    )
    env = dataclasses.replace(config.env, discount=config.model.discount)
    return dataclasses.replace(config, env=env)


def read_overlays(path: Path) -> dict[str, Any]:
    """Return the overlays in a YAML file by name."""
    return yaml.safe_load(path.read_text())


def with_overlay(config: DreamerConfig, overlays: dict[str, Any], name: str) -> DreamerConfig:
    """Return config with an overlay's values.

    Raises:
        UsageError: there is no such overlay.
    """
    if name not in overlays:
        raise UsageError(f"no config {name!r}; there are: {', '.join(overlays)}")
    values = dict(overlays[name])
    if base := values.pop("base", None):
        config = with_overlay(config, overlays, base)
    return with_values(config, values)


def with_values(instance: Any, values: dict[str, Any]) -> Any:
    """Return a config dataclass with values, nested as it is, replaced."""
    changes: dict[str, Any] = {}
    if isinstance(instance, EnvConfig):
        values = with_stages_field(values)
    for key, value in values.items():
        current = getattr(instance, key)
        if dataclasses.is_dataclass(current):
            changes[key] = with_values(current, value)
        elif key == "stages":
            changes[key] = parse_stages(str(value))
        elif isinstance(current, float):
            changes[key] = float(value)  # YAML reads 1 as an int
        else:
            changes[key] = tuple(value) if isinstance(value, list) else value
    return dataclasses.replace(instance, **changes)


def config_as_dict(config: DreamerConfig) -> dict[str, Any]:
    """Return train_config.json's content: the flags by group, and what belongs beside them."""
    flags = tree_map(
        lambda value: value.as_posix() if isinstance(value, Path) else value,
        dataclasses.asdict(config),
    )
    return flags | {
        "env": env_config_as_dict(config.env),
        "agent": AGENT,
        "steps": config.run.steps,
        "reward_signature": reward_signature(config.env),
        "provenance": provenance(),
    }


def config_from_dict(content: dict[str, Any]) -> DreamerConfig:
    """Return the flags of a train_config.json.

    Raises:
        UsageError: it is another agent's or another version's.
    """
    if content.get("agent") != AGENT:
        raise UsageError(f"the folder holds a run of agent {content.get('agent')!r}, not {AGENT}")
    try:
        run = tuples(content["run"]) | {"relabel": False}
        run |= {name: Path(run[name]) for name in ("logdir", "seed_demos") if run[name]}
        curriculum = dict(content["curriculum"])
        if curriculum["backward_demos"]:
            curriculum["backward_demos"] = Path(curriculum["backward_demos"])
        return DreamerConfig(
            run=RunConfig(**run),
            env=env_config_from_dict(content["env"]),
            model=ModelConfig(**tuples(content["model"])),
            exploration=ExplorationConfig(**content["exploration"]),
            replay=ReplayConfig(**content["replay"]),
            curriculum=CurriculumConfig(**curriculum),
        )
    except (KeyError, TypeError) as error:
        raise UsageError(f"not this version's train_config.json: {error}") from error


# --------------------------------------------------------------------------------------------
# Trainer: collects, learns, remembers
# --------------------------------------------------------------------------------------------


class Trainer:
    """Environments, replay, agent and optimiser, and all counters between them."""

    def __init__(self, config: DreamerConfig) -> None:
        """Make them all; the replay is opened, or made, in the run folder.

        Raises:
            UsageError: model, demos or replay do not fit the flags.
        """
        self.config = config
        env, replay = config.env, config.replay
        torch.manual_seed(config.run.seed)
        self.generator = np.random.default_rng([config.run.seed, 2])
        self.agent = make_agent(config.model, config.exploration, env)
        self.optimizer = self.agent.make_optimizer()
        curriculum = (
            BackwardCurriculum(config.curriculum, env) if config.curriculum.backward_demos else None
        )
        self.streams = MarioStreams(MarioFromPlaces(env, curriculum), config.run.seed)
        row, contents = mario_row(env), replay_contents(env)
        self.demos: Replay | None = None
        if config.run.seed_demos:
            if not (config.run.seed_demos / "replay.json").is_file():
                raise UsageError(
                    f"{config.run.seed_demos} holds no episodes: scripts/demos_to_episodes.py "
                    "makes them of demos"
                )
            self.demos = Replay(
                config.run.seed_demos,
                row,
                contents,
                streams=0,
                length=replay.length,
                seed=config.run.seed,
                circular=True,
                read_only=True,
            )
        self.replay = Replay(
            config.run.logdir / "replay",
            row,
            contents,
            streams=env.n_envs,
            length=replay.length,
            capacity=replay.capacity,
            seed=config.run.seed,
        )
        self.state = self.agent.world.rssm.initial_state(env.n_envs)
        self.step = 0  # agent steps of all environments
        self.updates = 0
        self.owed = 0.0  # updates due
        self.episodes: deque[FinishedEpisode] = deque(maxlen=EPISODES_AVERAGED)
        self.sums: dict[str, torch.Tensor] = {}  # of metrics since the last log
        self.summed = 0

    def begin(self) -> None:
        """Begin the first episodes."""
        self.replay.load_state_dict(
            self.replay.state_dict() | {"online": list(self.replay.end), "queue": []}
        )
        for stream, rows in enumerate(self.streams.reset()):
            self.replay.append(stream, rows)

    @property
    def helped_by_demos(self) -> bool:
        """Whether demos are still part of the batches."""
        return self.demos is not None and self.clear_rate() < self.config.replay.demo_until

    def clear_rate(self) -> float:
        """Return the share of the last episodes from the level's start that reached the goal."""
        flags = [episode.flag for episode in self.episodes]
        return float(np.mean(flags)) if flags else 0.0

    def collect(self) -> None:
        """Do one action in every environment and store what came of it."""
        streams, config = self.streams, self.config.exploration
        logits, self.state = self.agent.act(
            torch.from_numpy(streams.images),
            torch.from_numpy(streams.actions),
            torch.from_numpy(streams.is_first),
            self.state,
            sample=True,
        )
        actions = noisy(logits, draw_noise(*logits.shape)).argmax(-1).numpy()
        if config.behaviour == "random" or self.step < config.prefill:
            actions = self.generator.integers(0, logits.shape[1], len(actions))
        for stream, rows in enumerate(streams.step(actions)):
            self.replay.append(stream, rows)
        self.episodes.extend(e for e in streams.take_episodes() if e.place < 0)
        self.step += len(actions)
        if self.step >= config.prefill and self.replay.can_sample():
            replay = self.config.replay
            self.owed += len(actions) * replay.train_ratio / (replay.batch * replay.length)

    def learn(self) -> None:
        """Do the updates that are due."""
        while self.owed >= 1:
            metrics = self.agent.update(self.make_batch(), self.optimizer)
            for name, value in metrics.items():
                self.sums[name] = self.sums.get(name, torch.zeros(())) + value.detach()
            self.summed += 1
            self.updates += 1
            self.owed -= 1

    def make_batch(self) -> Batch:
        """Return sequences of the replay and, while they help, of the demos."""
        n, from_demos = self.config.replay.batch, 0
        if self.demos is not None and self.helped_by_demos:
            from_demos = round(self.config.replay.demo_fraction * n)
        parts = [self.replay.sample(n - from_demos)] if from_demos < n else []
        if self.demos is not None and from_demos:
            parts.append(self.demos.sample(from_demos))
        rows = np.concatenate(parts, axis=1)  # [T, B]

        def column(name: str) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(rows[name]))

        is_demo = torch.zeros(rows.shape, dtype=torch.bool)
        is_demo[:, n - from_demos :] = True
        return Batch(
            image=column("image"),
            action=column("action").long(),
            reward=column("reward"),
            is_first=column("is_first"),
            is_last=column("is_last"),
            is_terminal=column("is_terminal"),
            is_demo=is_demo,
        )

    def take_metrics(self) -> dict[str, float | None]:
        """Return the mean of what was measured since the last call, and of the last episodes."""
        means: dict[str, float | None] = {
            name: float(value) / self.summed for name, value in self.sums.items()
        }
        self.sums, self.summed = {}, 0
        for name in ("episode_return", "length", "max_x", "flag") if self.episodes else ():
            values = [getattr(episode, name) for episode in self.episodes]
            key = {"length": "episode_length", "flag": "clear_rate"}.get(name, name)
            means[key] = float(np.mean(values))
        means |= {
            "learning_rate": self.optimizer.learning_rate(),
            "dreamer/updates": self.updates,
            "dreamer/replay_steps": len(self.replay),
            "dreamer/demo_fraction": self.config.replay.demo_fraction * self.helped_by_demos,
        }
        if curriculum := self.streams.curriculum:
            rate = float(np.mean(curriculum.results)) if curriculum.results else None
            means |= {
                "dreamer/backward_start_x": curriculum.start_x,
                "dreamer/backward_clear_rate": rate,
            }
        return means

    # -- checkpoints ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return all but the weights and the rows on disk, as tensors and plain values."""
        state = {
            "optimizer": self.optimizer.state_dict(),
            "streams": self.streams.state_dict(),
            "replay": self.replay.state_dict(),
            "demos": self.demos.state_dict() if self.demos else None,
            "state": list(self.state),
            "counters": [self.step, self.updates, self.owed, self.summed],
            "sums": self.sums,
            "episodes": [list(episode) for episode in self.episodes],
            "generator": json.dumps(self.generator.bit_generator.state),
            "torch_rng": torch.get_rng_state(),
            "reward_signature": reward_signature(self.config.env),
        }
        return tree_map(
            lambda x: torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) else x, state
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned; the weights are loaded before.

        Raises:
            UsageError: it is of other environments, or rows of its replay are gone.
        """
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.param_groups[0].update(self.optimizer.defaults)  # flags may have changed
        self.step, self.updates, self.owed, self.summed = state["counters"]
        self.sums = state["sums"]
        self.episodes.extend(FinishedEpisode(*episode) for episode in state["episodes"])
        self.generator.bit_generator.state = json.loads(state["generator"])
        torch.set_rng_state(state["torch_rng"])
        if state["reward_signature"] != reward_signature(self.config.env):
            self.forget_reward()
            return
        self.streams.load_state_dict(state["streams"])
        self.replay.load_state_dict(state["replay"])
        self.state = type(self.state)(*state["state"])
        if self.demos and state["demos"]:
            self.demos.load_state_dict(state["demos"])

    def forget_reward(self) -> None:
        """After a relabelling: reward head and critics begin anew, and so do the episodes."""
        heads = [self.agent.world.reward, self.agent.critic.net, self.agent.critic.slow]
        for head in heads:
            for parameter in head[-1].parameters():
                torch.nn.init.zeros_(parameter)
        for buffer in self.agent.critic.range.buffers():
            buffer.zero_()
        self.episodes.clear()
        self.begin()


# --------------------------------------------------------------------------------------------
# The loop
# --------------------------------------------------------------------------------------------


class Loop:
    """Runs a trainer to its target and keeps the run folder."""

    def __init__(self, config: DreamerConfig, run: RunFolder, trainer: Trainer) -> None:
        self.config, self.run, self.trainer = config, run, trainer
        self.content = config_as_dict(config)
        self.stop_signal: str | None = None
        self.best: tuple[float, ...] | None = None
        if run.best_summary.exists():
            self.best = tuple(json.loads(run.best_summary.read_text())["rank"])

    def train(self) -> None:
        """Collect and learn to the target, or to a signal."""
        trainer, flags = self.trainer, self.config.run
        log = MetricsLog(self.run, resume_step=trainer.step)
        started = last_time = time.monotonic()
        last_step = trainer.step
        with self._signals():
            while trainer.step < flags.steps and not self.stop_signal:
                before = trainer.step
                trainer.collect()
                trainer.learn()
                if passed(before, trainer.step, flags.log_every):
                    now = time.monotonic()
                    rate = (trainer.step - last_step) / max(now - last_time, 1e-9)
                    last_step, last_time = trainer.step, now
                    metrics = trainer.take_metrics()
                    metrics["wall_s"] = log.wall_s_before + now - started
                    metrics["env_steps_per_s"] = rate
                    log.write(trainer.step, metrics)
                    self._say(metrics, rate)
                if passed(before, trainer.step, flags.eval_every):
                    self.evaluate()
                if passed(before, trainer.step, flags.checkpoint_every):
                    self.save_checkpoint()
        log.close()
        self.save_checkpoint()
        if self.stop_signal:
            print(f"stopped by {self.stop_signal}; the same command goes on")
        else:
            self.save_model(self.run.final_model)
            print(f"finished at {trainer.step:,} steps: {self.run.final_model}")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end the loop at its next turn, when the state is whole."""

        def request(number: int, frame: Any) -> None:
            self.stop_signal = signal.Signals(number).name

        before = {s: signal.signal(s, request) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _say(self, metrics: dict[str, float | None], rate: float) -> None:
        step, target = self.trainer.step, self.config.run.steps
        note = ""
        if metrics.get("max_x") is not None:
            note = f", max-x {metrics['max_x']:.0f}, clears {100 * self.trainer.clear_rate():.0f} %"
        if metrics.get("dreamer/backward_start_x") is not None:
            note += f", backward from x {metrics['dreamer/backward_start_x']:.0f}"
        print(
            f"{step:,}/{target:,} steps, {rate:.0f} env-steps/s, "
            f"ETA {(target - step) / max(rate, 1e-9) / 60:.0f} min{note}",
            flush=True,
        )

    def evaluate(self) -> None:
        """Play argmax and sampled episodes and keep the model whose worse half is the best.

        The best sampled episode is the preview.
        """
        (argmax, _), (sampled, episodes) = (self._judge(mode) for mode in (True, False))
        step, rank = self.trainer.step, min(argmax.rank, sampled.rank)
        content = dataclasses.asdict(argmax) | {
            **{"step": step, "rank": rank, "sampled": dataclasses.asdict(sampled)}
        }
        try:
            write_json(self.run.evaluations / f"step_{step}" / "summary.json", content)
            if self.best is None or rank > self.best:
                self.save_model(self.run.best_model)
                write_json(self.run.best_summary, content)
                self.best = rank
            config = protocol_config(in_process(self.config.env), "noop")
            preview = self.run.previews / f"step_{step}" / "preview.mp4"
            write_video(preview, film(best_episode(episodes), config), game_fps(config))
        except OSError as error:
            print(f"warning: evaluation not written: {error}", file=sys.stderr)
        print(
            f"evaluation at {step:,}: flags argmax {argmax.flags_cleared}/{argmax.episodes}, "
            f"sampled {sampled.flags_cleared}/{sampled.episodes}, median max-x "
            f"{argmax.median_max_x:.0f}, {sampled.median_max_x:.0f}",
            flush=True,
        )

    def _judge(self, deterministic: bool) -> tuple[Summary, list[Episode]]:
        flags, env = self.config.run, self.config.env
        return evaluate(
            DreamerPolicy(self.trainer.agent, env),
            dataclasses.replace(in_process(env), n_envs=flags.eval_episodes),
            protocol="noop",
            episodes=flags.eval_episodes,
            deterministic=deterministic,
            seed=flags.seed + 10_000,  # starts that training does not begin with
            max_steps=flags.eval_steps,
            model=f"{self.run.path.name} at {self.trainer.step} steps",
        )

    def save_model(self, path: Path) -> None:
        """Write the weights, with the run's config, as a model file."""
        write_model_zip(path, self._write_weights, self.content)

    def _write_weights(self, file: Any) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(POLICY_MEMBER, tensor_bytes(self.trainer.agent.state_dict()))
            # In the member and under the name that SB3 has it.
            archive.writestr("data", json.dumps({"num_timesteps": self.trainer.step}))

    def save_checkpoint(self) -> None:
        """Write weights and state; a full disk is said, and training goes on."""
        try:
            state = tensor_bytes(self.trainer.state_dict())
            self.run.save_checkpoint(self.trainer.step, self.save_model, state)
            self.trainer.replay.flush()
        except OSError as error:
            print(f"warning: no checkpoint at {self.trainer.step}: {error}", file=sys.stderr)


def passed(before: int, after: int, every: int) -> bool:
    """Return whether a multiple of `every` lies in (before, after]; never if every is 0."""
    return bool(every) and after // every > before // every


# --------------------------------------------------------------------------------------------
# Main
# --------------------------------------------------------------------------------------------


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of handing them back to the system.

    Torch allocates every activation anew; mapped and unmapped each time, its pages are faulted in
    each time. An update took 1.4 times as long, RMSNorm on feature maps 4 times (2 cores, EPYC).
    """
    if platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def find_checkpoint(run: RunFolder) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]] | None:
    """Return the newest whole checkpoint's config, weights and state; None if there is none."""
    for checkpoint in run.checkpoints():
        try:
            config, weights = read_model_zip(checkpoint)
            state_path = checkpoint.with_suffix(".state")
            return config, weights, load_tensors(state_path, str(state_path))
        except BadModelFile as error:
            print(f"warning: {error}; using the checkpoint before it", file=sys.stderr)
    return None


def resume(trainer: Trainer, checkpoint: tuple[dict[str, Any], ...]) -> None:
    """Load a checkpoint, or refuse it.

    Raises:
        UsageError: another stage, action set or model.
    """
    content, weights, state = checkpoint
    before, now = config_from_dict(content), trainer.config
    for name in ("stages", "action_set"):
        old, new = getattr(before.env, name), getattr(now.env, name)
        if old != new:
            if name == "stages":
                old, new = stages_label(old), stages_label(new)
            raise UsageError(
                f"{now.run.logdir} holds a run with {name} {old}, not {new}: choose another "
                "--logdir"
            )
    for change in describe_changes(before, now):
        print(f"resuming with {change}")
    try:
        trainer.agent.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{now.run.logdir} holds another model: {reason}") from error
    try:
        trainer.load_state_dict(state)
    except KeyError as error:
        raise UsageError(
            f"{now.run.logdir} holds a run of another version, its state lacks {error}: choose "
            "another --logdir"
        ) from error
    print(f"resumed {now.run.logdir} at {trainer.step:,} steps, {trainer.updates:,} updates")


def describe_changes(before: DreamerConfig, now: DreamerConfig) -> list[str]:
    """Return "model.horizon 333 -> 100" for every flag that differs."""

    def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        items: dict[str, Any] = {}
        for key, value in values.items():
            name = f"{prefix}{key}"
            items |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
        return items

    old, new = flat(dataclasses.asdict(before)), flat(dataclasses.asdict(now))
    unimportant = {"run.logdir", "run.configs", "run.relabel"}
    return [
        f"{key} {old[key]} -> {new[key]}"
        for key in old
        if old[key] != new[key] and key not in unimportant
    ]


def relabel_if_asked(config: DreamerConfig) -> None:
    """Recompute the replay's rewards, if --relabel is given and they were another reward's."""
    folder = config.run.logdir / "replay"
    signature = reward_signature(config.env)
    if not config.run.relabel or not (folder / "replay.json").is_file():
        return
    if read_index(folder / "replay.json")["reward_signature"] != signature:
        relabel(
            folder,
            mario_row(config.env),
            signature,
            lambda rows: recompute_rewards(rows, config.env),
        )


def train(config: DreamerConfig) -> None:
    """Run the training that the flags describe."""
    run = RunFolder(config.run.logdir, AGENT)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    keep_freed_memory()
    with run.locked():
        checkpoint = find_checkpoint(run)
        relabel_if_asked(config)
        trainer = Trainer(config)
        if checkpoint:
            resume(trainer, checkpoint)
        else:
            trainer.begin()
        loop = Loop(config, run, trainer)
        write_json(run.config_path, loop.content)
        parameters = sum(p.numel() for p in trainer.agent.parameters() if p.requires_grad)
        replay = config.replay
        per_update = replay.batch * replay.length / replay.train_ratio
        print(
            f"{run.path}: {stages_label(config.env.stages)}, {parameters / 1e6:.2f}M "
            f"parameters, an update of {replay.batch} x {replay.length} steps every "
            f"{math.ceil(per_update)} environment steps, {config.exploration.behaviour}",
            flush=True,
        )
        loop.train()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, and turn every expected failure into one line and an exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: train(parse_config(given)))


if __name__ == "__main__":
    sys.exit(main())
