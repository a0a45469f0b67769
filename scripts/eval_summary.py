"""Print the table of a run's evaluations, oldest first.

python scripts/eval_summary.py runs/mine
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from mario_cli import UsageError, exit_code
from mario_status import RunReader

COLUMNS = ("step", "protocol", "policy", "cleared", "95 %", "max-x", "best", "steps", "return")


@dataclasses.dataclass(frozen=True)
class SummaryFlags:
    """Which run."""

    run: tyro.conf.Positional[Path]
    """The run folder."""


def cells(summary: dict[str, Any]) -> list[str]:
    """Return an evaluation as the table's cells; what it does not say is empty."""
    low, high = summary.get("clear_rate_ci95", (0, 1))
    steps = summary.get("median_clear_steps")
    return [
        f"{summary['step']:,}",
        str(summary.get("protocol", "")),
        "argmax" if summary.get("deterministic") else "sampled",
        f"{summary.get('flags_cleared')}/{summary.get('episodes')}",
        f"{100 * low:.0f}-{100 * high:.0f}",
        f"{summary.get('median_max_x', 0):.0f}",
        str(summary.get("best_max_x", "")),
        "" if steps is None else f"{steps:.0f}",
        f"{summary.get('mean_return', 0):.1f}",
    ]


def show(flags: SummaryFlags) -> None:
    """Print the table and the best of them."""
    reader = RunReader(flags.run)
    # An evaluation of both modes holds the sampled one inside the argmax one.
    evaluations = [
        {**found, "step": summary["step"]}
        for summary in reader.evaluations()
        for found in (summary, summary.get("sampled"))
        if found
    ]
    if not evaluations:
        raise UsageError(f"{flags.run} holds no evaluations")
    table = Table(*COLUMNS, title=f"{flags.run.name}: {len(evaluations)} evaluations")
    for column in table.columns[3:]:
        column.justify = "right"
    table.columns[0].justify = "right"
    best_step = reader.status().best.get("step")
    for summary in evaluations:
        table.add_row(*cells(summary), style="bold" if summary["step"] == best_step else "")
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    if best_step is not None:
        print(f"best_eval.zip is of step {best_step:,}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and print."""
    flags = tyro.cli(SummaryFlags, args=arguments, description=__doc__)
    return exit_code(lambda: show(flags))


if __name__ == "__main__":
    sys.exit(main())
