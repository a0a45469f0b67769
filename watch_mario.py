"""Watch a policy play in a window, play yourself, record demos and play them again.

    python watch_mario.py --model runs/mine
    python watch_mario.py --human --stage 1-2 --record demos/mine.npz
    python watch_mario.py --replay demos/mine.npz --emulator nes-py --headless

Keys: Space pause, . one frame, - and + speed, Enter next episode, Esc end. Playing yourself: the
arrows, X to jump (A), Z to run (B).

--scene draws over the picture what the game says of it: tiles, objects, speeds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic

from fastnes import BUTTON_BITS
from mario_cli import UsageError, exit_code, with_stages_flag
from mario_config import EmulatorName, EnvConfig, StagesFlag, buttons_of_actions, in_process
from mario_demos import Demo, load_demo, record, replay, save_demo
from mario_files import make_folder
from mario_game import FRAMES_PER_SECOND, StageId, stages_label
from mario_judge import ProtocolName, protocol_config
from mario_policies import choose_model, load_policy, shipped_model, trained_elsewhere
from mario_reference import NesPyMarioEnv
from mario_rollout import Moment, Policy, button_names, in_stages, watch
from mario_scene_picture import ScenePainter
from mario_values import Amount, Checked, Seed, parse_flags
from mario_wrappers import FastMarioEnv

SCALE = 3  # screen px to window px
PANEL_WIDTH = 300
SPEEDS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
VALUES_SHOWN = 240  # agent steps
KEYS = ("Enter next    Esc end", "- + speed", "Space pause    . one frame")  # from the bottom up
ENDING_FRAMES = 90  # how long the end of an episode stays
UNSEEN_DRIVERS = ("dummy", "offscreen")  # SDL's, where a display is named that does not answer
OPPOSITES = (("left", "right"), ("up", "down"))  # a NES pad cannot press both


class Closed(Exception):
    """Whoever watches closed the window."""


class NextEpisode(Exception):
    """Whoever watches wants the next episode."""


class NoDisplay(OSError):
    """There is nothing to open a window on."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"no window can be opened here ({reason}): auto_update_mario_monitor.py shows the "
            "newest checkpoint playing in a browser, --headless records and replays without"
        )


@dataclasses.dataclass(frozen=True)
class WatchFlags(Checked):
    """Who plays, where, and what is kept of it."""

    model: Path | None = None
    """A model zip, a run folder or a shipped policy's folder. Unset: the shipped one."""
    human: bool = False
    """Play yourself."""
    replay: Path | None = None
    """Play a demo again; exit code 0 only if it ends as it was recorded."""
    record: Path | None = None
    """Write the best episode of those played as a demo: a clear, or the furthest."""
    stages: StagesFlag = ()
    """Other stages than the policy's own, as 1-2 (--stage 1-2 says the same); 1-1 if you play."""
    deterministic: bool = False
    """Argmax of the policy instead of samples from it."""
    protocol: ProtocolName = "noop"
    """fixed: one start; noop: 1-30 random no-ops; sticky: noop and sticky buttons at 0.25."""
    seed: Seed = 0
    """First episode's seed; the next one has the next."""
    episodes: Amount = 0
    """Episodes until the end. 0: until the window is closed; without a window, one."""
    emulator: EmulatorName = "fast"
    """fast, or nes-py, the reference."""
    speed: Annotated[float, pydantic.Field(gt=0, le=1000)] = 1.0
    """Times the game's own 60 frames a second."""
    scene: bool = False
    """Draw what the game itself says over its picture: tiles, objects and their speeds."""
    headless: bool = False
    """No window: record or replay only."""


# --------------------------------------------------------------------------------------------
# The window
# --------------------------------------------------------------------------------------------


