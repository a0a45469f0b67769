"""Play fastnes and nes-py side by side and compare every byte of RAM and every pixel.

    python scripts/check_parity.py --frames 20000              from the title screen
    python scripts/check_parity.py --frames 1500 --stages all  each of the 32 stages, as
                                                               gym-super-mario-bros plays them
    python scripts/check_parity.py --demos demos/*.npz         recorded clears, to the flag

Exit code 0: equal; 1: they part, and the frame and the first address or pixel are named.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gym_super_mario_bros._roms import smb1_rom_path
from gym_super_mario_bros.smb_env import SuperMarioBrosEnv
from nes_py import NESEnv

import fastnes
from fastnes.ram import (
    BUTTON_A,
    BUTTON_B,
    BUTTON_DOWN,
    BUTTON_LEFT,
    BUTTON_RIGHT,
    BUTTON_SELECT,
    BUTTON_START,
    NO_BUTTON,
)
from fastnes.state import RAM_SIZE
from fastnes.tables import PALETTE_RGB
from mario_cli import exit_code
from mario_config import StagesFlag
from mario_demos import Demo, load_demo, replay
from mario_files import make_folder
from mario_runs import write_json
from mario_values import Checked, Count, Seed, parse_flags

# What is pressed most, each of them as often.
MAIN_BUTTONS = (
    BUTTON_RIGHT,
    BUTTON_RIGHT | BUTTON_B,
    BUTTON_RIGHT | BUTTON_A,
    BUTTON_RIGHT | BUTTON_A | BUTTON_B,
    NO_BUTTON,
    BUTTON_LEFT,
    BUTTON_DOWN,
)


@dataclasses.dataclass(frozen=True)
class ParityFlags(Checked):
    """What to play."""

    frames: Count = 20_000
    """Frames (of each stage)."""
    stages: StagesFlag = ()
    """all, or such as 1-1,8-4. Unset: the title screen."""
    demos: tuple[Path, ...] = ()
    """Recorded clears, to play instead."""
    seed: Seed = 0
    """Of the random buttons."""
    screens: bool = True
    """Compare the pictures too, not RAM alone."""
    json: Path | None = None
    """Write the result to this file."""


class PartedError(AssertionError):
    """The two emulators differ; the message says where."""


def random_buttons(rng: np.random.Generator, with_start: bool) -> Iterator[int]:
    """Yield a button byte per frame, held for up to 24 frames, mostly running to the right.

    One choice in four is any of the 256 bytes; without start and select if not `with_start`,
    because start pauses the game.
    """
    while True:
        if rng.random() < 0.25:
            buttons = int(rng.integers(256))
            if not with_start:
                buttons &= ~(BUTTON_START | BUTTON_SELECT)
        else:
            buttons = MAIN_BUTTONS[int(rng.integers(len(MAIN_BUTTONS)))]
        for _ in range(int(rng.integers(1, 25))):
            yield buttons


def compare(
    what: str,
    frame: int,
    ram: np.ndarray,
    expected_ram: np.ndarray,
    screen: np.ndarray | None,
    expected_rgb: np.ndarray | None,
) -> None:
    """Raise PartedError unless RAM and screen (palette indices against RGB) are equal."""
    if not np.array_equal(ram, expected_ram):
        address = int(np.flatnonzero(ram != expected_ram)[0])
        raise PartedError(
            f"{what}, frame {frame}: RAM ${address:04X} is ${int(ram[address]):02X},"
            f" nes-py has ${int(expected_ram[address]):02X}"
        )
    if screen is None or expected_rgb is None:
        return
    rgb = PALETTE_RGB[screen]
    if not np.array_equal(rgb, expected_rgb):
        y, x = (int(i) for i in np.argwhere((rgb != expected_rgb).any(axis=2))[0])
        raise PartedError(
            f"{what}, frame {frame}: pixel x={x} y={y} is {rgb[y, x].tolist()},"
            f" nes-py has {expected_rgb[y, x].tolist()}"
        )


def compare_frames(frames: int, seed: int, screens: bool = True) -> int:
    """Play `frames` plain frames from power-on with random buttons; return how many.

    Raises:
        PartedError: they differ.
    """
    reference = NESEnv(smb1_rom_path())
    reference.reset()
    machine = fastnes.Machine()
    buttons = random_buttons(np.random.default_rng(seed), with_start=True)
    for frame in range(frames):
        pressed = next(buttons)
        reference._frame_advance(pressed)
        machine.step(pressed, draw=screens)
        screen = machine.screen if screens else None
        compare("title screen", frame, machine.ram, reference.ram, screen, reference.screen)
    reference.close()
    return frames


def compare_stage(world: int, stage: int, frames: int, seed: int, screens: bool = True) -> int:
    """Play `frames` frames of a stage with random buttons, as `compare_play` says."""
    buttons = random_buttons(np.random.default_rng([seed, world, stage]), with_start=False)
    return compare_play(world, stage, itertools.islice(buttons, frames), screens)


def compare_demo(demo: Demo, screens: bool = True) -> int:
    """Play a recorded clear, as `compare_play` says, to the flag; return the frames compared.

    Raises:
        PartedError: they differ, or are not at the flag after the last frame.
    """
    if replay(demo) != (None, True, demo.frames):
        raise PartedError(f"the clear of {demo.world}-{demo.stage} does not end on the flag")
    return compare_play(demo.world, demo.stage, demo.buttons.tolist(), screens)


class Recorder(SuperMarioBrosEnv):
    """The reference; it keeps RAM as it was before its interventions."""

    ram_before: np.ndarray

    def _did_step(self, done: bool) -> None:
        self.ram_before = self.ram.copy()
        super()._did_step(done)


def compare_play(world: int, stage: int, buttons: Iterable[int], screens: bool = True) -> int:
    """Play environment steps of a stage, one frame and one byte of `buttons` each.

    Compares what SuperMarioBrosEnv reads (RAM before its interventions), what it leaves, the
    screen, and termination; both reset when the episode ends. Returns the frames compared.

    Raises:
        PartedError: they differ.
    """
    what = f"stage {world}-{stage}"
    reference = Recorder(target=(world, stage))
    reference.reset()
    batch = fastnes.BatchMachine(1, frames=1, threads=1)
    start = fastnes.start_snapshot(world, stage)
    start_screen = fastnes.start_screen(world, stage)
    batch.restore(0, start, start_screen)
    ram = batch.states[0, :RAM_SIZE]
    compare(f"{what}, start", 0, ram, reference.ram, batch.screen(0), reference.screen)
    frames = 0
    for frame, pressed in enumerate(buttons):
        frames += 1
        _, _, terminated, _, _ = reference.step(pressed)
        batch.step(np.array([pressed], np.uint8))
        compare(
            f"{what}, before interventions",
            frame,
            batch.ram_before[0],
            reference.ram_before,
            None,
            None,
        )
        screen = batch.screen(0) if screens else None
        compare(what, frame, ram, reference.ram, screen, reference.screen)
        if terminated != batch.terminated[0]:
            raise PartedError(f"{what}, frame {frame}: nes-py terminated={terminated}")
        if terminated:
            reference.reset()
            batch.restore(0, start, start_screen)
    reference.close()
    return frames


def run(flags: ParityFlags) -> int:
    """Compare what the flags ask for, say how it went, and return 1 if they part.

    Raises:
        UsageError: there is no such stage, or a demo cannot be read.
    """
    stages = flags.stages
    if flags.json:
        make_folder(flags.json.parent)
    demos = [load_demo(path) for path in flags.demos]
    result: dict[str, Any] = {
        "frames": 0,
        "demos": [str(path) for path in flags.demos],
        "stages": [str(stage) for stage in stages],
        "seed": flags.seed,
        "screens": flags.screens,
        "parted": None,
    }
    began = time.monotonic()
    try:
        for demo in demos:
            result["frames"] += compare_demo(demo, flags.screens)
            print(f"{demo.world}-{demo.stage}: {demo.frames} frames equal", flush=True)
        for world, stage in () if demos else stages:
            result["frames"] += compare_stage(world, stage, flags.frames, flags.seed, flags.screens)
            print(f"{world}-{stage}: {flags.frames} frames equal", flush=True)
        if not demos and not stages:
            result["frames"] = compare_frames(flags.frames, flags.seed, flags.screens)
    except PartedError as error:
        result["parted"] = str(error)
        print(f"PARTED: {error}", file=sys.stderr)
    result["wall_s"] = round(time.monotonic() - began, 1)
    if result["parted"] is None:
        print(f"equal: {result['frames']} frames, every byte of RAM, screens: {flags.screens}")
    if flags.json:
        write_json(flags.json, result)
    return 0 if result["parted"] is None else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, compare, and turn every expected failure into one line and an exit code."""
    return exit_code(lambda: run(parse_flags(ParityFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
