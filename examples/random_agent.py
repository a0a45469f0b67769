"""An agent in 20 lines: python examples/random_agent.py --steps 1000."""

from __future__ import annotations

import gymnasium as gym
import tyro

import mario_gym


def main(steps: int = 1000) -> float:
    env = gym.make("FastMario-1-1-v0", observation="pixels", action_set="simple")
    env.action_space.seed(0)
    env.reset(seed=0)
    furthest = 0.0
    for _ in range(steps):
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        furthest = max(furthest, info["max_x"])
        if terminated or truncated:
            env.reset()
    env.close()
    print(f"{mario_gym.MarioEnv.__name__}: {steps} steps, furthest x {furthest}")
    return furthest


if __name__ == "__main__":
    tyro.cli(main)
