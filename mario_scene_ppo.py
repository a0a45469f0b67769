"""The learner of teachers: PPO on scenes, many undrawn environments in one process.

Its losses are those of mario_losses.py, its network that of mario_teacher.py. Rewards are divided
by a running scale of their discounted return, and advantages are normalised per stage, so that no
stage needs a reward scale of its own. It knows no files: it hands out dictionaries.

Symbols: T steps of a rollout, E environments, N = T E samples, B of them in a minibatch.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, NamedTuple

import numpy as np
import pydantic
import torch as th

from mario_cli import UsageError
from mario_files import fill
from mario_learner import Learner
from mario_losses import Clipping, Targets, gae, ppo_losses, weighted_sum
from mario_runtime import MarioVectorEnv
from mario_scene_flat import HIDDEN_SIZE, SEEN_SIZE, split_scene
from mario_teacher import SceneNetwork
from mario_values import Checked, Count, Positive, Share, StepSize, Weight

LEAST_OF_STAGE = 64  # samples of a stage in a rollout from which its own advantages are normalised


@dataclasses.dataclass(frozen=True)
class ScenePPOFlags(Checked):
    """PPO (Schulman et al. 2017) on scenes."""

    timesteps: Count = 20_000_000
    """The run's target in agent steps, all environments together; resuming goes on to the same."""
    n_steps: Annotated[int, pydantic.Field(ge=1, le=10**6)] = 64
    """Agent steps per environment in a rollout."""
    batch_size: Annotated[int, pydantic.Field(ge=2, le=10**8)] = 2048
    """Samples in a minibatch; must divide n_steps * n_envs."""
    n_epochs: Annotated[int, pydantic.Field(ge=1, le=1000)] = 3
    """Passes over each rollout."""
    learning_rate: StepSize = 5e-4
    """Adam's step size at first."""
    learning_rate_final: StepSize = 1e-4
    """It falls linearly to this over the run."""
    gamma: Share = 0.99
    """Discount. A way that ends twenty steps later is seen to be none only by a long horizon."""
    gae_lambda: Share = 0.95
    """GAE's lambda (Schulman et al. 2016): bias against variance."""
    clip_range: Annotated[float, pydantic.Field(gt=0, le=10)] = 0.2
    """PPO's epsilon."""
    ent_coef: Weight = 0.01
    """Entropy bonus: keeps the policy trying."""
    ent_coef_final: Weight = 0.003
    """It falls linearly to this over the run."""
    vf_coef: Weight = 0.5
    """Weight of the value loss."""
    max_grad_norm: Positive = 0.5
    """Gradients are scaled down to this norm."""


class Rollout(NamedTuple):
    """What happened in T steps of E environments."""

    seen: np.ndarray  # float32 [T, E, SEEN_SIZE]
    hidden: np.ndarray  # float32 [T, E, HIDDEN_SIZE]
    actions: np.ndarray  # int64 [T, E]
    log_probs: np.ndarray  # float32 [T, E]
    values: np.ndarray  # float32 [T, E]
    rewards: np.ndarray  # float32 [T, E], divided by their scale
    goes_on: np.ndarray  # float32 [T, E], 0 where the step ended an episode
    groups: np.ndarray  # int64 [T, E], the stage that the episode began in


