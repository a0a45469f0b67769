"""The background, eight pixels at a time.

nesdev wiki, "PPU nametables", "PPU attribute tables", "PPU scrolling" (the bits of v: fine y 14-12,
name table 11-10, coarse y 9-5, coarse x 4-0). Name tables are mirrored vertically, so bit 11 does
not matter.
"""

import numpy as np

from fastnes.compiled import compiled
from fastnes.state import VRAM
from fastnes.tables import PIXEL_MASKS

CTRL_BACKGROUND_PAGE = 0x10
COARSE_X = 0x001F
COARSE_Y = 0x03E0
NAME_TABLE_X = 0x0400
HORIZONTAL_BITS = COARSE_X | NAME_TABLE_X  # of v and t
SCREEN_ROWS = 240
ATTRIBUTES = 0x3C0  # offset of the attributes in a name table


@compiled
def move_columns(v, columns):
    """Return v moved by -33 to 33 tile columns; crossing column 31 switches the name table."""
    column = (v & COARSE_X) + (v & NAME_TABLE_X) // 32 + columns
    return (v & ~HORIZONTAL_BITS) | (column & COARSE_X) | (column & 32) << 5


@compiled
def next_row(v):
    """Return v moved one pixel row down (nesdev wiki, "PPU scrolling", Y increment)."""
    if v & 0x7000 != 0x7000:
        return v + 0x1000
    v &= ~0x7000
    coarse_y = v & COARSE_Y
    if coarse_y == 29 << 5:
        return (v & ~COARSE_Y) ^ 0x0800
    if coarse_y == COARSE_Y:
        return v & ~COARSE_Y
    return v + 0x20


@compiled
def move_rows(v, rows):
    """Return v moved up to 240 pixel rows down."""
    y = (v & COARSE_Y) >> 2 | (v >> 12) & 7
    if y >= SCREEN_ROWS:  # in the attributes: the long way
        for _ in range(rows):
            v = next_row(v)
        return v
    y += rows
    if y >= SCREEN_ROWS:
        y -= SCREEN_ROWS
        v ^= 0x0800
    return (v & ~0x73E0) | (y & 7) << 12 | (y & 0xF8) << 2


@compiled
def tile_masks(row, chr_rom, ctrl, v):
    """Return low and high pixel masks (uint64) of the tile row at v."""
    tile = np.int64(row[VRAM + (v & 0x7FF)])
    address = (ctrl & CTRL_BACKGROUND_PAGE) << 8 | tile << 4 | (v >> 12) & 7
    return PIXEL_MASKS[0, chr_rom[address]], PIXEL_MASKS[0, chr_rom[address | 8]]


@compiled
def tile_palette(row, v):
    """Return the palette (0-3) of the tile at v."""
    base = VRAM + (v & NAME_TABLE_X) + ATTRIBUTES
    attribute = np.int64(row[base + ((v >> 4) & 0x38 | (v >> 2) & 0x07)])
    return (attribute >> ((v >> 4) & 4 | v & 2)) & 3


@compiled
def join(left, right, shift):
    """Return the 8 bytes that begin `shift` (0-7) bytes into the 16 bytes of left and right."""
    bits = np.uint64(8 * shift)
    return left >> bits | (right << np.uint64(1)) << (np.uint64(63) - bits)


@compiled
def background_opacity(row, chr_rom, ctrl, v_left, position):
    """Return 0xFF bytes (uint64) for the opaque ones of 8 pixels.

    `position` counts pixels from the left edge of the tile at `v_left`.
    """
    v = move_columns(v_left, position >> 3)
    low, high = tile_masks(row, chr_rom, ctrl, v)
    low_2, high_2 = tile_masks(row, chr_rom, ctrl, move_columns(v, 1))
    return join(low | high, low_2 | high_2, position & 7)
