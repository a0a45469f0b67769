"""Play fastnes and nes-py side by side and compare every byte of RAM and every pixel.

    python scripts/check_parity.py --frames 20000              from the title screen
    python scripts/check_parity.py --frames 1500 --stages all  each of the 32 stages, as
                                                               gym-super-mario-bros plays them
    python scripts/check_parity.py --demos demos/*.npz         recorded clears, to the flag

Exit code 0: equal; 1: they part, and the frame and the first address or pixel are named.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import fastnes
from fastnes.starts import area_of
from fastnes.tables import PALETTE_RGB
from mario_demos import Demo, load_demo, replay
from mario_runtime import UsageError

MAIN_BUTTONS = (0x80, 0x82, 0x81, 0x83, 0x00, 0x40, 0x20)  # right, B, A, both, none, left, down
ALL_STAGES = [(world, stage) for world in range(1, 9) for stage in range(1, 5)]


class PartedError(AssertionError):
    """The two emulators differ; the message says where."""


def random_buttons(rng: np.random.Generator, with_start: bool) -> Iterator[int]:
    """Yield a button byte per frame, held for up to 24 frames, mostly running to the right.

    One choice in four is any of the 256 bytes; without start and select if not `with_start`,
    because start pauses the game.
    """
    while True:
        if rng.random() < 0.25:
            buttons = int(rng.integers(256)) & (0xFF if with_start else 0xF3)
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
    from gym_super_mario_bros._roms import smb1_rom_path
    from nes_py import NESEnv

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


def compare_play(world: int, stage: int, buttons: Iterable[int], screens: bool = True) -> int:
    """Play environment steps of a stage, one frame and one byte of `buttons` each.

    Compares what SuperMarioBrosEnv reads (RAM before its interventions), what it leaves, the
    screen, and termination; both reset when the episode ends. Returns the frames compared.

    Raises:
        PartedError: they differ.
    """
    from gym_super_mario_bros.smb_env import SuperMarioBrosEnv

    class Recorder(SuperMarioBrosEnv):
        ram_before: np.ndarray

        def _did_step(self, done: bool) -> None:
            self.ram_before = self.ram.copy()
            super()._did_step(done)

    what = f"stage {world}-{stage}"
    reference = Recorder(target=(world, stage))
    reference.reset()
    batch = fastnes.BatchMachine(1, frames=1, threads=1)
    start = fastnes.start_snapshot(world, stage)
    start_screen = fastnes.start_screen(world, stage)
    batch.restore(0, start, start_screen)
    ram = batch.states[0, :2048]
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


def parse_stages(text: str) -> list[tuple[int, int]]:
    """Read 'all' or '1-1,8-4'; raise ValueError if it is neither."""
    if text == "all":
        return ALL_STAGES
    stages = []
    for part in text.split(","):
        world, _, stage = part.partition("-")
        stages.append((int(world), int(stage)))
        area_of(*stages[-1])
    return stages


def main() -> int:
    """Compare what the flags ask for and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=20_000, help="frames (of each stage)")
    parser.add_argument("--stages", help="'all' or such as '1-1,8-4'; default: the title screen")
    parser.add_argument("--demos", type=Path, nargs="+", default=[], help="recorded clears")
    parser.add_argument("--seed", type=int, default=0, help="of the random buttons")
    parser.add_argument("--no-screens", action="store_true", help="compare RAM only")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    try:
        stages = parse_stages(arguments.stages) if arguments.stages else []
    except ValueError as error:
        print(f"--stages {arguments.stages}: {error}", file=sys.stderr)
        return 2
    try:
        demos = [load_demo(path) for path in arguments.demos]
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = {
        "frames": 0,
        "demos": [str(path) for path in arguments.demos],
        "stages": [f"{world}-{stage}" for world, stage in stages],
        "seed": arguments.seed,
        "screens": not arguments.no_screens,
        "parted": None,
    }
    began = time.monotonic()
    screens = not arguments.no_screens
    try:
        if demos:
            for demo in demos:
                result["frames"] += compare_demo(demo, screens)
                print(f"{demo.world}-{demo.stage}: {demo.frames} frames equal", flush=True)
        elif stages:
            for world, stage in stages:
                result["frames"] += compare_stage(
                    world, stage, arguments.frames, arguments.seed, screens
                )
                print(f"{world}-{stage}: {arguments.frames} frames equal", flush=True)
        else:
            result["frames"] = compare_frames(arguments.frames, arguments.seed, screens)
    except PartedError as error:
        result["parted"] = str(error)
        print(f"PARTED: {error}", file=sys.stderr)
    result["wall_s"] = round(time.monotonic() - began, 1)
    if result["parted"] is None:
        print(f"equal: {result['frames']} frames, every byte of RAM, screens: {screens}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if result["parted"] is None else 1


if __name__ == "__main__":
    sys.exit(main())
