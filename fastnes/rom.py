"""Loading a cartridge: the iNES file, checked, and its tables for the CPU and the PPU.

nesdev wiki, "INES" (file format) and "NROM" (mapper 0: 16 or 32 KiB program, 8 KiB pictures).
"""

import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastnes import tables

ROM_PACKAGE, ROM_FILE = "gym_super_mario_bros", Path("_roms", "super-mario-bros.nes")
HEADER_SIZE = 16
PRG_BANK = 16 * 1024
CHR_BANK = 8 * 1024
FLAG_VERTICAL_MIRRORING = 0x01
FLAG_TRAINER = 0x04
FLAG_FOUR_SCREEN = 0x08


class RomError(ValueError):
    """A file that is not a cartridge this machine can run; the message says why."""


class Cartridge(NamedTuple):
    """What the compiled code needs of a cartridge."""

    prg: np.ndarray  # uint8[32768], the program as the CPU sees it at $8000-$FFFF
    code: np.ndarray  # uint32[32768], the program pre-decoded, see `tables.decode_program`
    chr_rom: np.ndarray  # uint8[8192], the pattern tables


class Rom:
    """A cartridge of mapper 0 with vertical mirroring.

    Attributes:
        cartridge: its contents for the compiled code.
        sha256: hex digest of the file.
    """

    def __init__(self, data: bytes):
        """Parse the bytes of an iNES file.

        Raises:
            RomError: not iNES, truncated, or a feature that is not supported; says which.
        """
        if len(data) < HEADER_SIZE or data[:4] != b"NES\x1a":
            raise RomError("not an iNES file: it does not start with 'NES' and 0x1A")
        prg_banks, chr_banks, flags_6, flags_7 = data[4], data[5], data[6], data[7]
        mapper = (flags_6 >> 4) | (flags_7 & 0xF0)
        if mapper != 0:
            raise RomError(f"mapper {mapper} is not supported, only mapper 0 (NROM)")
        if flags_6 & FLAG_TRAINER:
            raise RomError("a trainer is not supported")
        if flags_6 & FLAG_FOUR_SCREEN:
            raise RomError("four-screen mirroring is not supported, only vertical")
        if not flags_6 & FLAG_VERTICAL_MIRRORING:
            raise RomError("horizontal mirroring is not supported, only vertical")
        if prg_banks not in (1, 2):
            raise RomError(f"{prg_banks} program banks are not supported, only 1 or 2 of 16 KiB")
        if chr_banks != 1:
            raise RomError(f"{chr_banks} picture banks are not supported, only 1 of 8 KiB (ROM)")
        prg_end = HEADER_SIZE + prg_banks * PRG_BANK
        if len(data) < prg_end + CHR_BANK:
            raise RomError(f"truncated: {len(data)} of {prg_end + CHR_BANK} bytes")
        self._data = bytes(data)
        prg = np.frombuffer(data, np.uint8, prg_banks * PRG_BANK, HEADER_SIZE)
        prg = np.tile(prg, 2 // prg_banks)
        chr_rom = np.frombuffer(data, np.uint8, CHR_BANK, prg_end).copy()
        self.cartridge = Cartridge(prg, tables.decode_program(prg), chr_rom)
        self.sha256 = hashlib.sha256(data).hexdigest()

    @property
    def reset_vector(self) -> int:
        """The address of the first instruction, at $FFFC (nesdev wiki, "CPU interrupts")."""
        prg = self.cartridge.prg
        return int(prg[0x7FFC]) | int(prg[0x7FFD]) << 8

    def __reduce__(self):
        """Pickle the packaged game by name, so that no copy of it travels; others by content."""
        if self is packaged_rom():
            return packaged_rom, ()
        return Rom, (self._data,)


def load_rom(path: str | Path) -> Rom:
    """Load an iNES file.

    Raises:
        RomError: the file is missing or not supported; says why.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise RomError(f"cannot read {path}: {error.strerror}") from error
    return Rom(data)


@functools.cache
def packaged_rom() -> Rom:
    """Return the Super Mario Bros. cartridge that the package gym-super-mario-bros ships.

    The package is found, not imported: it would bring an emulator that is not needed here.

    Raises:
        RomError: the package is not installed.
    """
    found = importlib.util.find_spec(ROM_PACKAGE)
    if found is None or found.origin is None:
        raise RomError("the ROM comes with the package: pip install gym-super-mario-bros")
    return load_rom(Path(found.origin).parent / ROM_FILE)
