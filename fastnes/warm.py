"""Compiling the emulator once per machine.

Numba keeps what it compiled beside the sources (or in the user's cache folder if those are
read-only), but looks only at the file of the function that is called, and two processes that
start together would both compile. So the first use goes through `warm_up`: one process at a time,
and a stamp that stands for all sources tells whether what is kept is still right.
"""

import functools
import hashlib
import os
import platform
import sys
import threading
from pathlib import Path

import filelock
import llvmlite.binding
import numba
import numpy as np

from fastnes import state
from fastnes.draw import HEIGHT, WIDTH
from fastnes.resize import area_plan
from fastnes.rom import packaged_rom
from fastnes.step import Output, new_canvases, new_machines, new_order, step_machines
from fastnes.tables import PALETTE_GRAY

TYPICAL_SECONDS = 40
_is_warm = False
_thread_lock = threading.Lock()


@functools.cache
def _stamp_name() -> str:
    """Name all that decides what is compiled: sources, versions, processor, Numba's options."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    options = [f"{key}={value}" for key, value in os.environ.items() if key.startswith("NUMBA_")]
    facts = [
        numba.__version__,
        np.__version__,
        platform.python_version(),
        llvmlite.binding.get_host_cpu_name(),
        *sorted(options),
    ]
    digest.update("\n".join(facts).encode())
    return f"fastnes-{digest.hexdigest()[:16]}.stamp"


def warm_up() -> None:
    """Load the compiled emulator, or compile it and say so; at most once a process.

    Waits while another process compiles. Called by Machine and BatchMachine.
    """
    global _is_warm
    with _thread_lock:
        if _is_warm:
            return
        stats = getattr(step_machines, "stats", None)
        if stats is None:  # NUMBA_DISABLE_JIT
            _is_warm = True
            return
        folder = Path(stats.cache_path)
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / "fastnes.lock"):
            stamp = folder / _stamp_name()
            is_cold = not stamp.exists() or not any(folder.glob("step.step_machines-*.nbi"))
            if is_cold:
                print(
                    f"compiling the emulator (about {TYPICAL_SECONDS} s, once per machine)",
                    file=sys.stderr,
                    flush=True,
                )
                for stale in [*folder.glob("*.nb[ic]"), *folder.glob("fastnes-*.stamp")]:
                    stale.unlink(missing_ok=True)
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
        Output(PALETTE_GRAY, plan, pixels, len(pixels)),
        new_canvases(),
        0,
    )
