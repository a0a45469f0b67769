"""Demos: what is recorded comes back, replays on both emulators, and a bad file is one line."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnes import BatchMachine, start_snapshot, state
from mario_cli import UsageError
from mario_config import EmulatorName, EnvConfig, RewardConfig, buttons_of_actions
from mario_demos import (
    ARRAYS,
    Demo,
    demo_samples,
    load_demo,
    record,
    replay,
    save_demo,
    snapshots,
)
from mario_game import STAGES, action_buttons
from mario_sb3 import make_vec_env

DEMOS = Path(__file__).resolve().parent.parent / "demos"
EMULATORS: tuple[EmulatorName, ...] = ("fast", "nes-py")
RIGHT_B, RIGHT_A_B = 0x82, 0x83


@pytest.fixture(scope="module")
def clear() -> Demo:
    """The shipped clear of 1-1."""
    return load_demo(DEMOS / "1-1.npz")


@pytest.fixture(scope="module")
def short() -> Demo:
    """Some jumps in 1-1, 30 no-ops before them."""
    jumps = np.tile(np.repeat(np.array([RIGHT_B, RIGHT_A_B], np.uint8), 12), 4)
    buttons = np.concatenate([np.zeros(30, np.uint8), jumps])
    return record(1, 1, buttons, source="policy:a test", seed=3, noops=30)


def assert_same(one: Demo, other: Demo) -> None:
    for field in dataclasses.fields(Demo):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def test_a_demo_comes_back_from_its_file(short: Demo, tmp_path: Path) -> None:
    save_demo(tmp_path / "a.npz", short)
    save_demo(tmp_path / "b.npz", short)
    assert_same(load_demo(tmp_path / "a.npz"), short)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert (short.frames, short.noops, short.agent_steps, short.cleared) == (126, 30, 24, False)


@pytest.mark.parametrize("emulator", EMULATORS)
def test_the_shipped_clear_of_1_1_replays(clear: Demo, emulator: EmulatorName) -> None:
    assert clear.cleared and clear.agent_steps <= 266
    assert replay(clear, emulator) == (None, True, clear.frames)


@pytest.mark.slow
@pytest.mark.parametrize("emulator", EMULATORS)
@pytest.mark.parametrize(("world", "stage"), STAGES)
def test_every_stage_has_a_clear_that_replays(
    world: int, stage: int, emulator: EmulatorName
) -> None:
    path = DEMOS / f"{world}-{stage}.npz"
    demo = load_demo(path)
    assert (demo.world, demo.stage, demo.start, demo.noops) == (world, stage, None, 0)
    assert replay(demo, emulator) == (None, True, demo.frames)
    assert path.stat().st_size < 20_000
    # Each button is held for whole agent steps: an agent could have played it.
    steps = demo.buttons[: demo.frames // 4 * 4].reshape(-1, 4)
    assert (steps == steps[:, :1]).all()


@pytest.mark.parametrize("emulator", EMULATORS)
@pytest.mark.parametrize("frame", [0, 77, 125])
def test_a_flipped_button_parts_at_its_frame(
    short: Demo, emulator: EmulatorName, frame: int
) -> None:
    buttons = short.buttons.copy()
    buttons[frame] ^= 0x01
    played = replay(dataclasses.replace(short, buttons=buttons), emulator)
    assert (played.parted_at, played.frames) == (frame, frame + 1)


def test_another_end_than_recorded_parts(clear: Demo) -> None:
    last = clear.frames - 1
    assert replay(dataclasses.replace(clear, cleared=False)).parted_at == last
    longer: dict[str, Any] = {
        name: np.append(getattr(clear, name), getattr(clear, name)[-1:])
        for name in ("buttons", "x", "ram_crc")
    }
    assert replay(dataclasses.replace(clear, **longer)).parted_at == last


def test_what_is_pressed_after_the_end_is_left_out(clear: Demo) -> None:
    buttons = np.append(clear.buttons, np.zeros(50, np.uint8))
    assert record(1, 1, buttons, source="human").frames == clear.frames


def test_replay_shows_every_frame(short: Demo) -> None:
    seen: list[int] = []

    def look(frame: int, env: Any) -> None:
        seen.append(frame)
        if frame == 100:
            assert env.render().shape == (240, 256, 3)
            assert env.render().any()

    replay(short, on_frame=look)
    assert seen == list(range(short.frames))


def test_waypoints_lead_on_along_the_demo(short: Demo, tmp_path: Path) -> None:
    places = snapshots(short, every=40)
    assert [place.frame for place in places] == [30, 70, 110]  # after the no-ops
    machine = BatchMachine(1, frames=1, threads=1)
    machine.restore(0, places[2].state, places[2].screen)
    np.testing.assert_array_equal(machine.screen(0), places[2].screen)
    rest = record(1, 1, short.buttons[110:], source="human", start=places[2].state)
    np.testing.assert_array_equal(rest.ram_crc, short.ram_crc[110:])
    save_demo(tmp_path / "rest.npz", rest)
    again = load_demo(tmp_path / "rest.npz")
    assert_same(again, rest)
    assert replay(again).parted_at is None
    with pytest.raises(UsageError, match="--emulator fast alone"):
        replay(again, "nes-py")


def test_samples_of_a_demo_are_what_a_policy_would_see_and_do(clear: Demo) -> None:
    config = EnvConfig(n_envs=1, action_set="complex", show_buttons=True, noop_max=0)
    observations, actions = demo_samples(clear, config)
    assert len(actions) == len(observations) == clear.agent_steps, "complex has all its buttons"
    buttons = buttons_of_actions(config)
    np.testing.assert_array_equal(buttons[actions], clear.buttons[:: config.frame_skip])
    env = make_vec_env(config, seed=0)
    seen: Any = env.reset()
    for observation, action in zip(observations, actions, strict=True):
        np.testing.assert_array_equal(seen[0], observation)
        seen, _, dones, infos = env.step(np.array([action]))
    assert dones[0]
    assert infos[0]["flag_get"]
    _, fewer = demo_samples(clear, EnvConfig(action_set="right_only"))
    fits = np.isin(clear.buttons[::4], action_buttons("right_only"))
    assert 0 < len(fewer) == fits.sum() < len(actions), "what it cannot press is left out"


def test_a_demo_that_stands_still_is_played_to_its_end() -> None:
    patient = record(1, 1, [0] * 40 + [128] * 8, source="human")
    config = EnvConfig(reward=RewardConfig(end_on_stall_steps=6), noop_max=0)
    _, actions = demo_samples(patient, config)
    assert len(actions) == 12


def test_wrong_arguments_are_refused(short: Demo) -> None:
    with pytest.raises(UsageError, match="no stage 9-1"):
        record(9, 1, [0], source="human")
    with pytest.raises(UsageError, match="not 0"):
        record(1, 1, [], source="human")
    with pytest.raises(UsageError, match="at least 1 frame"):
        snapshots(short, every=0)
    with pytest.raises(UsageError, match="parts at frame 10"):
        x = short.ram_crc.copy()
        x[10] += 1
        snapshots(dataclasses.replace(short, ram_crc=x), every=20)


# --------------------------------------------------------------------------------------------
# Bad files
# --------------------------------------------------------------------------------------------


def rewrite(path: Path, **changes: Any) -> None:
    """Replace arrays of a demo file; None leaves one out."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in ARRAYS} | changes
    kept: Any = {name: array for name, array in arrays.items() if array is not None}
    np.savez_compressed(path, **kept)


