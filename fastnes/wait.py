"""The game's waiting loops in closed form.

Super Mario Bros. polls PPUSTATUS until the sprite 0 hit flag is clear, later until it is set, to
split the screen below the status bar. Rounds of such a loop that cannot see the flag change do
nothing but pass time.
"""

import numpy as np

from fastnes.background import move_columns
from fastnes.compiled import compiled, compiled_with_arrays
from fastnes.draw import Video
from fastnes.ppu import (
    LINE_DOTS,
    PRE_RENDER_LINE,
    VISIBLE_LINES,
    catch_up,
    run_pre_render_line,
    run_visible_lines,
)
from fastnes.sprites import NO_HIT, sprite_0_hit_pixel
from fastnes.state import (
    DOT,
    FINE_X,
    LINE,
    SECOND_WRITE,
    SPRITE_0_HIT,
    VBLANK,
    V,
)


@compiled_with_arrays
def dots_to_hit(row, regs, video, most):
    """Return how many dots, at most `most`, until the hit flag is set, that dot included.

    Looks ahead with a copy of the registers, from a visible or pre-render line; right as long as
    nobody writes to the PPU.
    """
    ahead = regs.copy()
    undrawn = Video(video.chr_rom, video.canvas, video.shade, False)
    dots = 0
    while dots < most:
        line, dot = ahead[LINE], ahead[DOT]
        if line == PRE_RENDER_LINE:
            dots += run_pre_render_line(ahead, LINE_DOTS)
        elif line >= VISIBLE_LINES:
            return most
        else:
            if dot <= 256:
                v_left = move_columns(ahead[V], -((ahead[FINE_X] + dot - 1) >> 3))
                hit = sprite_0_hit_pixel(row, ahead, video.chr_rom, v_left, dot - 1, 256)
                if hit != NO_HIT:
                    return min(most, dots + hit + 1 - dot + 1)
            dots += run_visible_lines(row, ahead, undrawn, LINE_DOTS * (VISIBLE_LINES - line))
    return most


@compiled
def wait_for_hit(row, regs, video, cycles, period, until):
    """Return the CPU cycles of the rounds, of `period` cycles each, that only pass time.

    The loop reads PPUSTATUS at the first of the two CPU `cycles` and leaves when the hit flag is
    `until`. Its rounds count up to the second, where an event is due.
    """
    clock, limit = cycles
    catch_up(row, regs, video, 3 * (clock + 1))
    most_rounds = (limit - clock) // period
    if regs[SPRITE_0_HIT] == until or most_rounds == 0:
        return np.int64(0)
    most = 3 * period * most_rounds
    if until:
        dots = dots_to_hit(row, regs, video, most)
    else:  # the pre-render line's first dot clears it; dot 0 exists only after power-on
        dots = (PRE_RENDER_LINE - regs[LINE]) * LINE_DOTS + 1 - regs[DOT] + 1
        if dots <= 0:
            dots = most
    rounds = min(most_rounds, (dots + 3 * period - 1) // (3 * period))
    if rounds > 0:
        regs[VBLANK] = 0  # what reading PPUSTATUS does
        regs[SECOND_WRITE] = 0
    return rounds * period
