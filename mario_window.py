"""The window that shows a game at its own pace: keyboard and gamepad in, screen and panel out.

SDL stays on its own side: pygame is imported when a window opens, and nowhere else.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastnes import BUTTON_BITS
from mario_cli import UsageError
from mario_game import FRAMES_PER_SECOND
from mario_rollout import Moment
from mario_scene_picture import ScenePainter

SCALE = 3  # screen px to window px
PANEL_WIDTH = 300
SPEEDS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
VALUES_SHOWN = 240  # agent steps
KEYS = ("Enter next    Esc end", "- + speed", "Space pause    . one frame")  # from the bottom up
UNSEEN_DRIVERS = ("dummy", "offscreen")  # SDL's, where a display is named that does not answer
OPPOSITES = (("left", "right"), ("up", "down"))  # a NES pad cannot press both
# Z and Y change places on a German keyboard: both run.
DEFAULT_KEYS = {
    **{"right": "right", "left": "left", "up": "up", "down": "down"},
    **{"x": "A", "z": "B", "y": "B"},
}
DOES = {"left": "walk left", "right": "walk right", "up": "up", "down": "down"}
DOES |= {"A": "jump", "B": "run, fire"}
# Of a gamepad as SDL numbers its buttons: the two lower ones of four jump, the two upper ones run.
PAD_BUTTONS = {0: "A", 1: "A", 2: "B", 3: "B"}
PAD_TILT = 0.5  # of a stick, from where on it counts


class Closed(Exception):
    """Whoever watches closed the window."""


class NextEpisode(Exception):
    """Whoever watches wants the next episode."""


class NoDisplay(OSError):
    """There is nothing to open a window on."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"no window can be opened here ({reason}): `run_mario.sh monitor` plays in a "
            "browser, `run_mario.sh eval` films, --headless records and replays without"
        )


def parse_keys(pairs: Sequence[str]) -> dict[str, str]:
    """Return button by key: the usual ones, but for buttons that "A=k" and the like name.

    Raises:
        UsageError: a pair names no button, or one key plays two.
    """
    named: dict[str, str] = {}
    for pair in pairs:
        button, _, key = pair.partition("=")
        button, key = button.strip(), key.strip().lower()
        button = button.upper() if button.upper() in DOES else button.lower()
        if button not in DEFAULT_KEYS.values() or not key:
            raise UsageError(f"--keys {pair!r}: say A=k, B=j, left=a, right=d, up=w or down=s")
        if named.setdefault(key, button) != button:
            raise UsageError(f"--keys: {key} is to be both {named[key]} and {button}")
    kept = {
        key: button
        for key, button in DEFAULT_KEYS.items()
        if button not in named.values() and key not in named
    }
    return kept | named


