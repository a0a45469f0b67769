"""Demos: where an episode starts and what is pressed, in a file of a few KB that checks itself.

The emulator has no randomness, so the buttons are the whole of an episode. A demo holds one button
byte a frame, and beside it Mario's x and a checksum of RAM after every frame, by which `replay`
says on either emulator at which frame it parted from what was recorded. A frame is one step of
`FastMarioEnv` or `NesPyMarioEnv`: an emulated frame and gym-super-mario-bros's interventions.

    demo = record(1, 1, buttons, source="human")
    save_demo(Path("demos/1-1.npz"), demo)
    replay(load_demo(Path("demos/1-1.npz")), "nes-py").parted_at   # None
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastnes import packaged_rom
from fastnes.ram import STAGE, WORLD
from fastnes.state import STATE_SIZE, check_snapshot
from mario_cli import UsageError
from mario_config import EmulatorName, EnvConfig
from mario_files import BROKEN_ARCHIVE, MEMBER, BadFile, parse_npy, read_archive, read_file
from mario_game import STAGES, StageId, facts_of_info, has_cleared, stages_text
from mario_reference import NesPyMarioEnv
from mario_runs import atomic_write
from mario_runtime import MarioVectorEnv
from mario_starts import StageStarts, Start
from mario_wrappers import BrokenGame, FastMarioEnv

AGENT_FRAMES = 4  # frames of an agent step, in which a demo's length is counted
FORMAT = 1
MAX_FRAMES = 60 * 60 * 60  # an hour of play: no stage's clock lasts a tenth of it
MAX_FILE_BYTES = 8 * MAX_FRAMES + 65536  # 7 bytes a frame, a start and a header

# The arrays of a file, each as <name>.npy, and their types.
ARRAYS = {
    "header": "|u1",  # JSON: every field of Demo that is not an array, and the format's number
    "start": "|u1",  # a snapshot, or empty
    "buttons": "|u1",
    "x": "<u2",
    "ram_crc": "<u4",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Demo:
    """An episode, or the part of one that was recorded."""

    world: int
    stage: int
    buttons: np.ndarray  # uint8[frames], bits as in `fastnes.BUTTON_BITS`
    x: np.ndarray  # uint16[frames], Mario's x in px after each frame
    ram_crc: np.ndarray  # uint32[frames], CRC-32 of the 2,048 bytes of RAM after each frame
    cleared: bool  # it ends on this stage's own flag pole or axe
    source: str  # "search", "human" or "policy:<model>"
    seed: int | None = None  # of the search, or of the policy's episode
    noops: int = 0  # the first so many frames are an episode's random no-ops; part of `buttons`
    start: np.ndarray | None = None  # fastnes snapshot, uint8[STATE_SIZE]; None: the stage's start
    rom_sha256: str = dataclasses.field(default_factory=lambda: packaged_rom().sha256)

    @property
    def frames(self) -> int:
        """Emulated frames."""
        return len(self.buttons)

    @property
    def agent_steps(self) -> int:
        """Agent steps of 4 frames after the no-ops, the last one perhaps cut short by the end."""
        return -(-(self.frames - self.noops) // AGENT_FRAMES)


class Playback(NamedTuple):
    """How a demo went when it was played again."""

    parted_at: int | None
    """Index of the first frame after which x, RAM or the episode's end is not as recorded."""
    cleared: bool
    frames: int
    """Frames played; a replay stops where it parts."""


class Waypoint(NamedTuple):
    """A place along a demo, from which an episode can start."""

    frame: int
    """Frames of the demo played before it."""
    state: np.ndarray
    """fastnes snapshot, uint8[STATE_SIZE]."""
    screen: np.ndarray
    """What is seen there, uint8[240, 256] palette indices, for `BatchMachine.restore`."""


class _Frame(NamedTuple):
    """What a frame led to."""

    x: int
    ram_crc: int
    terminated: bool
    cleared: bool


def _open_game(
    world: int, stage: int, start: np.ndarray | None, emulator: EmulatorName
) -> FastMarioEnv | NesPyMarioEnv:
    """Return the game at a demo's start."""
    if emulator == "nes-py":
        if start is not None:
            raise UsageError("this demo starts from a snapshot, which --emulator fast alone loads")
        reference = NesPyMarioEnv(world, stage)
        reference.reset()
        return reference
    env = FastMarioEnv(world, stage)
    env.reset()
    if start is not None:
        env.machine.restore(0, start)
    return env


