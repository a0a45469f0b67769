"""The CPU's view of everything that is neither RAM nor ROM (nesdev wiki, "CPU memory map").

`video` is what the PPU needs besides the state (see draw.Video).
"""

from fastnes.compiled import compiled
from fastnes.ppu import catch_up, read_register, write_register, write_sprites
from fastnes.state import (
    BUTTONS,
    CYCLE_PARITY,
    ERROR,
    ERROR_DETAIL,
    ERROR_DMA,
    ERROR_NONE,
    ERROR_READ,
    ERROR_WRITE,
    SHIFT,
    STROBE,
)

PPU_END = 0x4000  # $2000-$3FFF: eight registers, repeated
OAMDMA = 0x4014
APU_STATUS = 0x4015
JOYPAD_1 = 0x4016
JOYPAD_2 = 0x4017  # written: the sound unit's frame counter
OPEN_BUS = 0x40  # what a joypad port's upper bits read as
DMA_CYCLES = 513


@compiled
def set_error(regs, code, detail):
    """Remember the first thing that this machine cannot do."""
    if regs[ERROR] == ERROR_NONE:
        regs[ERROR] = code
        regs[ERROR_DETAIL] = detail


@compiled
def read_io(row, regs, video, clock, address):
    """Return the byte at $2000-$7FFF for an instruction that acts on CPU cycle `clock`."""
    if address < PPU_END:
        catch_up(row, regs, video, 3 * (clock + 1))
        value = read_register(row, regs, video.chr_rom, address & 7)
        if value >= 0:
            return value
    elif address == JOYPAD_1:
        # nesdev wiki, "Standard controller": A, B, select, start, up, down, left, right
        if regs[STROBE] != 0:
            return OPEN_BUS | regs[BUTTONS] & 1
        bit = regs[SHIFT] & 1
        regs[SHIFT] >>= 1
        return OPEN_BUS | bit
    elif address == JOYPAD_2:
        return OPEN_BUS
    elif address == APU_STATUS:
        return 0
    set_error(regs, ERROR_READ, address)
    return 0


@compiled
def write_io(row, regs, video, clock, address, value):
    """Write a byte to $2000-$FFFF; return the CPU cycles that the write stalls."""
    if address < PPU_END:
        catch_up(row, regs, video, 3 * (clock + 1))
        if not write_register(row, regs, address & 7, value):
            set_error(regs, ERROR_WRITE, address)
        return 0
    if address == OAMDMA:
        if value >= 0x20:
            set_error(regs, ERROR_DMA, value)
            return 0
        catch_up(row, regs, video, 3 * (clock + 1))
        write_sprites(row, regs, value)
        return DMA_CYCLES + ((regs[CYCLE_PARITY] + clock + 1) & 1)
    if address == JOYPAD_1:
        regs[STROBE] = value & 1
        if value & 1 == 0:
            regs[SHIFT] = regs[BUTTONS]
        return 0
    # $4000-$4013, $4015, $4017 are the sound unit: no sound here, and nothing of it is readable
    if not PPU_END <= address <= JOYPAD_2:
        set_error(regs, ERROR_WRITE, address)
    return 0
