"""What teachers and students have in common: a network that learns in the batched environment.

They know no files: they hand out dictionaries, from which a run goes on to the same bits.
"""

from __future__ import annotations

import abc
from typing import Any, Protocol

import torch as th
from torch import nn

from mario_checkpoints import load_optimizer
from mario_runtime import MarioVectorEnv
from mario_training import EpisodeMeans


class LearnerFlags(Protocol):
    """What the flags of every learner say."""

    @property
    def timesteps(self) -> int:
        """The run's target in agent steps."""

    @property
    def learning_rate(self) -> float:
        """The optimizer's step size at first."""

    @property
    def learning_rate_final(self) -> float:
        """What it falls to."""

    @property
    def max_grad_norm(self) -> float:
        """Gradients are scaled down to this norm."""


class Learner(abc.ABC):
    """Teaches a network, update by update.

    Args:
        network: what learns, on any device.
        env: with autoreset; its generators are seeded.
        optimizer: of the network.
        flags: see there.
        seed: of sampling and shuffling, and of the environments.
    """

    PARTS: tuple[str, ...] = ("env", "episodes")  # what has a state_dict of its own

    def __init__(
        self,
        network: Any,
        env: MarioVectorEnv,
        optimizer: th.optim.Optimizer,
        flags: LearnerFlags,
        seed: int,
    ) -> None:
        self.network, self.env, self.optimizer = network, env, optimizer
        self.timesteps = flags.timesteps
        self.max_grad_norm = flags.max_grad_norm
        self.learning_rates = (flags.learning_rate, flags.learning_rate_final)
        self.generator = th.Generator().manual_seed(seed)
        self.steps = 0  # agent steps done
        self.episodes = EpisodeMeans(env.num_envs)
        env.reset(seed=seed)

    @abc.abstractmethod
    def update(self) -> dict[str, float]:
        """Play, learn, and return metrics by name.

        Raises:
            FloatingPointError: a gradient is not finite; the weights are as before that step.
        """

    def falling(self, first: float, last: float) -> float:
        """Return a number that falls linearly over the run."""
        return first + (last - first) * min(self.steps / self.timesteps, 1.0)

    def set_learning_rate(self) -> float:
        """Give the optimizer the step size of this moment, and return it."""
        rate = self.falling(*self.learning_rates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def descend(self, loss: th.Tensor) -> float:
        """Do a step of gradient descent, and return the gradient's norm before it was clipped.

        Raises:
            FloatingPointError: the gradient is not finite; the weights are as before.
        """
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
        if not th.isfinite(norm):
            raise FloatingPointError(f"the gradient is not finite after {self.steps:,} steps")
        self.optimizer.step()
        return norm.item()

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all that the next update depends on, but the network's weights."""
        return {
            "steps": self.steps,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            **{name: getattr(self, name).state_dict() for name in self.PARTS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, with the network's weights loaded already."""
        self.steps = int(state["steps"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.generator.set_state(state["generator"])
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])
