"""A scene as one row of numbers, for a network; which of them a screen tells.

    flat = flatten_scene(scene)                      # float32[n, SCENE_SIZE], everything
    flat = flatten_scene(scene, seen_only=True)      # the same places, 0 where no screen tells it
    flat[:, PARTS["mario"]]                          # by name; MARIO_NUMBERS says which is which

Numbers lie within about -2 to 2. `VISIBLE` marks the places that a screen, and the three before
it, can tell; at these, too, `seen_only` leaves out what lies beyond the screen's edges and shows
tiles as they look. Each cell of the grid has a number in each of `PLANES`, each slot of an enemy
`ENEMY_NUMBERS`, each other slot `OTHER_NUMBERS`.
"""

from __future__ import annotations

import numpy as np

from fastnes import ram as at
from fastnes.compiled import compiled
from mario_scene import (
    BEATEN,
    COLUMNS,
    ENEMY_SLOTS,
    KICKED,
    LONG_BAR_FIRES,
    ROWS,
    SHOWN_AS,
    SLOTS,
    STUNNED_FROM,
    STUNNED_TO,
    TILES,
    Kind,
    Objects,
    Scene,
    Tile,
)

CELLS = ROWS * COLUMNS
PLANES = ("solid", "hit", "pipe", "touch", "special", "secret")
# What a tile is in each plane, 0 where nothing is said.
_SOLID = (Tile.SOLID, Tile.BRICK, Tile.QUESTION, Tile.PIPE, Tile.BRIDGE, Tile.SPRING, Tile.CANNON)
_TILE_NUMBERS: dict[str, dict[Tile, float]] = {
    "solid": dict.fromkeys(_SOLID, 1.0),
    "hit": {Tile.BRICK: 0.5, Tile.QUESTION: 1.0},
    "pipe": {Tile.PIPE: 1.0},
    "touch": {Tile.LAVA: -1.0, Tile.COIN: 0.25, Tile.POLE: 0.5, Tile.VINE: 0.75, Tile.AXE: 1.0},
    "special": {Tile.CANNON: -1.0, Tile.BRIDGE: 0.5, Tile.SPRING: 1.0},
    "secret": {
        **{Tile.HIDDEN: 1.0, Tile.PIPE_ENTRY: -1.0},
        **{Tile.BRICK_WITH_ITEM: 0.5, Tile.QUESTION_WITH_ITEM: 0.5},
    },
}
ENEMY_KINDS = Kind.RETAINER  # kinds from 1 on that are found in the slots of enemies
ENEMY_NUMBERS = (
    *(kind.name.lower() for kind in Kind if Kind.NONE < kind <= ENEMY_KINDS),
    *("on_screen", "dx", "dy", "vx", "vy", "width", "faces_right"),
    *("beaten", "lies", "kicked", "sin", "cos", "fires", "twin_dy"),
    *("timer", *(f"state_bit_{bit}" for bit in range(8))),
)
_HIDDEN_OF_ENEMY = 9  # the last so many of them no screen tells
OTHER_KINDS = tuple(kind for kind in Kind if kind > ENEMY_KINDS)
OTHER_NUMBERS = (
    *(kind.name.lower() for kind in OTHER_KINDS),
    *("on_screen", "dx", "dy", "vx", "vy"),
)
MARIO_NUMBERS = (
    *("y", "x_on_screen", "x_in_cell", "vx", "vy"),
    *("on_ground", "jumps", "falls", "on_pole", "in_control"),
    *("small_size", "crouches", "swims", "faces_right", "tall", "throws_fire", "hurt", "star"),
    *("holds_a", "holds_b"),
)
MACHINE_NUMBERS = (
    *("x_fraction", "y_fraction", "jump_timer", "gravity", "gravity_falling", "run_timer"),
    *("injury_timer", "star_timer", "timer_frames", "maze_correct", "maze_passed"),
    *("world", "stage", "half_screen"),
    *(f"area_bit_{bit}" for bit in range(7)),
    *(f"frame_bit_{bit}" for bit in range(8)),
    *(f"random_{byte}" for byte in range(at.RANDOM_COUNT)),
)
ENEMY_SIZE, OTHER_SIZE, OTHER_SLOTS = len(ENEMY_NUMBERS), len(OTHER_NUMBERS), SLOTS - ENEMY_SLOTS

DX_PX, DY_PX = 128.0, 128.0  # what is 1.0
X_SPEED, Y_SPEED = 4.0, 4.0


def _parts() -> dict[str, slice]:
    """Return the slice of each part of a row, in order."""
    sizes = {
        **dict.fromkeys(PLANES, CELLS),  # row by row, as Scene.tiles
        "column_on_screen": COLUMNS,
        "column_laid_out": COLUMNS,
        "enemies": ENEMY_SLOTS * ENEMY_SIZE,  # slot by slot
        "others": OTHER_SLOTS * OTHER_SIZE,
        "mario": len(MARIO_NUMBERS),
        "machine": len(MACHINE_NUMBERS),
    }
    ends = np.cumsum(list(sizes.values())).tolist()
    return {name: slice(end - sizes[name], end) for name, end in zip(sizes, ends, strict=True)}


