"""The environment on the real game: wrappers, observations, seeds, worker processes."""

from __future__ import annotations

import dataclasses
import os
import signal
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from fastnes import BUTTON_BITS
from mario_cli import UsageError
from mario_config import EnvConfig, RewardConfig, buttons_of_actions
from mario_game import ACTION_SETS, action_buttons
from mario_runtime import make_single_env
from mario_sb3 import WorkerDied, make_vec_env
from mario_wrappers import MaxAndSkipFrame, SplitMix64

RIGHT = ACTION_SETS["simple"].index(["right"])


class CountingFrames(gym.Env):
    """Frame t of episode e is a screen of the value 10 e + t; ends after `length` frames."""

    observation_space = gym.spaces.Box(0, 255, (2, 2), np.uint8)
    action_space = gym.spaces.Discrete(1)

    def __init__(self, length: int) -> None:
        self.length, self.episode, self.frame = length, 0, 0

    def reset(self, **kwargs: object) -> tuple:
        self.episode, self.frame = self.episode + 1, 0
        return self.screen(), {}

    def step(self, action: object) -> tuple:
        self.frame += 1
        return self.screen(), 0.0, self.frame >= self.length, False, {}

    def screen(self) -> np.ndarray:
        return np.full((2, 2), 10 * self.episode + self.frame, np.uint8)


def test_action_sets_have_the_documented_sizes_and_buttons() -> None:
    sizes = {name: len(actions) for name, actions in ACTION_SETS.items()}
    assert sizes == {"right_only": 5, "simple": 7, "complex": 12, "fast": 5, "agile": 7, "full": 15}
    assert action_buttons("fast").tolist() == [0x82, 0x83, 0x00, 0x40, 0x01]
    for name, actions in ACTION_SETS.items():
        assert len(set(action_buttons(name).tolist())) == len(actions), "no action twice"


def test_max_and_skip_pools_the_last_two_frames_of_this_step_only() -> None:
    env = MaxAndSkipFrame(CountingFrames(length=5), skip=4)
    env.reset()
    screen, _, terminated, _, info = env.step(0)
    assert (screen[0, 0], terminated, info["frames"]) == (14, False, 4)
    screen, _, terminated, _, info = env.step(0)
    assert (screen[0, 0], terminated, info["frames"]) == (15, True, 1)
    env.env.reset()
    env.env.length = 1  # type: ignore[attr-defined]
    env.env.episode = 0  # type: ignore[attr-defined]
    screen, _, terminated, _, info = env.step(0)
    assert (screen[0, 0], info["frames"]) == (1, 1), "brighter frames of the last episode are gone"


def test_a_fresh_episode_has_facts_and_pays_nothing_for_standing() -> None:
    env = make_single_env(EnvConfig(noop_max=0, reward=RewardConfig(forward_reward_scale=1.0)))
    observation, info = env.reset(seed=0)
    assert observation.shape == (4, 84, 84)
    assert observation.dtype == np.uint8
    assert (info["x_pos"], info["max_x"], info["time"]) == (40, 40, 400)
    _, reward, _, _, info = env.step(0)
    assert reward == 0
    assert set(info["reward_terms"]) >= {"base", "forward", "flag", "death"}
    env.close()


def test_running_right_into_the_first_goomba_pays_and_kills() -> None:
    config = EnvConfig(noop_max=0, reward=RewardConfig(forward_reward_scale=1.0, death_penalty=5))
    env = make_single_env(config, seed=0)
    env.reset(seed=0)
    forward, x_before = 0.0, 40
    for _ in range(200):
        _, _, terminated, truncated, info = env.step(RIGHT)
        forward += info["reward_terms"]["forward"]
        assert info["max_x"] >= x_before
        x_before = info["max_x"]
        if terminated:
            break
    assert info["dead"]
    assert not truncated
    assert not info["flag_get"]
    assert info["reward_terms"]["death"] == -5
    assert forward == info["max_x"] - 40
    assert 250 < info["x_pos"] < 350
    env.close()


def episode(config: EnvConfig, seed: int, actions: np.ndarray) -> list:
    """x at every step of an episode."""
    env = make_single_env(config)
    env.reset(seed=seed)
    xs = []
    for action in actions:
        _, _, terminated, truncated, info = env.step(int(action))
        xs.append(info["x_pos"])
        if terminated or truncated:
            break
    env.close()
    return xs


def test_seeds_fix_noops_and_sticky_frames() -> None:
    config = EnvConfig(noop_max=30, sticky_prob=0.25)
    actions = np.random.default_rng(0).integers(0, 7, 60)
    assert episode(config, 5, actions) == episode(config, 5, actions)
    assert episode(config, 5, actions) != episode(config, 6, actions)


