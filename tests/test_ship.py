"""ship_policy.py and level_table.py as a person calls them, on two small real runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import TINY_RUN

from mario_checkpoints import read_model_zip
from mario_game import StageId
from mario_policies import load_policy
from train_mario import main as train

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "scripts"))

import level_table  # noqa: E402  (scripts/ is not a package)
import ship_policy  # noqa: E402

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
    assert ship_policy.main([str(folder / "second"), str(destination), *QUICK]) == 0
    return folder / "pretrained"


def test_a_policy_is_of_the_stage_that_its_folder_is_called_after(shipped: Path) -> None:
    folder = shipped / "ppo_levels" / "1-2"
    env = load_policy(folder).env_config
    assert env.stages == (StageId(1, 2),)
    assert read_model_zip(folder / "best_eval.zip")[0] == json.loads(
        (folder / "train_config.json").read_text()
    )
    judged = {path.name for path in folder.glob("evaluation_*.json")}
    assert judged == {
        *(f"evaluation_{p}_{m}.json" for p in ("fixed", "noop", "sticky") for m in MODES),
        *("evaluation_noop.json", "evaluation_noop_argmax_nes-py.json"),
    }
    for path in folder.glob("evaluation_*.json"):
        summary = json.loads(path.read_text())
        assert (summary["world"], summary["stage"]) == (1, 2)


MODES = ("argmax", "sampled")


def test_the_trainings_behind_it_are_said_first_to_last(shipped: Path, tiny_run: Path) -> None:
    folder = shipped / "ppo_levels" / "1-2"
    trainings = json.loads((folder / "training.json").read_text())
    assert [(one["run"], one["stages"], one["steps"]) for one in trainings] == [
        (tiny_run.name, "1-1", 256),
        ("second", "1-1,1-2", 256),
    ]
    card = (folder / "README.md").read_text()
    assert "512 agent steps" in card
    assert card.count("\n| second | 1-1,1-2 | 256 |") == 1
    again = ship_policy.trainings_behind(folder / "best_eval.zip")
    assert [one.steps for one in again] == [256, 256], "a warm start from it inherits them"


def test_the_better_mode_is_kept_apart(tmp_path: Path, shipped: Path) -> None:
    folder = shipped / "ppo_levels" / "1-2"
    rates = {
        name: json.loads((folder / f"evaluation_noop{name}.json").read_text())["clear_rate"]
        for name in ("", "_argmax", "_sampled")
    }
    assert rates[""] == max(rates.values())


def test_a_model_too_large_is_refused_and_not_left_there(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ship_policy.main([str(tiny_run), str(tmp_path / "big"), "--max-mb", "0.5"]) == 2
    assert "--max-mb 0.5 allows no more" in capsys.readouterr().err
    assert not list((tmp_path / "big").iterdir())


def test_the_table_reads_what_is_shipped(
    shipped: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("mario_policies.PRETRAINED", shipped)
    monkeypatch.setattr(level_table, "RESULTS", tmp_path)
    (tmp_path / "routes.json").write_text('{"1-2": {"agent_steps": 251}}')
    assert level_table.main([]) == 0
    rows = [line.split(" | ") for line in (tmp_path / "levels.md").read_text().splitlines()]
    [row] = [row for row in rows if "ppo_levels/1-2/README.md" in row[0]]
    assert row[1:4] == ["251", "0/3 (0-56 %)", "0/3 (0-56 %)"]
    assert row[6:9] == ["256", "512", "0"]
    assert "1 of 32 levels have a policy; 0 clear 95% or more." in capsys.readouterr().out
    (shipped / "ppo_levels" / "1-2" / "evaluation_noop_sampled.json").unlink()
    assert level_table.main([]) == 1
    assert "not whole" in capsys.readouterr().err
