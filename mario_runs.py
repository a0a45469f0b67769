"""The run folder: config, lock, atomic files, metrics. Knows no algorithm and no tensors.

    runs/<name>/
      train_config.json      everything needed to do it again
      trainer.lock           one trainer per folder
      metrics.jsonl          one line per log tick
      tensorboard/           the same scalars
      models/checkpoints/    mario_<agent>_<steps>_steps.zip and its .state
      models/mario_final.zip
      evaluations/step_<steps>/summary.json, best_eval.zip, best_eval_summary.json
      previews/step_<steps>/preview.mp4

Every file is written beside its name, synced and renamed: a reader sees the old one or the new
one, never half of one.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import filelock
import psutil

from mario_cli import UsageError

CONFIG_MEMBER = "train_config.json"  # in the run folder, and in every model file
KEPT_CHECKPOINTS = 2  # the newest, and the one before in case the newest is torn

# The keys of metrics.jsonl that every agent shares; others carry a prefix of their own.
METRIC_KEYS = frozenset(
    "step wall_s env_steps_per_s episode_return episode_length max_x clear_rate entropy approx_kl "
    "clip_fraction value_loss policy_loss explained_variance learning_rate intrinsic_reward".split()
)


class RunLocked(UsageError):
    """Another trainer holds the run folder; the message says which."""


class BadModelFile(UsageError):
    """A model file is missing, torn, hostile or of another kind; the message says which."""


def atomic_write(path: Path, write: bytes | Callable[[Path], None]) -> None:
    """Replace path as a whole, or leave it as it was.

    Args:
        path: the file to replace; its folder is made if missing.
        write: the content, or a function that writes it to the temporary path it is given (which
            has path's suffix).

    Raises:
        OSError: the disk is full or the folder cannot be written; path is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    Path(name).unlink()  # mkstemp's mode is its own; made anew, the file has what umask allows
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    temporary = Path(name)
    try:
        if callable(write):
            write(temporary)
        else:
            temporary.write_bytes(write)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write content as indented JSON, atomically."""
    atomic_write(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def git_commit() -> str | None:
    """Return the commit that this code is, with `+` when files differ from it; None if unknown."""
    here = Path(__file__).parent
    try:
        commit, status = (
            subprocess.run(
                ["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if status else "")


def provenance() -> dict[str, Any]:
    """Return what a figure needs beside it: commit, versions, machine."""
    packages = (
        "torch",
        "stable-baselines3",
        "gymnasium",
        "gym-super-mario-bros",
        "nes-py",
        "numpy",
    )
    root, script = Path(__file__).resolve().parent, Path(sys.argv[0]).resolve()
    # no path of this machine: within the repository, or the name alone
    script = script.relative_to(root) if script.is_relative_to(root) else Path(script.name)
    return {
        "git_commit": git_commit(),
        "command": [script.as_posix(), *sys.argv[1:]],
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": installed_versions(packages) | {"python": platform.python_version()},
        "machine": {"cpus": os.cpu_count(), "system": platform.system(), "cpu": cpu_name()},
    }


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package that is installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        match = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        if match:
            return match.group(1)
    return platform.processor() or platform.machine()


class RunFolder:
    """One run's folder: where each file is, and how it is written."""

    def __init__(self, path: Path | str, agent: str = "ppo") -> None:
        """Name the folder; agent is whose checkpoints are written: ppo or dreamerv3."""
        self.path, self.agent = Path(path), agent
        self.config_path = self.path / CONFIG_MEMBER
        self.metrics_path = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoint_dir = self.path / "models" / "checkpoints"
        self.final_model = self.path / "models" / "mario_final.zip"
        self.evaluations = self.path / "evaluations"
        self.best_model = self.evaluations / "best_eval.zip"
        self.best_summary = self.evaluations / "best_eval_summary.json"
        self.previews = self.path / "previews"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder as its one trainer.

        The operating system drops a dead process's lock, so that one left behind is taken over.

        Raises:
            RunLocked: a living trainer holds it; the message gives its pid, host and start.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.path / "trainer.lock")
        holder = self.path / "trainer.json"
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RunLocked(f"{self.path} is held by {describe_holder(holder)}") from None
        try:
            process = psutil.Process()
            started = datetime.datetime.fromtimestamp(process.create_time(), datetime.UTC)
            write_json(
                holder,
                {
                    "pid": process.pid,
                    "host": platform.node(),
                    "started": started.isoformat(timespec="seconds"),
                },
            )
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    def checkpoint_path(self, step: int) -> Path:
        """Return where the checkpoint of a step is; its `.state` stands beside it."""
        return self.checkpoint_dir / f"mario_{self.agent}_{step}_steps.zip"

    def checkpoints(self) -> list[Path]:
        """Return the complete checkpoints (zip and .state), the newest first."""
        found = [
            (int(match.group(1)), path)
            for path in self.checkpoint_dir.glob("*.zip")
            if (match := re.fullmatch(r"mario_\w+_(\d+)_steps\.zip", path.name))
            and path.with_suffix(".state").exists()
        ]
        return [path for _, path in sorted(found, reverse=True)]

    def save_checkpoint(self, step: int, write_model: Callable[[Path], None], state: bytes) -> Path:
        """Write a checkpoint and drop all but the newest `KEPT_CHECKPOINTS`.

        The state goes first: a zip without its state is not a checkpoint, so that a kill between
        the two leaves the one before as the newest.

        Raises:
            OSError: as `atomic_write`; earlier checkpoints are untouched.
        """
        path = self.checkpoint_path(step)
        atomic_write(path.with_suffix(".state"), state)
        write_model(path)
        for old in self.checkpoints()[KEPT_CHECKPOINTS:]:
            old.unlink(missing_ok=True)
            old.with_suffix(".state").unlink(missing_ok=True)
        return path


