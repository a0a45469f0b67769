"""Where episodes of a training begin: along demos, backward from the goal or anywhere."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from mario_cli import UsageError
from mario_config import EnvConfig
from mario_demos import Demo, Waypoint, snapshots
from mario_files import fill
from mario_starts import StageStarts, Start, other_entries, stage_start

STEPS = 8  # agent steps between two places of a demo, 96 px at full speed


class DemoStarts:
    """Starts at places along demos of each stage of the config, and at the level's start.

    What begins on the way, or as only a whole game does (`mario_starts.other_entries`), is
    practice; only episodes from the level's start count as clears.
    """

    def __init__(
        self,
        config: EnvConfig,
        demos: Sequence[Demo],
        steps: int = STEPS,
        game_share: float = 0.0,
    ) -> None:
        """Run the demos and keep their places.

        Args:
            config: what is played.
            demos: of each of its stages, one or several.
            steps: agent steps between two places.
            game_share: of the episodes, that begin tall, with fire, or halfway.

        Raises:
            UsageError: a stage of config has no demo, or a demo does not replay.
        """
        self.levels = StageStarts(config)
        self.steps = steps
        self.game_share = game_share
        self.entries = [other_entries(stage) for stage in self.levels.stages]
        self.waypoints: list[list[list[Waypoint]]] = []  # of each stage's demos, the last one first
        for world, stage in self.levels.stages:
            along = [
                snapshots(demo, steps * config.frame_skip)[:0:-1]
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
        """Return where the next episode of the environment with this generator begins."""
        stage = self.levels.draw_number(generator)
        if self.game_share and generator.random() < self.game_share:
            entry = int(generator.integers(len(self.entries[stage])))
            place = self.places[stage] + 1 + entry
            number = stage + place * len(self.places)
            return stage_start(self.levels.stages[stage], number, self.entries[stage][entry])
        place = self.draw_place(stage, generator)
        number = stage + place * len(self.places)
        if place == self.places[stage]:
            return self.levels.start_of(stage)._replace(number=number)
        along = self.waypoints[stage]
        waypoint = along[int(generator.integers(len(along))) if len(along) > 1 else 0][place]
        return Start(waypoint.state, waypoint.screen, number, at_level_start=False)

    def count(self, number: int, cleared: bool) -> None:
        """Take note of how an episode that began at a number ended."""
        place, stage = divmod(number, len(self.places))
        if place == self.places[stage]:
            self.levels.count(stage, cleared)
        elif place < self.places[stage]:
            self.count_place(stage, place, cleared)

    def has(self, number: int) -> bool:
        """Return whether there is a start of a number."""
        place, stage = divmod(number, len(self.places))
        return number >= 0 and place <= self.places[stage] + len(self.entries[stage])

    def most_steps(self, number: int) -> int:
        """As `Starts`: never."""
        return 0

    def scalars(self) -> dict[str, float]:
        """Return each stage's clear rate, if there are several."""
        return self.levels.scalars()

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on exactly: arrays and numbers."""
        return self.levels.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.levels.load_state_dict(state)


class AnywhereStarts(DemoStarts):
    """Half of the episodes begin anywhere along the demo, the others at the level's start.

    No place has to be passed before another is learnt: with a reward for every step forward there
    is something to learn everywhere at once, and a place that is hard holds up only itself.
    """

    LEVEL_SHARE = 0.5

    def draw_place(self, stage: int, generator: np.random.Generator) -> int:
        """Return the next episode's place, 0 the last before the goal, or the level's start."""
        places = self.places[stage]
        if generator.random() < self.LEVEL_SHARE:
            return places
        return int(generator.integers(places))


class BackwardPace(NamedTuple):
    """How a backward curriculum goes about it."""

    share: float = 1.0  # of episodes along the demo, until its start is reached
    steps: int = STEPS  # agent steps between two places
    window: int = 3  # places, from the front toward the goal, that episodes begin at
    episodes: int = 24  # begun in the window, that the clear rate is taken of
    threshold: float = 0.5  # clear rate from which the front moves back


class BackwardStarts(DemoStarts):
    """Starts along demos, near the goal at first, that move back as they succeed.

    Salimans and Chen 2018, "Learning Montezuma's Revenge from a Single Demonstration"
    (arXiv:1812.03381). Each stage has a front, counted in places before the goal. An episode begins
    at one of the window's places up to the front; once enough of so many of them reached the goal,
    the front moves back by a place, and past the first place to the level's start.
    """

    def __init__(
        self, config: EnvConfig, demos: Sequence[Demo], pace: BackwardPace | None = None
    ) -> None:
        """Run the demos and keep their places.

        Raises:
            UsageError: as `DemoStarts`, or a demo that does not clear its stage.
        """
        self.pace = pace or BackwardPace()
        for demo in demos:
            if not demo.cleared:
                raise UsageError(
                    f"a demo for the backward curriculum has to clear the stage: one of "
                    f"{demo.world}-{demo.stage} does not"
                )
        super().__init__(config, demos, self.pace.steps)
        self.front = np.zeros(len(self.places), dtype=np.int64)
        self.tried = np.zeros(len(self.places), dtype=np.int64)  # episodes since the front moved
        self.reached = np.zeros(len(self.places), dtype=np.int64)

    def draw_place(self, stage: int, generator: np.random.Generator) -> int:
        """Return the next episode's place, 0 the last before the goal, or the level's start."""
        front, level = int(self.front[stage]), self.places[stage]
        if self.pace.share < 1 and (front == level or generator.random() >= self.pace.share):
            return level
        back = int(generator.integers(min(self.pace.window, front + 1)))
        return level if front == level else front - back

    def count_place(self, stage: int, place: int, cleared: bool) -> None:
        """Count an episode of the window, and move the front when enough have been tried."""
        if place <= self.front[stage] - self.pace.window:
            return  # begun before the front moved on
        self.tried[stage] += 1
        self.reached[stage] += cleared
        if self.tried[stage] == self.pace.episodes:
            enough = self.reached[stage] >= self.pace.threshold * self.pace.episodes
            self.front[stage] = min(self.front[stage] + enough, self.places[stage])
            self.tried[stage] = self.reached[stage] = 0

    def scalars(self) -> dict[str, float]:
        """Return also how far from the goal episodes begin, in agent steps of the demo."""
        return super().scalars() | {
            f"stage/{stage}/steps_to_goal": float((front + 1) * self.steps)
            for stage, front in zip(self.levels.stages, self.front.tolist(), strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on exactly: arrays and numbers."""
        names = ("front", "tried", "reached")
        return {name: getattr(self, name).copy() for name in names} | super().state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        most = {"front": self.places, "tried": self.pace.episodes, "reached": self.pace.episodes}
        for name, limit in most.items():
            fill(getattr(self, name), state[name], f"the curriculum's {name}", 0, limit)
        super().load_state_dict(state)


