"""Write a run's learning curve as a small CSV: one row per so many steps, from metrics.jsonl.

python scripts/learning_curve.py runs/mine --every 10000 --output docs/results/mine/curve.csv
"""

from __future__ import annotations

import csv
import dataclasses
import sys
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mario_runs import RunFolder, read_metrics

COLUMNS = (
    *("step", "wall_s", "env_steps_per_s", "episode_return", "episode_length", "max_x"),
    *("clear_rate", "entropy", "approx_kl", "clip_fraction", "value_loss", "explained_variance"),
)


@dataclasses.dataclass(frozen=True)
class CurveFlags:
    """Which run, how coarse, where to."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    every: int = 10_000
    """Agent steps between rows; a row is the last line of metrics.jsonl up to there."""
    output: Path | None = None
    """The CSV file. Unset: standard output."""


def main() -> int:
    """Read, thin out, write; exit 2 if there is nothing to read."""
    flags = tyro.cli(CurveFlags, description=__doc__)
    last_in_bin = {
        -(-line["step"] // flags.every): line
        for line in read_metrics(RunFolder(flags.run).metrics_path)
    }
    if not last_in_bin:
        print(f"error: {flags.run} has no metrics.jsonl with lines in it", file=sys.stderr)
        return 2
    if flags.output:
        flags.output.parent.mkdir(parents=True, exist_ok=True)
    with flags.output.open("w", newline="") if flags.output else sys.stdout as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(last_in_bin.values())
    return 0


if __name__ == "__main__":
    sys.exit(main())