class ReturnScale:
    """The running standard deviation of the discounted return, by which rewards are divided."""

    CLIP = 10.0
    MEMORY = 1e-4  # weight of a step's newest returns, once there have been 1 / MEMORY steps

    def __init__(self, n_envs: int, gamma: float) -> None:
        self.gamma = gamma
        self.returns = np.zeros(n_envs)
        self.mean, self.square, self.count = 0.0, 0.0, 0

    def scaled(self, rewards: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Take a step's rewards, float[E], and return them in units of the scale, float32[E]."""
        self.returns = self.returns * self.gamma + rewards
        self.count += 1
        weight = max(1 / self.count, self.MEMORY)
        self.mean += weight * (float(self.returns.mean()) - self.mean)
        self.square += weight * (float((self.returns**2).mean()) - self.square)
        self.returns[ended] = 0.0
        return np.clip(rewards / (self.scale + 1e-4), -self.CLIP, self.CLIP).astype(np.float32)

    @property
    def scale(self) -> float:
        """The running deviation of the discounted sums."""
        return float(np.sqrt(max(self.square - self.mean**2, 0.0)))

    STATE = ("returns", "mean", "square", "count")

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on exactly."""
        state = {name: getattr(self, name) for name in self.STATE}
        return state | {"returns": self.returns.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            UsageError: it is not finite, or of another size.
        """
        fill(self.returns, state["returns"], "scale.returns")
        self.mean, self.square = float(state["mean"]), float(state["square"])
        self.count = int(state["count"])
        if not np.isfinite([self.mean, self.square]).all() or self.count < 0:
            raise UsageError("the scale of rewards is not finite")


def normalized_by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return values at mean 0 and standard deviation 1 within each group, float32, same shape.

    A group with fewer than `LEAST_OF_STAGE` members is normalised with the mean and the deviation
    of all.
    """
    result = (values - values.mean()) / (values.std() + 1e-8)
    for group in np.unique(groups):
        own = groups == group
        if own.sum() >= LEAST_OF_STAGE:
            result[own] = (values[own] - values[own].mean()) / (values[own].std() + 1e-8)
    return result.astype(np.float32)


class ScenePPO(Learner):
    """Teaches a `SceneNetwork` to play `MarioVectorEnv`, observing scenes.

    Args:
        network: what learns, on any device.
        env: with autoreset.
        flags: see there.
        seed: of sampling and shuffling; the environments' generators are seeded with it, too.
    """

    PARTS = (*Learner.PARTS, "scale")

    def __init__(
        self, network: SceneNetwork, env: MarioVectorEnv, flags: ScenePPOFlags, seed: int
    ) -> None:
        optimizer = th.optim.Adam(network.parameters(), flags.learning_rate, eps=1e-5)
        super().__init__(network, env, optimizer, flags, seed)
        self.flags = flags
        self.device = network.action_net.weight.device
        self.scale = ReturnScale(env.num_envs, flags.gamma)

    # -- playing -------------------------------------------------------------------------------

    def rollout(self) -> tuple[Rollout, np.ndarray]:
        """Play T steps; return them and the values float32[E] of the states after the last one."""
        n_steps, n_envs = self.flags.n_steps, self.env.num_envs
        shape = (n_steps, n_envs)
        played = Rollout(
            seen=np.empty((*shape, SEEN_SIZE), np.float32),
            hidden=np.empty((*shape, HIDDEN_SIZE), np.float32),
            actions=np.empty(shape, np.int64),
            log_probs=np.empty(shape, np.float32),
            values=np.empty(shape, np.float32),
            rewards=np.empty(shape, np.float32),
            goes_on=np.empty(shape, np.float32),
            groups=np.empty(shape, np.int64),
        )
        for t in range(n_steps):
            played.seen[t], played.hidden[t] = looked = split_scene(self.env.observations)
            actions, played.log_probs[t], played.values[t] = self._sample(*looked)
            played.actions[t] = actions
            played.groups[t] = self.env.shaper.began @ (4, 1)
            _, rewards, terminations, truncations, infos = self.env.step(actions)
            ended = terminations | truncations
            self.episodes.count(rewards, ended, infos)
            played.rewards[t] = self.scale.scaled(rewards, ended)
            played.goes_on[t] = ~ended
        self.steps += n_steps * n_envs
        return played, self._sample(*split_scene(self.env.observations))[2]

    def _sample(
        self, seen: np.ndarray, hidden: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return sampled actions int64[E], their log-probabilities and the values, float32[E]."""
        with th.inference_mode():
            looked = [th.from_numpy(part).to(self.device) for part in (seen, hidden)]
            logits, values = self.network(*looked)
            log_probs = logits.log_softmax(dim=1).cpu()
            actions = th.multinomial(log_probs.exp(), 1, generator=self.generator)
            chosen = log_probs.gather(1, actions)
        return actions[:, 0].numpy(), chosen[:, 0].numpy(), values.cpu().numpy()

    # -- learning ------------------------------------------------------------------------------

    def update(self) -> dict[str, float]:
        """Play a rollout, learn from it, and return the metrics by name.

        Raises:
            FloatingPointError: a gradient is not finite; the weights are as before that step.
        """
        played, last_values = self.rollout()
        advantages = gae(
            played.rewards,
            played.values,
            last_values,
            played.goes_on,
            self.flags.gamma,
            self.flags.gae_lambda,
        )
        returns = advantages + played.values
        normalized = normalized_by_group(advantages, played.groups)
        data = self._tensors(played, normalized, returns)
        learning_rate = self.set_learning_rate()
        size = len(data[0])
        metrics: dict[str, list[float]] = {}
        for _ in range(self.flags.n_epochs):
            order = th.randperm(size, generator=self.generator)
            for samples in order.split(self.flags.batch_size):
                for name, value in self._learn([part[samples] for part in data]).items():
                    metrics.setdefault(name, []).append(value)
        variance = returns.var()
        return {name: float(np.mean(values)) for name, values in metrics.items()} | {
            "explained_variance": float(1 - (returns - played.values).var() / (variance + 1e-8)),
            "learning_rate": learning_rate,
            "ppo/reward_scale": self.scale.scale,
            **self.episodes.means(),
        }

    def _tensors(
        self, played: Rollout, advantages: np.ndarray, returns: np.ndarray
    ) -> list[th.Tensor]:
        """Return what is learnt from, [N, ...] each: seen, hidden, actions and PPO's targets."""
        targets = (played.values, played.log_probs, advantages, returns)
        arrays = (played.seen, played.hidden, played.actions, *targets)
        return [th.from_numpy(array).flatten(0, 1).to(self.device) for array in arrays]

    def _learn(self, batch: list[th.Tensor]) -> dict[str, float]:
        """Do one step of gradient descent on a minibatch."""
        seen, hidden, actions, *targets = batch
        logits, values = self.network(seen, hidden)
        log_probs = logits.log_softmax(dim=1)
        entropy = -(log_probs.exp() * log_probs).sum(dim=1)
        losses, metrics = ppo_losses(
            values[:, None],
            log_probs.gather(1, actions[:, None])[:, 0],
            entropy,
            Targets(*targets),
            Clipping(ratio=self.flags.clip_range, normalize_advantage=False),
        )
        weights = {
            "value": self.flags.vf_coef,
            "entropy": self.falling(self.flags.ent_coef, self.flags.ent_coef_final),
        }
        norm = self.descend(weighted_sum(losses, weights))
        return {
            "policy_loss": losses["policy"].item(),
            "value_loss": losses["value"].item(),
            "entropy": -losses["entropy"].item(),
            "approx_kl": metrics["approx_kl"].item(),
            "clip_fraction": metrics["clip_fraction"].item(),
            "ppo/grad_norm": norm,
        }