def _press(env: FastMarioEnv | NesPyMarioEnv, buttons: int, world: int, stage: int) -> _Frame:
    """Run one frame. A flag counts on the demo's own stage: a warp's does not."""
    try:
        _, _, terminated, _, info = env.step(buttons)
    except BrokenGame as error:
        raise UsageError(f"the demo of {world}-{stage} does not play: {error}") from error
    return _Frame(
        x=info["x_pos"],
        ram_crc=zlib.crc32(np.ascontiguousarray(env.ram)),
        terminated=bool(terminated),
        cleared=bool(has_cleared(facts_of_info(info), world, stage)[0]),
    )


def record(
    world: int,
    stage: int,
    buttons: Sequence[int] | np.ndarray,
    *,
    source: str,
    seed: int | None = None,
    noops: int = 0,
    start: np.ndarray | None = None,
) -> Demo:
    """Return the demo of buttons that were pressed; they are played once more to fill it in.

    Args:
        world: 1-8.
        stage: 1-4.
        buttons: one byte per emulated frame since the start, no-ops included; what comes after
            the episode's end is left out.
        source: who pressed them: "search", "human" or "policy:<model>".
        seed: of the search, or of the policy's episode.
        noops: how many of the first frames were an episode's random no-ops.
        start: fastnes snapshot that it started from. None: the stage's own start, where
            `env.reset()` puts Mario before any no-op.

    Raises:
        UsageError: no such stage, or no frames.
    """
    if (world, stage) not in STAGES:
        raise UsageError(f"no stage {world}-{stage}; worlds are 1-8, stages 1-4")
    if not 1 <= len(buttons) <= MAX_FRAMES:
        raise UsageError(f"a demo has 1 to {MAX_FRAMES} frames, not {len(buttons)}")
    env = _open_game(world, stage, start, "fast")
    played: list[_Frame] = []
    for pressed in buttons:
        played.append(_press(env, int(pressed), world, stage))
        if played[-1].terminated:
            break
    return Demo(
        world=world,
        stage=stage,
        buttons=np.array(buttons[: len(played)], np.uint8),
        x=np.array([frame.x for frame in played], np.uint16),
        ram_crc=np.array([frame.ram_crc for frame in played], np.uint32),
        cleared=played[-1].cleared,
        source=source,
        seed=seed,
        noops=noops,
        start=None if start is None else np.array(start, np.uint8),
    )


def replay(
    demo: Demo,
    emulator: EmulatorName = "fast",
    on_frame: Callable[[int, FastMarioEnv | NesPyMarioEnv], None] | None = None,
) -> Playback:
    """Play a demo again and compare every frame with what was recorded.

    Args:
        demo: what to play.
        emulator: "fast", or "nes-py", which cannot start from a snapshot.
        on_frame: called after every frame with its index and the environment, whose `render()`
            returns the screen, uint8[240, 256, 3].

    Raises:
        UsageError: a demo with a start snapshot on nes-py.
    """
    env = _open_game(demo.world, demo.stage, demo.start, emulator)
    try:
        for i, pressed in enumerate(demo.buttons):
            frame = _press(env, int(pressed), demo.world, demo.stage)
            if on_frame:
                on_frame(i, env)
            is_last = i == demo.frames - 1
            if (
                (frame.x, frame.ram_crc) != (demo.x[i], demo.ram_crc[i])
                or frame.cleared != (demo.cleared and is_last)
                or (frame.terminated and not is_last)
            ):
                return Playback(i, frame.cleared, i + 1)
        return Playback(None, demo.cleared, demo.frames)
    finally:
        env.close()


def snapshots(demo: Demo, every: int) -> list[Waypoint]:
    """Return places along a demo from which episodes can start, the first after its no-ops.

    For a curriculum that starts near the goal and moves back (Salimans and Chen 2018, "Learning
    Montezuma's Revenge from a Single Demonstration"): the last one is before the demo's last
    frame, never on the goal.

    Args:
        demo: a demo that replays on fastnes.
        every: frames between two places; a multiple of 4 for places that an agent can be at.

    Raises:
        UsageError: every is below 1, or the demo does not replay here.
    """
    if every < 1:
        raise UsageError(f"snapshots are at least 1 frame apart, not {every}")
    env = _open_game(demo.world, demo.stage, demo.start, "fast")
    assert isinstance(env, FastMarioEnv)
    places = []
    for i, pressed in enumerate(demo.buttons):
        if i >= demo.noops and (i - demo.noops) % every == 0:
            places.append(Waypoint(i, env.machine.snapshot(0), env.machine.screen(0)))
        frame = _press(env, int(pressed), demo.world, demo.stage)
        if frame.ram_crc != demo.ram_crc[i]:
            raise UsageError(f"the demo of {demo.world}-{demo.stage} parts at frame {i}")
    return places


