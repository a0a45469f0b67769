"""Measure the stage table: where each of the 32 stages starts, and where its goal line is.

    python scripts/measure_stages.py            # writes the study results/stages (about 2 minutes)
    python scripts/measure_stages.py --check    # measures again; exit 1 where the study differs

What is read, and what it is held against, is in `mario_search.level_data` and
`mario_search.stages`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gym_super_mario_bros._roms import smb1_rom_path

from mario_cli import exit_code
from mario_game import STAGES
from mario_keeping import figure_rows
from mario_results import (
    RESULTS,
    ROOT,
    About,
    Figure,
    RunFacts,
    Study,
    is_study,
    read_study,
    write_study,
)
from mario_search.level_data import LevelData
from mario_search.stages import check_loops, measure_stage
from mario_values import Checked, parse_flags

OUTPUT = RESULTS / "stages"
TABLE_FIELDS = ("start_x", "start_area", "goal_line_x", "goal_area", "exit_pipe_x")


@dataclasses.dataclass(frozen=True)
class MeasureFlags(Checked):
    """Write, or only look."""

    check: bool = False
    """Compare with what is there, and with the table that every run uses, instead of writing."""


def measure() -> Study:
    """Measure everything, print it, and return it: a run a stage, its note the goal, and `loops`.

    Of a stage it keeps what `MeasuredStage` has, widths by area, the rest by its place.
    """
    rom = Path(smb1_rom_path()).read_bytes()
    levels = LevelData(rom)
    runs: dict[str, RunFacts] = {}
    rows: list[Figure] = []
    print("stage start_x   area  goal   line_x   area   areas reachable, and their widths")
    for stage in STAGES:
        name, found = str(stage), dataclasses.asdict(measure_stage(levels, *stage))
        print(table_row(name, found), flush=True)
        widths = dict(zip(found.pop("areas"), found.pop("widths"), strict=True))
        runs[name] = RunFacts(stage=name, note=found.pop("goal"))
        rows += figure_rows(name, found | {"widths": widths})
    runs["loops"] = RunFacts(note="how the maze castles throw Mario back")
    rows += figure_rows("loops", dataclasses.asdict(check_loops(levels)))
    about = About(
        title="The stage table, measured",
        commands=("python scripts/measure_stages.py",),
        conditions=f"The ROM of SHA-256 {hashlib.sha256(rom).hexdigest()}; on any machine the same",
        runs=runs,
    )
    return Study(about, tuple(rows))


def table_row(name: str, stage: dict[str, Any]) -> str:
    """Return a stage as a line."""
    widths = zip(stage["areas"], stage["widths"], strict=True)
    return (
        f"{name}  {stage['start_x']:7d} {stage['start_area']:6x}  {stage['goal']:5s}"
        f"{stage['goal_line_x']:7d} {stage['goal_area']:6x}   "
        + " ".join(f"{area:02x}:{width}" for area, width in widths)
    )


def differences(measured: dict[str, Any], expected: dict[str, Any], where: str = "") -> list[str]:
    """Return one line for each value of two nested dictionaries that differs."""
    lines = []
    for key in sorted(measured.keys() | expected.keys()):
        here, there = measured.get(key), expected.get(key)
        if isinstance(here, dict) and isinstance(there, dict):
            lines += differences(here, there, f"{where}{key}.")
        elif here != there:
            lines.append(f"{where}{key}: measured {here}, expected {there}")
    return lines


def content(study: Study) -> dict[str, Any]:
    """Return what a study of stages says, by run and name."""
    figures = {
        run: {"note": facts.note, **study.figures(run)} for run, facts in study.about.runs.items()
    }
    return {"conditions": study.about.conditions, **figures}


def table_differences(study: Study) -> list[str]:
    """Hold measured stages against `STAGES`, the table that every run uses."""
    used, measured = {}, {}
    for stage, table in STAGES.items():
        figures = study.figures(str(stage))
        used[str(stage)] = dataclasses.asdict(table)
        measured[str(stage)] = {
            **{field: figures.get(field) for field in TABLE_FIELDS},
            "goal": study.about.runs[str(stage)].note,
            "start_width": figures.get(f"widths/{table.start_area}"),
            "goal_width": figures.get(f"widths/{table.goal_area}"),
        }
    return differences(measured, used, "STAGES: ")


def run(flags: MeasureFlags) -> int:
    """Measure, then write the study or compare with it."""
    name = OUTPUT.relative_to(ROOT)
    measured = measure()
    if not flags.check:
        write_study(OUTPUT, measured)
        print(f"wrote {name}")
        return 0
    if not is_study(OUTPUT):
        print(f"{name} is missing: run this script without --check")
        return 1
    lines = differences(content(measured), content(read_study(OUTPUT)))
    lines += table_differences(measured)
    print("\n".join(lines) if lines else "the same as before")
    return 1 if lines else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, and turn every expected failure into one line and an exit code."""
    return exit_code(lambda: run(parse_flags(MeasureFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
