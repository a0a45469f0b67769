"""Say how a run is: process, lock, speed, evaluations, GPU, the doctor's verdict.

    python scripts/run_health.py --run runs/mine --loop --every-s 30

With --brief a line a run, and without --run every run of the root: a heartbeat for a log or a cron
job. Exits 1 if a run that was looked at is dead, stalled or collapsed.
"""

from __future__ import annotations

import dataclasses
import datetime
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from mario_cli import UsageError, exit_code
from mario_judge import ModelEvaluation
from mario_runs import duration, printable
from mario_status import STATES, RunReader, RunStatus, find_runs, newest_run
from mario_values import Checked, Pause, parse_flags

UNWELL = {"dead", "stalled", "collapsed"}


@dataclasses.dataclass(frozen=True)
class HealthFlags(Checked):
    """Which runs, how often, how much of them."""

    run: Path | None = None
    """The run folder. Unset: the one that wrote last; with --brief, every run."""
    runs_root: Path = Path("runs")
    """Where to look for runs."""
    loop: bool = False
    """Again and again, until Ctrl-C."""
    every_s: Pause = 30.0
    """Seconds between two looks."""
    brief: bool = False
    """One line a run."""


def progress(status: RunStatus) -> str:
    """Return "120,000/700,000 steps (17 %), 950 steps/s, 10 min to go"."""
    text = f"{status.step:,} steps"
    rate = status.last.get("env_steps_per_s")
    if status.target:
        text = f"{status.step:,}/{status.target:,} steps ({status.step / status.target:.0%})"
    if rate:
        text += f", {rate:.0f} steps/s"
    if status.to_go_s is not None:
        text += f", {duration(status.to_go_s)} to go"
    return text


def describe_process(status: RunStatus) -> str:
    """Return the trainer's process and its parent, or that there is none.

    A virtual environment's python.exe on Windows is two processes, a stub and its child: the
    parent shows that they are one trainer.
    """
    if status.holder is None:
        return "none; the folder is free"
    if status.holder.is_elsewhere:
        host = printable(status.holder.host)
        return f"pid {status.holder.pid} on {host}, which cannot be seen from here"
    process = status.holder.process()
    if process is None:
        return f"pid {status.holder.pid} is gone"
    try:
        with process.oneshot():
            memory_mb = process.memory_info().rss / 2**20
            age_s = time.time() - process.create_time()
            parent = process.parent()
            origin = f"{parent.name()} ({parent.pid})" if parent else "no parent"
            return (
                f"pid {process.pid} for {duration(age_s)}, {memory_mb:.0f} MB, "
                f"{process.num_threads()} threads; started by {origin}"
            )
    except psutil.Error as error:
        return f"pid {status.holder.pid}: {error}"


def describe_evaluation(evaluation: ModelEvaluation | None) -> str:
    """Return one line of an evaluation; "none" if there is none."""
    if evaluation is None:
        return "none"
    summary = evaluation.argmax
    line = f"at {evaluation.step:,}: {summary.clears} cleared, "
    line += f"median max-x {summary.median_max_x:.0f}"
    steps = summary.median_clear_steps
    return line if steps is None else f"{line}, in {steps:.0f} steps"


def gpus() -> list[str]:
    """Return a line a GPU from nvidia-smi; none where there is none."""
    if not shutil.which("nvidia-smi"):
        return []
    query = "name,utilization.gpu,memory.used,memory.total,temperature.gpu"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
    except subprocess.TimeoutExpired:
        return ["nvidia-smi does not answer"]
    return done.stdout.splitlines() if done.returncode == 0 else []


def health_lines(reader: RunReader) -> Iterator[str]:
    """Yield the lines of a run's health."""
    status = reader.status()
    evaluations = reader.readable_evaluations()
    yield f"{status.name}  {status.agent} on {status.stage}"
    yield f"  state     {status.state}: {status.why or STATES[status.state]}"
    if status.trouble:
        yield f"  files     {status.trouble}"
    last_line = "" if status.age_s is None else f"; last line {duration(status.age_s)} ago"
    yield f"  progress  {progress(status)}{last_line}"
    yield f"  process   {describe_process(status)}"
    yield f"  last eval {describe_evaluation(evaluations[-1] if evaluations else None)}"
    yield f"  best eval {describe_evaluation(status.best)}"
    for line in gpus():
        yield f"  GPU       {line}"
    if not status.findings:
        yield "  verdict   healthy" if status.last else "  verdict   nothing to judge yet"
    for finding in status.findings:
        kind = "COLLAPSED" if finding.is_collapse else "warning"
        yield f"  verdict   {kind}, {finding.rule} at {finding.step:,}: {finding.message}"


def brief(status: RunStatus) -> str:
    """Return a run's heartbeat."""
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    why = f" ({status.remark})" if status.remark else ""
    return f"{now} {status.name}: {status.state}{why}, {progress(status)}"


def look(flags: HealthFlags) -> int:
    """Print what the flags ask for; 1 if a run is unwell."""
    if flags.run and not flags.run.is_dir():
        raise UsageError(f"there is no run folder {flags.run}")
    readers: dict[str, RunReader] = {}
    while True:
        if flags.run:
            found = {printable(flags.run.resolve().name): flags.run}
        elif flags.brief:
            found = find_runs(flags.runs_root)
        else:
            newest = newest_run(flags.runs_root)
            found = {printable(newest.name): newest}
        if not found:  # a heartbeat that says nothing would pass for a healthy one
            raise UsageError(f"there are no runs in {flags.runs_root}")
        unwell = False
        for name, path in found.items():
            reader = readers.setdefault(name, RunReader(path, name))
            status = reader.status()
            unwell = unwell or status.state in UNWELL
            print(brief(status) if flags.brief else "\n".join(health_lines(reader)), flush=True)
        if not flags.loop:
            return int(unwell)
        time.sleep(flags.every_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and look."""
    return exit_code(lambda: look(parse_flags(HealthFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
