"""The picture processing unit: dots in bulk, and its registers.

nes-py runs three dots, then one CPU cycle. Here the PPU stands still until somebody looks: a
register access or an event first lets it catch up with the dots that are due. Lines have 341
dots, numbered 1-341; dot x + 1 makes pixel x (nesdev wiki, "PPU rendering"). What nes-py does
differently from the wiki is said where it happens.
"""

import numpy as np

from fastnes.background import COARSE_X, HORIZONTAL_BITS, move_columns, move_rows, next_row
from fastnes.compiled import compiled
from fastnes.draw import draw_lines, draw_pixels, prepare_colors, prepare_sprites
from fastnes.sprites import (
    CTRL_TALL_SPRITES,
    MASK_BACKGROUND,
    MASK_BOTH,
    MASK_SPRITES,
    NO_HIT,
    hold_line_sprites,
    sprite_0_hit_pixel,
)
from fastnes.state import (
    CTRL,
    DOT,
    DOTS_DONE,
    FINE_X,
    LINE,
    MASK,
    OAM,
    OAM_ADDRESS,
    ODD_FRAME,
    PALETTE,
    READ_BUFFER,
    ROW_0_FRESH,
    SECOND_WRITE,
    SPRITE_0_HIT,
    SPRITES_HELD,
    VBLANK,
    VRAM,
    T,
    V,
)

LINE_DOTS = 341
VISIBLE_LINES = 240
VBLANK_LINE = 241
PRE_RENDER_LINE = 261
DOT_NEXT_ROW = 257
DOT_COPY_X = 258
DOT_COPY_Y_FIRST = 281
DOT_COPY_Y_LAST = 304
VERTICAL_BITS = 0x7BE0  # of v and t: fine y, coarse y, name table y

CTRL_ADDRESS_STEP_32 = 0x04
CTRL_NMI = 0x80
# $2000-$2007
PPUCTRL = 0
PPUMASK = 1
PPUSTATUS = 2
OAMADDR = 3
OAMDATA = 4
PPUSCROLL = 5
PPUADDR = 6
PPUDATA = 7


@compiled
def catch_up(row, regs, video, dots_due):
    """Run the PPU until `dots_due` dots of this frame call are done.

    Draws if `video.is_drawn`; everything else happens in either case.
    """
    dots = dots_due - regs[DOTS_DONE]
    if dots <= 0:
        return
    regs[DOTS_DONE] = dots_due
    # no catching up begins in vertical blank and ends on the screen: see frame.py's events
    if video.is_drawn and (regs[LINE] < VISIBLE_LINES or regs[LINE] == PRE_RENDER_LINE):
        prepare_colors(row, video.canvas, video.shade)
        prepare_sprites(row, regs, video.canvas)
    while dots > 0:
        line = regs[LINE]
        if line < VISIBLE_LINES:
            dots -= run_visible_lines(row, regs, video, dots)
        elif line < PRE_RENDER_LINE:
            dots -= _run_blank_lines(regs, line, dots)
        else:
            dots -= run_pre_render_line(regs, dots)


