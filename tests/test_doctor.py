"""The doctor on runs made to fail, and on those of the recipe P8 (docs/journey.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mario_callbacks import RolloutStatistics
from mario_doctor import RULES, WALL_ROWS, Doctor, Row, RunningMedian, diagnose
from mario_results import RESULTS, Point, read_study
from mario_runs import RunFolder, read_metrics
from train_mario import main

ROOT = Path(__file__).parents[1]
HEALTHY: Row = {
    "entropy": 1.2,
    "approx_kl": 0.008,
    "clip_fraction": 0.08,
    "learning_rate": 2.5e-4,
    "value_loss": 0.3,
    "clear_rate": 0.0,
    "ppo/walked_per_ground": 1.1,
    "ppo/reward_clipped": 0.001,
}


def rows_of(count: int, **changed: float) -> list[Row]:
    """Rows of a healthy run in which some numbers are others."""
    return [
        HEALTHY
        | {
            "step": 4096 * (i + 1),
            "ppo/episodes": 40 * (i + 1),
            "ppo/max_x_p25": 600 + i,
            "ppo/max_x_median": 700 + i,
            "ppo/max_x_p75": 900 + i,
        }
        | {key.replace("__", "/"): value for key, value in changed.items()}
        for i in range(count)
    ]


def sick(rule: str) -> list[Row]:
    """The end of a run with this illness, after a healthy beginning."""
    return {
        "entropy_collapse": rows_of(10, entropy=5e-8),
        "frozen_policy": rows_of(10, approx_kl=0.0, clip_fraction=0.0),
        "value_explosion": rows_of(1, value_loss=1.9e5),
        "kl_explosion": rows_of(1, approx_kl=1_000.0),
        "missing_losses": rows_of(10, value_loss=float("nan")),
        "forgotten": rows_of(10, clear_rate=1.0) + rows_of(30),
        "death_wall": rows_of(40, ppo__max_x_p25=690, ppo__max_x_p75=702),
        "oscillation": rows_of(10, ppo__walked_per_ground=8.0),
        "reward_saturation": rows_of(10, ppo__reward_clipped=0.2),
    }[rule]


@pytest.mark.parametrize("rule", RULES)
def test_each_illness_is_named_once_with_its_numbers(rule: str) -> None:
    healthy = rows_of(40)
    assert diagnose(healthy) == []
    rows = [{**row, "step": row["step"] + 10**6} for row in sick(rule)]
    for row in rows:
        row["ppo/episodes"] += 10_000
    found = diagnose([*healthy, *rows])
    assert [finding.rule for finding in found] == [rule]
    assert found[0].step > 10**6
    assert any(character.isdigit() for character in found[0].message)
    assert "\n" not in found[0].message


def test_growth_of_the_value_loss_counts_against_the_runs_own_past() -> None:
    assert diagnose(rows_of(10, value_loss=0.04) + rows_of(1, value_loss=60.0))
    assert not diagnose(rows_of(10, value_loss=0.6) + rows_of(1, value_loss=40.0))


def test_a_decided_policy_that_clears_is_no_collapse() -> None:
    assert diagnose(rows_of(10, entropy=1e-3, approx_kl=0, clip_fraction=0, clear_rate=0.98)) == []


def test_a_run_that_logs_less_is_judged_by_what_it_logs() -> None:
    assert diagnose([{"step": 1000 * i, "wall_s": i, "max_x": 314.0} for i in range(50)]) == []


@pytest.mark.parametrize("run", ["fast", "nes-py_first_102k"])
def test_a_run_of_p8_is_never_flagged(run: str) -> None:
    points = read_study(RESULTS / "p8_200k").of(Point, run)
    rows = [{"step": one.step, "wall_s": one.wall_s, **one.metrics} for one in points]
    assert len(rows) > 10
    assert diagnose([{**row, "learning_rate": 2.5e-4} for row in rows]) == []


@pytest.mark.slow
def test_p4_is_flagged_while_it_runs_and_stops_if_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (
        f"--config {ROOT}/configs/p4.yaml --n-steps 256 --timesteps 20000 --eval-freq 0 "
        f"--checkpoint-freq 0 --stop-on-collapse --run-dir {tmp_path / 'p4'}"
    )
    assert main(flags.split()) == 1
    said = capsys.readouterr()
    run = RunFolder(tmp_path / "p4")
    rows = read_metrics(run.metrics_path)
    assert rows[-1]["step"] <= 20_000
    assert rows[-1]["doctor/value_explosion"] == 1
    assert "warning: value_explosion: value loss" in said.err
    assert f"the doctor, at {rows[-1]['step']:,} steps: value_explosion" in said.err
    assert "go on with --resume-model" in said.out
    assert len(run.checkpoints()) == 1, "what it had is kept"


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "sick"), [("p4", True), ("p8", False)])
def test_the_real_recipes_first_20k_steps(tmp_path: Path, recipe: str, sick: bool) -> None:
    flags = (
        f"--config {ROOT}/configs/{recipe}.yaml --timesteps 20480 --eval-freq 0 --preview-freq 0"
    )
    assert main([*flags.split(), "--run-dir", str(tmp_path / recipe)]) == 0
    rows = read_metrics(RunFolder(tmp_path / recipe).metrics_path)
    assert bool(diagnose(rows)) == sick, json.dumps(rows[-1])


def test_steps_to_and_fro_and_clipped_rewards_are_counted() -> None:
    statistics = RolloutStatistics(reward_clip=10.0)
    walk = [(40, 40), (52, 52), (40, 52), (52, 52), (64, 64)]  # x and max-x: 48 px for 24
    for x, max_x in walk:
        rewards, dones = np.array([10.0, 1.0]), np.array([False, False])
        statistics.add(np.full(2, x), np.full(2, max_x), rewards, dones)
    assert statistics.scalars() == {"ppo/walked_per_ground": 2.0, "ppo/reward_clipped": 0.5}
    at = np.full(2, 70)
    statistics.add(at, at, np.zeros(2), np.array([True, True]))
    walked = statistics.walked_px
    at = np.full(2, 40)
    statistics.add(at, at, np.zeros(2), np.array([False, False]))
    assert statistics.walked_px == walked, "a new episode's start is no walk"
    assert statistics.episodes == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        ("--ent-coef -1 --ent-coef-final -1 --learning-rate 3e-3", "entropy_collapse"),
        ("--learning-rate 1e-12 --learning-rate-final 1e-12", "frozen_policy"),
        ("--normalize-reward --norm-reward-clip 0.05", "reward_saturation"),
    ],
)
def test_real_runs_made_to_fail_are_recognised(tmp_path: Path, flags: str, rule: str) -> None:
    tiny = "--n-envs 4 --n-steps 64 --batch-size 64 --n-epochs 2 --timesteps 2048 --eval-freq 0"
    run = RunFolder(tmp_path / "run")
    assert main([*tiny.split(), *flags.split(), "--run-dir", str(run.path)]) == 0
    rows = read_metrics(run.metrics_path)
    assert rule in [finding.rule for finding in diagnose(rows)]
    assert any(row.get(f"doctor/{rule}") for row in rows)


def test_one_update_a_rollout_is_no_frozen_policy(tmp_path: Path) -> None:
    tiny = "--n-envs 2 --n-steps 64 --batch-size 128 --n-epochs 1 --timesteps 640 --eval-freq 0"
    run = RunFolder(tmp_path / "run")
    assert main([*tiny.split(), "--run-dir", str(run.path)]) == 0
    rows = read_metrics(run.metrics_path)
    assert len(rows) == 5
    assert not any("approx_kl" in row for row in rows), "0 by definition, so it says nothing"
    assert diagnose(rows) == []


@pytest.mark.parametrize("value_loss", [0.3, 2.0, 0.0])
def test_twenty_thousand_rows_are_looked_at_a_bounded_number_of_times(value_loss: float) -> None:
    looked = 0

    class Counting(list[Row]):
        def __getitem__(self, key: Any) -> Any:
            nonlocal looked
            found = super().__getitem__(key)
            looked += len(found) if isinstance(key, slice) else 1
            return found

        def __iter__(self) -> Iterator[Row]:
            nonlocal looked
            looked += len(self)
            return super().__iter__()

    stuck = {"ppo/episodes": 7, "ppo/max_x_p25": 700, "ppo/max_x_p75": 701}
    doctor = Doctor()
    doctor.history.rows = Counting()
    for row in rows_of(20_000 if value_loss == 2.0 else 2_000, value_loss=value_loss):
        doctor.add({**row, **stuck})
    assert doctor.findings == []
    assert looked <= 100 * 20_000, "what a row costs does not grow"
    assert len(doctor.history.ends) == WALL_ROWS


def test_a_running_median_is_that_of_all_numbers_so_far() -> None:
    values = np.random.default_rng(0).normal(size=200).tolist()
    median = RunningMedian()
    for count, value in enumerate(values, start=1):
        median.add(value)
        assert median.value() == sorted(values[:count])[count // 2]


@pytest.mark.parametrize("loss", ["value_loss", "entropy"])
@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "2.0", 10**400])
def test_a_loss_that_is_no_number_is_missing(loss: str, value: Any) -> None:
    rows = rows_of(10) + [{**row, loss: value} for row in rows_of(10)]
    assert [finding.rule for finding in diagnose(rows)] == ["missing_losses"]


def test_a_dreamer_that_makes_no_updates_yet_misses_no_losses() -> None:
    rows: list[Row] = [
        {"step": i, "learning_rate": 1e-4, "dreamer/updates": 0, "clear_rate": 0.0}
        for i in range(1, 20)
    ]
    assert diagnose(rows) == []
    rows = [{**row, "dreamer/updates": row["step"]} for row in rows]
    assert [finding.rule for finding in diagnose(rows)] == ["missing_losses"]


def test_a_clear_rate_that_comes_back_is_not_forgotten() -> None:
    rows = rows_of(10, clear_rate=1.0) + rows_of(9) + rows_of(10, clear_rate=0.6) + rows_of(9)
    assert diagnose(rows) == []
