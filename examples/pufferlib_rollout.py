"""PufferLib's vectors of whole batches: python examples/pufferlib_rollout.py --steps 200.

A batch is one native environment of PufferLib, whose buffers it fills; PufferLib runs several of
them, here one after the other, with `backend=pufferlib.vector.Multiprocessing` in processes.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pufferlib
import pufferlib.vector
import tyro

import mario_gym


class PufferMario(pufferlib.PufferEnv):
    """A batch of environments as PufferLib's `PufferEnv`: an agent each."""

    def __init__(self, agents: int = 8, buf: Any = None, seed: int = 0, **keywords: Any) -> None:
        self.envs = mario_gym.make_vector(num_envs=agents, copy=False, **keywords)
        self.single_observation_space = self.envs.single_observation_space
        self.single_action_space = self.envs.single_action_space
        self.num_agents = agents
        super().__init__(buf)

    def reset(self, seed: int | None = None) -> tuple[np.ndarray, list[dict[str, Any]]]:
        self.observations[:], _ = self.envs.reset(seed=seed)
        return self.observations, []

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        seen, rewards, terminals, truncations, infos = self.envs.step(actions)
        self.observations[:], self.rewards[:] = seen, rewards
        self.terminals[:], self.truncations[:] = terminals, truncations
        ended = np.flatnonzero(terminals | truncations)
        said = [{"max_x": int(infos["final_info"]["max_x"][i])} for i in ended]
        return self.observations, self.rewards, self.terminals, self.truncations, said

    def close(self) -> None:
        self.envs.close()


def main(steps: int = 200, batches: int = 2, agents: int = 8) -> list[dict[str, Any]]:
    keywords = {"agents": agents, "stages": "1-1", "observation": "ram"}
    envs = pufferlib.vector.make(
        PufferMario, env_kwargs=keywords, num_envs=batches, backend=pufferlib.vector.Serial
    )
    observations, _ = envs.reset(seed=0)
    assert isinstance(envs.single_action_space, gym.spaces.Discrete)
    rng, ended = np.random.default_rng(0), []
    for _ in range(steps):
        actions = rng.integers(0, envs.single_action_space.n, len(observations))
        observations, _, _, _, infos = envs.step(actions)
        ended += infos
    envs.close()
    print(f"{observations.shape} in PufferLib: {steps} steps, {len(ended)} episodes ended")
    return ended


if __name__ == "__main__":
    tyro.cli(main)
