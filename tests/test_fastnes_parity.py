"""fastnes equals nes-py: every byte of RAM, every pixel, on the real cartridge."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastnes
from mario_demos import load_demo
from mario_game import STAGES
from scripts import check_parity

ROOT = Path(__file__).resolve().parents[1]


def test_from_the_title_screen() -> None:
    assert check_parity.compare_frames(1500, seed=0) == 1500


@pytest.mark.slow
def test_from_the_title_screen_for_long() -> None:
    assert check_parity.compare_frames(20_000, seed=1) == 20_000


@pytest.mark.parametrize(("world", "stage"), [(1, 1), (2, 2), (4, 4)])
def test_stages_with_the_interventions(world: int, stage: int) -> None:
    check_parity.compare_stage(world, stage, 200, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "stage"), STAGES)
def test_every_stage_for_long(world: int, stage: int) -> None:
    check_parity.compare_stage(world, stage, 1500, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "demos").glob("*.npz")), ids=lambda path: path.stem)
def test_every_recorded_clear_to_the_flag(path: Path) -> None:
    demo = load_demo(path)
    assert check_parity.compare_demo(demo) == demo.frames


def test_a_recording_that_misses_the_flag_is_no_clear() -> None:
    demo = load_demo(ROOT / "demos" / "1-1.npz")
    with pytest.raises(check_parity.PartedError, match="does not end on the flag"):
        check_parity.compare_demo(dataclasses.replace(demo, buttons=demo.buttons ^ 0x01))


def test_a_difference_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def tampered(self: fastnes.Machine, buttons: int, frames: int = 1, draw: bool = True) -> None:
        step(self, buttons, frames, draw)
        self.ram[0x07FF] ^= 1

    step = fastnes.Machine.step
    monkeypatch.setattr(fastnes.Machine, "step", tampered)
    with pytest.raises(check_parity.PartedError, match=r"frame 0: RAM \$07FF is \$01"):
        check_parity.compare_frames(5, seed=0)


def run_check(folder: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/check_parity.py", *flags],
        cwd=ROOT,
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.mark.slow
def test_no_index_leaves_its_array(tmp_path: Path) -> None:
    done = run_check(tmp_path, "--frames", "600", NUMBA_BOUNDSCHECK="1")
    assert done.returncode == 0, done.stderr
    assert "equal: 600 frames" in done.stdout
    done = run_check(tmp_path, "--frames", "200", "--stages", "1-1,8-4", NUMBA_BOUNDSCHECK="1")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_parallel_first_starts_compile_once(tmp_path: Path) -> None:
    start = [sys.executable, "-c", "import fastnes; fastnes.Machine().step(0)"]
    processes = [
        subprocess.Popen(
            start,
            cwd=ROOT,
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    errors = [process.communicate(timeout=900)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum("compiling the emulator" in error for error in errors) == 1


def test_wrong_flags_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    cache = Path(os.environ.get("NUMBA_CACHE_DIR", ""))
    done = run_check(cache, "--stages", "9-1")
    assert done.returncode == 2
    assert "no stage '9-1'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_gray_palette_is_nes_pys_formula() -> None:
    from fastnes.tables import PALETTE_GRAY, PALETTE_RGB

    weighted = PALETTE_RGB.astype(np.int64) @ np.array([77, 150, 29])
    np.testing.assert_array_equal(PALETTE_GRAY, weighted >> 8)
