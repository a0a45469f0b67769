"""Start a training that outlives this terminal, and say how to follow and how to stop it.

    python scripts/launch.py detached --run-dir runs/mine --config configs/ppo_1-1.yaml --seed 1
    python scripts/launch.py overnight

Flags that are not the launcher's own go to the trainer. A folder whose trainer lives is refused.

The trainer gets a session of its own (Linux) or a console of its own without a window (Windows):
one that shares its console with whoever started it is ended with it. Its output goes to
<run folder>/trainer.log.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from mario_cli import UsageError, exit_code
from mario_runs import RunFolder, RunLocked
from mario_status import RunReader
from mario_values import Checked, parse_known_flags

REPOSITORY = Path(__file__).resolve().parents[1]
START_S = 120.0  # the imports, a CUDA start and 32 processes of their own fit into this


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A trainer and the flags that it starts with."""

    program: str
    run_dir: str
    flags: tuple[str, ...]


RECIPES = {
    "detached": Recipe("train_mario.py", "runs/detached", ()),
    "overnight": Recipe(
        "train_mario.py",
        "runs/overnight",
        ("--timesteps", "5000000", "--preview-freq", "250000"),
    ),
    "finetune_1-2": Recipe(
        "train_mario.py",
        "runs/ppo_1-2_finetune",
        (
            *("--config", "configs/ppo_level.yaml", "--world", "1", "--stage", "2"),
            *("--preview-freq", "100000"),
        ),
    ),
    "plan2explore": Recipe(
        "dreamerv3/dreamer.py",
        "runs/plan2explore",
        ("--config", "mario_plan2explore", "--timesteps", "7e5"),
    ),
}


@dataclasses.dataclass(frozen=True)
class LaunchFlags(Checked):
    """Which training, where."""

    recipe: tyro.conf.Positional[str]
    """detached (the trainer's own defaults), overnight, finetune_1-2 or plan2explore."""
    run_dir: Path | None = None
    """The run folder. Unset: the recipe's. One with checkpoints is continued."""


def command_of(recipe: Recipe, run: RunFolder, extra: Sequence[str]) -> list[str]:
    """Return the trainer's command line; a PPO run with checkpoints is resumed."""
    flags = list(recipe.flags)
    if recipe.program == "train_mario.py" and run.checkpoints():
        flags = ["--resume-model", str(run.path)]
    return [sys.executable, recipe.program, "--run-dir", str(run.path), *flags, *extra]


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command apart from this process; its output is appended to log."""
    environment = os.environ | {
        "PYTHONUNBUFFERED": "1",
        # Two torch processes whose idle threads spin slow each other down twentyfold.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
        # Intel's Fortran runtime, in MKL, aborts (error 200) when a console's window closes.
        "FOR_DISABLE_CONSOLE_CTRL_HANDLER": "1",
    }
    apart: dict[str, Any]
    if sys.platform == "win32":
        apart = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    else:
        apart = {"start_new_session": True}
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            **apart,
        )


def wait_until_it_holds(run: RunFolder, process: subprocess.Popen[bytes]) -> int | None:
    """Return the pid of the trainer once it holds its folder; None if it ended before.

    It is not always the process that was started: Windows' venv python.exe starts another.
    """
    reader = RunReader(run.path)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        holder = reader.holder()
        if holder and holder.process():
            return holder.pid
        if process.poll() is not None:
            return None
        time.sleep(0.1)
    return process.pid


def follow_and_stop(run: RunFolder, log: Path) -> str:
    """Return what to type to follow the run and to stop it."""
    on_windows = sys.platform == "win32"
    follow = f"Get-Content -Wait {log}" if on_windows else f"tail -f {shlex.quote(str(log))}"
    launcher = "run_mario.ps1" if on_windows else "run_mario.sh"
    return (
        f"follow: {follow}\nstop:   {launcher} stop {shlex.quote(str(run.path))}   (it saves first)"
    )


def launch(flags: LaunchFlags, extra: Sequence[str]) -> int:
    """Start the training; 1 if it ends at once."""
    if flags.recipe not in RECIPES:
        raise UsageError(f"no recipe {flags.recipe!r}; there are: {', '.join(RECIPES)}")
    recipe = RECIPES[flags.recipe]
    if not (REPOSITORY / recipe.program).is_file():
        raise UsageError(f"{flags.recipe} needs {recipe.program}, which is not here yet")
    # Absolute: the trainer runs in the repository, wherever this was called.
    run = RunFolder(flags.run_dir.resolve() if flags.run_dir else REPOSITORY / recipe.run_dir)
    status = RunReader(run.path).status()
    if status.is_alive and status.holder:
        raise RunLocked(
            f"{run.path} is held by pid {status.holder.pid} on {status.holder.host}; "
            "stop it or choose another --run-dir"
        )
    command = command_of(recipe, run, extra)
    run.path.mkdir(parents=True, exist_ok=True)
    log = run.path / "trainer.log"
    before = log.stat().st_size if log.exists() else 0
    process = start(command, log)
    pid = wait_until_it_holds(run, process)
    if pid is None and process.returncode != 0:
        output = log.read_bytes()[before:].decode(errors="replace").strip()
        print(output.splitlines()[-1] if output else "it said nothing", file=sys.stderr)
        print(f"error: the trainer ended at once; all it said is in {log}", file=sys.stderr)
        return 1
    print(f"started: {shlex.join(command[1:])}\npid:    {pid or 'ended already'}")
    print(follow_and_stop(run, log))
    print(f"watch:  run_mario.sh monitor --run-dir {shlex.quote(str(run.path))}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and launch."""
    return exit_code(lambda: launch(*parse_known_flags(LaunchFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
