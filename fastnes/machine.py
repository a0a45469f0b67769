"""One machine, for tools and tests."""

from typing import Any

import numpy as np

from fastnes import state
from fastnes.rom import Rom, packaged_rom
from fastnes.state import RAM_SIZE
from fastnes.step import (
    new_canvases,
    new_machines,
    new_order,
    no_output,
    screen_of,
    step_machines,
)
from fastnes.tables import BLACK, PALETTE_GRAY, PALETTE_INDEX, PALETTE_RGB
from fastnes.warm import warm_up


class Machine:
    """One NES with a cartridge: plain frames, without the game's interventions.

    It can be pickled and copied; a pickle holds the screen, a snapshot does not.

    Attributes:
        ram: uint8[2048], a view; writing to it changes the machine.
        screen: uint8[240, 256], palette indices of the last drawn frame; black at first.
    """

    def __init__(self, rom: Rom | None = None):
        """Insert a cartridge (default: the packaged Super Mario Bros.) and switch on."""
        self.rom = packaged_rom() if rom is None else rom
        self._open()
        self.reset()

    def _open(self) -> None:
        warm_up()
        self._output = no_output(PALETTE_INDEX)
        self._canvases = new_canvases()
        self._machines = new_machines(1, 1)
        self.ram = self._machines.states[0, :RAM_SIZE]
        self.screen = screen_of(self._canvases[0])

    def __getstate__(self) -> dict[str, Any]:
        return {
            "rom": self.rom,
            "states": self._machines.states,
            "canvases": self._canvases,
        }

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.rom = attributes["rom"]
        self._open()
        self._machines.states[:] = attributes["states"]
        self._canvases[:] = attributes["canvases"]

    def reset(self) -> None:
        """Switch off and on: all memory is zero, the program begins at its start."""
        state.power_on(self._machines.states[0], self.rom.reset_vector)
        self.screen[:] = BLACK

    def step(self, buttons: int, frames: int = 1, draw: bool = True) -> None:
        """Run `frames` frames with the buttons held (see ram.py); draw the last if `draw`.

        Raises:
            ValueError: buttons are not a byte, or frames is below 1.
            EmulationError: the program did something unsupported.
        """
        if not 0 <= buttons <= 0xFF or frames < 1:
            raise ValueError(f"buttons={buttons} must be a byte and frames={frames} at least 1")
        if frames > self._machines.buttons.shape[1]:
            self._machines = self._machines._replace(buttons=np.zeros((1, frames), np.uint8))
        machines = self._machines
        machines.buttons[0, :frames] = buttons
        order = new_order(np.zeros(1, np.int64), frames, 1 if draw else 0, is_game=False)
        step_machines(machines, order, self.rom.cartridge, self._output, self._canvases, 0)
        state.check_error(machines.states[0])
        if draw and (frames - 1) & 1:
            self._canvases[0] = self._canvases[1]

    def gray(self) -> np.ndarray:
        """Return the screen, gray as nes-py's, uint8[240, 256]."""
        return PALETTE_GRAY[self.screen]

    def rgb(self) -> np.ndarray:
        """Return the screen in colour, uint8[240, 256, 3]."""
        return PALETTE_RGB[self.screen]

    def snapshot(self) -> np.ndarray:
        """Return the machine's state, uint8[STATE_SIZE], a copy. The screen is not in it."""
        return self._machines.states[0].copy()

    def restore(self, snapshot: np.ndarray) -> None:
        """Set the machine to a snapshot; the screen stays until the next drawn frame.

        Raises:
            SnapshotError (a ValueError): not a snapshot.
        """
        self._machines.states[0] = state.check_snapshot(snapshot)
