"""Train DreamerV3 the way that works: from clears that the shipped PPO policy plays first.

    python scripts/train_dreamer.py --run-dir runs/dreamer

Takes every flag of dreamerv3/dreamer.py. With --config or --seed-demos, or for a run that is there
already, it is dreamer.py alone. Else the stage's shipped policy plays 48 episodes; its clears go to
<run folder>/clears, are played again as <run folder>/episodes, and are what the run learns from
besides its own play: results/dreamer_1-1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mario_cli import UsageError, exit_code, with_stages_flag
from mario_recipes import with_newer_flags
from mario_values import FirstLook

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPE = "recipe"  # of dreamerv3/configs.yaml
SURE_POLICY = REPOSITORY / "pretrained" / "ppo_mario_1-1_speedrun"  # of 1-1, in the fewest steps
EPISODES = 48
FIRST_SEED = 1000


def run(*words: str | Path) -> None:
    """Run one of our commands.

    Raises:
        subprocess.CalledProcessError: it failed, and has said why.
    """
    subprocess.run([sys.executable, *map(str, words)], cwd=REPOSITORY, check=True)


def make_episodes(folder: Path, stage: str, episodes: int) -> None:
    """Play clears into folder/clears and turn them into folder/episodes, whole or not at all."""
    part = folder / "episodes.part"
    clears = folder / "clears"
    for old in (part, clears):  # of a call that was cut off
        shutil.rmtree(old, ignore_errors=True)
    model: list[str | Path] = ["--model", SURE_POLICY] if stage == "1-1" else []
    print(f"1 of 3: {episodes} episodes of the shipped policy of {stage}", flush=True)
    judge: list[str | Path] = [REPOSITORY / "evaluate_mario.py", *model, "--stage", stage]
    judge += ["--no-video", "--episodes", str(episodes), "--seed", str(FIRST_SEED)]
    run(*judge, "--demos", clears, "--output-dir", folder / "clears_judged")
    if not any(clears.glob("*.npz")):
        raise UsageError(f"the shipped policy of {stage} cleared none: name --seed-demos")
    print("2 of 3: its clears as episodes of the replay", flush=True)
    run(
        *(REPOSITORY / "scripts" / "demos_to_episodes.py", clears, "--output", part),
        *("--config", RECIPE, f"--stages={stage}"),
    )
    part.rename(folder / "episodes")
    print("3 of 3: learning; about 50 minutes for 150,000 steps on one core", flush=True)


def train(arguments: Sequence[str]) -> int:
    """Make what is missing, then become dreamer.py."""
    given = with_stages_flag(with_newer_flags(arguments))
    parser = FirstLook()
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--stages", default="1-1")
    parser.add_argument("--clears", type=int, default=EPISODES)
    parser.add_argument("--config", nargs="*")
    parser.add_argument("--seed-demos")
    parser.add_argument("-h", "--help", "--help-all", action="store_true", dest="help")
    flags, others = parser.parse_known_args(given)
    words = list(given)
    if not (flags.help or flags.config or flags.seed_demos):
        if flags.run_dir is None:
            raise UsageError("name the run's folder: --run-dir runs/dreamer")
        folder = flags.run_dir.resolve()
        words = ["--run-dir", str(folder), f"--stages={flags.stages}", *others]
        if not (folder / "train_config.json").is_file():
            if not (folder / "episodes").is_dir():
                make_episodes(folder, flags.stages, flags.clears)
            words += ["--config", RECIPE, "--seed-demos", str(folder / "episodes")]
            words += ["--curriculum.backward-demos", str(folder / "clears")]
    command = [sys.executable, str(REPOSITORY / "dreamerv3" / "dreamer.py"), *words]
    if sys.platform == "win32":
        return subprocess.run(command, check=False).returncode
    sys.stdout.flush()
    os.execv(command[0], command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it, and turn an expected failure into one line and an exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: train(given))


if __name__ == "__main__":
    sys.exit(main())