class FrontierStarts(DemoStarts):
    """A part of the episodes begins along the demo, mostly where reaching the goal is uncertain.

    Each place has a running rate p of reaching the goal. It is drawn by the variance of such an
    episode's outcome, p (1 - p): what always or never succeeds teaches little (Florensa et
    al. 2018, "Automatic Goal Generation", arXiv:1705.06366, call these goals of intermediate
    difficulty). So practice begins near the goal and moves back by itself, without a front.

    The places are close: where the way on is against all habit, in 4-4 left and down a hole, some
    of its steps are done already. And what takes far longer than the demo is cut off: in a maze
    castle an episode that went wrong can walk in circles until the time is up, 2,000 steps, and
    what teaches something drowns in it. results/teach has the figures.
    """

    STEPS = 2  # agent steps between two places
    PATIENCE = 2  # an episode may take so many times the agent steps of its demo from there
    SLACK = 60  # and so many agent steps more
    LEVEL_SHARE = 0.4  # of the episodes begin at the level's start
    RATE_STEP = 0.1  # weight of the newest episode in a place's rate
    LEAST_WEIGHT = 0.02  # beside 0.25, that of a place from which every second episode succeeds

    def __init__(
        self, config: EnvConfig, demos: Sequence[Demo], *, game_share: float = 0.0
    ) -> None:
        """As `DemoStarts`, at places of its own."""
        super().__init__(config, demos, self.STEPS, game_share)
        whole = {
            stage: all(
                demo.cleared and demo.start is None
                for demo in demos
                if (demo.world, demo.stage) == stage
            )
            for stage in self.levels.stages
        }
        self.lengths = [  # agent steps of a stage's longest clear; 0: not all are from its start
            self.steps * (1 + max(map(len, along))) * whole[stage]
            for stage, along in zip(self.levels.stages, self.waypoints, strict=True)
        ]

    def most_steps(self, number: int) -> int:
        """As `Starts`: by what the demo takes from there; never, if it is no whole clear."""
        place, stage = divmod(number, len(self.places))
        if not self.lengths[stage]:
            return 0
        is_along = place < self.places[stage]
        left = self.steps * (1 + place) if is_along else self.lengths[stage]
        return self.SLACK + self.PATIENCE * left

    @functools.cached_property
    def rates(self) -> np.ndarray:
        """float64 [stages, places], each place's rate.

        At first as if half of its episodes had succeeded: what was not tried is tried first.
        """
        return np.full((len(self.places), max(self.places)), 0.5)

    def draw_place(self, stage: int, generator: np.random.Generator) -> int:
        """Return the next episode's place, 0 the last before the goal, or the level's start."""
        places = self.places[stage]
        if generator.random() < self.LEVEL_SHARE:
            return places
        rates = self.rates[stage, :places]
        bounds = np.cumsum(np.maximum(rates * (1 - rates), self.LEAST_WEIGHT))
        return int(np.searchsorted(bounds, generator.random() * bounds[-1], side="right"))

    def count_place(self, stage: int, place: int, cleared: bool) -> None:
        """Note how an episode that began on the way ended."""
        self.rates[stage, place] += self.RATE_STEP * (cleared - self.rates[stage, place])

    def scalars(self) -> dict[str, float]:
        """Return also from how large a part of each stage's places the goal is reached."""
        return super().scalars() | {
            f"stage/{stage}/practice_rate": float(self.rates[i, : self.places[i]].mean())
            for i, stage in enumerate(self.levels.stages)
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on exactly: arrays and numbers."""
        return {"rates": self.rates.copy()} | super().state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        fill(self.rates, state["rates"], "the places' rates", 0, 1)
        super().load_state_dict(state)


def starts_along(
    demos: Sequence[Demo],
    config: EnvConfig,
    where: Literal["backward", "anywhere"],
    pace: BackwardPace | None = None,
) -> DemoStarts:
    """Return starts along demos, for a trainer's --demo-starts.

    Args:
        demos: of each stage of config, one or several.
        config: what is played.
        where: first near the goal and moving back, or anywhere with half of the episodes.
        pace: of moving back.

    Raises:
        UsageError: as `DemoStarts` and `BackwardStarts`.
    """
    if where == "anywhere":
        return AnywhereStarts(config, demos)
    return BackwardStarts(config, demos, pace)
