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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mario_cli import UsageError
from mario_config import EnvConfig, ProtocolName, in_process
from mario_doctor import Doctor
from mario_files import fill
from mario_game import StageId
from mario_judge import (
    NOOP_MAX,
    SELECTION_SEED,
    ModelEvaluation,
    Rank,
    Summary,
    default_protocol,
    evaluate,
    protocol_config,
)
from mario_rollout import Episode, Policy, game_fps
from mario_runs import Holder, MetricsLog, RunFolder, ScalarBoard, duration, row_of
from mario_video import film, small_gif, write_video

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
            with contextlib.suppress(OSError):  # print's buffer may be in use just now
                os.write(2, b"\nstopping: it saves first\n")
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


def evaluation_scalars(found: ModelEvaluation) -> Iterator[tuple[str, float]]:
    """Yield an evaluation's scalars, by mode, and argmax's under Stable-Baselines3's names."""
    for summary in found.summaries:
        yield f"eval/{summary.mode}/clear_rate", summary.clear_rate
        yield f"eval/{summary.mode}/median_max_x", summary.median_max_x
    yield "eval/mean_reward", float(np.mean(found.argmax.episode_returns))
    yield "eval/mean_ep_length", float(np.mean(found.argmax.episode_lengths))
    yield "eval/success_rate", found.argmax.clear_rate


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

    def __init__(self, run: RunFolder, step: int, after: int = 0) -> None:
        """Go on from the best one that the folder held at a step, of those after another step."""
        self.run = run
        found = best_until(run.best_summary, step)
        self.best: Rank | None = found.rank if found and found.step > after else None
        self.step = step
        self._is_shown = False  # since it went on

    def _show(self, found: ModelEvaluation) -> None:
        """Show an evaluation in TensorBoard, as a run of its own beside the training's."""
        folder = self.run.tensorboard / "evaluations"
        is_continued = not self._is_shown and any(folder.glob("events.*"))
        board = ScalarBoard(folder, self.step + 1 if is_continued else None)
        with contextlib.closing(board):
            board.write(found.step, dict(evaluation_scalars(found)))
        self._is_shown = True

    def offer(self, found: ModelEvaluation, write_model: Callable[[Path], None]) -> None:
        """Write an evaluation, and the model if it is the best so far.

        A full disk is said, and training goes on.
        """
        try:
            found.write(self.run.evaluations / f"step_{found.step}" / "summary.json")
            self._show(found)
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
    fps = fps or game_fps(config)
    try:
        write_video(path, film(episode, config), fps)
        gif, width, height = small_gif(film(episode, config), fps)
        with contextlib.closing(ScalarBoard(run.tensorboard / "films")) as board:
            board.write_film(step, "preview", gif, width, height)
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
        """Continue from what `state_dict` returned.

        Raises:
            UsageError: it is of other environments, or holds what is no number.
        """
        fill(self.returns, state["returns"], "episodes.returns")
        fill(self.lengths, state["lengths"], "episodes.lengths", 0)
        for name, values in self.kept.items():
            saved = state["kept"][name]
            numbers = np.zeros(len(saved))
            fill(numbers, saved, f"episodes.kept.{name}")
            values.clear()
            values.extend(numbers.tolist())


class RunLog:
    """The metrics of a run, what the doctor says of them, and where it is.

    That is a bar in a terminal, else a line each time.
    """

    def __init__(
        self,
        run: RunFolder,
        step: int,
        target: int,
        stop_on_collapse: StopRequest | None = None,
        wandb_project: str = "",
    ) -> None:
        """Go on from a step toward the target, in agent steps; ask to stop when learning is over.

        What was logged before is the doctor's past, as if the run had never been broken off.
        """
        self.metrics = MetricsLog(run, resume_step=step, wandb_project=wandb_project)
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
