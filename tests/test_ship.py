"""ship_policy.py as a person calls it, on two small real runs; the table of levels."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_RUN

import mario_tables
from mario_checkpoints import read_model_zip
from mario_cli import UsageError
from mario_game import StageId
from mario_keeping import keep_run
from mario_policies import PRETRAINED, load_policy
from mario_results import ROOT, Figure, Played, RunFacts, Training, read_study
from scripts import ship_policy
from teach_mario import main as teach
from train_mario import main as train

REPOSITORY = Path(__file__).resolve().parents[1]

QUICK = ("--episodes", "3", "--reference-episodes", "1")


@pytest.fixture(scope="module")
def shipped(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pretrained/ with the policy of 1-2 of a run on two stages, warm-started from the tiny one."""
    folder = tmp_path_factory.mktemp("ship")
    first = tiny_run / "models" / "mario_final.zip"
    # Stalling ends an episode, or an untrained policy would stand until the game's clock is over.
    flags = ["--stages", "1-1,1-2", "--warm-start", str(first), "--end-on-stall-steps", "20"]
    flags += ["--preview-freq", "0", "--run-dir", str(folder / "second")]
    assert train([*TINY_RUN.split(), *flags]) == 0
    destination = folder / "pretrained" / "ppo_levels" / "1-2"
    study = ("--study", str(folder / "results" / "shipped"))
    assert ship_policy.main([str(folder / "second"), str(destination), *study, *QUICK]) == 0
    return folder


def test_a_policy_is_of_the_stage_that_its_folder_is_called_after(shipped: Path) -> None:
    folder = shipped / "pretrained" / "ppo_levels" / "1-2"
    assert {path.name for path in folder.iterdir()} == {
        *("best_eval.zip", "train_config.json", "README.md")
    }
    assert load_policy(folder).env_config.stages == (StageId(1, 2),)
    assert read_model_zip(folder / "best_eval.zip")[0] == json.loads(
        (folder / "train_config.json").read_text()
    )


def test_every_protocol_is_judged_and_every_start_played_once_by_argmax(shipped: Path) -> None:
    study = read_study(shipped / "results" / "shipped")
    found = {
        (one.emulator, one.protocol, one.mode): (len(one.played), one.starts)
        for one in study.judgements("ppo_levels/1-2")
    }
    assert found["fast", "noop", "argmax"] == (30, 30)
    assert found.keys() == {
        *(("fast", p, m) for p in ("fixed", "noop", "sticky") for m in ("argmax", "sampled")),
        ("nes-py", "noop", "argmax"),
    }
    assert found["fast", "fixed", "argmax"][0] == 1
    assert found["fast", "sticky", "sampled"][0] == 3
    assert {row.stage for row in study.judgement("ppo_levels/1-2", "sticky", "sampled").played} == {
        "1-2"
    }


def test_the_trainings_behind_it_are_said_first_to_last(shipped: Path, tiny_run: Path) -> None:
    folder, study = shipped / "pretrained" / "ppo_levels" / "1-2", shipped / "results" / "shipped"
    facts = read_study(study).about.runs["ppo_levels/1-2"]
    assert [(one.run, one.stages, one.steps) for one in facts.trainings] == [
        (tiny_run.name, "1-1", 256),
        ("second", "1-1,1-2", 256),
    ]
    assert facts.told == "pixels only"
    again = ship_policy.trainings_behind(folder / "best_eval.zip", study)
    assert again == facts.trainings, "a warm start from it inherits them"


def test_a_teacher_that_has_left_its_run_says_how_it_was_trained(tmp_path: Path) -> None:
    [before, own] = ship_policy.trainings_behind(PRETRAINED / "teachers" / "1-1.zip", tmp_path)
    assert (own.told, own.stages, own.steps) == ("game state", "6-1,1-4,1-1", 3_006_464)
    assert before.steps is None, "what it began with is gone"


def test_the_card_says_what_the_study_says(shipped: Path) -> None:
    page = shipped / "pretrained" / "ppo_levels" / "1-2" / "README.md"
    card = page.read_text()
    assert "512 agent steps" in card
    assert card.count("\n| second | 1-1,1-2 | pixels only | 256 |") == 1
    assert "| fast | noop | argmax | 0/30 |" in card
    assert "| fast | noop | sampled | 0/3 (0-56 %) |" in card
    assert mario_tables.with_tables(page, card) == card