def test_sticky_frames_repeat_as_often_as_they_should() -> None:
    draws = SplitMix64(1000)
    for i in range(1000):
        draws.seed(i * 7919, i)
    uniforms = np.stack([draws.uniform() for _ in range(100)])
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    assert (uniforms < 0.25).mean() == pytest.approx(0.25, abs=0.005)
    correlation = np.corrcoef(uniforms[:-1].ravel(), uniforms[1:].ravel())[0, 1]
    assert abs(correlation) < 0.02


def test_splitmix_gives_the_published_numbers() -> None:
    # The first outputs of SplitMix64 for the seed 1234567, as its reference implementation prints.
    expected = [6457827717110365317, 3203168211198807973]
    draws = SplitMix64()
    draws.seed(1234567)
    for number in expected:
        assert draws.uniform()[0] == (number >> 11) * 2.0**-53


def test_the_long_jump_holds_its_buttons_and_is_the_last_action() -> None:
    config = EnvConfig(noop_max=0, long_jump_action=True, long_jump_hold_steps=5)
    buttons = buttons_of_actions(config)
    assert buttons[-1] == BUTTON_BITS["right"] | BUTTON_BITS["A"] | BUTTON_BITS["B"]
    env = make_single_env(config)
    env.reset(seed=0)
    _, _, _, _, info = env.step(len(buttons) - 1)
    assert info["frames"] == 20
    with pytest.raises(UsageError, match="action 8"):
        env.step(len(buttons))
    env.close()


def test_a_step_limit_truncates() -> None:
    env = make_single_env(EnvConfig(max_episode_steps=3, noop_max=0))
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    env.close()


def test_dummy_and_subproc_agree_and_keep_the_terminal_observation() -> None:
    actions = np.random.default_rng(1).integers(0, 7, (60, 2))
    records = []
    for backend in ("dummy", "subproc"):
        config = EnvConfig(n_envs=2, vec_backend=backend, max_episode_steps=25)
        venv = make_vec_env(config, seed=3)
        observations: list[Any] = [venv.reset()]
        rewards, dones, ends = [], [], []
        for action in actions:
            observation, reward, done, infos = venv.step(action)
            observations.append(observation)
            rewards.append(reward)
            dones.append(done)
            ends += [
                info["terminal_observation"] for info in infos if "terminal_observation" in info
            ]
            assert all(i["TimeLimit.truncated"] for i, d in zip(infos, done, strict=True) if d)
        venv.close()
        records.append((np.stack(observations), np.stack(rewards), np.stack(dones), np.stack(ends)))
    assert records[0][2].sum() == 4
    for one, other in zip(*records, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_killed_worker_is_named() -> None:
    venv = make_vec_env(EnvConfig(n_envs=2, vec_backend="subproc"), seed=0)
    venv.reset()
    os.kill(venv.processes[1].pid, signal.SIGKILL)  # type: ignore[attr-defined]
    with pytest.raises(WorkerDied, match="worker 1 of 2 died: exit code -9"):
        for _ in range(3):
            venv.step(np.zeros(2, dtype=np.int64))


def test_a_failing_worker_is_reported_with_its_traceback() -> None:
    venv = make_vec_env(EnvConfig(n_envs=2, vec_backend="subproc"), seed=0)
    venv.reset()
    with pytest.raises(WorkerDied, match=r"(?s)worker 0 of 2 died: Traceback.*action 99"):
        for _ in range(3):
            venv.step(np.array([99, 0]))


def test_shown_buttons_are_the_last_actions_and_nothing_else_changes() -> None:
    config = EnvConfig(n_envs=2, action_set="fast", noop_max=0)
    plain, shown = (
        make_vec_env(dataclasses.replace(config, show_buttons=on), seed=0) for on in (False, True)
    )
    assert not np.asarray(shown.reset())[:, :, :8].any()
    plain.reset()
    for venv in (plain, shown):
        venv.step(np.array([2, 2]))
    before, after = (np.asarray(venv.step(np.array([0, 4]))[0]) for venv in (plain, shown))
    np.testing.assert_array_equal(before[:, :, 8:], after[:, :, 8:])
    squares = after[:, :, 4, 5:80:10] // 255  # [2, frame_stack, 8], right first, A last
    assert squares[:, :3].sum() == 0, "no button in the steps before"
    assert squares[0, 3].tolist() == [1, 0, 0, 0, 0, 0, 1, 0], "right+B"
    assert squares[1, 3].tolist() == [0, 0, 0, 0, 0, 0, 0, 1], "A"
