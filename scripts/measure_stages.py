"""Measure the stage table: where each of the 32 stages starts, and where its goal line is.

    python scripts/measure_stages.py            # writes docs/results/stages.json (about 2 minutes)
    python scripts/measure_stages.py --check    # measures again; exit 1 where the file differs

What is read, and what it is held against, is in `mario_search.level_data` and
`mario_search.stages`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from gym_super_mario_bros._roms import smb1_rom_path

from mario_cli import exit_code
from mario_game import STAGES
from mario_runs import write_json
from mario_search.level_data import LevelData
from mario_search.stages import check_loops, measure_stage

REPOSITORY = Path(__file__).resolve().parents[1]
OUTPUT = REPOSITORY / "docs" / "results" / "stages.json"
TABLE_FIELDS = ("start_x", "start_area", "goal", "goal_line_x", "goal_area", "exit_pipe_x")


@dataclasses.dataclass(frozen=True)
class MeasureFlags:
    """Write, or only look."""

    check: bool = False
    """Compare with what is there, and with the table that every run uses, instead of writing."""


def measure() -> dict[str, Any]:
    """Measure everything, print it, and return what stages.json holds."""
    rom = Path(smb1_rom_path()).read_bytes()
    levels = LevelData(rom)
    stages = {}
    print("stage start_x   area  goal   line_x   area   areas reachable, and their widths")
    for world, stage in STAGES:
        name = f"{world}-{stage}"
        stages[name] = dataclasses.asdict(measure_stage(levels, world, stage))
        print(table_row(name, stages[name]), flush=True)
    loops = check_loops(levels)
    content = {
        "measured_by": "scripts/measure_stages.py",
        "rom_sha256": hashlib.sha256(rom).hexdigest(),
        "units": "x and widths in px (256 a page); areas are the game's area pointers, bit 7 off",
        "stages": stages,
        "loops": dataclasses.asdict(loops),
    }
    return json.loads(json.dumps(content))  # of the same types as what is read from a file


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


def table_differences(stages: dict[str, Any]) -> list[str]:
    """Hold measured stages against `STAGES`, the table that every run uses."""
    used, measured = {}, {}
    for (world, number), table in STAGES.items():
        name = f"{world}-{number}"
        stage = stages.get(name, {})
        widths = dict(zip(stage.get("areas", ()), stage.get("widths", ()), strict=True))
        used[name] = {field: getattr(table, field) for field in TABLE_FIELDS}
        used[name]["width"] = table.width
        measured[name] = {field: stage.get(field) for field in TABLE_FIELDS}
        measured[name]["width"] = widths.get(table.goal_area)
    return differences(measured, used, "STAGES: ")


def run(flags: MeasureFlags) -> int:
    """Measure, then write the file or compare with it."""
    name = OUTPUT.relative_to(REPOSITORY)
    measured = measure()
    if not flags.check:
        write_json(OUTPUT, measured)
        print(f"wrote {name}")
        return 0
    if not OUTPUT.is_file():
        print(f"{name} is missing: run this script without --check")
        return 1
    lines = differences(measured, json.loads(OUTPUT.read_text(encoding="utf-8")))
    lines += table_differences(measured["stages"])
    print("\n".join(lines) if lines else "the same as before")
    return 1 if lines else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, and turn every expected failure into one line and an exit code."""
    flags = tyro.cli(MeasureFlags, args=arguments, description=__doc__)
    return exit_code(lambda: run(flags))


if __name__ == "__main__":
    sys.exit(main())