@pytest.mark.slow
def test_what_is_shipped_can_be_judged_again(shipped: Path) -> None:
    folder, study = shipped / "pretrained" / "ppo_levels" / "1-2", shipped / "results" / "shipped"
    before = (folder / "best_eval.zip").read_bytes(), read_study(study)
    page = folder / "README.md"
    page.write_text(page.read_text().replace("# 1-2\n", "# 1-2\n\nBy hand.\n"))
    flags = ["--study", str(study), *QUICK]
    assert ship_policy.main([str(folder), str(folder), *flags]) == 0
    assert (folder / "best_eval.zip").read_bytes() == before[0]
    assert read_study(study) == before[1], "the same episodes"
    assert "By hand." in page.read_text()


@pytest.mark.slow
def test_a_shipped_student_is_small_and_names_its_teacher(tmp_path: Path) -> None:
    run, destination = tmp_path / "taught", tmp_path / "pretrained" / "taught" / "1-2"
    flags = "--n-envs 4 --teacher.n-steps 16 --teacher.batch-size 32 --teacher.timesteps 128 "
    flags += "--student.n-envs 4 --student.n-steps 8 --student.batch-size 16 --eval-freq 0 "
    flags += "--student.timesteps 64 --student.end-on-stall-steps 20 --stages 1-1,1-2"
    assert teach([*flags.split(), "--run-dir", str(run), "--device", "cpu"]) == 0
    student, study = run / "student", tmp_path / "results" / "shipped"
    shipping = ["--study", str(study), "--sharpen", "2", *QUICK]
    assert ship_policy.main([str(student), str(destination), *shipping]) == 0
    facts = read_study(study).about.runs["taught/1-2"]
    assert [(one.run, one.told, one.steps) for one in facts.trainings] == [
        ("teacher", "game state", 128),
        ("student", "taught", 64),
    ]
    assert facts.told == "taught", "what its teacher was told it was not"
    before = read_model_zip(student / "models" / "mario_final.zip")[1]
    config, after = read_model_zip(destination / "best_eval.zip")
    assert config["env"]["stages"] == "1-2"
    assert config["sharpened"] == 2
    for name, trained in before.items():
        weights = 2 * trained if name.startswith("action_net") else trained
        torch.testing.assert_close(after[name], weights, rtol=2**-10, atol=1e-7)
        assert torch.equal(after[name], after[name].half().float())
    size = (student / "models" / "mario_final.zip").stat().st_size
    assert (destination / "best_eval.zip").stat().st_size < 0.7 * size
    card = (destination / "README.md").read_text()
    assert "Student on 1-2" in card and "configs/taught.yaml" in card
    assert "Its logits are 2 times those that were trained" in card
    assert ship_policy.main([str(destination), str(destination), *shipping]) == 2, "only once"


