"""The reward: what pays, what never does, and how leaps of x are taken."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from mario_cli import UsageError
from mario_config import EnvConfig, RewardConfig, env_config_from_dict
from mario_game import STAGES, GameFacts, StageId, stages_text
from mario_reward import RewardShaper, reward_signature

PRETRAINED = Path(__file__).parents[1] / "pretrained"
START = STAGES[StageId(1, 1)].start_x
AREA = STAGES[StageId(1, 1)].start_area
GOAL = STAGES[StageId(1, 1)].goal_line_x
FRAMES = np.array([4])

SHAPED = RewardConfig(
    base_reward_scale=0.0,
    forward_reward_scale=0.15,
    backward_penalty_scale=0.05,
    flag_bonus=200.0,
    death_penalty=25.0,
    milestone_step=50,
    milestone_bonus=0.5,
    hurdle_x=(600, 1200),
    hurdle_bonus=10.0,
)


def facts(x: int, area: int = AREA, **changes: object) -> GameFacts:
    """One environment's facts at x px, standing well and alive."""
    values = dict.fromkeys(GameFacts._fields, 0) | {
        "x_pos": x,
        "area_pointer": area,
        "time": 400,
        "world": 1,
        "stage": 1,
        "flag_get": False,
        "dead": False,
    }
    return GameFacts(*(np.array([value]) for value in (values | changes).values()))


def shaper(reward: RewardConfig = SHAPED, start: int = START, **changes: object) -> RewardShaper:
    """A shaper whose episode begins at start px."""
    config = EnvConfig(reward=reward, **changes)  # type: ignore[arg-type]
    shaper = RewardShaper(config)
    area = STAGES[config.stages[0]].start_area
    shaper.reset(facts(start, area, world=config.stages[0].world, stage=config.stages[0].stage))
    return shaper


def walk(shaper: RewardShaper, xs: list[int] | np.ndarray) -> float:
    """The sum of rewards along positions within the area."""
    return sum(float(shaper.step(facts(int(x)), FRAMES)[0][0]) for x in xs)


def walk_all(config: EnvConfig, walks: list[np.ndarray]) -> np.ndarray:
    """The sums of rewards along walks from START, each in an environment of its own.

    Who has arrived stands still.
    """
    xs = np.array([np.pad(walk, (0, max(map(len, walks)) - len(walk)), "edge") for walk in walks])
    one = facts(START, world=config.stages[0].world, stage=config.stages[0].stage)
    everywhere = GameFacts(*(np.repeat(value, len(walks)) for value in one))
    walkers = RewardShaper(config, len(walks))
    walkers.reset(everywhere)
    frames = np.repeat(FRAMES, len(walks))
    return sum(
        (walkers.step(everywhere._replace(x_pos=x), frames)[0] for x in xs.T.astype(np.int64)),
        start=np.zeros(len(walks)),
    )


def run_to(x: int, start: int = START) -> list[int]:
    """Positions at full speed from start up to x px."""
    return [*range(start + 12, x, 12), x]


def random_round_trip(rng: np.random.Generator, limit: int) -> np.ndarray:
    """A random walk of steps within +-12 px from START back to START, below limit px."""
    steps = rng.integers(-12, 13, size=rng.integers(4, 200))
    xs = np.clip(START + np.cumsum(steps), 0, limit)
    home = np.arange(xs[-1], START, 12 if xs[-1] < START else -12)
    return np.concatenate([xs, home[1:], [START]])


def test_round_trips_over_known_ground_never_pay() -> None:
    rng = np.random.default_rng(0)
    config = EnvConfig(reward=SHAPED)
    known = np.array([*run_to(1500), *run_to(1500)[::-1], START])
    trips = [random_round_trip(rng, 1500) for _ in range(1000)]
    explored = walk_all(config, [known])
    sums = walk_all(config, [np.concatenate([known, trip]) for trip in trips]) - explored
    assert sums.max() <= 1e-9
    assert sums.min() < 0, "walking back costs"


@pytest.mark.parametrize("stage", [key for key, entry in STAGES.items() if entry.exit_pipe_x])
def test_a_warp_zone_behind_the_exit_pipe_pays_nothing(stage: StageId) -> None:
    table = STAGES[stage]
    assert table.exit_pipe_x
    start = table.exit_pipe_x - 100
    walker = shaper(start=start, stages=(stage,))
    here = {"world": stage.world, "stage": stage.stage}
    for x in run_to(table.exit_pipe_x + 500, start):
        walker.step(facts(x, table.start_area, **here), FRAMES)
    assert walker.max_x == table.exit_pipe_x
    assert walker.stalled_steps > 30, "and it is a stall"
    in_the_goals_area = facts(2872, table.goal_area, **here)
    assert walker.step(in_the_goals_area, FRAMES)[0] == 0
    assert walker.step(facts(2884, table.goal_area, **here), FRAMES)[0] > 0
    assert reward_signature(EnvConfig(stages=(stage,))) != reward_signature(
        EnvConfig(goal_line_x=table.goal_line_x)
    )


