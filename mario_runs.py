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
import dataclasses
import datetime
import errno
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
    prefix = f".{path.stem}.{os.getpid()}_"
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
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


# What `atomic_write` is writing to, with its writer's pid; an earlier version's has none.
TEMPORARY = re.compile(
    r"\.(?:.+\.(?P<pid>\d+)_"
    r"|(?:mario_.+|preview|live|metrics|summary|best_eval|best_eval_summary|train_config|trainer)\.)"
    r"[a-z0-9_]{8}(?:\.\w+)?"
)


def _is_being_written(path: Path, pid: str | None) -> bool:
    """Return whether another process, which began before the file did, lives under its pid."""
    if pid is None or int(pid) == os.getpid():
        return False
    try:
        return psutil.Process(int(pid)).create_time() <= path.stat().st_mtime + 1
    except (psutil.Error, OSError, OverflowError):
        return False


def is_own_file(path: Path, home: Path) -> bool:
    """Return whether path is a regular file that lies in a folder, wherever links lead."""
    try:
        return path.is_file() and path.resolve().is_relative_to(home.resolve())
    except OSError:
        return False


def printable(text: str) -> str:
    """Return text as a terminal and a page can show it: in UTF-8, without control characters."""
    return "".join(
        one
        if one.isprintable()
        else os.fsencode(one).decode("utf-8", "backslashreplace")
        if "\udc80" <= one <= "\udcff"
        else one.encode("unicode_escape").decode()
        for one in text
    )


