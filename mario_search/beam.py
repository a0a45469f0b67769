"""A beam of states in layers of one agent step: the nearest to the goal go on.

Of the states that are equally old, those stay that are nearest to the goal over the ways that
exploring has seen (mazes send Mario back: x says little), each change of buttons on the way
counting as so much farther off. So a clear is short, and has few presses that it does not need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from fastnes import BatchMachine
from fastnes.ram import BUTTON_A, MAZE_CORRECT, PLAYER_Y_SPEED
from mario_demos import AGENT_FRAMES
from mario_game import N_AREA_POINTERS, GameFacts, StageId, has_cleared, is_home, read_facts
from mario_search.explore import Explored
from mario_search.play import (
    COLUMN_PX,
    MAX_SPEED_PX,
    Moves,
    Route,
    checked_start,
    route_of,
    x_speed,
)
from mario_search.ways import COLUMNS, Distances, hidden_blocks, pack

FIRST_WIDTH, MAX_WIDTH = 64, 8192
CHILDREN = 3  # of each state: the same buttons, the same with A changed, random ones
FRAME_COLUMNS = MAX_SPEED_PX / COLUMN_PX  # what a running Mario covers in a frame
SPEED_WORTH = 0.01  # what 1/16 px a frame more is worth, in columns of lead (by hand)
# Of a change of buttons, in columns: routes are as short as at 0, with a fourth of the changes, and
# a narrow beam loses its way less often; at 0.35 some get longer.
CHANGE_PRICE = 0.2


class Beam(NamedTuple):
    """How wide, how long and with which buttons a beam searches."""

    moves: Moves
    width: int = FIRST_WIDTH
    """States kept of each layer."""
    most_frames: int = 1 << 20
    """That a clear may take."""
    change_price: float = CHANGE_PRICE
    """What each change of buttons counts, in columns of 16 px."""
    threads: int = 1
    """Of the emulation."""


def beam_keys(ram: np.ndarray, facts: GameFacts, pressed: np.ndarray) -> np.ndarray:
    """Return int64[n] keys; of equally old states with the same key one is enough."""
    return pack(
        [
            (facts.area_pointer, N_AREA_POINTERS),
            (facts.x_pos // 2, COLUMNS * COLUMN_PX // 2),
            (facts.y_pos // 2, 256),
            (x_speed(ram) // 4, 64),
            (ram[:, PLAYER_Y_SPEED].astype(np.int64), 256),
            (ram[:, MAZE_CORRECT].astype(np.int64), 16),
            (hidden_blocks(facts), 4),
            (pressed.astype(np.int64) & BUTTON_A, 2),
            (facts.player_state, 16),
        ]
    )


def beam_search(
    start: np.ndarray,
    stage: StageId,
    distances: Distances,
    beam: Beam,
    rng: np.random.Generator,
    is_over: Callable[[], bool] = lambda: False,
) -> Route | None:
    """Return a clear from a snapshot on, or None if the beam finds none.

    Args:
        start: snapshot of the stage being played, uint8[STATE_SIZE].
        stage: whose goal counts.
        distances: by which the best states of a layer are chosen.
        beam: its size, its buttons, and what their changes cost.
        rng: draws a third of all buttons, and breaks ties.
        is_over: called before every layer; True ends the search.

    Raises:
        ValueError: start is no snapshot, or is on another stage.
    """
    machines = BatchMachine(beam.width * CHILDREN, frames=AGENT_FRAMES, threads=beam.threads)
    states = checked_start(start, stage)[None]
    held = np.zeros(1, np.uint8)
    detours, changes = np.zeros(1), np.zeros(1)
    layers: list[Layer] = []
    for _ in range(-(-beam.most_frames // AGENT_FRAMES)):
        if is_over():
            return None
        n = CHILDREN * len(states)
        parents = np.repeat(np.arange(len(states)), CHILDREN)
        pressed = next_buttons(held, beam.moves, rng)
        machines.states[:n] = states[parents]
        machines.step(pressed, indices=np.arange(n), draw=False)
        ram = machines.ram_before[:n]
        facts = read_facts(ram)
        changes = changes[parents] + (pressed != held[parents])
        cost = beam.change_price * changes
        cleared = np.flatnonzero(has_cleared(facts, *stage))
        if len(cleared):
            cost += FRAME_COLUMNS * machines.frames_run[:n]
            i = cleared[cost[cleared].argmin()]
            buttons = bytes([*trace(layers, int(parents[i])), pressed[i]])
            found = route_of(buttons, machines.frames_run[i])
            return found if found.frames <= beam.most_frames else None
        distance, detours = distances.of(ram, facts, detours[parents])
        distance += cost - SPEED_WORTH * (np.abs(x_speed(ram)) + rng.random(n))
        alive = ~machines.terminated[:n] & is_home(facts, *stage) & np.isfinite(distance)
        ranked = np.argsort(distance)
        ranked = ranked[alive[ranked]]
        _, first = np.unique(beam_keys(ram, facts, pressed)[ranked], return_index=True)
        kept = ranked[np.sort(first)][: beam.width]
        if not len(kept):
            return None
        layers.append(Layer(pressed[kept], parents[kept]))
        states, held = machines.states[kept], pressed[kept]
        detours, changes = detours[kept], changes[kept]
    return None


class Layer(NamedTuple):
    """The states that a beam keeps after one agent step, by their rows."""

    pressed: np.ndarray  # uint8[n], the buttons that led to each
    parents: np.ndarray  # int64[n], rows of the layer before


def next_buttons(held: np.ndarray, moves: Moves, rng: np.random.Generator) -> np.ndarray:
    """Return uint8[CHILDREN * n] buttons to go on with, of uint8[n] that are held."""
    pressed = np.repeat(held, CHILDREN)
    pressed[1::CHILDREN] ^= BUTTON_A
    pressed[2::CHILDREN] = rng.choice(moves.buttons, len(held), p=moves.odds)
    lacking = np.flatnonzero(~np.isin(pressed, moves.buttons))
    if len(lacking):
        pressed[lacking] = rng.choice(moves.buttons, len(lacking), p=moves.odds)
    return pressed


def trace(layers: list[Layer], row: int) -> list[int]:
    """Return the buttons that led to a row of the last layer."""
    buttons = []
    for layer in reversed(layers):
        buttons.append(int(layer.pressed[row]))
        row = int(layer.parents[row])
    return buttons[::-1]


def shorten(
    start: np.ndarray,
    stage: StageId,
    explored: Explored,
    beam: Beam,
    *,
    seed: int,
    is_over: Callable[[], bool],
) -> Iterator[tuple[int, Route]]:
    """Yield the width of each beam and the best route before it, and in the end the shortest.

    Args:
        start: snapshot at which the clear begins, uint8[STATE_SIZE].
        stage: whose goal counts.
        explored: the clear to begin with.
        beam: the first one; where it finds nothing shorter, the next is twice as wide.
        seed: of all that is random.
        is_over: called before every layer; True ends the search.
    """
    rng = np.random.default_rng([seed, 1])
    route, distances = explored.route, Distances(explored.ways)
    width = beam.width
    while not is_over():
        yield width, route
        limited = beam._replace(width=width, most_frames=route.frames - 1)
        shorter = beam_search(start, stage, distances, limited, rng, is_over)
        if shorter is None:
            width = min(2 * width, MAX_WIDTH)
        else:
            route = shorter
    yield width, route
