"""What every trainer does besides learning: its config, resuming, looking at itself, stopping.

A trainer brings its algorithm and its loop. From here it has how flags and files become its config
(and older ones still do), which checkpoints it may go on from, evaluations that keep the best
model, previews, the log with its progress bar, and the reasons for which a run stops. Knows no
algorithm and no tensors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mario_cli import UsageError
from mario_config import EnvConfig, in_process
from mario_doctor import Doctor
from mario_files import fill
from mario_game import StageId, stages_label, stages_text, with_stages_field
from mario_judge import (
    NOOP_MAX,
    SELECTION_SEED,
    ModelEvaluation,
    ProtocolName,
    Rank,
    Summary,
    default_protocol,
    evaluate,
    protocol_config,
)
from mario_reward import reward_signature
from mario_rollout import Episode, Policy, game_fps
from mario_runs import Holder, MetricsLog, RunFolder, duration, provenance, row_of
from mario_values import as_values, with_values
from mario_video import film, write_video

# --------------------------------------------------------------------------------------------
# Flags and files
# --------------------------------------------------------------------------------------------

# What flags were called in an earlier version, by either trainer; both read both.
OLDER_NAMES = {
    "logdir": "run_dir",
    "configs": "config",
    "steps": "timesteps",
    "checkpoint_every": "checkpoint_freq",
    "eval_every": "eval_freq",
}
GONE = {"compile_policy"}  # flags that files may still hold, and that nothing reads any more


def with_newer_flags(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the flags of an earlier version under their names of today."""
    renamed = {f"--{old.replace('_', '-')}": f"--{new}" for old, new in OLDER_NAMES.items()}
    words = []
    for word in arguments:
        flag, equals, value = word.partition("=")
        new = renamed.get(flag.replace("_", "-"))
        words.append(f"{new.replace('_', '-')}{equals}{value}" if new else word)
    return words


