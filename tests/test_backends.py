"""fastnes and nes-py, batched and single: one environment, whatever runs it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from mario_cli import UsageError
from mario_config import EnvConfig, RewardConfig
from mario_game import parse_stages
from mario_runtime import MarioVectorEnv, action_space, make_single_env, make_vector_env
from mario_sb3 import make_vec_env

REWARD = RewardConfig(
    forward_reward_scale=0.15,
    backward_penalty_scale=0.05,
    flag_bonus=200.0,
    death_penalty=5.0,
    stall_steps=40,
    stall_penalty=0.1,
    end_on_stall_steps=80,
    end_on_stall_penalty=1.0,
    milestone_step=50,
    milestone_bonus=0.5,
    hurdle_x=(600, 1200),
    hurdle_bonus=10.0,
    time_penalty_per_step=0.02,
    goal_potential_scale=0.01,
)


def single_envs(config: EnvConfig) -> SyncVectorEnv:
    make = functools.partial(make_single_env, config)
    return SyncVectorEnv([make] * config.n_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def assert_infos_equal(one: dict[str, Any], two: dict[str, Any], where: str) -> None:
    """Compare what is masked in; `infos` of vector environments say nothing elsewhere."""
    assert one.keys() == two.keys(), where
    for name in one:
        if name.startswith("_"):
            np.testing.assert_array_equal(one[name], two[name], err_msg=f"{name} {where}")
        elif isinstance(one[name], dict):
            assert_infos_equal(one[name], two[name], f"{name} {where}")
        else:
            for a, b in zip(one[name][one["_" + name]], two[name][two["_" + name]], strict=True):
                np.testing.assert_array_equal(a, b, err_msg=f"{name} {where}")


def compare(config: EnvConfig, other: VectorEnv, steps: int, seed: int = 0) -> int:
    """Step two vector environments with the same actions and compare everything.

    Returns the episodes ended.
    """
    envs = [make_vector_env(config), other]
    n_actions = int(action_space(config).n)
    rng = np.random.default_rng(seed)
    # Actions are held for a while, mostly to the right: Mario gets somewhere, and dies.
    favoured = np.r_[np.arange(n_actions), np.repeat(np.arange(1, min(5, n_actions)), 3)]
    ended = 0
    try:
        (o1, i1), (o2, i2) = [env.reset(seed=seed) for env in envs]
        np.testing.assert_array_equal(o1, o2)
        assert_infos_equal(i1, i2, "at the start")
        for step in range(steps):
            if step % 6 == 0:
                actions = rng.choice(favoured, size=config.n_envs)
            one, two = [env.step(actions) for env in envs]
            for name, a, b in zip(
                ("observations", "rewards", "dead", "cut"), one, two, strict=False
            ):
                if name == "rewards":
                    b = np.asarray(b, np.float32)
                np.testing.assert_array_equal(a, b, err_msg=f"{name} at step {step}")
            assert_infos_equal(one[4], two[4], f"at step {step}")
            ended += int((one[2] | one[3]).sum())
    finally:
        for env in envs:
            env.close()
    return ended


def on_nes_py(config: EnvConfig) -> EnvConfig:
    return dataclasses.replace(config, emulator="nes-py", vec_backend="dummy")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"noop_max": 0, "sticky_prob": 0.25}, id="sticky"),
        pytest.param({"observation": "scene", "sticky_prob": 0.25}, id="scene"),
        pytest.param({"observation": "ram", "max_episode_steps": 9}, id="all-end-at-once"),
        *(
            pytest.param(changes, id=name, marks=pytest.mark.slow)
            for name, changes in {
                "long-jump": {"long_jump_action": True, "sticky_prob": 0.25},
                "other-sizes": {
                    "max_episode_steps": 50,
                    "frame_skip": 3,
                    "frame_stack": 2,
                    "screen_size": 64,
                },
                "show-buttons": {
                    "show_buttons": True,
                    "long_jump_action": True,
                    "sticky_prob": 0.25,
                },
                "crop": {"crop": "playfield", "screen_size": 96},
                "color": {
                    "observation": "color",
                    "crop": "playfield",
                    "screen_size": 64,
                    "frame_stack": 2,
                    "long_jump_action": True,
                    "show_buttons": True,
                },
                "ram": {"observation": "ram", "sticky_prob": 0.25},
                "rgb": {"observation": "rgb"},
            }.items()
        ),
    ],
)
def test_batched_equals_single(changes: dict) -> None:
    config = EnvConfig(n_envs=3, reward=REWARD, **changes)
    assert compare(config, single_envs(config), steps=300) > 0


@pytest.mark.parametrize(
    ("observation", "crop"),
    [
        *(("pixels", "none"), ("pixels", "playfield"), ("color", "none"), ("color", "playfield")),
        *(("rgb", "none"), ("ram", "none"), ("scene", "none")),
    ],
)
def test_batched_equals_nes_py(observation: Any, crop: Any) -> None:
    config = EnvConfig(
        n_envs=2,
        action_set="complex",
        sticky_prob=0.25,
        reward=REWARD,
        observation=observation,
        crop=crop,
    )
    assert compare(config, make_vector_env(on_nes_py(config)), steps=150) > 0


@pytest.mark.slow
@pytest.mark.parametrize("stages", ["1-1", "2-2", "8-4"])
def test_batched_equals_nes_py_for_long(stages: str) -> None:
    config = EnvConfig(
        stages=parse_stages(stages), n_envs=2, action_set="full", sticky_prob=0.25, reward=REWARD
    )
    assert compare(config, make_vector_env(on_nes_py(config)), steps=5000, seed=1) > 3


def test_a_batch_continues_exactly_from_its_state() -> None:
    config = EnvConfig(n_envs=3, sticky_prob=0.25, reward=REWARD, max_episode_steps=60)
    first, second = MarioVectorEnv(config), MarioVectorEnv(config)
    rng = np.random.default_rng(0)
    first.reset(seed=0)
    second.reset(seed=99)
    for _ in range(100):
        first.step(rng.integers(0, 7, 3))
    second.load_state_dict(first.state_dict())
    for step in range(150):
        actions = rng.integers(0, 7, 3)
        one, two = first.step(actions), second.step(actions)
        for a, b in zip(one[:4], two[:4], strict=True):
            np.testing.assert_array_equal(a, b)
        assert_infos_equal(one[4], two[4], f"at step {step}")


def test_a_batch_keeps_sb3s_contract() -> None:
    config = EnvConfig(n_envs=3, max_episode_steps=2)
    venv = make_vec_env(config, seed=0)
    first = venv.reset()
    kept = np.copy(first)  # type: ignore[arg-type]
    venv.step(np.zeros(3, dtype=np.int64))
    np.testing.assert_array_equal(first, kept, err_msg="a returned observation was overwritten")
    _, _, dones, infos = venv.step(np.zeros(3, dtype=np.int64))
    assert dones.all()
    assert all(info["TimeLimit.truncated"] for info in infos)
    assert all(info["terminal_observation"].shape == (4, 84, 84) for info in infos)
    assert venv.seed(5) == [5, 6, 7]
    again = venv.reset()
    venv.seed(5)
    np.testing.assert_array_equal(again, venv.reset())
    assert [np.asarray(image).shape for image in venv.get_images()] == [(240, 256, 3)] * 3
    assert len(venv.env_method("render", indices=[0, 2])) == 2
    assert venv.get_attr("render_mode") == ["rgb_array"] * 3
    assert venv.env_is_wrapped(gym.Wrapper, indices=1) == [False]
    with pytest.raises(UsageError, match="action 7"):
        venv.step(np.array([0, 7, 0]))


def test_batched_needs_the_fast_emulator() -> None:
    with pytest.raises(UsageError, match="needs --emulator fast"):
        EnvConfig(emulator="nes-py")
