"""The route search: a clear from a seed, a shorter one from it, and what the command refuses."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from fastnes import BatchMachine, start_snapshot
from mario_demos import AGENT_FRAMES, load_demo, record, replay
from mario_runtime import read_facts

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "scripts"))

import search_route  # noqa: E402  (scripts/ is not a package)
from search_route import GOAL, Distances, Explored, Ways  # noqa: E402

DEMOS = REPOSITORY / "demos"


@pytest.fixture(scope="module")
def first() -> Explored:
    """The first clear of 1-1 from seed 0: the same on every machine."""
    found = search_route.explore((1, 1), seed=0, is_over=lambda batches, cells: batches >= 1000)
    assert found is not None, "no clear of 1-1 in 1,000 batches of 64 agent steps"
    return found


def test_exploring_finds_a_clear_of_1_1(first: Explored) -> None:
    demo = record(1, 1, np.repeat(np.frombuffer(first.route.buttons, np.uint8), 4), source="search")
    assert demo.cleared
    assert (demo.frames, demo.agent_steps) == (first.route.frames, first.route.steps)


def test_a_beam_shortens_it_and_does_so_again(first: Explored) -> None:
    distances = Distances(first.ways)
    found = [
        search_route.beam_search(
            *((1, 1), start_snapshot(1, 1), first.route.frames - 1, distances, 16),
            np.random.default_rng(0),
            is_over=lambda: False,
        )
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert found[0] is not None and found[0].frames < first.route.frames
    pressed = np.repeat(np.frombuffer(found[0].buttons, np.uint8), AGENT_FRAMES)
    demo = record(1, 1, pressed, source="search")
    assert demo.cleared and demo.frames == found[0].frames


def test_the_goal_is_as_far_as_the_fewest_steps_seen() -> None:
    ways = Ways()
    # 1 - 2 - 3 - GOAL, 1 - 3 straight, 4 is a dead end
    for came_from, place in [(1, 2), (2, 3), (3, GOAL), (1, 3), (1, 4), (2, 1), (3, 3)]:
        ways.add(place, came_from)
    assert ways.steps_to_goal() == {3: 1, 1: 2, 2: 2}


def test_distance_falls_along_the_route(first: Explored) -> None:
    distances = Distances(first.ways)
    machine = BatchMachine(1, frames=AGENT_FRAMES, threads=1)
    machine.restore(0, start_snapshot(1, 1))
    seen = []
    for button in first.route.buttons[:-1]:
        machine.step(np.array([button], np.uint8), draw=False)
        facts = read_facts(machine.ram_before)
        distance, detour = distances.of(machine.ram_before, facts, np.zeros(1))
        seen.append((int(facts.x_pos[0]), float(distance[0] - 0.75 * detour[0])))
    (first_x, far), (last_x, near) = seen[0], seen[-1]
    assert near < 2 and abs(far - (last_x - first_x) / 16) < 0.1 * far


def test_the_wrong_fork_of_a_maze_is_a_long_detour() -> None:
    found = search_route.explore((4, 4), seed=0, is_over=lambda batches, cells: batches >= 1000)
    assert found is not None
    distances = Distances(found.ways)
    # Above x 1,700 two of three floors throw Mario back four pages, 64 columns.
    columns = distances.places // search_route.PLACES_PER_COLUMN
    here = distances.detours[columns == 0x61 * search_route.COLUMNS + 1700 // 16]
    assert here.min() == 0 and here.max() > 60
    assert ((here < 10) | (here > 60)).all()


def test_the_hidden_block_on_the_way_through_8_4_is_seen() -> None:
    machine = BatchMachine(1, frames=AGENT_FRAMES, threads=1)
    machine.restore(0, start_snapshot(8, 4))
    found = []
    for button in load_demo(DEMOS / "8-4.npz").buttons[::AGENT_FRAMES]:
        machine.step(np.array([button], np.uint8), draw=False)
        facts = read_facts(machine.ram_before)
        found.append(int(search_route.hidden_blocks(facts)[0]))
    assert found == sorted(found) and found[0] == 0 < found[-1]


def test_a_flag_in_another_stage_is_no_clear() -> None:
    # 1-2's warp zone leads to worlds 2 to 4; a state of 2-1 must not count for 1-1.
    clear = load_demo(DEMOS / "1-1.npz")
    machine = BatchMachine(1, frames=clear.frames, threads=1)
    machine.restore(0, start_snapshot(1, 1))
    machine.step(clear.buttons[None])
    facts = read_facts(machine.ram_before)
    assert search_route.has_cleared(facts, (1, 1)).all()
    assert not search_route.has_cleared(facts, (2, 1)).any()


def test_the_command_writes_what_is_shorter_and_keeps_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(DEMOS / "6-4.npz", tmp_path)
    before = (tmp_path / "6-4.npz").read_bytes()
    results = tmp_path / "routes.json"
    flags = ["--stages", "1-4,6-4", "--shorten", "0", "--threads", "1"]
    flags += ["--output", str(tmp_path), "--results", str(results)]
    assert search_route.main(flags) == 0
    printed = capsys.readouterr().out
    assert "wrote" in printed and "kept the old" in printed
    assert (tmp_path / "6-4.npz").read_bytes() == before
    demo = load_demo(tmp_path / "1-4.npz")
    assert replay(demo, "nes-py") == (None, True, demo.frames)
    figures = json.loads(results.read_text())
    assert list(figures) == ["1-4"]
    assert figures["1-4"]["agent_steps"] == demo.agent_steps
    assert "| 1-4 | " in search_route.routes_page(figures)


def test_no_clear_in_time_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--world", "8", "--stage", "4", "--seconds", "0", "--output", str(tmp_path)]
    assert search_route.main(flags) == 1
    assert capsys.readouterr().err.strip() == "error: no clear of 8-4 within 0 s"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name a stage"),
        (["--world", "1"], "name a stage"),
        (["--stages", "9-1"], "no stage 9-1"),
        (["--stages", "one"], "stages 'one'"),
    ],
)
def test_wrong_flags_are_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search_route.main(flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_bad_demo_is_refused_before_the_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1-1.npz").write_bytes(b"not a demo")
    assert search_route.main(["--stages", "1-1", "--output", str(tmp_path)]) == 2
    assert "not a whole demo file" in capsys.readouterr().err
    assert (tmp_path / "1-1.npz").read_bytes() == b"not a demo"


def test_the_page_of_routes_is_the_results() -> None:
    results = json.loads(search_route.RESULTS.read_text())
    assert search_route.TABLE.read_text() == search_route.routes_page(results)
