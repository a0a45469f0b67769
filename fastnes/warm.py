"""Compiling the emulator once per machine.

What Numba compiled is kept in the folder that `compiled.py` names, but two processes that start
together would both compile. So the first use goes through `warm_up`: one process at a time, and a
stamp tells whether all of it is there.
"""

import sys
import threading

import filelock
import numpy as np

from fastnes import state
from fastnes.compiled import cache_folder
from fastnes.draw import HEIGHT, WIDTH
from fastnes.resize import area_plan
from fastnes.rom import packaged_rom
from fastnes.step import NO_TONES, Output, new_canvases, new_machines, new_order, step_machines
from fastnes.tables import PALETTE_GRAY

TYPICAL_SECONDS = 40
STAMP = "complete.stamp"
_is_warm = False
_thread_lock = threading.Lock()


def warm_up() -> None:
    """Load the compiled emulator, or compile it and say so; at most once a process.

    Waits while another process compiles. Called by Machine and BatchMachine.
    """
    global _is_warm
    with _thread_lock:
        if _is_warm:
            return
        if not hasattr(step_machines, "stats"):  # NUMBA_DISABLE_JIT
            _is_warm = True
            return
        folder = cache_folder()
        with filelock.FileLock(folder / "fastnes.lock"):
            stamp = folder / STAMP
            is_cold = not stamp.exists() or not any(folder.glob("*/step.step_machines-*.nbi"))
            if is_cold:
                print(
                    f"compiling the emulator (about {TYPICAL_SECONDS} s, once per machine)",
                    file=sys.stderr,
                    flush=True,
                )
            _run_a_frame()
            if is_cold:
                stamp.touch()
        _is_warm = True


def _run_a_frame() -> None:
    rom = packaged_rom()
    machines = new_machines(1, 1)
    state.power_on(machines.states[0], rom.reset_vector)
    plan = area_plan(HEIGHT, WIDTH, 84, 84)
    pixels = np.zeros(84 * 84, np.uint8)
    step_machines(
        machines,
        new_order(np.zeros(1, np.int64), frames=1, drawn_frames=1, is_game=True),
        rom.cartridge,
        Output(PALETTE_GRAY, plan, pixels, len(pixels), NO_TONES),
        new_canvases(),
        0,
    )
