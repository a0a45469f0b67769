"""Search a clear of a stage by playing from snapshots, shorten it, keep it as a demo.

    python scripts/search_route.py --world 1 --stage 1 --shorten 60
    python scripts/search_route.py --stages all
    python scripts/search_route.py --table            # docs/routes.md from docs/results/routes.json

Two searches, both in whole agent steps (4 frames), so that an agent could press the same:

1. `explore` finds a clear: Go-Explore's first phase (Ecoffet et al. 2021, "First return, then
   explore"). An archive keeps a snapshot of every cell of the game that was seen; a run returns to
   one by loading it and presses random buttons from there. A cell that is reached again in fewer
   steps is overwritten. No reward, no map.
2. `shorten` makes it fast: beam search in layers of one agent step. Of the states that are equally
   old, those stay that are nearest to the goal over the ways that exploring has seen (mazes send
   Mario back: x says little); from beam to beam the route gets shorter, or the beam doubles,
   until the time is up.

Each clear is replayed in both emulators before demos/W-S.npz is written.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from check_parity import parse_stages

from fastnes import BatchMachine, start_snapshot
from mario_cli import exit_code
from mario_demos import AGENT_FRAMES, Demo, load_demo, record, replay, save_demo
from mario_runs import provenance, write_json
from mario_runtime import (
    BUTTON_BITS,
    N_AREA_POINTERS,
    STAGES,
    EmulatorName,
    GameFacts,
    UsageError,
    read_facts,
)

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "docs" / "results" / "routes.json"
TABLE = REPOSITORY / "docs" / "routes.md"
PRETRAINED = REPOSITORY / "pretrained"

# RAM addresses that only a search looks at; the rest is in mario_runtime.
RAM_X_SPEED = 0x57  # signed, 1/16 px a frame
RAM_Y_SPEED = 0x9F  # signed, px a frame
RAM_X_FRACTION = 0x0400  # 1/256 px
RAM_MAZE_CORRECT, RAM_MAZE_PASSED = 0x06D9, 0x06DA  # what the mazes with several checks count

A, B = BUTTON_BITS["A"], BUTTON_BITS["B"]
RIGHT, LEFT, DOWN, UP = (BUTTON_BITS[name] for name in ("right", "left", "down", "up"))

# What a random run presses, and how often; A comes and goes by itself.
ROAD = {RIGHT | B: 0.68, RIGHT: 0.08, LEFT | B: 0.1, LEFT: 0.02, 0: 0.06, B: 0.02}
PIPES = ROAD | {DOWN: 0.05, UP: 0.02}
STAGES_BEHIND_PIPES = {(8, 4)}  # the only one that needs the down button
MAX_HOLD_STEPS = 24  # of a direction
MAX_JUMP_STEPS = 8  # A reaches its full height in that time
RUN_STEPS = 64  # of a run from a cell
MACHINES = 64  # runs side by side
NEWEST = 256  # cells that get half of all runs: where the archive grows, it goes on growing

FIRST_WIDTH, MAX_WIDTH = 64, 8192  # states of a beam
CHILDREN = 3  # of each state: the same buttons, the same with A changed, random ones
MAX_SPEED_PX = 3  # a frame, of a running Mario (FACTS.md)
COLUMN_PX = 16
COLUMNS = 512  # of an area; the longest stage has 384
DETOUR_WEIGHT = 0.75  # over 0.5, or a dead end is left too late; 1 would trust coarse places
SPEED_WORTH = 0.01  # what 1/16 px a frame more is worth, in columns of lead (by hand)

TABLE_INTRODUCTION = """# Routes

