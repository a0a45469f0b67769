"""Copy checkpoints to another place before the trainer drops them: it keeps the newest two.

    python scripts/backup_checkpoints.py --run runs/mine --to /elsewhere --loop

A backup is laid out as a run folder: `train_mario.py --resume-model <backup>` goes on from it.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mario_cli import UsageError, exit_code
from mario_files import make_folder
from mario_runs import RunFolder, atomic_write
from mario_status import find_runs
from mario_values import Amount, Checked, Pause, parse_flags


@dataclasses.dataclass(frozen=True)
class BackupFlags(Checked):
    """What to copy, where to, how often."""

    run: Path | None = None
    """The run folder. Unset: every run of the root."""
    runs_root: Path = Path("runs")
    """Where the runs are."""
    to: Path = Path("backups")
    """A folder; each run gets one of its own in it."""
    keep: Amount = 10
    """Checkpoints kept of each run, the newest ones. 0: all."""
    loop: bool = False
    """Again and again, until Ctrl-C."""
    every_s: Pause = 600.0
    """Seconds between two looks."""


def copy(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    atomic_write(target, functools.partial(shutil.copyfile, source))


def back_up(run: Path, to: Path, keep: int) -> list[Path]:
    """Copy a run's checkpoints that the backup lacks; return the new ones.

    The state goes first and the zip last, as the trainer writes them. A checkpoint that the
    trainer drops meanwhile is left out.
    """
    source, target = RunFolder(run), RunFolder(to)
    there = {path.name for path in target.checkpoints()}
    copied = []
    for checkpoint in source.checkpoints()[: keep or None]:
        if checkpoint.name in there:
            continue
        copy_to = target.checkpoint_dir / checkpoint.name
        try:
            copy(checkpoint.with_suffix(".state"), copy_to.with_suffix(".state"))
            copy(checkpoint, copy_to)
        except FileNotFoundError:
            continue
        copied.append(copy_to)
    best_files = (source.config_path, source.best_model, source.best_summary)
    for path in (file for file in best_files if copied and file.is_file()):
        copy(path, to / path.relative_to(run))
    for old in target.checkpoints()[keep:] if keep else []:
        old.unlink(missing_ok=True)
        old.with_suffix(".state").unlink(missing_ok=True)
    return copied


def back_up_all(flags: BackupFlags) -> None:
    """Do what the flags ask for."""
    if flags.run and not flags.run.is_dir():
        raise UsageError(f"there is no run folder {flags.run}")
    if not flags.run and not flags.runs_root.is_dir():
        raise UsageError(f"there is no folder {flags.runs_root}; --runs-root names another")
    make_folder(flags.to)
    while True:
        runs = {flags.run.resolve().name: flags.run} if flags.run else find_runs(flags.runs_root)
        copied = [
            path for name, run in runs.items() for path in back_up(run, flags.to / name, flags.keep)
        ]
        for path in copied:
            print(f"copied {path}", flush=True)
        if not flags.loop:
            print(f"{len(copied)} new checkpoints of {len(runs)} runs in {flags.to}")
            return
        time.sleep(flags.every_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and copy."""
    return exit_code(lambda: back_up_all(parse_flags(BackupFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
