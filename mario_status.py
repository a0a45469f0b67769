"""What a run folder says about its run: training, finished, stalled, dead or collapsed, and why.

Reads only; a run is never touched, its lock never tried. A `RunReader` remembers what it has read,
so that looking again at two hundred runs reads only what was added.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mario_cli import UsageError
from mario_doctor import Doctor, Finding
from mario_game import with_stages_field
from mario_judge import ModelEvaluation
from mario_runs import (
    MAX_STEP,
    BadModelFile,
    Holder,
    RunFolder,
    is_own_file,
    printable,
    read_row,
)

State = Literal["training", "stalled", "dead", "collapsed", "stopped", "finished", "empty"]
STATES: dict[State, str] = {
    "training": "its trainer is at work",
    "stalled": "its trainer lives, but has written nothing for long",
    "dead": "its trainer ended without cleaning up: killed, or the machine went down",
    "collapsed": "its policy is broken, whether it trains on or not",
    "stopped": "its trainer ended before the target; it can be resumed",
    "finished": "it reached its target",
    "empty": "nothing has been logged yet",
}
STALL_S = 300.0  # an evaluation of 32 episodes and a preview fit into this on 2 slow cores
STALL_INTERVALS = 10  # and so many times a run's own time between two lines
PACE_LINES = 50  # over which the time to go is reckoned
MAX_JSON_BYTES = 16 * 2**20
MAX_TEXT = 60  # characters of what a file says, in a table
MAX_DEPTH = 3  # folders below a runs root: runs/<experiment>/<phase>/<seed>


Signature = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """A run at one moment. What is not known is None."""

    name: str
    path: Path
    state: State
    why: str
    trouble: str  # what of its files cannot be read, in one line; empty if all can
    agent: str
    stage: str
    step: int
    target: int | None  # agent steps
    written: float | None  # when metrics.jsonl was written last, seconds since 1970
    holder: Holder | None
    last: dict[str, Any]  # the last line of metrics.jsonl
    best: ModelEvaluation | None  # of the best model, as it was judged while training
    findings: list[Finding]
    steps_per_s: float | None  # over its last lines, evaluations included
    signature: Signature  # another when a file is that this was made from

    @property
    def age_s(self) -> float | None:
        """Seconds since the last line of metrics.jsonl."""
        return None if self.written is None else max(0.0, time.time() - self.written)

    @property
    def is_alive(self) -> bool:
        """Whether a trainer holds the folder, as far as can be seen from here."""
        return bool(self.holder and self.holder.is_alive)

    @property
    def remark(self) -> str:
        """Why it is in its state, and what of it cannot be read."""
        return "; ".join(filter(None, (self.why, self.trouble)))

    @property
    def to_go_s(self) -> float | None:
        """Seconds until the target at the pace of its last lines; None if that is not known."""
        if not self.target or not self.steps_per_s or self.state != "training":
            return None
        return max(0, self.target - self.step) / self.steps_per_s


class RunReader:
    """One run folder, of either agent; what did not change is not read again."""

    def __init__(self, path: Path, name: str = "") -> None:
        self.folder = RunFolder(path)
        self.name = name or printable(path.name)
        self._faults: dict[str, str] = {}  # by file, as of the last look
        self._line_fault = ""  # of the first bad line of metrics.jsonl
        self._offset = 0
        self._inode = self._lines = 0
        self._files: dict[Path, tuple[int, dict[str, Any]]] = {}
        self._evaluations: dict[Path, tuple[int, ModelEvaluation]] = {}
        self._doctor = Doctor()
        self._status: RunStatus | None = None  # as of the last look

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl, reading on from where it was read to.

        A resumed run replaces the file: then it is read from its start. A line without its end
        waits for the next call.
        """
        path = self.folder.metrics_path
        try:
            if not self._may_read(path):
                self._begin(0)
                return self.rows
            with path.open("rb") as file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self._inode or stat.st_size < self._offset:
                    self._begin(stat.st_ino)
                file.seek(self._offset)
                whole = file.read().rpartition(b"\n")[0]
        except OSError as error:
            self._begin(0)
            self._faults[path.name] = error.strerror or "cannot be read"
            return self.rows
        if whole:
            self._offset += len(whole) + 1
            for text in filter(bytes.strip, whole.split(b"\n")):
                self._add(text)
        return self.rows

    def _add(self, text: bytes) -> None:
        """Take a line of metrics.jsonl; the first one with a fault is remembered."""
        self._lines += 1
        row, fault = read_row(text)
        if fault:
            self._line_fault = self._line_fault or f"metrics.jsonl: line {self._lines}: {fault}"
        if row is not None:
            self._doctor.add(row)

    def _begin(self, inode: int) -> None:
        self._doctor, self._offset, self._inode, self._lines = Doctor(), 0, inode, 0
        self._line_fault = ""

    def _may_read(self, path: Path) -> bool:
        """Return whether a file of the run is there; one that is none of its own is a fault."""
        self._faults.pop(path.name, None)
        if is_own_file(path, self.folder.path):
            return True
        if os.path.lexists(path):
            self._faults[path.name] = "no file of this run, or it may not be read"
        return False

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl read so far."""
        return self._doctor.rows

    @property
    def findings(self) -> list[Finding]:
        """What the doctor finds in them."""
        return self._doctor.findings

    @property
    def config(self) -> dict[str, Any]:
        """What train_config.json holds; empty if it cannot be read."""
        return self.read_json(self.folder.config_path)

    def read_json(self, path: Path) -> dict[str, Any]:
        """Return a JSON file's mapping; empty if it is missing or not one. Kept till it changes."""
        if not self._may_read(path):
            return {}
        try:
            stat = path.stat()
            if self._files.get(path, (0, {}))[0] != stat.st_mtime_ns:
                if stat.st_size > MAX_JSON_BYTES:
                    raise ValueError("too large")
                content = json.loads(path.read_bytes())
                is_mapping = isinstance(content, dict)
                self._files[path] = (stat.st_mtime_ns, content if is_mapping else {})
            return self._files[path][1]
        except OSError as error:
            self._faults[path.name] = error.strerror or "cannot be read"
        except (ValueError, RecursionError):
            self._faults[path.name] = "no JSON"
        return {}

    def holder(self) -> Holder | None:
        """Return who holds, or held when it died, the folder."""
        return Holder.from_content(self.read_json(self.folder.path / "trainer.json"))

    def evaluations(self) -> list[ModelEvaluation]:
        """Return every evaluation in the order of their steps.

        Raises:
            UsageError: the first file of them that is no evaluation.
        """
        return [self._evaluation(path, step) for step, path in self._evaluation_files()]

    def readable_evaluations(self) -> list[ModelEvaluation]:
        """Return every evaluation whose file can be read, in the order of their steps."""
        found = []
        for step, path in self._evaluation_files():
            with contextlib.suppress(UsageError, OSError, RecursionError):
                found.append(self._evaluation(path, step))
        return found

    def _evaluation_files(self) -> Iterator[tuple[int, Path]]:
        for step, folder in step_folders(self.folder.evaluations):
            if is_own_file(path := folder / "summary.json", self.folder.path):
                yield step, path

    def _evaluation(self, path: Path, step: int | None = None) -> ModelEvaluation:
        """Return an evaluation's file as read. Kept till it changes."""
        changed = path.stat().st_mtime_ns
        if path not in self._evaluations or self._evaluations[path][0] != changed:
            self._evaluations[path] = changed, ModelEvaluation.from_json(path, step)
        return self._evaluations[path][1]

    def best(self) -> ModelEvaluation | None:
        """Return how the best model was judged; None if there is none whose file can be read."""
        path = self.folder.best_summary
        if self._may_read(path):
            try:
                return self._evaluation(path)
            except (UsageError, OSError, RecursionError):
                self._faults[path.name] = "no evaluation"
        return None

    def newest_preview(self) -> Path | None:
        """Return the newest preview video."""
        for _, folder in reversed(step_folders(self.folder.previews)):
            if is_own_file(video := folder / "preview.mp4", self.folder.path):
                return video
        return None

    def signature(self) -> Signature:
        """Return what changes when a file does that a status is made from."""
        folder = self.folder
        holder = folder.path / "trainer.json"
        paths = [folder.path, folder.metrics_path, folder.config_path, folder.best_summary]
        paths += [holder, folder.evaluations, folder.final_model]
        return tuple(map(file_signature, paths))

    def status(self) -> RunStatus:
        """Read what is new and return how the run is.

        A run that nobody holds and of which no file has changed is as it was.
        """
        signature = self.signature()
        known = self._status
        if known and known.signature == signature and not known.holder:
            return known
        self._status = self._read_status(signature)
        return self._status

    def _read_status(self, signature: Signature) -> RunStatus:
        rows = self.read_metrics()
        config = self.config
        env = _mapping(config.get("env"))
        last = rows[-1] if rows else {}
        holder, best = self.holder(), self.best()
        status = RunStatus(
            name=self.name,
            path=self.folder.path,
            state="empty",
            why="",
            trouble=self._trouble(),
            agent=short(config.get("agent", "?")),
            stage=short(with_stages_field(env).get("stages", "?")),
            step=int(last["step"]) if "step" in last else self._resumed_at(),
            target=_target(config),
            written=self._written(),
            holder=holder,
            last=last,
            best=best,
            findings=list(self.findings),
            steps_per_s=self._steps_per_s(),
            signature=signature,
        )
        state, why = self._state_of(status)
        return dataclasses.replace(status, state=state, why=why)

    def _resumed_at(self) -> int:
        """Return where a run without a line of its own began: a copy of another's checkpoint."""
        return next((min(step, MAX_STEP) for step, _ in self.folder.checkpoint_steps()), 0)

    def _trouble(self) -> str:
        """Return what of the files could not be read, in one line."""
        folder = self.folder.path
        if folder.exists() and not os.access(folder, os.R_OK | os.X_OK):
            return "its folder may not be read"
        faults = [f"{name}: {fault}" for name, fault in self._faults.items()]
        return "; ".join(filter(None, [*faults, self._line_fault]))

    def _written(self) -> float | None:
        try:
            return self.folder.metrics_path.stat().st_mtime
        except OSError:
            return None

    def _state_of(self, status: RunStatus) -> tuple[State, str]:
        """Return the state and, in one line, why it is that."""
        if collapses := [finding for finding in status.findings if finding.is_collapse]:
            worst = collapses[0]
            return "collapsed", f"{worst.rule} at step {worst.step:,}: {worst.message}"
        if status.is_alive and status.age_s is not None:
            limit_s = max(STALL_S, STALL_INTERVALS * self._interval_s())
            if status.age_s > limit_s:
                return "stalled", f"last line {status.age_s / 60:.0f} min ago"
            return "training", ""
        if status.is_alive:
            return "training", "starting"
        if status.holder:
            return "dead", f"pid {status.holder.pid} is gone, its trainer.json is still here"
        if is_own_file(self.folder.final_model, self.folder.path):
            return "finished", ""
        if status.last:
            return "stopped", "" if status.target is None else f"target {status.target:,}"
        return "empty", ""

    def _interval_s(self) -> float:
        """Return the mean time between the last lines, 0 if there are not two."""
        walls = [row["wall_s"] for row in self.rows[-11:] if "wall_s" in row]
        return (walls[-1] - walls[0]) / (len(walls) - 1) if len(walls) > 1 else 0.0

    def _steps_per_s(self) -> float | None:
        """Return the pace over the last `PACE_LINES`, what happened between them included."""
        rows = [row for row in self.rows[-PACE_LINES:] if "wall_s" in row]
        if not rows:
            return None
        first, last = rows[0], rows[-1]
        took_s = last["wall_s"] - first["wall_s"]
        if took_s > 0 and last["step"] > first["step"]:
            return float((last["step"] - first["step"]) / took_s)
        return last.get("env_steps_per_s")


