"""A scene as a grid of cells: what stands in each of 16 px, what moves there, where and how fast.

    grid = scene_grid(read_scene(ram))         # int8[n, PLANES, ROWS, COLUMNS]
    grid[:, THING] == Thing.WALKER             # the cells in which an enemy walks

The cells are those of `Scene.tiles`: 16 columns from four behind Mario on, 13 rows from below the
status bar down. Only what the screen shows is told: what a model that sees pixels can know.
`sprite_mask` says which pixels of a picture show what moves.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import numpy as np

from fastnes.compiled import compiled
from fastnes.ram import OAM_SHADOW, OAM_SPRITES
from mario_scene import (
    BEATEN,
    BOXES,
    CELL_PX,
    COLUMNS,
    COLUMNS_BEHIND,
    ENEMY_SLOTS,
    FIRE_PX,
    KINDS,
    LARGE_LIFTS,
    POWER_UPS,
    ROWS,
    SCREEN_WIDTH,
    SLOTS,
    SMALL_LIFTS,
    TILE_TOP,
    Kind,
    Mario,
    Objects,
    Scene,
    fires_of,
)

PLANES = 6
TILE, THING, DX, DY, VX, VY = range(PLANES)
SPEED_UNITS = 16  # of VX and VY in a px a frame; DX and DY are px from the cell's centre
MOST = 127  # of an int8


class Thing(enum.IntEnum):
    """What moves in a cell, by what it does to Mario."""

    NOTHING = 0
    MARIO = 1
    WALKER = 2  # on the ground: can be jumped on, spinies apart
    FLYER = 3
    SWIMMER = 4
    PLANT = 5
    FIRE = 6  # of a fire bar each one, podoboos, Bowser's
    HAMMER = 7
    BULLET = 8
    BOWSER = 9
    LIFT = 10  # each 16 px of one
    POWER_UP = 11
    OTHER = 12  # what harms nobody: beaten enemies, springs, vines, coins, fireballs, the flag


THINGS = len(Thing)
ENEMIES = tuple(Thing(number) for number in range(Thing.WALKER, Thing.BOWSER + 1))


def _thing_table() -> np.ndarray:
    """Return uint8[KINDS], the Thing of each Kind."""
    table = np.full(KINDS, Thing.OTHER, np.uint8)
    table[Kind.NONE] = Thing.NOTHING
    groups: dict[Thing, Iterable[int]] = {
        Thing.WALKER: [*range(Kind.GOOMBA, Kind.HOPPING_PARATROOPA + 1)],
        Thing.FLYER: [
            *(Kind.RED_PARATROOPA, Kind.FLYING_PARATROOPA, Kind.FLYING_CHEEP_CHEEP, Kind.LAKITU)
        ],
        Thing.SWIMMER: [Kind.BLOOPER, Kind.GRAY_CHEEP_CHEEP, Kind.RED_CHEEP_CHEEP],
        Thing.PLANT: [Kind.PLANT],
        Thing.FIRE: [Kind.PODOBOO, Kind.BOWSER_FLAME, Kind.FIRE_BAR],
        Thing.HAMMER: [Kind.HAMMER],
        Thing.BULLET: [Kind.BULLET],
        Thing.BOWSER: [Kind.BOWSER],
        Thing.LIFT: [*LARGE_LIFTS, *SMALL_LIFTS],
        Thing.POWER_UP: POWER_UPS,
    }
    for thing, kinds in groups.items():
        table[list(kinds)] = thing
    return table


THING_OF_KIND = _thing_table()


def scene_grid(scene: Scene) -> np.ndarray:
    """Return int8[n, PLANES, ROWS, COLUMNS] of a scene; where nothing moves, 0 but for TILE.

    Planes: TILE a `Tile` as the screen shows it, UNKNOWN beyond its edges; THING a `Thing`; DX and
    DY its centre's distance from the cell's centre, px; VX and VY its speed, 1/16 px a frame. Of
    several things in a cell the one in the last slot is told, Mario if he is alone. What is higher
    than the first row is in none.
    """
    grid = np.zeros((len(scene.tiles), PLANES, ROWS, COLUMNS), np.int8)
    grid[:, TILE] = scene.shown_tiles()
    fire_x, fire_y, burns = fires_of(scene.objects)
    _fill_things(scene.objects, scene.mario, fire_x, fire_y, burns, THING_OF_KIND, grid)
    return grid


@compiled
def _put(
    grid: np.ndarray, thing: int, x: float, y: float, vx: float, vy: float, phase: int
) -> None:
    """Write a thing into int8[PLANES, ROWS, COLUMNS].

    Its centre is x px right of Mario's left edge and y px below the screen's upper one; phase is
    how far Mario stands into his column.
    """
    right = x + phase + COLUMNS_BEHIND * CELL_PX
    column, row = int(right // CELL_PX), int((y - TILE_TOP) // CELL_PX)
    if column < 0 or column >= COLUMNS or row < 0 or row >= ROWS:
        return
    grid[THING, row, column] = thing
    grid[DX, row, column] = int(right - column * CELL_PX) - CELL_PX // 2
    grid[DY, row, column] = int(y - TILE_TOP - row * CELL_PX) - CELL_PX // 2
    grid[VX, row, column] = int(min(max(round(vx * SPEED_UNITS), -MOST), MOST))
    grid[VY, row, column] = int(min(max(round(vy * SPEED_UNITS), -MOST), MOST))


@compiled
def _fill_things(
    objects: Objects,
    mario: Mario,
    fire_x: np.ndarray,
    fire_y: np.ndarray,
    burns: np.ndarray,
    thing_of_kind: np.ndarray,
    grid: np.ndarray,
) -> None:
    """Fill the planes of int8[n, PLANES, ROWS, COLUMNS] that are not of tiles, zeros before."""
    for i in range(len(grid)):
        phase = np.int64(mario.x[i] % CELL_PX)
        y0 = np.int64(mario.y[i])
        top = CELL_PX if mario.is_small[i] else 0
        middle = y0 + top + (2 * CELL_PX - top) / 2
        _put(grid[i], Thing.MARIO, CELL_PX / 2, middle, mario.vx[i], mario.vy[i], phase)
        for slot in range(SLOTS):
            kind = np.int64(objects.kind[i, slot])
            if kind == Kind.FIRE_BAR:
                for fire in range(burns.shape[2]):
                    x = mario.x_on_screen[i] + fire_x[i, slot, fire] + FIRE_PX / 2
                    if burns[i, slot, fire] and 0 <= x < SCREEN_WIDTH:
                        right = fire_x[i, slot, fire] + FIRE_PX / 2
                        y = y0 + fire_y[i, slot, fire] + FIRE_PX / 2
                        _put(grid[i], Thing.FIRE, right, y, 0.0, 0.0, phase)
                continue
            if kind == Kind.NONE or not objects.on_screen[i, slot]:
                continue
            thing = np.int64(thing_of_kind[kind])
            is_enemy = slot < ENEMY_SLOTS and kind < Kind.FIRE_BAR
            if is_enemy and objects.state[i, slot] & BEATEN:
                thing = np.int64(Thing.OTHER)
            width = int(objects.width[i, slot])
            left = objects.dx[i, slot] + BOXES[kind, 0]
            vx, vy = objects.vx[i, slot], objects.vy[i, slot]
            parts = max(1, width // CELL_PX) if thing == Thing.LIFT else 1
            for part in range(parts):
                x = left + width * (2 * part + 1) / (2 * parts)
                y = y0 + objects.dy[i, slot] + BOXES[kind, 1] + BOXES[kind, 3] / 2
                if 0 <= mario.x_on_screen[i] + x < SCREEN_WIDTH:
                    _put(grid[i], thing, x, y, vx, vy, phase)
                    if objects.twin_dy[i, slot]:
                        twin = y + objects.twin_dy[i, slot] - objects.dy[i, slot]
                        _put(grid[i], thing, x, twin, vx, vy, phase)


# --------------------------------------------------------------------------------------------
# Sprites
# --------------------------------------------------------------------------------------------

SPRITE_BYTES, SPRITE_PX = 4, 8
HIDDEN_FROM_Y = 0xEF  # a sprite that low is not on the screen
FIRST_SPRITE = 1  # the one before it is part of the status bar, for the machine's own sake
SPRITE_RIM_PX = 2  # around each: RAM is a frame ahead of the picture


def sprite_mask(ram: np.ndarray, size: int, rows: tuple[int, int]) -> np.ndarray:
    """Return which pixels of pictures show a sprite, or its rim: bool[n, size, size].

    Args:
        ram: uint8[n, 2048], with the game's copy of what it has the machine draw.
        size: height and width of a picture, px.
        rows: of the screen that it is made from, `EnvConfig.picture_rows`.
    """
    sprites = ram[:, OAM_SHADOW : OAM_SHADOW + SPRITE_BYTES * OAM_SPRITES]
    mask = np.zeros((len(ram), size, size), np.bool_)
    _fill_sprites(sprites.reshape(len(ram), OAM_SPRITES, SPRITE_BYTES), *rows, mask)
    return mask


@compiled
def _fill_sprites(sprites: np.ndarray, first: int, end: int, mask: np.ndarray) -> None:
    """Set the pixels of bool[n, h, w] zeros that sprites, uint8[n, m, 4], are drawn on."""
    height, width = mask.shape[1], mask.shape[2]
    shrink_y, shrink_x = height / (end - first), width / SCREEN_WIDTH
    for i in range(len(mask)):
        for sprite in range(FIRST_SPRITE, sprites.shape[1]):
            y, x = np.int64(sprites[i, sprite, 0]), np.int64(sprites[i, sprite, 3])
            if y >= HIDDEN_FROM_Y:
                continue
            top = (y + 1 - SPRITE_RIM_PX - first) * shrink_y  # a sprite is drawn a line lower
            bottom = (y + 1 + SPRITE_PX + SPRITE_RIM_PX - first) * shrink_y
            left = (x - SPRITE_RIM_PX) * shrink_x
            right = (x + SPRITE_PX + SPRITE_RIM_PX) * shrink_x
            for row in range(max(0, int(np.floor(top))), min(height, int(np.ceil(bottom)))):
                for column in range(max(0, int(np.floor(left))), min(width, int(np.ceil(right)))):
                    mask[i, row, column] = True
