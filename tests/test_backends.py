"""fastnes and nes-py, batched and single: one environment, whatever runs it."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest

from mario_runtime import EnvConfig, RewardConfig, UsageError, make_vec_env

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


def compare(config: EnvConfig, other: EnvConfig, steps: int, seed: int = 0) -> int:
    """Step two vec envs with the same actions, compare everything, return the episodes ended."""
    venvs = [make_vec_env(c, seed=seed) for c in (config, other)]
    n_actions = venvs[0].action_space.n  # type: ignore[attr-defined]
    rng = np.random.default_rng(seed)
    # Actions are held for a while, mostly to the right: Mario gets somewhere, and dies.
    favoured = np.r_[np.arange(n_actions), np.repeat(np.arange(1, min(5, n_actions)), 3)]
    ended = 0
    try:
        np.testing.assert_array_equal(venvs[0].reset(), venvs[1].reset())
        assert venvs[0].reset_infos == venvs[1].reset_infos
        for step in range(steps):
            if step % 6 == 0:
                actions = rng.choice(favoured, size=config.n_envs)
            (o1, r1, d1, i1), (o2, r2, d2, i2) = [venv.step(actions) for venv in venvs]
            np.testing.assert_array_equal(o1, o2, err_msg=f"observations at step {step}")
            np.testing.assert_array_equal(r1, r2, err_msg=f"rewards at step {step}")
            np.testing.assert_array_equal(d1, d2, err_msg=f"dones at step {step}")
            for one, two in zip(i1, i2, strict=True):
                end, other_end = (i.pop("terminal_observation", None) for i in (one, two))
                np.testing.assert_array_equal(end, other_end)
                assert one == two, f"infos at step {step}"
            ended += int(d1.sum())
            if d1.any():
                assert venvs[0].reset_infos == venvs[1].reset_infos
    finally:
        for venv in venvs:
            venv.close()
    return ended


def on_nes_py(config: EnvConfig) -> EnvConfig:
    return dataclasses.replace(config, emulator="nes-py", vec_backend="dummy")


@pytest.mark.parametrize(
    "changes",
    [
        {"noop_max": 0, "sticky_prob": 0.25},
        {"long_jump_action": True, "sticky_prob": 0.25},
        {"max_episode_steps": 50, "frame_skip": 3, "frame_stack": 2, "screen_size": 64},
        {"show_buttons": True, "long_jump_action": True, "sticky_prob": 0.25},
    ],
    ids=["sticky", "long-jump", "other-sizes", "show-buttons"],
)
def test_batched_equals_single(changes: dict) -> None:
    config = EnvConfig(n_envs=3, reward=REWARD, **changes)
    assert compare(config, dataclasses.replace(config, vec_backend="dummy"), steps=300) > 0


def test_batched_equals_nes_py() -> None:
    config = EnvConfig(n_envs=2, action_set="complex", sticky_prob=0.25, reward=REWARD)
    assert compare(config, on_nes_py(config), steps=150) > 0


@pytest.mark.slow
@pytest.mark.parametrize("stage", [(1, 1), (2, 2), (8, 4)], ids=["1-1", "2-2", "8-4"])
def test_batched_equals_nes_py_for_long(stage: tuple[int, int]) -> None:
    world, number = stage
    config = EnvConfig(
        world=world, stage=number, n_envs=2, action_set="full", sticky_prob=0.25, reward=REWARD
    )
    assert compare(config, on_nes_py(config), steps=5000, seed=1) > 3


def test_a_batch_continues_exactly_from_its_state() -> None:
    config = EnvConfig(n_envs=3, sticky_prob=0.25, reward=REWARD, max_episode_steps=60)
    first, second = make_vec_env(config, seed=0), make_vec_env(config, seed=99)
    rng = np.random.default_rng(0)
    first.reset()
    second.reset()
    for _ in range(100):
        first.step(rng.integers(0, 7, 3))
    second.load_state_dict(first.state_dict())  # type: ignore[attr-defined]
    for _ in range(150):
        actions = rng.integers(0, 7, 3)
        (o1, r1, d1, i1), (o2, r2, d2, i2) = first.step(actions), second.step(actions)
        np.testing.assert_array_equal(o1, o2)
        np.testing.assert_array_equal(r1, r2)
        np.testing.assert_array_equal(d1, d2)
        assert [i["x_pos"] for i in i1] == [i["x_pos"] for i in i2]


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