class _DemoStart(StageStarts):
    """The level's start, or the snapshot that a demo begins at."""

    def __init__(self, config: EnvConfig, demo: Demo) -> None:
        super().__init__(config)
        self.demo = demo

    def draw(self, generator: np.random.Generator) -> Start:
        start = super().draw(generator)
        return start if self.demo.start is None else start._replace(snapshot=self.demo.start)


class _DemoEnv(MarioVectorEnv):
    """One environment in which what the demo pressed is pressed, whatever the action is."""

    def __init__(self, config: EnvConfig, demo: Demo, lead: int) -> None:
        super().__init__(config, threads=1, starts=_DemoStart(config, demo))
        self.lead = demo.buttons[None, :lead]  # before the first observation
        self.pressed = demo.buttons[:0]  # in the next agent step

    def _wait(self, i: int, frames: int) -> None:
        if self.lead.shape[1] > 1:
            self.machines.step(self.lead[:, :-1], draw=False)
        self._step_machines(self.lead[:, -1:])

    def _pressed(self, actions: np.ndarray, envs: np.ndarray) -> np.ndarray:
        return self.pressed[None]


class DemoPlayer:
    """Plays a demo in an agent's environment: what it would have seen, and done.

    Attributes:
        env: one environment; during `agent_steps` its `step` presses what the demo pressed.
    """

    def __init__(self, config: EnvConfig, demo: Demo) -> None:
        # A snapshot has no screen: one agent step of the demo draws what is seen first.
        self.lead = demo.noops if demo.start is None else config.frame_skip
        plain = dataclasses.replace(
            config,
            stages=(StageId(demo.world, demo.stage),),
            n_envs=1,
            noop_max=self.lead,
            sticky_prob=0.0,
            max_episode_steps=0,
            long_jump_action=False,
            reward=dataclasses.replace(config.reward, end_on_stall_steps=0),
        )
        self.demo = demo
        self.env = _DemoEnv(plain, demo, self.lead)

    def agent_steps(self) -> Iterator[tuple[int, bool]]:
        """Yield, before each step of the demo, the action for it and whether its buttons fit.

        Where none fits, it is the one whose buttons differ least from what was pressed most.
        Whoever iterates steps `env` once between two of them.
        """
        frame_skip = self.env.config.frame_skip
        for frame in range(self.lead, self.demo.frames, frame_skip):
            self.env.pressed = self.demo.buttons[frame : frame + frame_skip]
            values, counts = np.unique(self.env.pressed, return_counts=True)
            differing = np.bitwise_count(self.env.buttons ^ values[counts.argmax()])
            yield int(differing.argmin()), not differing.min() and len(values) == 1


