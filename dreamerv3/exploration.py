"""How data is collected: greedy, random, or Plan2Explore.

Plan2Explore: Sekar, Rybkin, Daniilidis, Abbeel, Hafner and Pathak, "Planning to Explore via
Self-Supervised World Models" (2020), arXiv:2005.05960. An ensemble predicts the next stochastic
state from a state and an action; where its members disagree, the world is not known yet, and the
agent is paid in imagination for going there.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import pydantic
import torch
from torch import Tensor, nn

from dreamerv3.networks import Linear, NormSiLU, init_weights
from mario_values import Amount, Checked, Weight


@dataclasses.dataclass(frozen=True)
class ExplorationConfig(Checked):
    """How data is collected."""

    behaviour: Literal["greedy", "random", "plan2explore"] = "greedy"
    """greedy: the actor, for the reward; random: uniform actions; plan2explore: the actor, for
    reward and disagreement."""
    prefill: Amount = 1000
    """Environment steps before the first update, by uniform actions or the teacher's."""
    drive_until: Amount = 20_000
    """Environment steps over which the share of actions that are the teacher's, if there is one,
    falls from 1 to 0 (DAgger, Ross et al. 2011)."""
    extrinsic_scale: Weight = 1.0
    """Weight of the reward's normalised advantage."""
    intrinsic_scale: Weight = 0.3
    """Weight of the disagreement's normalised advantage (plan2explore)."""
    members: Annotated[int, pydantic.Field(ge=1, le=64)] = 8
    """Networks in the ensemble."""
    units: Annotated[int, pydantic.Field(ge=1, le=16_384)] = 128
    """Hidden units of each."""


def disagreement(predictions: Tensor) -> Tensor:
    """Return the variance between members, averaged over what they predict: never negative.

    Not its logarithm: variances are below 1, their logarithm is negative, and an agent that is
    paid negative amounts until the episode ends learns to end it, by dying.

    Args:
        predictions: [M, ..., size], one a member.

    Returns:
        [...].
    """
    return predictions.var(0, correction=0).mean(-1)


class Ensemble(nn.Module):
    """M networks of one hidden layer, as batched matrices.

    They read the same input, so their first layers are one wide layer; they differ by their
    initial weights alone.
    """

    def __init__(self, inputs: int, units: int, members: int, outputs: int) -> None:
        super().__init__()
        self.members = members
        self.first = Linear(inputs, members * units)
        self.norm = NormSiLU(members, units)
        self.weight = nn.Parameter(torch.empty(members, units, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))
        init_weights(self.weight, units)

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        """Predict the next stochastic state of features [N, F] under actions [N, A] (one-hot).

        Returns:
            [M, N, S * K].
        """
        hidden = self.first(torch.cat([features, actions.to(features.dtype)], -1))
        hidden = self.norm(hidden.unflatten(-1, (self.members, -1)))  # [N, M, units]
        predictions = torch.baddbmm(self.bias, hidden.transpose(0, 1), self.weight)
        return predictions.float()  # [M, N, S * K]


def ensemble_loss(predictions: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Return the mean squared error of every member, summed over members, [].

    Args:
        predictions: [M, N, size].
        target: [N, size], probabilities of the next stochastic state: the mean of its samples.
        counts: [N], 1.0 where the target follows from the state, 0.0 where an episode ended.
    """
    errors = (predictions - target).square().mean(-1).sum(0)  # [N]
    return (errors * counts).sum() / counts.sum().clamp(min=1.0)
