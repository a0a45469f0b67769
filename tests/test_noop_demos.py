"""A clear for every no-op start, as few different ones as can be, and scripts/noop_demos.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastnes.ram import FRAME_COUNTER
from mario_demos import AGENT_FRAMES, load_demo, replay, snapshots
from mario_game import StageId, action_buttons
from mario_search import noops
from mario_search.noops import noop_starts, serve
from scripts import noop_demos

DEMOS = Path(__file__).resolve().parents[1] / "demos"


def plan_of(name: str) -> bytes:
    """Return the buttons of each agent step of a shipped demo."""
    return load_demo(DEMOS / f"{name}.npz").buttons[::AGENT_FRAMES].tobytes()


@pytest.mark.slow
def test_every_start_gets_a_clear_and_shares_it_where_it_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noops, "FIRST_WIDTH", 16)  # narrow, to be quick
    # In 3-2 the frame counter's lowest bit matters: what clears after 0 no-ops clears after 2.
    assert noop_demos.main(["--stages", "3-2", "--noops", "2", "--output", str(tmp_path)]) == 0
    assert "2 of 3 starts" in capsys.readouterr().out
    demos = {path.stem: load_demo(path) for path in tmp_path.iterdir()}
    assert sorted(demos) == ["3-2", "3-2_noops1", "3-2_noops2"]
    for idle, demo in enumerate(demos[name] for name in sorted(demos)):
        assert demo.noops == idle
        assert replay(demo, "nes-py") == (None, True, demo.frames)
    pressed = {name: demo.buttons[demo.noops :: AGENT_FRAMES] for name, demo in demos.items()}
    np.testing.assert_array_equal(pressed["3-2"], pressed["3-2_noops2"])
    assert not np.array_equal(pressed["3-2"], pressed["3-2_noops1"])
    assert np.isin(np.concatenate(list(pressed.values())), action_buttons("fast")).all()

    # one is missing, as after a stop: it goes on with that one
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / "3-2.npz").unlink()
    assert noop_demos.main(["--stages", "3-2", "--noops", "2", "--output", str(tmp_path)]) == 0
    changed = {p.stem for p in tmp_path.iterdir() if p.stat().st_mtime_ns != written[p]}
    assert changed == {"3-2"}
    assert replay(load_demo(tmp_path / "3-2.npz"), "nes-py").cleared


def test_in_3_2_the_lowest_bit_of_the_frame_counter_decides() -> None:
    starts = noop_starts(StageId(3, 2), 5)
    flipped = {noops: state.copy() for noops, state in starts.items()}
    for state in flipped.values():
        state[FRAME_COUNTER] ^= 1
    assert sorted(serve(plan_of("3-2"), starts, StageId(3, 2))) == [0, 2, 4]
    assert sorted(serve(plan_of("3-2"), flipped, StageId(3, 2))) == [1, 3, 5]


def test_a_plan_is_cut_at_the_goal_and_its_last_buttons_are_held_a_little() -> None:
    clear = load_demo(DEMOS / "1-1.npz")
    place = snapshots(clear, 208 * AGENT_FRAMES)[1]
    starts = {7: place.state}
    plan = clear.buttons[place.frame :: AGENT_FRAMES].tobytes()
    assert serve(plan, starts, StageId(1, 1)) == {7: plan}
    assert serve(plan + plan, starts, StageId(1, 1)) == {7: plan}
    assert serve(plan[:-1], starts, StageId(1, 1)) == {7: plan[:-1] + plan[-2:-1]}
    assert serve(plan[:-4], starts, StageId(1, 1)) == {}, "more than 2 % longer"
    assert serve(plan, {}, StageId(1, 1)) == {}


def test_a_file_that_is_no_demo_ends_it_before_a_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1-1_noops3.npz").write_bytes(b"not a demo")
    assert noop_demos.main(["--stages", "1-1", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "not a whole demo file" in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["1-1_noops3.npz"]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--stages", "9-1"], "no stage '9-1'"),
        (["--stages", "1-1", "--noops", "-1"], "--noops must not be negative"),
        (["--stages", "1-1", "--action-set", "slow"], "invalid choice 'slow'"),
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
