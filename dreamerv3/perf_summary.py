"""How fast a run went: environment steps and updates a second, and when it reached what.

python dreamerv3/perf_summary.py runs/dreamer
python dreamerv3/perf_summary.py runs/dreamer0 runs/dreamer1 runs/dreamer2
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from mario_cli import UsageError, exit_code
from mario_runs import RunFolder, read_metrics
from mario_values import Checked, parse_flags

LANDMARKS_X = (
    1000.0,
    1500.0,
    2000.0,
    2500.0,
    3000.0,
)  # px, of the mean max-x of the last 100 episodes
CLEAR_RATES = (0.01, 0.25, 0.5, 0.75, 0.95)


@dataclasses.dataclass(frozen=True)
class PerfFlags(Checked):
    """Which runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """The run folders, of either agent."""


def first_line(lines: list[dict[str, Any]], key: str, value: float) -> dict[str, Any] | None:
    """Return the first line in which a key is at least a value."""
    return next((line for line in lines if line.get(key, -np.inf) >= value), None)


def summary(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the report's lines."""
    last = lines[-1]
    rates = np.array([line["env_steps_per_s"] for line in lines])
    yield f"{last['step']:,} environment steps in {last['wall_s'] / 3600:.2f} h"
    yield (
        f"environment steps/s: median {np.median(rates):.1f}, last {rates[-1]:.1f}, "
        f"5-95 % {np.percentile(rates, 5):.1f}-{np.percentile(rates, 95):.1f}"
    )
    if "dreamer/updates" in last:
        seconds = last["wall_s"] / max(1, last["dreamer/updates"])
        yield f"updates: {last['dreamer/updates']:,.0f}, {seconds:.2f} s each, all else included"
    marks = [(f"mean max-x {x:.0f} px", "max_x", x) for x in LANDMARKS_X]
    marks += [(f"clear rate {100 * rate:.0f} %", "clear_rate", rate) for rate in CLEAR_RATES]
    for name, key, value in marks:
        line = first_line(lines, key, value)
        when = (
            f"at {line['step']:,} steps, {line['wall_s'] / 60:.0f} min" if line else "not reached"
        )
        yield f"{name:20s} {when}"


def report(flags: PerfFlags) -> None:
    """Print the summary."""
    if not flags.runs:
        raise UsageError("name at least one run folder")
    for number, run in enumerate(flags.runs):
        lines = read_metrics(RunFolder(run).metrics_path)
        if not lines:
            raise UsageError(f"{run} holds no metrics.jsonl yet")
        if len(flags.runs) > 1:
            print("\n" * (number > 0) + str(run))
        print("\n".join(summary(lines)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and report."""
    return exit_code(lambda: report(parse_flags(PerfFlags, arguments, __doc__.split("\n\n")[0])))


if __name__ == "__main__":
    sys.exit(main())
