"""The rollout loop, the protocols and the figures they give, on the real game."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from mario_rollout import (
    Episode,
    RandomPolicy,
    best_episode,
    evaluate,
    film,
    play,
    protocol_config,
    select_actions,
    summarize,
    wilson_interval,
    write_video,
)
from mario_runtime import EnvConfig, UsageError

ENV = EnvConfig(n_envs=2, vec_backend="dummy")
RANDOM = RandomPolicy(ENV, 7)


def made_up(length: int, max_x: int, flag: bool) -> Episode:
    return Episode(0, (0,) * length, 1.0, max_x, flag, max_x, False)


def test_an_episode_is_its_seed_whoever_plays_beside_it() -> None:
    config = protocol_config(ENV, "sticky")
    together = play(RANDOM, config, 3, deterministic=False, seed=7, max_steps=40)
    alone = play(
        RANDOM, dataclasses.replace(config, n_envs=1), 1, deterministic=False, seed=9, max_steps=40
    )
    assert together[2] == alone[0]
    assert [episode.seed for episode in together] == [7, 8, 9]
    assert len({episode.actions for episode in together}) == 3


def test_film_replays_the_episode_to_its_end_and_notices_another(tmp_path: Path) -> None:
    config = protocol_config(ENV, "sticky")
    episode = play(RANDOM, config, 1, deterministic=False, seed=3, max_steps=25)[0]
    path = tmp_path / "episode.mp4"
    assert write_video(path, film(episode, config), fps=15) == episode.length + 1
    frames = imageio.mimread(path, memtest=False)
    assert frames[0].shape == (480, 512, 3)
    assert len(frames) == episode.length + 1
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 1, "the picture moves"
    with pytest.raises(RuntimeError, match="replay of seed 3 ended"):
        list(film(dataclasses.replace(episode, end_x=episode.end_x + 1), config))


def test_fixed_argmax_is_one_episode_and_says_so() -> None:
    summary, episodes = evaluate(
        RANDOM, ENV, protocol="fixed", episodes=5, deterministic=True, max_steps=5
    )
    assert len(episodes) == summary.episodes == 1
    assert "instead of 5" in summary.note
    summary, episodes = evaluate(
        RANDOM, ENV, protocol="fixed", episodes=3, deterministic=False, max_steps=5
    )
    assert len(episodes) == 3
    assert not summary.note


def test_protocols_set_noops_and_sticky_frames() -> None:
    settings = {
        name: (config.noop_max, config.sticky_prob)
        for name in ("fixed", "noop", "sticky")
        if (config := protocol_config(ENV, name))  # type: ignore[arg-type]
    }
    assert settings == {"fixed": (0, 0.0), "noop": (30, 0.0), "sticky": (30, 0.25)}
    with pytest.raises(UsageError, match="no protocol 'loud'"):
        protocol_config(ENV, "loud")  # type: ignore[arg-type]


def test_sampling_follows_the_softmax_and_argmax_the_largest() -> None:
    logits = np.tile(np.log([0.7, 0.2, 0.1]).astype(np.float32), (20_000, 1))
    rngs = [np.random.default_rng(0)] * len(logits)
    shares = np.bincount(select_actions(logits, False, rngs)) / len(logits)
    np.testing.assert_allclose(shares, [0.7, 0.2, 0.1], atol=0.015)
    assert set(select_actions(logits, True, rngs)) == {0}


def test_wilson_interval_of_known_cases() -> None:
    # Wilson 1927; values as in Brown, Cai, DasGupta 2001 and by hand for 0 of n: z^2 / (n + z^2).
    assert wilson_interval(0, 100) == pytest.approx((0.0, 0.036994), abs=1e-5)
    assert wilson_interval(100, 100) == pytest.approx((0.963006, 1.0), abs=1e-5)
    assert wilson_interval(50, 100) == pytest.approx((0.403832, 0.596168), abs=1e-5)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_summary_figures_by_hand() -> None:
    episodes = [made_up(300, 3161, True), made_up(280, 3161, True), made_up(90, 700, False)]
    summary = summarize(episodes, ENV, protocol="noop", deterministic=True, seed=0, model="m")
    assert (summary.flags_cleared, summary.clear_rate) == (2, pytest.approx(2 / 3))
    assert (summary.best_clear_steps, summary.median_clear_steps) == (280, 290)
    assert (summary.median_max_x, summary.best_max_x) == (3161, 3161)
    assert summary.episode_lengths == [300, 280, 90]
    none = summarize(episodes[2:], ENV, protocol="noop", deterministic=True, seed=0, model="m")
    assert (none.best_clear_steps, none.median_clear_steps) == (None, None)
    assert summary.rank > none.rank


def test_the_best_episode_is_the_fastest_clear_else_the_furthest() -> None:
    slow, fast = made_up(300, 3161, True), made_up(280, 3161, True)
    far, near = made_up(50, 2000, False), made_up(400, 1000, False)
    assert best_episode([slow, far, fast, near]) is fast
    assert best_episode([near, far]) is far