PARTS = _parts()
SCENE_SIZE = PARTS["machine"].stop


def _visible() -> np.ndarray:
    """Return bool[SCENE_SIZE]: what a screen and the three before it can tell."""
    visible = np.ones(SCENE_SIZE, np.bool_)
    for name in ("secret", "column_laid_out", "machine"):
        visible[PARTS[name]] = False
    enemies = visible[PARTS["enemies"]].reshape(ENEMY_SLOTS, ENEMY_SIZE)
    enemies[:, -_HIDDEN_OF_ENEMY:] = False
    visible.setflags(write=False)
    return visible


def _tile_numbers() -> np.ndarray:
    """Return float32[TILES, len(PLANES)]; what looks like another tile has its numbers, too."""
    table = np.zeros((TILES, len(PLANES)), np.float32)
    for p, plane in enumerate(PLANES):
        for tile in Tile:
            numbers = _TILE_NUMBERS[plane]
            table[tile, p] = numbers.get(tile, numbers.get(Tile(SHOWN_AS[tile]), 0.0))
    return table


VISIBLE = _visible()
_SEEN_AT, _HIDDEN_AT = np.flatnonzero(VISIBLE), np.flatnonzero(~VISIBLE)
SEEN_SIZE, HIDDEN_SIZE = len(_SEEN_AT), len(_HIDDEN_AT)


def _parts_of(places: np.ndarray) -> dict[str, slice]:
    """Return where the parts stand in a row that holds only some places, in their order."""
    slices = {name: slice(*np.searchsorted(places, (p.start, p.stop))) for name, p in PARTS.items()}
    return {name: part for name, part in slices.items() if part.start < part.stop}


SEEN_PARTS, HIDDEN_PARTS = _parts_of(_SEEN_AT), _parts_of(_HIDDEN_AT)
SEEN_ENEMY_SIZE = ENEMY_SIZE - _HIDDEN_OF_ENEMY
_NUMBERS_OF_TILE = _tile_numbers()
_FIRST_COLUMN, _FIRST_LAID_OUT = PARTS["column_on_screen"].start, PARTS["column_laid_out"].start
_FIRST_ENEMY, _FIRST_OTHER = PARTS["enemies"].start, PARTS["others"].start
_PLANE_COUNT = len(PLANES)
_SEEN_PLANE_COUNT = sum(name in SEEN_PARTS for name in PLANES)
_SEEN_ENEMY, _SEEN_OTHER = SEEN_PARTS["enemies"].start, SEEN_PARTS["others"].start
_ENEMY_ON_SCREEN, _OTHER_ON_SCREEN = int(ENEMY_KINDS), len(OTHER_KINDS)


def flatten_scene(
    scene: Scene, *, seen_only: bool = False, out: np.ndarray | None = None
) -> np.ndarray:
    """Return a scene as float32[n, SCENE_SIZE], in the order of `PARTS`.

    Args:
        scene: of n machines.
        seen_only: 0 at every place that no screen tells, off-screen cells and objects among them.
        out: float32[n, SCENE_SIZE] to fill; default a new array.

    Raises:
        ValueError: `out` has another shape or type.
    """
    shape = (len(scene.tiles), SCENE_SIZE)
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32:
        raise ValueError(f"out must be float32{list(shape)}, not {out.dtype}{list(out.shape)}")
    out[:] = 0
    _fill_tiles(scene.tiles, scene.on_screen, seen_only, out)
    _fill_objects(scene.objects, seen_only, out)
    out[:, PARTS["mario"]] = _mario_numbers(scene).T
    if seen_only:
        out[:, ~VISIBLE] = 0
    else:
        out[:, PARTS["machine"]] = _machine_numbers(scene).T
    return out


