"""fastnes: an NES for one kind of cartridge, compiled by Numba, equal to nes-py 9.0.1.

`Machine` is one NES, `BatchMachine` many for reinforcement learning. See docs/fastnes.md.
"""

from fastnes.batch import BatchMachine
from fastnes.machine import Machine
from fastnes.ram import BUTTON_BITS
from fastnes.rom import Rom, RomError, load_rom, packaged_rom
from fastnes.shrink import area_resize
from fastnes.starts import has_halfway, start_screen, start_snapshot
from fastnes.state import STATE_SIZE, EmulationError, SnapshotError
from fastnes.warm import warm_up

__all__ = [
    "BUTTON_BITS",
    "STATE_SIZE",
    "BatchMachine",
    "EmulationError",
    "Machine",
    "Rom",
    "RomError",
    "SnapshotError",
    "area_resize",
    "has_halfway",
    "load_rom",
    "packaged_rom",
    "start_screen",
    "start_snapshot",
    "warm_up",
]
