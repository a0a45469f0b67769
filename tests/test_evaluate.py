"""evaluate_mario.py and quick_mario_smoke.py as a person calls them."""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from pathlib import Path
from types import ModuleType

import imageio.v2 as imageio
import numpy as np
import pytest

import evaluate_mario
import quick_mario_smoke
import render_best_checkpoint
import watch_mario
from mario_checkpoints import find_model, write_model_zip
from mario_config import in_process
from mario_demos import load_demo, replay
from mario_game import STAGES, StageId
from mario_judge import JUDGE_SEED, Summary, joined, protocol_config
from mario_learning import make_model, make_training_env
from mario_policies import load_policy, shipped_models
from mario_rollout import in_stages, play
from mario_runs import BadModelFile
from train_mario import TrainConfig, config_as_dict, parse_config

FIELDS = set(
    "protocol emulator episodes deterministic clear_rate clear_rate_ci95 flags_cleared "
    "episode_flags episode_lengths episode_returns max_x_positions median_max_x best_max_x "
    "best_clear_steps median_clear_steps model seed stages".split()
)


@pytest.fixture(scope="module")
def model_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained policy that runs right."""
    config: TrainConfig = parse_config(
        "--action-set simple --n-envs 1 --n-steps 64 --batch-size 64".split()
    )
    venv = make_training_env(config)
    model = make_model(config, venv)
    model.policy.get_parameter("action_net.bias").data[3] = 10.0  # right + B
    path = tmp_path_factory.mktemp("model") / "best_eval.zip"
    write_model_zip(path, model.save, config_as_dict(config))
    venv.close()
    return path


def test_summary_and_video(model_zip: Path, tmp_path: Path) -> None:
    flags = ["--model", str(model_zip), "--episodes", "3", "--output-dir", str(tmp_path)]
    assert evaluate_mario.main([*flags, "--protocol", "sticky", "--deterministic"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary.keys() >= FIELDS
    assert summary["episodes"] == len(summary["episode_lengths"]) == 3
    assert summary["flags_cleared"] == 0
    assert math.isclose(summary["clear_rate_ci95"][1], 0.5615, abs_tol=1e-3)
    [stage] = summary["stages"]
    assert (stage["stage"], stage["goal_line_x"]) == ("1-1", 3161)
    assert Summary.from_json(tmp_path / "summary.json").as_json() == summary
    assert all(250 < x < 3161 for x in summary["max_x_positions"])
    frames = imageio.mimread(tmp_path / "evaluation.mp4", memtest=False)
    assert len(frames) == 1 + summary["episode_lengths"][int(np.argmax(summary["max_x_positions"]))]


def test_clears_are_kept_as_demos(model_zip: Path, tmp_path: Path) -> None:
    flags = [
        "--no-video",
        "--deterministic",
        "--output-dir",
        str(tmp_path),
        "--demos",
        str(tmp_path),
    ]
    assert evaluate_mario.main([*flags, "--model", str(model_zip), "--episodes", "1"]) == 0
    assert not list(tmp_path.glob("*.npz")), "it clears nothing"
    flags[1] = "--no-deterministic"
    assert evaluate_mario.main([*flags, "--episodes", "2", "--seed", "7"]) == 0
    summary = Summary.from_json(tmp_path / "summary.json")
    assert (summary.episodes, summary.mode, summary.clears) == (2, "sampled", "2/2")
    demos = [load_demo(tmp_path / f"{seed}.npz") for seed in (7, 8)]
    assert tuple(demo.agent_steps for demo in demos) == summary.episode_lengths
    assert demos[0].noops != demos[1].noops
    for demo in demos:
        assert demo.cleared and replay(demo).parted_at is None


def test_the_emulators_give_the_same_summary(model_zip: Path, tmp_path: Path) -> None:
    summaries = []
    for emulator in ("fast", "nes-py"):
        output = tmp_path / emulator
        flags = ["--model", str(model_zip), "--episodes", "2", "--protocol", "sticky", "--no-video"]
        evaluate_mario.main([*flags, "--emulator", emulator, "--output-dir", str(output)])
        summaries.append(json.loads((output / "summary.json").read_text()))
        assert summaries[-1].pop("emulator") == emulator
    assert summaries[0] == summaries[1]


def test_wrong_models_are_one_line_and_exit_code_2(
    model_zip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = tmp_path / "torn.zip"
    torn.write_bytes(model_zip.read_bytes()[:5000])
    cases = {
        "there is no model file": tmp_path / "nothing.zip",
        "is not a whole zip file": torn,
        "holds no model": tmp_path,
    }
    for message, path in cases.items():
        assert evaluate_mario.main(["--model", str(path)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert evaluate_mario.main(["--model", str(model_zip), "--episodes", "0"]) == 2
    for flags, message in {
        "--world 9": "no stage '9-1'",
        "--world 0": "no stage '0-1'",
        "--max-steps -1": "must not be negative",
        "--seed -1": "must not be negative",
    }.items():
        capsys.readouterr()
        assert evaluate_mario.main(["--model", str(model_zip), *flags.split()]) == 2
        assert message in capsys.readouterr().err
    assert evaluate_mario.main(["--stage", "8-4"]) == 2
    assert "no policy of 8-4 is shipped" in capsys.readouterr().err


def test_the_stage_that_is_named_is_played_and_a_mixture_said_per_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = parse_config("--stages 1-1,1-2 --n-envs 1 --n-steps 64 --batch-size 64".split())
    venv = make_training_env(config)
    model = make_model(config, venv)
    model.policy.action_net.bias.data[1] = 10.0  # type: ignore[operator]  # it jumps to the right
    path = tmp_path / "both.zip"
    write_model_zip(path, model.save, config_as_dict(config))
    venv.close()
    flags = f"--model {path} --output-dir {tmp_path} --episodes 2 --max-steps 40 --n-envs 4"
    assert evaluate_mario.main([*flags.split(), "--no-video"]) == 0
    output = capsys.readouterr().out
    both = Summary.from_json(tmp_path / "summary.json")
    assert [str(one.stage) for one in both.stages] == ["1-1", "1-2"]
    assert [one.episodes for one in both.stages] == [2, 2]
    assert "trained on" not in output
    assert "cleared   0/4" in output and "  1-2       0/2" in output
    # each stage apart is what the mixture says of it
    apart = []
    for stage in ("1-1", "1-2"):
        assert evaluate_mario.main([*flags.split(), "--no-video", "--stage", stage]) == 0
        apart.append(Summary.from_json(tmp_path / "summary.json"))
    assert joined(apart) == both

    capsys.readouterr()
    assert evaluate_mario.main([*flags.split(), "--stage", "4-1"]) == 0
    assert "note: trained on 1-1,1-2, plays 4-1" in capsys.readouterr().out
    found = Summary.from_json(tmp_path / "summary.json")
    assert [str(one.stage) for one in found.stages] == ["4-1"]
    config_41 = in_stages(load_policy(path).env_config, (StageId(4, 1),))
    played = play(
        load_policy(path),
        protocol_config(in_process(config_41), "noop"),
        2,
        deterministic=False,
        seed=JUDGE_SEED,
        max_steps=40,
    )
    assert found.end_x_positions == tuple(episode.end_x for episode in played)
    assert {episode.stage for episode in played} == {StageId(4, 1)}

    # what is recorded is of the stage that was played, drawn from two or named
    watched = f"--model {path} --headless --protocol fixed --record".split()
    stages = set()
    for seed in range(6):
        demo = tmp_path / f"{seed}.npz"
        assert watch_mario.main([*watched, str(demo), "--seed", str(seed)]) == 0
        stages.add((load_demo(demo).world, load_demo(demo).stage))
    assert stages == {(1, 1), (1, 2)}
    demo = tmp_path / "4-1.npz"
    assert watch_mario.main([*watched, str(demo), "--stage", "4-1"]) == 0
    assert (load_demo(demo).world, load_demo(demo).stage) == (4, 1)
    assert replay(load_demo(demo)).parted_at is None


@pytest.mark.parametrize(
    ("group", "key", "value", "message"),
    [
        ("env", "action_set", "complex", "weights and train_config.json disagree"),
        ("env", "frame_stack", 2, "weights and train_config.json disagree"),
        ("ppo", "features", "nature", "weights and train_config.json disagree"),
        ("env", "stages", "12-1", "is incomplete: .*no stage '12-1'"),
        ("env", "surprise", 1, "is incomplete"),
    ],
)
def test_a_config_that_disagrees_with_the_weights_is_refused(
    model_zip: Path, tmp_path: Path, group: str, key: str, value: object, message: str
) -> None:
    changed = tmp_path / "changed.zip"
    with zipfile.ZipFile(model_zip) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "train_config.json":
                config = json.loads(data)
                config[group][key] = value
                data = json.dumps(config).encode()
            target.writestr(name, data)
    with pytest.raises(BadModelFile, match=message):
        load_policy(changed)


def test_a_folder_stands_for_its_best_model(model_zip: Path) -> None:
    assert find_model(model_zip.parent) == model_zip


@pytest.mark.slow
def test_the_smoke_test_passes_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert quick_mario_smoke.main([]) == 0
    output = capsys.readouterr().out
    assert f"{len(quick_mario_smoke.CHECKS)}/{len(quick_mario_smoke.CHECKS)} work" in output


def test_a_failing_check_fails_the_smoke_test(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> str:
        raise RuntimeError("no cartridge")

    monkeypatch.setattr(quick_mario_smoke, "CHECKS", {"ROM": broken})
    assert quick_mario_smoke.main([]) == 1
    assert "FAILED  ROM         no cartridge" in capsys.readouterr().out


def test_an_evaluation_names_its_model_and_never_overwrites_anothers(
    model_zip: Path,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    flags = ["--episodes", "1", "--max-steps", "5", "--no-video"]
    assert evaluate_mario.main([*flags, "--model", str(run)]) == 0
    said = capsys.readouterr().out.splitlines()
    best = run / "evaluations" / "best_eval.zip"
    steps = json.loads((run / "evaluations" / "best_eval_summary.json").read_text())["step"]
    assert said[0] == f"judging {best}, trained for {steps:,} steps"
    assert said[-1] == f"  written   {run / 'judged' / f'step_{steps}_noop_sampled'}"
    assert evaluate_mario.main([*flags, "--model", str(run), "--stage", "1-2"]) == 0
    assert evaluate_mario.main([*flags, "--model", str(model_zip)]) == 0
    assert evaluate_mario.main([*flags, "--stage", "1-2"]) == 0
    assert evaluate_mario.main(flags) == 0
    assert sorted(path.name for path in (run / "judged").iterdir()) == [
        f"step_{steps}_noop_sampled",
        f"step_{steps}_noop_sampled_1-2",
    ]
    loose, level, shipped = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert loose.startswith("evaluation_best_eval_") and loose.endswith("_noop_sampled")
    assert level == "evaluation_ppo_mario_1-1_noop_sampled"
    assert shipped == "evaluation_taught_1-2_noop_sampled"


@pytest.mark.parametrize("module", [evaluate_mario, render_best_checkpoint, watch_mario])
def test_a_level_without_a_shipped_policy_is_one_line(
    module: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = next(stage for stage in STAGES if not shipped_models(stage))
    assert module.main(["--stage", str(stage)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: no policy of {stage} is shipped, only of 1-1, 1-2, 1-3")
    assert error.count("\n") == 1
