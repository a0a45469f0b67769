"""The compiled step: frames, the game's interventions, and the observation."""

from typing import NamedTuple

import numpy as np

from fastnes.bus import set_error
from fastnes.compiled import compiled, compiled_with_arrays
from fastnes.draw import CANVAS_ROWS, CANVAS_WORDS, HEIGHT, SCREEN_WORDS, WIDTH, Video
from fastnes.frame import run_frame
from fastnes.game import is_occupied, is_terminated, run_out_pre_level_timer, skip_change_area
from fastnes.ram import NO_BUTTON
from fastnes.resize import AreaPlan, area_plan, resize_max
from fastnes.share import claim
from fastnes.state import ERROR, ERROR_NONE, ERROR_STUCK, RAM_SIZE, REGISTERS, STATE_SIZE

# The longest wait in the game (the end of a world) is some 1,500 frames.
MOST_BUSY_FRAMES = 20_000

NO_TONES = np.zeros((0, 64), np.uint8)


class Machines(NamedTuple):
    """Machines and what their last step was: arrays with a row for each of n machines."""

    states: np.ndarray  # uint8[n, STATE_SIZE]
    before: np.ndarray  # uint8[n, STATE_SIZE], the states before the step
    buttons: np.ndarray  # uint8[n, most frames], of each frame of the step
    ram_before: np.ndarray  # uint8[n, 2048], RAM after the last frame, before interventions
    frames_run: np.ndarray  # int32[n], fewer than asked if terminated
    terminated: np.ndarray  # bool[n]


class Order(NamedTuple):
    """What all threads are to do in a step."""

    numbers: np.ndarray  # int64[m], the machines to step
    frames: int  # how many to run
    drawn_frames: int  # how many of the last frames run to draw: 0, 1 or 2
    is_game: bool  # with gym-super-mario-bros's interventions, ending at termination
    taken: np.ndarray  # int64[threads], zeros (see share.claim)


class Output(NamedTuple):
    """Where the shrunk pictures go, and how they are made."""

    shade: np.ndarray  # uint8[64], what to draw for each colour
    plan: AreaPlan  # from a screen to a picture
    pixels: np.ndarray  # uint8[size], machine i's picture begins at i * stride; empty: none
    stride: int
    tones: np.ndarray  # uint8[p, 64], what each of p planes shows of what is drawn; p = 0: itself


class Rows(NamedTuple):
    """One machine's rows, and one to work in."""

    state: np.ndarray  # uint8[STATE_SIZE]
    ram_before: np.ndarray  # uint8[2048]
    spare: np.ndarray  # uint8[STATE_SIZE]


class Pictures(NamedTuple):
    """How the frames of a step are drawn."""

    canvases: np.ndarray  # uint64[2, CANVAS_WORDS]
    shade: np.ndarray  # uint8[64]
    drawn_frames: int  # how many of the last frames


def new_machines(n: int, frames: int) -> Machines:
    """Return n machines, all memory zero (see state.power_on), for steps of so many frames."""
    return Machines(
        np.zeros((n, STATE_SIZE), np.uint8),
        np.zeros((n, STATE_SIZE), np.uint8),
        np.zeros((n, frames), np.uint8),
        np.zeros((n, RAM_SIZE), np.uint8),
        np.zeros(n, np.int32),
        np.zeros(n, np.bool_),
    )


def new_order(
    numbers: np.ndarray, frames: int, drawn_frames: int, is_game: bool, threads: int = 1
) -> Order:
    """Return an order that nobody has begun; the arguments are as in `Order`."""
    return Order(numbers, frames, drawn_frames, is_game, np.zeros(threads, np.int64))


def no_output(shade: np.ndarray) -> Output:
    """Return the output of a step that draws with `shade` and shrinks nothing."""
    return Output(shade, area_plan(HEIGHT, WIDTH, 1, 1), np.zeros(0, np.uint8), 0, NO_TONES)


def new_canvases() -> np.ndarray:
    """Return what a thread draws into: uint64[2, CANVAS_WORDS], black at first."""
    return np.zeros((2, CANVAS_WORDS), np.uint64)


def screen_of(canvas: np.ndarray) -> np.ndarray:
    """Return the picture uint8[240, 256] in a canvas uint64[CANVAS_WORDS], a view."""
    return canvas[:SCREEN_WORDS].view(np.uint8).reshape(HEIGHT, WIDTH)


@compiled
def copy_bytes(source, target):
    """Copy uint8[len(target)] (Numba's slice assignment takes seconds more to compile)."""
    for i in range(len(target)):
        target[i] = source[i]


