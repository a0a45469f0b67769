"""docs/environment.md: its code runs, and its table of differences is true, line by line."""

from __future__ import annotations

import html
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import test_design as design

import mario_gym  # noqa: F401 (registers the ids)
from mario_cli import UsageError
from mario_game import ACTION_SETS

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
TABLE = PAGE[PAGE.index("| | there") : PAGE.index("## Other libraries")]
LINES = re.findall(r"^\| ([\w ]+) \|", TABLE, re.MULTILINE)
PLAIN = {"noop_max": 0, "frame_skip": 1, "observation": "rgb", "render_mode": "rgb_array"}


class Both:
    """The two environments, a frame a step, from the same start."""

    def __init__(self) -> None:
        smb = pytest.importorskip("gym_super_mario_bros")
        wrappers = pytest.importorskip("nes_py.wrappers")
        actions = pytest.importorskip("gym_super_mario_bros.actions")
        del smb
        made = gym.make("SuperMarioBros-1-1-v0", render_mode="rgb_array")
        self.theirs: Any = wrappers.JoypadSpace(made, actions.SIMPLE_MOVEMENT)
        self.ours: Any = gym.make("FastMario-1-1-v0", **PLAIN)  # type: ignore[arg-type]
        self.first, self.their_info = self.theirs.reset()
        self.seen, self.info = self.ours.reset(seed=0)

    def step(self, action: int) -> tuple[Any, Any]:
        one, other = self.theirs.step(action), self.ours.step(action)
        self.their_info, self.info = one[-1], other[-1]
        return one, other


