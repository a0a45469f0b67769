"""Train PPO with Random Network Distillation on stages of Super Mario Bros.

    run_mario.sh train --run-dir runs/mine

Without a recipe of its own it follows configs/recipe.yaml, whose phases follow each other in one
run. Writes a run folder (mario_runs.py), which `--resume-model` continues. Flags: mario_flags.py;
what they make: mario_learning.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mario_cli import exit_code
from mario_flags import (
    PPOFlags,
    RNDFlags,
    RunFlags,
    TrainConfig,
    config_as_dict,
    config_from_dict,
    parse_config,
)

__all__ = [
    "PPOFlags",
    "RNDFlags",
    "RunFlags",
    "TrainConfig",
    "config_as_dict",
    "config_from_dict",
    "main",
    "parse_config",
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, and turn every expected failure into one line and an exit code."""
    given = sys.argv[1:] if arguments is None else arguments

    def task() -> int:
        config = parse_config(given)
        from mario_learning import train  # torch, which help and wrong flags do not wait for

        return train(config)

    return exit_code(task)


if __name__ == "__main__":
    sys.exit(main())
