"""render_best_checkpoint.py as a person calls it, and what it finds under runs/."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import imageio.v2 as imageio
import pytest
from PIL import Image

import render_best_checkpoint
from mario_cli import UsageError
from mario_judge import ModelEvaluation
from mario_runs import BadModelFile
from mario_status import RunReader, best_run, find_runs, newest_model, newest_run

QUICK = ("--max-steps", "12", "--seeds", "3")


def test_every_seed_is_listed_and_the_best_is_filmed(tiny_run: Path, tmp_path: Path) -> None:
    flags = ["--model", str(tiny_run), "--output-dir", str(tmp_path), "--seed-base", "5", *QUICK]
    assert render_best_checkpoint.main([*flags, "--captions"]) == 0
    best = json.loads((tmp_path / "best.json").read_text())
    everything = json.loads((tmp_path / "all_runs.json").read_text())
    assert best["model"] == (tiny_run / "evaluations" / "best_eval.zip").as_posix()
    seeds = [(run["mode"], run["seed"]) for run in everything["runs"]]
    assert sorted(seeds) == [
        *(("deterministic", seed) for seed in range(5, 35)),  # each number of no-ops once
        *(("stochastic", seed) for seed in (5, 6, 7)),
    ]
    assert [summary["deterministic"] for summary in everything["summaries"]] == [True, False]
    furthest = max(run["max_x"] for run in everything["runs"])
    assert best["max_x"] == everything["runs"][0]["max_x"] == furthest
    assert best["fps"] == pytest.approx(15.02, abs=0.01), "the game's own speed, 4 frames a step"
    frames = imageio.mimread(tmp_path / "best.mp4", memtest=False)
    assert len(frames) == len(best["actions"]) + 1 == best["length"] + 1 == 13
    assert frames[0].shape == (512, 512, 3)
    with Image.open(tmp_path / "best.gif") as gif:
        assert getattr(gif, "n_frames", 0) == 13


def test_speed_width_modes_and_gif_follow_the_flags(tiny_run: Path, tmp_path: Path) -> None:
    flags = ["--model", str(tiny_run), "--output-dir", str(tmp_path), *QUICK, "--no-gif"]
    flags += ["--policy-modes", "stochastic", "--fps", "30", "--export-max-width", "256"]
    assert render_best_checkpoint.main([*flags, "--rank-by", "fastest_clear"]) == 0
    assert not (tmp_path / "best.gif").exists()
    assert {
        run["mode"] for run in json.loads((tmp_path / "all_runs.json").read_text())["runs"]
    } == {"stochastic"}
    with imageio.get_reader(tmp_path / "best.mp4") as reader:
        meta = reader.get_meta_data()  # type: ignore[attr-defined]
    assert (meta["size"], meta["fps"]) == ((256, 240), 30)


def test_every_frame_of_the_game_is_filmed_if_asked_for(tiny_run: Path, tmp_path: Path) -> None:
    flags = ["--model", str(tiny_run), *QUICK, "--no-gif", "--policy-modes", "stochastic"]
    counts = []
    for name, more in (("steps", []), ("frames", ["--every-frame"])):
        output = tmp_path / name
        flags_here = [*flags, "--export-max-width", "256", "--output-dir", str(output), *more]
        assert render_best_checkpoint.main(flags_here) == 0
        with imageio.get_reader(output / "best.mp4") as reader:
            meta = reader.get_meta_data()  # type: ignore[attr-defined]
            counts.append((meta["fps"], reader.count_frames()))  # type: ignore[attr-defined]
        best = json.loads((output / "best.json").read_text())
    assert counts[0] == (pytest.approx(15, abs=0.1), best["length"] + 1)
    fps, frames = counts[1]
    assert fps == pytest.approx(60, abs=0.2)
    assert 4 * best["length"] <= frames <= 4 * best["length"] + 31, "no-ops at the start too"


def test_auto_finds_the_best_run_or_the_newest_step(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    better, newer = root / "better", root / "group" / "newer"
    shutil.copytree(tiny_run, better)
    shutil.copytree(tiny_run, newer)
    summary = better / "evaluations" / "best_eval_summary.json"
    found = ModelEvaluation.from_json(summary)
    [stage] = found.argmax.stages
    far = dataclasses.replace(stage, median_max_x=stage.median_max_x + 1)
    argmax = dataclasses.replace(found.argmax, stages=(far,))
    dataclasses.replace(found, argmax=argmax).write(summary)
    os.utime(better / "metrics.jsonl", (1e9, 1e9))
    assert find_runs(root) == {"better": better, "group/newer": newer}
    assert (best_run(root), newest_run(root)) == (better, newer)
    assert newest_model(newer) == newer / "models" / "checkpoints" / "mario_ppo_256_steps.zip"

    flags = ["--auto", "--runs-root", str(root), "--output-dir", str(tmp_path / "out"), "--no-gif"]
    assert render_best_checkpoint.main([*flags, *QUICK]) == 0
    best = json.loads((tmp_path / "out" / "best.json").read_text())
    assert best["model"] == (better / "evaluations" / "best_eval.zip").as_posix()
    assert render_best_checkpoint.main([*flags, *QUICK, "--prefer-latest-step"]) == 0
    best = json.loads((tmp_path / "out" / "best.json").read_text())
    assert best["model"] == newest_model(newer).as_posix()


def test_runs_are_found_inside_their_root_only(tiny_run: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    assert find_runs(root) == find_runs(tmp_path / "nothing") == {}
    (root / "way out").symlink_to(tiny_run.parent)
    assert find_runs(root) == {}
    with pytest.raises(UsageError, match="no runs in"):
        newest_run(root)
    (root / "empty").mkdir()
    (root / "empty" / "train_config.json").write_text("{}")
    assert RunReader(root / "empty").status().state == "empty"
    with pytest.raises(UsageError, match="has an evaluation yet"):
        best_run(root)
    with pytest.raises(BadModelFile, match="no checkpoint yet"):
        newest_model(root / "empty")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model x --auto", "give one of the two"),
        ("--prefer-latest-step", "belongs to --auto"),
        ("--policy-modes argmax", "no policy mode 'argmax'; there are: deterministic, stochastic"),
        ("--export-max-width 2", "--export-max-width must be at least 16, not 2"),
        ("--export-max-width 9999", "--export-max-width must be at most 4096"),
        ("--seed-base -1", "--seed-base must not be negative"),
        ("--max-steps -1", "--max-steps"),
        ("--model nowhere.zip", "there is no model file nowhere.zip"),
        ("--auto --runs-root nowhere", "there are no runs in nowhere"),
        ("--seeds 0", "--seeds must be at least 1, not 0"),
    ],
)
def test_what_does_not_fit_is_one_line(
    flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert render_best_checkpoint.main(flags.split()) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