def reheader(path: Path, **changes: Any) -> None:
    """Replace fields of a demo file's header."""
    with np.load(path) as archive:
        header = json.loads(archive["header"].tobytes()) | changes
    rewrite(path, header=np.frombuffer(json.dumps(header).encode(), np.uint8))


def with_start(path: Path, register: int, value: int) -> None:
    """Give a demo file a start with one register changed."""
    start = start_snapshot(1, 1).copy()
    state.registers(start)[register] = value
    rewrite(path, start=start)


def flip_byte(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def claim_more(path: Path) -> None:
    """Let an array's header claim more than there is memory for."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    claim = b"(99999999999999,), }"
    members["x.npy"] = members["x.npy"].replace(b"(126,), }".ljust(len(claim)), claim)
    assert claim in members["x.npy"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), "cannot read"),
    "empty": (lambda path: path.write_bytes(b""), "not a whole demo file"),
    "torn": (lambda path: path.write_bytes(path.read_bytes()[:-200]), "not a whole demo file"),
    "damaged": (lambda path: flip_byte(path, at=500), "not a whole demo file"),
    "foreign": (lambda path: np.savez(path, weights=np.zeros(3)), "members are not a demo's"),
    "incomplete": (lambda path: rewrite(path, x=None), "members are not a demo's"),
    "pickle": (lambda path: rewrite(path, x=np.array([{}])), "not a whole demo file"),
    "oversized": (lambda path: rewrite(path, x=np.zeros(9**7, np.uint16)), "unpacks to over 1 MiB"),
    "claims more": (claim_more, "not a whole demo file"),
    "type": (lambda path: rewrite(path, x=np.zeros(126)), "x is float64"),
    "lengths": (lambda path: rewrite(path, x=np.zeros(9, np.uint16)), "126 buttons, 9 x"),
    "no frames": (
        lambda path: rewrite(
            path,
            **{name: np.zeros(0, ARRAYS[name]) for name in ("buttons", "x", "ram_crc")},
        ),
        "0 buttons",
    ),
    "no json": (lambda path: rewrite(path, header=np.zeros(5, np.uint8)), "not a whole demo file"),
    "other format": (lambda path: reheader(path, format=2), "not a demo of format 1"),
    "unknown field": (lambda path: reheader(path, command="rm"), "not a whole demo file"),
    "field type": (lambda path: reheader(path, world="1"), "its world is '1'"),
    "no stage": (lambda path: reheader(path, stage=5), "no stage 1-5"),
    "no-ops": (lambda path: reheader(path, noops=127), "127 no-ops in 126 frames"),
    "another ROM": (lambda path: reheader(path, rom_sha256="0" * 64), "another ROM"),
    "start size": (lambda path: rewrite(path, start=np.zeros(9, np.uint8)), "start is 9 bytes"),
    "start beyond memory": (
        lambda path: with_start(path, state.OAM_ADDRESS, 1 << 40),
        "in register 21",
    ),
    "start below memory": (lambda path: with_start(path, state.LINE, -5), "-5 in register 8"),
    "start sprite": (lambda path: with_start(path, state.SPRITE_LIST, 64), "sprite beyond 63"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_refused_in_one_line(
    short: Demo, tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    path = tmp_path / "demo.npz"
    save_demo(path, short)
    spoil(path)
    with pytest.raises(UsageError, match=message) as raised:
        load_demo(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_full_disk_leaves_the_old_demo(
    short: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "demo.npz"
    save_demo(path, short)
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        save_demo(path, dataclasses.replace(short, source="human"))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
