"""PPO's arithmetic as functions of arrays: advantages and losses, whatever is observed.

Symbols: T steps of a rollout, E environments, B samples of a minibatch. Nothing here knows a
network, an observation or a learner.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch as th
from torch.nn import functional as F


def gae(
    rewards: np.ndarray,
    values: np.ndarray,
    last_values: np.ndarray,
    next_non_terminal: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438, equation 16).

    Args:
        rewards: float [T, E]
        values: float [T, E], V(s_t)
        last_values: float [E], V(s_T)
        next_non_terminal: float [T, E], 0 where s_{t+1} begins a new episode, else 1; all ones for
            a non-episodic stream, whose return runs on through death (RND, section 2.3)

    Returns:
        float32 [T, E], advantages
    """
    advantages = np.zeros_like(values, dtype=np.float32)
    running = np.zeros_like(last_values, dtype=np.float32)
    next_values = last_values
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * next_values * next_non_terminal[t] - values[t]
        running = delta + gamma * gae_lambda * next_non_terminal[t] * running
        advantages[t] = running
        next_values = values[t]
    return advantages


class Targets(NamedTuple):
    """What a rollout says of B samples, beside what was seen and done there."""

    old_values: th.Tensor  # float32 [B], extrinsic, as of the rollout
    old_log_prob: th.Tensor  # float32 [B], of the actions taken
    advantages: th.Tensor  # float32 [B], both streams combined
    returns: th.Tensor  # float32 [B], extrinsic
    intrinsic_returns: th.Tensor | None = None  # float32 [B], if there is a second stream


class Clipping(NamedTuple):
    """How far an update may go."""

    ratio: float = 0.2  # PPO's epsilon
    value: float | None = None  # bound on the extrinsic value's change; None leaves it free
    normalize_advantage: bool = True  # to mean 0 and std 1 within the minibatch, as SB3


def ppo_losses(
    values: th.Tensor,
    log_prob: th.Tensor,
    entropy: th.Tensor,
    targets: Targets,
    clipping: Clipping,
) -> tuple[dict[str, th.Tensor], dict[str, th.Tensor]]:
    """Return PPO's losses and its metrics of a minibatch (arXiv:1707.06347, equation 9), scalars.

    Args:
        values: float32 [B, heads] under the current weights, extrinsic, then intrinsic.
        log_prob: float32 [B], of the samples' actions under the current policy.
        entropy: float32 [B].
        targets: of the same samples.
        clipping: see there.

    Returns:
        losses, which carry gradients: `policy`, `value`, `entropy` (the negative mean entropy)
        and, with intrinsic returns, `intrinsic_value`; metrics, which carry none: `approx_kl`
        (SB3's estimator) and `clip_fraction`.
    """
    assert log_prob.shape == entropy.shape == targets.returns.shape, (log_prob.shape, entropy.shape)
    advantages = targets.advantages
    if clipping.normalize_advantage and len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_ratio = log_prob - targets.old_log_prob
    ratio = th.exp(log_ratio)
    clipped = th.clamp(ratio, 1 - clipping.ratio, 1 + clipping.ratio)
    extrinsic = values[:, 0]
    if clipping.value is not None:
        change = th.clamp(extrinsic - targets.old_values, -clipping.value, clipping.value)
        extrinsic = targets.old_values + change
    losses = {
        "policy": -th.min(advantages * ratio, advantages * clipped).mean(),
        "value": F.mse_loss(targets.returns, extrinsic),
        "entropy": -th.mean(entropy),
    }
    if targets.intrinsic_returns is not None:
        losses["intrinsic_value"] = F.mse_loss(targets.intrinsic_returns, values[:, 1])
    with th.no_grad():
        metrics = {
            "approx_kl": th.mean((ratio - 1) - log_ratio),
            "clip_fraction": th.mean((th.abs(ratio - 1) > clipping.ratio).float()),
        }
    return losses, metrics


def imitation_loss(log_prob: th.Tensor) -> th.Tensor:
    """Return the mean of -log pi(a | s) over float32 [B] log-probabilities of shown actions."""
    return -log_prob.mean()


def kickstart_loss(log_probs: th.Tensor, mentor: th.Tensor) -> th.Tensor:
    """Return the mean KL divergence from a mentor's policy, a scalar.

    The distillation of Schmitt et al. 2018, "Kickstarting Deep Reinforcement Learning"
    (arXiv:1803.03835, equation 2); the mentor's own entropy, a constant, is taken off.

    Args:
        log_probs: float32 [B, A], of the policy that learns.
        mentor: float32 [B, A], of the one that it is held to.
    """
    assert log_probs.shape == mentor.shape, (log_probs.shape, mentor.shape)
    return (mentor.exp() * (mentor - log_probs)).sum(1).mean()


def weighted_sum(losses: Mapping[str, th.Tensor], weights: Mapping[str, float]) -> th.Tensor:
    """Return the policy's loss plus each other one times its weight, in the weights' order."""
    total = losses["policy"]
    for name, weight in weights.items():
        total = total + weight * losses[name]
    return total
