"""Mario as streams of replay rows: the real game, the right row, demos and starts along them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamerv3.envs.mario import (
    MarioStreams,
    demo_rows,
    mario_row,
    recompute_rewards,
    replay_contents,
)
from dreamerv3.flags import CurriculumConfig
from mario_cli import UsageError
from mario_config import EnvConfig, RewardConfig
from mario_curriculum import BackwardStarts
from mario_demos import load_demo, load_demos, record, save_demo, snapshots
from mario_game import GameFacts, StageId, read_facts
from mario_runtime import MarioVectorEnv
from mario_sb3 import make_vec_env

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "demos" / "1-1.npz"
REWARD = RewardConfig(
    base_reward_scale=0.0,
    forward_reward_scale=0.1,
    death_penalty=3.0,
    flag_bonus=10.0,
    milestone_step=50,
    milestone_bonus=0.5,
    goal_potential_scale=0.01,
)
CONFIG = EnvConfig(n_envs=2, frame_stack=1, screen_size=64, reward=REWARD, action_set="simple")
RUN_RIGHT = 3  # right + B of `simple`; to the first Goomba and into it


def play(streams: MarioStreams, actions: np.ndarray) -> list[np.ndarray]:
    """Return each stream's rows of a reset and of actions int64[steps, n]."""
    rows = [[first] for first in streams.reset()]
    for action in actions:
        for stream, new in zip(rows, streams.step(action), strict=True):
            stream.append(new)
    return [np.concatenate(stream) for stream in rows]


@pytest.fixture(scope="module")
def lived() -> tuple[MarioStreams, list[np.ndarray]]:
    """Two environments in which Mario runs right until he has died a few times."""
    streams = MarioStreams(MarioVectorEnv(CONFIG), seed=0)
    return streams, play(streams, np.full((150, 2), RUN_RIGHT))


def test_rows_are_what_the_environment_said(
    lived: tuple[MarioStreams, list[np.ndarray]],
) -> None:
    """Against the vec env itself: image, reward and action of an arrival stand in one row."""
    venv = make_vec_env(CONFIG, seed=0)
    observation: Any = venv.reset()
    expected = [[(observation[i], 0.0, True, False)] for i in range(2)]
    for _ in range(150):
        observation, rewards, dones, infos = venv.step(np.full(2, RUN_RIGHT))
        for i in range(2):
            if dones[i]:
                end = infos[i]["terminal_observation"]
                expected[i].append((end, rewards[i], False, True))
                expected[i].append((observation[i], 0.0, True, False))
            else:
                expected[i].append((observation[i], rewards[i], False, False))
    for rows, wanted in zip(lived[1], expected, strict=True):
        for row, (image, reward, is_first, is_last) in zip(rows, wanted, strict=True):
            np.testing.assert_array_equal(row["image"], image)
            assert row["reward"] == np.float32(reward)
            assert (row["is_first"], row["is_last"]) == (is_first, is_last)
            assert row["action"] == (0 if is_first else RUN_RIGHT)


def test_death_is_terminal_and_paid_in_the_row_of_the_dead(
    lived: tuple[MarioStreams, list[np.ndarray]],
) -> None:
    rows = lived[1][0]
    ends = np.flatnonzero(rows["is_last"])
    assert len(ends) >= 2
    assert rows["is_terminal"][ends].all()
    dead = rows["facts"][:, GameFacts._fields.index("dead")]
    assert (np.flatnonzero(dead) == ends).all()
    assert (rows["reward"][ends] < -2).all()
    assert (np.delete(rows["reward"], ends) > -1).all()
    assert rows["is_first"][ends[:-1] + 1].all()


def test_rows_keep_the_ram_that_their_facts_were_read_from() -> None:
    """Of the dead, too, whose machine has begun the next episode by then."""
    streams = MarioStreams(MarioVectorEnv(CONFIG), seed=0, with_ram=True)
    rows = np.concatenate(play(streams, np.full((70, 2), RUN_RIGHT)))
    assert rows["is_last"].sum() >= 2
    told = np.stack(read_facts(np.ascontiguousarray(rows["ram"])), axis=1)
    np.testing.assert_array_equal(told, rows["facts"])
    assert mario_row(CONFIG, with_ram=True) == rows.dtype


