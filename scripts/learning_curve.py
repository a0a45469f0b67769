"""Write a run's learning curve as a small CSV: one row per so many steps, from metrics.jsonl.

    python scripts/learning_curve.py runs/mine --every 10000 --output docs/results/mine/curve.csv

Beside it, if there are any, the evaluations: evaluations.csv (phase1_evaluations.csv beside
phase1_curve.csv), two rows each, argmax and sampled. compare_agents.py reads both.
"""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mario_cli import UsageError, exit_code
from mario_report import evaluation_rows
from mario_runs import RunFolder, read_metrics
from mario_status import RunReader

COLUMNS = (
    *("step", "wall_s", "env_steps_per_s", "episode_return", "episode_length", "max_x"),
    *("clear_rate", "entropy", "approx_kl", "clip_fraction", "value_loss", "explained_variance"),
)
EVALUATION_COLUMNS = (
    *("step", "wall_s", "policy", "protocol", "episodes", "clear_rate"),
    *("max_x", "median_max_x", "median_clear_steps"),
)


@dataclasses.dataclass(frozen=True)
class CurveFlags:
    """Which run, how coarse, where to."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    every: int = 10_000
    """Agent steps between rows; a row is the last line of metrics.jsonl up to there."""
    output: Path | None = None
    """The CSV file, named curve.csv or ..._curve.csv. Unset: standard output, the curve alone."""


def write_csv(file: IO[str], columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write rows under a header; what a row lacks stays empty."""
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def write_curve(flags: CurveFlags) -> None:
    """Read, thin out, write.

    Raises:
        UsageError: there is nothing to read.
    """
    last_in_bin = {
        -(-line["step"] // flags.every): line
        for line in read_metrics(RunFolder(flags.run).metrics_path)
    }
    if not last_in_bin:
        raise UsageError(f"{flags.run} has no metrics.jsonl with lines in it")
    if flags.output is None:
        write_csv(sys.stdout, COLUMNS, last_in_bin.values())
        return
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    with flags.output.open("w", newline="") as file:
        write_csv(file, COLUMNS, last_in_bin.values())
    if evaluations := evaluation_rows(RunReader(flags.run)):
        prefix = flags.output.stem.removesuffix("curve")
        with flags.output.with_name(f"{prefix}evaluations.csv").open("w", newline="") as file:
            write_csv(file, EVALUATION_COLUMNS, evaluations)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and write."""
    flags = tyro.cli(CurveFlags, args=arguments, description=__doc__)
    return exit_code(lambda: write_curve(flags))


if __name__ == "__main__":
    sys.exit(main())