@pytest.mark.parametrize("forward_mode", ["new_max", "positive_delta"])
def test_a_stage_to_which_a_warp_leads_pays_nothing(
    forward_mode: Literal["new_max", "positive_delta"],
) -> None:
    reward = dataclasses.replace(SHAPED, forward_mode=forward_mode, end_on_stall_steps=100)
    walker = shaper(reward, start=2900, stages=(StageId(4, 2),))
    elsewhere = STAGES[StageId(5, 1)].start_area
    steps = [walker.step(facts(x, elsewhere, world=5, stage=1), FRAMES) for x in run_to(1800)]
    assert sum(float(pay[0]) for pay, _, _ in steps) == 0
    assert walker.max_x == 2900
    assert steps[-1][2], "and it is a stall"


def test_forward_pay_of_any_walk_is_bounded_by_the_ground_it_covered() -> None:
    rng = np.random.default_rng(1)
    forward_only = RewardConfig(base_reward_scale=0.0, forward_reward_scale=0.15)
    walks = [random_round_trip(rng, 3000) for _ in range(1000)]
    covered = np.array([max(0, int(xs.max()) - START) for xs in walks])
    paid = walk_all(EnvConfig(reward=forward_only), walks)
    np.testing.assert_allclose(paid, 0.15 * covered)


def test_positive_delta_is_the_exploit_that_it_is_kept_to_show() -> None:
    xs = [START + 12, START] * 50
    exploitable = RewardConfig(
        base_reward_scale=0.0, forward_reward_scale=0.05, forward_mode="positive_delta"
    )
    sound = dataclasses.replace(exploitable, forward_mode="new_max")
    assert walk(shaper(exploitable), xs) == pytest.approx(50 * 12 * 0.05)
    assert walk(shaper(sound), xs) == pytest.approx(12 * 0.05)


def test_standing_still_at_the_start_pays_nothing() -> None:
    everything = dataclasses.replace(SHAPED, base_reward_scale=1.0, goal_potential_scale=0.01)
    assert walk(shaper(everything, discount=1.0), [START]) == 0


def test_potential_shaping_never_pays_for_round_trips() -> None:
    rng = np.random.default_rng(2)
    potential = RewardConfig(base_reward_scale=0.0, goal_potential_scale=0.01)
    for discount in (0.9, 0.99, 1.0):
        walks = [random_round_trip(rng, 3000) for _ in range(100)]
        assert walk_all(EnvConfig(reward=potential, discount=discount), walks).max() <= 1e-9


