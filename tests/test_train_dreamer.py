"""DreamerV3 in one command: the clears that it learns from are made first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mario_runs import RunFolder, read_metrics
from scripts import train_dreamer

ROOT = Path(__file__).resolve().parents[1]


def test_it_wants_a_folder_and_leaves_wrong_flags_to_the_trainer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_dreamer.main([]) == 2
    assert "--run-dir runs/dreamer" in capsys.readouterr().err


@pytest.mark.slow
def test_one_command_makes_the_clears_and_learns_and_the_same_goes_on(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "dream", "dreamerv3")

    def call(*flags: str) -> str:
        words = [str(ROOT / "scripts" / "train_dreamer.py"), "--run-dir", "dream", "--clears", "2"]
        done = subprocess.run(
            [sys.executable, *words, "--eval-freq", "0", *flags],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = call("--timesteps", "300", "--log-every", "100")
    assert "1 of 3: 2 episodes of the shipped policy of 1-1" in first
    assert len(list((run.path / "clears").glob("*.npz"))) == 2
    assert any((run.path / "episodes").iterdir()) and not (run.path / "episodes.part").exists()
    assert read_metrics(run.metrics_path)[-1]["step"] >= 300
    second = call("--timesteps", "400")
    assert "of 3" not in second, "the clears are there"
    assert "finished at 400 steps" in second
