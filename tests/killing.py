"""Kills a trainer at random moments and lets it go on, until it has come to its end.

    python tests/killing.py '{"trainer": "train_mario", "run": "/tmp/x", "flags": [...], ...}'

A program of its own, for it forks: the imports, half of a tiny run, are done once. The argument is
an `Order` as JSON. First the run is trained in `<run>/whole`, unbroken; then in `<run>/parts`, with
the kills.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import os
import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch

from mario_runs import RunFolder
from mario_runtime import MarioVectorEnv


@dataclasses.dataclass(frozen=True)
class Order:
    """What to train, and how often to kill it."""

    trainer: str  # a module with main(flags)
    run: str  # a folder
    flags: list[str]
    kills: int
    seed: int


def begin(order: Order, folder: Path, kill_at: int = 0, delay_s: float = 0.0) -> int:
    """Start the trainer in a process of its own and return its pid; it goes on if it can.

    Args:
        order: what to train.
        folder: the run's.
        kill_at: the step of the environments, those of evaluations too, at which it is killed.
            Counted, not timed: on a busy machine it is as likely anywhere. 0: never; then their
            number is written beside the folder.
        delay_s: seconds between that step and the kill.
    """
    flags = [*order.flags, "--run-dir", str(folder)]
    if order.trainer == "train_mario" and RunFolder(folder).checkpoints():
        flags = ["--resume-model", str(folder)]
    pid = os.fork()
    if pid:
        return pid
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    steps = itertools.count(1)
    step = MarioVectorEnv.step

    def counted(env: MarioVectorEnv, actions: Any) -> Any:
        if next(steps) == kill_at:
            threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return step(env, actions)

    code = 70
    try:
        setattr(MarioVectorEnv, "step", counted)  # noqa: B010
        code = importlib.import_module(order.trainer).main(flags)
        folder.with_suffix(".steps").write_text(str(next(steps)))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def kill_and_go_on(order: Order) -> int:
    """Train both runs and return how often a trainer was killed before its end."""
    torch.set_num_threads(1)
    importlib.import_module(order.trainer)
    moments = random.Random(order.seed)
    whole, parts = Path(order.run, "whole"), Path(order.run, "parts")
    if os.waitpid(begin(order, whole), 0)[1]:
        raise SystemExit(whole.with_suffix(".log").read_text())
    steps = int(whole.with_suffix(".steps").read_text())
    killed = 0
    for attempt in range(order.kills + 1):
        # the later ones sooner: a run that goes on has less before it
        kill_at = moments.randint(1, max(1, steps // (attempt + 1) - 2))
        if attempt == order.kills:
            kill_at = 0
        pid = begin(order, parts, kill_at, moments.choice((0, 0, 0.05, 0.3)))
        status = os.waitpid(pid, 0)[1]
        if not os.WIFSIGNALED(status):
            if status:
                raise SystemExit(parts.with_suffix(".log").read_text())
            break
        killed += 1
    return killed


if __name__ == "__main__":
    print(kill_and_go_on(Order(**json.loads(sys.argv[1]))))