def demo_samples(demo: Demo, config: EnvConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return what a policy saw along a demo, and what it did there.

    Steps whose buttons the action set lacks are left out.

    Returns:
        observations uint8[n, frame_stack, screen_size, screen_size] and actions int64[n].
    """
    player = DemoPlayer(config, demo)
    seen, actions = [], []
    observations, _ = player.env.reset()
    for action, fits in player.agent_steps():
        if fits:
            seen.append(observations[0].copy())
            actions.append(action)
        observations, _, [terminated], [truncated], _ = player.env.step(np.array([action]))
        if terminated or truncated:
            break
    return np.array(seen), np.array(actions, np.int64)


def load_demos(path: Path, stages: Sequence[StageId]) -> list[Demo]:
    """Return the demos of each stage in a file or a folder.

    In a folder they are W-S.npz, then all that are called W-S_*.npz; without a W-S.npz, all in it
    that are of the stage, whatever they are called.

    Raises:
        UsageError: a stage has none.
    """
    if not path.is_dir():
        demo = load_demo(path)
        if (demo.world, demo.stage) not in stages:
            raise UsageError(f"{path} is no demo of {stages_text(stages)}")
        return [demo]
    found = []
    for stage in stages:
        files = [path / f"{stage}.npz", *sorted(path.glob(f"{stage}_*.npz"))]
        if files[0].is_file():
            found += [load_demo(file) for file in files]
            continue
        demos = map(load_demo, sorted(path.glob("*.npz")))
        of_stage = [demo for demo in demos if (demo.world, demo.stage) == stage]
        if not of_stage:
            raise UsageError(f"{path} has no {stage}.npz, and no other demo of {stage}")
        found += of_stage
    return found


# --------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------


def save_demo(path: Path, demo: Demo) -> None:
    """Write a demo as a compressed npz, atomically; the same demo is the same bytes.

    Raises:
        OSError: the disk is full or the folder cannot be written; path is untouched.
    """
    header: dict[str, Any] = {"format": FORMAT} | {
        field.name: getattr(demo, field.name)
        for field in dataclasses.fields(Demo)
        if field.name not in ARRAYS
    }
    arrays = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        "start": np.zeros(0, np.uint8) if demo.start is None else demo.start,
        "buttons": demo.buttons,
        "x": demo.x,
        "ram_crc": demo.ram_crc,
    }
    content = io.BytesIO()
    typed: dict[str, Any] = {name: arrays[name].astype(ARRAYS[name]) for name in ARRAYS}
    np.savez_compressed(content, **typed)
    atomic_write(Path(path), content.getvalue())


def load_demo(path: Path) -> Demo:
    """Read a demo. Runs no code from the file and unpacks no more than a demo can hold.

    Raises:
        UsageError: missing, torn, another kind of file, or of another ROM; one line that says so.
    """
    content = read_file(Path(path), MAX_FILE_BYTES)
    try:
        arrays = _read_arrays(content, str(path))
        header = json.loads(arrays.pop("header").tobytes())
        if not isinstance(header, dict) or header.pop("format", None) != FORMAT:
            raise UsageError(f"{path} is not a demo of format {FORMAT}")
        start = arrays.pop("start")
        demo = Demo(**header, **arrays, start=start if len(start) else None)
        _check(demo)
    except (BadFile, *BROKEN_ARCHIVE, KeyError, TypeError, RecursionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"{path} is not a whole demo file ({reason})") from error
    if demo.rom_sha256 != packaged_rom().sha256:
        raise UsageError(
            f"{path} was recorded on another ROM (SHA-256 {demo.rom_sha256[:8]}..., "
            f"here {packaged_rom().sha256[:8]}...)"
        )
    return demo


def _read_arrays(content: bytes, path: str) -> dict[str, Any]:
    """Return the arrays of a demo file, by name, each of the dtype it must have."""
    if content.count(MEMBER) > len(ARRAYS):
        raise ValueError("its members are not a demo's")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if sorted(m.filename for m in members) != sorted(f"{name}.npy" for name in ARRAYS):
            raise ValueError("its members are not a demo's")
        if sum(member.file_size for member in members) > MAX_FILE_BYTES:
            raise ValueError(f"it unpacks to over {MAX_FILE_BYTES >> 20} MiB")
    files = read_archive(content, path, lambda _: True, lambda _: True)
    arrays = {name: parse_npy(files[f"{name}.npy"], f"{path}: {name}") for name in ARRAYS}
    for name, array in arrays.items():
        if array.dtype.str != ARRAYS[name] or array.ndim != 1:
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}")
    return arrays


def _check(demo: Demo) -> None:
    """Raise ValueError if a field of a demo is not what its declaration says."""
    kinds = {
        **{"world": int, "stage": int, "cleared": bool, "source": str},
        **{"seed": int | None, "noops": int, "rom_sha256": str},
    }
    for name, kind in kinds.items():
        value = getattr(demo, name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"its {name} is {value!r:.40}")
    if (demo.world, demo.stage) not in STAGES:
        raise ValueError(f"there is no stage {demo.world}-{demo.stage}")
    if not 1 <= demo.frames <= MAX_FRAMES or not len(demo.x) == len(demo.ram_crc) == demo.frames:
        raise ValueError(f"{demo.frames} buttons, {len(demo.x)} x, {len(demo.ram_crc)} checksums")
    if not 0 <= demo.noops <= demo.frames:
        raise ValueError(f"{demo.noops} no-ops in {demo.frames} frames")
    if demo.start is not None:
        if len(demo.start) != STATE_SIZE:
            raise ValueError(f"its start is {len(demo.start)} bytes, not {STATE_SIZE}")
        row = check_snapshot(demo.start)
        here = StageId(int(row[WORLD]) + 1, int(row[STAGE]) + 1)
        if here != (demo.world, demo.stage):
            raise ValueError(f"its start is in {here}, not in {demo.world}-{demo.stage}")
