"""Agent steps for many machines at once."""

import os
from typing import Any

import numpy as np

from fastnes import state
from fastnes.draw import CANVAS_WORDS, HEIGHT, WIDTH
from fastnes.resize import area_plan
from fastnes.rom import Rom, packaged_rom
from fastnes.share import Workers
from fastnes.state import ERROR, RAM_SIZE, REGISTERS, STATE_SIZE, EmulationError
from fastnes.step import screen_of, step_machines
from fastnes.tables import BLACK, PALETTE_GRAY, PALETTE_INDEX, PALETTE_RGB
from fastnes.warm import warm_up

DEFAULT_FRAMES = 4
DEFAULT_SIZE = (84, 84)
DEFAULT_THREADS = 2


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
        size: tuple[int, int] = DEFAULT_SIZE,
        threads: int | None = None,
        rom: Rom | None = None,
        interventions: bool = True,
    ):
        """Switch on n machines.

        Args:
            n: how many.
            frames: frames of a step for which `step` gets one button byte per machine.
            size: height and width of an observation, at most 240x256.
            threads: default two, or as many as there are cores if fewer.
            rom: default the packaged Super Mario Bros.
            interventions: do what SuperMarioBrosEnv does after every frame (see game.py) and end
                a step at termination; else run plain frames.

        Raises:
            ValueError: n, frames, threads below 1, or a size that does not fit.
        """
        if n < 1 or frames < 1 or (threads is not None and threads < 1):
            raise ValueError(f"n={n}, frames={frames}, threads={threads}: each must be at least 1")
        self.rom = packaged_rom() if rom is None else rom
        self.n = n
        self.frames = frames
        self.size = (int(size[0]), int(size[1]))
        self.interventions = interventions
        self.threads = min(DEFAULT_THREADS, os.cpu_count() or 1) if threads is None else threads
        self._plan = area_plan(HEIGHT, WIDTH, *self.size)
        self.states = np.empty((n, STATE_SIZE), np.uint8)
        self.ram_before = np.zeros((n, RAM_SIZE), np.uint8)
        self.frames_run = np.zeros(n, np.int32)
        self.terminated = np.zeros(n, np.bool_)
        self._before = np.zeros((n, STATE_SIZE), np.uint8)
        self._buttons = np.zeros((n, frames), np.uint8)  # of the last step, for its pictures
        self._screens: dict[int, np.ndarray] = {}  # palette indices, of restored machines
        self._open()
        for row in self.states:
            state.power_on(row, self.rom.reset_vector)

    def _open(self) -> None:
        warm_up()
        self._canvases = [np.zeros((2, CANVAS_WORDS), np.uint64) for _ in range(self.threads)]
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
        self.states[i] = state.check_snapshot(snapshot)
        self.frames_run[i] = 0
        self.terminated[i] = False
        self.ram_before[i] = self.states[i, :RAM_SIZE]
        if screen is None:
            self._screens.pop(i, None)
        else:
            self._screens[i] = screen

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
            observation: uint8[n, h, w], C-contiguous, the stepped machines' rows are overwritten:
                the last two frames run in this step (one if only one was), after the game's
                interventions; gray, the brighter pixel of the two, shrunk to `size`.
            draw: False to leave `observation` alone.

        Raises:
            ValueError: shapes or types that do not fit.
            EmulationError: a machine met something unsupported.
        """
        numbers = np.arange(self.n) if indices is None else np.ascontiguousarray(indices, np.int64)
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
        if observation is None or not draw:
            drawn_frames, observation = 0, np.empty((self.n, 0, 0), np.uint8)
        else:
            drawn_frames = 2
            if observation.dtype != np.uint8 or observation.shape != (self.n, *self.size):
                raise ValueError(
                    f"observation must be uint8{[self.n, *self.size]},"
                    f" not {observation.dtype}{list(observation.shape)}"
                )
            if not observation.flags.c_contiguous:
                raise ValueError("observation must be C-contiguous")
        self._press(numbers, pressed, frames)
        self._run(numbers, frames, drawn_frames, observation)
        errors = self.states[:, REGISTERS:].view(np.int64)[:, ERROR]
        if errors.any():
            i = int(np.flatnonzero(errors)[0])
            try:
                state.check_error(self.states[i])
            except EmulationError as error:
                raise EmulationError(f"machine {i}: {error}") from None

    def _press(self, numbers: np.ndarray, pressed: np.ndarray, frames: int) -> None:
        """Set `_buttons` of a step's frames; `pressed` is as in `step`."""
        if frames > self._buttons.shape[1]:
            wider = np.zeros((self.n, frames), np.uint8)
            wider[:, : self._buttons.shape[1]] = self._buttons
            self._buttons = wider
        self._buttons[numbers, :frames] = pressed if pressed.ndim == 2 else pressed[:, None]

    def _run(
        self, numbers: np.ndarray, frames: int, drawn_frames: int, observation: np.ndarray
    ) -> None:
        threads = max(1, min(self.threads, len(numbers)))
        taken = np.zeros(threads, np.int64)

        def run_share(thread: int) -> None:
            step_machines(
                self.states,
                self._before,
                numbers,
                self._buttons,
                frames,
                self.rom.cartridge,
                PALETTE_GRAY,
                self._canvases[thread],
                drawn_frames,
                self.interventions,
                self._plan,
                observation,
                self.ram_before,
                self.frames_run,
                self.terminated,
                taken,
                thread,
            )

        self._workers.run(run_share, threads)

    def screen(self, i: int) -> np.ndarray:
        """Return machine i's screen after its last step, uint8[240, 256] palette indices.

        It is drawn when asked for, by running the last step again from the state before it.
        """
        frames = int(self.frames_run[i])
        if frames == 0:
            return self._screens.get(i, np.full((HEIGHT, WIDTH), BLACK, np.uint8)).copy()
        canvases = np.zeros((2, CANVAS_WORDS), np.uint64)
        step_machines(
            self._before[i : i + 1].copy(),
            np.empty((1, STATE_SIZE), np.uint8),
            np.zeros(1, np.int64),
            self._buttons[i : i + 1],
            frames,
            self.rom.cartridge,
            PALETTE_INDEX,
            canvases,
            1,
            self.interventions,
            self._plan,
            np.empty((1, 0, 0), np.uint8),
            np.empty((1, RAM_SIZE), np.uint8),
            np.empty(1, np.int32),
            np.empty(1, np.bool_),
            np.zeros(1, np.int64),
            0,
        )
        return screen_of(canvases[(frames - 1) & 1])

    def gray(self, i: int) -> np.ndarray:
        """Return machine i's screen, gray as nes-py's, uint8[240, 256]."""
        return PALETTE_GRAY[self.screen(i)]

    def rgb(self, i: int) -> np.ndarray:
        """Return machine i's screen in colour, uint8[240, 256, 3]."""
        return PALETTE_RGB[self.screen(i)]