def test_landmarks_pay_once() -> None:
    marks = dataclasses.replace(SHAPED, forward_reward_scale=0.0, backward_penalty_scale=0.0)
    walker = shaper(marks)
    assert walk(walker, run_to(1210)) == pytest.approx(0.5 * (1210 // 50) + 2 * 10)
    assert walk(walker, [*run_to(1210)[::-1], *run_to(1210)]) == 0


def test_nothing_is_paid_beyond_the_goal_line() -> None:
    forward = RewardConfig(base_reward_scale=0.0, forward_reward_scale=1.0)
    walker = shaper(forward, start=GOAL - 20)
    assert walk(walker, [GOAL - 10, GOAL + 2, GOAL + 14]) == 20
    assert walker.max_x[0] == GOAL
    other = RewardShaper(EnvConfig(reward=forward, goal_line_x=100))
    other.reset(facts(START))
    assert walk(other, run_to(200)) == 100 - START


def test_the_flag_pays_once_and_death_costs_once() -> None:
    walker = shaper(start=GOAL - 4)
    _, terms, _ = walker.step(facts(GOAL, flag_get=True), FRAMES)
    assert terms["flag"][0] == 200
    _, terms, _ = walker.step(facts(GOAL, flag_get=True), FRAMES)
    assert terms["flag"][0] == 0
    _, terms, _ = shaper().step(facts(START, dead=True), FRAMES)
    assert terms["death"][0] == -25


def test_base_reward_is_progress_clock_and_death_clipped() -> None:
    base = RewardConfig()
    assert walk(shaper(base), [START + 12]) == 12
    assert walk(shaper(base), [START - 5]) == -5
    reward, _, _ = shaper(base).step(facts(START + 3, time=399), FRAMES)
    assert reward[0] == 2
    reward, _, _ = shaper(base).step(facts(START - 9, dead=True), FRAMES)
    assert reward[0] == -15


def test_a_maze_jump_back_neither_costs_nor_pays_again() -> None:
    walker = shaper(dataclasses.replace(SHAPED, stall_steps=60, stall_penalty=1.0))
    walk(walker, run_to(1500))
    assert walk(walker, [1500 - 1024]) == 0
    assert walker.stalled_steps[0] == 0
    assert walk(walker, run_to(1488, start=1500 - 1024)) == 0, "known ground, and no stall on it"
    assert walk(walker, [1500, 1512]) == pytest.approx(0.15 * 12)


def test_a_page_wrap_moves_no_mark() -> None:
    walker = shaper()
    walk(walker, run_to(100))
    assert walk(walker, [65_530, 100]) == 0
    assert walker.max_x[0] == 100
    assert walk(walker, [112]) == pytest.approx(0.15 * 12)


def test_a_pipe_pays_nothing_itself_and_known_ground_stays_paid() -> None:
    forward = RewardConfig(base_reward_scale=0.0, forward_reward_scale=1.0)
    walker = shaper(forward)
    walk(walker, run_to(900))
    enter, _, _ = walker.step(facts(30, area=0x42), FRAMES)
    inside, _, _ = walker.step(facts(40, area=0x42), FRAMES)
    leave, _, _ = walker.step(facts(2600), FRAMES)
    after, _, _ = walker.step(facts(2610), FRAMES)
    assert (enter[0], inside[0], leave[0], after[0]) == (0, 10, 0, 10)
    walker.step(facts(30, area=0x42), FRAMES)
    assert walker.step(facts(40, area=0x42), FRAMES)[0][0] == 0, "the second visit"
    assert walker.max_x[0] == 2610


def test_stalls_are_counted_charged_and_end_the_episode() -> None:
    reward = RewardConfig(
        base_reward_scale=0.0,
        stall_steps=3,
        stall_penalty=1.0,
        end_on_stall_steps=5,
        end_on_stall_penalty=7.0,
    )
    walker = shaper(reward)
    results = [walker.step(facts(START), FRAMES) for _ in range(5)]
    assert [float(r[0]) for r, _, _ in results] == [0, 0, -1, -1, -8]
    assert [bool(ends[0]) for _, _, ends in results] == [False] * 4 + [True]


def test_an_array_of_environments_equals_each_alone() -> None:
    rng = np.random.default_rng(3)
    config = EnvConfig(reward=dataclasses.replace(SHAPED, base_reward_scale=1.0))
    batch, singles = RewardShaper(config, 5), [RewardShaper(config) for _ in range(5)]
    starts = [facts(START + i) for i in range(5)]
    batch.reset(GameFacts(*(np.concatenate(column) for column in zip(*starts, strict=True))))
    for single, start in zip(singles, starts, strict=True):
        single.reset(start)
    x = START + np.arange(5)
    for _ in range(300):
        x = np.clip(x + rng.integers(-6, 13, size=5), 0, 4000)
        alone = [facts(int(position), time=int(rng.integers(390, 401))) for position in x]
        together = GameFacts(*(np.concatenate(column) for column in zip(*alone, strict=True)))
        rewards, _, _ = batch.step(together, np.full(5, 4))
        expected = [s.step(f, FRAMES)[0][0] for s, f in zip(singles, alone, strict=True)]
        np.testing.assert_array_equal(rewards, expected)


def test_state_continues_exactly() -> None:
    first, second = shaper(), shaper()
    walk(first, run_to(700))
    second.load_state_dict(first.state_dict())
    assert walk(first, run_to(1300, 700)) == walk(second, run_to(1300, 700))


def test_time_left_is_paid_once_with_the_flag_by_the_games_clock() -> None:
    config = EnvConfig(reward=RewardConfig(base_reward_scale=0.0, time_left_bonus=0.5))
    shaper = RewardShaper(config)
    shaper.reset(facts(GOAL - 10))
    assert shaper.step(facts(GOAL - 5, time=300), FRAMES)[0] == 0
    goal_reached = facts(GOAL, time=280, flag_get=True)
    paid, terms, _ = shaper.step(goal_reached, FRAMES)
    assert paid[0] == terms["time_left"][0] == 140
    assert shaper.step(goal_reached, FRAMES)[0] == 0
    assert reward_signature(config) != reward_signature(
        EnvConfig(reward=RewardConfig(base_reward_scale=0.0))
    )


def test_signature_tells_rewards_apart_and_survives_json() -> None:
    base = EnvConfig(reward=SHAPED)
    changed = dataclasses.replace(base, reward=dataclasses.replace(SHAPED, flag_bonus=201.0))
    assert reward_signature(base) == reward_signature(dataclasses.replace(base, n_envs=3))
    assert reward_signature(base) != reward_signature(changed)
    assert reward_signature(base) != reward_signature(dataclasses.replace(base, goal_line_x=3000))
    written = dataclasses.asdict(base) | {"stages": stages_text(base.stages)}
    assert env_config_from_dict(json.loads(json.dumps(written))) == base


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": (StageId(9, 1),)}, "no stage '9-1'"),
        ({"action_set": "turbo"}, "--action-set is 'turbo'"),
        ({"sticky_prob": 1.5}, "--sticky-prob"),
        ({"n_envs": 0}, "--n-envs"),
        ({"long_jump_action": True, "long_jump_base_action": "right+X"}, "no button 'X'"),
    ],
)
def test_wrong_configs_are_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EnvConfig(**changes)


