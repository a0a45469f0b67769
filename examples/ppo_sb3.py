"""Stable-Baselines3's PPO on 8 environments: python examples/ppo_sb3.py --steps 100000."""

from __future__ import annotations

import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from mario_config import EnvConfig, RewardConfig
from mario_sb3 import make_vec_env


def main(steps: int = 100_000, n_envs: int = 8, n_steps: int = 128) -> PPO:
    reward = RewardConfig(forward_reward_scale=0.1, base_reward_scale=0.0, death_penalty=5.0)
    envs = VecMonitor(make_vec_env(EnvConfig(n_envs=n_envs, reward=reward), seed=0))
    batch = min(256, n_envs * n_steps)
    model = PPO("CnnPolicy", envs, n_steps=n_steps, batch_size=batch, device="cpu", verbose=1)
    model.learn(steps)
    envs.close()
    return model


if __name__ == "__main__":
    tyro.cli(main)