A clear of each stage, searched without a player, a map or a reward by `scripts/search_route.py`:
random play from snapshots until one run reaches the flag or the axe (Go-Explore's archive), then a
beam of states, ranked by how far the goal is over the ways that the random play has seen. Each is
kept as `demos/W-S.npz`, buttons only, held for whole agent steps of 4 frames;
`pytest -m slow tests/test_demos.py` replays all of them in both emulators.

- floor: agent steps at top speed (12 px a step) from the start to the goal line, where one area
  holds both; nobody starts at top speed.
- frames: as the environment counts them; one in which the game is busy (a pipe) counts as one.
- first: agent steps of the first clear found; found after so many seconds of processor time (one
  thread), and by the clock, which counts what else the machine did.
- the search again: `python scripts/search_route.py` with the flags of the line. The first clear is
  the same on any machine; what shortening finds depends on the time that it gets.

| stage | agent steps | floor | frames | first | found, CPU s | by the clock | shortened | flags |
|---|---|---|---|---|---|---|---|---|
"""

Level = tuple[int, int]  # world, stage


class Route(NamedTuple):
    """A clear: one button byte an agent step, and the frames that it takes."""

    buttons: bytes
    frames: int

    @property
    def steps(self) -> int:
        """Agent steps, the last one perhaps cut short by the flag."""
        return len(self.buttons)


class Explored(NamedTuple):
    """What exploring found: a clear, and what leads where."""

    route: Route
    ways: Ways


def move_odds(level: Level, pipes: bool) -> dict[int, float]:
    """Return what is pressed on a stage and how often; down and up only if asked for or needed."""
    return PIPES if pipes or level in STAGES_BEHIND_PIPES else ROAD


def at_home(facts: GameFacts, level: Level) -> np.ndarray:
    """Return bool[n], whether Mario is on this stage: a warp zone leads elsewhere."""
    return (facts.world == level[0]) & (facts.stage == level[1])


def has_cleared(facts: GameFacts, level: Level) -> np.ndarray:
    """Return bool[n], whether Mario is at this stage's flag or axe."""
    return facts.flag_get & ~facts.dead & at_home(facts, level)


def x_speed(ram: np.ndarray) -> np.ndarray:
    """Return int64[n], 1/16 px a frame, of uint8[n, 2048] RAM."""
    return ram[:, RAM_X_SPEED].view(np.int8).astype(np.int64)


def pack(parts: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
    """Return int64[n] keys of several numbers, each with its size; over-large ones wrap."""
    key = np.zeros(len(parts[0][0]), np.int64)
    for values, size in parts:
        key = key * size + values % size
    return key


# --------------------------------------------------------------------------------------------
# Exploring
# --------------------------------------------------------------------------------------------


def hidden_blocks(facts: GameFacts) -> np.ndarray:
    """Return how many hidden blocks of 8-4 were hit, int64[n]: its second pipe is above one.

    The game does not note that it was hit, but it pays a coin, and there are no others in 8-4.
    """
    return np.where(at_home(facts, (8, 4)), facts.coins, 0)


def place_keys(ram: np.ndarray, facts: GameFacts) -> np.ndarray:
    """Return where each game is, int64[n]: column, height, and what a maze counts."""
    return pack(
        [
            (facts.area_pointer, N_AREA_POINTERS),
            (facts.x_pos // COLUMN_PX, COLUMNS),
            (facts.y_pos // 24, 32),
            (ram[:, RAM_MAZE_CORRECT].astype(np.int64), 16),
            (ram[:, RAM_MAZE_PASSED].astype(np.int64), 16),
            (hidden_blocks(facts), 4),
            (facts.player_state, 16),
        ]
    )


PLACES_PER_COLUMN = 32 * 16 * 16 * 4 * 16  # as packed above
SPEEDS = 8


def cell_keys(ram: np.ndarray, facts: GameFacts) -> np.ndarray:
    """Return the cell of each game, int64[n]: what tells apart states worth returning to."""
    return pack([(place_keys(ram, facts), 1 << 60), (x_speed(ram) // 16, SPEEDS)])


START, GOAL = -1, -2  # places that are not in the game's


class Ways:
    """Which places lead to which, as seen in play."""

    def __init__(self) -> None:
        self.came_from: dict[int, set[int]] = {}

    def add(self, place: int, came_from: int) -> None:
        """Add what one agent step led to."""
        self.came_from.setdefault(place, set()).add(came_from)

    def steps_to_goal(self) -> dict[int, int]:
        """Return the fewest agent steps from each place from which the goal was reached."""
        steps = {GOAL: 0}
        layer, depth = [GOAL], 0
        while layer:
            depth += 1
            reached = {p for place in layer for p in self.came_from.get(place, ())}
            layer = [place for place in reached if place not in steps]
            steps |= dict.fromkeys(layer, depth)
        del steps[GOAL]
        return steps


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
        self.jump[ended] ^= A
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
    level: Level,
    *,
    seed: int,
    is_over: Callable[[int, int], bool],
    pipes: bool = False,
    threads: int = 1,
) -> Explored | None:
    """Return a clear of a stage, or None if the search was ended before there was one.

    Args:
        level: world and stage.
        seed: of all that is random; the same seed finds the same clear, on any machine.
        is_over: called before every batch of 64 agent steps with the number of batches run and
            of cells known; True ends the search.
        pipes: press down and up too: pipes into bonus rooms, vines.
        threads: of the emulation.
    """
    rng = np.random.default_rng(seed)
    machines = BatchMachine(MACHINES, frames=AGENT_FRAMES, threads=threads)
    archive = Archive(start_snapshot(*level))
    random_buttons = RandomButtons(MACHINES, move_odds(level, pipes), rng)
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
        cleared = has_cleared(facts, level).tolist()
        goes_on = (~machines.terminated & at_home(facts, level)).tolist()
        for i, button in enumerate(pressed.tolist()):
            since[i].append(button)
            steps[i] += 1
            left[i] = left[i] - 1 if goes_on[i] else 0
            if cleared[i]:
                ways.add(GOAL, places[i])
                buttons = archive.route(nodes[i]) + bytes(since[i])
                return Explored(Route(buttons, route_frames(buttons, machines.frames_run[i])), ways)
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


def route_frames(buttons: bytes, last_frames: int) -> int:
    """Return the frames of a route whose last agent step took so many."""
    return AGENT_FRAMES * (len(buttons) - 1) + int(last_frames)


# --------------------------------------------------------------------------------------------
# Shortening
# --------------------------------------------------------------------------------------------


class Distances:
    """How far from the goal a game is, by the ways seen: what a beam keeps its best states by.

    A column is 16 px of an area. Places that were not seen count as near as the nearest of their
    column, and what their parent was farther than that: its detour. So a dead end, or the wrong
    fork of a maze, looks bad long before it ends.
    """

    def __init__(self, ways: Ways) -> None:
        steps = ways.steps_to_goal()
        self.places = np.array(sorted(steps), np.int64)
        distance = np.array([steps[place] for place in self.places.tolist()], np.float64)
        columns = self.places // PLACES_PER_COLUMN
        self.nearest = np.full(N_AREA_POINTERS * COLUMNS, np.inf)
        np.minimum.at(self.nearest, columns, distance)
        self.detours = distance - self.nearest[columns]
        self.goal_is_right = np.append(self.nearest[1:], np.inf) <= np.roll(self.nearest, 1)

    def of(
        self, ram: np.ndarray, facts: GameFacts, parents_detours: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the distances and the detours of n games, float64[n] columns.

        The distance is infinite in a column that never led to the goal.
        """
        places = place_keys(ram, facts)
        at = np.minimum(np.searchsorted(self.places, places), len(self.places) - 1)
        detours = np.where(self.places[at] == places, self.detours[at], parents_detours)
        columns = places // PLACES_PER_COLUMN
        part = (facts.x_pos % COLUMN_PX + ram[:, RAM_X_FRACTION] / 256) / COLUMN_PX
        left = np.where(self.goal_is_right[columns], 1 - part, part)
        return self.nearest[columns] + DETOUR_WEIGHT * detours + left, detours


def beam_keys(ram: np.ndarray, facts: GameFacts, pressed: np.ndarray) -> np.ndarray:
    """Return int64[n] keys; of equally old states with the same key one is enough."""
    return pack(
        [
            (facts.area_pointer, N_AREA_POINTERS),
            (facts.x_pos // 2, COLUMNS * COLUMN_PX // 2),
            (facts.y_pos // 2, 256),
            (x_speed(ram) // 4, 64),
            (ram[:, RAM_Y_SPEED].astype(np.int64), 256),
            (ram[:, RAM_MAZE_CORRECT].astype(np.int64), 16),
            (hidden_blocks(facts), 4),
            (pressed.astype(np.int64) & A, 2),
            (facts.player_state, 16),
        ]
    )


def beam_search(
    level: Level,
    start: np.ndarray,
    most_frames: int,
    distances: Distances,
    width: int,
    rng: np.random.Generator,
    *,
    is_over: Callable[[], bool],
    pipes: bool = False,
    threads: int = 1,
) -> Route | None:
    """Return a clear in at most so many frames, or None if the beam finds none.

    Args:
        level: world and stage.
        start: snapshot to begin at, uint8[STATE_SIZE].
        most_frames: that a clear may take.
        distances: by which the best states of a layer are chosen.
        width: states kept of each layer.
        rng: draws a third of all buttons, and breaks ties.
        is_over: called before every layer; True ends the search.
        pipes: press down and up too.
        threads: of the emulation.
    """
    odds = move_odds(level, pipes)
    moves = np.array([move | jump for move in odds for jump in (0, A)], np.uint8)
    weights = np.repeat(list(odds.values()), 2) / (2 * sum(odds.values()))
    machines = BatchMachine(width * CHILDREN, frames=AGENT_FRAMES, threads=threads)
    states = start[None]
    held = np.zeros(1, np.uint8)
    detours = np.zeros(1)
    layers: list[
        tuple[np.ndarray, np.ndarray]
    ] = []  # buttons, and parents' rows in the layer before
    for _ in range(-(-most_frames // AGENT_FRAMES)):
        if is_over():
            return None
        n = CHILDREN * len(states)
        parents = np.repeat(np.arange(len(states)), CHILDREN)
        pressed = held[parents]
        pressed[1::CHILDREN] ^= A
        pressed[2::CHILDREN] = rng.choice(moves, len(states), p=weights)
        machines.states[:n] = states[parents]
        machines.step(pressed, indices=np.arange(n), draw=False)
        ram = machines.ram_before[:n]
        facts = read_facts(ram)
        cleared = np.flatnonzero(has_cleared(facts, level))
        if len(cleared):
            i = cleared[machines.frames_run[cleared].argmin()]
            buttons = bytes([*trace(layers, int(parents[i])), pressed[i]])
            found = Route(buttons, route_frames(buttons, machines.frames_run[i]))
            return found if found.frames <= most_frames else None
        distance, detours = distances.of(ram, facts, detours[parents])
        distance -= SPEED_WORTH * (np.abs(x_speed(ram)) + rng.random(n))
        alive = ~machines.terminated[:n] & at_home(facts, level) & np.isfinite(distance)
        ranked = np.argsort(distance)
        ranked = ranked[alive[ranked]]
        _, first = np.unique(beam_keys(ram, facts, pressed)[ranked], return_index=True)
        kept = ranked[np.sort(first)][:width]
        if not len(kept):
            return None
        layers.append((pressed[kept], parents[kept]))
        states, held, detours = machines.states[kept], pressed[kept], detours[kept]
    return None


def trace(layers: list[tuple[np.ndarray, np.ndarray]], row: int) -> list[int]:
    """Return the buttons that led to a row of the last layer."""
    buttons = []
    for pressed, parents in reversed(layers):
        buttons.append(int(pressed[row]))
        row = int(parents[row])
    return buttons[::-1]


def shorten(
    level: Level,
    explored: Explored,
    *,
    seed: int,
    is_over: Callable[[], bool],
    on_beam: Callable[[int, Route], None],
    pipes: bool = False,
    threads: int = 1,
) -> Route:
    """Return the shortest clear that beams of growing width find until the time is up.

    Args:
        level: world and stage.
        explored: the clear to begin with.
        seed: of all that is random.
        is_over: called before every layer; True ends the search.
        on_beam: called before every beam with its width and the best route.
        pipes: press down and up too.
        threads: of the emulation.
    """
    rng = np.random.default_rng([seed, 1])
    route, distances = explored.route, Distances(explored.ways)
    start, width = start_snapshot(*level), FIRST_WIDTH
    while not is_over():
        on_beam(width, route)
        shorter = beam_search(
            *(level, start, route.frames - 1, distances, width, rng),
            is_over=is_over,
            pipes=pipes,
            threads=threads,
        )
        if shorter is None:
            width = min(2 * width, MAX_WIDTH)
        else:
            route = shorter
    return route


# --------------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SearchFlags:
    """Which stages, how long, where to."""

    world: int | None = None
    """World, 1-8; with --stage."""
    stage: int | None = None
    """Stage within the world, 1-4."""
    stages: str | None = None
    """all, or several such as 1-1,8-4; instead of --world and --stage."""
    seconds: float = 300.0
    """The most to spend on finding a clear of each stage."""
    shorten: float = 60.0
    """Then to spend on making it shorter. 0: keep the first clear."""
    seed: int = 0
    """Of everything random."""
    pipes: bool = False
    """Press down and up too, for shorter ways through bonus rooms. Always so in 8-4."""
    threads: int = min(2, os.cpu_count() or 1)
    """Threads of the emulation."""
    output: Path = Path("demos")
    """Folder of the demos, W-S.npz each. A demo there that is as short or shorter is kept."""
    results: Path | None = None
    """JSON file to add the figures to, such as docs/results/routes.json."""
    table: bool = False
    """Search nothing; write docs/routes.md from docs/results/routes.json."""


def wanted_levels(flags: SearchFlags) -> list[Level]:
    """Return the stages that the flags name.

    Raises:
        UsageError: none, or one that does not exist.
    """
    if flags.stages is None:
        if flags.world is None or flags.stage is None:
            raise UsageError("name a stage: --world W --stage S, or --stages all")
        text = f"{flags.world}-{flags.stage}"
    else:
        text = flags.stages
    try:
        return parse_stages(text)
    except ValueError as error:
        raise UsageError(f"stages {text!r}: {error}") from error


class Found(NamedTuple):
    """What the search of one stage came to."""

    demo: Demo
    figures: dict[str, Any]
    """What it cost, for routes.json."""


def search(flags: SearchFlags, level: Level, progress: Progress) -> Found | None:
    """Search one stage, showing how it goes; None if there was no clear in time."""
    name = f"{level[0]}-{level[1]}"
    task = progress.add_task(name)
    options: dict[str, Any] = {"seed": flags.seed, "pipes": flags.pipes, "threads": flags.threads}
    began = Clock()

    def explored_enough(batches: int, cells: int) -> bool:
        if batches % 16 == 0:
            what = f"{name} exploring: {MACHINES * batches} agent steps, {cells} cells"
            progress.update(task, description=what)
        return began.wall_s() > flags.seconds

    first = explore(level, is_over=explored_enough, **options)
    if first is None:
        progress.remove_task(task)
        return None
    found = Clock()

    def show_beam(width: int, route: Route) -> None:
        what = f"{name} shortening: {route.steps} agent steps, beam of {width}"
        progress.update(task, description=what)

    def shortened_enough() -> bool:
        return found.wall_s() >= flags.shorten

    route = shorten(level, first, is_over=shortened_enough, on_beam=show_beam, **options)
    shortened = Clock()
    progress.remove_task(task)
    pressed = np.repeat(np.frombuffer(route.buttons, np.uint8), AGENT_FRAMES)
    demo = record(*level, pressed, source="search", seed=flags.seed)
    options_given = f"--seed {flags.seed} --shorten {flags.shorten:g} --threads {flags.threads}"
    figures = {
        "agent_steps": demo.agent_steps,
        "frames": demo.frames,
        "first_agent_steps": first.route.steps,
        "explore_wall_s": round(found.began_s - began.began_s, 1),
        "explore_cpu_s": round(found.began_cpu_s - began.began_cpu_s, 1),
        "shorten_wall_s": round(shortened.began_s - found.began_s, 1),
        "shorten_cpu_s": round(shortened.began_cpu_s - found.began_cpu_s, 1),
        "search": f"--stages {name} {options_given}{' --pipes' * flags.pipes}",
    }
    return Found(demo, figures)


class Clock:
    """When something began, by the wall and by this process's share of the processor."""

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.began_cpu_s = time.process_time()

    def wall_s(self) -> float:
        """Return the seconds since then."""
        return time.monotonic() - self.began_s


def check(demo: Demo) -> None:
    """Raise RuntimeError unless a demo ends at the goal in both emulators."""
    emulators: tuple[EmulatorName, ...] = ("fast", "nes-py")
    for emulator in emulators:
        played = replay(demo, emulator)
        if played.parted_at is not None or not played.cleared:
            raise RuntimeError(
                f"the clear of {demo.world}-{demo.stage} does not replay on {emulator}: {played}"
            )


def demo_path(flags: SearchFlags, level: Level) -> Path:
    """Return where a stage's demo is kept."""
    return flags.output / f"{level[0]}-{level[1]}{'-pipes' * flags.pipes}.npz"


def keep(flags: SearchFlags, demo: Demo, figures: dict[str, Any]) -> None:
    """Check and write a demo, and its figures if a file for them was named."""
    check(demo)
    path = demo_path(flags, (demo.world, demo.stage))
    save_demo(path, demo)
    if flags.results:
        results = json.loads(flags.results.read_text()) if flags.results.exists() else {}
        source = provenance()
        origin = {key: source[key] for key in ("git_commit", "started", "machine")}
        results[path.stem] = figures | origin
        write_json(flags.results, dict(sorted(results.items())))


def floor_steps(name: str) -> str:
    """Return the agent steps at top speed from start to goal, if one area holds both."""
    level = parse_stages(name)[0]
    stage = STAGES[level]
    if stage.start_area != stage.goal_area or level in STAGES_BEHIND_PIPES:
        return ""
    return str((stage.goal_line_x - stage.start_x) // (MAX_SPEED_PX * AGENT_FRAMES))


def fastest_policy_steps() -> int:
    """Return the agent steps in which the fast policy of 1-1 clears from the fixed start."""
    judged = PRETRAINED / "ppo_mario_1-1_speedrun" / "evaluation_fixed_argmax.json"
    return int(json.loads(judged.read_text())["best_clear_steps"])


def routes_page(results: dict[str, dict[str, Any]]) -> str:
    """Return docs/routes.md of what routes.json holds."""
    lines = [TABLE_INTRODUCTION]
    for name, route in results.items():
        cells = (
            *(name, route["agent_steps"], floor_steps(name.removesuffix("-pipes"))),
            *(route["frames"], route["first_agent_steps"]),
            *(route["explore_cpu_s"], route["explore_wall_s"], route["shorten_cpu_s"]),
            f"`{route['search']}`",
        )
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |\n")
    if yardstick := results.get("1-1"):
        lines.append(
            f"\n1-1, the yardstick of speed: {yardstick['agent_steps']} agent steps, "
            f"{yardstick['frames']} frames; the floor\nis {floor_steps('1-1')} and the start-up. "
            f"The shipped policy ppo_mario_1-1_speedrun takes {fastest_policy_steps()}.\n"
        )
    machines = {f"{r['machine']['cpus']} cores of {r['machine']['cpu']}" for r in results.values()}
    commits = sorted({r["git_commit"][:7] for r in results.values()})
    lines.append(f"\nMachine: {'; '.join(sorted(machines))}. Commits: {', '.join(commits)}.\n")
    return "".join(lines)


def run(flags: SearchFlags) -> int:
    """Search what the flags ask for, or write the table; 1 if a stage was not cleared."""
    if flags.table:
        TABLE.write_text(routes_page(json.loads(RESULTS.read_text())))
        return 0
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    missed = []
    levels = wanted_levels(flags)
    paths = {level: demo_path(flags, level) for level in levels}
    kept = {level: load_demo(path) for level, path in paths.items() if path.exists()}
    with Progress(*columns, console=console, transient=True) as progress:
        for level in levels:
            found = search(flags, level, progress)
            if found is None:
                missed.append(f"{level[0]}-{level[1]}")
                continue
            demo, figures = found
            is_shorter = level not in kept or demo.frames < kept[level].frames
            if is_shorter:
                keep(flags, demo, figures)
            print(
                f"{level[0]}-{level[1]}: {demo.agent_steps} agent steps, {demo.frames} frames;"
                f" first clear {figures['first_agent_steps']} steps,"
                f" after {figures['explore_wall_s']} s; "
                f"{'wrote' if is_shorter else 'kept the old'} {paths[level]}",
                flush=True,
            )
    if missed:
        print(f"error: no clear of {', '.join(missed)} within {flags.seconds:g} s", file=sys.stderr)
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, search, and turn every expected failure into one line and an exit code."""
    flags = tyro.cli(SearchFlags, args=arguments, description=__doc__)
    return exit_code(lambda: run(flags))


if __name__ == "__main__":
    sys.exit(main())