def file_signature(path: Path) -> tuple[int, ...]:
    """Return what changes when a file, or who may read it, does; nothing if there is none."""
    try:
        stat = os.stat(path)
    except OSError:
        return ()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_mode


def short(value: Any) -> str:
    """Return text of a file as a table shows it."""
    text = printable(str(value)) if isinstance(value, str | int) else "?"
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _target(config: dict[str, Any]) -> int | None:
    """Return how many agent steps a run is to take, as its agent calls it."""
    learner = short(config.get("agent", "ppo"))  # its flags stand below its name
    for group, name in ((learner, "timesteps"), ("run", "timesteps"), ("run", "steps")):
        value = _mapping(config.get(group)).get(name)
        if isinstance(value, int | float) and 0 <= value <= MAX_STEP:  # no NaN either
            return int(value)
    return None


def step_folders(parent: Path) -> list[tuple[int, Path]]:
    """Return the folders `step_<n>` in a folder as (n, path), by n."""
    try:
        return sorted(
            (int(match[1]), path)
            for path in parent.iterdir()
            if (match := re.fullmatch(r"step_(\d{1,16})", path.name))
        )
    except OSError:  # there is none, or it is private
        return []


# --------------------------------------------------------------------------------------------
# Finding runs and models
# --------------------------------------------------------------------------------------------


