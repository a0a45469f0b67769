"""What every search shares: the buttons it presses, the route it finds, how it knows the goal."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from fastnes.ram import (
    BUTTON_A,
    BUTTON_B,
    BUTTON_DOWN,
    BUTTON_LEFT,
    BUTTON_RIGHT,
    BUTTON_UP,
    NO_BUTTON,
    PLAYER_X_SPEED,
)
from fastnes.state import RAM_SIZE, check_snapshot
from mario_demos import AGENT_FRAMES
from mario_game import StageId, is_home, read_facts

# How often random play presses what, beside A.
ROAD = {
    BUTTON_RIGHT | BUTTON_B: 0.68,
    BUTTON_RIGHT: 0.08,
    BUTTON_LEFT | BUTTON_B: 0.1,
    BUTTON_LEFT: 0.02,
    NO_BUTTON: 0.06,
    BUTTON_B: 0.02,
}
PIPES = ROAD | {BUTTON_DOWN: 0.05, BUTTON_UP: 0.02}
STAGES_BEHIND_PIPES = {StageId(8, 4)}  # the only one that needs the down button
COLUMN_PX = 16
MAX_SPEED_PX = 3  # a frame, of a running Mario


class Route(NamedTuple):
    """A clear: one button byte an agent step, and the frames that it takes."""

    buttons: bytes
    frames: int

    @property
    def steps(self) -> int:
        """Agent steps, the last one perhaps cut short by the flag."""
        return len(self.buttons)


class Moves(NamedTuple):
    """What a beam may press, and how often it draws each."""

    buttons: np.ndarray
    """uint8[n], different ones."""
    odds: np.ndarray
    """float64[n], 1 in sum."""


def changes(buttons: bytes) -> int:
    """Return how often the buttons change from one agent step to the next."""
    return sum(a != b for a, b in itertools.pairwise(buttons))


def move_odds(stage: StageId, pipes: bool) -> dict[int, float]:
    """Return what is pressed on a stage and how often; down and up only if asked for or needed."""
    return PIPES if pipes or stage in STAGES_BEHIND_PIPES else ROAD


def all_moves(stage: StageId, pipes: bool = False) -> Moves:
    """Return all that random play presses on a stage, with A and without."""
    odds = move_odds(stage, pipes)
    buttons = np.array([move | jump for move in odds for jump in (NO_BUTTON, BUTTON_A)], np.uint8)
    return Moves(buttons, np.repeat(list(odds.values()), 2) / (2 * sum(odds.values())))


def moves_of(buttons: np.ndarray, stage: StageId, pipes: bool = False) -> Moves:
    """Return the moves of uint8[n] buttons, an action set's.

    What random play presses stands for the action nearest to it: left at full speed, say, for left.
    """
    odds = np.zeros(len(buttons))
    for pressed, odds_of_it in zip(*all_moves(stage, pipes), strict=True):
        bits = np.bitwise_count(buttons ^ pressed)
        nearest = bits == bits.min()
        odds[nearest] += odds_of_it / nearest.sum()
    return Moves(buttons, odds)


def x_speed(ram: np.ndarray) -> np.ndarray:
    """Return int64[n], 1/16 px a frame, of uint8[n, 2048] RAM."""
    return ram[:, PLAYER_X_SPEED].view(np.int8).astype(np.int64)


def checked_start(start: np.ndarray, stage: StageId) -> np.ndarray:
    """Return a snapshot in which the stage is being played, uint8[STATE_SIZE].

    Raises:
        ValueError: it is no snapshot, or is on another stage.
    """
    start = check_snapshot(start)
    facts = read_facts(start[None, :RAM_SIZE])
    if not is_home(facts, *stage).all():
        here = f"{facts.world[0]}-{facts.stage[0]}"
        raise ValueError(f"the snapshot is on {here}, not on {stage}")
    return start


def route_of(buttons: bytes, last_frames: int) -> Route:
    """Return the route whose last agent step took so many frames."""
    return Route(buttons, AGENT_FRAMES * (len(buttons) - 1) + int(last_frames))
