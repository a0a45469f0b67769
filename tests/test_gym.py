"""Gymnasium's door to the environment: ids, checkers, errors, snapshots, copies, processes."""

from __future__ import annotations

import copy
import functools
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import mario_gym
from mario_cli import UsageError
from mario_config import EnvConfig, RewardConfig
from mario_game import STAGES
from mario_runtime import MarioVectorEnv, make_single_env

ID = "FastMario-1-1-v0"
REWARD = RewardConfig(forward_reward_scale=0.1, milestone_step=100, milestone_bonus=1.0)
OBSERVATIONS = ("pixels", "color", "rgb", "ram", "scene")
TRUE_FPS = 60.0988 / 4


@pytest.fixture(autouse=True)
def no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def make(**keywords: Any) -> Any:
    return gym.make(ID, **keywords)


def make_vec(n: int = 2, name: str = ID, **keywords: Any) -> MarioVectorEnv:
    envs = gym.make_vec(name, num_envs=n, vectorization_mode="vector_entry_point", **keywords)
    assert isinstance(envs, MarioVectorEnv)
    return envs


def actions(steps: int, seed: int = 0) -> list[int]:
    """Buttons that walk to and fro, and live for a while."""
    return np.random.default_rng(seed).choice([6, 5, 1], steps, p=[0.5, 0.2, 0.3]).tolist()


def assert_same_steps(one: list[tuple], other: list[tuple]) -> None:
    for (seen, *rest), (seen_too, *rest_too) in zip(one, other, strict=True):
        np.testing.assert_array_equal(seen, seen_too)
        assert rest == rest_too


# --------------------------------------------------------------------------------------------
# Ids and checkers
# --------------------------------------------------------------------------------------------


