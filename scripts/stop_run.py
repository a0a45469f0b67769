"""Say what trains, or stop a training so that it saves: it can be resumed to the same bits.

    python scripts/stop_run.py
    python scripts/stop_run.py runs/mine

A trainer looks for the file `stop` in its run folder between its steps; that works on every
system, and for a trainer on another machine that shares the folder.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import tyro

from mario_cli import Failure, UsageError, exit_code
from mario_runs import Holder, RunFolder, duration, printable
from mario_status import find_runs
from mario_values import Checked, Seconds, parse_flags

LOOK_S = 0.2


@dataclasses.dataclass(frozen=True)
class StopFlags(Checked):
    """Which training."""

    run: tyro.conf.Positional[Path | None] = None
    """A run folder, or its name below --runs-root. Unset: list what trains."""
    runs_root: Path = Path("runs")
    """Where to look for runs."""
    all: bool = False
    """Stop all that train below --runs-root."""
    wait_s: Seconds = 600.0
    """Seconds to wait until a trainer has saved: an evaluation under way is finished first."""


def living(root: Path) -> dict[str, tuple[Path, Holder]]:
    """Return the runs below root that are being trained, by name."""
    found: dict[str, tuple[Path, Holder]] = {}
    for name, path in find_runs(root).items():
        if holder := living_holder(path):
            found[name] = (path, holder)
    return found


def living_holder(path: Path) -> Holder | None:
    """Return who trains in a run folder, as far as can be seen from here; None if nobody does."""
    holder = Holder.of_folder(path)
    return holder if holder and holder.is_alive else None


def run_named(flags: StopFlags) -> Path:
    """Return the run folder that the flags name.

    Raises:
        UsageError: there is none.
    """
    assert flags.run
    for path in (flags.run, flags.runs_root / flags.run):
        if path.is_dir():
            return path
    raise UsageError(f"there is no run folder {flags.run}")


def stop(path: Path, wait_s: float) -> None:
    """Ask the trainer of a run to save and end, and wait for it.

    Raises:
        UsageError: nobody trains there.
        Failure: it has not ended by then.
    """
    holder = living_holder(path)
    if holder is None:
        raise UsageError(f"nobody trains in {path}")
    RunFolder(path).stop_file.touch()
    print(f"{path}: asked pid {holder.pid} to save and end", flush=True)
    deadline = time.monotonic() + wait_s
    while living_holder(path) == holder:
        if time.monotonic() > deadline:
            raise Failure(f"pid {holder.pid} has not ended after {duration(wait_s)}; it was asked")
        time.sleep(LOOK_S)
    print(f"{path}: stopped", flush=True)


def stop_or_list(flags: StopFlags) -> None:
    """Do what the flags ask for."""
    if flags.run:
        stop(run_named(flags), flags.wait_s)
        return
    runs = living(flags.runs_root)
    if not runs:
        print(f"nothing trains in {flags.runs_root}")
    for name, (path, holder) in runs.items():
        if flags.all:
            stop(path, flags.wait_s)
        else:
            host = f" on {printable(holder.host)}" if holder.is_elsewhere else ""
            print(f"{name}: pid {holder.pid}{host}, since {printable(holder.started)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and stop."""
    return exit_code(lambda: stop_or_list(parse_flags(StopFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
