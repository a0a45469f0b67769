"""Drawing pixels into a canvas, eight at a time.

A canvas is ``uint64[CANVAS_WORDS]``: 240 rows of 32 words, each word 8 pixels of a byte, the
leftmost lowest; then working space. What a byte means is up to `shade`, uint8[64], that maps the
64 colours to it (palette index or gray).
"""

from typing import NamedTuple

import numpy as np

from fastnes.background import (
    CTRL_BACKGROUND_PAGE,
    HORIZONTAL_BITS,
    join,
    move_columns,
    move_rows,
    next_row,
    tile_masks,
    tile_palette,
)
from fastnes.compiled import compiled
from fastnes.sprites import (
    ATTRIBUTE_BEHIND,
    CTRL_TALL_SPRITES,
    MASK_BACKGROUND,
    MASK_BACKGROUND_LEFT,
    MASK_SPRITES,
    MASK_SPRITES_LEFT,
    MAX_LINE_SPRITES,
    is_row_0_fetched,
    sprite_pattern,
)
from fastnes.state import (
    CTRL,
    FINE_X,
    LINE,
    MASK,
    OAM,
    OAM_ADDRESS,
    OAM_SIZE,
    PALETTE,
    SPRITE_COUNT,
    SPRITE_LIST,
    SPRITES_HELD,
    VRAM,
    T,
    V,
)
from fastnes.tables import PIXEL_MASKS

HEIGHT = 240
WIDTH = 256
ROW_WORDS = WIDTH // 8
SCREEN_WORDS = HEIGHT * ROW_WORDS
# Working space: four words for each of the 8 palettes. A pixel's colour is chosen by its low and
# high bit masks: c0 ^ (low & (c0 ^ c1)) if the high bit is clear, else c2 ^ (low & (c2 ^ c3)).
COLORS = SCREEN_WORDS
# Then, for each line, how many sprites it shows and their numbers, as choose_sprites returns them.
LINE_COUNTS = COLORS + 8 * 4
LINE_LISTS = LINE_COUNTS + HEIGHT
# What the lists were made from: OAM, then the height of sprites and OAMADDR.
LISTED_OAM = LINE_LISTS + HEIGHT
OAM_WORDS = OAM_SIZE // 8
LISTED_SETTING = LISTED_OAM + OAM_WORDS
# Then eight rows of a line of tiles, before they are shifted by the fine x scroll.
TILE_ROWS = LISTED_OAM + 2 * OAM_WORDS
TILE_ROW_WORDS = 40  # 33 tiles; a multiple of 8
CANVAS_WORDS = TILE_ROWS + 8 * TILE_ROW_WORDS
CANVAS_ROWS = CANVAS_WORDS // ROW_WORDS
assert CANVAS_ROWS * ROW_WORDS == CANVAS_WORDS

REPEAT = np.uint64(0x0101010101010101)
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
NONE = np.uint64(0)
ONE = np.uint64(1)
LOG_2_OF_8 = np.uint64(3)
MOST_SPRITES = np.uint64(MAX_LINE_SPRITES)
LEFT_EDGE = 0  # the word of the 8 leftmost pixels, which PPUMASK can hide


class Video(NamedTuple):
    """What the PPU needs besides a machine's state."""

    chr_rom: np.ndarray  # uint8[8192], the cartridge's pattern tables
    canvas: np.ndarray  # uint64[CANVAS_WORDS], what is drawn into
    shade: np.ndarray  # uint8[64], what to draw for each colour
    is_drawn: bool  # False: leave the canvas alone


@compiled
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


