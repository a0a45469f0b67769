"""scripts/simplify_demo.py: the same clear with fewer changes of buttons."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mario_demos import AGENT_FRAMES, Demo, load_demo, record, replay, save_demo, snapshots
from mario_game import action_buttons

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "scripts"))

import simplify_demo  # noqa: E402  (scripts/ is not a package)
from simplify_demo import Simplifier, changes  # noqa: E402

FAST = action_buttons("fast")


@pytest.fixture(scope="module")
def last_part() -> Demo:
    """Return the clear of 1-1 from step 208 of its 265 on."""
    demo = load_demo(REPOSITORY / "demos" / "1-1.npz")
    place = snapshots(demo, 208 * AGENT_FRAMES)[1]
    return record(1, 1, demo.buttons[place.frame :], source="search", seed=3, start=place.state)


def pressed_in(demo: Demo) -> np.ndarray:
    """Return the buttons of each agent step, uint8[steps]."""
    return demo.buttons[demo.noops :: AGENT_FRAMES]


def test_what_is_simpler_still_clears_with_fewer_changes(last_part: Demo) -> None:
    simpler = Simplifier(last_part, FAST, slack=0.02).simplify()
    assert replay(simpler) == (None, True, simpler.frames)
    assert changes(pressed_in(simpler)) < changes(pressed_in(last_part)) / 2
    assert simpler.agent_steps <= 1.02 * last_part.agent_steps
    assert (simpler.source, simpler.seed, simpler.noops) == ("search", 3, 0)
    again = Simplifier(simpler, FAST, slack=0.0)
    assert not again.sweep()  # nothing more can go


def test_buttons_that_the_actions_lack_go_where_they_can(last_part: Demo) -> None:
    buttons = last_part.buttons.copy()
    buttons[:AGENT_FRAMES] |= 4  # select does nothing, and no action of the set has it
    foreign = record(1, 1, buttons, source="human", start=last_part.start)
    assert foreign.cleared
    simpler = Simplifier(foreign, FAST, slack=0.02).simplify()
    assert np.isin(pressed_in(simpler), FAST).all()


def test_what_the_actions_lack_is_replaced_by_random_runs_of_them(
    last_part: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simplify_demo, "MORE_BATCHES", 1)  # the first that clears is enough
    buttons = last_part.buttons.copy()
    buttons[8 * AGENT_FRAMES : 11 * AGENT_FRAMES] |= 4
    buttons[30 * AGENT_FRAMES : 31 * AGENT_FRAMES] |= 4
    foreign = record(1, 1, buttons, source="human", start=last_part.start)
    simplifier = Simplifier(foreign, FAST, slack=0.5)
    assert simplifier.foreign(simplifier.pressed).sum() == 4
    simplifier.translate()  # both stretches
    assert not simplifier.foreign(simplifier.pressed).any()
    assert len(simplifier.pressed) <= simplifier.most_steps
    pressed = np.repeat(simplifier.pressed, AGENT_FRAMES)
    assert record(1, 1, pressed, source="human", start=last_part.start).cleared


def test_the_no_ops_stay_and_the_states_are_those_along_the_clear() -> None:
    demo = load_demo(REPOSITORY / "demos" / "6-1.npz")
    buttons = np.concatenate([np.zeros(7, np.uint8), demo.buttons])
    later = record(6, 1, buttons, source="search", noops=7)
    assert later.cleared  # nothing in 6-1 minds when Mario comes
    simplifier = Simplifier(later, FAST, slack=0.0)
    played = snapshots(later, AGENT_FRAMES)
    for state, place in zip(simplifier.states(), played, strict=True):
        np.testing.assert_array_equal(state, place.state)


def test_the_last_buttons_are_held_until_it_clears(
    last_part: Demo,
) -> None:
    simplifier = Simplifier(last_part, FAST, slack=0.1)
    whole = simplifier.pressed
    simplifier.pressed = whole[:-2]  # the run-up alone: not there yet
    found = simplifier.clear_from(simplifier.start)
    assert found is not None and len(found) > len(whole) - 2
    buttons = np.repeat(found, AGENT_FRAMES)
    assert record(1, 1, buttons, source="search", start=last_part.start).cleared


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["{demo}", "--slack", "-1"], "--slack must not be negative"),
        (["{demo}", "--action-set", "slow"], "no action set 'slow'"),
        (["{demo}"], "is no clear in whole agent steps"),
        (["{missing}"], "cannot read"),
    ],
)
def test_wrong_flags_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], line: str
) -> None:
    names = {"demo": tmp_path / "1-1.npz", "missing": tmp_path / "no.npz"}
    save_demo(names["demo"], record(1, 1, [128] * 40, source="human"))
    given = [flag.format(**names) for flag in flags]
    assert simplify_demo.main([*given, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_command_writes_it_and_says_what_went(
    last_part: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_demo(tmp_path / "1-1.npz", last_part)
    assert simplify_demo.main([str(tmp_path / "1-1.npz"), "--output", str(tmp_path / "out")]) == 0
    simpler = load_demo(tmp_path / "out" / "1-1.npz")
    assert f"became {changes(pressed_in(simpler))}, " in capsys.readouterr().out
