"""What several test files look at: a small real run, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

TINY_RUN = (
    "--action-set simple --n-envs 2 --n-steps 64 --batch-size 64 --n-epochs 1 --timesteps 256 "
    "--checkpoint-freq 128 --eval-freq 128 --eval-episodes 2 --eval-steps 20 "
    "--preview-freq 128 --preview-steps 20 --device cpu --seed 3"
)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of 256 steps, with checkpoints, evaluations and previews.

    Tests read it; one that changes a run copies it first.
    """
    from train_mario import main  # torch: not for tests that need no run

    run = tmp_path_factory.mktemp("runs") / "tiny"
    assert main([*TINY_RUN.split(), "--run-dir", str(run)]) == 0
    return run