def newer_names(values: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return a file's values under the names of today; known are those of the config they set."""
    values = {key: value for key, value in values.items() if key in known or key not in GONE}
    for old, new in OLDER_NAMES.items():
        if old in values and old not in known and new in known:
            values[new] = values.pop(old)
    return with_stages_field(values) if "stages" in known else values


def with_file_values[Config](config: Config, values: Mapping[str, Any], where: str) -> Config:
    """Return a trainer's config with values of a file, flat or nested, in today's names or older.

    Raises:
        UsageError: a key that is no flag, or a value that does not fit; where is the file's name.
    """
    return with_values(config, values, where, newer_names)


def config_content(config: Any, agent: str, env: EnvConfig) -> dict[str, Any]:
    """Return train_config.json's content: the flags by group, and what belongs beside them."""

    def as_text(value: Any) -> Any:
        is_stages = isinstance(value, tuple) and all(isinstance(one, StageId) for one in value)
        return stages_text(value) if is_stages and value else value

    return as_values(config, as_text) | {
        "agent": agent,
        "reward_signature": reward_signature(env),
        "provenance": provenance(),
    }


def config_of_content[Config](default: Config, content: Mapping[str, Any], agent: str) -> Config:
    """Return the config in a train_config.json's content, of this version or an older one.

    Raises:
        UsageError: it is another agent's, or not this version's.
    """
    if content.get("agent") != agent:
        raise UsageError(f"the folder holds a run of agent {content.get('agent')!r}, not {agent}")
    groups = [field.name for field in dataclasses.fields(default)]  # type: ignore[arg-type]
    for group in groups:
        if group not in content:
            raise UsageError(f"not this version's train_config.json: it has no {group!r}")
    values = {group: content[group] for group in groups}
    return with_file_values(default, values, "not this version's train_config.json")


# --------------------------------------------------------------------------------------------
# Resuming
# --------------------------------------------------------------------------------------------


def refuse_another_game(before: EnvConfig, now: EnvConfig, path: Path, advice: str) -> None:
    """Raise a UsageError, which ends with advice, if path's run played something else than now."""
    for name in ("stages", "action_set", "long_jump_action", "show_buttons", "observation", "crop"):
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            if name == "stages":
                old, new = stages_label(old), stages_label(new)
            raise UsageError(f"{path} was trained with {name} {old}, not {new}: {advice}")


def refuse_fewer_steps(before: int, now: int, done: int) -> None:
    """Raise a UsageError if a resumed run's target was changed to less than what is done.

    Args:
        before: agent steps that the run was to take.
        now: agent steps that it is to take.
        done: agent steps that it has taken.
    """
    if now != before and now < done:
        raise UsageError(
            f"it has {done:,} of {before:,} steps, and --timesteps is the total: "
            f"{now:,} are done already"
        )


def describe_changes(old: Any, new: Any, unimportant: Collection[str] = ()) -> dict[str, str]:
    """Return "0.9 -> 0.95" by "ppo.gamma" for every flag in which two configs differ.

    Args:
        old: a config dataclass.
        new: another of the same class.
        unimportant: flags, or groups of them, to leave out.
    """

    def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        items: dict[str, Any] = {}
        for key, value in values.items():
            name = f"{prefix}{key}"
            if name not in unimportant:
                items |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
        return items

    before, after = flat(dataclasses.asdict(old)), flat(dataclasses.asdict(new))
    return {
        name: f"{before[name]} -> {after[name]}" for name in before if before[name] != after[name]
    }


# --------------------------------------------------------------------------------------------
# Stopping
# --------------------------------------------------------------------------------------------


class StopKind(enum.Enum):
    """Why a run stops before its target."""

    SIGNAL = enum.auto()  # a person or the system asked
    COLLAPSE = enum.auto()  # the doctor sees that learning is over
    ENOUGH = enum.auto()  # an evaluation cleared enough: the run is finished


class Stop(NamedTuple):
    """One reason to stop."""

    kind: StopKind
    name: str  # of the signal, or of the doctor's rule


PLAN_VARIABLE = "MARIO_PLAN"  # the plan that started a trainer, as `as_variable` has it
LOOK_S = 0.5  # between two looks at the stop file and at the plan


def as_variable(holder: Holder) -> dict[str, str]:
    """Return the environment that makes trainers end with a process."""
    return {PLAN_VARIABLE: json.dumps(dataclasses.asdict(holder))}


def plan_of_environment() -> Holder | None:
    """Return the plan that started this trainer; None if none did."""
    try:
        return Holder.from_content(json.loads(os.environ.get(PLAN_VARIABLE, "null")))
    except (ValueError, RecursionError):
        return None


class StopRequest:
    """Whether and why the run is to stop; the trainer looks when its state is whole."""

    def __init__(self, run: RunFolder | None = None) -> None:
        """Take requests by `ask`, by signals, by a run's stop file, and by the end of its plan."""
        self.reason: Stop | None = None
        self.run = run
        self.plan = plan_of_environment()
        self._next_look = 0.0

    def is_asked(self) -> bool:
        """Return whether the run is to stop, looking around now and then."""
        now = time.monotonic()
        if self.reason is None and now >= self._next_look:
            self._next_look = now + LOOK_S
            if self.run and self.run.stop_file.exists():
                self.ask(StopKind.SIGNAL, "a stop file")
            elif self.plan and not self.plan.is_alive:
                self.ask(StopKind.SIGNAL, "the end of its plan")
        return self.reason is not None

    def ask(self, kind: StopKind, name: str) -> None:
        """Ask for a stop. The first reason stays, but that the run is finished overrules it."""
        if self.reason is None or kind is StopKind.ENOUGH:
            self.reason = Stop(kind, name)

    @property
    def is_finished(self) -> bool:
        """Whether the run stops because it has reached what it was for."""
        return self.reason is not None and self.reason.kind is StopKind.ENOUGH

    @property
    def is_collapse(self) -> bool:
        """Whether the run stops because learning is over."""
        return self.reason is not None and self.reason.kind is StopKind.COLLAPSE

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM ask, within this block."""

        def request(number: int, frame: Any) -> None:
            self.ask(StopKind.SIGNAL, signal.Signals(number).name)

        before = {s: signal.signal(s, request) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def passed(before: int, after: int, every: int) -> bool:
    """Return whether a multiple of `every` lies in (before, after]; never if every is 0."""
    return bool(every) and after // every > before // every


# --------------------------------------------------------------------------------------------
# Looking at itself
# --------------------------------------------------------------------------------------------


class Exam(NamedTuple):
    """What is played between updates to see how far a policy is."""

    config: EnvConfig
    stages: tuple[StageId, ...]
    protocol: ProtocolName | Literal["auto"]  # auto is `default_protocol`
    with_samples: bool  # play sampled episodes, too, beside argmax
    episodes: int  # of each stage and mode, where they are a sample
    max_steps: int  # agent steps of an episode; 0 is by the clock
    seed: int  # the run's


class Examined(NamedTuple):
    """What an exam found."""

    evaluation: ModelEvaluation
    episodes: list[Episode]  # sampled if there are any, else by argmax
    config: EnvConfig  # what they were played in


def examine(policy: Policy, exam: Exam, model: str, step: int) -> Examined:
    """Return how a policy does after so many steps; model is its name in the summaries."""
    protocol = default_protocol(exam.config) if exam.protocol == "auto" else exam.protocol
    config = dataclasses.replace(
        in_process(exam.config), stages=exam.stages, n_envs=max(exam.episodes, NOOP_MAX)
    )

    def played(deterministic: bool) -> tuple[Summary, list[Episode]]:
        return evaluate(
            policy,
            config,
            protocol=protocol,
            episodes=exam.episodes,
            deterministic=deterministic,
            seed=exam.seed + SELECTION_SEED,
            max_steps=exam.max_steps,
            model=model,
        )

    argmax, episodes = played(True)
    sampled = None
    if exam.with_samples:
        sampled, episodes = played(False)
    return Examined(
        ModelEvaluation(step=step, argmax=argmax, sampled=sampled),
        episodes,
        protocol_config(config, protocol),
    )


def evaluation_lines(found: ModelEvaluation) -> Iterator[str]:
    """Yield a line a stage for a person."""
    for of_stage in zip(*(summary.stages for summary in found.summaries), strict=True):
        named = list(zip(found.summaries, of_stage, strict=True))
        clears = ", ".join(f"{summary.mode} {one.clears}" for summary, one in named)
        furthest = ", ".join(f"{one.median_max_x:.0f}" for one in of_stage)
        yield f"{of_stage[0].stage} flags {clears}, median max-x {furthest}"


def best_until(summary: Path, step: int) -> ModelEvaluation | None:
    """Return the evaluation of the best model that a run had kept by a step; None if there is none.

    One that was judged later is another's: the run goes on from before it.
    """
    try:
        found = ModelEvaluation.from_json(summary) if summary.exists() else None
    except (UsageError, OSError) as error:
        print(f"warning: {error}; the best model is chosen anew", file=sys.stderr)
        return None
    return found if found and found.step <= step else None


class BestModel:
    """Writes evaluations down, and keeps the model that ranks highest as best_eval.zip."""

    def __init__(self, run: RunFolder, step: int) -> None:
        """Go on from the best one that the folder held at a step."""
        self.run = run
        found = best_until(run.best_summary, step)
        self.best: Rank | None = found.rank if found else None

    def offer(self, found: ModelEvaluation, write_model: Callable[[Path], None]) -> None:
        """Write an evaluation, and the model if it is the best so far.

        A full disk is said, and training goes on.
        """
        try:
            found.write(self.run.evaluations / f"step_{found.step}" / "summary.json")
            if self.best is None or found.rank > self.best:
                write_model(self.run.best_model)
                found.write(self.run.best_summary)
                self.best = found.rank
        except OSError as error:
            print(f"warning: evaluation not written: {error}", file=sys.stderr)
        for line in evaluation_lines(found):
            print(f"evaluation at {found.step:,}: {line}", flush=True)


def write_preview(
    run: RunFolder, step: int, episode: Episode, config: EnvConfig, fps: float = 0.0
) -> None:
    """Film an episode as the preview of a step; a full disk is said, and training goes on.

    Args:
        run: the folder.
        step: agent steps done.
        episode: what to film.
        config: what it was played in.
        fps: frames a second; 0 is the game's own speed.
    """
    path = run.previews / f"step_{step}" / "preview.mp4"
    try:
        write_video(path, film(episode, config), fps or game_fps(config))
    except OSError as error:
        print(f"warning: no preview: {str(error).splitlines()[0]}", file=sys.stderr)


class EpisodeMeans:
    """What the newest episodes that began at a level's start came to, in many environments.

    Args:
        n_envs: how many.
    """

    KEPT = 200  # episodes

    def __init__(self, n_envs: int) -> None:
        self.returns = np.zeros(n_envs)  # of the episodes under way
        self.lengths = np.zeros(n_envs, dtype=np.int64)
        names = ("episode_return", "episode_length", "max_x", "clear_rate")
        self.kept = {name: deque[float](maxlen=self.KEPT) for name in names}

    def count(self, rewards: np.ndarray, ended: np.ndarray, infos: dict[str, Any]) -> None:
        """Take a step's rewards, float[n], bool[n] where it ended an episode, and its infos."""
        self.returns += rewards
        self.lengths += 1
        if not ended.any():
            return
        final = infos["final_info"]
        for i in np.flatnonzero(ended & final["from_start"]).tolist():
            self.kept["episode_return"].append(float(self.returns[i]))
            self.kept["episode_length"].append(float(self.lengths[i]))
            self.kept["max_x"].append(float(final["max_x"][i]))
            self.kept["clear_rate"].append(float(final["is_success"][i]))
        self.returns[ended] = 0.0
        self.lengths[ended] = 0

    def means(self) -> dict[str, float]:
        """Return the means by name; nothing before the first episode ended."""
        return {name: float(np.mean(kept)) for name, kept in self.kept.items() if kept}

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on exactly."""
        kept = {name: list(values) for name, values in self.kept.items()}
        return {"returns": self.returns.copy(), "lengths": self.lengths.copy(), "kept": kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        fill(self.returns, state["returns"], "episodes.returns")
        fill(self.lengths, state["lengths"], "episodes.lengths", 0)
        for name, values in self.kept.items():
            values.clear()
            values.extend(state["kept"][name])


class RunLog:
    """The metrics of a run, what the doctor says of them, and where it is.

    That is a bar in a terminal, else a line each time.
    """

    def __init__(
        self, run: RunFolder, step: int, target: int, stop_on_collapse: StopRequest | None = None
    ) -> None:
        """Go on from a step toward the target, in agent steps; ask to stop when learning is over.

        What was logged before is the doctor's past, as if the run had never been broken off.
        """
        self.metrics = MetricsLog(run, resume_step=step)
        self.doctor = Doctor(self.metrics.kept)
        self.stop = stop_on_collapse
        self.target = target
        self.started = self.last_time = time.monotonic()
        self.first_step = self.last_step = step
        self.progress = Progress(
            TextColumn("{task.completed:,}/{task.total:,} steps"),
            BarColumn(),
            TextColumn("{task.fields[rate]:.0f} env-steps/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            disable=not sys.stderr.isatty(),
        )
        self.progress.start()
        self.bar = self.progress.add_task("", total=target, completed=step, rate=0.0, note="")
        self.is_open = True

    def write(self, step: int, scalars: Mapping[str, float | None], note: str = "") -> None:
        """Write the metrics of a step, with how long it took, and say where the run is."""
        now = time.monotonic()
        rate = (step - self.last_step) / max(now - self.last_time, 1e-9)
        self.last_step, self.last_time = step, now
        wall_s = self.metrics.wall_s_before + now - self.started
        timed = {"wall_s": wall_s, "env_steps_per_s": rate, **scalars}
        self.metrics.write(step, timed | self._examine(step, timed))
        self.progress.update(self.bar, completed=step, rate=rate, note=note)
        if self.progress.disable:
            # evaluations and what else happens between two lines are part of it
            to_go_s = (self.target - step) * (now - self.started) / (step - self.first_step or 1)
            print(
                f"{step:,}/{self.target:,} steps, {rate:.0f} env-steps/s, "
                f"ETA {duration(max(to_go_s, 0.0))}" + (f", {note}" if note else ""),
                flush=True,
            )

    def _examine(self, step: int, scalars: dict[str, float | None]) -> dict[str, float]:
        """Show the doctor a line; say what it finds and return what of it belongs into the line."""
        findings = self.doctor.add(row_of(step, scalars))
        for finding in findings:
            print(f"warning: {finding.rule}: {finding.message}", file=sys.stderr, flush=True)
            if finding.is_collapse and self.stop:
                self.stop.ask(StopKind.COLLAPSE, finding.rule)
        return {f"doctor/{finding.rule}": 1.0 for finding in findings}

    def close(self) -> None:
        """Close bar and files, and repeat the findings where they are not scrolled away."""
        if not self.is_open:
            return
        self.is_open = False
        self.progress.stop()
        self.metrics.close()
        for finding in self.doctor.findings:
            print(
                f"the doctor, at {finding.step:,} steps: {finding.rule}: {finding.message}",
                file=sys.stderr,
            )
