"""What test files share: a small real run of each agent, made once; torch's threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# What a test starts in a process of its own imports this checkout, wherever the project lies.
ROOT = str(Path(__file__).resolve().parent.parent)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))

TINY_RUN = (
    "--action-set simple --n-envs 2 --n-steps 64 --batch-size 64 --n-epochs 1 --timesteps 256 "
    "--checkpoint-freq 128 --eval-freq 128 --eval-episodes 2 --eval-steps 20 "
    "--preview-freq 128 --preview-steps 20 --device cpu --seed 3"
)
TINY_DREAMER_RUN = (
    "--config debug --timesteps 200 --exploration.prefill 150 --checkpoint-freq 100 "
    "--eval-freq 200 --threads 1"
)


@pytest.fixture(autouse=True, scope="module")
def threads_of_torch() -> Iterator[None]:
    """No file's tests leave torch on other threads than they found: the bits depend on them."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_thread(threads_of_torch: None) -> None:
    """Torch on one thread, for networks too small to share."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of 256 steps, with checkpoints, evaluations and previews.

    Tests read it; one that changes a run copies it first.
    """
    from train_mario import main

    run = tmp_path_factory.mktemp("runs") / "tiny"
    assert main([*TINY_RUN.split(), "--run-dir", str(run)]) == 0
    return run


@pytest.fixture(scope="session")
def tiny_dreamer_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished DreamerV3 run of 200 steps, as `tiny_run`."""
    from dreamerv3.dreamer import main

    run = tmp_path_factory.mktemp("runs") / "dream"
    assert main([*TINY_DREAMER_RUN.split(), "--run-dir", str(run)]) == 0
    return run
