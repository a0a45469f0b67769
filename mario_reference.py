"""The reference: gym-super-mario-bros on nes-py, which fastnes equals; imported where it runs."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gym_super_mario_bros.smb_env import SuperMarioBrosEnv

from mario_game import SCREEN_SHAPE, facts_as_dicts, read_facts


class NesPyMarioEnv(SuperMarioBrosEnv):
    """gym-super-mario-bros's single-stage environment, seen through this project's facts.

    As `mario_wrappers.FastMarioEnv`. Its own interventions (start screen, pre-level and area-change
    timers, busy frames) stay; its reward, which pays score, coins and power-ups too, is not
    computed.
    """

    observation_space = gym.spaces.Box(0, 255, SCREEN_SHAPE, np.uint8)

    def __init__(self, world: int, stage: int) -> None:
        super().__init__(target=(world, stage), render_mode="rgb_array")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        _, info = super().reset(seed=seed, options=options)
        return self.observation("grayscale"), info

    def step(self, action: int) -> Any:
        _, _, terminated, truncated, info = super().step(int(action))
        return self.observation("grayscale"), 0.0, terminated, truncated, info

    def _get_reward(self) -> float:
        return 0.0

    def _get_info(self) -> dict[str, Any]:
        self.ram_before = np.array(self.ram)  # uint8[2048], as the frame left it
        return facts_as_dicts(read_facts(self.ram_before[None]))[0]
