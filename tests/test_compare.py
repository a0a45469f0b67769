"""compare_agents.py on run folders small enough to check by hand, and on a real one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compare_agents import main
from mario_comparison import interquartile_mean, iqm_over_seeds
from mario_config import EnvConfig
from mario_game import StageId
from mario_judge import ModelEvaluation, Summary, summarize
from mario_keeping import keep_run
from mario_results import PhaseRecord, Point, RunFacts, read_study
from mario_rollout import Episode
from mario_runs import RunFolder, write_json
from scripts import learning_curve


def summary(xs: Sequence[int], protocol: str, deterministic: bool) -> Summary:
    """An evaluation whose episodes came to xs; 3,161 is the flag."""
    stage = StageId(1, 1)
    episodes = [
        Episode(i, (0,), 0.0, x, x == 3161, x, False, stage, (stage,)) for i, x in enumerate(xs)
    ]
    about: Any = {"protocol": protocol, "deterministic": deterministic, "seed": 0, "model": "m"}
    return summarize(episodes, EnvConfig(), **about)


def make_run(
    path: Path,
    evaluations: dict[int, Sequence[int]],
    *,
    wall_s: float = 1.0,
    protocol: str = "noop",
    cpu: str = "a chip",
    stage: int = 1,
    warm_start: str | None = None,
    agent: str = "ppo",
) -> Path:
    """A run that takes wall_s for each 100 steps and is evaluated at steps; xs, sampled."""
    run = RunFolder(path)
    config = {
        "agent": agent,
        "env": {"stages": f"1-{stage}", "noop_max": 30, "sticky_prob": 0.0},
        "run": {"warm_start": warm_start},
        "provenance": {"machine": {"cpus": 2, "cpu": cpu}},
    }
    write_json(run.config_path, config)
    steps = range(100, max(evaluations) + 1, 100)
    run.metrics_path.write_text(
        "".join(
            json.dumps(
                {"step": step, "wall_s": wall_s * step / 100, "max_x": step, "clear_rate": 0}
            )
            + "\n"
            for step in steps
        )
    )
    for step, xs in evaluations.items():
        argmax, sampled = summary([40] * len(xs), protocol, True), summary(xs, protocol, False)
        found = ModelEvaluation(step=step, argmax=argmax, sampled=sampled)
        found.write(run.evaluations / f"step_{step}" / "summary.json")
    return path


def compare(tmp_path: Path, *flags: str | Path) -> dict[str, Any]:
    """Run the command and return its JSON."""
    output = tmp_path / "out"
    assert main([*map(str, flags), "--output-dir", str(output)]) == 0
    return json.loads((output / "comparison.json").read_text())


def test_interquartile_mean_by_hand() -> None:
    assert interquartile_mean(np.array([0.0, 10, 20, 1000])) == 15
    assert interquartile_mean(np.array([0.0, 10, 50])) == 20  # too few to leave any out


def test_intervals_hold_every_resample_of_two_seeds() -> None:
    found = iqm_over_seeds(np.array([[0.0, 1.0], [1.0, 1.0]]))
    # Two seeds drawn with replacement have the mean 0, 1/2 or 1; more than 2.5 % have either end.
    assert found == {"iqm": [0.5, 1.0], "low": [0.0, 1.0], "high": [1.0, 1.0]}
    assert iqm_over_seeds(np.array([[0.25]])) == {"iqm": [0.25]}


def test_side_by_side(tmp_path: Path) -> None:
    ppo = [
        make_run(tmp_path / "p0", {100: [700, 800], 300: [1500, 1500], 600: [3161, 3161]}),
        make_run(tmp_path / "p1", {100: [500, 500], 300: [1400, 3161], 600: [3161, 1000]}),
    ]
    points: dict[int, Sequence[int]] = {100: [600, 900], 400: [3161, 40]}
    slow = make_run(tmp_path / "d0", points, wall_s=60.0, agent="dreamerv3")
    content = compare(tmp_path, "--ppo", *ppo, "--dreamerv3", slow)

    first, second = (run["milestones"] for run in content["agents"]["ppo"]["runs"])
    assert first["x >= 724"] == {"step": 100, "wall_s": 1.0}
    assert first["x >= 1,500"] == {"step": 300, "wall_s": 3.0}
    assert first["flag"] == {"step": 600, "wall_s": 6.0}
    assert second["x >= 2,000"] == {"step": 300, "wall_s": 3.0}, "1,400 and 3,161 are 2,280 in mean"
    assert "x >= 2,600" not in second, "the last mean, 2,080, falls short"
    assert content["agents"]["ppo"]["end"]["clear_rate"]["iqm"] == [0.75]

    # By steps all can be compared up to 400, where PPO was last evaluated at 300.
    steps = content["same"]["step"]
    assert steps["step"] == 400
    assert steps["ppo"]["clear_rate"] == {"iqm": [0.25], "low": [0.0], "high": [0.5]}
    assert steps["dreamerv3"]["clear_rate"] == {"iqm": [0.5]}
    # By time up to PPO's end at 6 s, when DreamerV3 had not been evaluated yet.
    assert content["same"]["wall_s"]["wall_s"] == 6.0
    assert "dreamerv3" not in content["same"]["wall_s"]

    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "| ppo | 2 | after 400 steps | 25 % (0-50) | 1,890 (1,500-2,280) |" in text
    assert "| dreamerv3 | 1 | at its end: 400 steps, 4 min | 50 % | 1,600 |" in text
    assert "| dreamerv3 | 100 steps, 1.0 min (1/1) | 400 steps, 4.0 min (1/1) | not reached" in text
    assert "Machine: 2 cores, a chip." in text
    with Image.open(tmp_path / "out" / "comparison.png") as picture:
        assert picture.width > 800
        assert len(picture.convert("RGB").getcolors(10**6) or []) > 10


def test_what_is_kept_of_a_real_run_says_what_the_run_says(tiny_run: Path, tmp_path: Path) -> None:
    kept = tmp_path / "study" / "seed0"
    judged = tmp_path / "summary.json"
    summary([700, 3161], "noop", False).write(judged)
    flags = ["--every", "1", "--keep", str(kept), "--judged", str(judged)]
    assert learning_curve.main([str(tiny_run), *flags]) == 0
    study = read_study(tmp_path / "study")
    assert str(study.judgement("seed0", "noop", "sampled")) == "1/2 (9-91 %)"
    assert study.about.runs["seed0"].told == "pixels only"
    found = [compare(tmp_path, "--ppo", path, "--policy", "argmax") for path in (tiny_run, kept)]
    for content in found:
        [run] = content["agents"]["ppo"]["runs"]
        assert run.pop("name") in (tiny_run.as_posix(), kept.as_posix())
    assert found[0]["agents"] == found[1]["agents"]
    assert run["steps"] == 256


def test_kept_phases_follow_each_other(tmp_path: Path) -> None:
    none, flag = {"max_x": 1000.0, "clear_rate": 0.0}, {"max_x": 3161.0, "clear_rate": 1.0}
    first = [Point("a", 100, 60, "one", none), Point("a", 200, 120, "one", none)]
    second = [Point("a", 50, 30, "two"), Point("a", 100, 60, "two", flag)]
    phases = {
        "one": PhaseRecord({"agent": "ppo"}, first, []),
        "two": PhaseRecord({"agent": "ppo"}, second, []),
    }
    keep_run(tmp_path / "study", "a", RunFacts(), [], phases)
    content = compare(tmp_path, "--ppo", tmp_path / "study" / "a", "--source", "training")
    [run] = content["agents"]["ppo"]["runs"]
    assert (run["steps"], run["wall_s"]) == (300, 180)
    assert run["milestones"]["flag"] == {"step": 300, "wall_s": 180}


def test_a_reader_is_told_of_other_machines_and_earlier_steps(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "p0", {100: [700]}, warm_start="runs/before/models/mario_final.zip"),
        make_run(tmp_path / "p1", {100: [700]}, cpu="another chip"),
    ]
    compare(tmp_path, "--ppo", *runs, "--note", "Beside other work.")
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "different machines: 2 cores, a chip; 2 cores, another chip" in text
    assert "after the steps of runs/before/models/mario_final.zip" in text
    assert "Beside other work." in text


@pytest.mark.parametrize(
    ("change", "flags", "said"),
    [
        ({"protocol": "sticky"}, "", "different conditions"),
        ({"stage": 2}, "", "different stage"),
        ({"agent": "ppo"}, "", "other is a run of ppo, not of dreamerv3"),
        ({}, "--policy argmax --source training", "sampled"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    change: dict[str, Any],
    flags: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = make_run(tmp_path / "one", {100: [700]})
    other = make_run(tmp_path / "other", {100: [700]}, **{"agent": "dreamerv3", **change})
    assert main(["--ppo", str(one), "--dreamerv3", str(other), *flags.split()]) == 2
    assert said in capsys.readouterr().err


def test_the_same_run_twice_is_no_second_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "mine", {100: [700]})
    assert main(["--ppo", str(run), str(run.parent / "." / "mine")]) == 2
    assert "mine is named twice" in capsys.readouterr().err


def test_an_evaluation_that_is_none_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "mine", {100: [700]})
    broken = run / "evaluations" / "step_100" / "summary.json"
    broken.write_text(broken.read_text().replace('"median_max_x": 700.0', '"median_max_x": "x"'))
    assert main(["--ppo", str(run)]) == 2
    error = capsys.readouterr().err
    assert "is no summary of an evaluation: sampled: " in error
    assert error.count("\n") == 1


def test_a_seed_that_has_just_begun_is_not_averaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(tmp_path / "a", {100: [700]}), make_run(tmp_path / "b", {200: [700]})]
    assert main(["--ppo", *map(str, runs)]) == 2
    assert "no agent steps that all of these runs have come to" in capsys.readouterr().err


@pytest.mark.parametrize(("path", "said"), [("nowhere", "no run folder"), ("", "name run folders")])
def test_nothing_to_compare_is_one_line(
    path: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--ppo", str(tmp_path / path)] if path else []) == 2
    assert said in capsys.readouterr().err


def test_runs_of_one_agent_stand_apart_when_they_are_asked_to(
    tiny_run: Path, tmp_path: Path
) -> None:
    runs = [shutil.copytree(tiny_run, tmp_path / name) for name in ("base", "fearless")]
    given = ["--ppo", *map(str, runs), "--policy", "argmax", "--output-dir", str(tmp_path / "out")]
    assert main([*given, "--apart"]) == 0
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert list(content["agents"]) == ["base", "fearless"]
    assert "| fearless | 1 |" in (tmp_path / "out" / "comparison.md").read_text()