class Window:
    """The screen, and beside it the buttons and what the policy expects; paces the game."""

    BACKGROUND, PANEL, MUTED, LIT = (11, 17, 32), (15, 23, 42), (148, 163, 184), (251, 191, 36)
    TEXT, LINE, UNLIT = (226, 232, 240), (56, 189, 248), (51, 65, 85)

    def __init__(self, title: str, speed: float = 1.0, shows_scene: bool = False) -> None:
        """Open it.

        Raises:
            NoDisplay: it cannot be opened.
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
        key = pygame
        self.button_keys = {
            **{key.K_RIGHT: "right", key.K_LEFT: "left", key.K_UP: "up", key.K_DOWN: "down"},
            **{key.K_x: "A", key.K_z: "B"},
        }

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
        for pair in OPPOSITES:
            if names.issuperset(pair):
                names.difference_update(pair)
        return sum(BUTTON_BITS[name] for name in names)

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

    def _read_keys(self) -> None:
        """Do what keys ask for."""
        pygame = self.pygame
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                raise Closed
            if event.type == pygame.KEYUP:
                self.keys.discard(event.key)
            if event.type != pygame.KEYDOWN:
                continue
            self.keys.add(event.key)
            if event.key == pygame.K_ESCAPE:
                raise Closed
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


# --------------------------------------------------------------------------------------------
# Who plays
# --------------------------------------------------------------------------------------------


class Recorder:
    """Keeps the best of the episodes played as a demo: a clear in the fewest frames, or max-x."""

    def __init__(self, path: Path | None) -> None:
        """Record to path, or nowhere; its folder is made.

        Raises:
            UsageError: the file is there already, or its folder cannot be made.
        """
        if path and path.exists():
            raise UsageError(f"{path} is there already: choose another name for --record")
        if path:
            make_folder(path.parent)
        self.path = path
        self.best: tuple[bool, int, int] | None = None

    def add(
        self,
        stage: StageId,
        pressed: Sequence[int],
        source: str,
        seed: int | None = None,
        noops: int = 0,
    ) -> None:
        """Save what was pressed in a stage, a byte a frame, if it is the best so far."""
        if self.path is None or not pressed:
            return
        demo = record(*stage, pressed, source=source, seed=seed, noops=noops)
        rank = (demo.cleared, -demo.frames if demo.cleared else 0, int(demo.x.max()))
        if self.best is None or rank > self.best:
            self.best = rank
            save_demo(self.path, demo)
            ending = "a clear" if demo.cleared else f"x {demo.x[-1]}, no clear"
            print(f"recorded {self.path}: {demo.frames} frames, {ending}")


def show_policy(
    flags: WatchFlags, window: Window | None, policy: Policy, name: str, recorder: Recorder
) -> None:
    """Play episode after episode, each with the next seed."""
    config = watched_config(flags, policy.env_config)
    actions = [button_names(int(buttons)) for buttons in buttons_of_actions(config)]
    limit = flags.episodes or (1 if window is None else None)
    seeds = itertools.count(flags.seed) if limit is None else range(flags.seed, flags.seed + limit)
    for seed in seeds:
        pressed: list[int] = []
        stage, noops = config.stages[0], 0
        if window:
            window.begin_episode()
        try:
            for moment in watch(
                policy, config, seed, deterministic=flags.deterministic, every_frame=True
            ):
                stage, noops = moment.stage, noops if moment.step else len(moment.frames)
                for frame in moment.frames:
                    pressed.append(frame.buttons)
                    if window:
                        facts = {"seed": str(seed), "step": str(moment.step), "x": str(moment.x)}
                        window.show(frame.screen, frame.buttons, facts, moment, actions, frame.ram)
            ending = f"{'cleared' if moment.flag else 'died'} at x {moment.x}, step {moment.step}"
            print(f"seed {seed}: {ending}")
            if window:
                window.ending = ending
                for _ in range(ENDING_FRAMES):
                    window.show(moment.screen, 0, facts, moment, actions)
        except NextEpisode:
            pass
        finally:
            recorder.add(stage, pressed, f"policy:{name}", seed, noops)


def watched_config(flags: WatchFlags, trained: EnvConfig) -> EnvConfig:
    """Return where a policy is watched: its own environment, but for what the flags change."""
    config = in_stages(in_process(trained, flags.emulator), flags.stages)
    return protocol_config(config, flags.protocol)


def play_human(flags: WatchFlags, window: Window, recorder: Recorder) -> None:
    """Play by keyboard, episode after episode, frame by frame."""
    stage = flags.stages[0] if flags.stages else StageId(1, 1)
    game = FastMarioEnv if flags.emulator == "fast" else NesPyMarioEnv
    env = game(*stage)
    for _ in range(flags.episodes) if flags.episodes else itertools.count():
        pressed: list[int] = []
        window.begin_episode()
        try:
            _, info = env.reset()
            window.show(env.render(), 0, human_facts(info, 0), ram=env.ram)
            terminated = False
            while not terminated:
                buttons = window.held_buttons()
                _, _, terminated, _, info = env.step(buttons)
                pressed.append(buttons)
                facts = human_facts(info, len(pressed))
                window.show(env.render(), buttons, facts, ram=env.ram)
            window.ending = "cleared!" if info["flag_get"] else f"died at x {info['x_pos']}"
            print(f"{window.ending} after {len(pressed)} frames")
            for _ in range(ENDING_FRAMES):
                window.show(env.render(), 0, human_facts(info, len(pressed)), ram=env.ram)
        except NextEpisode:
            pass
        finally:
            recorder.add(stage, pressed, "human")


def human_facts(info: dict[str, Any], frames: int) -> dict[str, str]:
    """Return what is said of a frame that a person played."""
    return {"frame": str(frames), "x": str(info["x_pos"]), "time": str(info["time"])}


def replay_demo(flags: WatchFlags, demo: Demo, window: Window | None) -> int:
    """Play a demo again; 0 if it ends as it was recorded."""

    def show(frame: int, env: FastMarioEnv | NesPyMarioEnv) -> None:
        if window:
            facts = {"frame": f"{frame + 1} of {demo.frames}", "x": str(demo.x[frame])}
            facts["by"] = demo.source[:18]
            window.show(env.render(), int(demo.buttons[frame]), facts, ram=env.ram)

    played = replay(demo, flags.emulator, show)
    if played.parted_at is not None:
        print(
            f"error: on {flags.emulator} it parts from what was recorded at frame "
            f"{played.parted_at} of {demo.frames}",
            file=sys.stderr,
        )
        return 1
    ending = "cleared" if demo.cleared else f"ended at x {demo.x[-1]}"
    print(f"{demo.frames} frames on {flags.emulator}: {ending}, as recorded")
    return 0


# --------------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------------


def run(flags: WatchFlags) -> int:
    """Do what the flags ask for."""
    if sum((flags.human, flags.replay is not None, flags.model is not None)) > 1:
        raise UsageError("--model, --human and --replay exclude each other")
    if flags.replay and flags.record:
        raise UsageError("--replay plays a demo that is there, --record makes one: not both")
    if flags.human and len(flags.stages) > 1:
        raise UsageError("--human plays one stage: name one with --stage")
    if flags.headless and flags.human:
        raise UsageError("--human needs the window")
    if flags.headless and not (flags.record or flags.replay):
        raise UsageError("--headless needs --record or --replay: there is nothing to see")
    if flags.replay:
        demo = load_demo(flags.replay)
        code = 1  # closed before its end, it has shown nothing
        with opened(flags, f"{demo.world}-{demo.stage}, recorded") as window:
            code = replay_demo(flags, demo, window)
        return code
    if flags.human:
        recorder = Recorder(flags.record)
        stages = flags.stages or (StageId(1, 1),)
        with opened(flags, f"{stages_label(stages)} by you") as window:
            assert window
            play_human(flags, window, recorder)
        return 0
    shipped = shipped_model(flags.stages[0]) if flags.stages else None
    model = choose_model(flags.model or shipped, ())
    policy = load_policy(model)
    config = watched_config(flags, policy.env_config)
    if elsewhere := trained_elsewhere(policy, config.stages):
        print(elsewhere)
    recorder = Recorder(flags.record)  # what is wrong with it is said before anything is played
    kind = "argmax" if flags.deterministic else "sampled"
    with opened(flags, f"{stages_label(config.stages)}, {kind}") as window:
        show_policy(flags, window, policy, model.stem, recorder)
    return 0


@contextlib.contextmanager
def opened(flags: WatchFlags, title: str) -> Iterator[Window | None]:
    """Open the window, if one is wanted; that it is closed ends what goes on in it."""
    window = None if flags.headless else Window(title, flags.speed, flags.scene)
    try:
        with contextlib.suppress(Closed):
            yield window
    finally:
        if window:
            window.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and watch."""
    given = sys.argv[1:] if arguments is None else arguments

    def task() -> int:
        return run(parse_flags(WatchFlags, with_stages_flag(given), __doc__))

    return exit_code(task)


if __name__ == "__main__":
    sys.exit(main())