class Window:
    """The screen, and beside it the buttons and what the policy expects; paces the game."""

    BACKGROUND, PANEL, MUTED, LIT = (11, 17, 32), (15, 23, 42), (148, 163, 184), (251, 191, 36)
    TEXT, LINE, UNLIT = (226, 232, 240), (56, 189, 248), (51, 65, 85)

    def __init__(
        self,
        title: str,
        speed: float = 1.0,
        shows_scene: bool = False,
        keys: Mapping[str, str] | None = None,
    ) -> None:
        """Open it.

        Args:
            title: what plays, above the panel and in the window's frame.
            speed: times the game's own.
            shows_scene: draw the scene of the RAM that `show` is given.
            keys: button by key, of a person who plays (`parse_keys`); the panel lists them. Unset:
                nobody plays.

        Raises:
            NoDisplay: it cannot be opened.
            UsageError: there is no such key.
        """
        displays = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
        if sys.platform == "linux" and not any(os.environ.get(name) for name in displays):
            raise NoDisplay("neither DISPLAY nor WAYLAND_DISPLAY is set")
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        import pygame  # only where there is a window: it takes SDL with it

        self.pygame = pygame
        pygame.font.init()
        try:
            pygame.display.init()
            self.surface = pygame.display.set_mode((256 * SCALE + PANEL_WIDTH, 240 * SCALE))
        except pygame.error as error:
            raise NoDisplay(str(error)) from error
        driver = pygame.display.get_driver()
        if driver in UNSEEN_DRIVERS and driver != os.environ.get("SDL_VIDEODRIVER"):
            raise NoDisplay(f"SDL has only its {driver} driver")
        pygame.display.set_caption(title)
        self.title = title
        self.speed = speed
        self.painter = ScenePainter(SCALE) if shows_scene else None
        self.is_paused = False
        self.steps_asked = 0  # frames, while it is paused
        self.ending = ""
        self.keys: set[int] = set()  # held down
        self.values: deque[float] = deque(maxlen=VALUES_SHOWN)
        self.shown_step = -1
        self.clock = pygame.time.Clock()
        self.owed_frames = 0.0  # of the window, until the game's next one is due
        self.large, self.small = pygame.font.Font(None, 30), pygame.font.Font(None, 22)
        self.button_keys = {self._code_of(key): name for key, name in (keys or {}).items()}
        self.key_lines = key_lines(keys) if keys else []
        self.is_waiting = False  # for any key
        self.pad: set[tuple[str, int]] = set()  # what is pressed of gamepads: kind, number
        self.pads: dict[int, Any] = {}  # open, by SDL's number of each
        if keys:
            pygame.joystick.init()  # from now on each that is there is said as added

    def show(
        self,
        screen: np.ndarray,
        buttons: int,
        facts: dict[str, str],
        moment: Moment | None = None,
        actions: Sequence[str] = (),
        ram: np.ndarray | None = None,
    ) -> None:
        """Show one frame of the game and wait until the next one is due.

        Args:
            screen: uint8[240, 256, 3].
            buttons: what is pressed, bits as in `mario_runtime.BUTTON_BITS`.
            facts: what else is said of the frame, by name.
            moment: the policy's view of it, if a policy plays.
            actions: the names of the policy's actions.
            ram: uint8[2048], what a scene is drawn from, if the window shows scenes.

        Raises:
            Closed, NextEpisode: keys were pressed that ask for it.
        """
        if self.painter and ram is not None:
            screen = self.painter.paint(screen, ram)
        self.owed_frames += 1 / self.speed
        is_due = self.owed_frames >= 1
        self._read_keys()
        if is_due or self.is_paused:
            self._draw(screen, buttons, facts, moment, actions)
        while self.owed_frames >= 1:
            self.clock.tick(FRAMES_PER_SECOND)
            self._read_keys()
            self.owed_frames -= 1
        while self.is_paused and not self.steps_asked:
            self.clock.tick(FRAMES_PER_SECOND)
            self._read_keys()
            self._draw(screen, buttons, facts, moment, actions)
        self.steps_asked = max(0, self.steps_asked - 1)

    def held_buttons(self) -> int:
        """Return the byte of the buttons whose keys are held down."""
        names = {self.button_keys[key] for key in self.keys if key in self.button_keys}
        names |= {PAD_NAMES[pressed] for pressed in self.pad if pressed in PAD_NAMES}
        for pair in OPPOSITES:
            if names.issuperset(pair):
                names.difference_update(pair)
        return sum(BUTTON_BITS[name] for name in names)

    def wait_for_key(self, screen: np.ndarray, facts: dict[str, str], text: str) -> None:
        """Show a picture and a text until any key, or a button of a gamepad, is pressed.

        Raises:
            Closed: it was Esc, or the window was closed.
        """
        before, self.ending, self.is_waiting = self.ending, text, True
        try:
            while not (self.keys or self.pad):
                self._read_keys()
                self._draw(screen, 0, facts, None, ())
                self.clock.tick(FRAMES_PER_SECOND)
        finally:
            self.ending, self.is_waiting = before, False

    def begin_episode(self) -> None:
        """Forget the values and the end of the episode before."""
        self.values.clear()
        if self.painter:
            self.painter = ScenePainter(SCALE)
        self.shown_step = -1
        self.ending = ""

    def close(self) -> None:
        """Close it."""
        self.pygame.quit()

    def _code_of(self, key: str) -> int:
        """Return SDL's number of a key as people call it."""
        try:
            return int(self.pygame.key.key_code(key))
        except ValueError:
            self.pygame.quit()
            raise UsageError(
                f"--keys: there is no key {key!r} (as: k, space, left shift)"
            ) from None

    def _read_keys(self) -> None:
        """Do what keys ask for."""
        pygame = self.pygame
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                raise Closed
            self._read_pad(event)
            if event.type == pygame.KEYUP:
                self.keys.discard(event.key)
            if event.type != pygame.KEYDOWN:
                continue
            self.keys.add(event.key)
            if event.key == pygame.K_ESCAPE:
                raise Closed
            if event.key in self.button_keys or self.is_waiting:
                continue
            if event.key == pygame.K_RETURN:
                raise NextEpisode
            if event.key == pygame.K_SPACE:
                self.is_paused = not self.is_paused
            elif event.key == pygame.K_PERIOD:
                self.steps_asked += self.is_paused  # the first one pauses
                self.is_paused = True
            elif event.key in (pygame.K_MINUS, pygame.K_KP_MINUS):
                self.speed = max((s for s in SPEEDS if s < self.speed), default=SPEEDS[0])
            elif event.key in (pygame.K_PLUS, pygame.K_EQUALS, pygame.K_KP_PLUS):
                self.speed = min((s for s in SPEEDS if s > self.speed), default=SPEEDS[-1])

    def _read_pad(self, event: Any) -> None:
        """Note what an event says of a gamepad."""
        pygame = self.pygame
        if event.type == pygame.JOYDEVICEADDED and self.button_keys:
            pad = pygame.joystick.Joystick(event.device_index)
            self.pads[pad.get_instance_id()] = pad
        elif event.type == pygame.JOYDEVICEREMOVED:
            self.pads.pop(event.instance_id, None)
            self.pad.clear()
        elif event.type == pygame.JOYBUTTONDOWN:
            self.pad.add(("button", event.button))
        elif event.type == pygame.JOYBUTTONUP:
            self.pad.discard(("button", event.button))
        elif event.type == pygame.JOYAXISMOTION and event.axis < 2:
            self._tilt(("axis", event.axis), event.value)
        elif event.type == pygame.JOYHATMOTION:
            for axis, value in enumerate((event.value[0], -event.value[1])):
                self._tilt(("hat", axis), value)

    def _tilt(self, which: tuple[str, int], value: float) -> None:
        """Note where a stick or a cross of a gamepad stands: -1 is left or up."""
        kind, axis = which
        for number, is_held in ((2 * axis, value < -PAD_TILT), (2 * axis + 1, value > PAD_TILT)):
            (self.pad.add if is_held else self.pad.discard)((kind, number))

    # -- drawing -------------------------------------------------------------------------------

    def _draw(
        self,
        screen: np.ndarray,
        buttons: int,
        facts: dict[str, str],
        moment: Moment | None,
        actions: Sequence[str],
    ) -> None:
        pygame = self.pygame
        picture = pygame.surfarray.make_surface(screen.swapaxes(0, 1))
        size = (256 * SCALE, 240 * SCALE)
        self.surface.blit(pygame.transform.scale(picture, size), (0, 0))
        if self.ending:
            self._write(self.ending, 256 * SCALE // 2, 40, self.LIT, self.large, center=True)
        left = 256 * SCALE
        self.surface.fill(self.PANEL, (left, 0, PANEL_WIDTH, 240 * SCALE))
        left += 20
        self._write(self.title, left, 18, self.TEXT, self.large)
        for i, (name, text) in enumerate({**facts, "speed": self._speed_text()}.items()):
            self._write(name, left, 56 + 24 * i, self.MUTED)
            self._write(text, left + 90, 56 + 24 * i, self.TEXT)
        self._draw_pad(buttons, left, 200)
        if moment is not None:
            self._draw_policy(moment, actions, left, 330)
        for i, (key, does) in enumerate(self.key_lines):
            self._write(key, left, 330 + 26 * i, self.TEXT)
            self._write(does, left + 130, 330 + 26 * i, self.MUTED)
        for i, text in enumerate(KEYS):
            self._write(text, left, 240 * SCALE - 26 - 22 * i, self.MUTED)
        pygame.display.flip()

    def _speed_text(self) -> str:
        return "paused" if self.is_paused else f"{self.speed:g} x"

    def _write(
        self,
        text: str,
        x: int,
        y: int,
        color: tuple[int, int, int],
        font: Any = None,
        center: bool = False,
    ) -> None:
        written = (font or self.small).render(text, True, color)
        self.surface.blit(written, (x - written.get_width() // 2 * center, y))

    def _draw_pad(self, buttons: int, left: int, top: int) -> None:
        """A NES pad with the pressed buttons lit."""
        draw = self.pygame.draw

        def color(name: str) -> tuple[int, int, int]:
            return self.LIT if buttons & BUTTON_BITS[name] else self.UNLIT

        places = {"up": (34, 0), "left": (0, 34), "right": (68, 34), "down": (34, 68)}
        for name, (x, y) in places.items():
            draw.rect(self.surface, color(name), (left + x, top + y, 32, 32), border_radius=4)
        for name, x in (("B", 160), ("A", 220)):
            draw.circle(self.surface, color(name), (left + x, top + 50), 24)
            self._write(name, left + x, top + 42, self.BACKGROUND, self.large, center=True)

    def _draw_policy(self, moment: Moment, actions: Sequence[str], left: int, top: int) -> None:
        """What the policy will do, and the value so far."""
        draw, width = self.pygame.draw, PANEL_WIDTH - 40
        for i, (name, share) in enumerate(zip(actions, moment.probabilities, strict=True)):
            y = top + i * 210 // max(len(actions), 7)
            draw.rect(self.surface, self.UNLIT, (left + 120, y + 2, width - 120, 10))
            draw.rect(
                self.surface, self.LINE, (left + 120, y + 2, float(share) * (width - 120), 10)
            )
            self._write(name or "nothing", left, y, self.TEXT)
        if moment.value is None:
            return
        if moment.step != self.shown_step:  # a moment is drawn once a frame
            self.shown_step = moment.step
            self.values.append(moment.value)
        self._write("value", left, top + 222, self.MUTED)
        self._write(f"{moment.value:+.2f}", left + 90, top + 222, self.TEXT)
        low, high = min(0.0, *self.values), max(1e-6, *self.values)
        line = [
            (left + width * i / len(self.values), top + 300 - 50 * (value - low) / (high - low))
            for i, value in enumerate(self.values)
        ]
        if len(line) > 1:
            draw.aalines(self.surface, self.LINE, False, line)


def key_lines(keys: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the keys of each button, and what it does, as the panel lists them."""
    lines = []
    for name, does in DOES.items():
        held = [key.upper() if len(key) == 1 else key for key, of in keys.items() if of == name]
        if held:
            lines.append((" or ".join(held), does))
    return [*lines, ("a gamepad", "plays too")]


PAD_NAMES = {("button", number): name for number, name in PAD_BUTTONS.items()} | {
    (kind, number): name
    for kind in ("axis", "hat")
    for number, name in enumerate(("left", "right", "up", "down"))
}
