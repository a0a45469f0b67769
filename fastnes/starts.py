"""The state in which each of the 32 stages starts, played from power-on once a process."""

import functools

import numpy as np

from fastnes.game import run_out_pre_level_timer
from fastnes.machine import Machine
from fastnes.ram import (
    AREA_NUMBER,
    BUTTON_START,
    CLOCK_DIGIT_COUNT,
    CLOCK_DIGITS,
    HALFWAY_PAGE,
    NO_BUTTON,
    PLAYER_SIZE,
    STAGE,
    STATUS,
    WORLD,
)

WORLDS = 8
STAGES = 4
# worlds with a pipe-entry area before their second stage, which takes an area number
WORLDS_WITH_ENTRY = (1, 2, 4, 7)

# Where the game goes on after a death beyond it, in pages of 256 px, for each world's four stages;
# 0: at the start. The table HalfwayPageNybbles of the game's public disassembly (SMBDIS.ASM).
HALFWAY_PAGES = (
    (5, 6, 4, 0),
    (6, 5, 7, 0),
    (6, 6, 4, 0),
    (6, 6, 4, 0),
    (6, 6, 4, 0),
    (6, 6, 6, 0),
    (6, 5, 7, 0),
    (0, 0, 0, 0),
)


def area_of(world: int, stage: int) -> int:
    """Return the game's area number, from 1, at which a stage begins.

    Raises:
        ValueError: no such stage.
    """
    if not (1 <= world <= WORLDS and 1 <= stage <= STAGES):
        raise ValueError(f"no stage {world}-{stage}: worlds are 1-{WORLDS}, stages 1-{STAGES}")
    return stage + 1 if world in WORLDS_WITH_ENTRY and stage >= 2 else stage


def _clock(ram: np.ndarray) -> int:
    digits = ram[CLOCK_DIGITS : CLOCK_DIGITS + CLOCK_DIGIT_COUNT]
    return int("".join(str(digit) for digit in digits))


@functools.cache
def _start(
    world: int, stage: int, status: int = 0, is_halfway: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Play from power-on to a stage's start; return (snapshot, screen)."""
    area = area_of(world, stage)
    machine = Machine()
    ram = machine.ram
    machine.step(BUTTON_START)
    machine.step(NO_BUTTON)
    while _clock(ram) == 0:
        machine.step(BUTTON_START, draw=False)
        ram[WORLD], ram[STAGE], ram[AREA_NUMBER] = world - 1, stage - 1, area - 1
        if status or is_halfway:  # else as gym-super-mario-bros, which does not touch them
            ram[STATUS], ram[PLAYER_SIZE] = status, not status
            ram[HALFWAY_PAGE] = HALFWAY_PAGES[world - 1][stage - 1] if is_halfway else 0
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


def has_halfway(world: int, stage: int) -> bool:
    """Return whether the game goes on within a stage after a death in its second half."""
    return HALFWAY_PAGES[world - 1][stage - 1] > 0


def start_snapshot(world: int, stage: int, status: int = 0, is_halfway: bool = False) -> np.ndarray:
    """Return the state at a stage's start, uint8[STATE_SIZE], read-only and made once a process.

    It is the state to which `SuperMarioBrosEnv(target=(world, stage))` resets; the game itself can
    also begin a stage with a larger Mario, or in its middle.

    Args:
        world: 1-8.
        stage: 1-4.
        status: 0 small, 1 tall, 2 throws fireballs: as `ram.STATUS`.
        is_halfway: begin where the game goes on after a death beyond `HALFWAY_PAGES`.

    Raises:
        ValueError: no such stage.
    """
    return _start(world, stage, status, is_halfway)[0]


def start_screen(world: int, stage: int, status: int = 0, is_halfway: bool = False) -> np.ndarray:
    """Return the screen of such a start as palette indices, uint8[240, 256], read-only."""
    return _start(world, stage, status, is_halfway)[1]
