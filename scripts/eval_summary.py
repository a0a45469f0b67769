"""Print the table of a run's evaluations, oldest first.

python scripts/eval_summary.py runs/mine
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from mario_cli import UsageError, exit_code
from mario_judge import Figures, Summary
from mario_status import RunReader
from mario_values import Checked, parse_flags

COLUMNS = (
    *("step", "protocol", "policy", "stage", "cleared", "95 %", "max-x", "best", "steps", "return"),
)


@dataclasses.dataclass(frozen=True)
class SummaryFlags(Checked):
    """Which run."""

    run: tyro.conf.Positional[Path]
    """The run folder."""


def cells(step: int, summary: Summary, figures: Figures, stage: str) -> list[str]:
    """Return the figures of an evaluation's mode and stage as the table's cells."""
    steps = figures.median_clear_steps
    return [
        f"{step:,}",
        summary.protocol,
        summary.mode,
        stage,
        figures.clears,
        figures.interval,
        f"{figures.median_max_x:.0f}",
        str(figures.best_max_x),
        "" if steps is None else f"{steps:.0f}",
        f"{figures.mean_return:.1f}",
    ]


def print_evaluations(flags: SummaryFlags) -> None:
    """Print the table and the best of them."""
    reader = RunReader(flags.run)
    evaluations = reader.evaluations()
    if not evaluations:
        raise UsageError(f"{flags.run} holds no evaluations")
    table = Table(*COLUMNS, title=f"{flags.run.name}: {len(evaluations)} evaluations")
    for name, column in zip(COLUMNS, table.columns, strict=True):
        if name not in ("protocol", "policy", "stage"):
            column.justify = "right"
    best = reader.best()
    for one in evaluations:
        style = "bold" if best and one.step == best.step else ""
        for summary in one.summaries:
            for of_stage in summary.stages:
                table.add_row(*cells(one.step, summary, of_stage, str(of_stage.stage)), style=style)
            if len(summary.stages) > 1:
                table.add_row(*cells(one.step, summary, summary, "all"), style=style)
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    if best:
        print(f"best_eval.zip is of step {best.step:,}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and print."""
    return exit_code(lambda: print_evaluations(parse_flags(SummaryFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
