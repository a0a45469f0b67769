"""A run that is killed at any moment ends as one that was not: weights, metrics, evaluations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mario_checkpoints import read_model_zip
from mario_runs import RunFolder, read_metrics

ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("MARIO_KILLS", "3"))  # of each run below
TIMES = {"wall_s", "env_steps_per_s"}

PPO = (
    "--n-envs 2 --n-steps 32 --batch-size 32 --n-epochs 1 --timesteps 512 --checkpoint-freq 128 "
    "--eval-freq 128 --eval-episodes 1 --eval-steps 8 --preview-freq 128 --preview-steps 8 "
    "--sticky-prob 0.25 --device cpu --end-on-stall-steps 20 "
)
DREAMER = (
    "--config mario_fast debug --timesteps 360 --checkpoint-freq 120 --eval-freq 120 "
    "--log-every 40 --eval-episodes 1 --eval-steps 8 --threads 1 "
)
TEACH = (
    "--stages 1-1 --n-envs 4 --teacher.n-steps 16 --teacher.batch-size 32 "
    "--teacher.timesteps 512 --student.n-envs 4 --student.n-steps 16 --student.batch-size 32 "
    "--student.timesteps 512 --student.replay-size 160 --checkpoint-freq 128 --eval-freq 128 "
    "--eval-episodes 1 --end-on-stall-steps 20 --student.end-on-stall-steps 20 "
)
RUNS = {
    "ppo": ("train_mario", PPO),
    "ppo, rewards normalised, rnd": (
        "train_mario",
        PPO + "--normalize-reward --rnd-coef 0.3 --rnd-warmup-steps 8 --eval-modes both",
    ),
    "ppo, a moving average, demos": (
        "train_mario",
        PPO
        + "--ema-decay 0.5 --backward-demos demos --demo-starts anywhere --imitation-coef 0.5 "
        + "--imitation-until 0.4",
    ),
    "dreamerv3": ("dreamerv3.dreamer", DREAMER),
    "dreamerv3, plan2explore": (
        "dreamerv3.dreamer",
        DREAMER + "--exploration.behaviour plan2explore",
    ),
    "teacher, then student": ("teach_mario", TEACH),
}


def without_times(run: RunFolder) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key not in TIMES}
        for row in read_metrics(run.metrics_path)
    ]


def files(run: RunFolder, pattern: str) -> dict[str, bytes]:
    return {
        path.relative_to(run.path).as_posix(): path.read_bytes() for path in run.path.glob(pattern)
    }


def assert_same_bits(one: RunFolder, other: RunFolder) -> None:
    """Both runs ended with the same weights, metrics, evaluations and best model."""
    for model in ("final_model", "best_model"):
        first, second = (read_model_zip(getattr(run, model))[1] for run in (one, other))
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            assert torch.equal(tensor, second[name]), f"{model}: {name} differs"
    assert without_times(one) == without_times(other)
    for pattern in ("evaluations/**/*summary.json",):
        texts = [
            {name: text.replace(b"whole", b"parts") for name, text in files(run, pattern).items()}
            for run in (one, other)
        ]
        assert texts[0] == texts[1], pattern
    for pattern in ("models/checkpoints/*", "previews/*/*", "stages/*"):
        assert files(one, pattern).keys() == files(other, pattern).keys(), pattern
    assert not [path for path in other.path.rglob(".*") if path.is_file()], "nothing is left over"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills what it forks")
@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path: Path, name: str) -> None:
    trainer, flags = RUNS[name]
    order = {
        "trainer": trainer,
        "run": str(tmp_path),
        "flags": flags.split(),
        "kills": KILLS,
        "seed": list(RUNS).index(name),
    }
    done = subprocess.run(
        [sys.executable, "tests/killing.py", json.dumps(order)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 0, "it was killed"
    for phase in ("teacher", "student") if trainer == "teach_mario" else (".",):
        assert_same_bits(*(RunFolder(tmp_path / one / phase) for one in ("whole", "parts")))