def test_every_stage_has_an_id_and_all_of_them_one() -> None:
    names = {f"FastMario-{stage}-v0" for stage in STAGES} | {"FastMario-v0"}
    assert names == {name for name in gym.registry if name.startswith("FastMario")}
    assert gym.make("FastMario-v0").unwrapped.config.stages == tuple(STAGES)  # type: ignore[attr-defined]
    mario_gym.register()  # again: nothing happens
    _, info = gym.make("FastMario-8-4-v0").reset(seed=0)
    assert info["start_stage"] == "8-4"


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_gymnasiums_checker_finds_nothing(observation: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(
            make(observation=observation, sticky_prob=0.25, render_mode="rgb_array").unwrapped
        )
    said = [str(one.message) for one in caught if "infinit" not in str(one.message)]
    assert [one for one in said if "WARN" in one] == []


def test_stable_baselines3s_checker_finds_nothing() -> None:
    env_checker = pytest.importorskip("stable_baselines3.common.env_checker")
    env_checker.check_env(make(render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_gym_make_is_the_wrapper_stack_bit_for_bit(observation: Any) -> None:
    one = make(observation=observation, sticky_prob=0.25, reward=REWARD)
    other = make_single_env(EnvConfig(observation=observation, sticky_prob=0.25, reward=REWARD))
    first, second = one.reset(seed=5), other.reset(seed=5)
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]
    played = [one.step(action) for action in actions(40)]
    assert_same_steps(played, [other.step(action) for action in actions(40)])


@pytest.mark.parametrize("mode", AutoresetMode)
def test_make_vec_is_gymnasiums_own_batch_of_gym_make(mode: AutoresetMode) -> None:
    keywords: dict[str, Any] = {"sticky_prob": 0.25, "observation": "ram", "max_episode_steps": 25}
    ours = make_vec(3, autoreset_mode=mode, **keywords)
    theirs = SyncVectorEnv([functools.partial(make, **keywords)] * 3, autoreset_mode=mode)
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"] is mode
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert_same_answers(ours.reset(seed=7), theirs.reset(seed=7))
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(70):
        chosen = rng.integers(0, 7, 3)
        one, other = ours.step(chosen), theirs.step(chosen)
        assert_same_answers(one, other)
        over = one[2] | one[3]
        ended += int(over.sum())
        if mode is AutoresetMode.DISABLED and over.any():
            assert_same_answers(
                ours.reset(options={"reset_mask": over}), theirs.reset(options={"reset_mask": over})
            )
    assert ended >= 4


def assert_same_answers(one: Any, other: Any) -> None:
    """Compare what reset or step returned: arrays, and infos where their masks say so."""
    for ours, theirs in zip(one[:-1], other[:-1], strict=True):
        np.testing.assert_array_equal(np.asarray(ours, theirs.dtype), theirs)
    assert_same_infos(one[-1], other[-1])


def assert_same_infos(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name in {name.lstrip("_") for name in [*one, *other]} - {"TimeLimit.truncated"}:
        n = next(len(mask) for key, mask in one.items() if key.startswith("_"))
        masks = [np.asarray(infos.get(f"_{name}", np.zeros(n, bool))) for infos in (one, other)]
        np.testing.assert_array_equal(masks[0], masks[1], err_msg=name)
        if not masks[0].any():
            continue
        if isinstance(one[name], dict):
            assert_same_infos(one[name], other[name])
        else:
            for i in np.flatnonzero(masks[0]):
                np.testing.assert_array_equal(one[name][i], other[name][i], err_msg=name)


def test_arrays_of_make_vec_may_be_kept() -> None:
    envs = make_vec()
    kept, _ = envs.reset(seed=0)
    before = kept.copy()
    envs.step([1, 2])
    np.testing.assert_array_equal(kept, before)
    lean = make_vec(copy=False)
    assert lean.reset(seed=0)[0] is lean.step([1, 2])[0]


def test_gymnasiums_vector_wrappers_go_around_it() -> None:
    wrappers = gym.wrappers.vector
    counted = wrappers.RecordEpisodeStatistics(make_vec(np.int64(2), observation="ram"))  # type: ignore[arg-type]
    counted.reset(seed=0)
    lengths = 0
    for _ in range(60):
        *_, infos = counted.step(np.array([3, 0]))
        lengths += int(infos["episode"]["l"][0]) if "episode" in infos else 0
    assert 20 < lengths <= 60
    flat = wrappers.FlattenObservation(make_vec(observation="ram", autoreset_mode="Disabled"))
    assert flat.reset(seed=0)[0].shape == (2, 2048)
    with pytest.raises(ValueError, match="SAME_STEP"):  # as docs/environment.md says
        wrappers.FlattenObservation(make_vec(observation="ram"))
    for mode in ("SameStep", "Disabled"):
        with pytest.raises(ValueError, match="NEXT_STEP"):
            wrappers.NormalizeObservation(make_vec(observation="scene", autoreset_mode=mode))
    plain = make_vec(observation="scene", autoreset_mode="NextStep")
    normal = wrappers.NormalizeReward(wrappers.NormalizeObservation(plain))
    counted = wrappers.RecordEpisodeStatistics(normal)
    counted.reset(seed=0)
    ended = 0
    for _ in range(60):
        seen, *_, infos = counted.step(np.array([3, 0]))
        ended += "episode" in infos
    assert ended == 2 and np.abs(seen).mean() < 5


def test_a_copy_of_a_batch_goes_on_as_the_original() -> None:
    envs = make_vec(3, sticky_prob=0.25)
    envs.reset(seed=0)
    envs.step([1, 2, 3])
    copies = [copy.deepcopy(envs), pickle.loads(pickle.dumps(envs))]
    for action in actions(20):
        seen, rewards, *_ = envs.step([action, 4, 1])
        for other in copies:
            again, paid, *_ = other.step([action, 4, 1])
            np.testing.assert_array_equal(seen, again)
            np.testing.assert_array_equal(rewards, paid)


# --------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------


def stack() -> gym.Env:
    return make_single_env(EnvConfig())


@pytest.mark.parametrize("maker", [make, lambda: make().unwrapped, stack])
def test_a_step_before_the_reset_or_after_the_end_is_an_error(maker: Any) -> None:
    env = maker()
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    while not env.step(3)[2]:
        pass
    with pytest.raises(ResetNeeded):
        env.step(3)
    env.reset()
    env.step(3)


def test_a_batch_without_autoreset_refuses_to_go_on_after_an_end() -> None:
    envs = make_vec(autoreset_mode="Disabled", observation="ram")
    with pytest.raises(ResetNeeded, match="environments 0, 1"):
        envs.step([0, 0])
    envs.reset(seed=0)
    while not envs.step([0, 3])[2][1]:
        pass
    with pytest.raises(ResetNeeded, match="environments 1:"):
        envs.step([0, 3])
    envs.reset(options={"reset_mask": np.array([False, True])})
    envs.step([0, 3])


WRONG_ACTIONS = [1.9, True, -1, 7, [1], "1", None, np.array([1.0])]
WRONG_BATCHES = [
    *([1.9, 2.2], [True, False], [0, 7], [-1, 0], [1, 2, 3, 4], [1], [[1], [1]], 1, "ab"),
    *([[1], [1, 2]], None, np.zeros(2)),
]


@pytest.mark.parametrize("action", WRONG_ACTIONS, ids=repr)
def test_a_wrong_action_is_one_line(action: Any) -> None:
    for env in (make(observation="ram"), stack()):
        env.reset(seed=0)
        with pytest.raises(UsageError, match=r"^.{10,150}$"):
            env.step(action)


@pytest.mark.parametrize("batch", WRONG_BATCHES, ids=repr)
def test_wrong_actions_of_a_batch_are_one_line(batch: Any) -> None:
    envs = make_vec(observation="ram")
    envs.reset(seed=0)
    with pytest.raises(UsageError, match=r"^.{10,150}$"):
        envs.step(batch)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "1", np.float64(3)], ids=repr)
def test_a_wrong_seed_is_one_line(seed: Any) -> None:
    for env in (make(observation="ram"), stack(), make_vec(observation="ram")):
        with pytest.raises(UsageError, match="seed"):
            env.reset(seed=seed)


def test_numpys_seeds_are_seeds() -> None:
    for env in (make(observation="ram"), make_vec(observation="ram")):
        first = env.reset(seed=3)[0]
        np.testing.assert_array_equal(env.reset(seed=np.int64(3))[0], first)
    several = make_vec(observation="ram").reset(seed=np.array([3, 4]))[0]  # type: ignore[arg-type]
    np.testing.assert_array_equal(several, first)


@pytest.mark.parametrize(
    "options",
    [
        *({"stage": "9-9"}, {"stage": "1-1,1-2"}, {"stage": ["1-1"] * 3}, {"noops": -1}),
        *({"noops": 1.5}, {"noops": [1, 2, 3]}, {"snapshot": 5}, {"snapshot": np.zeros(4640)}),
        *({"level": "1-1"}, {"stage": 4}),
    ],
    ids=repr,
)
def test_wrong_options_are_one_line(options: dict[str, Any]) -> None:
    for env in (make(observation="ram"), make_vec(observation="ram")):
        env.reset(seed=0)
        with pytest.raises(UsageError, match=r"^.{10,150}$"):
            env.reset(options=options)


@pytest.mark.parametrize("emulator", ["fast", "nes-py"])
def test_the_wrapper_stack_refuses_options_that_only_the_batch_has(emulator: Any) -> None:
    config = EnvConfig(emulator=emulator, vec_backend="dummy")
    for options in ({"stage": "3-2"}, {"nonsense": 1}):
        with pytest.raises(UsageError, match=f"no option '{next(iter(options))}' here"):
            make_single_env(config).reset(seed=1, options=options)


def test_the_masks_of_infos_are_the_callers() -> None:
    envs = make_vec(observation="ram", copy=True)
    for infos in (envs.reset(seed=0)[1], envs.step([0, 0])[-1]):
        infos["_x_pos"][:] = False
    envs.step([3, 3])
    start = envs.reset(seed=0)[1]["x_pos"]
    assert (start == 40).all()  # both were reset


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"sticky": 0.25}, "did you mean sticky_prob"),
        ({"observation": "pixel"}, "pixel"),
        ({"sticky_prob": 2.0}, "sticky_prob"),
        ({"stages": "1-9"}, "no stage"),
        ({"render_mode": "ansi"}, "render_mode"),
        ({"emulator": "nes-py"}, "emulator"),
        ({"noop_max": "many"}, "noop_max"),
        ({"reward": {"flag_bonuses": 3}}, "did you mean flag_bonus"),
    ],
    ids=str,
)
def test_a_wrong_keyword_is_one_line(keywords: dict[str, Any], said: str) -> None:
    with warnings.catch_warnings(), pytest.raises(UsageError, match=said):
        warnings.simplefilter("ignore")  # Gymnasium's, of a render mode that it does not know
        make(**keywords)


