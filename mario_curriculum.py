"""Where episodes of a training begin: along demos, backward from the goal or anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mario_cli import UsageError
from mario_config import EnvConfig
from mario_demos import Demo, Waypoint, snapshots
from mario_starts import StageStarts, Start


class DemoStarts:
    """Starts at places along demos of each stage of the config, and at the level's start.

    What begins on the way is practice; only episodes from the level's start count as clears.
    """

    STEPS = 8  # agent steps between two places, 96 px at full speed

    def __init__(self, config: EnvConfig, demos: Sequence[Demo]) -> None:
        """Run the demos and keep their places.

        Raises:
            UsageError: a stage of config has no demo, or a demo does not replay.
        """
        self.levels = StageStarts(config)
        self.waypoints: list[list[list[Waypoint]]] = []  # of each stage's demos, the last one first
        for world, stage in self.levels.stages:
            along = [
                snapshots(demo, self.STEPS * config.frame_skip)[:0:-1]
                for demo in demos
                if (demo.world, demo.stage) == (world, stage)
            ]
            if not along:
                raise UsageError(f"there is no demo of {world}-{stage} among the demos")
            self.waypoints.append(along)
        self.places = [  # how many each stage has
            min(len(waypoints) for waypoints in along) for along in self.waypoints
        ]

    def draw_place(self, stage: int, generator: np.random.Generator) -> int:
        """Return the place of the next episode, 0 the last before the goal.

        As many as there are places is the level's start.
        """
        raise NotImplementedError

    def count_place(self, stage: int, place: int, cleared: bool) -> None:
        """Note how an episode that began on the way ended."""

    def draw(self, generator: np.random.Generator) -> Start:
        """As `Starts`."""
        stage = self.levels.draw_number(generator)
        place = self.draw_place(stage, generator)
        number = stage + place * len(self.places)
        if place == self.places[stage]:
            return self.levels.start_of(stage)._replace(number=number)
        along = self.waypoints[stage]
        waypoint = along[int(generator.integers(len(along))) if len(along) > 1 else 0][place]
        return Start(waypoint.state, waypoint.screen, number, at_level_start=False)

    def count(self, number: int, cleared: bool) -> None:
        """As `Starts`."""
        place, stage = divmod(number, len(self.places))
        if place == self.places[stage]:
            self.levels.count(stage, cleared)
        else:
            self.count_place(stage, place, cleared)

    def scalars(self) -> dict[str, float]:
        """As `Starts`."""
        return self.levels.scalars()

    def state_dict(self) -> dict[str, Any]:
        """As `Starts`."""
        return self.levels.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Starts`."""
        self.levels.load_state_dict(state)


class AnywhereStarts(DemoStarts):
    """Half of the episodes begin anywhere along the demo, the others at the level's start.

    No place has to be passed before another is learnt: with a reward for every step forward there
    is something to learn everywhere at once, and a place that is hard holds up only itself.
    """

    LEVEL_SHARE = 0.5

    def draw_place(self, stage: int, generator: np.random.Generator) -> int:
        """As `DemoStarts`."""
        places = self.places[stage]
        if generator.random() < self.LEVEL_SHARE:
            return places
        return int(generator.integers(places))


class BackwardStarts(DemoStarts):
    """Starts along demos, near the goal at first, that move back as they succeed.

    Salimans and Chen 2018, "Learning Montezuma's Revenge from a Single Demonstration". Each stage
    has a front, counted in places before the goal. An episode begins at one of the `SPREAD` places
    up to the front; once `THRESHOLD` of the last `EPISODES` of them reached the goal, the front
    moves back by a place, and past the first place to the level's start.
    """

    SPREAD = 3
    THRESHOLD = 0.5
    EPISODES = 24

    def __init__(self, config: EnvConfig, demos: Sequence[Demo]) -> None:
        """As `DemoStarts`."""
        super().__init__(config, demos)
        self.front = np.zeros(len(self.places), dtype=np.int64)
        self.tried = np.zeros(len(self.places), dtype=np.int64)  # episodes since the front moved
        self.reached = np.zeros(len(self.places), dtype=np.int64)

    def draw_place(self, stage: int, generator: np.random.Generator) -> int:
        """As `DemoStarts`."""
        front = int(self.front[stage])
        back = int(generator.integers(min(self.SPREAD, front + 1)))
        return front if front == self.places[stage] else front - back

    def count_place(self, stage: int, place: int, cleared: bool) -> None:
        """As `DemoStarts`."""
        if place <= self.front[stage] - self.SPREAD:
            return  # begun before the front moved on
        self.tried[stage] += 1
        self.reached[stage] += cleared
        if self.tried[stage] == self.EPISODES:
            self.front[stage] += self.reached[stage] >= self.THRESHOLD * self.EPISODES
            self.tried[stage] = self.reached[stage] = 0

    def scalars(self) -> dict[str, float]:
        """As `Starts`: how far from the goal episodes begin, in agent steps of the demo."""
        return super().scalars() | {
            f"stage/{stage}/steps_to_goal": float((front + 1) * self.STEPS)
            for stage, front in zip(self.levels.stages, self.front.tolist(), strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """As `Starts`."""
        names = ("front", "tried", "reached")
        return {name: getattr(self, name).copy() for name in names} | super().state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Starts`."""
        for name in ("front", "tried", "reached"):
            getattr(self, name)[...] = state[name]
        super().load_state_dict(state)