def walk(frames: int = 60) -> list[int]:
    return np.repeat([3, 4, 1, 6], frames // 4).tolist()


def same_id(both: Both) -> None:
    assert str(both.ours.unwrapped.config.stages[0]) == "1-1"
    assert (both.their_info["world"], both.their_info["stage"]) == (1, 1)


def same_memory(both: Both) -> None:
    for action in walk():
        both.step(action)
        ours = both.ours.unwrapped.batch.machines.states[0, :2048]
        np.testing.assert_array_equal(both.theirs.unwrapped.ram, ours)


def same_screen(both: Both) -> None:
    np.testing.assert_array_equal(both.theirs.render(), both.ours.render())
    for action in walk():
        (seen, *_), (ours, *_) = both.step(action)
        np.testing.assert_array_equal(seen, ours)


def same_buttons(both: Both) -> None:
    from gym_super_mario_bros import actions

    assert ACTION_SETS["right_only"] == actions.RIGHT_ONLY
    assert ACTION_SETS["simple"] == actions.SIMPLE_MOVEMENT
    assert ACTION_SETS["complex"] == actions.COMPLEX_MOVEMENT
    assert set(ACTION_SETS) == {"right_only", "simple", "complex", "fast", "agile", "full"}


def a_step_of_four_frames(both: Both) -> None:
    env = gym.make("FastMario-1-1-v0", noop_max=0)
    env.reset(seed=0)
    assert env.step(0)[-1]["frames"] == 4
    assert both.step(0)[1][-1]["frames"] == 1


def observations(both: Both) -> None:
    assert both.first.shape == both.seen.shape == (240, 256, 3)
    assert gym.make("FastMario-1-1-v0").observation_space.shape == (4, 84, 84)


def starts(both: Both) -> None:
    env = gym.make("FastMario-1-1-v0", observation="ram")
    assert len({env.reset(seed=seed)[0].tobytes() for seed in range(12)}) > 4
    fixed = gym.make("FastMario-1-1-v0", observation="ram", noop_max=0)
    assert len({fixed.reset(seed=seed)[0].tobytes() for seed in range(12)}) == 1


def infos(both: Both) -> None:
    assert len(both.their_info) == int(re.findall(r"(\d+) names", PAGE)[0])
    for action in walk():
        both.step(action)
        for name in "x_pos time world stage life coins score flag_get y_pos".split():
            assert both.info[name] == both.their_info[name], name
        assert both.info["status"] == both.their_info["status_value"]


def rewards(both: Both) -> None:
    for action in walk():
        _, (_, reward, _, _, info) = both.step(action)
        assert reward == info["reward_terms"]["base"]
        assert abs(reward) <= 15


def after_the_end(both: Both) -> None:
    while not both.step(3)[0][2]:
        pass
    with pytest.raises(ValueError, match="done"):
        both.theirs.step(0)
    with pytest.raises(gym.error.ResetNeeded):
        both.ours.step(0)


def wrong_actions(both: Both) -> None:
    with pytest.raises(KeyError):
        both.theirs.step(99)
    with pytest.raises(OverflowError):
        both.theirs.unwrapped.step(256)
    with pytest.raises(UsageError):
        both.ours.step(256)


def films(both: Both) -> None:
    assert gym.make("FastMario-1-1-v0").metadata["render_fps"] == pytest.approx(15.02, abs=0.01)


def snapshots(both: Both) -> None:
    kept = []
    for action in walk(12):
        kept.append(both.ours.unwrapped.snapshot())
        both.step(action)
    for snapshot in kept[::-1]:
        seen, _ = both.ours.unwrapped.restore(snapshot)
        np.testing.assert_array_equal(seen, snapshot.observation)


def speed(both: Both) -> None:
    assert "frames/s undrawn over nes-py" in (ROOT / "docs" / "fastnes.md").read_text()


CHECKS: dict[str, Callable[[Both], None]] = {
    **{"id": same_id, "memory": same_memory, "screen": same_screen, "buttons": same_buttons},
    **{"a step": a_step_of_four_frames, "observation": observations, "start": starts},
    **{"info": infos, "reward": rewards, "after the end": after_the_end},
    **{"wrong actions": wrong_actions, "films": films, "snapshots": snapshots, "speed": speed},
}


def test_every_line_of_the_table_is_checked() -> None:
    assert sorted(LINES) == sorted(CHECKS)


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_table_is_true(line: str) -> None:
    CHECKS[line](Both())


@pytest.mark.parametrize("number", range(len(CODE)))
def test_the_pages_code_runs(number: int) -> None:
    exec(compile(CODE[number], "docs/environment.md", "exec"), {})


API = re.search(r"^    python -m (pdoc (?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
assert API
PDOC = API[1].replace("\\\n", " ").split()  # the page's command, without `python -m`
DOCUMENTED = PDOC[PDOC.index("api") + 1 :]
NOT_FOR_AGENTS = {
    "mario_inputs",
    "mario_recipes",
    "mario_reference",
}  # rooms of the environment's own


def test_the_api_pages_hold_the_whole_environment() -> None:
    """Floors 1 and 2 of docs/design.md, and what they say of the game and of the machine."""
    floors = design.read_floors(design.PAGE.read_text(encoding="utf-8"))
    rooms = {Path(room).stem for room, floor in floors.items() if floor in (1, 2)}
    assert rooms - NOT_FOR_AGENTS <= set(DOCUMENTED)
    assert {"fastnes", "mario_game", "mario_scene", "mario_scene_flat"} <= set(DOCUMENTED)


def undocumented(name: str) -> Iterator[str]:
    """Yield the public classes and functions of a module, and of those inside, without a text."""
    import pdoc.doc

    module = pdoc.doc.Module.from_name(name)

    def below(found: Any) -> Iterator[Any]:
        members = found.own_members if isinstance(found, pdoc.doc.Class) else found.members.values()
        for member in members:
            if member.name.startswith("_") or isinstance(member, pdoc.doc.Module):
                continue
            yield member
            if isinstance(member, pdoc.doc.Class):
                yield from below(member)

    if not module.docstring:
        yield name
    for member in below(module):
        is_ours = member.taken_from[0] == name or name == "mario_gym"
        if member.kind in ("class", "function") and is_ours and not member.docstring:
            yield member.fullname


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_name_says_what_it_is(name: str) -> None:
    pytest.importorskip("pdoc")
    inside = [found.name for found in pkgutil.iter_modules([str(ROOT / name)])]
    if name == "fastnes":  # what others use is named one by one; the rest is the machine's inside
        inside = ["ram"]
    for module in (name, *(f"{name}.{each}" for each in inside)):
        assert list(undocumented(module)) == []


def test_a_name_that_says_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pdoc")
    text = 'def silent(): ...\n\n\nclass Said:\n    """Says it."""\n\n    def not_it(self): ...\n'
    (tmp_path / "says_little.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ["says_little", "says_little.Said.not_it", "says_little.silent"]
    assert sorted(undocumented("says_little")) == names


def test_the_api_pages_are_built(tmp_path: Path) -> None:
    pytest.importorskip("pdoc")
    command = [str(tmp_path) if word == "api" else word for word in PDOC]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in DOCUMENTED:
        page = (tmp_path / f"{name.replace('.', '/')}.html").read_text(encoding="utf-8")
        text = importlib.import_module(name).__doc__ or ""
        assert html.escape(text.split("`")[0].splitlines()[0][:40], quote=False) in page
    assert "FastMario-1-1-v0" in (tmp_path / "mario_gym.html").read_text(encoding="utf-8")
