"""scripts/noop_demos.py: a clear for every start, as few different ones as can be."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mario_demos import AGENT_FRAMES, load_demo, replay
from mario_game import action_buttons

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "scripts"))

import noop_demos  # noqa: E402  (scripts/ is not a package)
from simplify_demo import Simplifier  # noqa: E402

RAM_FRAME_COUNTER = 0x09  # as in the public disassembly


def test_every_start_gets_a_clear_and_shares_it_where_it_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # In 3-2 the frame counter's lowest bit matters: what clears after 0 no-ops clears after 2.
    assert noop_demos.main(["--stages", "3-2", "--noops", "2", "--output", str(tmp_path)]) == 0
    assert "2 of 3 starts" in capsys.readouterr().out
    demos = {path.stem: load_demo(path) for path in tmp_path.iterdir()}
    assert sorted(demos) == ["3-2", "3-2_noops1", "3-2_noops2"]
    for noops, demo in enumerate(demos[name] for name in sorted(demos)):
        assert demo.noops == noops
        assert replay(demo, "nes-py") == (None, True, demo.frames)
    pressed = {name: demo.buttons[demo.noops :: AGENT_FRAMES] for name, demo in demos.items()}
    np.testing.assert_array_equal(pressed["3-2"], pressed["3-2_noops2"])
    assert not np.array_equal(pressed["3-2"], pressed["3-2_noops1"])

    # one is missing, as after a stop: it goes on with that one
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / "3-2.npz").unlink()
    assert noop_demos.main(["--stages", "3-2", "--noops", "2", "--output", str(tmp_path)]) == 0
    changed = {p.stem for p in tmp_path.iterdir() if p.stat().st_mtime_ns != written[p]}
    assert changed == {"3-2"}
    assert replay(load_demo(tmp_path / "3-2.npz"), "nes-py").cleared


def test_in_3_2_the_lowest_bit_of_the_frame_counter_decides() -> None:
    clear = load_demo(REPOSITORY / "demos" / "3-2.npz")
    simplifier = Simplifier(clear, action_buttons("fast"), slack=0.02)
    for noops in range(6):
        state = simplifier.snapshot_after(simplifier.start, np.zeros(noops, np.uint8))
        flipped = state.copy()
        flipped[RAM_FRAME_COUNTER] ^= 1
        assert (simplifier.clear_from(state) is not None) == (noops % 2 == 0)
        assert (simplifier.clear_from(flipped) is not None) == (noops % 2 == 1)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--stages", "9-1"], "no stage 9-1"),
        (["--stages", "1-1", "--noops", "-1"], "not negative: --noops -1"),
        (["--stages", "1-1", "--demos", "{folder}"], "cannot read"),
        (["--stages", "1-1", "--action-set", "slow"], "no action set 'slow'"),
    ],
)
def test_wrong_flags_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], line: str
) -> None:
    given = [flag.format(folder=tmp_path) for flag in flags]
    assert noop_demos.main([*given, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