# Of every shipped policy, as computed when it was shipped: the reward's formula and the names
# of its numbers may be written anew, what they hash to may not.
SHIPPED_SIGNATURES = {
    "dreamerv3_mario_1-1": "b7dd8bb25139e595",
    "dreamerv3_mario_1-1_informed": "38d4ac7fc4b04d59",
    "dreamerv3_mario_1-1_scratch": "38d4ac7fc4b04d59",
    "dreamerv3_mario_1-1_taught": "38d4ac7fc4b04d59",
    "dreamerv3_mario_1-3_taught": "756f453a9d26ac10",
    "dreamerv3_mario_1-4_taught": "7fa2641368ad9823",
    "dreamerv3_mario_2-1_taught": "8afa733f99a671c1",
    "ppo_levels/2-4": "7fa2641368ad9823",
    "ppo_levels/5-1": "1049f213ced58207",
    "ppo_mario_1-1": "895ca67f8dd22593",
    "ppo_mario_1-1_noop": "38d4ac7fc4b04d59",
    "ppo_mario_1-1_speedrun": "38d4ac7fc4b04d59",
    "taught/1-1": "b59fc2a52282aea3",
    "taught/1-2": "c5a836cf218d2858",
    "taught/1-3": "51dcfb213ee6a727",
    "taught/1-4": "3caabed73c14b716",
    "taught/2-1": "14ed5e5f04ce934e",
    "taught/2-2": "6869bcad71be6460",
    "taught/2-3": "4d8f071df9b0d12f",
    "taught/2-4": "3caabed73c14b716",
    "taught/3-1": "14ed5e5f04ce934e",
    "taught/3-2": "7b22672f0dabe710",
    "taught/3-3": "faa7bbd0f50942f4",
    "taught/3-4": "3caabed73c14b716",
    "taught/4-1": "4d8f071df9b0d12f",
    "taught/4-2": "f346d766f903a981",
    "taught/4-3": "6d56ae7c621c02a9",
    "taught/4-4": "25d5959ef599d27e",
    "taught/5-1": "638d7d5e2ec91c2a",
    "taught/5-2": "14ed5e5f04ce934e",
    "taught/5-3": "51dcfb213ee6a727",
    "taught/5-4": "3caabed73c14b716",
    "taught/6-1": "ea76bcec6cb4b13a",
    "taught/6-2": "b6c1df9a9a946a33",
    "taught/6-3": "2e8f8fe65e0b6ac5",
    "taught/6-4": "3caabed73c14b716",
    "taught/7-1": "d06f71f7d8b2a22a",
    "taught/7-3": "4d8f071df9b0d12f",
    "taught/7-4": "d3d4d7ffed648816",
    "taught/8-1": "4ff7e4d7bd7aa5d9",
    "taught/8-2": "b6c1df9a9a946a33",
    "taught/8-3": "9073add7a55a7662",
}


@pytest.mark.parametrize("name", SHIPPED_SIGNATURES)
def test_a_shipped_policys_reward_keeps_its_signature(name: str) -> None:
    with zipfile.ZipFile(PRETRAINED / name / "best_eval.zip") as model:
        config = json.loads(model.read("train_config.json"))
    signature = reward_signature(env_config_from_dict(config["env"]))
    assert signature == SHIPPED_SIGNATURES[name]
    assert signature == config["reward_signature"]
