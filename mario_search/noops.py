"""Few clears that together serve all starts of the `noop` protocol.

An episode begins after 1 to 30 idle frames, and meets fire bars, lifts and hammers at another
moment each time; in some stages only the frame counter's lowest bit matters, so that all odd
starts are alike and all even ones. So a clear that a beam finds for one start is tried from all
others that have none, and the next is searched from the first start that is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from fastnes import BatchMachine, start_snapshot
from mario_demos import AGENT_FRAMES
from mario_game import StageId, has_cleared, read_facts
from mario_search.beam import FIRST_WIDTH, Beam, beam_search
from mario_search.explore import Explored
from mario_search.play import Moves, Route
from mario_search.ways import Distances

MAX_WIDTH = 1024  # of a beam that only has to arrive
HELD_LONGER = 1.02  # what clears later than planned holds its last buttons for so long at most


class Served(NamedTuple):
    """A clear, and the starts that it serves."""

    searched_from: int
    """The start that a beam searched it from."""
    plan: bytes
    """A button byte an agent step; empty: the beams found no clear from that start."""
    clears: dict[int, bytes]
    """Of each start that it serves: the plan, cut or held on until the goal."""


def noop_starts(stage: StageId, most: int) -> dict[int, np.ndarray]:
    """Return the snapshot after each number of idle frames, 0 to most, uint8[STATE_SIZE] each."""
    machine = BatchMachine(1, frames=1, threads=1)
    machine.restore(0, start_snapshot(*stage))
    starts = {0: machine.snapshot(0)}
    for noops in range(1, most + 1):
        machine.step(np.zeros(1, np.uint8), draw=False)
        starts[noops] = machine.snapshot(0)
    return starts


def serve(plan: bytes, starts: Mapping[int, np.ndarray], stage: StageId) -> dict[int, bytes]:
    """Return what of a plan clears each start from which it clears, by start.

    Where it arrives sooner it is cut, where it arrives later its last buttons are held.
    """
    held = plan + plan[-1:] * int(len(plan) * (HELD_LONGER - 1))
    numbers = list(starts)
    machines = BatchMachine(max(1, len(starts)), frames=AGENT_FRAMES, threads=1)
    for row, number in enumerate(numbers):
        machines.restore(row, starts[number])
    clears = {}
    playing = np.arange(len(starts))
    for step, pressed in enumerate(held, 1):
        if not len(playing):
            break
        machines.step(np.full(len(playing), pressed, np.uint8), indices=playing, draw=False)
        facts = read_facts(machines.ram_before[playing])
        for row in playing[has_cleared(facts, *stage)]:
            clears[numbers[row]] = held[:step]
        playing = playing[~machines.terminated[playing]]
    return clears


def serve_all(
    starts: Mapping[int, np.ndarray],
    stage: StageId,
    explored: Explored,
    moves: Iterable[Moves],
    *,
    seed: int,
) -> Iterator[Served]:
    """Yield clears until all starts have one, each with the starts that it alone serves.

    Args:
        starts: snapshot of each start, uint8[STATE_SIZE].
        stage: whose goal counts.
        explored: the ways of any start of the stage, which lead there as well.
        moves: what to press; the second only where the first did not do, and so on.
        seed: of the beams; each start's is its own, so that a stop changes nothing.
    """
    left = dict(starts)
    preferred = list(moves)
    distances = Distances(explored.ways)
    for number, start in dict(starts).items():
        if number not in left:
            continue
        rng = np.random.default_rng([seed, 2, number])
        found = search_wider(start, stage, distances, explored.route.frames, preferred, rng)
        plan = found.buttons if found else b""
        clears = serve(plan, left, stage) if plan else {}
        for served in {number, *clears}:
            del left[served]
        yield Served(number, plan, clears)


def search_wider(
    start: np.ndarray,
    stage: StageId,
    distances: Distances,
    most_frames: int,
    preferred: list[Moves],
    rng: np.random.Generator,
) -> Route | None:
    """Return a clear by the narrowest beam that finds one; what it pressed is preferred next."""
    width = FIRST_WIDTH
    while width <= MAX_WIDTH:
        for i, moves in enumerate(preferred):
            beam = Beam(moves, width, most_frames)
            route = beam_search(start, stage, distances, beam, rng)
            if route is not None:
                preferred.insert(0, preferred.pop(i))
                return route
        width *= 2
    return None
