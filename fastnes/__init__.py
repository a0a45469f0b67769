"""fastnes: an NES for one kind of cartridge, compiled by Numba, equal to nes-py 9.0.1.

`Machine` is one NES, `BatchMachine` many for reinforcement learning. See docs/fastnes.md.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastnes.batch import BatchMachine, View
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
    "View",
    "area_resize",
    "has_halfway",
    "load_rom",
    "packaged_rom",
    "start_screen",
    "start_snapshot",
    "warm_up",
]

# A name's module is imported with its first use: Numba takes a second, and a command's help, or
# whoever wants a button's bit, needs none of it.
_MODULES = {
    "batch": ("BatchMachine", "View"),
    "machine": ("Machine",),
    "ram": ("BUTTON_BITS",),
    "rom": ("Rom", "RomError", "load_rom", "packaged_rom"),
    "shrink": ("area_resize",),
    "starts": ("has_halfway", "start_screen", "start_snapshot"),
    "state": ("STATE_SIZE", "EmulationError", "SnapshotError"),
    "warm": ("warm_up",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
