r"""Demos of a stage for every start of the `noop` protocol, as much alike as can be, to imitate.

    python scripts/noop_demos.py --stages 3-2 --output runs/demos_3-2
    python train_mario.py --config configs/ppo_level.yaml --world 3 --stage 2 \
        --backward-demos runs/demos_3-2

An episode begins after 1 to 30 idle frames, and meets fire bars, lifts and hammers at another
moment each time; in some stages only the frame counter's lowest bit matters, so that all odd
starts are alike and all even ones. A clear of the level's own start, rid of needless buttons
(scripts/simplify_demo.py), is tried after every number of no-ops. For the first start that it does
not clear, a beam searches another clear, which is simplified and tried everywhere, too, until all
starts have one. Each is written when it is found, and what is there already stays: stopped, the
same command goes on.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from check_parity import parse_stages
from search_route import FIRST_WIDTH, Distances, Explored, Level, beam_search, explore
from simplify_demo import Simplifier, changes

from mario_cli import exit_code
from mario_demos import AGENT_FRAMES, Demo, load_demo, record, save_demo
from mario_runtime import UsageError, action_buttons

MAX_WIDTH = 1024  # of a beam that only has to arrive,
TIMES_LONGER = 1.25  # in so many times the frames of the level's clear
EXPLORING_BATCHES = 20_000  # of 64 agent steps: the hardest stage takes a few thousand


@dataclasses.dataclass(frozen=True)
class NoopFlags:
    """Which stages, how many starts, where to."""

    stages: str
    """Such as 3-2, or several: 3-1,3-2."""
    output: Path
    """Folder of the demos: W-S.npz and W-S_noops<N>.npz; those that are there stay."""
    demos: Path = Path("demos")
    """Folder of the clears to begin with."""
    noops: int = 30
    """Most idle frames."""
    action_set: str = "fast"
    """The actions to make do with where that is possible."""
    slack: float = 0.02
    """How much longer than before a clear may get when it is simplified."""
    seed: int = 0
    """Of the searches."""


def search_from(start: np.ndarray, clear: Demo, explored: Explored, seed: int) -> bytes | None:
    """Return the buttons of each agent step of a clear from a snapshot, or None.

    Args:
        start: uint8[STATE_SIZE].
        clear: of the level's own start; the new one may take somewhat longer.
        explored: the ways of the level's own start, which lead there as well.
        seed: of the beams.
    """
    rng = np.random.default_rng([seed, 2])
    level, most_frames = (clear.world, clear.stage), int(TIMES_LONGER * clear.frames)
    distances = Distances(explored.ways)
    width = FIRST_WIDTH
    while width <= MAX_WIDTH:
        route = beam_search(
            *(level, start, most_frames, distances, width, rng), is_over=lambda: False
        )
        if route is not None:
            return route.buttons
        width *= 2
    return None


def after_noops(clear: Demo, noops: int, pressed: Sequence[int] | np.ndarray) -> Demo:
    """Return the demo of a button byte an agent step, pressed after so many idle frames."""
    frames = np.concatenate([np.zeros(noops, np.uint8), np.repeat(pressed, AGENT_FRAMES)])
    level = (clear.world, clear.stage)
    return record(*level, frames, source="search", seed=clear.seed, noops=noops)


def cover(level: Level, flags: NoopFlags) -> None:
    """Write a clear of the level's start and of each no-op start that has one and no file yet.

    Raises:
        UsageError: the level's clear is missing, or none in whole agent steps.
    """
    name = f"{level[0]}-{level[1]}"
    actions = action_buttons(flags.action_set)
    clear = load_demo(flags.demos / f"{name}.npz")
    simplifier = Simplifier(clear, actions, flags.slack, flags.seed)
    paths = {
        noops: flags.output / f"{name}{f'_noops{noops}' if noops else ''}.npz"
        for noops in range(flags.noops + 1)
    }
    starts = {
        noops: simplifier.snapshot_after(simplifier.start, np.zeros(noops, np.uint8))
        for noops in paths
    }
    explored: Explored | None = None
    for noops, start in starts.items():
        if paths[noops].is_file():
            continue
        if noops:
            explored = explored or explore(level, seed=flags.seed, is_over=explored_enough)
            if explored is None:
                break
            pressed = search_from(start, clear, explored, flags.seed)
            if not pressed:
                print(f"{name}: no clear after {noops} no-ops", flush=True)
                continue
            found = after_noops(clear, noops, np.frombuffer(pressed, np.uint8))
            simplifier = Simplifier(found, actions, flags.slack, flags.seed)
        simplifier.simplify()
        for other in (other for other, path in paths.items() if not path.is_file()):
            if (same := simplifier.clear_from(starts[other])) is not None:
                save_demo(paths[other], after_noops(clear, other, same))
        print(
            f"{name}: a clear after {noops} no-ops changes buttons {changes(simplifier.pressed)} "
            f"times; {sum(path.is_file() for path in paths.values())} of {len(paths)} starts",
            flush=True,
        )


def explored_enough(batches: int, cells: int) -> bool:
    """End a search that leads nowhere."""
    return batches > EXPLORING_BATCHES


def run(flags: NoopFlags) -> None:
    """Find and write the demos of every stage."""
    try:
        levels = parse_stages(flags.stages)
    except ValueError as error:
        raise UsageError(f"stages {flags.stages!r}: {error}") from error
    if flags.noops < 0 or flags.slack < 0:
        raise UsageError(f"not negative: --noops {flags.noops}, --slack {flags.slack:g}")
    for level in levels:
        cover(level, flags)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, search, and turn every expected failure into one line and an exit code."""
    flags = tyro.cli(NoopFlags, args=arguments, description=__doc__)
    return exit_code(lambda: run(flags))


if __name__ == "__main__":
    sys.exit(main())