@compiled
def uniform_lines(row, regs, dots):
    """Return how many whole lines from here on, within `dots` dots, can be run at once.

    That is when rendering is on or off as a whole, and sprite 0 is elsewhere or has been hit.
    """
    line = regs[LINE]
    lines = min(dots // LINE_DOTS, VISIBLE_LINES - line)
    mask = regs[MASK] & MASK_BOTH
    if regs[DOT] != 1 or regs[SPRITES_HELD] != 0 or (mask != 0 and mask != MASK_BOTH):
        return 0
    if mask == 0 or regs[SPRITE_0_HIT] != 0 or line == 0:
        return lines if line else 0
    sprite_first = np.int64(row[OAM]) + 1
    height = 16 if regs[CTRL] & CTRL_TALL_SPRITES else 8
    if line >= sprite_first + height:
        return lines
    return max(0, min(lines, sprite_first - line))


@compiled
def run_visible_lines(row, regs, video, dots):
    """Run up to `dots` dots: of one visible line, or of many at once; return how many."""
    line, dot = regs[LINE], regs[DOT]
    lines = uniform_lines(row, regs, dots)
    if lines > 0:
        v = regs[V]
        is_rendering = regs[MASK] & MASK_BOTH != 0
        if video.is_drawn:
            draw_lines(row, regs, video, lines)
        if is_rendering:
            regs[V] = move_rows(v, lines) & ~HORIZONTAL_BITS | regs[T] & HORIZONTAL_BITS
        regs[ROW_0_FRESH] = regs[MASK] & MASK_SPRITES != 0
        regs[LINE] = line + lines
        return lines * LINE_DOTS
    last = min(LINE_DOTS, dot + dots - 1)
    mask = regs[MASK]
    if dot <= 256:
        x_first, x_last = dot - 1, min(last, 256)
        columns_first = (regs[FINE_X] + x_first) >> 3
        v_left = move_columns(regs[V], -columns_first)
        if regs[SPRITE_0_HIT] == 0:
            hit = sprite_0_hit_pixel(row, regs, video.chr_rom, v_left, x_first, x_last)
            regs[SPRITE_0_HIT] = hit != NO_HIT
        if video.is_drawn:
            draw_pixels(row, regs, video, v_left, x_first, x_last)
        if mask & MASK_BACKGROUND:
            regs[V] = move_columns(v_left, (regs[FINE_X] + x_last) >> 3)
    # nesdev wiki, "PPU scrolling"; nes-py moves down with the background alone, and copies only
    # with background and sprites, one dot later than the wiki
    if dot <= DOT_NEXT_ROW <= last and mask & MASK_BACKGROUND:
        regs[V] = next_row(regs[V])
    if dot <= DOT_COPY_X <= last and mask & MASK_BOTH == MASK_BOTH:
        regs[V] = (regs[V] & ~HORIZONTAL_BITS) | (regs[T] & HORIZONTAL_BITS)
    if last == LINE_DOTS:
        regs[SPRITES_HELD] = 0
        regs[ROW_0_FRESH] = mask & MASK_SPRITES != 0
        regs[LINE] = line + 1
        regs[DOT] = 1
    else:
        regs[DOT] = last + 1
    return last + 1 - dot


@compiled
def _run_blank_lines(regs, line, dots):
    """Run up to `dots` dots of lines 240-260; return how many (nesdev wiki, "PPU frame timing").

    The interrupt itself is the caller's: it catches up to that very dot (see frame.py).
    """
    dot = regs[DOT]
    dots = min(dots, (PRE_RENDER_LINE - line) * LINE_DOTS - dot + 1)
    to_vblank = (VBLANK_LINE - line) * LINE_DOTS + 1 - dot  # dots before line 241, dot 1
    if 0 <= to_vblank < dots:
        regs[VBLANK] = 1
    position = line * LINE_DOTS + dot - 1 + dots
    regs[LINE] = position // LINE_DOTS
    regs[DOT] = position % LINE_DOTS + 1
    if regs[LINE] == PRE_RENDER_LINE:
        regs[ODD_FRAME] ^= 1
    return dots


@compiled
def run_pre_render_line(regs, dots):
    """Run up to `dots` dots of line 261; return how many.

    nesdev wiki, "PPU frame timing": an odd frame's pre-render line is a dot shorter while
    rendering. Dot 0 exists only after power-on.
    """
    dot = regs[DOT]
    last = min(LINE_DOTS, dot + dots - 1)
    is_rendering = regs[MASK] & MASK_BOTH == MASK_BOTH
    if dot <= 1 <= last:
        regs[VBLANK] = 0
        regs[SPRITE_0_HIT] = 0
    if is_rendering:
        if dot <= DOT_COPY_X <= last:
            regs[V] = (regs[V] & ~HORIZONTAL_BITS) | (regs[T] & HORIZONTAL_BITS)
        if dot <= DOT_COPY_Y_LAST and last >= DOT_COPY_Y_FIRST:
            regs[V] = (regs[V] & ~VERTICAL_BITS) | (regs[T] & VERTICAL_BITS)
        if regs[ODD_FRAME] != 0 and dot <= LINE_DOTS - 1 <= last:
            last = LINE_DOTS - 1
            regs[LINE] = 0
    if last == LINE_DOTS:
        regs[LINE] = 0
    regs[DOT] = 1 if regs[LINE] == 0 else last + 1
    return last + 1 - dot


@compiled
def _address_step(regs):
    return 32 if regs[CTRL] & CTRL_ADDRESS_STEP_32 else 1


@compiled
def _palette_offset(address):
    """Return the offset in palette memory; $3F10, 14, 18, 1C are $3F00, 04, 08, 0C."""
    if address & 0x13 == 0x10:
        return PALETTE + (address & 0x0F)
    return PALETTE + (address & 0x1F)


@compiled
def read_register(row, regs, chr_rom, register):
    """Return a PPU register's value as the CPU reads it, or -1 if it cannot be read.

    nesdev wiki, "PPU registers". The PPU must have caught up.
    """
    if register == PPUSTATUS:
        value = regs[VBLANK] << 7 | regs[SPRITE_0_HIT] << 6
        regs[VBLANK] = 0
        regs[SECOND_WRITE] = 0
        return value
    if register == OAMDATA:
        return np.int64(row[OAM + regs[OAM_ADDRESS]])
    if register == PPUDATA:
        address = regs[V] & 0x3FFF
        regs[V] = (regs[V] + _address_step(regs)) & 0xFFFF
        if address >= 0x3F00:  # palettes answer at once and leave the buffer alone
            return np.int64(row[_palette_offset(address)])
        value = regs[READ_BUFFER]
        if address < 0x2000:
            regs[READ_BUFFER] = chr_rom[address]
        else:
            regs[READ_BUFFER] = row[VRAM + (address & 0x7FF)]
        return value
    return np.int64(-1)


@compiled
def write_register(row, regs, register, value):
    """Write a PPU register; return False if it cannot be written.

    nesdev wiki, "PPU registers" and "PPU scrolling" (t, v, x, w). The PPU must have caught up.
    """
    if register == PPUCTRL:
        if (regs[CTRL] ^ value) & CTRL_TALL_SPRITES:
            hold_line_sprites(row, regs, regs[LINE])
        regs[CTRL] = value
        regs[T] = (regs[T] & ~0x0C00) | (value & 3) << 10
        regs[ROW_0_FRESH] = 0
    elif register == PPUMASK:
        regs[MASK] = value
        regs[ROW_0_FRESH] = 0
    elif register == OAMADDR:
        if regs[OAM_ADDRESS] != value:
            hold_line_sprites(row, regs, regs[LINE])
        regs[OAM_ADDRESS] = value
    elif register == OAMDATA:
        hold_line_sprites(row, regs, regs[LINE])
        row[OAM + regs[OAM_ADDRESS]] = value
        regs[OAM_ADDRESS] = (regs[OAM_ADDRESS] + 1) & 0xFF
        regs[ROW_0_FRESH] = 0
    elif register == PPUSCROLL:
        if regs[SECOND_WRITE] == 0:
            regs[T] = (regs[T] & ~COARSE_X) | value >> 3
            regs[FINE_X] = value & 7
        else:
            regs[T] = (regs[T] & ~0x73E0) | (value & 7) << 12 | (value & 0xF8) << 2
        regs[SECOND_WRITE] ^= 1
    elif register == PPUADDR:
        if regs[SECOND_WRITE] == 0:
            regs[T] = (regs[T] & 0x00FF) | (value & 0x3F) << 8
        else:
            regs[T] = (regs[T] & 0xFF00) | value
            regs[V] = regs[T]
        regs[SECOND_WRITE] ^= 1
    elif register == PPUDATA:
        _write_video(row, regs, regs[V] & 0x3FFF, value)
        regs[V] = (regs[V] + _address_step(regs)) & 0xFFFF
    else:
        return False
    return True


@compiled
def _write_video(row, regs, address, value):
    """Write a byte on the PPU's bus (nesdev wiki, "PPU memory map").

    Below $2000 is the cartridge's ROM, which a write does not change: the game does so itself.
    """
    if address >= 0x3F00:
        row[_palette_offset(address)] = value
    elif address >= 0x2000:
        row[VRAM + (address & 0x7FF)] = value
        regs[ROW_0_FRESH] = 0


@compiled
def write_sprites(row, regs, page):
    """Copy a page of RAM to OAM (nesdev wiki, "PPU OAM", DMA), beginning at OAMADDR."""
    hold_line_sprites(row, regs, regs[LINE])
    source = (page << 8) & 0x7FF
    for offset in range(256):
        row[OAM + ((regs[OAM_ADDRESS] + offset) & 0xFF)] = row[source + offset]
    regs[ROW_0_FRESH] = 0
