"""The tutorial's commands, in its order, at a budget of seconds."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import front_door

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
# What makes a command end soon, beside its own flags.
SMALL = {
    "train": "--timesteps 512 --n-envs 2 --n-steps 64 --batch-size 64 --n-epochs 1 "
    "--eval-freq 256 --eval-episodes 2 --eval-steps 20 --device cpu",
    "eval": "--episodes 1 --max-steps 20",
    "watch": "--headless --episodes 1 --record demo{number}.npz",
}
ENDLESS = ("monitor",)  # the page's own tests open it


def tutorial_commands() -> list[list[str]]:
    """The words of each command after run_mario.sh, in the page's order."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith("scripts/run_mario.sh ") for line in lines)
    return [shlex.split(line)[1:] for line in lines]


def test_the_tutorial_trains_twice_changes_one_reward_and_compares() -> None:
    commands = tutorial_commands()
    names = [name for name, *_ in commands]
    assert names == [
        *("smoke", "eval", "watch", "train", "monitor", "watch", "eval", "train", "compare"),
    ]
    first, second = (rest for name, *rest in commands if name == "train")
    changed = [word for word in second if word not in first]
    assert changed == ["--death-penalty", "0", "runs/fearless"]


@pytest.mark.slow
def test_every_command_of_the_tutorial_works_in_its_order(tmp_path: Path) -> None:
    for number, (name, *flags) in enumerate(tutorial_commands()):
        if name in ENDLESS:
            continue
        words = [*flags, *SMALL.get(name, "").format(number=number).split()]
        done = subprocess.run(
            [sys.executable, str(ROOT / front_door.COMMANDS[name].target), *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{name} {words}: {done.stderr[-2000:]}"
    assert (tmp_path / "runs" / "base" / "judged").is_dir()
    page = (tmp_path / "runs" / "comparison" / "comparison.md").read_text()
    assert "| base | 1 |" in page and "| fearless | 1 |" in page