@compiled
def prepare_sprites(row, regs, canvas):
    """List the sprites of all lines at once, unless the canvas has the list already."""
    height = 16 if regs[CTRL] & CTRL_TALL_SPRITES else 8
    setting = np.uint64(height << 8 | regs[OAM_ADDRESS])
    oam = row[OAM : OAM + OAM_SIZE].view(np.uint64)
    listed_oam = canvas[LISTED_OAM:LISTED_SETTING]
    changed = canvas[LISTED_SETTING] ^ setting
    for word in range(OAM_WORDS):
        changed |= listed_oam[word] ^ oam[word]
    if changed == NONE:
        return
    canvas[LISTED_SETTING] = setting
    for word in range(OAM_WORDS):
        listed_oam[word] = oam[word]
    for line in range(HEIGHT):
        canvas[LINE_COUNTS + line] = NONE
    for sprite in range(regs[OAM_ADDRESS] >> 2, 64):
        y = np.int64(row[OAM + 4 * sprite])
        # chosen at the end of lines y to y + height - 1; what line 239 chose is shown on row 0
        for chooser in range(y, y + height):
            if chooser >= HEIGHT:
                break
            line = chooser + 1 if chooser < HEIGHT - 1 else 0
            count = canvas[LINE_COUNTS + line]
            if count < MOST_SPRITES:
                listed = canvas[LINE_LISTS + line] if count else NONE
                canvas[LINE_LISTS + line] = listed | np.uint64(sprite) << (count << LOG_2_OF_8)
                canvas[LINE_COUNTS + line] = count + ONE


@compiled
def _colored(canvas, palette, low, high):
    """Return 8 pixels of a palette (0-3 background, 4-7 sprites) from their bit masks."""
    words = COLORS + 4 * palette
    without = canvas[words] ^ (low & canvas[words + 1])
    with_high = canvas[words + 2] ^ (low & canvas[words + 3])
    return without ^ (high & (without ^ with_high))


@compiled
def _background_at(row, regs, chr_rom, canvas, v_left, x):
    """Return color and opacity words of the background pixels x to x + 7."""
    ctrl, mask, fine_x = regs[CTRL], regs[MASK], regs[FINE_X]
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


@compiled
def _draw_background(row, regs, video, v_left, first, last):
    """Draw the background words [first, last) of the current line."""
    chr_rom, canvas = video.chr_rom, video.canvas
    ctrl, mask, fine_x = regs[CTRL], regs[MASK], regs[FINE_X]
    out = regs[LINE] * ROW_WORDS
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


@compiled
def _listed_sprites(regs, canvas, line):
    """Return count and numbers of a line's sprites."""
    if regs[SPRITES_HELD] != 0:
        return regs[SPRITE_COUNT], regs[SPRITE_LIST]
    return np.int64(canvas[LINE_COUNTS + line]), np.int64(canvas[LINE_LISTS + line])


@compiled
def _draw_sprites(row, regs, video, lines, left_edges, words):
    """Draw the sprites of `lines` lines from the current one on, the last chosen first.

    nesdev wiki, "PPU sprite priority": the first sprite with an opaque pixel wins over the other
    sprites even where it hides behind the background, which then shows.

    Args:
        row, regs, video: as everywhere.
        lines: how many.
        left_edges: the video addresses of the first and second line's left edges.
        words: (first, last), the words [first, last) of each line are drawn.
    """
    chr_rom, canvas = video.chr_rom, video.canvas
    ctrl, mask, line = regs[CTRL], regs[MASK], regs[LINE]
    v, v_next = left_edges
    first, last = words
    for y in range(line, line + lines):
        count, sprites = _listed_sprites(regs, canvas, y)
        out = y * ROW_WORDS
        for index in range(count - 1, -1, -1):
            sprite = (sprites >> (8 * index)) & 63
            x = np.int64(row[OAM + 4 * sprite + 3])
            word = x >> 3
            if word + 1 < first or word >= last:
                continue
            attributes = np.int64(row[OAM + 4 * sprite + 2])
            is_fetched = y == 0 and is_row_0_fetched(regs, count)
            low, high = sprite_pattern(row, chr_rom, ctrl, y, sprite, is_fetched)
            opaque = low | high
            if mask & MASK_SPRITES_LEFT == 0 and x < 8:
                opaque &= ALL << np.uint64(8 * (8 - x)) if x else NONE
            if opaque == NONE:
                continue
            color = _colored(canvas, 4 + (attributes & 3), low, high)
            if attributes & ATTRIBUTE_BEHIND:
                v_line = v if y == line else move_rows(v_next, y - line - 1)
                behind, covered = _background_at(row, regs, chr_rom, canvas, v_line, x)
                color ^= covered & (color ^ behind)
            shift = np.uint64(8 * (x & 7))
            if word >= first:
                old = canvas[out + word]
                canvas[out + word] = old ^ ((opaque << shift) & (old ^ (color << shift)))
            if x & 7 and first <= word + 1 < last:
                back = np.uint64(64) - shift
                old = canvas[out + word + 1]
                canvas[out + word + 1] = old ^ ((opaque >> back) & (old ^ (color >> back)))


