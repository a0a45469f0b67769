"""One frame call: what nes-py does between two of its returns."""

from fastnes.compiled import compiled
from fastnes.cpu import interrupt, run_cpu
from fastnes.ppu import CTRL_NMI, LINE_DOTS, PRE_RENDER_LINE, VBLANK_LINE, catch_up
from fastnes.state import (
    BUTTONS,
    CLOCK,
    CTRL,
    CYCLE_PARITY,
    CYCLES_PER_FRAME,
    DOT,
    DOTS_DONE,
    DOTS_PER_FRAME,
    ERROR,
    ERROR_NONE,
    ERROR_PC,
    LINE,
    PC,
)


@compiled
def dots_to_event(regs):
    """Return how many dots bring the PPU to its next event, that dot included.

    Events are the interrupt (line 241, dot 1; nesdev wiki, "NMI" and "PPU frame timing") and the
    end of the pre-render line, whose length is known only there.
    """
    line, dot = regs[LINE], regs[DOT]
    if line < VBLANK_LINE or (line == VBLANK_LINE and dot == 1):
        return (VBLANK_LINE - line) * LINE_DOTS + 1 - dot + 1
    if line == PRE_RENDER_LINE and dot == LINE_DOTS:
        return 1
    return (PRE_RENDER_LINE - line) * LINE_DOTS + (LINE_DOTS - 1) - dot + 1


@compiled
def run_frame(row, regs, cartridge, video, buttons):
    """Run one frame call with `buttons` held, drawing if `video.is_drawn`."""
    prg, code, _ = cartridge
    regs[BUTTONS] = buttons
    regs[DOTS_DONE] = 0
    due = 0
    is_last = False
    while not is_last and regs[ERROR] == ERROR_NONE:
        line, dot = regs[LINE], regs[DOT]
        is_interrupt = line < VBLANK_LINE or (line == VBLANK_LINE and dot == 1)
        due += dots_to_event(regs)
        limit = (due - 1) // 3  # dots 3i + 1 to 3i + 3 pass before CPU cycle i acts
        if due > DOTS_PER_FRAME:
            is_last = True
            due = DOTS_PER_FRAME
            limit = CYCLES_PER_FRAME
        run_cpu(row, regs, prg, code, video, limit)
        catch_up(row, regs, video, due)
        if is_interrupt and not is_last and regs[CTRL] & CTRL_NMI:
            interrupt(row, regs, prg)
    if regs[ERROR] != ERROR_NONE and regs[ERROR_PC] == 0:
        regs[ERROR_PC] = regs[PC]
    regs[CLOCK] -= CYCLES_PER_FRAME
    regs[CYCLE_PARITY] ^= CYCLES_PER_FRAME & 1