def split_scene(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what a screen tells of flat scenes, and what only the machine knows.

    Args:
        flat: float32[n, SCENE_SIZE], of `flatten_scene` without `seen_only`.

    Returns:
        float32[n, SEEN_SIZE], in the order of `SEEN_PARTS`: `flatten_scene(seen_only=True)` at
        `VISIBLE`; float32[n, HIDDEN_SIZE], in the order of `HIDDEN_PARTS`: the other places.
        Visible tiles and objects beyond the screen's edges are in neither.
    """
    seen = flat.take(_SEEN_AT, axis=1)
    _hide_off_screen(flat, seen)
    return seen, flat.take(_HIDDEN_AT, axis=1)


def _mario_numbers(scene: Scene) -> np.ndarray:
    """Return float32[len(MARIO_NUMBERS), n]."""
    mario = scene.mario
    floats = (mario.float_state == value for value in range(4))
    numbers = (
        *(mario.y / 240, mario.x_on_screen / 256, mario.x % 16 / 16),
        *(mario.vx / X_SPEED, mario.vy / Y_SPEED, *floats, mario.state == at.PLAYER_NORMAL),
        *(mario.is_small, mario.crouches, mario.swims, mario.faces_right),
        *(mario.power > 0, mario.power > 1, mario.is_hurt, mario.has_star),
        *(mario.holds_a, mario.holds_b),
    )
    return np.array(numbers, np.float32)


def _machine_numbers(scene: Scene) -> np.ndarray:
    """Return float32[len(MACHINE_NUMBERS), n]."""
    machine = scene.machine
    numbers = (
        *(machine.x_fraction / 256, machine.y_fraction / 256, machine.jump_timer / 32),
        *(machine.gravity / 256, machine.gravity_falling / 256, machine.run_timer / 16),
        *(machine.injury_timer / 16, machine.star_timer / 32, machine.timer_frames / 21),
        *(machine.maze_correct / 3, machine.maze_passed / 3),
        *(machine.world / 8, machine.stage / 4, machine.half_screen / 32),
        *(machine.area >> bit & 1 for bit in range(7)),
        *(machine.frame_counter >> bit & 1 for bit in range(8)),
        *machine.random.T / 255,
    )
    return np.array(numbers, np.float32)


@compiled
def _fill_tiles(tiles: np.ndarray, on_screen: np.ndarray, seen_only: bool, out: np.ndarray) -> None:
    """Fill the planes and the columns of float32[n, SCENE_SIZE] zeros."""
    for i in range(len(tiles)):
        for column in range(COLUMNS):
            out[i, _FIRST_COLUMN + column] = on_screen[i, 0, column]
            out[i, _FIRST_LAID_OUT + column] = tiles[i, 0, column] != Tile.UNKNOWN
            if seen_only and not on_screen[i, 0, column]:
                continue
            for row in range(ROWS):
                for plane in range(_PLANE_COUNT):
                    number = _NUMBERS_OF_TILE[tiles[i, row, column], plane]
                    out[i, CELLS * plane + COLUMNS * row + column] = number


@compiled
def _fill_objects(objects: Objects, seen_only: bool, out: np.ndarray) -> None:
    """Fill the enemies and the others of float32[n, SCENE_SIZE] zeros."""
    for i in range(len(out)):
        for slot in range(SLOTS):
            kind = np.int64(objects.kind[i, slot])
            if kind == Kind.NONE or (seen_only and not objects.on_screen[i, slot]):
                continue
            if slot < ENEMY_SLOTS:
                start = _FIRST_ENEMY + slot * ENEMY_SIZE
                out[i, start + kind - 1] = 1
                at_place = start + ENEMY_KINDS
            else:
                start = _FIRST_OTHER + (slot - ENEMY_SLOTS) * OTHER_SIZE
                out[i, start + kind - ENEMY_KINDS - 1] = 1
                at_place = start + len(OTHER_KINDS)
            out[i, at_place] = objects.on_screen[i, slot]
            out[i, at_place + 1] = objects.dx[i, slot] / DX_PX
            out[i, at_place + 2] = objects.dy[i, slot] / DY_PX
            out[i, at_place + 3] = objects.vx[i, slot] / X_SPEED
            out[i, at_place + 4] = objects.vy[i, slot] / Y_SPEED
            if slot >= ENEMY_SLOTS:
                continue
            state = objects.state[i, slot]
            lies = STUNNED_FROM <= state & 7 <= STUNNED_TO and kind <= Kind.BUZZY_BEETLE
            is_bar = kind == Kind.FIRE_BAR
            out[i, at_place + 5] = objects.width[i, slot] / 48
            out[i, at_place + 6] = objects.faces_right[i, slot]
            out[i, at_place + 7] = state & BEATEN != 0 and kind < Kind.FIRE_BAR
            out[i, at_place + 8] = lies and state < KICKED
            out[i, at_place + 9] = lies and state >= KICKED
            out[i, at_place + 10] = np.sin(objects.angle[i, slot]) if is_bar else 0.0
            out[i, at_place + 11] = np.cos(objects.angle[i, slot]) if is_bar else 0.0
            out[i, at_place + 12] = objects.fires[i, slot] / LONG_BAR_FIRES
            out[i, at_place + 13] = objects.twin_dy[i, slot] / DY_PX
            out[i, at_place + 14] = objects.timer[i, slot] / 16
            for bit in range(8):
                out[i, at_place + 15 + bit] = state >> bit & 1


@compiled
def _hide_off_screen(flat: np.ndarray, seen: np.ndarray) -> None:
    """Zero columns and objects beyond the screen's edges in float32[n, SEEN_SIZE]."""
    for i in range(len(flat)):
        for column in range(COLUMNS):
            if not flat[i, _FIRST_COLUMN + column]:
                for cell in range(column, CELLS * _SEEN_PLANE_COUNT, COLUMNS):
                    seen[i, cell] = 0
        for slot in range(ENEMY_SLOTS):
            if not flat[i, _FIRST_ENEMY + slot * ENEMY_SIZE + _ENEMY_ON_SCREEN]:
                start = _SEEN_ENEMY + slot * SEEN_ENEMY_SIZE
                seen[i, start : start + SEEN_ENEMY_SIZE] = 0
        for slot in range(OTHER_SLOTS):
            if not flat[i, _FIRST_OTHER + slot * OTHER_SIZE + _OTHER_ON_SCREEN]:
                start = _SEEN_OTHER + slot * OTHER_SIZE
                seen[i, start : start + OTHER_SIZE] = 0
