"""evaluate_mario.py and quick_mario_smoke.py as a person calls them."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

import evaluate_mario
import quick_mario_smoke
from mario_checkpoints import write_model_zip
from mario_demos import load_demo, replay
from mario_policies import find_model, load_policy
from mario_runs import BadModelFile
from train_mario import TrainConfig, config_as_dict, make_model, make_training_env, parse_config

FIELDS = set(
    "protocol emulator episodes deterministic clear_rate clear_rate_ci95 flags_cleared "
    "episode_flags episode_lengths episode_returns max_x_positions median_max_x best_max_x "
    "best_clear_steps median_clear_steps goal_line_x model seed".split()
)


@pytest.fixture(scope="module")
def model_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained policy that runs right."""
    config: TrainConfig = parse_config(
        "--action-set simple --n-envs 1 --n-steps 64 --batch-size 64".split()
    )
    venv = make_training_env(config)
    model = make_model(config, venv)
    model.policy.action_net.bias.data[3] = 10.0  # right + B
    path = tmp_path_factory.mktemp("model") / "best_eval.zip"
    write_model_zip(path, model.save, config_as_dict(config))
    venv.close()
    return path


def test_summary_and_video(model_zip: Path, tmp_path: Path) -> None:
    flags = ["--model", str(model_zip), "--episodes", "3", "--output-dir", str(tmp_path)]
    assert evaluate_mario.main([*flags, "--deterministic", "--protocol", "noop"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary.keys() >= FIELDS
    assert summary["episodes"] == len(summary["episode_lengths"]) == 3
    assert summary["flags_cleared"] == 0
    assert math.isclose(summary["clear_rate_ci95"][1], 0.5615, abs_tol=1e-3)
    assert summary["goal_line_x"] == 3161
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
    assert evaluate_mario.main([*flags, "--episodes", "2", "--seed", "7"]) == 0
    steps = json.loads((tmp_path / "summary.json").read_text())["episode_lengths"]
    demos = [load_demo(tmp_path / f"{seed}.npz") for seed in (7, 8)]
    assert [demo.agent_steps for demo in demos] == steps
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
    assert evaluate_mario.main(["--model", str(model_zip), "--world", "9"]) == 2
    assert "no stage 9-1" in capsys.readouterr().err


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
    assert quick_mario_smoke.main() == 0
    output = capsys.readouterr().out
    assert f"{len(quick_mario_smoke.CHECKS)}/{len(quick_mario_smoke.CHECKS)} work" in output


def test_a_failing_check_fails_the_smoke_test(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> str:
        raise RuntimeError("no cartridge")

    monkeypatch.setattr(quick_mario_smoke, "CHECKS", {"ROM": broken})
    assert quick_mario_smoke.main() == 1
    assert "FAILED  ROM         no cartridge" in capsys.readouterr().out
