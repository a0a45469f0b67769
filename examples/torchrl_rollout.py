"""TorchRL's GymEnv around one environment: python examples/torchrl_rollout.py --steps 200."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import tyro
from torchrl.envs import GymWrapper

import mario_gym


def main(steps: int = 200) -> Any:
    env = GymWrapper(gym.make("FastMario-1-1-v0", observation="ram"), device="cpu")
    env.set_seed(0)
    data = env.rollout(steps, break_when_any_done=False)
    env.close()
    print(f"{mario_gym.MarioEnv.__name__} in TorchRL: {data.batch_size} steps, {list(data.keys())}")
    return data


if __name__ == "__main__":
    tyro.cli(main)
