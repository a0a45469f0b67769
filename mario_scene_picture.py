"""A scene drawn over the game's picture, so that a person sees what the game says."""

from __future__ import annotations

import cv2
import numpy as np

from fastnes.ram import TILE_MAP_TOP
from mario_scene import (
    BOXES,
    CELL_PX,
    ENEMY_SLOTS,
    FIRE_PX,
    POWER_UPS,
    TILES,
    Kind,
    Scene,
    Tile,
    fires_of,
    read_scene,
)

Color = tuple[int, int, int]

TINT = 0.35  # how much of a cell is its colour
TILE_COLORS: dict[Tile, Color] = {
    Tile.UNKNOWN: (60, 60, 60),
    Tile.SOLID: (226, 232, 240),
    Tile.BRICK: (251, 146, 60),
    Tile.BRICK_WITH_ITEM: (250, 204, 21),
    Tile.QUESTION: (250, 204, 21),
    Tile.QUESTION_WITH_ITEM: (250, 204, 21),
    Tile.COIN: (253, 224, 71),
    Tile.HIDDEN: (232, 121, 249),
    Tile.PIPE: (74, 222, 128),
    Tile.PIPE_ENTRY: (21, 255, 80),
    Tile.POLE: (56, 189, 248),
    Tile.VINE: (74, 222, 128),
    Tile.AXE: (56, 189, 248),
    Tile.BRIDGE: (192, 132, 252),
    Tile.SPRING: (45, 212, 191),
    Tile.CANNON: (248, 113, 113),
    Tile.LAVA: (239, 68, 68),
}
_KEPT, _ADDED = np.ones((TILES, 1), np.float32), np.zeros((TILES, 3), np.float32)
for _tile, _tint_color in TILE_COLORS.items():
    _KEPT[_tile], _ADDED[_tile] = 1 - TINT, TINT * np.array(_tint_color)
# What stands in the cell, where its colour does not say it.
TILE_LETTERS: dict[Tile, str] = {
    Tile.BRICK_WITH_ITEM: "i",
    Tile.QUESTION_WITH_ITEM: "i",
    Tile.HIDDEN: "h",
    Tile.PIPE_ENTRY: "in",
}
LETTERS, LETTER_SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.15
SPEED_FRAMES = 8  # that the line of a speed looks ahead
MARIO, FRIEND, LIFT, ENEMY = (56, 189, 248), (74, 222, 128), (192, 132, 252), (255, 64, 64)
_FRIENDS = {*POWER_UPS, Kind.FIREBALL, Kind.JUMPING_BLOCK, Kind.JUMPING_COIN, Kind.VINE}
_FRIENDS |= {Kind.POLE_FLAG, Kind.SPRING, Kind.RETAINER}


def draw_scene(screen: np.ndarray, scene: Scene, i: int = 0, scale: int = 1) -> np.ndarray:
    """Return a picture with the scene of machine i drawn over it.

    Cells are tinted by what they hold, empty ones are not. Mario and each object have a box, a
    name and a line to where their speed takes them in `SPEED_FRAMES`. A screen shows what RAM said
    a frame before it.

    Args:
        screen: uint8[240, 256, 3].
        scene: of machines, i among them.
        i: which.
        scale: px of the result for each px of the screen; names are written from 2 on.

    Returns:
        uint8[240 * scale, 256 * scale, 3].
    """
    tinted = _tint(screen, scene, i)
    size = (screen.shape[1] * scale, screen.shape[0] * scale)
    picture = cv2.resize(tinted, size, interpolation=cv2.INTER_NEAREST)
    pen = _Pen(picture, scale)
    _draw_letters(pen, scene, i)
    _draw_objects(pen, scene, i)
    mario = scene.mario
    top = int(mario.y[i]) + (CELL_PX if mario.is_small[i] else 0)
    height = 2 * CELL_PX - (CELL_PX if mario.is_small[i] else 0)
    x = int(mario.x_on_screen[i])
    pen.box(x, top, CELL_PX, height, MARIO, "mario")
    pen.speed(x + 8, top + height / 2, mario.vx[i], mario.vy[i], MARIO)
    return picture