# --------------------------------------------------------------------------------------------
# Options and snapshots
# --------------------------------------------------------------------------------------------


def test_reset_takes_a_stage_and_the_no_ops() -> None:
    env = make(observation="ram")
    _, info = env.reset(seed=0, options={"stage": "3-2", "noops": 5})
    assert (info["start_stage"], info["world"], info["stage"]) == ("3-2", 3, 2)
    chosen = gym.make("FastMario-3-2-v0", observation="ram").reset(seed=0, options={"noops": 5})
    np.testing.assert_array_equal(env.reset(options={"stage": "3-2", "noops": 5})[0], chosen[0])
    envs = make_vec(3, observation="ram")
    _, infos = envs.reset(seed=0, options={"stage": ["1-2", None, "8-4"], "noops": 5})
    assert infos["start_stage"].tolist() == ["1-2", "1-1", "8-4"]


def test_a_chosen_stage_counts_for_no_curriculum() -> None:
    envs = make_vec(2, "FastMario-v0", stages="1-1,1-2", stage_sampling="failure")
    envs.reset(seed=0, options={"stage": "1-1"})
    before = envs.starts.state_dict()["clear_rates"].tolist()
    for _ in range(60):
        envs.step([3, 3])
    assert envs.starts.state_dict()["clear_rates"].tolist() == before


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_what_follows_a_snapshot_follows_it_again(observation: str) -> None:
    env = make(observation=observation, sticky_prob=0.25, reward=REWARD, render_mode="rgb_array")
    env.reset(seed=1)
    for action in actions(10):
        env.step(action)
    snapshot, screen = env.unwrapped.snapshot(), env.render()
    first = [env.step(action) for action in actions(25, seed=1)]
    restored, _ = env.unwrapped.restore(pickle.loads(pickle.dumps(snapshot)))
    np.testing.assert_array_equal(env.render(), screen)
    assert_same_steps([env.step(action) for action in actions(25, seed=1)], first)

    other = make(observation=observation, sticky_prob=0.25, reward=REWARD)
    begun, _ = other.reset(options={"snapshot": snapshot})
    np.testing.assert_array_equal(begun, restored)
    assert_same_steps([other.step(action) for action in actions(25, seed=1)], first)

    envs = make_vec(3, observation=observation, sticky_prob=0.25, reward=REWARD)
    envs.reset(seed=9, options={"snapshot": [None, snapshot, None]})
    envs.generators[1] = copy.deepcopy(other.np_random)
    for action, (seen, reward, *_) in zip(actions(25, seed=1), first, strict=True):
        many, rewards, *_ = envs.step([0, action, 0])
        np.testing.assert_array_equal(many[1], seen)
        assert rewards[1] == np.float32(reward)


