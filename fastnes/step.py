"""The compiled step: frames, the game's interventions, and the observation."""

import numpy as np

from fastnes.bus import set_error
from fastnes.compiled import compiled, compiled_with_arrays
from fastnes.draw import CANVAS_ROWS, HEIGHT, SCREEN_WORDS, WIDTH
from fastnes.frame import run_frame
from fastnes.game import (
    is_occupied,
    is_terminated,
    run_out_pre_level_timer,
    skip_change_area,
)
from fastnes.ram import NO_BUTTON
from fastnes.resize import resize_max
from fastnes.share import claim
from fastnes.state import ERROR, ERROR_NONE, ERROR_STUCK, REGISTERS

# The longest wait in the game (the end of a world) is some 1,500 frames.
MOST_BUSY_FRAMES = 20_000


def screen_of(canvas: np.ndarray) -> np.ndarray:
    """Return the picture uint8[240, 256] in a canvas uint64[CANVAS_WORDS], a view."""
    return canvas[:SCREEN_WORDS].view(np.uint8).reshape(HEIGHT, WIDTH)


@compiled
def copy_bytes(source, target):
    """Copy uint8[len(target)] (Numba's slice assignment takes seconds more to compile)."""
    for i in range(len(target)):
        target[i] = source[i]


@compiled
def play_frame(row, cartridge, canvas, shade, is_drawn, is_game, buttons, ram_before, spare):
    """Run one frame and what the game's environment does after it; return if it terminated.

    The canvas then shows the last frame, which may be one of a busy game that was skipped.
    """
    regs = row[REGISTERS:].view(np.int64)
    pressed = np.int64(buttons)
    busy_frames = 0
    is_redrawn = False
    while True:  # one place that runs a frame: each costs half a minute of compiling
        is_shown = is_drawn and (busy_frames == 0 or is_redrawn)
        run_frame(row, regs, cartridge, canvas, shade, is_shown, pressed)
        if busy_frames == 0:
            copy_bytes(row, ram_before)
            if not is_game:
                return False
            if is_terminated(row):
                return True
            skip_change_area(row)
        if is_redrawn or regs[ERROR] != ERROR_NONE:
            return False
        if is_occupied(row):
            run_out_pre_level_timer(row)
            copy_bytes(row, spare)
            pressed = np.int64(NO_BUTTON)
            busy_frames += 1
            if busy_frames > MOST_BUSY_FRAMES:
                set_error(regs, ERROR_STUCK, busy_frames)
        elif busy_frames == 0 or not is_drawn:
            return False
        else:  # that busy frame was the last: again, with the picture
            copy_bytes(spare, row)
            is_redrawn = True


@compiled
def play(row, cartridge, canvases, shade, drawn_frames, is_game, buttons, ram_before, spare):
    """Run the frames of uint8[k] `buttons` until one terminates; return (frames run, if so).

    Draws the last `drawn_frames` of the k, frame f into canvas f & 1.
    """
    frames = len(buttons)
    for f in range(frames):
        is_drawn = f >= frames - drawn_frames
        if play_frame(
            row, cartridge, canvases[f & 1], shade, is_drawn, is_game, buttons[f], ram_before, spare
        ):
            return f + 1, True
    return frames, False


@compiled_with_arrays
def step_machines(
    states,
    before,
    numbers,
    buttons,
    frames,
    cartridge,
    shade,
    canvases,
    drawn_frames,
    is_game,
    plan,
    observation,
    ram_before,
    frames_run,
    terminated,
    taken,
    thread,
):
    """Run a step on some machines of a batch: those that this thread claims.

    Args:
        states: uint8[n, STATE_SIZE], changed.
        before: uint8[n, STATE_SIZE], becomes the states before the step.
        numbers: int64[m], the machines to step.
        buttons: uint8[n, at least frames], the buttons of each frame.
        frames: how many to run.
        cartridge: of the Rom.
        shade: uint8[64], what to draw for each colour.
        canvases: uint64[2, CANVAS_WORDS], working space; frame f is drawn into canvas f & 1.
        drawn_frames: how many of the last frames run to draw: 0, 1 or 2.
        is_game: with gym-super-mario-bros's interventions, ending at termination.
        plan: area_plan from a screen to the observation.
        observation: uint8[n, h, w], written if drawn_frames > 0 and h > 0.
        ram_before: uint8[n, 2048], the RAM after the last frame, before interventions.
        frames_run: int32[n].
        terminated: bool[n].
        taken: int64[threads], zeros, shared by all threads of this step (see share.claim).
        thread: which of them this is.
    """
    pixels = canvases.view(np.uint8).reshape(2, CANVAS_ROWS, WIDTH)
    spare = np.empty(states.shape[1], np.uint8)
    again = np.empty(states.shape[1], np.uint8)
    while True:
        m = claim(taken, len(numbers), thread)
        if m < 0:
            break
        n = numbers[m]
        copy_bytes(states[n], before[n])
        run, is_done = play(
            states[n],
            cartridge,
            canvases,
            shade,
            drawn_frames,
            is_game,
            buttons[n, :frames],
            ram_before[n],
            spare,
        )
        frames_run[n] = run
        terminated[n] = is_done
        if drawn_frames == 0:
            continue
        if run < frames:  # it ended early, before its last two frames were known: draw them now
            copy_bytes(before[n], again)
            play(
                again,
                cartridge,
                canvases,
                shade,
                drawn_frames,
                is_game,
                buttons[n, :run],
                ram_before[n],
                spare,
            )
        if observation.shape[1] > 0:
            last = (run - 1) & 1
            other = 1 - last if run > 1 and drawn_frames > 1 else last
            resize_max(pixels[other], pixels[last], plan, observation[n])
