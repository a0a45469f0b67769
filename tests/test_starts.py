"""Where episodes begin: several stages in one run, places along demos that move back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fastnes import Machine, ram
from fastnes.starts import HALFWAY_PAGES
from mario_cli import UsageError
from mario_config import EnvConfig
from mario_curriculum import AnywhereStarts, BackwardPace, BackwardStarts
from mario_demos import load_demos, record, save_demo, snapshots
from mario_game import StageId, parse_stages
from mario_judge import ModelEvaluation
from mario_runs import RunFolder, read_metrics
from mario_sb3 import make_vec_env
from mario_starts import StageStarts, other_entries, stage_start
from train_mario import main

ROOT = Path(__file__).parents[1]


def test_stages_are_named_and_wrong_ones_refused() -> None:
    assert parse_stages("1-1, 8-4,1-1") == (StageId(1, 1), StageId(8, 4))
    assert len(parse_stages("all")) == 32
    for wrong in ("9-1", "1-5", "1", "a-b", "1-1;1-2"):
        with pytest.raises(UsageError, match="no stage"):
            EnvConfig(stages=parse_stages(wrong))
    with pytest.raises(UsageError, match="goal_line_x is one stage's"):
        EnvConfig(stages=parse_stages("1-1,1-2"), goal_line_x=100)


def test_several_stages_are_the_same_batched_and_single() -> None:
    config = EnvConfig(
        n_envs=3, stages=parse_stages("1-1,1-2,4-4"), action_set="simple", max_episode_steps=20
    )
    batched = make_vec_env(config, seed=5)
    single = make_vec_env(dataclasses.replace(config, vec_backend="dummy"), seed=5)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(batched.reset(), single.reset())
    begun = set()
    for _ in range(100):
        actions = rng.integers(0, 7, 3)
        ours, theirs = batched.step(actions), single.step(actions)
        for one, other in zip(ours[:3], theirs[:3], strict=True):
            np.testing.assert_array_equal(one, other)
        for info, reference in zip(ours[3], theirs[3], strict=True):
            np.testing.assert_equal(info, {name: reference.get(name) for name in info})
        assert batched.reset_infos == single.reset_infos
        begun |= {info["start_stage"] for info in batched.reset_infos}
    assert begun == {"1-1", "1-2", "4-4"}
    single.close()


def test_what_fails_is_drawn_more_often() -> None:
    starts = StageStarts(EnvConfig(stages=parse_stages("1-1,1-2"), stage_sampling="failure"))
    for _ in range(200):
        starts.count(0, True)
        starts.count(1, False)
    rng = np.random.default_rng(0)
    drawn = np.bincount([starts.draw_number(rng) for _ in range(1000)])
    assert 5 < drawn[1] / drawn[0] < 20
    assert starts.scalars()["stage/1-1/clear_rate"] > 0.99


def test_backward_starts_begin_near_the_goal_and_move_back_as_they_succeed() -> None:
    config = EnvConfig(n_envs=4, action_set="fast")
    starts = BackwardStarts(config, load_demos(ROOT / "demos", [StageId(1, 1)]))
    venv = make_vec_env(config, seed=0, starts=starts)
    venv.reset()
    assert all(info["x_pos"] > 2900 for info in venv.reset_infos)
    assert not any(info["from_start"] for info in venv.reset_infos)
    rng = np.random.default_rng(0)
    x_pos = []
    for _ in range(2000):
        start = starts.draw(rng)
        x_pos.append(start.at_level_start)
        starts.count(start.number, cleared=bool(rng.random() < 0.7))
    assert x_pos[-1] and not x_pos[0], "it has moved back to the level's start"
    assert starts.scalars()["stage/1-1/steps_to_goal"] >= 260
    stuck = BackwardStarts(config, load_demos(ROOT / "demos", [StageId(1, 1)]))
    for _ in range(500):
        stuck.count(stuck.draw(rng).number, cleared=False)
    assert stuck.front[0] == 0

    again = BackwardStarts(config, load_demos(ROOT / "demos", [StageId(1, 1)]))
    again.load_state_dict(starts.state_dict())
    assert (
        again.draw(np.random.default_rng(1)).number == starts.draw(np.random.default_rng(1)).number
    )


def test_a_share_of_backward_starts_is_at_the_level_until_the_front_is() -> None:
    pace = BackwardPace(share=0.5, episodes=4)
    starts = BackwardStarts(EnvConfig(), load_demos(ROOT / "demos", [StageId(1, 1)]), pace)
    level, rng = starts.places[0], np.random.default_rng(0)
    drawn = [starts.draw(rng).at_level_start for _ in range(1000)]
    assert 0.45 < np.mean(drawn) < 0.55
    for cleared in (True, False, True, False):
        starts.count_place(0, 0, cleared)
    assert starts.front[0] == 1
    for _ in range(4):
        starts.count_place(0, 1, cleared=False)
    assert starts.front[0] == 1, "none of four is not enough"
    while starts.front[0] < level:
        front = int(starts.front[0])
        begun = {starts.draw_place(0, rng) for _ in range(50)} - {level}
        assert begun <= set(range(max(0, front - 2), front + 1))
        starts.count_place(0, front, cleared=True)
    assert all(starts.draw(rng).at_level_start for _ in range(20))


def test_starts_anywhere_are_half_at_the_level_and_half_along_the_demo() -> None:
    config = EnvConfig(n_envs=4, action_set="fast", stages=parse_stages("1-1,1-2"))
    starts = AnywhereStarts(config, load_demos(ROOT / "demos", list(config.stages)))
    rng = np.random.default_rng(0)
    drawn = [starts.draw(rng) for _ in range(4000)]
    assert 0.45 < np.mean([start.at_level_start for start in drawn]) < 0.55
    on_the_way = {start.number for start in drawn if not start.at_level_start}
    assert len(on_the_way) == sum(starts.places), "each place is drawn"
    for start in drawn[:100]:
        starts.count(start.number, cleared=not start.at_level_start)
    assert not starts.levels.clear_rates.any(), "only clears from the level's start count"


def test_a_whole_game_begins_stages_in_more_ways() -> None:
    for stage in parse_stages("1-1,8-4"):
        entries = other_entries(stage)
        assert len(set(entries)) == len(entries) == (5 if stage == (1, 1) else 2)
        for entry in entries:
            start = stage_start(stage, 3, entry)
            assert (start.number, start.at_level_start) == (3, False)
            assert start.snapshot[ram.STATUS] == entry.status
            assert start.snapshot[ram.PLAYER_SIZE] == (entry.status == 0)
            assert (start.snapshot[ram.PLAYER_X_PAGE] > 0) == entry.is_halfway
    assert stage_start(StageId(1, 1), 0).at_level_start


@pytest.mark.parametrize("stage", parse_stages("all"), ids=str)
def test_the_game_itself_goes_on_halfway(stage: StageId) -> None:
    """Mario falls into a pit beyond the halfway point of a demo: the next life begins there."""
    page = HALFWAY_PAGES[stage.world - 1][stage.stage - 1]
    [demo] = load_demos(ROOT / "demos", [stage])
    for place in snapshots(demo, every=16):
        if place.state[ram.SCREEN_LEFT_PAGE] >= page and place.frame > 60:
            break
    machine = Machine()
    machine.restore(place.state)
    lives = machine.ram[ram.LIVES]
    machine.ram[ram.PLAYER_Y_PAGE] = 2
    for _ in range(600):
        machine.step(0, draw=False)
        if machine.ram[ram.LIVES] == lives - 1:
            break
    assert machine.ram[ram.HALFWAY_PAGE] == page


def test_a_share_of_the_starts_is_a_whole_games() -> None:
    config = EnvConfig(stages=parse_stages("1-1,8-4"))
    starts = AnywhereStarts(config, load_demos(ROOT / "demos", config.stages), game_share=0.5)
    generator = np.random.default_rng(0)
    drawn = [starts.draw(generator) for _ in range(2000)]
    places = {start.number: start for start in drawn}
    assert all(map(starts.has, places))
    assert not starts.has(max(places) + 2)
    tall = [start.snapshot[ram.STATUS] > 0 for start in drawn]
    # 4 of the 5 other ways into 1-1 and both of those into 8-4 are not small.
    assert np.mean(tall) == pytest.approx(0.5 * 0.9, abs=0.04)
    before = starts.state_dict()
    for start in drawn:
        if start.snapshot[ram.STATUS]:
            starts.count(start.number, cleared=True)
    np.testing.assert_array_equal(before["clear_rates"], starts.state_dict()["clear_rates"])


def test_several_demos_of_a_stage_share_its_starts(tmp_path: Path) -> None:
    [clear] = load_demos(ROOT / "demos", [StageId(1, 1)])
    save_demo(tmp_path / "1-1.npz", clear)
    jumps = np.tile(np.repeat(np.array([0x82, 0x83], np.uint8), 12), 8)
    idle = np.zeros(5, np.uint8)
    other = record(1, 1, np.concatenate([idle, jumps]), source="search", noops=len(idle))
    save_demo(tmp_path / "1-1_noops5.npz", other)
    demos = load_demos(tmp_path, [StageId(1, 1)])
    assert [demo.noops for demo in demos] == [0, 5]
    starts = AnywhereStarts(EnvConfig(action_set="fast"), demos)
    rng = np.random.default_rng(0)
    drawn = [starts.draw(rng) for _ in range(500)]
    begun = {start.snapshot.tobytes() for start in drawn if not start.at_level_start}
    assert len(begun) == 2 * starts.places[0] == 2 * (48 // starts.steps - 1)
    first, *_ = snapshots(other, 32)
    assert first.frame == 5, "the first place is where the agent begins"


def test_a_stage_without_a_demo_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no 1-1\.npz"):
        load_demos(tmp_path, [StageId(1, 1)])
    with pytest.raises(UsageError, match="batched"):
        make_vec_env(
            EnvConfig(vec_backend="dummy"),
            starts=BackwardStarts(EnvConfig(), load_demos(ROOT / "demos", [StageId(1, 1)])),
        )


def test_a_run_over_several_stages_reports_each(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    flags = (
        "--stages 1-1,1-2 --stage-sampling failure --backward-demos demos --n-envs 4 --n-steps 64 "
        "--batch-size 64 --n-epochs 1 --timesteps 512 --eval-freq 256 --eval-episodes 2 "
        "--eval-steps 10 --eval-stages 1-1,1-2,1-3"
    )
    assert main([*flags.split(), "--run-dir", str(run.path)]) == 0
    row = read_metrics(run.metrics_path)[-1]
    assert {"stage/1-1/steps_to_goal", "stage/1-2/clear_rate"} <= row.keys()
    assert "clear_rate" not in row, "no episode began at a level's start: nothing to report"
    found = ModelEvaluation.from_json(run.best_summary)
    for summary, episodes in zip(found.summaries, (30, 2), strict=True):
        stages = {str(one.stage): one.episodes for one in summary.stages}
        assert stages == dict.fromkeys(("1-1", "1-2", "1-3"), episodes)