def test_a_cropped_replay_says_so() -> None:
    cropped = dataclasses.replace(CONFIG, crop="playfield")
    assert "crop" not in replay_contents(CONFIG)
    assert replay_contents(cropped)["crop"] == "playfield"


def test_a_time_out_ends_an_episode_but_is_not_terminal() -> None:
    config = dataclasses.replace(CONFIG, max_episode_steps=10)
    [rows, _] = play(MarioStreams(MarioVectorEnv(config), seed=0), np.zeros((25, 2), np.int64))
    assert np.flatnonzero(rows["is_last"]).tolist() == [10, 21]
    assert not rows["is_terminal"].any()


def test_finished_episodes_are_counted(lived: tuple[MarioStreams, list[np.ndarray]]) -> None:
    streams, rows = lived
    episodes = streams.take_episodes()
    assert len(episodes) == sum(int(stream["is_last"].sum()) for stream in rows)
    first_end = min(int(np.argmax(stream["is_last"])) for stream in rows)
    assert episodes[0].length == first_end
    assert not episodes[0].flag
    assert 200 < episodes[0].max_x < 400
    assert streams.take_episodes() == []


def test_rewards_are_recomputed_from_the_facts(
    lived: tuple[MarioStreams, list[np.ndarray]],
) -> None:
    rows = lived[1][0]
    np.testing.assert_array_equal(recompute_rewards(rows, CONFIG), rows["reward"])
    other = dataclasses.replace(CONFIG, reward=dataclasses.replace(REWARD, death_penalty=7.0))
    [paid_otherwise, _] = play(
        MarioStreams(MarioVectorEnv(other), seed=0), np.full((150, 2), RUN_RIGHT)
    )
    np.testing.assert_array_equal(recompute_rewards(rows, other), paid_otherwise["reward"])
    without_start = recompute_rewards(rows[5:], CONFIG)
    second = int(np.argmax(rows["is_first"][5:]))
    assert np.isnan(without_start[:second]).all()
    np.testing.assert_array_equal(without_start[second:], rows["reward"][5 + second :])


def curriculum_streams(seed: int = 0, n_envs: int = 2, **pace: Any) -> MarioStreams:
    config = dataclasses.replace(CONFIG, n_envs=n_envs)
    curriculum = CurriculumConfig(backward_demos=DEMO, **pace)
    return MarioStreams(MarioVectorEnv(config, starts=curriculum.starts(config)), seed=seed)


@pytest.mark.parametrize("where", ["backward", "anywhere"])
def test_streams_continue_exactly_from_their_state(where: str) -> None:
    actions = np.random.default_rng(0).integers(0, 7, (400, 2))
    one, other = (
        curriculum_streams(seed, demo_starts=where, backward_episodes=2) for seed in (0, 5)
    )
    play(one, actions[:200])
    other.reset()
    other.load_state_dict(one.state_dict())
    for action in actions[200:]:
        for rows, same in zip(one.step(action), other.step(action), strict=True):
            np.testing.assert_array_equal(rows, same)
    states = [streams.venv.starts.state_dict() for streams in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name])


def test_episodes_begin_anywhere_along_a_demo_when_asked() -> None:
    starts = curriculum_streams(n_envs=64, demo_starts="anywhere").venv.starts
    generator = np.random.default_rng(0)
    numbers = [starts.draw(generator).number for _ in range(400)]
    is_level = np.array(numbers) == starts.places[0]  # type: ignore[attr-defined]
    assert 0.4 < is_level.mean() < 0.6
    assert len(set(numbers)) > 20, "from the first draw on, near the goal and far from it"


def test_a_state_of_the_older_curriculum_goes_on() -> None:
    """Dreamer kept the curriculum's state beside the environments', with other numbers."""
    streams = curriculum_streams(backward_episodes=8)
    play(streams, np.zeros((5, 2), np.int64))
    state = streams.state_dict()
    level = streams.venv.starts.places[0]  # type: ignore[attr-defined]
    state["venv"]["starts"] = {"clear_rates": state["venv"]["starts"]["clear_rates"]}
    state["venv"]["start_numbers"] = np.array([0, 3])
    state["curriculum"] = {"back": 4, "results": [True, False, True]}
    streams.load_state_dict(state)
    starts = streams.venv.starts
    assert isinstance(starts, BackwardStarts)
    assert (starts.front[0], starts.tried[0], starts.reached[0]) == (4, 3, 2)
    assert streams.venv.start_numbers.tolist() == [level, 2]


