"""The stage table that every run uses is the one that was measured from the ROM."""

from __future__ import annotations

from pathlib import Path

import pytest
from gym_super_mario_bros._roms import smb1_rom_path

from mario_game import STAGES, StageId
from mario_results import read_study
from mario_search.level_data import LevelData
from mario_search.stages import measure_stage, measure_static
from scripts import measure_stages

LEVELS = LevelData(Path(smb1_rom_path()).read_bytes())
MEASURED = read_study(measure_stages.OUTPUT)


def test_every_run_uses_the_measured_table() -> None:
    assert measure_stages.table_differences(MEASURED) == []


def test_the_known_numbers_of_1_1() -> None:
    stage = STAGES[StageId(1, 1)]
    assert (stage.start_x, stage.goal, stage.goal_line_x) == (40, "flag", 3161)
    assert stage.start_area == stage.goal_area == 0x25


@pytest.mark.parametrize(("world", "stage"), STAGES)
def test_the_rom_says_the_same_and_has_one_reachable_goal(world: int, stage: int) -> None:
    # measure_static refuses a stage with no goal or with two.
    found = measure_static(LEVELS, world, stage, STAGES[StageId(world, stage)].start_x)
    table = STAGES[StageId(world, stage)]
    assert (found.start_area, found.goal_area) == (table.start_area, table.goal_area)
    assert (found.goal, found.goal_line_x) == (table.goal, table.goal_line_x)
    widths = dict(zip(found.areas, found.widths, strict=True))
    assert widths[table.start_area] == table.start_width
    assert widths[table.goal_area] == table.goal_width
    assert table.start_x < table.goal_line_x < table.goal_width
    assert (table.exit_pipe_x or 0) < table.start_width


def test_castles_end_at_an_axe_and_all_others_at_a_flag() -> None:
    assert {key for key, stage in STAGES.items() if stage.goal == "axe"} == {
        (world, 4) for world in range(1, 9)
    }


def test_four_stages_end_in_the_last_part_of_1_1() -> None:
    elsewhere = {key for key, stage in STAGES.items() if stage.goal_area != stage.start_area}
    assert elsewhere == {StageId(1, 2), StageId(2, 2), StageId(4, 2), StageId(7, 2)}
    assert {STAGES[key].goal_area for key in elsewhere} == {0x25}
    assert {STAGES[key].goal_line_x for key in elsewhere} == {STAGES[StageId(1, 1)].goal_line_x}


def test_a_maze_castle_throws_mario_back_four_pages() -> None:
    assert {command.back_px for command in LEVELS.loop_commands()} == {1024}
    assert {command.world for command in LEVELS.loop_commands()} == {4, 7, 8}


def test_a_rom_without_the_tables_is_refused() -> None:
    with pytest.raises(ValueError, match="does not hold the level tables"):
        LevelData(bytes(0x8010))


# A flag, a stage that ends in another area behind a pipe, and the last castle.
@pytest.mark.parametrize(("world", "stage"), [StageId(1, 1), StageId(1, 2), StageId(8, 4)])
def test_the_running_game_agrees(world: int, stage: int) -> None:
    found = measure_stage(LEVELS, world, stage)
    assert found.goal_line_x == STAGES[StageId(world, stage)].goal_line_x
    assert found.start_x == STAGES[StageId(world, stage)].start_x


@pytest.mark.slow
def test_measuring_all_again_changes_nothing() -> None:
    assert measure_stages.measure() == MEASURED