class ScenePainter:
    """Draws scenes over frame after frame: over each what RAM said a frame before it."""

    def __init__(self, scale: int) -> None:
        """Paint pictures that are `scale` times as large as the screen."""
        self.scale = scale
        self.before: np.ndarray | None = None  # RAM

    def paint(self, screen: np.ndarray, ram: np.ndarray) -> np.ndarray:
        """Return uint8[240 * scale, 256 * scale, 3] of the newest screen and RAM, uint8[2048]."""
        shown = ram if self.before is None else self.before
        self.before = np.array(ram, np.uint8)
        return draw_scene(screen, read_scene(shown[None]), scale=self.scale)


class _Pen:
    """Draws into a picture in px of the screen that it enlarges."""

    def __init__(self, picture: np.ndarray, scale: int) -> None:
        self.picture = picture
        self.scale = scale
        self.line_px = max(1, round(0.7 * scale))

    def box(self, x: int, y: int, width: int, height: int, color: Color, name: str = "") -> None:
        far = ((x + width) * self.scale - 1, (y + height) * self.scale - 1)
        cv2.rectangle(self.picture, (x * self.scale, y * self.scale), far, color, self.line_px)
        if name:
            self.write(x, y - 2, name, color)

    def write(self, x: int, y: int, text: str, color: Color) -> None:
        """Write above y; on a picture that is not enlarged nobody could read it."""
        place, size = (x * self.scale, y * self.scale), LETTER_SIZE * self.scale
        if self.scale > 1:
            for ink, width in (((0, 0, 0), 3), (color, 1)):
                cv2.putText(self.picture, text, place, LETTERS, size, ink, width, cv2.LINE_AA)

    def speed(self, x: float, y: float, vx: float, vy: float, color: Color) -> None:
        start = (round(x * self.scale), round(y * self.scale))
        end = (
            round((x + SPEED_FRAMES * float(vx)) * self.scale),
            round((y + SPEED_FRAMES * float(vy)) * self.scale),
        )
        if start != end:
            cv2.line(self.picture, start, end, color, self.line_px, cv2.LINE_AA)


def _tint(screen: np.ndarray, scene: Scene, i: int) -> np.ndarray:
    """Return the screen with each cell in its colour."""
    x = int(scene.left[i])
    cells = scene.tiles[i].repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1)
    cells[CELL_PX - 1 :: CELL_PX] = cells[:, CELL_PX - 1 :: CELL_PX] = Tile.EMPTY  # a gap between
    start, end = max(x, 0), min(x + cells.shape[1], screen.shape[1])
    tinted = screen.copy()
    tile = cells[:, start - x : end - x]
    area = tinted[TILE_MAP_TOP:, start:end]
    area[:] = area * _KEPT[tile] + _ADDED[tile]
    return tinted


def _draw_letters(pen: _Pen, scene: Scene, i: int) -> None:
    x = int(scene.left[i])
    for tile, text in TILE_LETTERS.items():
        for row, column in np.argwhere(scene.tiles[i] == tile).tolist():
            place = x + CELL_PX * column + 4, TILE_MAP_TOP + CELL_PX * row + 10
            pen.write(*place, text, TILE_COLORS[tile])


def _draw_objects(pen: _Pen, scene: Scene, i: int) -> None:
    objects, mario = scene.objects, scene.mario
    fire_x, fire_y, burns = fires_of(objects)
    x0, y0 = int(mario.x_on_screen[i]), int(mario.y[i])
    for slot in np.flatnonzero(objects.kind[i]):
        kind = Kind(objects.kind[i, slot])
        color = _color(kind)
        left, top, _, height = (int(side) for side in BOXES[kind])
        x, y = x0 + int(objects.dx[i, slot]) + left, y0 + int(objects.dy[i, slot]) + top
        width = int(objects.width[i, slot])
        name = kind.name.lower().replace("_", " ") if slot < ENEMY_SLOTS else ""
        pen.box(x, y, width, height, color, name)
        pen.speed(*(x + width / 2, y + height / 2, objects.vx[i, slot], objects.vy[i, slot], color))
        if objects.twin_dy[i, slot]:
            pen.box(x, y0 + int(objects.twin_dy[i, slot]), width, height, color)
        for fire in np.flatnonzero(burns[i, slot]):
            place = x0 + int(fire_x[i, slot, fire]), y0 + int(fire_y[i, slot, fire])
            pen.box(*place, FIRE_PX, FIRE_PX, color)


def _color(kind: Kind) -> Color:
    if Kind.LIFT_BALANCE <= kind <= Kind.SMALL_LIFT_DOWN:
        return LIFT
    return FRIEND if kind in _FRIENDS else ENEMY