def duration(seconds: float) -> str:
    """Return "40 s", "12 min", "3.1 h" or "2.0 d"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 1e5 else f"{seconds / 86400:.1f} d"


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
        "machine": {
            "cpus": os.cpu_count(),
            "system": platform.system(),
            "cpu": cpu_name(),
            "gpu": gpu_name(),
        },
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


def gpu_name() -> str | None:
    """Return the name of the GPU that torch could use; None without one, or without torch."""
    torch = sys.modules.get("torch")  # who has not loaded it computes nothing on a GPU
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that holds a run folder's lock, from its trainer.json."""

    pid: int
    host: str
    started: str

    def process(self) -> psutil.Process | None:
        """Return the process if it lives on this machine; a reused pid is not it."""
        try:
            process = psutil.Process(self.pid)
            started = datetime.datetime.fromisoformat(self.started).timestamp()
            same = abs(process.create_time() - started) < 2
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (psutil.Error, ValueError, OverflowError):
            return None

    @property
    def is_elsewhere(self) -> bool:
        """Whether it runs on another machine, where its life cannot be seen from here."""
        return self.host != platform.node()

    @property
    def is_alive(self) -> bool:
        """Whether it lives, as far as can be seen from here."""
        return self.is_elsewhere or self.process() is not None

    @classmethod
    def of_this_process(cls) -> Holder:
        """Return what `trainer.json` says of this process."""
        process = psutil.Process()
        started = datetime.datetime.fromtimestamp(process.create_time(), datetime.UTC)
        return cls(process.pid, platform.node(), started.isoformat(timespec="seconds"))

    @classmethod
    def from_content(cls, content: Any) -> Holder | None:
        """Return the holder that JSON's content names; None if it names none."""
        try:
            return cls(int(content["pid"]), str(content["host"]), str(content["started"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    @classmethod
    def of_folder(cls, folder: Path) -> Holder | None:
        """Return who holds a run folder, or held it when it died; None if nobody does."""
        path = folder / "trainer.json"
        if not is_own_file(path, folder):
            return None
        try:
            with path.open("rb") as file:
                return cls.from_content(json.loads(file.read(MAX_HOLDER_BYTES)))
        except (OSError, ValueError, RecursionError):
            return None


MAX_HOLDER_BYTES = 10_000


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
        self.stop_file = self.path / "stop"  # asks the trainer to save and end

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder as its one trainer.

        The operating system drops a dead process's lock, so that one left behind is taken over,
        and what its trainer was writing is removed.

        Raises:
            RunLocked: a living trainer holds it; the message gives its pid, host and start.
            UsageError: its name is not UTF-8, which JSON and TensorBoard need.
        """
        if any("\udc80" <= one <= "\udcff" for one in str(self.path.absolute())):
            raise UsageError(f"{printable(str(self.path))} is not UTF-8: choose another --run-dir")
        self.path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.path / "trainer.lock")
        holder = self.path / "trainer.json"
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RunLocked(f"{self.path} is held by {describe_holder(self.path)}") from None
        try:
            self.stop_file.unlink(missing_ok=True)
            self.remove_leftovers()
            write_json(holder, dataclasses.asdict(Holder.of_this_process()))
            yield
        finally:
            holder.unlink(missing_ok=True)
            self.stop_file.unlink(missing_ok=True)
            lock.release()

    def remove_leftovers(self) -> None:
        """Delete what killed writers left; only the trainer that holds the folder may.

        That is files that `atomic_write` had not finished, and `.state` files whose zip was not
        written any more. What another living process writes (a film, a backup) stays. No link is
        followed.
        """
        for place, _, names in os.walk(self.path):
            for path in (Path(place, name) for name in names):
                match = TEMPORARY.fullmatch(path.name)
                is_orphan = (
                    path.suffix == ".state"
                    and path.parent in (self.checkpoint_dir, self.evaluations)
                    and not path.with_suffix(".zip").exists()
                )
                if is_orphan or (match and not _is_being_written(path, match["pid"])):
                    with contextlib.suppress(OSError):
                        path.unlink()

    def checkpoint_path(self, step: int) -> Path:
        """Return where the checkpoint of a step is; its `.state` stands beside it."""
        return self.checkpoint_dir / f"mario_{self.agent}_{step}_steps.zip"

    def checkpoints(self) -> list[Path]:
        """Return the complete checkpoints (zip and .state), the newest first."""
        return [path for _, path in self.checkpoint_steps()]

    def checkpoint_steps(self) -> list[tuple[int, Path]]:
        """Return the complete checkpoints, each with its agent steps, the newest first."""
        found = [
            (int(match.group(1)), path)
            for path in self.checkpoint_dir.glob("*.zip")
            if (match := re.fullmatch(r"mario_\w+_(\d+)_steps\.zip", path.name))
            and path.with_suffix(".state").exists()
        ]
        return sorted(found, reverse=True)

    def save_checkpoint(self, step: int, write_model: Callable[[Path], None], state: bytes) -> Path:
        """Write a checkpoint and drop all but the newest `KEPT_CHECKPOINTS`.

        The state goes first: a zip without its state is not a checkpoint, so that a kill between
        the two leaves the one before as the newest.

        Raises:
            OSError: as `atomic_write`; earlier checkpoints are untouched.
        """
        path = self.checkpoint_path(step)
        write_pair(path, write_model, state)
        for old in self.checkpoints()[KEPT_CHECKPOINTS:]:
            old.unlink(missing_ok=True)
            old.with_suffix(".state").unlink(missing_ok=True)
        return path


def write_pair(path: Path, write_model: Callable[[Path], None], state: bytes) -> None:
    """Write a model file and, before it, the `.state` beside it.

    Raises:
        OSError: as `atomic_write`; no state is left that has no model.
    """
    atomic_write(path.with_suffix(".state"), state)
    try:
        write_model(path)
    except OSError:
        if not path.exists():
            path.with_suffix(".state").unlink(missing_ok=True)
        raise


def run_of_checkpoint(path: Path) -> Path | None:
    """Return the run folder that a checkpoint lies in; None if it was copied elsewhere."""
    folders = path.absolute().parents
    if [folder.name for folder in folders[:2]] != ["checkpoints", "models"]:
        return None
    run = folders[2]
    if not (run / CONFIG_MEMBER).is_file():
        return None
    return run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run


def describe_holder(folder: Path) -> str:
    """Return who holds a run folder, from its trainer.json."""
    holder = Holder.of_folder(folder)
    if holder is None:
        return "another trainer; stop it or choose another --run-dir"
    return (
        f"the trainer with pid {holder.pid} on {printable(holder.host)}, "
        f"started {printable(holder.started)}; stop it or choose another --run-dir"
    )


class Appended:
    """A file to which whole pieces are appended; what a full disk does not take waits for room."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._whole = self._file.seek(0, os.SEEK_END)  # bytes of pieces written as a whole
        self._pending = b""

    def write(self, piece: bytes) -> None:
        """Append a piece, after those that wait.

        Raises:
            OSError: the disk is full; the file ends with a whole piece, and this one waits.
        """
        self._pending += piece
        try:
            written = self._file.write(self._pending) or 0
            if written < len(self._pending):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._file.truncate(self._whole)
            raise
        self._whole += written
        self._pending = b""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


# What Stable-Baselines3 calls the same scalars, for dashboards that were made for it. Its
# train/entropy_loss is the entropy's negative.
SB3_TAGS = {
    "episode_return": "rollout/ep_rew_mean",
    "episode_length": "rollout/ep_len_mean",
    "clear_rate": "rollout/success_rate",
    "env_steps_per_s": "time/fps",
    "entropy": "train/entropy_loss",
    "approx_kl": "train/approx_kl",
    "clip_fraction": "train/clip_fraction",
    "value_loss": "train/value_loss",
    "policy_loss": "train/policy_gradient_loss",
    "explained_variance": "train/explained_variance",
    "learning_rate": "train/learning_rate",
}


def with_sb3_tags(scalars: Mapping[str, float]) -> dict[str, float]:
    """Return scalars under our names and, beside, under Stable-Baselines3's."""
    theirs = {
        SB3_TAGS[name]: -value if name == "entropy" else value
        for name, value in scalars.items()
        if name in SB3_TAGS
    }
    return {**scalars, **theirs}


class ScalarBoard:
    """TensorBoard's event file.

    Written here, not by TensorBoard's writer: that one's thread dies of a full disk for good, and
    the one that torch has imports torch.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        """Begin a file in folder; of earlier ones, nothing from purge_step on counts any more."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary, self._record_writer = Event, Summary, RecordWriter
        now = time.time()
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{now:017.6f}.{platform.node()}.{os.getpid()}"
        self._file = Appended(folder / name)
        with contextlib.suppress(OSError):  # it waits for room
            self._file.write(self._record(0, file_version="brain.Event:2"))
            if purge_step is not None:
                start = SessionLog(status=SessionLog.START)
                self._file.write(self._record(purge_step, session_log=start))

    def _record(self, step: int, **content: Any) -> bytes:
        """Return an event as the file has it."""
        event = self._event(wall_time=time.time(), step=step, **content)
        buffer = io.BytesIO()
        self._record_writer(buffer).write(event.SerializeToString())
        return buffer.getvalue()

    def write_flags(self, flags: dict[str, float | str | bool]) -> None:
        """Write what TensorBoard's tab of hyper-parameters shows of a run.

        Raises:
            OSError: the disk is full; it is written when there is room.
        """
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        self._file.write(self._record(0, summary=hparams_pb(flags)))

    def write_film(self, step: int, name: str, gif: bytes, width: int, height: int) -> None:
        """Write a film for the tab of images.

        Raises:
            OSError: the disk is full; it is written when there is room.
        """
        image = self._summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=gif
        )
        summary = self._summary(value=[self._summary.Value(tag=name, image=image)])
        self._file.write(self._record(step, summary=summary))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the scalars of a step, each under its name.

        Raises:
            OSError: the disk is full; they are written when there is room.
        """
        self._file.write(
            b"".join(
                self._record(
                    step,
                    summary=self._summary(value=[self._summary.Value(tag=tag, simple_value=value)]),
                )
                for tag, value in scalars.items()
            )
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def flat_flags(content: Mapping[str, Any], prefix: str = "") -> dict[str, float | str | bool]:
    """Return the flags of a train_config.json's content as "ppo.gamma": 0.9, texts in UTF-8."""
    flat: dict[str, float | str | bool] = {}
    for name, value in content.items():
        if isinstance(value, dict) and name != "provenance":
            flat |= flat_flags(value, f"{prefix}{name}.")
        elif prefix and value is not None:
            flat[prefix + name] = (
                value if isinstance(value, bool | int | float) else printable(str(value))
            )
    return flat


class MetricsLog:
    """metrics.jsonl and TensorBoard, the same scalars in both. Missing is absent, never zero.

    In TensorBoard they stand under Stable-Baselines3's names, too (`SB3_TAGS`).
    """

    def __init__(self, run: RunFolder, resume_step: int = 0, wandb_project: str = "") -> None:
        """Continue the run's log after resume_step; what an interrupted run wrote later goes.

        Args:
            run: its folder; the flags in its config go to TensorBoard.
            resume_step: agent steps done.
            wandb_project: where in Weights & Biases to log the same; "" is nowhere.
        """
        run.path.mkdir(parents=True, exist_ok=True)
        self.kept = [row for row in read_metrics(run.metrics_path) if row["step"] <= resume_step]
        text = "".join(json.dumps(row) + "\n" for row in self.kept)
        atomic_write(run.metrics_path, text.encode())
        self._file = Appended(run.metrics_path)
        is_new = not any(run.tensorboard.glob("events.*"))
        self._board = ScalarBoard(run.tensorboard, None if is_new else resume_step + 1)
        flags = {}
        with contextlib.suppress(OSError, ValueError, AttributeError):
            flags = flat_flags(json.loads(run.config_path.read_text(encoding="utf-8")))
        if flags:
            with contextlib.suppress(OSError):  # it waits for room
                self._board.write_flags(flags)
        self._wandb = start_wandb(wandb_project, run, flags) if wandb_project else None
        self.last: Row = self.kept[-1] if self.kept else {}  # the line that this one continues
        self.wall_s_before = self.last.get("wall_s", 0.0)

    def write(self, step: int, scalars: dict[str, float | None]) -> None:
        """Append one line, `row_of` scalars.

        A full disk is said; what it did not take is kept and written when there is room.

        Raises:
            ValueError: a key is neither shared by all agents nor carries a prefix.
        """
        row = row_of(step, scalars)
        for what, write in {
            "metrics": lambda: self._file.write(json.dumps(row).encode() + b"\n"),
            "TensorBoard's scalars": lambda: self._board.write(
                step, with_sb3_tags({key: row[key] for key in row if key != "step"})
            ),
        }.items():
            try:
                write()
            except OSError as error:
                print(f"warning: {what} of step {step} wait for room: {error}", file=sys.stderr)
        if self._wandb:
            self._wandb.log(row, step=step)

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        self._board.close()
        if self._wandb:
            self._wandb.finish()


def start_wandb(project: str, run: RunFolder, flags: dict[str, Any]) -> Any:
    """Return a run of Weights & Biases, which goes on if the folder's run did.

    Raises:
        UsageError: wandb is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise UsageError("--wandb needs wandb: run_mario.sh python -m pip install wandb") from None
    name = hashlib.sha256(str(run.path.resolve()).encode()).hexdigest()[:16]
    return wandb.init(
        project=project,
        id=name,
        name=run.path.name,
        dir=str(run.path),
        config=flags,
        resume="allow",
    )


Row = dict[str, Any]  # a line of metrics.jsonl: int at "step", else finite numbers
MAX_STEP = 2**53


def row_of(step: int, scalars: dict[str, float | None]) -> Row:
    """Return a step's line; None and numbers that are not finite are left out, six digits kept.

    Raises:
        ValueError: a key is neither shared by all agents nor carries a prefix.
    """
    row: Row = {"step": step}
    for key, value in scalars.items():
        if key not in METRIC_KEYS and "/" not in key:
            raise ValueError(f"metric {key!r} is not in mario_runs.METRIC_KEYS and has no prefix")
        if value is not None and math.isfinite(value):
            row[key] = float(f"{value:.6g}")
    return row


class ReadRow(NamedTuple):
    """A line of metrics.jsonl as far as it can be used."""

    row: Row | None  # None: nothing of it
    fault: str  # what is wrong with it, or nothing


def read_row(text: bytes) -> ReadRow:
    """Return a line's step and its finite numbers; what else it holds is left out and said."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return ReadRow(None, "no JSON")
    step = content.get("step") if isinstance(content, dict) else None
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= MAX_STEP:
        return ReadRow(None, "no step")
    row: Row = {"step": step}
    fault = ""
    for key, value in content.items():
        if key == "step":
            continue
        try:
            number = float(value) if isinstance(value, int | float) else math.nan
        except OverflowError:
            number = math.nan
        if math.isfinite(number):
            row[key] = value
        else:
            fault = f"{printable(key)[:40]!r} is no finite number"
    return ReadRow(row, fault)


def read_metrics(path: Path) -> list[Row]:
    """Return the lines of a metrics.jsonl that can be used: `read_row`.

    Raises:
        OSError: it is no regular file, or may not be read.
    """
    if not path.exists():
        return []
    if not path.is_file():
        raise OSError(f"{path} is no file")
    lines = (read_row(text).row for text in path.read_bytes().split(b"\n") if text.strip())
    return [row for row in lines if row is not None]
