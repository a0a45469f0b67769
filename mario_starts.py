"""Where episodes begin: a snapshot, and which of several comes next."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from fastnes import has_halfway, start_screen, start_snapshot
from mario_config import EnvConfig
from mario_files import fill
from mario_game import StageId

NO_NUMBER = -1  # of an episode whose start a caller chose: it counts for no curriculum


class Start(NamedTuple):
    """Where one episode begins."""

    snapshot: np.ndarray  # uint8[STATE_SIZE]
    screen: np.ndarray  # uint8[240, 256] palette indices, what the snapshot shows
    number: int  # of the stage or place among those of its `Starts`
    at_level_start: bool  # not along a demo: the random no-ops come first, and it counts as a clear


class Entry(NamedTuple):
    """How the game lets Mario into a stage."""

    status: int = 0  # 0 small, 1 tall, 2 throws fireballs: as `fastnes.ram.STATUS`
    is_halfway: bool = False  # where it goes on after a death in the stage's second half


def other_entries(stage: StageId) -> list[Entry]:
    """Return how a whole game can also begin a stage: not small, or not at its start."""
    halfway = (False, True) if has_halfway(*stage) else (False,)
    return [Entry(status, half) for status in (0, 1, 2) for half in halfway][1:]


def stage_start(stage: StageId, number: int, entry: Entry | None = None) -> Start:
    """Return the beginning of a stage, under a number of one's own."""
    at = (*stage, *(entry or Entry()))
    return Start(start_snapshot(*at), start_screen(*at), number, at_level_start=entry is None)


class Starts(Protocol):
    """Where the episodes of a batch begin; the batch tells how they ended."""

    def draw(self, generator: np.random.Generator) -> Start:
        """Return where the next episode of the environment with this generator begins."""

    def count(self, number: int, cleared: bool) -> None:
        """Take note of how an episode that began at a number ended."""

    def scalars(self) -> dict[str, float]:
        """Return what to log of it, by name."""

    def has(self, number: int) -> bool:
        """Return whether there is a start of a number."""

    def most_steps(self, number: int) -> int:
        """Return the agent steps after which an episode from there is cut off; 0: never."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on exactly: arrays and numbers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""


class StageStarts:
    """The starts of the config's stages, drawn alike or by how often they fail."""

    RATE_STEP = 0.05  # weight of the newest episode in a stage's clear rate
    LEAST_WEIGHT = 0.1  # of a stage that is always cleared, beside 1 of one that never is

    def __init__(self, config: EnvConfig) -> None:
        self.stages = config.stages
        self.by_failure = config.stage_sampling == "failure"
        self.clear_rates = np.zeros(len(self.stages))

    def draw_number(self, generator: np.random.Generator) -> int:
        """Return the next stage's number; a single stage draws nothing."""
        if len(self.stages) == 1:
            return 0
        weights = np.ones(len(self.stages))
        if self.by_failure:
            weights -= (1 - self.LEAST_WEIGHT) * self.clear_rates
        bounds = np.cumsum(weights)
        return int(np.searchsorted(bounds, generator.random() * bounds[-1], side="right"))

    def draw(self, generator: np.random.Generator) -> Start:
        """Return the start of a stage drawn."""
        return self.start_of(self.draw_number(generator))

    def start_of(self, number: int) -> Start:
        """Return the start of the stage with this number."""
        return stage_start(self.stages[number], number)

    def count(self, number: int, cleared: bool) -> None:
        """As `Starts`."""
        self.clear_rates[number] += self.RATE_STEP * (cleared - self.clear_rates[number])

    def scalars(self) -> dict[str, float]:
        """As `Starts`: each stage's clear rate, if there are several."""
        if len(self.stages) == 1:
            return {}
        rates = zip(self.stages, self.clear_rates.tolist(), strict=True)
        return {f"stage/{stage}/clear_rate": rate for stage, rate in rates}

    def has(self, number: int) -> bool:
        """As `Starts`."""
        return 0 <= number < len(self.stages)

    def most_steps(self, number: int) -> int:
        """As `Starts`: never."""
        return 0

    def state_dict(self) -> dict[str, Any]:
        """As `Starts`."""
        return {"clear_rates": self.clear_rates.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Starts`."""
        fill(self.clear_rates, state["clear_rates"], "the stages' clear rates", 0, 1)
