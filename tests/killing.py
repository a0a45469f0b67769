"""Kills a trainer at random moments and lets it go on, until it has come to its end.

    python tests/killing.py '{"trainer": "train_mario", "run": "/tmp/x", "flags": [...], ...}'

A program of its own, for it forks: the imports, half of a tiny run, are done once. The argument is
an `Order` as JSON. First the run is trained in `<run>/whole`, unbroken; then in `<run>/parts`, with
the kills.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from mario_runs import RunFolder


@dataclasses.dataclass(frozen=True)
class Order:
    """What to train, and how often to kill it."""

    trainer: str  # a module with main(flags)
    run: str  # a folder
    flags: list[str]
    kills: int
    seed: int


def begin(order: Order, folder: Path) -> int:
    """Start the trainer in a process of its own and return its pid; it goes on if it can."""
    flags = [*order.flags, "--run-dir", str(folder)]
    if order.trainer == "train_mario" and RunFolder(folder).checkpoints():
        flags = ["--resume-model", str(folder)]
    pid = os.fork()
    if pid:
        return pid
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 70
    try:
        code = importlib.import_module(order.trainer).main(flags)
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
    began = time.monotonic()
    if os.waitpid(begin(order, whole), 0)[1]:
        raise SystemExit(whole.with_suffix(".log").read_text())
    took_s = time.monotonic() - began
    killed = 0
    for attempt in range(order.kills + 1):
        pid = begin(order, parts)
        if attempt < order.kills:
            time.sleep(moments.uniform(0, took_s))
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        if not os.WIFSIGNALED(status):
            if status:
                raise SystemExit(parts.with_suffix(".log").read_text())
            break
        killed += 1
    return killed


if __name__ == "__main__":
    print(kill_and_go_on(Order(**json.loads(sys.argv[1]))))
