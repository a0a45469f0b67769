"""What a run's world model sees: the recall and place error of the objects on the screen.

    python dreamerv3/probe.py --run-dir runs/dream
    python dreamerv3/probe.py --run-dir runs/dream --fit-stages 1-1,2-1 --judge-stages 3-1

A linear probe reads the frozen latent state, at once and foretold over 15 steps; beside it one
that reads the picture itself. Needs the run's model and no replay, and writes probe.json and
probe.md into <run>/diagnosis. Takes a minute or two.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from dreamerv3.policy import policy_from_tensors
from dreamerv3.sight import DEMOS, Look, look_at, table_lines
from mario_checkpoints import find_model, read_model_zip
from mario_cli import exit_code
from mario_config import StagesFlag
from mario_files import make_folder
from mario_runs import atomic_write, write_json
from mario_values import Checked, Count, Seed, Threads, parse_flags


@dataclasses.dataclass(frozen=True)
class ProbeFlags(Checked):
    """Which run, on what."""

    run_dir: Path
    """The run folder, or a model file."""
    fit_stages: StagesFlag = ()
    """Stages that the probe is fitted on. Empty: the run's."""
    judge_stages: StagesFlag = ()
    """Stages that it is judged on, under other seeds. Empty: the run's."""
    demos: Path = DEMOS
    """Demos of these stages, along which episodes begin."""
    fit_rounds: Count = 12
    """Times 16 sequences of 64 steps to fit on."""
    judge_rounds: Count = 6
    """Times 16 sequences of 64 steps to judge on."""
    seed: Seed = 0
    """Of the play; the same for all runs that are compared."""
    output: Path | None = None
    """Where to write. Unset: diagnosis/ in the run folder."""
    threads: Threads = 0
    """Threads of torch. 0: one a core."""


def probe(flags: ProbeFlags) -> None:
    """Look, print, write."""
    if flags.threads:
        torch.set_num_threads(flags.threads)
    model = find_model(flags.run_dir)
    folder = flags.run_dir if flags.run_dir.is_dir() else flags.run_dir.parent
    output = flags.output or folder / "diagnosis"
    make_folder(output)
    policy = policy_from_tensors(*read_model_zip(model), str(model))
    env = policy.env_config
    look = Look(
        fit_stages=flags.fit_stages or env.stages,
        judge_stages=flags.judge_stages or env.stages,
        demos=flags.demos,
        fit_rounds=flags.fit_rounds,
        judge_rounds=flags.judge_rounds,
        seed=flags.seed,
    )
    found = look_at(policy.agent, env, look) | {"model": model.name}
    lines = list(table_lines(found))
    print("\n".join(lines))
    write_json(output / "probe.json", found)
    atomic_write(output / "probe.md", "\n".join([*lines, ""]).encode())
    print(f"written to {output}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and probe."""
    about = __doc__.split("\n\n")[0]
    return exit_code(lambda: probe(parse_flags(ProbeFlags, arguments, about)))


if __name__ == "__main__":
    sys.exit(main())
