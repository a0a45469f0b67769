"""Drawing pixels into a canvas, eight at a time.

A canvas is ``uint64[CANVAS_WORDS]``: 240 rows of 32 words, each word 8 pixels of a byte, the
leftmost lowest; then working space. What a byte means is up to `shade`, uint8[64], that maps the
64 colours to it (palette index or gray).
"""

import numpy as np
from numba import njit

from fastnes.background import join, move_columns, tile_masks, tile_palette
from fastnes.sprites import (
    ATTRIBUTE_BEHIND,
    MASK_BACKGROUND,
    MASK_BACKGROUND_LEFT,
    MASK_SPRITES,
    MASK_SPRITES_LEFT,
    is_row_0_fetched,
    line_sprites,
    sprite_pattern,
)
from fastnes.state import (
    CTRL,
    FINE_X,
    MASK,
    OAM,
    PALETTE,
)

HEIGHT = 240
WIDTH = 256
ROW_WORDS = WIDTH // 8
SCREEN_WORDS = HEIGHT * ROW_WORDS
# Working space: four words for each of the 8 palettes. A pixel's colour is chosen by its low and
# high bit masks: c0 ^ (low & (c0 ^ c1)) if the high bit is clear, else c2 ^ (low & (c2 ^ c3)).
COLORS = SCREEN_WORDS
CANVAS_WORDS = COLORS + 8 * 4

REPEAT = np.uint64(0x0101010101010101)
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
NONE = np.uint64(0)
LEFT_EDGE = 0  # the word of the 8 leftmost pixels, which PPUMASK can hide


@njit(cache=True, nogil=True)
def prepare_colors(row, canvas, shade):
    """Fill the canvas's colour words from palette memory; do it after any palette change."""
    backdrop = np.uint64(shade[row[PALETTE] & 0x3F]) * REPEAT
    for palette in range(8):
        base = PALETTE + 4 * palette
        color_1 = np.uint64(shade[row[base + 1] & 0x3F]) * REPEAT
        color_2 = np.uint64(shade[row[base + 2] & 0x3F]) * REPEAT
        color_3 = np.uint64(shade[row[base + 3] & 0x3F]) * REPEAT
        words = COLORS + 4 * palette
        canvas[words] = backdrop
        canvas[words + 1] = backdrop ^ color_1
        canvas[words + 2] = color_2
        canvas[words + 3] = color_2 ^ color_3


@njit(cache=True, nogil=True)
def _colored(canvas, palette, low, high):
    """Return 8 pixels of a palette (0-3 background, 4-7 sprites) from their bit masks."""
    words = COLORS + 4 * palette
    without = canvas[words] ^ (low & canvas[words + 1])
    with_high = canvas[words + 2] ^ (low & canvas[words + 3])
    return without ^ (high & (without ^ with_high))


@njit(cache=True, nogil=True)
def _background_at(row, chr_rom, canvas, ctrl, mask, v_left, fine_x, x):
    """Return color and opacity words of the background pixels x to x + 7."""
    if mask & MASK_BACKGROUND == 0:
        return canvas[COLORS], NONE
    v = move_columns(v_left, (fine_x + x) >> 3)
    low, high = tile_masks(row, chr_rom, ctrl, v)
    color = _colored(canvas, tile_palette(row, v), low, high)
    v = move_columns(v, 1)
    low_2, high_2 = tile_masks(row, chr_rom, ctrl, v)
    color_2 = _colored(canvas, tile_palette(row, v), low_2, high_2)
    shift = (fine_x + x) & 7
    color = join(color, color_2, shift)
    opaque = join(low | high, low_2 | high_2, shift)
    if mask & MASK_BACKGROUND_LEFT == 0 and x < 8:
        shown = ALL << np.uint64(8 * (8 - x)) if x else NONE
        color = (color & shown) | (canvas[COLORS] & ~shown)
        opaque &= shown
    return color, opaque


