"""What gym-super-mario-bros does to the running game, as reads and writes of RAM.

Its environment is the game plus these interventions, so they are part of what a step means:
`SuperMarioBrosEnv._did_step` and `_skip_start_screen` of version 9.1.0, for one stage at a time.
All functions take a state row, whose first 2,048 bytes are RAM.
"""

import functools

import numpy as np

from fastnes.compiled import compiled
from fastnes.ram import (
    AREA_NUMBER,
    BUTTON_START,
    CHANGE_AREA_TIMER,
    CLOCK_DIGIT_COUNT,
    CLOCK_DIGITS,
    ENEMY_BOWSER,
    ENEMY_FLAG,
    ENEMY_SLOTS_OF_GOAL,
    ENEMY_TYPE,
    FLOAT_ON_POLE,
    GAME_MODE,
    GAME_MODE_WORLD_OVER,
    NO_BUTTON,
    PLAYER_DEAD,
    PLAYER_DYING,
    PLAYER_FLOAT_STATE,
    PLAYER_STATE,
    PLAYER_Y_PAGE,
    PRE_LEVEL_TIMER,
    STAGE,
    WORLD,
)

WORLDS = 8
STAGES = 4
# worlds with a pipe-entry area before their second stage, which takes an area number
WORLDS_WITH_ENTRY = (1, 2, 4, 7)


@compiled
def is_world_over(row):
    """Return whether Bowser or his axe ended the world."""
    return row[GAME_MODE] == GAME_MODE_WORLD_OVER


@compiled
def is_stage_over(row):
    """Return whether Mario is sliding down the pole (or standing on the axe's bridge)."""
    for slot in range(ENEMY_SLOTS_OF_GOAL):
        if row[ENEMY_TYPE + slot] == ENEMY_BOWSER or row[ENEMY_TYPE + slot] == ENEMY_FLAG:
            return row[PLAYER_FLOAT_STATE] == FLOAT_ON_POLE
    return False


@compiled
def is_terminated(row):
    """Return whether Mario is dying, dead, below the screen, or has finished the stage."""
    return (
        row[PLAYER_STATE] == PLAYER_DYING
        or row[PLAYER_Y_PAGE] > 1
        or row[PLAYER_STATE] == PLAYER_DEAD
        or is_world_over(row)
        or is_stage_over(row)
    )


@compiled
def skip_change_area(row):
    """Run out the timer of a change of area (a pipe, the flag)."""
    if 1 < row[CHANGE_AREA_TIMER] < 255:
        row[CHANGE_AREA_TIMER] = 1


@compiled
def is_occupied(row):
    """Return whether the game is busy with Mario, or with the end of a world.

    Player states 0-5 and 7: off screen, on a vine, in a pipe, walking by himself, entering.
    """
    state = row[PLAYER_STATE]
    return state <= 5 or state == 7 or is_world_over(row)


@compiled
def run_out_pre_level_timer(row):
    """End the black screen that shows world and lives."""
    row[PRE_LEVEL_TIMER] = 0


def area_of(world: int, stage: int) -> int:
    """Return the game's area number, from 1, at which a stage begins.

    Raises:
        ValueError: no such stage.
    """
    if not (1 <= world <= WORLDS and 1 <= stage <= STAGES):
        raise ValueError(f"no stage {world}-{stage}: worlds are 1-{WORLDS}, stages 1-{STAGES}")
    return stage + 1 if world in WORLDS_WITH_ENTRY and stage >= 2 else stage


def _clock(ram: np.ndarray) -> int:
    hundreds, tens, ones = (
        int(digit) for digit in ram[CLOCK_DIGITS : CLOCK_DIGITS + CLOCK_DIGIT_COUNT]
    )
    return 100 * hundreds + 10 * tens + ones


@functools.cache
def _start(world: int, stage: int) -> tuple[np.ndarray, np.ndarray]:
    """Play from power-on to a stage's start; return (snapshot, screen)."""
    from fastnes.machine import Machine

    area = area_of(world, stage)
    machine = Machine()
    ram = machine.ram
    machine.step(BUTTON_START)
    machine.step(NO_BUTTON)
    while _clock(ram) == 0:
        machine.step(BUTTON_START, draw=False)
        ram[WORLD], ram[STAGE], ram[AREA_NUMBER] = world - 1, stage - 1, area - 1
        machine.step(NO_BUTTON, draw=False)
        run_out_pre_level_timer(ram)
    last = _clock(ram)
    while _clock(ram) >= last:
        last = _clock(ram)
        machine.step(BUTTON_START, draw=False)
        machine.step(NO_BUTTON)
    snapshot, screen = machine.snapshot(), machine.screen.copy()
    snapshot.setflags(write=False)
    screen.setflags(write=False)
    return snapshot, screen


def start_snapshot(world: int, stage: int) -> np.ndarray:
    """Return the state at a stage's start, uint8[STATE_SIZE], read-only and made once a process.

    It is the state to which `SuperMarioBrosEnv(target=(world, stage))` resets.

    Raises:
        ValueError: no such stage.
    """
    return _start(world, stage)[0]


def start_screen(world: int, stage: int) -> np.ndarray:
    """Return the screen at a stage's start as palette indices, uint8[240, 256], read-only."""
    return _start(world, stage)[1]
