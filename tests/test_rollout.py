"""The rollout loop, the protocols and the figures they give, on the real game."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any, Literal

import imageio.v2 as imageio
import numpy as np
import pytest
from PIL import Image

from mario_cli import UsageError
from mario_config import EmulatorName, EnvConfig
from mario_demos import record, replay
from mario_game import StageId
from mario_judge import (
    JUDGE_SEED,
    SELECTION_SEED,
    ModelEvaluation,
    Summary,
    evaluate,
    protocol_config,
    summarize,
    wilson_interval,
)
from mario_rollout import (
    Episode,
    RandomPolicy,
    best_episode,
    furthest,
    play,
    select_actions,
    watch,
    watch_again,
)
from mario_runtime import make_single_env, make_vector_env
from mario_video import film, film_with_captions, scaled, write_video

ENV = EnvConfig(n_envs=2, vec_backend="dummy")
RANDOM = RandomPolicy(ENV, 7)

EMULATORS: tuple[EmulatorName, ...] = ("fast", "nes-py")


def made_up(length: int, max_x: int, flag: bool) -> Episode:
    stage = StageId(1, 1)
    return Episode(0, (0,) * length, 1.0, max_x, flag, max_x, False, stage, (stage,))


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


class Right(RandomPolicy):
    """Runs to the right."""

    def logits(self, observations, previous_actions, state):  # type: ignore[no-untyped-def]
        logits = np.zeros((len(observations), self.n_actions), dtype=np.float32)
        logits[:, 3] = 1
        return logits, None


class Expecting(RandomPolicy):
    """A random policy with a value, so that captions have one to show."""

    def values(self, observations: np.ndarray, state: None) -> np.ndarray:
        return observations.mean(axis=(1, 2, 3))


@pytest.mark.parametrize("observation", ["pixels", "color"])
@pytest.mark.parametrize("emulator", ["fast", "nes-py"])
def test_watching_shows_the_episode_that_play_plays_frame_by_frame(
    emulator: EmulatorName, observation: Literal["pixels", "color"]
) -> None:
    env = dataclasses.replace(ENV, emulator=emulator, observation=observation)
    config = protocol_config(env, "sticky")
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
    assert "which is all there is" in summary.note
    assert summary.clear_rate_ci95 is None
    summary, episodes = evaluate(
        RANDOM, ENV, protocol="fixed", episodes=3, deterministic=False, max_steps=5
    )
    assert len(episodes) == 3
    assert not summary.note


def test_argmax_from_noops_is_each_of_the_thirty_starts_once() -> None:
    config = dataclasses.replace(ENV, n_envs=7)
    right = Right(config, 7)
    summary, episodes = evaluate(
        right, config, protocol="noop", episodes=2, deterministic=True, seed=11, max_steps=6
    )
    assert (summary.episodes, summary.clears, summary.clear_rate_ci95) == (30, "0/30", None)
    assert "each start once" in summary.note
    assert [episode.noops for episode in episodes] == list(range(1, 31))
    assert [episode.seed for episode in episodes] == list(range(11, 41))
    played_config = protocol_config(config, "noop")
    # An episode is played again from its seed and its no-ops, and is what a draw of as many is.
    for episode in episodes[3:30:13]:
        assert len(list(film(episode, played_config))) == episode.length + 1
        moments = list(watch_again(right, played_config, episode, every_frame=True))
        assert len(moments[0].frames) == episode.noops
        assert moments[-1].x == episode.end_x
    drawn = [next(iter(watch(right, played_config, seed, every_frame=True))) for seed in range(3)]
    for seed, moment in enumerate(drawn):
        noops = len(moment.frames)
        [own] = play(right, played_config, 1, deterministic=True, seed=seed, max_steps=6)
        [chosen] = play(
            right,
            played_config,
            1,
            deterministic=True,
            seed=seed,
            max_steps=6,
            noops=[noops],
        )
        assert dataclasses.replace(chosen, noops=None) == own


def test_no_ops_are_chosen_alike_on_both_emulators() -> None:
    played = [
        play(
            Right(ENV, 7),
            dataclasses.replace(ENV, emulator=emulator),
            3,
            deterministic=True,
            max_steps=3,
            noops=[2, 9, 1],
        )
        for emulator in EMULATORS
    ]
    assert played[0] == played[1]
    assert [episode.noops for episode in played[1]] == [2, 9, 1]


def test_no_ops_are_chosen_alike_in_one_environment_and_in_a_batch() -> None:
    config = dataclasses.replace(ENV, n_envs=3, noop_max=30, vec_backend="batched")
    noops = np.array([4, 0, 30])
    batch = make_vector_env(config)
    seen = batch.reset(seed=5, options={"noops": noops})[0].copy()
    later = [batch.step(np.full(3, 3))[0].copy() for _ in range(3)]
    for i, count in enumerate(noops.tolist()):
        env = make_single_env(config)
        assert (env.reset(seed=5 + i, options={"noops": count})[0] == seen[i]).all()
        for observations in later:
            assert (env.step(3)[0] == observations[i]).all()
        # the draw is made all the same: what is drawn next does not depend on who chose
        assert (env.reset()[0] == second_start(config, 5 + i)).all()
    for wrong in (-1, 1.5, np.array([1, 2]), "3"):
        with pytest.raises(UsageError, match="noops must"):
            batch.reset(options={"noops": wrong})


def second_start(config: EnvConfig, seed: int) -> np.ndarray:
    env = make_single_env(config, seed)
    return env.reset()[0]


def test_seeds_of_judge_selection_and_training_are_apart() -> None:
    trainings = range(100)  # as many seeds as a study has; an environment has a seed each
    for seed in trainings:
        assert seed + 64 < seed + SELECTION_SEED
        assert seed + SELECTION_SEED + 1_000 < JUDGE_SEED


def test_each_stage_is_judged_apart_and_over_all() -> None:
    stages = (StageId(1, 1), StageId(4, 2))
    config = dataclasses.replace(ENV, stages=stages, n_envs=4)
    about: Any = {"protocol": "sticky", "deterministic": False, "seed": 3, "max_steps": 30}
    both, episodes = evaluate(RANDOM, config, episodes=3, **about)
    assert [episode.stage for episode in episodes] == [stages[0]] * 3 + [stages[1]] * 3
    assert both.episodes == 6
    for stage, of_stage in zip(stages, both.stages, strict=True):
        alone, _ = evaluate(
            RANDOM, dataclasses.replace(config, stages=(stage,)), episodes=3, **about
        )
        assert alone.stages == (of_stage,)
        assert alone.rank == of_stage.rank
        assert [x for x, _ in both.endings(stage)] == list(alone.end_x_positions)
    assert both.rank == tuple(np.mean([one.rank for one in both.stages], axis=0))
    assert best_episode(episodes).drawn_from == (best_episode(episodes).stage,)
    # Drawn from several stages, an episode is played again where its seed began it.
    mixed = play(RANDOM, config, 4, deterministic=False, seed=0, max_steps=5)
    assert {episode.stage for episode in mixed} == set(stages)
    for episode in mixed:
        assert len(list(film(episode, dataclasses.replace(config, stages=stages[:1])))) == 6


def test_a_summary_is_read_back_as_it_was_written_and_older_ones_too(tmp_path: Path) -> None:
    episodes = [made_up(300, 3161, True), made_up(90, 700, False)]
    about: Any = {"deterministic": False, "seed": 4, "model": "m"}
    summary = summarize(episodes, ENV, protocol="sticky", **about)
    path = tmp_path / "summary.json"
    summary.write(path)
    assert Summary.from_json(path) == summary
    found = ModelEvaluation(step=5, argmax=summary, sampled=summary)
    found.write(path)
    assert ModelEvaluation.from_json(path) == found
    assert json.loads(path.read_text())["clear_rate"] == 0.5, "argmax stands at the top"

    def older(stage: int) -> dict[str, Any]:
        content = summary.as_json() | {"world": 1, "stage": stage, "goal_line_x": 3161}
        del content["stages"]
        return content

    path.write_text(json.dumps(older(1)))
    assert Summary.from_json(path) == summary
    path.write_text(json.dumps(older(1) | {"step": 5, "rank": [0.5, 1.0, -3.0]}))
    assert ModelEvaluation.from_json(path) == ModelEvaluation(step=5, argmax=summary)
    by_stage = {f"1-{i}": {"argmax": older(i), "sampled": older(i)} for i in (1, 2)}
    extra = {"step": 5, "rank": [0.5, 1.0, -3.0], "sampled": older(1), "stages": by_stage}
    path.write_text(json.dumps(older(1) | extra))
    read = ModelEvaluation.from_json(path)
    assert read.sampled
    for one in (read.sampled, read.argmax):
        assert [str(found.stage) for found in one.stages] == ["1-1", "1-2"]
    assert (read.argmax.clears, read.argmax.stages[1].clears) == ("2/4", "1/2")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"episodes": "2"}, "episodes: Input should be a valid integer"),
        ({"clear_rate": float("nan")}, "clear_rate: Input should be a finite number"),
        ({"protocol": "loud"}, "protocol: Input should be 'fixed', 'noop' or 'sticky'"),
        ({"episode_flags": [True]}, "does not have an entry for each episode"),
        ({"flags_cleared": 2}, "counts other clears"),
        ({"surprise": 1}, "surprise: Unexpected keyword argument"),
        ({"stages": [{"stage": "9-1"}]}, "stages are 1-1 to 8-4"),
    ],
)
def test_what_is_no_summary_is_one_line(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    episodes = [made_up(300, 3161, True), made_up(90, 700, False)]
    about: Any = {"protocol": "noop", "deterministic": False, "seed": 4, "model": "m"}
    content = summarize(episodes, ENV, **about).as_json()
    if "stages" in change:
        change = {"stages": [{**content["stages"][0], **change["stages"][0]}]}
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(content | change))
    with pytest.raises(UsageError, match=said) as caught:
        Summary.from_json(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"a": 1}', "\xff"])
def test_what_is_no_json_object_is_no_summary(text: str, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_bytes(text.encode("latin-1"))
    for kind in (Summary, ModelEvaluation):
        with pytest.raises(UsageError, match="is no summary of an evaluation"):
            kind.from_json(path)
    with pytest.raises(UsageError, match="there is no file"):
        Summary.from_json(tmp_path / "nowhere.json")


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
    assert summary.episode_lengths == (300, 280, 90)
    assert list(summary.endings(StageId(1, 1))) == [(3161, True), (3161, True), (700, False)]
    assert summary.interval == "21-94 %"
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
