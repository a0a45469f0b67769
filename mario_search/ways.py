"""Places of the game, which of them lead to which, and how far from the goal they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastnes.ram import MAZE_CORRECT, MAZE_PASSED, PLAYER_X_FRACTION
from mario_game import N_AREA_POINTERS, GameFacts, is_home
from mario_search.play import COLUMN_PX, x_speed

COLUMNS = 512  # of an area; the longest stage has 384
PLACES_PER_COLUMN = 32 * 16 * 16 * 4 * 16  # as `place_keys` packs them
SPEEDS = 8
DETOUR_WEIGHT = 0.75  # over 0.5, or a dead end is left too late; 1 would trust coarse places

START, GOAL = -1, -2  # places that are not in the game's


def pack(parts: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
    """Return int64[n] keys of several numbers, each with its size; over-large ones wrap."""
    key = np.zeros(len(parts[0][0]), np.int64)
    for values, size in parts:
        key = key * size + values % size
    return key


def hidden_blocks(facts: GameFacts) -> np.ndarray:
    """Return how many hidden blocks of 8-4 were hit, int64[n]: its second pipe is above one.

    The game does not note that it was hit, but it pays a coin, and there are no others in 8-4.
    """
    return np.where(is_home(facts, 8, 4), facts.coins, 0)


def place_keys(ram: np.ndarray, facts: GameFacts) -> np.ndarray:
    """Return where each game is, int64[n]: column, height, and what a maze counts."""
    return pack(
        [
            (facts.area_pointer, N_AREA_POINTERS),
            (facts.x_pos // COLUMN_PX, COLUMNS),
            (facts.y_pos // 24, 32),
            (ram[:, MAZE_CORRECT].astype(np.int64), 16),
            (ram[:, MAZE_PASSED].astype(np.int64), 16),
            (hidden_blocks(facts), 4),
            (facts.player_state, 16),
        ]
    )


def cell_keys(ram: np.ndarray, facts: GameFacts) -> np.ndarray:
    """Return the cell of each game, int64[n]: what tells apart states worth returning to."""
    return pack([(place_keys(ram, facts), 1 << 60), (x_speed(ram) // 16, SPEEDS)])


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
        part = (facts.x_pos % COLUMN_PX + ram[:, PLAYER_X_FRACTION] / 256) / COLUMN_PX
        left = np.where(self.goal_is_right[columns], 1 - part, part)
        return self.nearest[columns] + DETOUR_WEIGHT * detours + left, detours
