"""Which sprites a line shows, and where sprite 0 first meets the background.

nesdev wiki, "PPU sprite evaluation" and "PPU OAM". At the end of each line nes-py chooses the
first 8 sprites that cover it; the next line shows them, one pixel lower than their y. Lines 240
to 261 choose nothing, so row 0 shows what line 239 chose.
"""

import numpy as np

from fastnes.background import background_opacity
from fastnes.compiled import compiled
from fastnes.state import (
    CTRL,
    FINE_X,
    LINE,
    MASK,
    OAM,
    OAM_ADDRESS,
    PALETTE,
    ROW_0_FRESH,
    SPRITE_COUNT,
    SPRITE_LIST,
    SPRITES_HELD,
    VRAM,
)
from fastnes.tables import PIXEL_MASKS

CTRL_SPRITE_PAGE = 0x08
CTRL_TALL_SPRITES = 0x20
MASK_BACKGROUND_LEFT = 0x02
MASK_SPRITES_LEFT = 0x04
MASK_BACKGROUND = 0x08
MASK_SPRITES = 0x10
MASK_BOTH = MASK_BACKGROUND | MASK_SPRITES
ATTRIBUTE_BEHIND = 0x20
ATTRIBUTE_FLIP_X = 0x40
ATTRIBUTE_FLIP_Y = 0x80
MAX_LINE_SPRITES = 8
NO_HIT = 256


@compiled
def choosing_line(line):
    """Return the line at whose end the sprites of `line` were chosen."""
    return line - 1 if 0 < line < 240 else 239


@compiled
def choose_sprites(row, ctrl, oam_address, line):
    """Return how many sprites a line shows (at most 8), and their numbers, a byte each.

    nes-py starts at the sprite that OAMADDR points to.
    """
    height = 16 if ctrl & CTRL_TALL_SPRITES else 8
    chooser = choosing_line(line)
    count = 0
    sprites = 0
    for sprite in range(oam_address >> 2, 64):
        below = chooser - np.int64(row[OAM + 4 * sprite])
        if 0 <= below < height:
            sprites |= sprite << (8 * count)
            count += 1
            if count == MAX_LINE_SPRITES:
                break
    return count, sprites


@compiled
def line_sprites(row, regs, line):
    """Return count and numbers of the sprites on the current line."""
    if regs[SPRITES_HELD] != 0:
        return regs[SPRITE_COUNT], regs[SPRITE_LIST]
    return choose_sprites(row, regs[CTRL], regs[OAM_ADDRESS], line)


@compiled
def hold_line_sprites(row, regs, line):
    """Keep the current line's sprites, because OAM, OAMADDR or their height is about to change."""
    if regs[SPRITES_HELD] == 0:
        regs[SPRITE_COUNT], regs[SPRITE_LIST] = line_sprites(row, regs, line)
        regs[SPRITES_HELD] = 1


@compiled
def _video_byte(row, chr_rom, address):
    """Read the PPU's bus (nesdev wiki, "PPU memory map")."""
    address &= 0x3FFF
    if address < 0x2000:
        return np.int64(chr_rom[address])
    if address < 0x3F00:
        return np.int64(row[VRAM + (address & 0x7FF)])
    if address & 0x13 == 0x10:
        address &= 0x0F
    return np.int64(row[PALETTE + (address & 0x1F)])


@compiled
def sprite_pattern(row, chr_rom, ctrl, line, sprite, is_row_0_fresh):
    """Return a sprite's low and high pixel masks (uint64) on a line, leftmost pixel lowest.

    The row inside the sprite is a remainder that keeps its sign, as in C++: nes-py subtracts the
    whole y from line 0 and may read before the pattern. If the sprites of row 0 were fetched when
    they were chosen (two or more of them, and no PPU write since), it reads the right row.
    """
    base = OAM + 4 * sprite
    y = np.int64(row[base])
    tile = np.int64(row[base + 1])
    attributes = np.int64(row[base + 2])
    height = 16 if ctrl & CTRL_TALL_SPRITES else 8
    below = line - ((y + 1) & 0xFF)
    if line == 0 and is_row_0_fresh:
        below = 239 - y
    inside = below
    if below < 0:
        inside = -((-below) % height)
    elif below >= height:
        inside = below % height
    if attributes & ATTRIBUTE_FLIP_Y:
        inside ^= height - 1
    if ctrl & CTRL_TALL_SPRITES:
        inside = (inside & 7) | ((inside & 8) << 1)
        address = ((tile >> 1) * 32 + inside) | ((tile & 1) << 12)
    else:
        address = tile * 16 + inside + ((ctrl & CTRL_SPRITE_PAGE) << 9)
    mirrored = (attributes & ATTRIBUTE_FLIP_X) >> 6
    low = PIXEL_MASKS[mirrored, _video_byte(row, chr_rom, address)]
    high = PIXEL_MASKS[mirrored, _video_byte(row, chr_rom, address + 8)]
    return low, high


@compiled
def is_row_0_fetched(regs, count):
    """Return whether nes-py still has the patterns that line 239 fetched for row 0."""
    return regs[ROW_0_FRESH] != 0 and count >= 2


@compiled
def is_sprite_0_on_line(row, regs, line):
    """Return whether sprite 0 is among the sprites of a line."""
    if regs[SPRITES_HELD] != 0:
        return regs[SPRITE_COUNT] > 0 and regs[SPRITE_LIST] & 0xFF == 0
    height = 16 if regs[CTRL] & CTRL_TALL_SPRITES else 8
    below = choosing_line(line) - np.int64(row[OAM])
    return regs[OAM_ADDRESS] < 4 and 0 <= below < height


@compiled
def sprite_0_hit_pixel(row, regs, chr_rom, v_left, first, last):
    """Return the first pixel in [first, last) of the line where sprite 0 hits, or NO_HIT.

    nesdev wiki, "PPU OAM", sprite zero hits: it and the background opaque, both shown. nes-py also
    counts pixel 255. `v_left` is the video address of the line's left edge.
    """
    line, mask = regs[LINE], regs[MASK]
    if mask & MASK_BOTH != MASK_BOTH or not is_sprite_0_on_line(row, regs, line):
        return NO_HIT
    x = np.int64(row[OAM + 3])
    if x >= last or x + 8 <= first:
        return NO_HIT
    fetched = False
    if line == 0:
        fetched = is_row_0_fetched(regs, line_sprites(row, regs, line)[0])
    low, high = sprite_pattern(row, chr_rom, regs[CTRL], line, 0, fetched)
    both = (low | high) & background_opacity(row, chr_rom, regs[CTRL], v_left, regs[FINE_X] + x)
    if mask & MASK_BACKGROUND_LEFT == 0 or mask & MASK_SPRITES_LEFT == 0:
        first = max(first, 8)
    for pixel in range(max(first, x), min(last, x + 8)):
        if (both >> np.uint64(8 * (pixel - x))) & np.uint64(1):
            return pixel
    return NO_HIT
