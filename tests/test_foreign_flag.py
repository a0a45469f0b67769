"""A flag of another stage than the episode's own, as behind 1-2's warp zone, clears nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gymnasium.vector import VectorEnv

import mario_rollout
from dreamerv3.episodes import stored_episodes
from dreamerv3.replay import Replay, row_type
from mario_config import EnvConfig, RewardConfig
from mario_demos import Waypoint, load_demo, snapshots
from mario_game import GameFacts, StageId
from mario_judge import evaluate
from mario_runtime import MarioVectorEnv, make_single_env

ROOT = Path(__file__).parents[1]
WARPED_TO = StageId(2, 1)
RIGHT = 1  # of the simple actions
WARP_STEP = 2  # agent steps after which an episode finds itself before 2-1's flag
MOST_STEPS = 40


@pytest.fixture(scope="module")
def before_the_flag() -> Waypoint:
    """A place of the kept clear of 2-1, a few agent steps from its flag."""
    demo = load_demo(ROOT / "demos" / "2-1.npz")
    return [place for place in snapshots(demo, 1) if place.frame <= demo.frames - 8][-1]


def config_of(stage: StageId) -> EnvConfig:
    reward = RewardConfig(flag_bonus=200.0, base_reward_scale=0.0)
    return EnvConfig(stages=(stage,), n_envs=1, noop_max=0, action_set="simple", reward=reward)


class WarpedEnv(MarioVectorEnv):
    """Takes its one episode elsewhere after `WARP_STEP` steps, as a warp zone does."""

    place: Waypoint

    def step(self, actions: npt.ArrayLike) -> Any:
        if self.steps[0] == WARP_STEP:
            self.machines.restore(0, self.place.state, self.place.screen)
        return super().step(actions)


def ending_in_a_batch(config: EnvConfig, place: Waypoint) -> tuple[bool, bool, float]:
    """Whether the episode ended, whether that was a clear, and the flag bonus paid."""
    env = WarpedEnv(config, autoreset=False)
    env.place = place
    env.reset(seed=0)
    paid = 0.0
    for _ in range(MOST_STEPS):
        _, rewards, terminations, _, infos = env.step(np.array([RIGHT]))
        paid += float(infos["reward_terms"]["flag"][0])
        assert rewards[0] == infos["reward_terms"]["flag"][0], "nothing else pays here"
        if terminations[0]:
            assert infos["flag_get"][0], "it ended at a flag"
            return True, bool(infos["is_success"][0]), paid
    return False, False, paid


def ending_of_one(config: EnvConfig, place: Waypoint) -> tuple[bool, bool, float]:
    """The same of one environment's wrapper stack."""
    env = make_single_env(config)
    env.reset(seed=0)
    game: Any = env.unwrapped
    paid = 0.0
    for step in range(MOST_STEPS):
        if step == WARP_STEP:
            game.machine.restore(0, place.state, place.screen)
        _, reward, terminated, _, info = env.step(RIGHT)
        paid += float(reward)
        if terminated:
            assert info["flag_get"], "it ended at a flag"
            return True, info["is_success"], paid
    return False, False, paid


@pytest.mark.parametrize("play", [ending_in_a_batch, ending_of_one])
def test_another_stages_flag_ends_the_episode_and_is_neither_clear_nor_bonus(
    play: Any, before_the_flag: Waypoint
) -> None:
    assert play(config_of(StageId(1, 2)), before_the_flag) == (True, False, 0.0)
    assert play(config_of(WARPED_TO), before_the_flag) == (True, True, 200.0)


class RunRight(mario_rollout.RandomPolicy):
    """Walks to the right."""

    def logits(self, observations: np.ndarray, previous_actions: np.ndarray, state: None) -> Any:
        return np.eye(self.n_actions, dtype=np.float32)[[RIGHT] * len(observations)], None


def test_the_judge_counts_no_clear_of_1_2_at_2_1s_flag(
    before_the_flag: Waypoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warped(config: EnvConfig, **arguments: Any) -> VectorEnv:
        env = WarpedEnv(config, **arguments)
        env.place = before_the_flag
        return env

    monkeypatch.setattr(mario_rollout, "make_vector_env", warped)
    rates = {}
    for stage in (StageId(1, 2), WARPED_TO):
        config = config_of(stage)
        summary, [episode] = evaluate(
            RunRight(config, 7), config, protocol="fixed", episodes=1, deterministic=True
        )
        assert episode.stage == stage
        assert not episode.truncated
        rates[stage] = summary.clear_rate
    assert rates == {StageId(1, 2): 0.0, WARPED_TO: 1.0}


@pytest.mark.parametrize(("ends_in", "cleared"), [((1, 2), True), ((2, 1), False)])
def test_a_stored_episode_clears_at_its_own_flag_alone(
    tmp_path: Path, ends_in: tuple[int, int], cleared: bool
) -> None:
    rows = np.zeros(2, row_type((1, 2, 2), len(GameFacts._fields)))
    facts = {"world": (1, ends_in[0]), "stage": (2, ends_in[1]), "flag_get": (0, 1)}
    for name, values in facts.items():
        rows["facts"][:, GameFacts._fields.index(name)] = values
    rows["is_first"][0] = rows["is_last"][1] = True
    contents = {"reward_signature": "a", "stage": "1-2"}
    replay = Replay(tmp_path, rows.dtype, contents, streams=1, length=2)
    replay.append(0, rows)
    [episode] = stored_episodes(replay)
    assert episode.flag is cleared
