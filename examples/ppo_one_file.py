"""PPO in one file on the batched environment: python examples/ppo_one_file.py --steps 1000000.

Proximal Policy Optimization (Schulman et al. 2017) with generalized advantage estimation, as short
as it can be read. `train_mario.py` is the one that was measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

import mario_gym


class Flags(NamedTuple):
    """What a run is made from."""

    steps: int  # agent steps in all
    envs: int  # side by side
    rollout: int  # steps an environment between two updates
    batches: int  # an epoch
    epochs: int  # an update
    learning_rate: float
    gamma: float
    lam: float  # of the advantage estimate
    clip: float
    entropy: float  # weight of its bonus
    seed: int


class Net(nn.Module):
    """Screens uint8[n, 4, 84, 84] to logits [n, actions] and values [n]."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU()),
        )
        self.policy, self.value = nn.Linear(512, actions), nn.Linear(512, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                gain = 0.01 if layer is self.policy else 1.0 if layer is self.value else 2**0.5
                nn.init.orthogonal_(layer.weight, gain)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, screens: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(screens / 255.0)
        return self.policy(features), self.value(features).squeeze(-1)


class Rollout(NamedTuple):
    """What was played: [rollout, envs, ...] each."""

    screens: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor
    over: Tensor  # the step ended its episode


def advantages_of(played: Rollout, last_value: Tensor, gamma: float, lam: float) -> Tensor:
    """Return generalized advantage estimates, float [rollout, envs]."""
    advantages = torch.zeros_like(played.rewards)
    following, after = torch.zeros_like(last_value), last_value
    for t in reversed(range(len(played.rewards))):
        goes_on = 1.0 - played.over[t]
        delta = played.rewards[t] + gamma * goes_on * after - played.values[t]
        following = delta + gamma * lam * goes_on * following
        advantages[t], after = following, played.values[t]
    return advantages


def loss_of(net: Net, batch: Sequence[Tensor], flags: Flags) -> Tensor:
    """Return PPO's loss of (screens, actions, old log-probabilities, advantages, returns)."""
    screens, actions, old, advantages, returns = batch
    logits, values = net(screens)
    chosen = torch.distributions.Categorical(logits=logits)
    ratio = (chosen.log_prob(actions) - old).exp()
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    clipped = ratio.clamp(1 - flags.clip, 1 + flags.clip)
    policy = -torch.min(ratio * advantages, clipped * advantages).mean()
    value = 0.5 * (values - returns).pow(2).mean()
    return policy + 0.5 * value - flags.entropy * chosen.entropy().mean()


@torch.no_grad()
def play(
    net: Net, envs: gym.vector.VectorEnv, screens: np.ndarray, flags: Flags
) -> tuple[Rollout, np.ndarray, list[int]]:
    """Return a rollout, the screens after it, and how far the episodes that ended came."""
    rows: list[tuple[Tensor, ...]] = []
    reached: list[int] = []
    for _ in range(flags.rollout):
        seen = torch.from_numpy(screens)
        logits, values = net(seen)
        chosen = torch.distributions.Categorical(logits=logits)
        actions = chosen.sample()
        screens, rewards, terminated, truncated, infos = envs.step(actions.numpy())
        over = terminated | truncated
        if over.any():
            reached += infos["final_info"]["max_x"][over].tolist()
        paid, ended = torch.from_numpy(rewards), torch.from_numpy(over.astype(np.float32))
        rows.append((seen, actions, chosen.log_prob(actions), values, paid, ended))
    return Rollout(*map(torch.stack, zip(*rows, strict=True))), screens, reached


def learn(
    net: Net, optimizer: torch.optim.Optimizer, played: Rollout, last: Tensor, flags: Flags
) -> None:
    """Improve the network by some epochs over a rollout."""
    advantages = advantages_of(played, last, flags.gamma, flags.lam)
    columns = (played.screens, played.actions, played.log_probs, advantages)
    data = [column.flatten(0, 1) for column in (*columns, advantages + played.values)]
    for _ in range(flags.epochs):
        for rows in torch.randperm(len(data[0])).chunk(flags.batches):
            optimizer.zero_grad()
            loss_of(net, [column[rows] for column in data], flags).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()


def main(arguments: Sequence[str] | None = None) -> Net:
    defaults = Flags(1_000_000, 16, 128, 8, 4, 2.5e-4, 0.99, 0.95, 0.1, 0.01, 0)
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in defaults._asdict().items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(value), default=value)
    flags = Flags(**vars(parser.parse_args(arguments)))
    torch.manual_seed(flags.seed)
    reward = {"base_reward_scale": 0.0, "forward_reward_scale": 0.1, "death_penalty": 5.0}
    envs = gym.make_vec(
        f"{mario_gym.__name__}:FastMario-1-1-v0",
        num_envs=flags.envs,
        vectorization_mode="vector_entry_point",
        reward=reward,
    )
    net = Net(int(envs.single_action_space.n))  # type: ignore[attr-defined]
    optimizer = torch.optim.Adam(net.parameters(), flags.learning_rate, eps=1e-5)
    screens, _ = envs.reset(seed=flags.seed)
    for done in range(0, flags.steps, flags.envs * flags.rollout):
        played, screens, reached = play(net, envs, screens, flags)
        with torch.no_grad():
            last = net(torch.from_numpy(screens))[1]
        learn(net, optimizer, played, last, flags)
        print(f"{done + flags.envs * flags.rollout} steps, episodes reached {reached[-5:]}")
    envs.close()
    return net


if __name__ == "__main__":
    main()
