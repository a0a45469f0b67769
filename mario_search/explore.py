"""A first clear from any snapshot: Go-Explore's first phase, in whole agent steps.

Ecoffet et al. 2021, "First return, then explore". An archive keeps a snapshot of every cell of the
game that was seen; a run returns to one by loading it and presses random buttons from there. A
cell that is reached again in fewer steps is overwritten. No reward, no map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastnes import BatchMachine
from fastnes.ram import BUTTON_A
from mario_demos import AGENT_FRAMES
from mario_game import StageId, has_cleared, is_home, read_facts
from mario_search.play import (
    Route,
    checked_start,
    move_odds,
    route_of,
)
from mario_search.ways import GOAL, SPEEDS, START, Ways, cell_keys

MACHINES = 64  # runs side by side
RUN_STEPS = 64  # of a run from a cell
MAX_HOLD_STEPS = 24  # of a direction
MAX_JUMP_STEPS = 8  # A reaches its full height in that time
NEWEST = 256  # cells that get half of all runs: where the archive grows, it goes on growing


class Explored(NamedTuple):
    """What exploring found: a clear, and what leads where."""

    route: Route
    ways: Ways


class RandomButtons:
    """Random play of n games: a direction, with or without B, and A, each held for a while."""

    def __init__(self, n: int, odds: dict[int, float], rng: np.random.Generator) -> None:
        self.rng = rng
        self.moves = np.array(list(odds), np.uint8)
        self.odds = np.array(list(odds.values())) / sum(odds.values())
        self.move = np.zeros(n, np.uint8)
        self.jump = np.zeros(n, np.uint8)
        self.move_steps = np.zeros(n, np.int64)  # still to go
        self.jump_steps = np.zeros(n, np.int64)

    def draw(self) -> np.ndarray:
        """Return the buttons of the next agent step, uint8[n]."""
        ended = np.flatnonzero(self.move_steps <= 0)
        self.move[ended] = self.rng.choice(self.moves, len(ended), p=self.odds)
        self.move_steps[ended] = self.rng.integers(1, MAX_HOLD_STEPS, len(ended))
        ended = np.flatnonzero(self.jump_steps <= 0)
        self.jump[ended] ^= BUTTON_A
        self.jump_steps[ended] = self.rng.integers(1, MAX_JUMP_STEPS + 1, len(ended))
        self.move_steps -= 1
        self.jump_steps -= 1
        return self.move | self.jump


class Archive:
    """The cells seen, each with its best snapshot, and how it was reached.

    How a cell was reached is a tree: a node is some buttons after its parent. Nodes never change,
    so a route stays whole when the cells along it are overwritten.
    """

    def __init__(self, start: np.ndarray) -> None:
        self.cells: dict[int, int] = {}  # key to index; the start has no key
        self.places = [START]
        self.states = [start]
        self.steps = [0]
        self.nodes = [0]
        self.chosen = [0]
        self.node_parents = [-1]
        self.node_buttons = [b""]

    def is_new(self, key: int, steps: int) -> bool:
        """Return whether the cell is unknown, or known from later only."""
        cell = self.cells.get(key)
        return cell is None or steps < self.steps[cell]

    def add(self, key: int, state: np.ndarray, steps: int, parent: int, buttons: bytes) -> int:
        """Keep a state, reached from a node by buttons, as its cell's; return its node."""
        node = len(self.node_parents)
        self.node_parents.append(parent)
        self.node_buttons.append(buttons)
        cell = self.cells.setdefault(key, len(self.states))
        if cell == len(self.states):
            self.places.append(key // SPEEDS)
            self.states.append(state)
            self.steps.append(steps)
            self.nodes.append(node)
            self.chosen.append(0)
        else:
            self.states[cell], self.steps[cell], self.nodes[cell] = state, steps, node
            self.chosen[cell] = 0
        return node

    def choose(self, rng: np.random.Generator, n: int) -> list[int]:
        """Return n cells to go on from: half of them among the newest, the rest seldom-chosen."""
        weights = 1 / (1 + np.array(self.chosen))
        older = weights[:-NEWEST].sum()
        weights[-NEWEST:] += older / min(NEWEST, len(weights))
        cells = rng.choice(len(weights), n, p=weights / weights.sum()).tolist()
        for cell in cells:
            self.chosen[cell] += 1
        return cells

    def route(self, node: int) -> bytes:
        """Return the buttons that lead from the start to a node."""
        parts = []
        while node >= 0:
            parts.append(self.node_buttons[node])
            node = self.node_parents[node]
        return b"".join(reversed(parts))


def explore(
    start: np.ndarray,
    stage: StageId,
    *,
    seed: int,
    is_over: Callable[[int, int], bool],
    pipes: bool = False,
    threads: int = 1,
) -> Explored | None:
    """Return a clear from a snapshot on, or None if the search was ended before there was one.

    Args:
        start: snapshot of the stage being played, uint8[STATE_SIZE].
        stage: whose goal counts.
        seed: of all that is random; the same seed finds the same clear, on any machine.
        is_over: called before every batch of 64 agent steps with the number of batches run and
            of cells known; True ends the search.
        pipes: press down and up too: pipes into bonus rooms, vines.
        threads: of the emulation.

    Raises:
        ValueError: start is no snapshot, or is on another stage.
    """
    rng = np.random.default_rng(seed)
    machines = BatchMachine(MACHINES, frames=AGENT_FRAMES, threads=threads)
    archive = Archive(checked_start(start, stage))
    random_buttons = RandomButtons(MACHINES, move_odds(stage, pipes), rng)
    ways = Ways()
    places = [0] * MACHINES
    nodes, steps, left = [0] * MACHINES, [0] * MACHINES, [0] * MACHINES
    since = [bytearray() for _ in range(MACHINES)]  # buttons after the node
    waiting: list[int] = []  # cells to go on from
    batches = 0
    while not is_over(batches, len(archive.states)):
        for i in range(MACHINES):
            if left[i] <= 0:
                waiting = waiting or archive.choose(rng, MACHINES // 2)
                cell = waiting.pop()
                machines.states[i] = archive.states[cell]
                nodes[i], steps[i], left[i] = archive.nodes[cell], archive.steps[cell], RUN_STEPS
                places[i] = archive.places[cell]
                since[i].clear()
        pressed = random_buttons.draw()
        machines.step(pressed, draw=False)
        batches += 1
        facts = read_facts(machines.ram_before)
        keys = cell_keys(machines.ram_before, facts).tolist()
        cleared = has_cleared(facts, *stage).tolist()
        goes_on = (~machines.terminated & is_home(facts, *stage)).tolist()
        for i, button in enumerate(pressed.tolist()):
            since[i].append(button)
            steps[i] += 1
            left[i] = left[i] - 1 if goes_on[i] else 0
            if cleared[i]:
                ways.add(GOAL, places[i])
                buttons = archive.route(nodes[i]) + bytes(since[i])
                return Explored(route_of(buttons, machines.frames_run[i]), ways)
            if not goes_on[i]:
                continue
            place = keys[i] // SPEEDS
            ways.add(place, places[i])
            places[i] = place
            if archive.is_new(keys[i], steps[i]):
                state = machines.snapshot(i)
                nodes[i] = archive.add(keys[i], state, steps[i], nodes[i], bytes(since[i]))
                since[i].clear()
    return None
