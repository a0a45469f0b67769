"""The scene as a grid of cells: what is drawn into it is where the scene has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastnes.state import RAM_SIZE
from mario_demos import load_demo, snapshots
from mario_scene import CELL_PX, COLUMNS_BEHIND, TILE_TOP, Kind, Scene, Tile, read_scene
from mario_scene_grid import DX, DY, SPEED_UNITS, THING, TILE, VX, Thing, scene_grid, sprite_mask

DEMOS = Path(__file__).parents[1] / "demos"


def ram_along(stage: str, every: int = 16) -> np.ndarray:
    states = np.stack([way.state for way in snapshots(load_demo(DEMOS / f"{stage}.npz"), every)])
    return np.ascontiguousarray(states[:, :RAM_SIZE])


def scene_along(stage: str) -> Scene:
    return read_scene(ram_along(stage))


def places_of(grid: np.ndarray, scene: Scene, i: int, thing: Thing) -> list[tuple[int, int]]:
    """Return (x, y) on the screen of the things of a kind in grid i, px."""
    left = int(scene.mario.x_on_screen[i] - scene.mario.x[i] % CELL_PX) - COLUMNS_BEHIND * CELL_PX
    found = []
    for row, column in np.argwhere(grid[i, THING] == thing).tolist():
        x = left + column * CELL_PX + CELL_PX // 2 + int(grid[i, DX, row, column])
        y = TILE_TOP + row * CELL_PX + CELL_PX // 2 + int(grid[i, DY, row, column])
        found.append((x, y))
    return found


def test_goombas_and_mario_stand_where_the_scene_has_them() -> None:
    scene = scene_along("1-1")
    grid = scene_grid(scene)
    checked = 0
    for i, slot in np.argwhere((scene.objects.kind == Kind.GOOMBA) & scene.objects.on_screen):
        if scene.objects.state[i, slot] & 0x20:
            continue
        x = int(scene.mario.x_on_screen[i]) + int(scene.objects.dx[i, slot]) + 8
        y = int(scene.mario.y[i]) + int(scene.objects.dy[i, slot]) + 16
        if not -60 < int(scene.objects.dx[i, slot]) < 170:
            continue  # beyond the grid's columns
        walkers = places_of(grid, scene, i, Thing.WALKER)
        assert any(abs(x - px) <= 8 and abs(y - py) <= 8 for px, py in walkers), (i, slot)
        checked += (x, y) in walkers
    assert checked > 10
    marios = [places_of(grid, scene, i, Thing.MARIO) for i in range(len(grid))]
    assert sum(len(places) == 1 for places in marios) > 0.8 * len(grid)
    for i, places in enumerate(marios):
        for x, y in places:
            assert x == int(scene.mario.x_on_screen[i]) + 8
            assert y == int(scene.mario.y[i]) + (24 if scene.mario.is_small[i] else 16)


def test_tiles_are_those_that_a_screen_shows_and_speeds_have_a_unit() -> None:
    scene = scene_along("1-1")
    grid = scene_grid(scene)
    np.testing.assert_array_equal(grid[:, TILE], scene.shown_tiles())
    assert not np.isin(grid[:, TILE], (Tile.HIDDEN, Tile.PIPE_ENTRY)).any()
    i, row, column = np.argwhere(grid[:, THING] == Thing.MARIO)[-1]
    told = grid[i, VX, row, column] / SPEED_UNITS
    assert told == pytest.approx(float(scene.mario.vx[i]), abs=0.5 / SPEED_UNITS + 1e-6)


@pytest.mark.parametrize(
    ("stage", "thing", "apart"), [("1-4", Thing.FIRE, 8), ("1-3", Thing.LIFT, 16)]
)
def test_fire_bars_and_lifts_fill_a_cell_for_each_part(
    stage: str, thing: Thing, apart: int
) -> None:
    scene = scene_along(stage)
    grid = scene_grid(scene)
    counts = (grid[:, THING] == thing).sum((1, 2))
    assert counts.max() >= 3
    i = int(counts.argmax())
    places = np.array(places_of(grid, scene, i, thing))
    nearest = [np.sort(np.abs(places - place).max(1))[1] for place in places]
    assert min(nearest) <= 2 * apart


@pytest.mark.parametrize("rows", [(0, 240), (32, 224)])
def test_things_are_drawn_as_sprites_and_little_else_is(rows: tuple[int, int]) -> None:
    ram = ram_along("1-1")
    scene = read_scene(ram)
    grid, mask = scene_grid(scene), sprite_mask(ram, 64, rows)
    found = []
    for i in range(len(ram)):
        for thing in (Thing.MARIO, Thing.WALKER):
            for x, y in places_of(grid, scene, i, thing):
                row, column = (y - rows[0]) * 64 // (rows[1] - rows[0]), x // 4
                if 0 <= row < 64 and 2 <= column < 62:
                    found.append(bool(mask[i, row, column]))
    assert len(found) > 40
    assert np.mean(found) > 0.9
    assert 0.005 < mask.mean() < 0.1


def test_what_no_screen_shows_is_in_no_cell() -> None:
    scene = scene_along("1-1")
    hidden = scene.objects._replace(on_screen=np.zeros_like(scene.objects.on_screen))
    grid = scene_grid(scene._replace(objects=hidden))
    assert set(np.unique(grid[:, THING]).tolist()) <= {Thing.NOTHING, Thing.MARIO}