def test_a_snapshot_of_other_observations_is_refused() -> None:
    env = make(observation="ram")
    env.reset(seed=0)
    with pytest.raises(UsageError, match="observations"):
        make().unwrapped.restore(env.unwrapped.snapshot())


def test_a_snapshot_of_an_episode_that_is_over_is_over() -> None:
    env = make(observation="ram")
    env.reset(seed=0)
    while not env.step(3)[2]:
        pass
    snapshot = env.unwrapped.snapshot()
    env.reset()
    env.unwrapped.restore(snapshot)
    with pytest.raises(ResetNeeded):
        env.step(0)


# --------------------------------------------------------------------------------------------
# Copies, processes, films, play
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("through", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_goes_on_as_the_original(through: Any) -> None:
    env = make(sticky_prob=0.25)
    env.reset(seed=2)
    for action in actions(5):
        env.step(action)
    other = through(env)
    assert_same_steps(
        [env.step(action) for action in actions(20, seed=1)],
        [other.step(action) for action in actions(20, seed=1)],
    )
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


def test_a_spec_makes_the_environment_again() -> None:
    env = make(sticky_prob=0.25, observation="ram")
    again = gym.make(pickle.loads(pickle.dumps(env.spec)))
    assert again.unwrapped.config == env.unwrapped.config  # type: ignore[attr-defined]
    assert gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json())).spec == env.spec


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_processes_play_as_one_does(method: str) -> None:
    maker = functools.partial(gym.make, f"mario_gym:{ID}", observation="ram")
    envs = AsyncVectorEnv([maker] * 2, context=method)
    try:
        ours = make_vec(observation="ram")
        np.testing.assert_array_equal(envs.reset(seed=4)[0], ours.reset(seed=4)[0])
        for action in actions(5):
            np.testing.assert_array_equal(
                envs.step(np.array([action, 0]))[0], ours.step([action, 0])[0]
            )
    finally:
        envs.close()


