"""Every example runs, at a tiny budget, and does what its first line says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from examples import offline_data, ppo_one_file, ppo_sb3, random_agent, tree_search

ROOT = Path(__file__).resolve().parent.parent


def test_the_random_agent_walks() -> None:
    assert random_agent.main(steps=100) > 40


def test_the_random_agent_is_20_lines_of_code() -> None:
    text = (ROOT / "examples" / "random_agent.py").read_text(encoding="utf-8")
    code = [line for line in text[text.index("def main") :].splitlines() if line]
    assert len(code) <= 20
    done = subprocess.run(
        [sys.executable, "examples/random_agent.py", "--steps", "20"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "20 steps" in done.stdout


def test_ppo_in_one_file_changes_its_network() -> None:
    first = ppo_one_file.main(["--steps", "0", "--envs", "2", "--rollout", "8"])
    flags = "--steps 16 --envs 2 --rollout 8 --batches 2 --epochs 1".split()
    learnt = ppo_one_file.main(flags)
    weights = zip(first.parameters(), learnt.parameters(), strict=True)
    assert all(not torch.equal(one, other) for one, other in weights)


def test_ppo_in_one_file_estimates_advantages_as_by_hand() -> None:
    rewards, values = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5], [0.25]])
    over = torch.tensor([[0.0], [1.0]])
    nothing = torch.zeros(2, 1)
    played = ppo_one_file.Rollout(nothing, nothing, nothing, values, rewards, over)
    found = ppo_one_file.advantages_of(played, torch.tensor([9.0]), gamma=0.5, lam=0.5)
    last = 2.0 - 0.25  # the episode ended: what comes after counts for nothing
    first = 1.0 + 0.5 * 0.25 - 0.5 + 0.5 * 0.5 * last
    assert found.flatten().tolist() == [first, last]


def test_sb3_learns_on_the_batch() -> None:
    assert ppo_sb3.main(steps=16, n_envs=2, n_steps=8).num_timesteps == 16


def test_the_tree_search_finds_actions_that_lead_there_again() -> None:
    import gymnasium as gym

    best = tree_search.main(rounds=25)
    env = gym.make("FastMario-1-1-v0", observation="ram", action_set="fast", noop_max=0)
    _, info = env.reset(seed=0)
    for action in best.actions:
        _, _, _, _, info = env.step(action)
    assert info["x_pos"] == best.x > 200


def test_demos_become_arrays(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    [episode] = offline_data.main([str(ROOT / "demos" / "1-1.npz"), str(path)])
    with np.load(path) as arrays:
        assert len(arrays["observations_0"]) == len(arrays["actions_0"]) + 1
        assert arrays["terminations_0"][-1]
        assert not arrays["terminations_0"][:-1].any()
        np.testing.assert_array_equal(arrays["rewards_0"], episode.rewards)


def test_demos_become_a_minari_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    demo, output = str(ROOT / "demos" / "1-1.npz"), str(tmp_path / "data.npz")
    [episode] = offline_data.main([demo, output, "--minari", "mario/1-1/search-v0"])
    import minari

    [read] = minari.load_dataset("mario/1-1/search-v0").iterate_episodes()
    np.testing.assert_array_equal(read.observations, episode.observations)
    np.testing.assert_array_equal(read.actions, episode.actions)


def test_torchrl_plays() -> None:
    pytest.importorskip("torchrl")
    from examples import torchrl_rollout

    data = torchrl_rollout.main(steps=12)
    assert data.batch_size == (12,)
    assert data["observation"].shape == (12, 2048)


def test_pufferlib_plays() -> None:
    pytest.importorskip("pufferlib")
    from examples import pufferlib_rollout

    ended = pufferlib_rollout.main(steps=60, batches=2, agents=4)
    assert ended
    assert all(40 <= info["max_x"] < 3000 for info in ended)
