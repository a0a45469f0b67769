"""Finding clears: exploring, what leads where, and beams; from any snapshot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastnes import BatchMachine, start_snapshot
from fastnes.ram import BUTTON_A, BUTTON_B, BUTTON_LEFT, BUTTON_RIGHT
from mario_demos import AGENT_FRAMES, Waypoint, load_demo, record, snapshots
from mario_game import StageId, action_buttons, has_cleared, read_facts
from mario_search.beam import CHANGE_PRICE, Beam, beam_search, shorten
from mario_search.explore import Explored, explore
from mario_search.play import Route, all_moves, changes, moves_of
from mario_search.ways import COLUMNS, GOAL, PLACES_PER_COLUMN, Distances, Ways, hidden_blocks

DEMOS = Path(__file__).resolve().parents[1] / "demos"
FAST = action_buttons("fast")
HERE = StageId(1, 1)  # the stage that is searched, where none is named


def enough(batches: int, cells: int) -> bool:
    """End a search that would otherwise have found a clear long ago."""
    return batches >= 1000


def plays(route: Route, start: np.ndarray) -> bool:
    """Return whether a route clears 1-1 from a snapshot, in the frames that it says."""
    pressed = np.repeat(np.frombuffer(route.buttons, np.uint8), AGENT_FRAMES)
    demo = record(*HERE, pressed, source="search", start=start)
    return demo.cleared and (demo.frames, demo.agent_steps) == (route.frames, route.steps)


@pytest.fixture(scope="module")
def first() -> Explored:
    """The first clear of 1-1 from seed 0: the same on every machine."""
    found = explore(start_snapshot(*HERE), HERE, seed=0, is_over=enough)
    assert found is not None, "no clear of 1-1 in 1,000 batches of 64 agent steps"
    return found


@pytest.fixture(scope="module")
def near_the_end() -> Waypoint:
    """1-1 at step 208 of the 265 of its demo."""
    return snapshots(load_demo(DEMOS / "1-1.npz"), 208 * AGENT_FRAMES)[1]


# --------------------------------------------------------------------------------------------
# Exploring, and what it has seen
# --------------------------------------------------------------------------------------------


def test_exploring_finds_a_clear_of_1_1(first: Explored) -> None:
    assert plays(first.route, start_snapshot(*HERE))
    assert first.route.steps == 338  # as docs/routes.md says


def test_exploring_starts_from_any_snapshot(near_the_end: Waypoint) -> None:
    found = explore(near_the_end.state, HERE, seed=0, is_over=enough)
    assert found is not None
    assert plays(found.route, near_the_end.state)
    assert 50 < found.route.steps < 200


def test_a_snapshot_of_another_stage_is_refused(first: Explored) -> None:
    start, distances = start_snapshot(2, 1), Distances(first.ways)
    with pytest.raises(ValueError, match="the snapshot is on 2-1, not on 1-1"):
        explore(start, HERE, seed=0, is_over=enough)
    with pytest.raises(ValueError, match="the snapshot is on 2-1, not on 1-1"):
        beam_search(start, HERE, distances, Beam(all_moves(HERE)), np.random.default_rng(0))
    with pytest.raises(ValueError, match="snapshot"):
        explore(start[:-1], StageId(2, 1), seed=0, is_over=enough)


def test_the_goal_is_as_far_as_the_fewest_steps_seen() -> None:
    ways = Ways()
    # 1 - 2 - 3 - GOAL, 1 - 3 straight, 4 is a dead end
    for came_from, place in [(1, 2), (2, 3), (3, GOAL), (1, 3), (1, 4), (2, 1), (3, 3)]:
        ways.add(place, came_from)
    assert ways.steps_to_goal() == {3: 1, 1: 2, 2: 2}


def test_distance_falls_along_the_route(first: Explored) -> None:
    distances = Distances(first.ways)
    machine = BatchMachine(1, frames=AGENT_FRAMES, threads=1)
    machine.restore(0, start_snapshot(*HERE))
    seen = []
    for button in first.route.buttons[:-1]:
        machine.step(np.array([button], np.uint8), draw=False)
        facts = read_facts(machine.ram_before)
        distance, detour = distances.of(machine.ram_before, facts, np.zeros(1))
        seen.append((int(facts.x_pos[0]), float(distance[0] - 0.75 * detour[0])))
    (first_x, far), (last_x, near) = seen[0], seen[-1]
    assert near < 2 and abs(far - (last_x - first_x) / 16) < 0.1 * far


@pytest.mark.slow
def test_the_wrong_fork_of_a_maze_is_a_long_detour() -> None:
    found = explore(start_snapshot(4, 4), StageId(4, 4), seed=0, is_over=enough)
    assert found is not None
    distances = Distances(found.ways)
    # Above x 1,700 two of three floors throw Mario back four pages, 64 columns.
    columns = distances.places // PLACES_PER_COLUMN
    here = distances.detours[columns == 0x61 * COLUMNS + 1700 // 16]
    assert here.min() == 0 and here.max() > 60
    assert ((here < 10) | (here > 60)).all()


def test_the_hidden_block_on_the_way_through_8_4_is_seen() -> None:
    machine = BatchMachine(1, frames=AGENT_FRAMES, threads=1)
    machine.restore(0, start_snapshot(8, 4))
    found = []
    for button in load_demo(DEMOS / "8-4.npz").buttons[::AGENT_FRAMES]:
        machine.step(np.array([button], np.uint8), draw=False)
        facts = read_facts(machine.ram_before)
        found.append(int(hidden_blocks(facts)[0]))
    assert found == sorted(found) and found[0] == 0 < found[-1]


def test_a_flag_in_another_stage_is_no_clear() -> None:
    # 1-2's warp zone leads to worlds 2 to 4; a state of 2-1 must not count for 1-1.
    clear = load_demo(DEMOS / "1-1.npz")
    machine = BatchMachine(1, frames=clear.frames, threads=1)
    machine.restore(0, start_snapshot(*HERE))
    machine.step(clear.buttons[None])
    facts = read_facts(machine.ram_before)
    assert has_cleared(facts, 1, 1).all()
    assert not has_cleared(facts, 2, 1).any()


# --------------------------------------------------------------------------------------------
# Beams
# --------------------------------------------------------------------------------------------


def test_a_beam_shortens_it_and_does_so_again(first: Explored) -> None:
    beam = Beam(all_moves(HERE), width=16, most_frames=first.route.frames - 1)
    distances, start = Distances(first.ways), start_snapshot(*HERE)
    found = [beam_search(start, HERE, distances, beam, np.random.default_rng(0)) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0] is not None and found[0].frames < first.route.frames
    assert plays(found[0], start)


def test_a_price_on_changes_makes_it_simpler_and_not_longer(
    first: Explored, near_the_end: Waypoint
) -> None:
    distances = Distances(first.ways)
    found = []
    for price in (0.0, CHANGE_PRICE):
        beam = Beam(all_moves(HERE), change_price=price)
        rng = np.random.default_rng(0)
        found.append(beam_search(near_the_end.state, HERE, distances, beam, rng))
    free, priced = found
    assert free is not None and priced is not None
    assert plays(priced, near_the_end.state)
    assert priced.steps <= free.steps
    assert changes(priced.buttons) < changes(free.buttons) / 2


def test_a_beam_presses_what_an_action_set_has(first: Explored, near_the_end: Waypoint) -> None:
    beam = Beam(moves_of(FAST, HERE))
    start, rng = near_the_end.state, np.random.default_rng(0)
    found = beam_search(start, HERE, Distances(first.ways), beam, rng)
    assert found is not None and plays(found, start)
    assert set(found.buttons) <= set(FAST.tolist())


def test_what_random_play_presses_stands_for_the_nearest_action() -> None:
    everything = all_moves(HERE)
    moves = moves_of(FAST, HERE)
    odds = dict(zip(moves.buttons.tolist(), moves.odds.tolist(), strict=True))
    right_b, left = BUTTON_RIGHT | BUTTON_B, BUTTON_LEFT
    assert list(odds) == FAST.tolist()
    assert sum(odds.values()) == pytest.approx(1)
    assert odds[right_b] + odds[right_b | BUTTON_A] > 0.75
    drawn = dict(zip(everything.buttons.tolist(), everything.odds.tolist(), strict=True))
    assert odds[left] >= drawn[left] + drawn[left | BUTTON_B]


def test_a_beam_that_may_not_take_long_enough_finds_nothing(
    first: Explored, near_the_end: Waypoint
) -> None:
    beam = Beam(all_moves(HERE), width=16, most_frames=100)
    start, rng = near_the_end.state, np.random.default_rng(0)
    assert beam_search(start, HERE, Distances(first.ways), beam, rng) is None


def test_shortening_goes_on_until_it_is_told_to_stop(first: Explored) -> None:
    asked = 0

    def is_over() -> bool:
        nonlocal asked
        asked += 1
        return asked > 700

    beam = Beam(all_moves(HERE), width=8)
    found = list(shorten(start_snapshot(*HERE), HERE, first, beam, seed=0, is_over=is_over))
    widths, routes = zip(*found, strict=True)
    assert widths[0] == 8 and list(widths) == sorted(widths)
    frames = [route.frames for route in routes]
    assert routes[0] == first.route and frames == sorted(frames, reverse=True)
    assert plays(routes[-1], start_snapshot(*HERE)) and frames[-1] < frames[0]
