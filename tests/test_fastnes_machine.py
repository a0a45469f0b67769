"""fastnes as a machine: snapshots, batches, observations, and what it refuses."""

from __future__ import annotations

import ast
import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from gym_super_mario_bros._roms import smb1_rom_path

from fastnes import (
    BatchMachine,
    EmulationError,
    Machine,
    Rom,
    RomError,
    SnapshotError,
    View,
    area_resize,
    make_cpu,
    start_screen,
    start_snapshot,
)
from fastnes.ram import BUTTON_A, BUTTON_B, BUTTON_LEFT, BUTTON_RIGHT
from fastnes.tables import PALETTE_GRAY

ROM = Path(smb1_rom_path()).read_bytes()
RIGHT, LEFT, A, B = BUTTON_RIGHT, BUTTON_LEFT, BUTTON_A, BUTTON_B


def buttons(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Random play, mostly to the right, without start and select."""
    choices = np.array([RIGHT, RIGHT | B, RIGHT | A | B, RIGHT | A, LEFT, 0, A], np.uint8)
    return np.random.default_rng(seed).choice(choices, shape)


def started(n: int, **arguments: object) -> BatchMachine:
    """n machines at the start of 1-1."""
    batch = BatchMachine(n, **arguments)  # type: ignore[arg-type]
    for i in range(n):
        batch.restore(i, start_snapshot(1, 1), start_screen(1, 1))
    return batch


def test_drawing_changes_no_state() -> None:
    drawn, undrawn = Machine(), Machine()
    for pressed in buttons(0, (600,)):
        drawn.step(int(pressed), draw=True)
        undrawn.step(int(pressed), draw=False)
    np.testing.assert_array_equal(drawn.snapshot(), undrawn.snapshot())


def test_a_snapshot_brings_back_a_thousand_frames() -> None:
    machine = Machine()
    machine.restore(start_snapshot(1, 1))
    snapshot = machine.snapshot()
    ends = []
    for _ in range(2):
        machine.restore(snapshot)
        for pressed in buttons(1, (1000,)):
            machine.step(int(pressed), draw=False)
        machine.step(0)
        ends.append((machine.snapshot(), machine.rgb()))
    np.testing.assert_array_equal(ends[0][0], ends[1][0])
    np.testing.assert_array_equal(ends[0][1], ends[1][1])
    assert not np.array_equal(ends[0][0], snapshot)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_pickles_go_on_alone(clone: Callable[[Any], Any]) -> None:
    machine = Machine()
    machine.restore(start_snapshot(1, 1))
    machine.step(RIGHT, frames=20)
    twin = clone(machine)
    np.testing.assert_array_equal(twin.screen, machine.screen)
    machine.step(RIGHT, frames=30)
    assert not np.array_equal(twin.ram, machine.ram)
    twin.step(RIGHT, frames=30)
    np.testing.assert_array_equal(twin.snapshot(), machine.snapshot())
    batch = started(2)
    batch.step(np.array([RIGHT, LEFT], np.uint8))
    other = clone(batch)
    for one in (batch, other):
        one.step(np.array([RIGHT, LEFT], np.uint8))
    np.testing.assert_array_equal(batch.states, other.states)


def test_a_batch_equals_single_machines_on_any_number_of_threads() -> None:
    batches = [started(5, threads=threads) for threads in (1, 2, 3)]
    singles = [started(1, threads=1) for _ in range(5)]
    screens = [np.zeros((b.n, 84, 84), np.uint8) for b in [*batches, *singles]]
    ended = 0
    for pressed in buttons(2, (120, 5)):
        for batch, screen in zip(batches, screens, strict=False):
            batch.step(pressed, observation=screen)
        for i, single in enumerate(singles):
            single.step(pressed[i : i + 1], observation=screens[3 + i])
        for batch, screen in zip(batches, screens, strict=False):
            for i, single in enumerate(singles):
                np.testing.assert_array_equal(batch.states[i], single.states[0])
                np.testing.assert_array_equal(batch.ram_before[i], single.ram_before[0])
                np.testing.assert_array_equal(screen[i], screens[3 + i][0])
                assert batch.terminated[i] == single.terminated[0]
                assert batch.frames_run[i] == single.frames_run[0]
        for i in np.flatnonzero(batches[0].terminated).tolist():
            ended += 1
            for batch in batches:
                batch.restore(int(i), start_snapshot(1, 1))
            singles[i].restore(0, start_snapshot(1, 1))
    assert ended > 0


def test_threads_end_with_their_batch() -> None:
    before = set(threading.enumerate())
    batch = started(4, threads=3)
    batch.step(np.zeros(4, np.uint8))
    its_own = set(threading.enumerate()) - before
    assert len(its_own) == 2
    del batch
    for thread in its_own:
        thread.join(timeout=30)
        assert not thread.is_alive()


@pytest.mark.parametrize("is_gray", [True, False])
def test_an_observation_is_the_brighter_of_the_last_two_frames_shrunk(is_gray: bool) -> None:
    seen = np.zeros((1, 84, 84) if is_gray else (1, 3, 84, 84), np.uint8)
    run_right = np.array([RIGHT | B], np.uint8)
    lengths = set()
    for idle in range(1, 9):  # the first Goomba ends the episode at another frame of a step
        batch, frame_by_frame = started(1), started(1, frames=1)
        for machine in (batch, frame_by_frame):
            machine.step(np.zeros((1, idle), np.uint8), draw=False)
        while not batch.terminated[0]:
            batch.step(run_right, observation=seen)
            screens = []
            for _ in range(int(batch.frames_run[0])):
                frame_by_frame.step(run_right, draw=False)
                screens.append(frame_by_frame.gray(0) if is_gray else frame_by_frame.rgb(0))
            brightest = np.maximum.reduce(screens[-2:])
            expected = cv2.resize(brightest, (84, 84), interpolation=cv2.INTER_AREA)
            np.testing.assert_array_equal(
                seen[0], expected if is_gray else np.moveaxis(expected, -1, 0)
            )
            np.testing.assert_array_equal(batch.gray(0) if is_gray else batch.rgb(0), screens[-1])
        lengths.add(int(batch.frames_run[0]))
    assert min(lengths) < 4, "an episode ended within a step"


def test_indices_step_those_alone_for_any_number_of_frames() -> None:
    batch = started(3)
    before = batch.states.copy()
    seen = np.full((3, 84, 84), 7, np.uint8)
    batch.step(np.full((1, 9), RIGHT, np.uint8), indices=np.array([1]), observation=seen)
    np.testing.assert_array_equal(batch.states[[0, 2]], before[[0, 2]])
    assert (seen[[0, 2]] == 7).all()
    assert batch.frames_run[1] == 9
    assert not np.array_equal(batch.states[1], before[1])


@pytest.mark.parametrize("planes", [1, 3])
def test_an_observation_may_be_the_newest_picture_of_each_frame_stack(planes: int) -> None:
    def newest(stack: np.ndarray) -> np.ndarray:
        return stack[:, -1] if planes == 1 else stack[:, -planes:]

    batch, plain = started(3, threads=2), started(3, threads=1)
    stack = np.full((3, 4 * planes, 84, 84), 7, np.uint8)
    seen = np.zeros_like(newest(stack))
    for step, pressed in enumerate(buttons(3, (20, 3))):
        indices = np.arange(3) if step < 10 else np.array([0, 2])
        batch.step(pressed[indices], indices=indices, observation=newest(stack))
        plain.step(pressed[indices], indices=indices, observation=seen)
        np.testing.assert_array_equal(newest(stack), seen)
        assert (stack[:, :-planes] == 7).all(), "the older pictures stay"
    one = started(1)
    single = np.zeros_like(seen[:1])
    one.step(np.array([RIGHT], np.uint8), observation=newest(stack[1:2, :planes]))
    started(1).step(np.array([RIGHT], np.uint8), observation=single)
    np.testing.assert_array_equal(newest(stack[1:2, :planes]), single)


def test_many_machines_are_restored_as_one_by_one() -> None:
    batch, one_by_one = started(4), started(4)
    levels = [(1, 2), (2, 1), (1, 1)]
    snapshots = np.stack([start_snapshot(*level) for level in levels])
    screens = [start_screen(*level) for level in levels]
    for machines in (batch, one_by_one):
        machines.step(np.full(4, RIGHT, np.uint8))
    batch.restore_many([3, 0, 2], snapshots, screens)
    for i, level in zip([3, 0, 2], levels, strict=True):
        one_by_one.restore(i, start_snapshot(*level), start_screen(*level))
    for name in ("states", "ram_before", "frames_run", "terminated"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(one_by_one, name))
    for i in range(4):
        np.testing.assert_array_equal(batch.screen(i), one_by_one.screen(i))
    batch.restore_many([0], snapshots[:1])
    assert len(np.unique(batch.screen(0))) == 1, "black: a snapshot holds no screen"


@pytest.mark.parametrize("size", [(84, 84), (64, 64), (96, 96), (42, 42), (120, 128), (84, 96)])
def test_resizing_is_opencvs_to_the_bit(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    machine = Machine()
    machine.restore(start_snapshot(1, 1))
    images = [rng.integers(0, 256, (240, 256), dtype=np.uint8) for _ in range(20)]
    for _ in range(20):
        machine.step(RIGHT, frames=10)
        images.append(machine.gray())
    for image in images:
        out = np.zeros(size, np.uint8)
        area_resize(image, out)
        expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (84, 84)])
def test_an_observation_of_some_rows_is_opencvs_of_these_rows(size: tuple[int, int]) -> None:
    batch = BatchMachine(1, frames=4, view=View(size, (32, 224)))
    batch.restore(0, start_snapshot(1, 1))
    seen = np.zeros((1, *size), np.uint8)
    for _ in range(12):
        batch.step(np.full(1, RIGHT, np.uint8), observation=seen)
        brightest = PALETTE_GRAY[batch.last_two(0)].max(axis=0)
        assert (batch.last_two(0)[0] == batch.screen(0)).all()
        expected = cv2.resize(brightest[32:224], size[::-1], interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(seen[0], expected)
    with pytest.raises(ValueError, match="are none of a screen"):
        BatchMachine(1, view=View(rows=(224, 32)))


def test_the_generated_cpu_is_up_to_date() -> None:
    generated = Path(make_cpu.__file__).with_name("cpu.py").read_text(encoding="utf-8")
    assert ast.dump(ast.parse(make_cpu.source())) == ast.dump(ast.parse(generated))


# --------------------------------------------------------------------------------------------
# What it refuses
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"PK" + data[2:], "not an iNES file"),
        (lambda data: data[:6] + bytes([0x11]) + data[7:], "mapper 1 is not supported"),
        (lambda data: data[:6] + bytes([0x05]) + data[7:], "trainer"),
        (lambda data: data[:6] + bytes([0x00]) + data[7:], "horizontal mirroring"),
        (lambda data: data[:9000], "truncated: 9000 of"),
    ],
)
def test_another_cartridge_is_refused_by_name(
    change: Callable[[bytes], bytes], message: str
) -> None:
    with pytest.raises(RomError, match=message):
        Rom(change(ROM))


def with_program(code: bytes) -> Rom:
    """The cartridge with code where it begins."""
    rom = Rom(ROM)
    at = 16 + rom.reset_vector - 0x8000
    return Rom(ROM[:at] + code + ROM[at + len(code) :])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"\x02", r"(?i)opcode.*\$?02"),
        (b"\xa9\x01\x8d\x00\x60", r"(?i)write.*6000"),
        (b"\x8d\x02\x20", r"(?i)write.*2002"),
        (b"\xa9\x80\x8d\x14\x40", r"DMA from page \$80"),
        (b"\xad\x00\x50", r"(?i)read.*5000"),
        (b"\xad\x00\x20", r"(?i)read.*2000"),
        (b"\x4c\x00\x02", r"(?i)jump to \$0200"),
    ],
    ids=["opcode", "write", "PPU write", "DMA", "read", "PPU read", "jump"],
)
def test_what_the_core_lacks_is_an_error_that_names_it(code: bytes, message: str) -> None:
    machine = Machine(with_program(code))
    with pytest.raises(EmulationError, match=message):
        machine.step(0, frames=2)


def test_a_write_to_the_pictures_rom_changes_nothing() -> None:
    """The game does it now and then: a training of 5-2 once ended there."""
    to_tile_1 = b"\xa9\x00\x8d\x06\x20\xa9\x10\x8d\x06\x20"  # LDA #0 STA $2006 LDA #$10 STA $2006
    write = b"\xa9\x55\x8d\x07\x20"  # LDA #$55 STA $2007
    read = b"\xad\x07\x20\xad\x07\x20\x85\x10"  # LDA $2007 LDA $2007 STA $10
    code = to_tile_1 + write + to_tile_1 + read
    here = Rom(ROM).reset_vector + len(code)
    machine = Machine(with_program(code + b"\x4c" + here.to_bytes(2, "little")))  # JMP here
    machine.step(0, frames=2)
    assert machine.ram[0x10] == Rom(ROM).cartridge.chr_rom[0x10] != 0x55


def test_a_batch_says_which_machine_met_it() -> None:
    batch = BatchMachine(5, rom=with_program(b"\x02"), threads=3)
    with pytest.raises(EmulationError, match=r"machine 0: opcode \$02"):
        batch.step(np.zeros(5, np.uint8))


def test_wrong_arguments_are_refused() -> None:
    machine, batch = Machine(), BatchMachine(2)
    with pytest.raises(SnapshotError):
        machine.restore(np.zeros(10, np.uint8))
    with pytest.raises(ValueError, match="must be a byte"):
        machine.step(256)
    with pytest.raises(ValueError, match="no stage 9-1"):
        start_snapshot(9, 1)
    with pytest.raises(ValueError, match="for 2 machines"):
        batch.step(np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="uint8, not int64"):
        batch.step(np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="observation must be"):
        batch.step(np.zeros(2, np.uint8), observation=np.zeros((2, 80, 80), np.uint8))
    with pytest.raises(ValueError, match=r"or, in colour, \[2, 3, 84, 84\], not uint8\[2, 12, 84"):
        batch.step(np.zeros(2, np.uint8), observation=np.zeros((2, 12, 84, 84), np.uint8))
    wide, reversed_rows = np.zeros((2, 84, 168), np.uint8), np.zeros((2, 84, 84), np.uint8)[::-1]
    for wrong in (wide[:, :, ::2], reversed_rows):
        with pytest.raises(ValueError, match="C-contiguous rows"):
            batch.step(np.zeros(2, np.uint8), observation=wrong)
    with pytest.raises(SnapshotError, match="2 snapshots are"):
        batch.restore_many([0, 1], start_snapshot(1, 1)[None])
    with pytest.raises(ValueError, match="indices must not repeat"):
        batch.step(np.zeros(2, np.uint8), indices=np.array([0, 0]))