@compiled
def brighter_tones(first, second, tones, out):
    """Set uint8[h, w] `out` to the brighter of two screens in the tones uint8[64] of one plane."""
    for y in range(len(out)):
        a, b, row = first[y], second[y], out[y]
        for x in range(len(row)):
            row[x] = max(tones[a[x]], tones[b[x]])


@compiled
def play_frame(rows, cartridge, video, buttons, is_game):
    """Run one frame and what the game's environment does after it; return if it terminated.

    The canvas then shows the last frame, which may be one of a busy game that was skipped.
    """
    row = rows.state
    regs = row[REGISTERS:].view(np.int64)
    pressed = np.int64(buttons)
    busy_frames = 0
    is_redrawn = False
    while True:  # one place that runs a frame: each costs half a minute of compiling
        is_shown = video.is_drawn and (busy_frames == 0 or is_redrawn)
        shown = Video(video.chr_rom, video.canvas, video.shade, is_shown)
        run_frame(row, regs, cartridge, shown, pressed)
        if busy_frames == 0:
            copy_bytes(row, rows.ram_before)
            if not is_game:
                return False
            if is_terminated(row):
                return True
            skip_change_area(row)
        if is_redrawn or regs[ERROR] != ERROR_NONE:
            return False
        if is_occupied(row):
            run_out_pre_level_timer(row)
            copy_bytes(row, rows.spare)
            pressed = np.int64(NO_BUTTON)
            busy_frames += 1
            if busy_frames > MOST_BUSY_FRAMES:
                set_error(regs, ERROR_STUCK, busy_frames)
        elif busy_frames == 0 or not video.is_drawn:
            return False
        else:  # that busy frame was the last: again, with the picture
            copy_bytes(rows.spare, row)
            is_redrawn = True


@compiled
def play(rows, cartridge, pictures, buttons, is_game):
    """Run the frames of uint8[k] `buttons` until one terminates; return (frames run, if so).

    Draws the last `pictures.drawn_frames` of the k, frame f into canvas f & 1.
    """
    frames = len(buttons)
    for f in range(frames):
        is_drawn = f >= frames - pictures.drawn_frames
        video = Video(cartridge.chr_rom, pictures.canvases[f & 1], pictures.shade, is_drawn)
        if play_frame(rows, cartridge, video, buttons[f], is_game):
            return f + 1, True
    return frames, False


@compiled_with_arrays
def step_machines(machines, order, cartridge, output, canvases, thread):
    """Run a step on some machines of a batch: those that this thread claims.

    Args:
        machines: Machines, changed.
        order: Order, shared by all threads of this step.
        cartridge: of the Rom.
        output: Output; its pictures are written if frames are drawn: the brighter pixel of the
            last two frames run (the last alone if only one was run or drawn).
        canvases: new_canvases() of this thread; frame f is drawn into canvas f & 1.
        thread: its number.
    """
    pixels = canvases.view(np.uint8).reshape(2, CANVAS_ROWS, WIDTH)
    spare = np.empty(machines.states.shape[1], np.uint8)
    again = np.empty(machines.states.shape[1], np.uint8)
    pictures = Pictures(canvases, output.shade, order.drawn_frames)
    size = len(output.plan.first_y) * output.plan.weight_x.shape[1]
    toned = np.zeros((CANVAS_ROWS, WIDTH), np.uint8)
    while True:
        m = claim(order.taken, len(order.numbers), thread)
        if m < 0:
            break
        n = order.numbers[m]
        state, ram_before = machines.states[n], machines.ram_before[n]
        buttons = machines.buttons[n, : order.frames]
        copy_bytes(state, machines.before[n])
        rows = Rows(state, ram_before, spare)
        run, is_done = play(rows, cartridge, pictures, buttons, order.is_game)
        machines.frames_run[n] = run
        machines.terminated[n] = is_done
        if order.drawn_frames == 0:
            continue
        if run < order.frames:  # ended before its last two frames were known: draw them now
            copy_bytes(machines.before[n], again)
            rows = Rows(again, ram_before, spare)
            play(rows, cartridge, pictures, buttons[:run], order.is_game)
        if len(output.pixels) > 0:
            last = (run - 1) & 1
            other = 1 - last if run > 1 and order.drawn_frames > 1 else last
            for plane in range(max(len(output.tones), 1)):
                first, second = pixels[other], pixels[last]
                if len(output.tones) > 0:
                    brighter_tones(first, second, output.tones[plane], toned)
                    first, second = toned, toned
                begin = n * output.stride + plane * size
                resize_max(first, second, output.plan, output.pixels[begin : begin + size])