def test_a_taught_dreamer_is_sharpened_and_no_untaught_policy(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = PRETRAINED / "dreamerv3_mario_1-1_taught" / "best_eval.zip"
    config, before = read_model_zip(source)
    target = tmp_path / "best_eval.zip"
    ship_policy.copy_small(source, target, config, 2.0)
    after = read_model_zip(target)[1]
    last = max(name for name in before if name.startswith("actor.") and name.endswith(".weight"))
    is_doubled = {last, last.replace("weight", "bias")}
    for name, trained in before.items():
        weights = 2 * trained if name in is_doubled else trained
        torch.testing.assert_close(after[name], weights, rtol=2**-10, atol=1e-7)
    screen = np.random.default_rng(0).integers(0, 256, (8, 3, 64, 64), dtype=np.uint8)
    said = []
    for path in (source, target):
        policy = load_policy(path)
        said.append(policy.logits(screen, np.full(8, -1), policy.initial_state(8))[0])
    assert said[1].max(1).mean() > said[0].max(1).mean() + 0.05, "surer"
    assert ship_policy.main([str(tiny_run), str(tmp_path / "new"), "--sharpen", "2"]) == 2
    assert "--sharpen is for a taught run" in capsys.readouterr().err


def test_a_model_too_large_is_refused_and_not_left_there(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--study", str(tmp_path / "study"), "--max-mb", "0.5"]
    assert ship_policy.main([str(tiny_run), str(tmp_path / "big"), *flags]) == 2
    assert "--max-mb 0.5 allows no more" in capsys.readouterr().err
    assert not (tmp_path / "big").exists()
    assert not (tmp_path / "study").exists()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--max-mb", "0.001"], 2, "--max-mb 0.001 allows no more"),
        (["--sharpen", "1e6"], 2, "sharpened by 1e+06 overflow half precision"),
        ([], 130, ""),  # Ctrl-C while it is judged
    ],
)
def test_what_is_shipped_stays_until_the_new_one_is_judged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    code: int,
    said: str,
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ship_policy, "evaluate", stop)
    old, new = sorted((PRETRAINED / "taught").iterdir())[:2]
    destination = tmp_path / "pretrained" / "taught" / "1-1"
    shutil.copytree(old, destination)
    before = contents(tmp_path)
    command = [str(new), str(destination), "--study", str(tmp_path / "study"), *flags]
    assert ship_policy.main(command) == code
    assert said in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_what_was_sharpened_before_is_not_sharpened_by_as_much_again(tmp_path: Path) -> None:
    source = next(
        path
        for path in sorted(PRETRAINED.glob("taught/*/best_eval.zip"))
        if "sharpened" in read_model_zip(path)[0]
    )
    config, before = read_model_zip(source)
    env = load_policy(source).env_config
    for factor in (1.0, 2.0):
        shipped_as = ship_policy.shipped_config(config, env, factor)
        assert shipped_as["sharpened"] == factor * config["sharpened"]
        ship_policy.copy_small(source, tmp_path / "copy.zip", shipped_as, factor)
        after = read_model_zip(tmp_path / "copy.zip")[1]["action_net.bias"]
        torch.testing.assert_close(after, factor * before["action_net.bias"])