def find_runs(root: Path) -> dict[str, Path]:
    """Return the run folders at or below root by name (their path from root, `printable`).

    A folder with train_config.json or metrics.jsonl is a run; what lies within it is its own. One
    that may not be read is taken for a run, which then says so. Links that lead out of root are
    left out.
    """
    home = root.resolve()
    runs: dict[str, Path] = {}

    def note(folder: Path, depth: int) -> None:
        name = printable(folder.relative_to(root).as_posix() if depth else root.resolve().name)
        while name in runs:  # of two names that look alike when they are printed
            name += "'"
        runs[name] = folder

    def visit(folder: Path, depth: int) -> None:
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            note(folder, depth)
            return
        if {"train_config.json", "metrics.jsonl"} & set(names):
            note(folder, depth)
        elif depth < MAX_DEPTH:
            for child in (folder / name for name in names):
                # os.path.isdir: a link to itself, which it says is none, raises elsewhere
                if os.path.isdir(child) and child.resolve().is_relative_to(home):
                    visit(child, depth + 1)

    if root.is_dir():
        visit(root, 0)
    return runs


def newest_run(root: Path) -> Path:
    """Return the run below root that wrote last.

    Raises:
        UsageError: there is none.
    """
    return max(_runs_or_error(root), key=last_written)


