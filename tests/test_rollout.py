"""The rollout loop, the protocols and the figures they give, on the real game."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
from PIL import Image

from mario_cli import UsageError
from mario_config import EnvConfig
from mario_demos import record, replay
from mario_rollout import (
    Episode,
    RandomPolicy,
    best_episode,
    evaluate,
    film,
    film_with_captions,
    furthest,
    play,
    protocol_config,
    scaled,
    select_actions,
    summarize,
    watch,
    wilson_interval,
    write_video,
)

ENV = EnvConfig(n_envs=2, vec_backend="dummy")
RANDOM = RandomPolicy(ENV, 7)


def made_up(length: int, max_x: int, flag: bool) -> Episode:
    return Episode(0, (0,) * length, 1.0, max_x, flag, max_x, False)


def test_an_episode_is_its_seed_whoever_plays_beside_it() -> None:
    config = protocol_config(ENV, "sticky")
    batched = dataclasses.replace(config, vec_backend="batched", n_envs=3)
    ended: list[int] = []
    together = play(
        RANDOM,
        batched,
        7,
        deterministic=False,
        seed=5,
        max_steps=120,
        on_episode=lambda episode: ended.append(episode.seed),
    )
    assert [episode.seed for episode in together] == sorted(ended) == [5, 6, 7, 8, 9, 10, 11]
    assert len({episode.length for episode in together}) > 1, "places were refilled at times apart"
    assert len({episode.actions for episode in together}) == 7
    # The last ones began where another had ended, between others, in either kind of batch.
    for n_envs in (1, 2):
        beside = dataclasses.replace(config, n_envs=n_envs)
        again = play(RANDOM, beside, 3, deterministic=False, seed=9, max_steps=120)
        assert again == together[4:]


class Remembering(RandomPolicy):
    """Counts the steps since the episode's start, as memory does; waits in odd ones."""

    def initial_state(self, n: int) -> np.ndarray:  # type: ignore[override]
        return np.zeros(n)

    def logits(self, observations, previous_actions, state):  # type: ignore[no-untyped-def]
        state = np.where(previous_actions < 0, 0, state + 1)
        logits = np.zeros((len(state), self.n_actions), dtype=np.float32)
        logits[np.arange(len(state)), np.where(state % 2, 0, 3)] = 1
        return logits, state


def test_a_policy_with_memory_begins_anew_where_a_place_is_refilled() -> None:
    config = protocol_config(dataclasses.replace(ENV, vec_backend="batched"), "noop")
    episodes = play(Remembering(ENV, 7), config, 5, deterministic=True, max_steps=7)
    assert {episode.actions for episode in episodes} == {(3, 0, 3, 0, 3, 0, 3)}


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


class Expecting(RandomPolicy):
    """A random policy with a value, so that captions have one to show."""

    def values(self, observations: np.ndarray, state: None) -> np.ndarray:
        return observations.mean(axis=(1, 2, 3))


@pytest.mark.parametrize("emulator", ["fast", "nes-py"])
def test_watching_shows_the_episode_that_play_plays_frame_by_frame(emulator: str) -> None:
    config = protocol_config(dataclasses.replace(ENV, emulator=emulator), "sticky")  # type: ignore[arg-type]
    episode = play(RANDOM, config, 1, deterministic=False, seed=3, max_steps=25)[0]
    screens = list(film(episode, config))
    moments = list(itertools.islice(watch(RANDOM, config, 3, every_frame=True), episode.length + 1))
    assert [moment.x for moment in moments][-1] == episode.end_x
    for moment, screen in zip(moments, screens, strict=True):
        assert (moment.screen == moment.frames[-1].screen).all()
        assert (moment.screen == screen).all()
        assert moment.probabilities.sum() == pytest.approx(1)
    assert {len(moment.frames) for moment in moments[1:]} == {4}
    assert not any(frame.buttons for frame in moments[0].frames), "no-ops"
    # The same frames from the same buttons, by the demos' own way of playing.
    buttons = [frame.buttons for moment in moments for frame in moment.frames]
    demo = record(1, 1, buttons, source="policy:random", seed=3, noops=len(moments[0].frames))
    assert demo.x[-1] == episode.end_x
    shown = []
    replay(demo, on_frame=lambda _, env: shown.append(env.render()))
    assert (shown[-1] == screens[-1]).all()


def test_captions_stand_below_the_picture_and_change(tmp_path: Path) -> None:
    episode = play(RANDOM, ENV, 1, deterministic=False, seed=3, max_steps=8)[0]
    plain = [scaled(screen, 512) for screen in film(episode, ENV)]
    captioned = list(film_with_captions(episode, ENV, RANDOM))
    valued = list(film_with_captions(episode, ENV, Expecting(ENV, 7)))
    assert len(captioned) == len(plain)
    for frame, screen in zip(captioned, plain, strict=True):
        assert frame.shape == (512, 512, 3)
        assert (frame[:480] == screen).all()
    strips = [frame[480:] for frame in captioned]
    assert len({strip.tobytes() for strip in strips}) == len(strips), "each says its own step"
    assert all((frame[480:] != strip).any() for frame, strip in zip(valued, strips, strict=True))


@pytest.mark.parametrize("fps", [15, 60, 7.5])
def test_a_gif_plays_at_its_speed_on_average_and_keeps_its_colours(
    tmp_path: Path, fps: float
) -> None:
    episode = play(RANDOM, ENV, 1, deterministic=False, seed=3, max_steps=30)[0]
    frames = list(film(episode, ENV))
    assert write_video(tmp_path / "a.gif", iter(frames), fps, max_width=256) == 31
    with Image.open(tmp_path / "a.gif") as gif:
        total_ms = 0
        for i in range(getattr(gif, "n_frames", 0)):
            gif.seek(i)
            total_ms += gif.info["duration"]
        assert (np.asarray(gif.convert("RGB")) == frames[-1]).all()
    assert total_ms == pytest.approx(31 / fps * 1000, abs=10)


def test_films_scale_by_whole_pixels_up_and_by_area_down() -> None:
    frame = np.arange(240 * 256 * 3, dtype=np.uint32).astype(np.uint8).reshape(240, 256, 3)
    assert scaled(frame, 700).shape == (480, 512, 3)
    assert (scaled(frame, 512)[::2, ::2] == frame).all()
    assert scaled(frame, 255).shape == (238, 254, 3)
    assert scaled(np.full_like(frame, 77), 64).tolist() == np.full((60, 64, 3), 77).tolist()


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
        if (config := protocol_config(ENV, name))
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
    assert best_episode([fast, slow], furthest) is fast, "as far and no better: the first"
    better = dataclasses.replace(slow, episode_return=2.0)
    assert best_episode([fast, better], furthest) is better