@pytest.mark.parametrize("maker", [make, stack, make_vec], ids=["make", "stack", "make_vec"])
def test_films_run_at_the_games_own_speed(maker: Any) -> None:
    assert maker().metadata["render_fps"] == pytest.approx(TRUE_FPS)
    assert make(frame_skip=2).metadata["render_fps"] == pytest.approx(2 * TRUE_FPS)


FILM = """
import sys
import gymnasium as gym
import imageio.v2 as imageio
import mario_gym

for frame_skip in (4, 1):
    env = gym.make(
        "FastMario-1-1-v0", observation="ram", frame_skip=frame_skip, render_mode="rgb_array"
    )
    env = gym.wrappers.RecordVideo(env, sys.argv[1], name_prefix=str(frame_skip))
    env.reset(seed=0)
    for _ in range(60):
        env.step(0)
    env.close()
    film = imageio.get_reader(f"{sys.argv[1]}/{frame_skip}-episode-0.mp4")
    pictures = sum(1 for _ in film)
    print(frame_skip, pictures, film.get_meta_data()["duration"])
"""
# moviepy 2.2.1 asks for a pillow below 12, ours is newer: it is no requirement, and it works.
MOVIEPY = ("moviepy", "decorator", "proglog", "python-dotenv")


@pytest.mark.slow
def test_record_videos_film_lasts_as_long_as_the_game(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", tmp_path / "pip"]
    subprocess.run([*map(str, install), *MOVIEPY], check=True, capture_output=True)
    paths = [str(Path(mario_gym.__file__).parent), str(tmp_path / "pip")]
    done = subprocess.run(
        [sys.executable, "-c", FILM, str(tmp_path / "films")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line[:2] in ("4 ", "1 ")]
    assert [(int(skip), int(pictures)) for skip, pictures, _ in lines] == [(4, 61), (1, 61)]
    for skip, pictures, seconds in lines:
        step = int(skip) / 60.0988
        assert float(seconds) == pytest.approx(int(pictures) * step, abs=step)


def test_play_knows_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    pygame = pytest.importorskip("pygame")
    from gymnasium.utils import play

    seen: list[int] = []

    def look(before: Any, after: Any, action: int, *rest: Any) -> None:
        seen.append(action)
        if len(seen) == 1:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=ord("d")))
        elif len(seen) == 4:
            pygame.event.post(pygame.event.Event(pygame.QUIT))

    play.play(make(render_mode="rgb_array"), callback=look, noop=0, fps=1000)
    assert seen[0] == 0
    assert seen[-1] == make().unwrapped.get_action_meanings().index("right")


def test_a_window_shows_the_game(monkeypatch: pytest.MonkeyPatch) -> None:
    pygame = pytest.importorskip("pygame")
    env = make(render_mode="human", observation="ram")
    env.reset(seed=0)
    env.step(1)
    shown = pygame.surfarray.array3d(env.unwrapped.window.surface)
    np.testing.assert_array_equal(shown[::3, ::3].swapaxes(0, 1), env.unwrapped.batch.render()[0])
    env.close()


def test_a_window_without_pygame_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(gym.error.DependencyNotInstalled, match=r"^.*pip install pygame-ce$"):
        make(render_mode="human")