def last_written(run: Path) -> float:
    """Return when a run wrote its metrics, or failing that its config, as seconds since 1970."""
    folder = RunFolder(run)
    for path in (folder.metrics_path, folder.config_path):
        if is_own_file(path, run):
            return path.stat().st_mtime
    return 0.0


def best_run(root: Path) -> Path:
    """Return the run below root whose best evaluation ranks highest.

    Raises:
        UsageError: none has been evaluated.
    """
    ranked = [
        (best.rank, run)
        for run in _runs_or_error(root)
        if (best := RunReader(run).best()) and RunFolder(run).best_model.is_file()
    ]
    if not ranked:
        raise UsageError(f"no run in {root} has an evaluation yet")
    return max(ranked, key=lambda pair: pair[0])[1]


def _runs_or_error(root: Path) -> list[Path]:
    runs = list(find_runs(root).values())
    if not runs:
        raise UsageError(f"there are no runs in {root}")
    return runs


def newest_model(run: Path) -> Path:
    """Return a run's newest model: the newest checkpoint, else the final model.

    Raises:
        BadModelFile: there is none yet.
    """
    folder = RunFolder(run)
    for model in (*folder.checkpoints(), folder.final_model, folder.best_model):
        if is_own_file(model, run):
            return model
    raise BadModelFile(f"{run} holds no checkpoint yet")
