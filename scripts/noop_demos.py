r"""Demos of a stage for every start of the `noop` protocol, as much alike as can be, to imitate.

    python scripts/noop_demos.py --stages 3-2 --output runs/demos_3-2
    python train_mario.py --config configs/ppo_level.yaml --stage 3-2 \
        --backward-demos runs/demos_3-2

A beam searches a clear of the level's own start, with few changes of buttons; it is tried after
every number of idle frames. For the first start that it does not clear, a beam searches another,
which is tried everywhere, too, until all starts have one. Each is written when it is found, and
what is there already stays and is tried first: stopped, the same command goes on.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pydantic

from fastnes import start_snapshot
from mario_cli import UsageError, exit_code
from mario_config import ActionSetName, StagesFlag
from mario_demos import AGENT_FRAMES, load_demo, record, save_demo
from mario_files import make_folder
from mario_game import StageId, action_buttons
from mario_search.explore import explore
from mario_search.noops import noop_starts, serve, serve_all
from mario_search.play import all_moves, changes, moves_of
from mario_values import Checked, Seed, parse_flags

EXPLORING_BATCHES = 20_000  # of 64 agent steps: the hardest stage takes a few thousand


@dataclasses.dataclass(frozen=True)
class NoopFlags(Checked):
    """Which stages, how many starts, where to."""

    stages: StagesFlag
    """Such as 3-2, or several: 3-1,3-2."""
    output: Path
    """Folder of the demos: W-S.npz and W-S_noops<N>.npz; those that are there stay."""
    noops: Annotated[int, pydantic.Field(ge=0, le=1000)] = 30
    """Most idle frames."""
    action_set: ActionSetName = "fast"
    """The actions to make do with where that is possible."""
    seed: Seed = 0
    """Of the searches."""


def cover(stage: StageId, flags: NoopFlags) -> None:
    """Write a clear of each of a level's starts that has one and no file yet; say what was found.

    Raises:
        UsageError: there is no such action set, or a file that is there is no demo.
    """
    name = str(stage)
    moves = [moves_of(action_buttons(flags.action_set), stage), all_moves(stage)]
    starts = noop_starts(stage, flags.noops)
    paths = {
        noops: flags.output / f"{name}{f'_noops{noops}' if noops else ''}.npz" for noops in starts
    }
    there = [load_demo(path) for path in paths.values() if path.is_file()]
    left = {noops: start for noops, start in starts.items() if not paths[noops].is_file()}

    def keep(plan: bytes, clears: dict[int, bytes]) -> None:
        for noops, pressed in clears.items():
            held = np.repeat(np.frombuffer(pressed, np.uint8), AGENT_FRAMES)
            frames = np.concatenate([np.zeros(noops, np.uint8), held])
            demo = record(*stage, frames, source="search", seed=flags.seed, noops=noops)
            save_demo(paths[noops], demo)
            del left[noops]
        if clears:
            print(
                f"{name}: a clear of {len(plan)} agent steps, found after {min(clears)} no-ops, "
                f"changes buttons {changes(plan)} times; "
                f"{len(paths) - len(left)} of {len(paths)} starts",
                flush=True,
            )

    known = (demo.buttons[demo.noops :: AGENT_FRAMES].tobytes() for demo in there)
    for plan in dict.fromkeys(known):
        keep(plan, serve(plan, left, stage))
    if not left:
        return
    explored = explore(start_snapshot(*stage), stage, seed=flags.seed, is_over=explored_enough)
    if explored is None:
        print(f"{name}: exploring found no clear", flush=True)
        return
    for served in serve_all(left, stage, explored, moves, seed=flags.seed):
        keep(served.plan, served.clears)
        if not served.plan:
            print(f"{name}: no clear after {served.searched_from} no-ops", flush=True)


def explored_enough(batches: int, cells: int) -> bool:
    """End a search that leads nowhere."""
    return batches > EXPLORING_BATCHES


def run(flags: NoopFlags) -> None:
    """Find and write the demos of every stage."""
    if not flags.stages:
        raise UsageError("name a stage: --stages 3-2")
    make_folder(flags.output)
    for stage in flags.stages:
        cover(stage, flags)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, search, and turn every expected failure into one line and an exit code."""
    return exit_code(lambda: run(parse_flags(NoopFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
