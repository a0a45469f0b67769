"""Demos as data for offline learning: python examples/offline_data.py demos/1-1.npz data.npz.

Plays each demo through the environment and keeps observations, actions and rewards: as arrays in
one .npz file, and, with --minari ID, as a Minari dataset too (pip install "minari[hdf5]").
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mario_config import EnvConfig
from mario_demos import DemoPlayer, load_demo
from mario_runtime import action_space, observation_space


class Episode(NamedTuple):
    """An episode of T steps; observations have T + 1 rows."""

    observations: np.ndarray
    actions: np.ndarray  # int64[T], the nearest in the action set where it lacks the buttons
    rewards: np.ndarray  # float32[T]
    terminations: np.ndarray  # bool[T]
    truncations: np.ndarray  # bool[T]


def read_episode(path: Path, config: EnvConfig) -> Episode:
    """Return what an agent with this config would have seen along a demo."""
    player = DemoPlayer(config, load_demo(path))
    observations, _ = player.env.reset(seed=0)
    seen, rows = [observations[0].copy()], []
    for action, _ in player.agent_steps():
        after, rewards, terminated, truncated, infos = player.env.step(np.array([action]))
        over = bool(terminated[0] or truncated[0])
        last = infos["final_obs"][0] if over else after[0]
        seen.append(last.copy())
        rows.append((action, rewards[0], terminated[0], truncated[0]))
        if over:
            break
    actions, paid, ended, cut = (np.array(column) for column in zip(*rows, strict=True))
    return Episode(np.array(seen), actions, paid.astype(np.float32), ended, cut)


def write_minari(name: str, episodes: Sequence[Episode], config: EnvConfig) -> Any:
    """Write a Minari dataset, under MINARI_DATASETS_PATH, and return it."""
    import minari
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(
            id=i,
            observations=list(episode.observations),
            actions=list(episode.actions),
            rewards=episode.rewards.tolist(),
            terminations=episode.terminations.tolist(),
            truncations=episode.truncations.tolist(),
        )
        for i, episode in enumerate(episodes)
    ]
    spaces: dict[str, Any] = {"observation_space": observation_space(config)}
    spaces["action_space"] = action_space(config)
    return minari.create_dataset_from_buffers(name, buffers, **spaces)


def main(arguments: Sequence[str] | None = None) -> list[Episode]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demos", nargs="+", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--observation", default="ram", choices=["pixels", "rgb", "ram", "scene"])
    parser.add_argument("--action-set", default="full")
    parser.add_argument("--minari", default="", help="name of the dataset, as mario/1-1/search-v0")
    flags = parser.parse_args(arguments)
    config = EnvConfig(n_envs=1, observation=flags.observation, action_set=flags.action_set)
    episodes = [read_episode(path, config) for path in flags.demos]
    arrays: dict[str, Any] = {
        f"{name}_{i}": values
        for i, episode in enumerate(episodes)
        for name, values in episode._asdict().items()
    }
    np.savez_compressed(flags.output, **arrays)
    if flags.minari:
        write_minari(flags.minari, episodes, config)
    for path, episode in zip(flags.demos, episodes, strict=True):
        print(f"{path}: {len(episode.actions)} steps, return {episode.rewards.sum():.1f}")
    return episodes


if __name__ == "__main__":
    main()
