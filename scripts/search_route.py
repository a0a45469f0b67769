"""Search a clear of a stage by playing from snapshots, shorten it, keep it as a demo.

    python scripts/search_route.py --world 1 --stage 1 --shorten 60
    python scripts/search_route.py --stages all

Both searches of `mario_search` press in whole agent steps (4 frames), so that an agent could press
the same: random play from an archive of snapshots finds a first clear, and beams shorten it until
the time is up. Each clear is replayed in both emulators before demos/W-S.npz is written.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import numpy as np
import pydantic
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from fastnes import start_snapshot
from mario_cli import UsageError, exit_code, with_stages_flag
from mario_config import EmulatorName, StagesFlag
from mario_demos import AGENT_FRAMES, Demo, load_demo, record, replay, save_demo
from mario_files import make_folder
from mario_game import StageId
from mario_keeping import figure_rows, keep_run
from mario_results import PhaseRecord, RunFacts
from mario_runs import provenance
from mario_search.beam import CHANGE_PRICE, Beam, shorten
from mario_search.explore import MACHINES, explore
from mario_search.play import all_moves
from mario_values import Checked, Seconds, Seed, Weight, parse_flags


@dataclasses.dataclass(frozen=True)
class SearchFlags(Checked):
    """Which stages, how long, where to."""

    stages: StagesFlag = ()
    """all, or such as 1-1,8-4 (--stage 1-2 says the same of one)."""
    seconds: Seconds = 300.0
    """The most to spend on finding a clear of each stage."""
    shorten: Seconds = 60.0
    """Then to spend on making it shorter. 0: keep the first clear."""
    change_price: Weight = CHANGE_PRICE
    """What a change of buttons counts while shortening, in columns of 16 px."""
    seed: Seed = 0
    """Of everything random."""
    pipes: bool = False
    """Press down and up too, for shorter ways through bonus rooms. Always so in 8-4."""
    threads: Annotated[int, pydantic.Field(ge=1, le=1024)] = min(2, os.cpu_count() or 1)
    """Threads of the emulation."""
    output: Path = Path("demos")
    """Folder of the demos, W-S.npz each. A demo there that is as short or shorter is kept."""
    results: Path | None = None
    """Study to keep the figures in, such as results/routes."""


class Found(NamedTuple):
    """What the search of one stage came to."""

    demo: Demo
    figures: dict[str, float]
    """What it cost, by name."""
    flags: str
    """What makes the search again."""


class Clock:
    """When something began, by the wall and by this process's share of the processor."""

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.began_cpu_s = time.process_time()

    def wall_s(self) -> float:
        """Return the seconds since then."""
        return time.monotonic() - self.began_s


def search(flags: SearchFlags, level: StageId, progress: Progress) -> Found | None:
    """Search one stage, showing how it goes; None if there was no clear in time."""
    name = str(level)
    task = progress.add_task(name)
    start, began = start_snapshot(*level), Clock()

    def explored_enough(batches: int, cells: int) -> bool:
        if batches % 16 == 0:
            what = f"{name} exploring: {MACHINES * batches} agent steps, {cells} cells"
            progress.update(task, description=what)
        return began.wall_s() > flags.seconds

    options: dict[str, Any] = {"seed": flags.seed, "pipes": flags.pipes, "threads": flags.threads}
    first = explore(start, level, is_over=explored_enough, **options)
    if first is None:
        progress.remove_task(task)
        return None
    found = Clock()
    moves = all_moves(level, flags.pipes)
    beam = Beam(moves, change_price=flags.change_price, threads=flags.threads)

    def shortened_enough() -> bool:
        return found.wall_s() >= flags.shorten

    best = shorten(start, level, first, beam, seed=flags.seed, is_over=shortened_enough)
    for width, route in best:
        what = f"{name} shortening: {route.steps} agent steps, beam of {width}"
        progress.update(task, description=what)
    shortened = Clock()
    progress.remove_task(task)
    pressed = np.repeat(np.frombuffer(route.buttons, np.uint8), AGENT_FRAMES)
    demo = record(*level, pressed, source="search", seed=flags.seed)
    given = f"--seed {flags.seed} --shorten {flags.shorten:g} --threads {flags.threads}"
    given += f" --change-price {flags.change_price:g}{' --pipes' * flags.pipes}"
    figures = {
        "agent_steps": demo.agent_steps,
        "frames": demo.frames,
        "first_agent_steps": first.route.steps,
        "explore_wall_s": round(found.began_s - began.began_s, 1),
        "explore_cpu_s": round(found.began_cpu_s - began.began_cpu_s, 1),
        "shorten_wall_s": round(shortened.began_s - found.began_s, 1),
        "shorten_cpu_s": round(shortened.began_cpu_s - found.began_cpu_s, 1),
    }
    return Found(demo, figures, f"--stages {name} {given}")


def check(demo: Demo) -> None:
    """Raise RuntimeError unless a demo ends at the goal in both emulators."""
    for emulator in get_args(EmulatorName):
        played = replay(demo, emulator)
        if played.parted_at is not None or not played.cleared:
            raise RuntimeError(
                f"the clear of {demo.world}-{demo.stage} does not replay on {emulator}: {played}"
            )


def keep(path: Path, study: Path | None, found: Found) -> None:
    """Check and write a demo, and its figures if a study for them was named."""
    check(found.demo)
    save_demo(path, found.demo)
    if study:
        demo, source = found.demo, provenance()
        origin = {key: source[key] for key in ("git_commit", "started", "machine")}
        facts = RunFacts(stage=f"{demo.world}-{demo.stage}", seed=demo.seed, note=found.flags)
        rows = figure_rows(path.stem, found.figures)
        keep_run(study, path.stem, facts, rows, {"": PhaseRecord({"provenance": origin}, [], [])})


def run(flags: SearchFlags) -> int:
    """Search what the flags ask for; 1 if a stage was not cleared."""
    levels = flags.stages
    if not levels:
        raise UsageError("name a stage: --stage 1-2, or --stages all")
    suffix = "-pipes" * flags.pipes
    paths = {level: flags.output / f"{level}{suffix}.npz" for level in levels}
    old = {level: load_demo(path) for level, path in paths.items() if path.exists()}
    make_folder(flags.output)
    missed = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for level, path in paths.items():
            name = str(level)
            found = search(flags, level, progress)
            if found is None:
                missed.append(name)
                continue
            is_shorter = level not in old or found.demo.frames < old[level].frames
            if is_shorter:
                keep(path, flags.results, found)
            print(
                f"{name}: {found.demo.agent_steps} agent steps, {found.demo.frames} frames; "
                f"first clear {found.figures['first_agent_steps']} steps, "
                f"after {found.figures['explore_wall_s']} s; "
                f"{'wrote' if is_shorter else 'kept the old'} {path}",
                flush=True,
            )
    if missed:
        print(f"error: no clear of {', '.join(missed)} within {flags.seconds:g} s", file=sys.stderr)
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, search, and turn every expected failure into one line and an exit code."""
    given = sys.argv[1:] if arguments is None else arguments

    def task() -> int:
        return run(parse_flags(SearchFlags, with_stages_flag(given), __doc__))

    return exit_code(task)


if __name__ == "__main__":
    sys.exit(main())
