"""One environment of a batch as a value: all that its next steps depend on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from fastnes import BatchMachine
from mario_cli import UsageError
from mario_game import StageId
from mario_reward import RewardShaper
from mario_starts import NO_NUMBER
from mario_wrappers import SplitMix64


class Batch(Protocol):
    """What `mario_runtime.MarioVectorEnv` has that a snapshot is of; arrays have a row for each."""

    machines: BatchMachine
    shaper: RewardShaper
    sticky: SplitMix64
    start_numbers: np.ndarray
    from_start: np.ndarray
    start_stages: np.ndarray
    held: np.ndarray
    steps: np.ndarray
    most_steps: np.ndarray
    is_over: np.ndarray
    observations: np.ndarray
    generators: list[np.random.Generator]


@dataclasses.dataclass(frozen=True, eq=False)
class EnvSnapshot:
    """One environment between two steps; it can be pickled and restored into another batch."""

    machine: np.ndarray  # uint8[STATE_SIZE]
    ram_before: np.ndarray  # uint8[2048], what facts are read from
    screen: np.ndarray  # uint8[240, 256] palette indices, what `render` shows
    observation: np.ndarray  # with its stack of screens
    reward: dict[str, np.ndarray]  # the `RewardShaper`'s row of each array
    from_start: bool
    held: int  # buttons of the last frame, for sticky actions
    sticky: int  # the state of their random stream
    steps: int  # agent steps of the episode
    is_over: bool  # the episode has ended: reset before the next step
    generator: str  # the random generator's state, JSON

    def check_fits(self, batch: Batch) -> None:
        """Check that the snapshot can be restored into a batch.

        Raises:
            UsageError: it is of another observation or another reward.
        """
        ours = (batch.observations.shape[1:], batch.observations.dtype)
        if (self.observation.shape, self.observation.dtype) != ours:
            raise UsageError(
                f"the snapshot is of observations {self.observation.dtype}"
                f"{list(self.observation.shape)}, not {ours[1]}{list(ours[0])}"
            )
        for name in RewardShaper.STATE:
            saved: Any = self.reward.get(name)
            if np.shape(saved) != getattr(batch.shaper, name).shape[1:]:
                raise UsageError(f"the snapshot is of another reward: its {name} does not fit")


def snapshot_env(batch: Batch, i: int) -> EnvSnapshot:
    """Return environment i of a batch, copied."""
    return EnvSnapshot(
        machine=batch.machines.snapshot(i),
        ram_before=batch.machines.ram_before[i].copy(),
        screen=batch.machines.screen(i),
        observation=batch.observations[i].copy(),
        reward={name: getattr(batch.shaper, name)[i].copy() for name in RewardShaper.STATE},
        from_start=bool(batch.from_start[i]),
        held=int(batch.held[i]),
        sticky=int(batch.sticky.state[i]),
        steps=int(batch.steps[i]),
        is_over=bool(batch.is_over[i]),
        generator=json.dumps(batch.generators[i].bit_generator.state),
    )


def restore_env(batch: Batch, i: int, snapshot: EnvSnapshot) -> None:
    """Put environment i of a batch where it was at a snapshot that fits."""
    batch.machines.restore(i, snapshot.machine, snapshot.screen)
    batch.machines.ram_before[i] = snapshot.ram_before
    for name in RewardShaper.STATE:
        getattr(batch.shaper, name)[i] = snapshot.reward[name]
    batch.observations[i] = snapshot.observation
    batch.start_numbers[i], batch.from_start[i] = NO_NUMBER, snapshot.from_start
    batch.start_stages[i] = str(StageId(*batch.shaper.began[i].tolist()))
    batch.held[i], batch.steps[i], batch.most_steps[i] = snapshot.held, snapshot.steps, 0
    batch.sticky.state[i] = snapshot.sticky
    batch.is_over[i] = snapshot.is_over
    batch.generators[i].bit_generator.state = json.loads(snapshot.generator)


def snapshots_of_options(options: dict[str, Any], n: int) -> list[EnvSnapshot | None]:
    """Return the snapshot that reset's options choose for each of n environments.

    Raises:
        UsageError: they are no snapshots, or for another number of environments.
    """
    chosen = options.get("snapshot")
    if chosen is None or isinstance(chosen, EnvSnapshot):
        return [chosen] * n
    if not isinstance(chosen, Sequence) or len(chosen) != n:
        raise UsageError(f"snapshot must be one that snapshot() returned, or one for each of {n}")
    if not all(one is None or isinstance(one, EnvSnapshot) for one in chosen):
        raise UsageError("a snapshot is what snapshot() returned")
    return list(chosen)
