"""Agent steps for many machines at once."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastnes import state
from fastnes.draw import HEIGHT, WIDTH
from fastnes.resize import area_plan
from fastnes.rom import Rom, packaged_rom
from fastnes.share import Workers
from fastnes.state import ERROR, RAM_SIZE, REGISTERS, STATE_SIZE, EmulationError, SnapshotError
from fastnes.step import (
    NO_TONES,
    Output,
    new_canvases,
    new_machines,
    new_order,
    no_output,
    screen_of,
    step_machines,
)
from fastnes.tables import BLACK, PALETTE_GRAY, PALETTE_INDEX, PALETTE_RGB
from fastnes.warm import warm_up

TONES_RGB = np.ascontiguousarray(PALETTE_RGB.T)  # uint8[3, 64]

DEFAULT_FRAMES = 4
DEFAULT_THREADS = 2


class View(NamedTuple):
    """What an observation shows of the screen."""

    size: tuple[int, int] = (84, 84)  # height and width, at most those of what it is made from
    rows: tuple[int, int] = (0, HEIGHT)  # of the screen: the first, and the one after the last


def bytes_of_rows(array: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the memory that [n, h, w] spans as one flat view, and the bytes from row to row.

    The compiled step takes pictures in this form: one type, so compiled once, wherever they go.

    Raises:
        ValueError: the rows [h, w] are not C-contiguous, or they overlap or run backwards.
    """
    size = array[0].size
    if array.flags.c_contiguous:
        return array.reshape(-1), size
    stride = array.strides[0]
    if not array[0].flags.c_contiguous or stride < size:
        raise ValueError("observation must have C-contiguous rows [h, w], one after the other")
    span = (len(array) - 1) * stride + size
    return np.lib.stride_tricks.as_strided(array, (span,), (1,)), stride


