"""Stable-Baselines3's socket answers what its own `DummyVecEnv` answers."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from mario_cli import UsageError
from mario_config import EnvConfig
from mario_runtime import make_single_env
from mario_sb3 import make_vec_env

CONFIG = EnvConfig(n_envs=2, observation="ram")


@pytest.fixture
def venv() -> VecEnv:
    return make_vec_env(CONFIG, seed=0)


@pytest.fixture
def dummy() -> VecEnv:
    return DummyVecEnv([lambda: make_single_env(CONFIG)] * 2)


@pytest.mark.parametrize("name", ["action_space", "observation_space", "spec", "render_mode"])
def test_an_attribute_is_dummy_vec_envs(name: str, venv: VecEnv, dummy: VecEnv) -> None:
    assert venv.get_attr(name) == dummy.get_attr(name)
    assert len(VecMonitor(venv).get_attr(name, indices=1)) == 1


@pytest.mark.parametrize("name", ["metadata", "unwrapped", "np_random", "render", "reset"])
def test_an_attribute_is_there_for_each_environment(name: str, venv: VecEnv, dummy: VecEnv) -> None:
    for one, other in zip(venv.get_attr(name), dummy.get_attr(name), strict=True):
        assert callable(one) == callable(other)


def test_the_speed_of_films_is_that_of_a_step(venv: VecEnv, dummy: VecEnv) -> None:
    fps = venv.metadata["render_fps"]
    assert fps == venv.get_attr("metadata")[0]["render_fps"]
    assert fps == dummy.get_attr("metadata")[0]["render_fps"] == pytest.approx(15.0247)


def test_an_attribute_that_there_is_not_is_one_line(venv: VecEnv) -> None:
    with pytest.raises(AttributeError, match=r"^.*'lives'$"):
        venv.get_attr("lives")
    assert venv.env_method("has_wrapper_attr", "lives") == [False, False]


def test_one_environment_begins_anew_while_the_other_goes_on(venv: VecEnv) -> None:
    venv.reset()
    before, *_ = venv.step(np.array([1, 1]))
    [(seen, info)] = venv.env_method("reset", seed=3, options={"stage": "1-2"}, indices=1)
    assert info["start_stage"] == "1-2"
    after: Any = venv.env.observations  # type: ignore[attr-defined]
    np.testing.assert_array_equal(after[0], np.asarray(before)[0])
    np.testing.assert_array_equal(after[1], seen)


def test_a_snapshot_is_gone_back_to(venv: VecEnv) -> None:
    venv.reset()
    [snapshot] = venv.env_method("snapshot", indices=0)
    first, *_ = venv.step(np.array([1, 1]))
    venv.env_method("restore", snapshot, indices=0)
    again, *_ = venv.step(np.array([1, 1]))
    np.testing.assert_array_equal(np.asarray(first)[0], np.asarray(again)[0])


def test_options_of_the_next_reset_are_heeded(venv: VecEnv, dummy: VecEnv) -> None:
    for one in (venv, dummy):
        one.set_options({"noops": 7})
        one.seed(1)
    np.testing.assert_array_equal(venv.reset(), dummy.reset())
    venv.set_options([{"stage": "1-2"}, {}])
    venv.reset()
    assert [info["start_stage"] for info in venv.reset_infos] == ["1-2", "1-1"]


def test_numpys_seeds_are_seeds(venv: VecEnv) -> None:
    assert venv.seed(np.int64(3)) == [3, 4]  # type: ignore[arg-type]
    first = venv.reset()
    venv.seed(3)
    np.testing.assert_array_equal(first, venv.reset())


@pytest.mark.parametrize("seed", [-1, 1.5, True], ids=repr)
def test_a_wrong_seed_is_one_line(seed: Any, venv: VecEnv) -> None:
    with pytest.raises(UsageError, match="seed"):
        venv.seed(seed)


@pytest.mark.parametrize("wrong", [[1.9, 2.2], [0, 1, 2, 3], [0], [[1], [1]]], ids=repr)
def test_wrong_actions_are_one_line(wrong: Any, venv: VecEnv) -> None:
    venv.reset()
    with pytest.raises(UsageError, match="one for each of 2"):
        venv.step(np.array(wrong))


def test_a_batch_has_no_wrappers(venv: VecEnv) -> None:
    assert venv.env_is_wrapped(gym.Wrapper) == [False, False]