def describe_holder(holder: Path) -> str:
    """Return who holds a run folder, from its trainer.json."""
    try:
        content = json.loads(holder.read_text())
        return (
            f"the trainer with pid {content['pid']} on {content['host']}, "
            f"started {content['started']}; stop it or choose another --run-dir"
        )
    except (OSError, ValueError, KeyError):
        return "another trainer; stop it or choose another --run-dir"


class ScalarBoard:
    """TensorBoard's event file, written by its own writer: the one that torch has imports torch."""

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        """Begin a file in folder; of earlier ones, nothing from purge_step on counts any more."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder))
        if purge_step is not None:
            self._add(purge_step, file_version="brain.Event:2")
            self._add(purge_step, session_log=SessionLog(status=SessionLog.START))

    def _add(self, step: int, **content: Any) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), step=step, **content))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Write the scalars of a step, each under its name.

        Raises:
            OSError: the disk is full.
        """
        for tag, value in scalars.items():
            value_of_tag = self._summary.Value(tag=tag, simple_value=value)
            self._add(step, summary=self._summary(value=[value_of_tag]))
        self._writer.flush()

    def close(self) -> None:
        """Write what waits and close the file."""
        self._writer.close()


class MetricsLog:
    """metrics.jsonl and TensorBoard, the same scalars in both. Missing is absent, never zero."""

    def __init__(self, run: RunFolder, resume_step: int = 0) -> None:
        """Continue the run's log after resume_step; what an interrupted run wrote later goes."""
        run.path.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_metrics(run.metrics_path) if line["step"] <= resume_step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        atomic_write(run.metrics_path, text.encode())
        self._file = run.metrics_path.open("ab", buffering=0)
        self._whole = self._file.seek(0, os.SEEK_END)  # bytes of lines written as a whole
        self._pending = b""  # lines that a full disk did not take
        self._board = ScalarBoard(run.tensorboard, purge_step=resume_step or None)
        self.last: dict[str, Any] = kept[-1] if kept else {}  # the line that this one continues
        self.wall_s_before = self.last.get("wall_s", 0.0)

    def write(self, step: int, scalars: dict[str, float | None]) -> None:
        """Append one line; None and numbers that are not finite are left out.

        A full disk is said; the line is kept and written when there is room.

        Raises:
            ValueError: a key is neither shared by all agents nor carries a prefix.
        """
        line: dict[str, Any] = {"step": step}
        for key, value in scalars.items():
            if key not in METRIC_KEYS and "/" not in key:
                raise ValueError(
                    f"metric {key!r} is not in mario_runs.METRIC_KEYS and has no prefix"
                )
            if value is not None and math.isfinite(value):
                line[key] = float(f"{value:.6g}")
        self._pending += json.dumps(line).encode() + b"\n"
        try:
            written = self._file.write(self._pending) or 0
            if written < len(self._pending):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._whole += written
            self._pending = b""
        except OSError as error:
            self._file.truncate(self._whole)
            print(f"warning: metrics of step {step} wait for room: {error}", file=sys.stderr)
        try:
            self._board.write(step, {key: value for key, value in line.items() if key != "step"})
        except OSError as error:  # its writer thread died of it and takes nothing any more
            print(f"warning: TensorBoard lost step {step}: {error}", file=sys.stderr)

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        with contextlib.suppress(OSError):
            self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):  # JSON's and UTF-8's errors are ValueErrors
            break
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            break
        lines.append(line)
    return lines