class BatchMachine:
    """n machines with one cartridge, stepped together on several threads.

    Attributes:
        states: uint8[n, STATE_SIZE], the machines; a row copied is a snapshot.
        ram_before: uint8[n, 2048], RAM at the end of the last frame run, before the game's
            interventions: what info and termination are read from.
        frames_run: int32[n], frames run in the last step; fewer than asked if terminated.
        terminated: bool[n], whether the last step ended in death or at the flag.
    """

    def __init__(
        self,
        n: int,
        *,
        frames: int = DEFAULT_FRAMES,
        view: View | None = None,
        threads: int | None = None,
        rom: Rom | None = None,
        interventions: bool = True,
    ):
        """Switch on n machines.

        Args:
            n: how many.
            frames: frames of a step for which `step` gets one button byte per machine.
            view: what an observation shows; default 84 x 84 of the whole screen.
            threads: default two, or as many as there are cores if fewer.
            rom: default the packaged Super Mario Bros.
            interventions: do what SuperMarioBrosEnv does after every frame (see game.py) and end
                a step at termination; else run plain frames.

        Raises:
            ValueError: n, frames, threads below 1, or a view that does not fit.
        """
        size, rows = view or View()
        top, bottom = rows
        if not 0 <= top < bottom <= HEIGHT:
            raise ValueError(f"rows {rows} are none of a screen of {HEIGHT}")
        if n < 1 or frames < 1 or (threads is not None and threads < 1):
            raise ValueError(f"n={n}, frames={frames}, threads={threads}: each must be at least 1")
        self.rom = packaged_rom() if rom is None else rom
        self.n = n
        self.frames = frames
        self.size = (int(size[0]), int(size[1]))
        self.interventions = bool(interventions)
        self.threads = min(DEFAULT_THREADS, os.cpu_count() or 1) if threads is None else threads
        self._plan = area_plan(bottom - top, WIDTH, *self.size, top)
        self._no_output = Output(PALETTE_GRAY, self._plan, np.zeros(0, np.uint8), 0, NO_TONES)
        self._machines = new_machines(n, frames)
        self.states = self._machines.states
        self.ram_before = self._machines.ram_before
        self.frames_run = self._machines.frames_run
        self.terminated = self._machines.terminated
        self._screens: dict[int, np.ndarray] = {}  # palette indices, of restored machines
        self._shows_nothing = np.zeros(n, bool)  # set by `load`: its last step cannot be run again
        self._open()
        for row in self.states:
            state.power_on(row, self.rom.reset_vector)

    def _open(self) -> None:
        warm_up()
        self._canvases = [new_canvases() for _ in range(self.threads)]
        self._workers = Workers(self.threads)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the threads and their working space."""
        attributes = self.__dict__.copy()
        for name in ("_workers", "_canvases"):
            del attributes[name]
        return attributes

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.__dict__.update(attributes)
        self._open()

    def snapshot(self, i: int) -> np.ndarray:
        """Return machine i's state, uint8[STATE_SIZE], a copy."""
        return self.states[i].copy()

    def restore(self, i: int, snapshot: np.ndarray, screen: np.ndarray | None = None) -> None:
        """Set machine i to a snapshot.

        Args:
            i: the machine.
            snapshot: uint8[STATE_SIZE].
            screen: uint8[240, 256] palette indices, what `gray` and `rgb` show until the machine
                is stepped; default black, as a snapshot holds no screen.

        Raises:
            SnapshotError: not a snapshot.
        """
        row = np.asarray(snapshot)
        self.restore_many([i], row[None], [screen])

    def restore_many(
        self,
        indices: Sequence[int] | np.ndarray,
        snapshots: np.ndarray,
        screens: Sequence[np.ndarray | None] | np.ndarray | None = None,
    ) -> None:
        """Set machines to snapshots, all at once.

        Args:
            indices: int[m], the machines.
            snapshots: uint8[m, STATE_SIZE].
            screens: one for each, as in `restore`; default all black.

        Raises:
            SnapshotError: not snapshots.
            ValueError: not as many screens, or snapshots, as machines.
        """
        numbers = np.asarray(indices, np.int64)
        rows = np.asarray(snapshots)
        if rows.dtype != np.uint8 or rows.shape != (len(numbers), STATE_SIZE):
            raise SnapshotError(
                f"{len(numbers)} snapshots are uint8{[len(numbers), STATE_SIZE]},"
                f" not {rows.dtype}{list(rows.shape)}"
            )
        state.check_snapshots(rows)
        self.states[numbers] = rows
        self.frames_run[numbers] = 0
        self.terminated[numbers] = False
        self._shows_nothing[numbers] = False
        self.ram_before[numbers] = rows[:, :RAM_SIZE]
        shown = [None] * len(numbers) if screens is None else screens
        for i, screen in zip(numbers.tolist(), shown, strict=True):
            if screen is None:
                self._screens.pop(i, None)
            else:
                self._screens[i] = screen

    def load(
        self,
        states: np.ndarray,
        ram_before: np.ndarray,
        frames_run: np.ndarray,
        terminated: np.ndarray,
    ) -> None:
        """Set all machines, and what their last step was, to what these attributes once were.

        Until the next step, `screen` shows a black picture: what was drawn is not known.

        Raises:
            SnapshotError: not snapshots.
            ValueError: arrays of another shape or type, or negative frames.
        """
        given = {"ram_before": ram_before, "frames_run": frames_run, "terminated": terminated}
        for name, array in given.items():
            own = getattr(self, name)
            if np.shape(array) != own.shape or np.asarray(array).dtype != own.dtype:
                raise ValueError(f"{name} is {own.dtype}{list(own.shape)} here")
        if (np.asarray(frames_run) < 0).any():
            raise ValueError("a step of fewer than no frames")
        self.restore_many(np.arange(self.n), states)
        self.ram_before[...] = ram_before
        self.terminated[...] = terminated
        self._shows_nothing[:] = True
        self.frames_run[...] = frames_run

    def step(
        self,
        buttons: np.ndarray,
        *,
        indices: np.ndarray | None = None,
        observation: np.ndarray | None = None,
        draw: bool = True,
    ) -> None:
        """Run a step; results are in `ram_before`, `frames_run`, `terminated`.

        Args:
            buttons: uint8[m], held for `frames` frames, or uint8[m, k], one for each of k frames;
                m is n, or the number of indices.
            indices: the machines to step, each at most once; default all.
            observation: uint8[n, h, w], or uint8[n, 3, h, w] in colour; the stepped machines' rows
                are overwritten: the last two frames run in this step (one if only one was), after
                the game's interventions; the brighter of the two in each pixel of each plane,
                shrunk to `size`. A row is C-contiguous, the rows may lie apart: `stack[:, -1]` of
                a frame stack uint8[n, k, h, w] is filled in place, without a copy.
            draw: False to leave `observation` alone.

        Raises:
            ValueError: shapes or types that do not fit.
            EmulationError: a machine met something unsupported.
        """
        numbers = np.arange(self.n) if indices is None else np.array(indices, np.int64)
        pressed = np.asarray(buttons)
        if pressed.dtype != np.uint8:
            raise ValueError(f"buttons are uint8, not {pressed.dtype}")
        frames = self.frames if pressed.ndim == 1 else pressed.shape[-1]
        if pressed.ndim not in (1, 2) or len(pressed) != len(numbers) or frames < 1:
            raise ValueError(
                f"buttons of shape {pressed.shape} for {len(numbers)} machines: give [m] or [m, k]"
            )
        if indices is not None:
            if len(numbers) and not (0 <= numbers.min() and numbers.max() < self.n):
                raise ValueError(f"indices must be from 0 to {self.n - 1}")
            if len(np.unique(numbers)) != len(numbers):
                raise ValueError("indices must not repeat")
        output = self._no_output
        if observation is not None and draw:
            gray, colour = (self.n, *self.size), (self.n, 3, *self.size)
            if observation.dtype != np.uint8 or observation.shape not in (gray, colour):
                raise ValueError(
                    f"observation must be uint8{list(gray)} or, in colour, {list(colour)},"
                    f" not {observation.dtype}{list(observation.shape)}"
                )
            if not observation.flags.writeable:
                raise ValueError("observation must be writeable")
            is_gray = observation.shape == gray
            shade, tones = (PALETTE_GRAY, NO_TONES) if is_gray else (PALETTE_INDEX, TONES_RGB)
            output = Output(shade, self._plan, *bytes_of_rows(observation), tones)
        self._press(numbers, pressed, frames)
        self._run(numbers, frames, output)
        errors = self.states[:, REGISTERS:].view(np.int64)[:, ERROR]
        if errors.any():
            i = int(np.flatnonzero(errors)[0])
            try:
                state.check_error(self.states[i])
            except EmulationError as error:
                raise EmulationError(f"machine {i}: {error}") from None

    def _press(self, numbers: np.ndarray, pressed: np.ndarray, frames: int) -> None:
        """Set the buttons of a step's frames; `pressed` is as in `step`."""
        buttons = self._machines.buttons
        if frames > buttons.shape[1]:
            buttons = np.pad(buttons, ((0, 0), (0, frames - buttons.shape[1])))
            self._machines = self._machines._replace(buttons=buttons)
        self._shows_nothing[numbers] = False
        buttons[numbers, :frames] = pressed if pressed.ndim == 2 else pressed[:, None]

    def _run(self, numbers: np.ndarray, frames: int, output: Output) -> None:
        threads = max(1, min(self.threads, len(numbers)))
        drawn_frames = 0 if output is self._no_output else 2
        order = new_order(numbers, frames, drawn_frames, self.interventions, threads)

        def run_share(thread: int) -> None:
            canvases = self._canvases[thread]
            step_machines(self._machines, order, self.rom.cartridge, output, canvases, thread)

        self._workers.run(run_share, threads)

    def screen(self, i: int) -> np.ndarray:
        """Return machine i's screen after its last step, uint8[240, 256] palette indices.

        It is drawn when asked for, by running the last step again from the state before it.
        """
        return self._last_screens(i, 1)[0]

    def last_two(self, i: int) -> np.ndarray:
        """Return the screens that machine i's observation is made of, newest first.

        uint8[2, 240, 256] palette indices; the same one twice if there was only one.
        """
        return self._last_screens(i, 2)

    def _last_screens(self, i: int, count: int) -> np.ndarray:
        """Return machine i's last one or two screens, uint8[count, 240, 256], newest first."""
        frames = int(self.frames_run[i])
        if frames == 0 or self._shows_nothing[i]:
            shown = self._screens.get(i, np.full((HEIGHT, WIDTH), BLACK, np.uint8))
            return np.stack([shown] * count)
        again = new_machines(1, frames)
        again.states[0] = self._machines.before[i]
        again.buttons[0] = self._machines.buttons[i, :frames]
        order = new_order(np.zeros(1, np.int64), frames, count, self.interventions)
        output, canvases = no_output(PALETTE_INDEX), new_canvases()
        step_machines(again, order, self.rom.cartridge, output, canvases, 0)
        numbers = [frames - 1 - back for back in range(min(count, frames))]
        screens = [screen_of(canvases[number & 1]) for number in numbers]
        return np.stack((screens * count)[:count])

    def gray(self, i: int) -> np.ndarray:
        """Return machine i's screen, gray as nes-py's, uint8[240, 256]."""
        return PALETTE_GRAY[self.screen(i)]

    def rgb(self, i: int) -> np.ndarray:
        """Return machine i's screen in colour, uint8[240, 256, 3]."""
        return PALETTE_RGB[self.screen(i)]