def changed(source: Path, target: Path, changes: dict[str, Any]) -> Path:
    """A model file with another config: what is None goes, a mapping is merged into its part."""
    config, _ = read_model_zip(source)
    for part, value in changes.items():
        is_part = isinstance(value, dict) and isinstance(config.get(part), dict)
        config[part] = config[part] | value if is_part else value
    ship_policy.copy_small(source, target, {k: v for k, v in config.items() if v is not None})
    return target


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"provenance": None}, "no provenance"),
        ({"run": None}, "run: Field required"),
        ({"run": 5}, "run: "),
        ({"run": {"seed": "x"}}, "run.seed: "),
        ({"run": {"teacher": ["t"]}}, "run.teacher: "),
        ({"run": {"warm_start": "a\0b"}}, "a null"),
        ({"run": {"note": "\ud800"}}, "no UTF-8"),
        ({"run": {"note": float("nan")}}, "'run/note' is no finite number"),
        ({"provenance": {"command": 5}}, "provenance.command: "),
        ({"provenance": {"machine": 5}}, "provenance.machine: "),
        ({"model": 5}, "model: "),
        ({"agent": ["x"]}, "agent"),
    ],
    ids=str,
)
def test_a_broken_config_is_one_line(
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    said: str,
) -> None:
    model = changed(tiny_run / "models" / "mario_final.zip", tmp_path / "m.zip", changes)
    flags = ["--study", str(tmp_path / "study"), *QUICK]
    assert ship_policy.main([str(model), str(tmp_path / "new"), *flags]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
    with pytest.raises(UsageError, match=re.escape(said)):
        ship_policy.trainings_behind(model, tmp_path)


@pytest.mark.parametrize("stages", ["9-9", "", "1" * 5000 + "-1", 5, None])
def test_stages_that_there_are_not_are_one_line(
    tiny_run: Path, tmp_path: Path, stages: object
) -> None:
    source = tiny_run / "models" / "mario_final.zip"
    model = changed(source, tmp_path / "m.zip", {"env": {"stages": stages}})
    with pytest.raises(UsageError, match=r"m\.zip: its train_config\.json: ") as raised:
        ship_policy.trainings_behind(model, tmp_path)
    assert "\n" not in str(raised.value)


def test_a_run_folder_has_its_models_trainings_behind_it(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_run / "models" / "mario_final.zip"
    [own] = ship_policy.trainings_behind(source, tmp_path)
    assert own.steps == 256
    assert ship_policy.trainings_behind(tiny_run, tmp_path) == (own,)
    for checkpoint in (tiny_run / "models" / "checkpoints").glob("*.zip"):
        assert ship_policy.trainings_behind(checkpoint, tmp_path) == (own,)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, "t")
    for part in ("teacher", "warm_start"):
        student = changed(source, Path("s.zip"), {"run": {part: "t"}})
        [before, _] = ship_policy.trainings_behind(student, tmp_path)
        assert before == replace(own, run="t"), f"--{part} t, a relative path of one part"
    (tmp_path / "empty").mkdir()
    for gone in ("empty", "gone", "gone/best_eval.zip"):
        student = changed(source, Path("s.zip"), {"run": {"teacher": gone}})
        [before, _] = ship_policy.trainings_behind(student, tmp_path)
        assert before == Training(gone), "not recorded"
    student = changed(source, Path("s.zip"), {"run": {"teacher": str(ROOT / "gone")}})
    [before, _] = ship_policy.trainings_behind(student, tmp_path)
    assert before == Training("gone"), "no folder of this machine's"


def test_no_path_of_the_machine_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / 'jürgen "q"'
    here.mkdir()
    monkeypatch.chdir(here)
    shipped = ship_policy.without_folder
    command = ["--teacher", f"{here}/runs/a", f"--warm-start={ROOT}/runs/b", 3, None]
    assert shipped({"command": command}) == {
        "command": ["--teacher", "runs/a", "--warm-start=runs/b", 3, None]
    }
    assert shipped(f"{ROOT}/scripts/r") == "scripts/r"
    assert shipped(f"/mnt{ROOT}/runs/a") == f"/mnt{ROOT}/runs/a", "another folder"
    monkeypatch.chdir("/")
    assert shipped("http://host/x") == "http://host/x"


def test_a_shipped_folder_as_a_first_model_has_the_studys_trainings(shipped: Path) -> None:
    study = shipped / "results" / "shipped"
    folder = shipped / "pretrained" / "ppo_levels" / "1-2"
    known = read_study(study).about.runs["ppo_levels/1-2"].trainings
    assert ship_policy.trainings_behind(folder, study) == known


@pytest.mark.parametrize("length", [1, 2, 3])
def test_models_that_name_each_other_in_a_circle_end(
    tiny_run: Path, tmp_path: Path, length: int
) -> None:
    models = [tmp_path / f"{number}.zip" for number in range(length)]
    for model, before in zip(models, [models[-1], *models], strict=False):
        names = {"teacher": str(before), "warm_start": str(before), "run_dir": model.stem}
        changed(tiny_run / "models" / "mario_final.zip", model, {"run": names})
    found = ship_policy.trainings_behind(models[-1], tmp_path)
    assert [one.run for one in found] == [models[-1].as_posix(), *(one.stem for one in models)]
    assert found[0].steps is None, "not recorded"


def test_the_table_of_levels_reads_what_is_shipped(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mario_policies.PRETRAINED", shipped / "pretrained")
    monkeypatch.setattr(mario_tables, "PRETRAINED", shipped / "pretrained")
    keep_run(
        tmp_path / "routes", "1-2", RunFacts(stage="1-2"), [Figure("1-2", "agent_steps", 251.0)]
    )
    monkeypatch.setattr(mario_tables, "ROUTES", tmp_path / "routes")
    study = shutil.copytree(shipped / "results" / "shipped", tmp_path / "shipped")
    found = read_study(study)
    rows_before = [replace(one, run="replaced/1-2") for one in found.of(Played, "ppo_levels/1-2")]
    keep_run(study, "replaced/1-2", found.about.runs["ppo_levels/1-2"], rows_before)
    lines = list(mario_tables.levels(study))
    rows = [line.split(" | ") for line in lines]
    [row] = [row for row in rows if "ppo_levels/1-2/README.md" in row[0]]
    assert row[1:5] == ["251", "pixels only", "0/30", "0/3 (0-56 %)"]
    assert row[9:11] == ["256", "512"] and row[12].startswith("3")
    [replaced] = [one for one in rows if one[0] == "| 1-2, older"]
    assert replaced[1:] == row[1:], "its episodes stay where the policy went"
    assert lines[-1].startswith("1 of 32 levels have a policy; 0 clear 95% or more under `noop`")
