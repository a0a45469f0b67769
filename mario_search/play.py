"""What every search shares: the buttons it presses, the route it finds, how it knows the goal."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastnes.state import RAM_SIZE, check_snapshot
from mario_demos import AGENT_FRAMES
from mario_runtime import BUTTON_BITS, GameFacts, read_facts

Level = tuple[int, int]  # world, stage

A, B = BUTTON_BITS["A"], BUTTON_BITS["B"]
RIGHT, LEFT, DOWN, UP = (BUTTON_BITS[name] for name in ("right", "left", "down", "up"))

RAM_X_SPEED = 0x57  # signed, 1/16 px a frame

# How often random play presses what, beside A.
ROAD = {RIGHT | B: 0.68, RIGHT: 0.08, LEFT | B: 0.1, LEFT: 0.02, 0: 0.06, B: 0.02}
PIPES = ROAD | {DOWN: 0.05, UP: 0.02}
STAGES_BEHIND_PIPES = {(8, 4)}  # the only one that needs the down button
COLUMN_PX = 16


class Route(NamedTuple):
    """A clear: one button byte an agent step, and the frames that it takes."""

    buttons: bytes
    frames: int

    @property
    def steps(self) -> int:
        """Agent steps, the last one perhaps cut short by the flag."""
        return len(self.buttons)

    @property
    def changes(self) -> int:
        """How often the buttons change from one agent step to the next."""
        return sum(a != b for a, b in zip(self.buttons, self.buttons[1:], strict=False))


class Moves(NamedTuple):
    """What a beam may press, and how often it draws each."""

    buttons: np.ndarray
    """uint8[n], different ones."""
    odds: np.ndarray
    """float64[n], 1 in sum."""


def move_odds(stage: Level, pipes: bool) -> dict[int, float]:
    """Return what is pressed on a stage and how often; down and up only if asked for or needed."""
    return PIPES if pipes or stage in STAGES_BEHIND_PIPES else ROAD


def all_moves(stage: Level, pipes: bool = False) -> Moves:
    """Return all that random play presses on a stage, with A and without."""
    odds = move_odds(stage, pipes)
    buttons = np.array([move | jump for move in odds for jump in (0, A)], np.uint8)
    return Moves(buttons, np.repeat(list(odds.values()), 2) / (2 * sum(odds.values())))


def moves_of(buttons: np.ndarray) -> Moves:
    """Return the moves of uint8[n] buttons, an action set's: drawn as random play would.

    What only running has (left, say) stands for running, too; what it lacks is seldom drawn.
    """
    seldom = min(ROAD.values())
    weights = np.full(len(buttons), seldom)
    for move, odds in PIPES.items():
        fits = (buttons & ~np.uint8(A)) == move
        if not fits.any():
            fits = (buttons & ~np.uint8(A | B)) == move & ~B
        weights[fits] += odds / max(1, fits.sum())
    return Moves(buttons, weights / weights.sum())


def at_home(facts: GameFacts, stage: Level) -> np.ndarray:
    """Return bool[n], whether Mario is on this stage: a warp zone leads elsewhere."""
    return (facts.world == stage[0]) & (facts.stage == stage[1])


def has_cleared(facts: GameFacts, stage: Level) -> np.ndarray:
    """Return bool[n], whether Mario is at this stage's flag or axe."""
    return facts.flag_get & ~facts.dead & at_home(facts, stage)


def x_speed(ram: np.ndarray) -> np.ndarray:
    """Return int64[n], 1/16 px a frame, of uint8[n, 2048] RAM."""
    return ram[:, RAM_X_SPEED].view(np.int8).astype(np.int64)


def checked_start(start: np.ndarray, stage: Level) -> np.ndarray:
    """Return a snapshot in which the stage is being played, uint8[STATE_SIZE].

    Raises:
        ValueError: it is no snapshot, or is on another stage.
    """
    start = check_snapshot(start)
    facts = read_facts(start[None, :RAM_SIZE])
    if not at_home(facts, stage).all():
        here = f"{facts.world[0]}-{facts.stage[0]}"
        raise ValueError(f"the snapshot is on {here}, not on {stage[0]}-{stage[1]}")
    return start


def route_of(buttons: bytes, last_frames: int) -> Route:
    """Return the route whose last agent step took so many frames."""
    return Route(buttons, AGENT_FRAMES * (len(buttons) - 1) + int(last_frames))