def test_episodes_begin_where_the_curriculum_says() -> None:
    streams = curriculum_streams(n_envs=12, backward_share=0.5)
    rows = np.concatenate(streams.reset())
    x, from_start = rows["facts"][:, 0], streams.venv.from_start.copy()
    assert (~from_start == (x > 2900)).all()
    assert (from_start == (x == 40)).all()
    assert 3 <= (~from_start).sum() <= 9
    assert len(np.unique(rows["image"][~from_start].reshape(-1, 64 * 64), axis=0)) <= 1
    assert rows["image"].reshape(12, -1).std(axis=1).min() > 5, "a picture, not black"
    from_demo = int(np.flatnonzero(~from_start)[0])
    while not (episodes := [e for e in streams.take_episodes() if not e.from_start]):
        streams.step(np.full(12, 4))  # right, A, B: to the pole
    assert episodes[0].flag or episodes[0].max_x > x[from_demo]


def test_a_demo_becomes_rows_that_end_at_the_flag() -> None:
    demo = load_demo(DEMO)
    rows, unfit = demo_rows(demo, CONFIG)
    assert unfit == 0
    assert len(rows) == demo.agent_steps + 1
    assert rows["is_first"].sum() == rows["is_last"].sum() == rows["is_terminal"].sum() == 1
    assert rows["is_first"][0]
    assert rows["is_terminal"][-1]
    assert rows["reward"][-1] > 9, "the flag's bonus stands with the flag"
    assert rows["facts"][-1, GameFacts._fields.index("flag_get")]
    x = rows["facts"][:, 0]
    assert x[0] == 40
    np.testing.assert_array_equal(x[1:-1], demo.x[3::4][: len(x) - 2])


def test_a_demos_rows_are_those_of_an_agent_that_does_the_same() -> None:
    """Through the environment with the actions that were read off the buttons."""
    rows, _ = demo_rows(load_demo(DEMO), CONFIG)
    config = dataclasses.replace(CONFIG, n_envs=1, noop_max=0)
    [played] = play(MarioStreams(MarioVectorEnv(config)), rows["action"][1:, None].astype(int))
    np.testing.assert_array_equal(rows, played[:-1])


def test_buttons_that_no_action_has_are_counted() -> None:
    rows, unfit = demo_rows(load_demo(DEMO), dataclasses.replace(CONFIG, action_set="fast"))
    assert 0 < unfit < 20
    assert rows["action"].max() < 5


def test_a_demo_with_no_ops_and_one_from_a_snapshot() -> None:
    demo = load_demo(DEMO)
    waited = record(1, 1, np.r_[np.zeros(9, np.uint8), demo.buttons[:80]], source="human", noops=9)
    rows, _ = demo_rows(waited, CONFIG)
    assert len(rows) == 1 + 20
    assert rows["is_last"][-1]
    assert not rows["is_terminal"][-1]
    place = snapshots(demo, 32)[-5]
    tail = record(1, 1, demo.buttons[place.frame :], source="human", start=place.state)
    rows, _ = demo_rows(tail, CONFIG)
    assert rows["is_terminal"][-1]
    assert rows["facts"][0, 0] > 2500


def test_demos_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no demo of 2-1"):
        load_demos(DEMO, [StageId(2, 1)])
    demo = load_demo(DEMO)
    short = record(1, 1, demo.buttons[:40], source="human")
    save_demo(tmp_path / "short.npz", short)
    with pytest.raises(UsageError, match="has to clear the stage"):
        CurriculumConfig(backward_demos=tmp_path).starts(CONFIG)


def test_the_replays_description_tells_rewards_and_actions_apart() -> None:
    assert replay_contents(CONFIG) == replay_contents(dataclasses.replace(CONFIG, n_envs=7))
    for change in (
        {"reward": RewardConfig()},
        {"action_set": "fast"},
        {"stages": (StageId(2, 1),)},
    ):
        assert replay_contents(CONFIG) != replay_contents(dataclasses.replace(CONFIG, **change))
    assert mario_row(CONFIG)["image"].shape == (1, 64, 64)