@njit(cache=True, nogil=True)
def _draw_background(row, chr_rom, canvas, ctrl, mask, v_left, fine_x, line, first, last):
    """Draw the background words [first, last) of a line."""
    out = line * ROW_WORDS
    if mask & MASK_BACKGROUND == 0:
        for word in range(first, last):
            canvas[out + word] = canvas[COLORS]
        return
    v = move_columns(v_left, first)
    low, high = tile_masks(row, chr_rom, ctrl, v)
    color = _colored(canvas, tile_palette(row, v), low, high)
    for word in range(first, last):
        v = move_columns(v, 1)
        low, high = tile_masks(row, chr_rom, ctrl, v)
        following = _colored(canvas, tile_palette(row, v), low, high)
        canvas[out + word] = join(color, following, fine_x)
        color = following
    if mask & MASK_BACKGROUND_LEFT == 0 and first == LEFT_EDGE:
        canvas[out] = canvas[COLORS]


@njit(cache=True, nogil=True)
def _draw_sprites(
    row, chr_rom, canvas, ctrl, mask, v_left, fine_x, line, first, last, count, sprites, is_fetched
):
    """Draw a line's sprites over the words [first, last), the last chosen first.

    nesdev wiki, "PPU sprite priority": the first sprite with an opaque pixel wins over the other
    sprites even where it hides behind the background, which then shows.
    """
    out = line * ROW_WORDS
    for index in range(count - 1, -1, -1):
        sprite = (sprites >> (8 * index)) & 63
        x = np.int64(row[OAM + 4 * sprite + 3])
        word = x >> 3
        if word + 1 < first or word >= last:
            continue
        attributes = np.int64(row[OAM + 4 * sprite + 2])
        low, high = sprite_pattern(row, chr_rom, ctrl, line, sprite, is_fetched)
        opaque = low | high
        if mask & MASK_SPRITES_LEFT == 0 and x < 8:
            opaque &= ALL << np.uint64(8 * (8 - x)) if x else NONE
        if opaque == NONE:
            continue
        color = _colored(canvas, 4 + (attributes & 3), low, high)
        if attributes & ATTRIBUTE_BEHIND:
            behind, covered = _background_at(row, chr_rom, canvas, ctrl, mask, v_left, fine_x, x)
            color ^= covered & (color ^ behind)
        shift = np.uint64(8 * (x & 7))
        if word >= first:
            old = canvas[out + word]
            canvas[out + word] = old ^ ((opaque << shift) & (old ^ (color << shift)))
        if x & 7 and first <= word + 1 < last:
            back = np.uint64(64) - shift
            old = canvas[out + word + 1]
            canvas[out + word + 1] = old ^ ((opaque >> back) & (old ^ (color >> back)))


@njit(cache=True, nogil=True)
def draw_pixels(row, regs, chr_rom, canvas, line, v_left, x_first, x_last):
    """Draw pixels [x_first, x_last) of a line with the registers as they are.

    `v_left` is the video address of the line's left edge; the colours must be prepared.
    """
    ctrl, mask, fine_x = regs[CTRL], regs[MASK], regs[FINE_X]
    first, last = x_first >> 3, (x_last + 7) >> 3
    out = line * ROW_WORDS
    old_first, old_last = canvas[out + first], canvas[out + last - 1]
    _draw_background(row, chr_rom, canvas, ctrl, mask, v_left, fine_x, line, first, last)
    if mask & MASK_SPRITES:
        count, sprites = line_sprites(row, regs, line)
        if count:
            fetched = line == 0 and is_row_0_fetched(regs, count)
            _draw_sprites(
                row,
                chr_rom,
                canvas,
                ctrl,
                mask,
                v_left,
                fine_x,
                line,
                first,
                last,
                count,
                sprites,
                fetched,
            )
    # put back what the range's first and last word cover outside of it
    if x_first & 7:
        inside = ALL << np.uint64(8 * (x_first & 7))
        canvas[out + first] = (canvas[out + first] & inside) | (old_first & ~inside)
    if x_last & 7:
        inside = ALL >> np.uint64(64 - 8 * (x_last & 7))
        canvas[out + last - 1] = (canvas[out + last - 1] & inside) | (old_last & ~inside)