@compiled
def _draw_tile_rows(row, regs, video, v, line, lines):
    """Draw the background of up to 8 whole lines, from `line` and `v` on, in one row of tiles."""
    chr_rom, canvas, fine_x = video.chr_rom, video.canvas, regs[FINE_X]
    page = (regs[CTRL] & CTRL_BACKGROUND_PAGE) << 8
    fine_y = (v >> 12) & 7
    previous = np.int64(-1)
    for tile in range(ROW_WORDS + 1):
        address = page | np.int64(row[VRAM + (v & 0x7FF)]) << 4
        palette = tile_palette(row, v)
        out = TILE_ROWS + tile
        if address | palette == previous:  # half of all: sky, ground
            for y in range(8):
                canvas[out + TILE_ROW_WORDS * y] = canvas[out + TILE_ROW_WORDS * y - 1]
        else:
            previous = address | palette
            words = COLORS + 4 * palette
            color_0, color_01 = canvas[words], canvas[words + 1]
            color_2, color_23 = canvas[words + 2], canvas[words + 3]
            for y in range(8):
                low = PIXEL_MASKS[0, chr_rom[address + y]]
                high = PIXEL_MASKS[0, chr_rom[address + 8 + y]]
                without = color_0 ^ (low & color_01)
                with_high = color_2 ^ (low & color_23)
                canvas[out + TILE_ROW_WORDS * y] = without ^ (high & (without ^ with_high))
        v = move_columns(v, 1)
    for y in range(lines):
        source = canvas[TILE_ROWS + TILE_ROW_WORDS * (fine_y + y) :]
        shifted = canvas[(line + y) * ROW_WORDS :]
        for word in range(ROW_WORDS):
            shifted[word] = join(source[word], source[word + 1], fine_x)


@compiled
def draw_lines(row, regs, video, lines):
    """Draw `lines` whole lines from the current one on, while nothing changes.

    Colours and sprites must be prepared.
    """
    canvas, mask, line = video.canvas, regs[MASK], regs[LINE]
    v = regs[V]
    v_next = next_row(v) & ~HORIZONTAL_BITS | regs[T] & HORIZONTAL_BITS
    left_edges = (v, v_next)
    begin, last = line, line + lines
    while line < last:
        first = line
        if mask & MASK_BACKGROUND:
            same_tiles = 8 - ((v >> 12) & 7)
            if v_next != next_row(v):
                same_tiles = 1
            line = min(last, line + same_tiles)
            _draw_tile_rows(row, regs, video, v, first, line - first)
        else:
            line = last
            for word in range(first * ROW_WORDS, last * ROW_WORDS):
                canvas[word] = canvas[COLORS]
        v = move_rows(v_next, line - first - 1)
        v_next = next_row(v)
    if mask & MASK_BACKGROUND_LEFT == 0:
        for y in range(begin, last):
            canvas[y * ROW_WORDS] = canvas[COLORS]
    if mask & MASK_SPRITES:
        _draw_sprites(row, regs, video, lines, left_edges, (0, ROW_WORDS))


@compiled
def draw_pixels(row, regs, video, v_left, x_first, x_last):
    """Draw pixels [x_first, x_last) of the current line with the registers as they are.

    `v_left` is the video address of the line's left edge; colours and sprites must be prepared.
    """
    canvas = video.canvas
    first, last = x_first >> 3, (x_last + 7) >> 3
    out = regs[LINE] * ROW_WORDS
    old_first, old_last = canvas[out + first], canvas[out + last - 1]
    _draw_background(row, regs, video, v_left, first, last)
    if regs[MASK] & MASK_SPRITES:
        _draw_sprites(row, regs, video, 1, (v_left, v_left), (first, last))
    # put back what the range's first and last word cover outside of it
    if x_first & 7:
        inside = ALL << np.uint64(8 * (x_first & 7))
        canvas[out + first] = (canvas[out + first] & inside) | (old_first & ~inside)
    if x_last & 7:
        inside = ALL >> np.uint64(64 - 8 * (x_last & 7))
        canvas[out + last - 1] = (canvas[out + last - 1] & inside) | (old_last & ~inside)
