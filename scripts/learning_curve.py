r"""Print a run's learning curve as CSV, or keep the run in a study.

    python scripts/learning_curve.py runs/mine --every 10000
    python scripts/learning_curve.py runs/mine --keep results/mine/seed0 \
        --judged runs/judged/summary.json

A study keeps a run's curve, evaluations, config, episodes by which it was judged and diagnosis
(dreamerv3/diagnose.py) beside its other runs; compare_agents.py and scripts/doc_tables.py read it.
"""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import tyro

from mario_cli import exit_code
from mario_judge import Summary
from mario_keeping import (
    CURVE_METRICS,
    KEPT_EVERY,
    keep_run,
    phase_of_run,
    played_rows,
    read_figures,
    read_origin,
    study_to_keep_in,
    told_by,
)
from mario_results import Point, Row, RunFacts
from mario_runs import CONFIG_MEMBER
from mario_values import Checked, Count, parse_flags

# Where dreamerv3/diagnose.py writes it below the run, else where a person put it.
DIAGNOSES = ("diagnosis/diagnosis.json", "diagnosis.json")


@dataclasses.dataclass(frozen=True)
class CurveFlags(Checked):
    """Which run, how coarse, where to."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    every: Count = KEPT_EVERY
    """Agent steps between rows; a row is the last line of metrics.jsonl up to there."""
    output: Path | None = None
    """A CSV file of the curve. Unset: standard output."""
    keep: Path | None = None
    """Keep the run as this one of a study instead, such as results/mine/seed0."""
    judged: tuple[Path, ...] = ()
    """summary.json of evaluations (evaluate_mario.py) whose episodes the study keeps, too."""


def write_csv(file: IO[str], points: Sequence[Point]) -> None:
    """Write a curve under a header; what a row lacks stays empty."""
    writer = csv.DictWriter(file, ("step", "wall_s", *CURVE_METRICS), lineterminator="\n")
    writer.writeheader()
    for point in points:
        writer.writerow({"step": point.step, "wall_s": point.wall_s, **point.metrics})


def keep(flags: CurveFlags, path: Path) -> None:
    """Put the run into a study."""
    folder, name = study_to_keep_in(path)
    phase = phase_of_run(flags.run, name, every=flags.every)
    origin = read_origin(phase.config, str(flags.run / CONFIG_MEMBER))
    rows: list[Row] = []
    for judged in flags.judged:
        rows += played_rows(name, Summary.from_json(judged))
    found = [file for one in DIAGNOSES if (file := flags.run / one).is_file()]
    for diagnosis in found[:1]:
        rows += read_figures(name, diagnosis)
    facts = RunFacts(told_by(phase.config), seed=origin.run.seed)
    keep_run(folder, name, facts, rows, {"": phase})


def run(flags: CurveFlags) -> None:
    """Print, write, or keep."""
    if flags.keep:
        keep(flags, flags.keep)
        return
    points = phase_of_run(flags.run, every=flags.every).points
    if flags.output is None:
        write_csv(sys.stdout, points)
        return
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    with flags.output.open("w", newline="") as file:
        write_csv(file, points)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; exit 2 if there is nothing to read."""
    return exit_code(lambda: run(parse_flags(CurveFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
