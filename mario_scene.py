"""What is around Mario, read from RAM for n machines at once: tiles, objects, himself.

    scene = read_scene(machines.states[:, : state.RAM_SIZE])  # or env.ram[None] of nes-py
    Tile(scene.tiles[i, row, column]).name                    # what stands in a cell
    Kind(scene.objects.kind[i, slot]).name                    # who is in a slot
    flatten_scene(scene)                                      # float32[n, SCENE_SIZE], for networks

Distances are px, speeds px a frame; x grows to the right, y downwards, as on the screen. What a
screen shows is marked apart from what only the machine knows: `on_screen` of cells and objects,
`SHOWN_AS` of tiles that do not look like what they are, `Machine`, and `VISIBLE` of a flat scene.
RAM is a frame ahead of the picture: what it says is drawn in the next one. An emulator's frame can
end in the middle of the game's, so an object may be a frame's movement ahead of another.

Not in RAM, and so not here: whether a hole that a castle's level digs into its floor holds lava
above the two lowest rows (1-4 and 6-4 have one), the pits of castles before their lava begins or
where it pauses (2-4, 3-4, 5-4: here they are lava, too), and water below bridges (3-1).
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np

from fastnes import ram as at
from fastnes.compiled import compiled

# --------------------------------------------------------------------------------------------
# Tiles
# --------------------------------------------------------------------------------------------

CELL_PX = 16
ROWS = at.TILE_ROWS
COLUMNS = 16
COLUMNS_BEHIND = 4  # of the column that holds Mario's left edge
SCREEN_WIDTH, SCREEN_HEIGHT = 256, 240
LEAST_SHOWN_PX = 8  # of a cell or of an object, for it to be on the screen
OBJECTS_LEFT = 4  # px: nearer to the left edge the game leaves objects out
TILE_TOP = at.TILE_MAP_TOP


class Tile(enum.IntEnum):
    """What a cell of 16x16 px holds."""

    UNKNOWN = 0  # the game has not laid it out yet
    EMPTY = 1  # air, water to swim in, scenery
    SOLID = 2
    BRICK = 3  # breaks, if Mario is tall
    QUESTION = 4  # gives a coin when hit from below
    COIN = 5
    PIPE = 6
    POLE = 7  # the flag pole
    VINE = 8
    AXE = 9  # behind Bowser: the goal
    BRIDGE = 10  # Bowser's
    SPRING = 11
    CANNON = 12  # the barrel, which shoots bullets
    LAVA = 13
    # Only the machine knows these: on the screen they are as `SHOWN_AS` says.
    HIDDEN = 14  # a block that is not there until it is hit from below
    BRICK_WITH_ITEM = 15
    QUESTION_WITH_ITEM = 16  # a power-up instead of a coin
    PIPE_ENTRY = 17  # the mouth of a pipe that Mario can enter


TILES = len(Tile)
# uint8[TILES]: what a screen shows of each.
SHOWN_AS = np.arange(TILES, dtype=np.uint8)
SHOWN_AS[Tile.HIDDEN] = Tile.EMPTY
SHOWN_AS[Tile.BRICK_WITH_ITEM] = Tile.BRICK
SHOWN_AS[Tile.QUESTION_WITH_ITEM] = Tile.QUESTION
SHOWN_AS[Tile.PIPE_ENTRY] = Tile.PIPE


def _tile_table() -> np.ndarray:
    """Return uint8[256], the Tile of each byte of the game's tile map.

    The game keeps there what matters for collisions alone; scenery (bushes, clouds, water) is 0.
    """
    table = np.full(256, Tile.EMPTY, np.uint8)
    table[0x10:0x12] = Tile.PIPE_ENTRY  # upright, left and right half
    table[0x12:0x16] = Tile.PIPE  # a mouth that leads nowhere, the shaft
    table[0x16:0x1C] = Tile.SOLID  # tops of trees and of mushrooms
    table[0x1C:0x22] = Tile.PIPE  # on its side: mouth, shaft, joint, upper halves, then lower ones
    table[[0x1C, 0x1F]] = Tile.PIPE_ENTRY
    table[0x22] = Tile.SOLID  # coral
    table[0x23] = Tile.SOLID  # a block that was hit and jumps; it is drawn as a sprite
    table[0x24:0x26] = Tile.POLE  # its ball, its shaft
    table[0x26] = Tile.VINE
    table[0x51:0x54] = Tile.BRICK
    table[0x54] = Tile.SOLID  # the ground
    table[0x55:0x5F] = Tile.BRICK_WITH_ITEM  # power-up, vine, star, coins, life, in two colours
    table[0x5F:0x61] = Tile.HIDDEN  # with a coin, with an extra life
    table[0x61:0x64] = Tile.SOLID  # a block of stairs, the wall of a castle, a bridge
    table[0x64] = Tile.CANNON
    table[0x65:0x67] = Tile.SOLID  # the cannon's foot
    table[0x67:0x69] = Tile.SPRING  # upper and lower half
    table[0x69:0x6B] = Tile.SOLID  # rock under water
    table[0x6B:0x6D] = Tile.PIPE_ENTRY  # on its side, under water
    table[0x88] = Tile.SOLID  # a cloud that carries
    table[0x89] = Tile.BRIDGE
    table[0xC0] = Tile.QUESTION
    table[0xC1] = Tile.QUESTION_WITH_ITEM
    table[0xC2:0xC4] = Tile.COIN  # dry, under water
    table[0xC4] = Tile.SOLID  # a block that has given what it had
    table[0xC5] = Tile.AXE
    return table


TILE_OF_BYTE = _tile_table()
LAVA_ROW = 11  # from this row on a castle's scenery is lava, unless something stands there

# --------------------------------------------------------------------------------------------
# Objects
# --------------------------------------------------------------------------------------------

# Slots of objects: the game's enemies, fireballs, blocks that jump, hammers, one after the other.
ENEMY_SLOTS = at.ENEMY_SLOTS
SLOTS = at.OBJECT_SLOTS
FIREBALLS = slice(ENEMY_SLOTS, ENEMY_SLOTS + at.FIREBALL_SLOTS)
BLOCKS = slice(FIREBALLS.stop, FIREBALLS.stop + at.BLOCK_SLOTS)
HAMMERS = slice(BLOCKS.stop, BLOCKS.stop + at.HAMMER_SLOTS)
assert HAMMERS.stop == SLOTS


class Kind(enum.IntEnum):
    """Who is in a slot."""

    NONE = 0
    GOOMBA = 1
    GREEN_KOOPA = 2
    RED_KOOPA = 3  # turns at an edge
    BUZZY_BEETLE = 4
    HAMMER_BRO = 5
    SPINY = 6  # its egg too, while it falls
    HOPPING_PARATROOPA = 7
    RED_PARATROOPA = 8  # up and down
    FLYING_PARATROOPA = 9  # to and fro
    PLANT = 10
    BLOOPER = 11
    GRAY_CHEEP_CHEEP = 12
    RED_CHEEP_CHEEP = 13
    FLYING_CHEEP_CHEEP = 14
    PODOBOO = 15
    LAKITU = 16
    BULLET = 17
    BOWSER = 18
    BOWSER_FLAME = 19
    FIRE_BAR = 20  # clockwise or not; see `Objects.angle`
    LIFT_BALANCE = 21
    LIFT_UP_AND_DOWN = 22
    LIFT_UP = 23
    LIFT_DOWN = 24
    LIFT_TO_AND_FRO = 25
    LIFT_DROPS = 26  # while Mario stands on it
    LIFT_RIGHT = 27  # once Mario stands on it
    SMALL_LIFT_UP = 28
    SMALL_LIFT_DOWN = 29
    MUSHROOM = 30
    FLOWER = 31
    STAR = 32
    EXTRA_LIFE = 33
    VINE = 34
    POLE_FLAG = 35
    SPRING = 36
    RETAINER = 37  # who waits behind Bowser
    FIREBALL = 38  # Mario's
    JUMPING_BLOCK = 39  # hit from below: it beats what stands on it
    HAMMER = 40
    JUMPING_COIN = 41


KINDS = len(Kind)
POWER_UPS = (Kind.MUSHROOM, Kind.FLOWER, Kind.STAR, Kind.EXTRA_LIFE)  # by POWER_UP_TYPE
LARGE_LIFTS = range(Kind.LIFT_BALANCE, Kind.LIFT_RIGHT + 1)
SMALL_LIFTS = (Kind.SMALL_LIFT_UP, Kind.SMALL_LIFT_DOWN)
SMALL_LIFT_TWIN_PX = 128  # a small lift's slot moves two of them, so far apart


def _kind_table() -> np.ndarray:
    """Return uint8[256], the Kind of each enemy number; what does nothing is NONE.

    That are: the star on the castle, fireworks, the text of a warp zone, and the numbers that only
    make others appear.
    """
    table = np.zeros(256, np.uint8)
    table[at.ENEMY_GREEN_KOOPA] = table[at.ENEMY_GREEN_KOOPA_STANDING] = Kind.GREEN_KOOPA
    table[at.ENEMY_RED_KOOPA_LANDED] = table[at.ENEMY_RED_KOOPA] = Kind.RED_KOOPA
    table[at.ENEMY_BUZZY_BEETLE] = Kind.BUZZY_BEETLE
    table[at.ENEMY_HAMMER_BRO] = Kind.HAMMER_BRO
    table[at.ENEMY_GOOMBA] = Kind.GOOMBA
    table[at.ENEMY_BLOOPER] = Kind.BLOOPER
    table[at.ENEMY_BULLET] = table[at.ENEMY_BULLET_OF_CANNON] = Kind.BULLET
    table[at.ENEMY_GRAY_CHEEP_CHEEP] = Kind.GRAY_CHEEP_CHEEP
    table[at.ENEMY_RED_CHEEP_CHEEP] = Kind.RED_CHEEP_CHEEP
    table[at.ENEMY_PODOBOO] = Kind.PODOBOO
    table[at.ENEMY_PLANT] = Kind.PLANT
    table[at.ENEMY_GREEN_PARATROOPA_HOPPING] = Kind.HOPPING_PARATROOPA
    table[at.ENEMY_RED_PARATROOPA] = Kind.RED_PARATROOPA
    table[at.ENEMY_GREEN_PARATROOPA_FLYING] = Kind.FLYING_PARATROOPA
    table[at.ENEMY_LAKITU] = Kind.LAKITU
    table[at.ENEMY_SPINY] = Kind.SPINY
    table[at.ENEMY_FLYING_CHEEP_CHEEP] = Kind.FLYING_CHEEP_CHEEP
    table[at.ENEMY_BOWSER_FLAME] = Kind.BOWSER_FLAME
    table[at.ENEMY_FIRE_BAR_FIRST : at.ENEMY_FIRE_BAR_LAST + 1] = Kind.FIRE_BAR
    table[at.ENEMY_LIFT_FIRST : at.ENEMY_LIFT_LAST + 1] = np.arange(
        Kind.LIFT_BALANCE, Kind.SMALL_LIFT_DOWN + 1
    )
    table[at.ENEMY_BOWSER] = Kind.BOWSER
    table[at.ENEMY_POWER_UP] = Kind.MUSHROOM  # to be told by POWER_UP_TYPE
    table[at.ENEMY_VINE] = Kind.VINE
    table[at.ENEMY_FLAG_OF_POLE] = Kind.POLE_FLAG
    table[at.ENEMY_SPRING] = Kind.SPRING
    table[at.ENEMY_RETAINER] = Kind.RETAINER
    return table


KIND_OF_ENEMY = _kind_table()


def _box_table() -> np.ndarray:
    """Return int16[KINDS, 4]: where an object is drawn from its own x and y: left, top, w, h."""
    table = np.tile(np.array([0, 0, 16, 24], np.int16), (KINDS, 1))
    low = (
        *(Kind.GOOMBA, Kind.BUZZY_BEETLE, Kind.SPINY, Kind.GRAY_CHEEP_CHEEP, Kind.RED_CHEEP_CHEEP),
        *(Kind.FLYING_CHEEP_CHEEP, Kind.PODOBOO, Kind.BULLET, *POWER_UPS),
    )
    table[list(low)] = (0, 8, 16, 16)
    table[list(LARGE_LIFTS)] = (0, 0, 48, 8)
    table[list(SMALL_LIFTS)] = (0, 0, 24, 8)
    table[Kind.BOWSER] = (0, 0, 32, 32)
    table[Kind.BOWSER_FLAME] = (0, 0, 24, 8)
    table[[Kind.FIRE_BAR, Kind.FIREBALL]] = (0, 0, 8, 8)
    table[[Kind.POLE_FLAG, Kind.JUMPING_BLOCK, Kind.HAMMER]] = (0, 0, 16, 16)
    table[Kind.JUMPING_COIN] = (0, 0, 8, 16)
    return table


BOXES = _box_table()
SHORT_LIFT_PX = 32  # of a large lift's width, in castles and where the game IS_HARDER
SHORT_BAR_FIRES, LONG_BAR_FIRES = 5, 11
FIRE_PX = 8  # between two fires of a bar
TURN = 32  # steps of a fire bar's angle

# Bits and numbers in an object's state.
BEATEN, KICKED = 0x20, 0x80
STUNNED_FROM, STUNNED_TO = 2, 4  # of the lowest three bits: a shell that lies, a flat goomba
HAMMER_FLIES = 0x81
LEFT = 2  # of directions
FIRE_POWER = 2  # of Mario
GROWN_OUT = 6  # of a power-up: half of it is out of its block
JUMPS = 1  # a block, a coin
EXPLODES, IS_HAMMER = at.FIREBALL_EXPLODES, at.HAMMER_IS_HAMMER
LONG_FIRE_BAR, BULLET_OF_CANNON = at.ENEMY_FIRE_BAR_LAST, at.ENEMY_BULLET_OF_CANNON
FIRST_BLOCK, FIRST_HAMMER = BLOCKS.start, HAMMERS.start
PAGE_PX = at.PAGE_PX
PAGE_COLUMNS, PAGE_CELLS = at.TILE_COLUMNS, at.TILE_MAP_PAGE_BYTES


def _speed_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return float32[KINDS] each: what a unit of the x speed byte is, constant x speed, whether y.

    For the kinds that use the game's speed bytes for something else, or not at all, they are 0.
    """
    x_factor, x_speed, y_factor = (np.zeros(KINDS, np.float32) for _ in range(3))
    x_factor[:] = 1 / 16
    still = (Kind.RED_PARATROOPA, Kind.PLANT, Kind.PODOBOO, Kind.FIRE_BAR, *LARGE_LIFTS)
    fixed = (*SMALL_LIFTS, Kind.VINE, Kind.POLE_FLAG, Kind.SPRING, Kind.RETAINER)
    x_factor[[*still, *fixed, Kind.JUMPING_COIN, Kind.JUMPING_BLOCK]] = 0
    x_factor[Kind.LIFT_RIGHT] = 1 / 16
    for kind, speed in _ALWAYS_LEFT.items():
        x_factor[kind], x_speed[kind] = 0, -speed
    y_factor[:] = 1
    level = (Kind.LAKITU, Kind.BULLET, Kind.FLYING_PARATROOPA, Kind.FIRE_BAR, *_ALWAYS_LEFT)
    lifts = (Kind.LIFT_TO_AND_FRO, Kind.LIFT_RIGHT)
    y_factor[[*level, *lifts, Kind.VINE, Kind.POLE_FLAG, Kind.SPRING, Kind.RETAINER]] = 0
    return x_factor, x_speed, y_factor


# px a frame, of what swims or flies to the left without using its speed byte
_ALWAYS_LEFT = {Kind.GRAY_CHEEP_CHEEP: 0.25, Kind.RED_CHEEP_CHEEP: 0.5, Kind.BOWSER_FLAME: 1.5}
X_FACTOR, X_SPEED, Y_FACTOR = _speed_tables()


class Objects(NamedTuple):
    """What moves, or could: arrays of [n, SLOTS], slots in the order above."""

    kind: np.ndarray  # uint8, a Kind
    dx: np.ndarray  # int16, px from Mario's left edge to its left edge
    dy: np.ndarray  # int16, px from Mario's upper edge to its upper edge, see `BOXES`
    vx: np.ndarray  # float32, px a frame
    vy: np.ndarray  # float32, px a frame
    width: np.ndarray  # int16, px
    state: np.ndarray  # uint8, the game's own, by kind; of enemies bit 5: beaten
    faces_right: np.ndarray  # bool
    angle: np.ndarray  # float32, of a fire bar: radians clockwise from up
    fires: np.ndarray  # uint8, of a fire bar: how many follow the one it turns on, see `fires_of`
    twin_dy: np.ndarray  # int16, of a small lift: dy of the other one, which moves with it
    timer: np.ndarray  # uint8, units of 21 frames until it acts; see ram.ENEMY_TIMER
    on_screen: np.ndarray  # bool


OBJECT_TYPES = (
    *(np.uint8, np.int16, np.int16, np.float32, np.float32, np.int16, np.uint8, np.bool_),
    *(np.float32, np.uint8, np.int16, np.uint8, np.bool_),
)  # of the fields of Objects


class Mario(NamedTuple):
    """Mario himself: arrays of [n]."""

    x: np.ndarray  # int32, px from the area's left edge to his; negative where a maze throws back
    y: np.ndarray  # int32, px from the screen's upper edge to his
    x_on_screen: np.ndarray  # int32
    vx: np.ndarray  # float32
    vy: np.ndarray  # float32
    float_state: np.ndarray  # uint8, ram.FLOAT_
    state: np.ndarray  # uint8, ram.PLAYER_
    power: np.ndarray  # uint8, 0 small, 1 tall, 2 throws fireballs
    is_small: np.ndarray  # bool: small, or crouching: 16 px high, not 32
    crouches: np.ndarray  # bool
    swims: np.ndarray  # bool
    faces_right: np.ndarray  # bool
    is_hurt: np.ndarray  # bool, he flickers: enemies cannot hurt him
    has_star: np.ndarray  # bool
    holds_a: np.ndarray  # bool, what the game read of the controller
    holds_b: np.ndarray  # bool


class Machine(NamedTuple):
    """What no screen tells, not even several: arrays of [n], uint8 where nothing is said."""

    x_fraction: np.ndarray  # 1/256 px of Mario's x
    y_fraction: np.ndarray  # 1/256 px of his y
    jump_timer: np.ndarray  # frames
    gravity: np.ndarray  # 1/256 px a frame and frame
    gravity_falling: np.ndarray  # once he falls or lets go of A
    run_timer: np.ndarray  # frames
    injury_timer: np.ndarray  # units of 21 frames, as the next
    star_timer: np.ndarray
    world: np.ndarray  # 1-8
    stage: np.ndarray  # 1-4
    area: np.ndarray  # type << 5 | number of the area that is loaded
    half_screen: np.ndarray  # int32, Mario's x // 128
    maze_correct: np.ndarray  # checks of a maze passed on the right way
    maze_passed: np.ndarray  # checks of it passed at all
    frame_counter: np.ndarray
    timer_frames: np.ndarray  # until timers in units of 21 frames count
    random: np.ndarray  # uint8[n, 7], from which the game takes what is random


class Scene(NamedTuple):
    """What is around Mario in n machines."""

    tiles: np.ndarray  # uint8[n, ROWS, COLUMNS], a Tile each; row 0 is the first below the status
    on_screen: np.ndarray  # bool[n, ROWS, COLUMNS]
    objects: Objects
    mario: Mario
    machine: Machine

    @property
    def left(self) -> np.ndarray:
        """int64[n], px from the screen's left edge to the first column's."""
        mario = self.mario
        return mario.x_on_screen.astype(np.int64) - mario.x % CELL_PX - COLUMNS_BEHIND * CELL_PX

    def shown_tiles(self) -> np.ndarray:
        """Return uint8[n, ROWS, COLUMNS]: the Tiles as a screen shows them, UNKNOWN beyond it."""
        return np.where(self.on_screen, SHOWN_AS[self.tiles], Tile.UNKNOWN).astype(np.uint8)


# --------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------


def read_scene(ram: np.ndarray) -> Scene:
    """Return the scene in uint8[n, 2048] RAM, as the game left it at the end of a frame.

    All of it are new arrays: a scene does not change when the machines go on.
    """
    n = len(ram)
    mario = _read_mario(ram)
    tiles = np.empty((n, ROWS, COLUMNS), np.uint8)
    on_screen = np.empty((n, ROWS, COLUMNS), np.bool_)
    _fill_tiles(_layout_of(ram), mario, TILE_OF_BYTE, tiles, on_screen)
    objects = Objects(*(np.zeros((n, SLOTS), dtype) for dtype in OBJECT_TYPES))
    _fill_objects(_slots_of(ram), mario, KIND_OF_ENEMY, objects)
    return Scene(tiles, on_screen, objects, mario, _read_machine(ram, mario))


def _place(page: np.ndarray, px: np.ndarray) -> np.ndarray:
    """Return int32[n], px, of uint8[n] pages and px. Pages are signed: a maze throws back to -1."""
    return page.view(np.int8).astype(np.int32) * at.PAGE_PX + px


def _read_mario(ram: np.ndarray) -> Mario:
    x = _place(ram[:, at.PLAYER_X_PAGE], ram[:, at.PLAYER_X])
    left = _place(ram[:, at.SCREEN_LEFT_PAGE], ram[:, at.SCREEN_LEFT_X])
    x_speed = ram[:, at.PLAYER_X_SPEED].view(np.int8) + ram[:, at.PLAYER_X_SPEED_FRACTION] / 256
    y_speed = ram[:, at.PLAYER_Y_SPEED].view(np.int8) + ram[:, at.PLAYER_Y_SPEED_FRACTION] / 256
    crouches = ram[:, at.PLAYER_CROUCHES] != 0
    buttons = ram[:, at.HELD_A_B]
    return Mario(
        x=x,
        y=_place(ram[:, at.PLAYER_Y_PAGE], ram[:, at.PLAYER_Y]) - at.PAGE_PX,
        x_on_screen=x - left,
        vx=(x_speed / 16).astype(np.float32),
        vy=y_speed.astype(np.float32),
        float_state=ram[:, at.PLAYER_FLOAT_STATE].copy(),
        state=ram[:, at.PLAYER_STATE].copy(),
        power=ram[:, at.STATUS].copy(),
        is_small=(ram[:, at.PLAYER_SIZE] != 0) | crouches,
        crouches=crouches,
        swims=ram[:, at.PLAYER_SWIMS] != 0,
        faces_right=ram[:, at.PLAYER_FACING] == 1,
        is_hurt=ram[:, at.INJURY_TIMER] != 0,
        has_star=ram[:, at.STAR_TIMER] != 0,
        holds_a=buttons & at.HELD_A != 0,
        holds_b=buttons & at.HELD_B != 0,
    )


def _read_machine(ram: np.ndarray, mario: Mario) -> Machine:
    return Machine(
        x_fraction=ram[:, at.PLAYER_X_FRACTION].copy(),
        y_fraction=ram[:, at.PLAYER_Y_FRACTION].copy(),
        jump_timer=ram[:, at.JUMP_TIMER].copy(),
        gravity=ram[:, at.PLAYER_GRAVITY].copy(),
        gravity_falling=ram[:, at.PLAYER_GRAVITY_FALLING].copy(),
        run_timer=ram[:, at.RUN_TIMER].copy(),
        injury_timer=ram[:, at.INJURY_TIMER].copy(),
        star_timer=ram[:, at.STAR_TIMER].copy(),
        world=ram[:, at.WORLD] + np.uint8(1),
        stage=ram[:, at.STAGE] + np.uint8(1),
        area=(ram[:, at.AREA_TYPE] & 3) << 5 | ram[:, at.AREA_OFFSET] & 0x1F,
        half_screen=mario.x >> 7,
        maze_correct=ram[:, at.MAZE_CORRECT].copy(),
        maze_passed=ram[:, at.MAZE_PASSED].copy(),
        frame_counter=ram[:, at.FRAME_COUNTER].copy(),
        timer_frames=ram[:, at.TIMER_FRAMES].copy(),
        random=ram[:, at.RANDOM : at.RANDOM + at.RANDOM_COUNT].copy(),
    )


def fires_of(objects: Objects) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where each fire of the fire bars burns.

    Returns:
        dx and dy, int16[n, SLOTS, LONG_BAR_FIRES + 1], as in `Objects`, from the one that the bar
        turns on outwards; and which of them there are, bool of the same shape.
    """
    number = np.arange(LONG_BAR_FIRES + 1)
    angle, out = objects.angle[..., None], FIRE_PX * number
    dx = objects.dx[..., None] + np.rint(out * np.sin(angle)).astype(np.int16)
    dy = objects.dy[..., None] - np.rint(out * np.cos(angle)).astype(np.int16)
    return dx, dy, (objects.kind == Kind.FIRE_BAR)[..., None] & (number <= objects.fires[..., None])


# What the compiled functions read, copied out of RAM. They hold no address themselves: Numba keeps
# what it compiled until this file changes, and the addresses stand in another. They get copies
# because Numba compiles once more for arrays that are laid out in another way.


class _Layout(NamedTuple):
    """Of the level: uint8[n], but for the tile map, uint8[n, 2 * TILE_MAP_PAGE_BYTES]."""

    tile_map: np.ndarray
    newest_page: np.ndarray
    newest_column: np.ndarray
    laying_step: np.ndarray
    has_lava: np.ndarray  # bool


class _Slots(NamedTuple):
    """Of objects: uint8[n, SLOTS] to `y_fraction`, then [n, ENEMY_SLOTS], the last three [n].

    Pages are int8.
    """

    state: np.ndarray
    x_page: np.ndarray
    x: np.ndarray
    x_speed: np.ndarray
    y_page: np.ndarray
    y: np.ndarray
    y_speed: np.ndarray
    y_fraction: np.ndarray
    active: np.ndarray
    type: np.ndarray
    direction: np.ndarray
    timer: np.ndarray
    frame_timer: np.ndarray
    plant_inside: np.ndarray
    stood_on: np.ndarray
    power_up: np.ndarray
    bowser_speed: np.ndarray
    has_short_lifts: np.ndarray  # bool


def _layout_of(ram: np.ndarray) -> _Layout:
    return _Layout(
        tile_map=ram[:, at.TILE_MAP : at.TILE_MAP + 2 * at.TILE_MAP_PAGE_BYTES].copy(),
        newest_page=ram[:, at.LAID_OUT_PAGE].copy(),
        newest_column=ram[:, at.LAID_OUT_COLUMN].copy(),
        laying_step=ram[:, at.LAYING_STEP].copy(),
        has_lava=ram[:, at.SCENERY_IN_FRONT] == at.SCENERY_LAVA,
    )


def _slots_of(ram: np.ndarray) -> _Slots:
    def slots(address: int) -> np.ndarray:
        return ram[:, address : address + SLOTS].copy()

    def enemies(address: int) -> np.ndarray:
        return ram[:, address : address + ENEMY_SLOTS].copy()

    return _Slots(
        state=slots(at.ENEMY_STATE),
        x_page=slots(at.ENEMY_X_PAGE).view(np.int8),
        x=slots(at.ENEMY_X),
        x_speed=slots(at.ENEMY_X_SPEED),
        y_page=slots(at.ENEMY_Y_PAGE).view(np.int8),
        y=slots(at.ENEMY_Y),
        y_speed=slots(at.ENEMY_Y_SPEED),
        y_fraction=slots(at.ENEMY_Y_SPEED_FRACTION),
        active=enemies(at.ENEMY_ACTIVE),
        type=enemies(at.ENEMY_TYPE),
        direction=enemies(at.ENEMY_DIRECTION),
        timer=enemies(at.ENEMY_TIMER),
        frame_timer=enemies(at.ENEMY_FRAME_TIMER),
        plant_inside=enemies(at.ENEMY_PLANT_Y_INSIDE),
        stood_on=enemies(at.LIFT_STOOD_ON),
        power_up=ram[:, at.POWER_UP_TYPE].copy(),
        bowser_speed=ram[:, at.BOWSER_X_SPEED].copy(),
        has_short_lifts=(ram[:, at.AREA_TYPE] == at.AREA_CASTLE) | (ram[:, at.IS_HARDER] != 0),
    )


@compiled
def _fill_tiles(
    layout: _Layout,
    mario: Mario,
    tile_of_byte: np.ndarray,
    tiles: np.ndarray,
    on_screen: np.ndarray,
) -> None:
    """Fill tiles uint8[n, ROWS, COLUMNS] and on_screen, bool of the same shape."""
    for i in range(len(tiles)):
        newest = np.int64(layout.newest_page[i]) * PAGE_COLUMNS + layout.newest_column[i]
        if layout.laying_step[i] & 3 == 0:
            newest -= 1  # it is to be laid out next
        left = mario.x[i] - mario.x_on_screen[i]
        oldest = min(0, left // CELL_PX)  # unless thrown back, nothing lies left of the area
        for c in range(COLUMNS):
            column = (mario.x[i] >> 4) - COLUMNS_BEHIND + c
            x = column * CELL_PX - left
            is_shown = min(x + CELL_PX, SCREEN_WIDTH) - max(x, 0) >= LEAST_SHOWN_PX
            page = column // PAGE_COLUMNS & 1
            start = page * PAGE_CELLS + column % PAGE_COLUMNS
            for row in range(ROWS):
                tile = tile_of_byte[layout.tile_map[i, start + PAGE_COLUMNS * row]]
                if tile == Tile.EMPTY and row >= LAVA_ROW and layout.has_lava[i]:
                    tile = np.uint8(Tile.LAVA)
                if column > newest or column < oldest:
                    tile = np.uint8(Tile.UNKNOWN)
                tiles[i, row, c] = tile
                on_screen[i, row, c] = is_shown


@compiled
def _kind_in(slots: _Slots, mario: Mario, i: int, slot: int, kind_of_enemy: np.ndarray) -> int:
    """Return the Kind in machine i's slot."""
    state = slots.state[i, slot]
    if slot < ENEMY_SLOTS:
        if slots.active[i, slot] != 1:  # empty, or the second half of Bowser or of a long fire bar
            return Kind.NONE
        kind = np.int64(kind_of_enemy[slots.type[i, slot]])
        return int(kind + (slots.power_up[i] & 3) if kind == Kind.MUSHROOM else kind)
    if slot < FIRST_BLOCK:
        is_one = 0 < state < EXPLODES and mario.power[i] == FIRE_POWER  # else it is left behind
        return Kind.FIREBALL if is_one else Kind.NONE
    if slot < FIRST_HAMMER:
        return Kind.JUMPING_BLOCK if state == JUMPS else Kind.NONE
    if state >= IS_HAMMER:
        return Kind.HAMMER
    return Kind.JUMPING_COIN if state == JUMPS else Kind.NONE


@compiled
def _speed_x(slots: _Slots, i: int, slot: int, kind: int) -> float:
    """Return the speed to the right, px a frame, of the object in machine i's slot."""
    state, byte = slots.state[i, slot], slots.x_speed[i, slot]
    speed = byte - 256.0 if byte >= 128 else np.float64(byte)
    if kind == Kind.HAMMER and state != HAMMER_FLIES:
        return 0.0  # in a hand
    if slot >= ENEMY_SLOTS or state & BEATEN:
        return speed * X_FACTOR[kind]
    if kind <= Kind.BUZZY_BEETLE and STUNNED_FROM <= state & 7 <= STUNNED_TO and state < KICKED:
        return 0.0
    flag = slots.y_speed[i, slot]
    if kind == Kind.LIFT_TO_AND_FRO or kind == Kind.FLYING_PARATROOPA:
        return speed / 16 if flag & 2 else -speed / 16
    if kind == Kind.BLOOPER:
        if flag & 2:
            return 0.0
        return -speed if slots.direction[i, slot] == LEFT else speed
    if kind == Kind.BOWSER:
        pace = slots.bowser_speed[i]
        return (pace - 256.0 if pace >= 128 else np.float64(pace)) / 4
    return speed * X_FACTOR[kind] + X_SPEED[kind]


@compiled
def _speed_y(slots: _Slots, i: int, slot: int, kind: int) -> float:
    """Return the speed downwards, px a frame, of the object in machine i's slot."""
    state, byte = slots.state[i, slot], slots.y_speed[i, slot]
    speed = (byte - 256.0 if byte >= 128 else np.float64(byte)) + slots.y_fraction[i, slot] / 256
    if kind == Kind.HAMMER and state != HAMMER_FLIES:
        return 0.0
    if slot >= ENEMY_SLOTS or (state & BEATEN and kind < Kind.FIRE_BAR):
        return speed
    own = slots.x_speed[i, slot]
    own_speed = own - 256.0 if own >= 128 else np.float64(own)
    if kind == Kind.BLOOPER:
        return 0.5 if byte & 2 else -own_speed
    if kind == Kind.PLANT:
        return own_speed / 2 if byte == 1 else 0.0
    if kind == Kind.LIFT_DROPS and slots.stood_on[i, slot] >= 128:
        return 0.0
    if kind == Kind.BOWSER and slots.frame_timer[i, slot]:
        return 0.0
    return speed * Y_FACTOR[kind]


@compiled
def _is_shown(slots: _Slots, mario: Mario, objects: Objects, i: int, slot: int) -> bool:
    """Return whether at least `LEAST_SHOWN_PX` each way of an object are on the screen.

    What is inside a pipe is not, nor what has just begun to grow out of a block, nor a bullet that
    the cannon holds.
    """
    kind, state = objects.kind[i, slot], objects.state[i, slot]
    if Kind.MUSHROOM <= kind <= Kind.EXTRA_LIFE and state < GROWN_OUT:
        return False
    if kind == Kind.BULLET and slots.type[i, slot] == BULLET_OF_CANNON and state == 0:
        return False
    left = mario.x_on_screen[i] + objects.dx[i, slot] + BOXES[kind, 0]
    top = mario.y[i] + objects.dy[i, slot] + BOXES[kind, 1]
    right, bottom = left + objects.width[i, slot], min(top + BOXES[kind, 3], SCREEN_HEIGHT)
    if kind == Kind.PLANT:
        bottom = min(bottom, np.int64(slots.plant_inside[i, slot]))
    if Kind.SMALL_LIFT_UP <= kind <= Kind.SMALL_LIFT_DOWN and top < TILE_TOP:
        return False
    if kind == Kind.POLE_FLAG and right > SCREEN_WIDTH:
        return False  # the game draws it whole or not at all
    wide = min(right, SCREEN_WIDTH) - max(left, OBJECTS_LEFT)
    return wide >= LEAST_SHOWN_PX and bottom - max(top, 0) >= LEAST_SHOWN_PX


@compiled
def _fill_objects(slots: _Slots, mario: Mario, kind_of_enemy: np.ndarray, objects: Objects) -> None:
    """Fill `objects`, which are zeros."""
    for i in range(len(mario.x)):
        for slot in range(SLOTS):
            kind = _kind_in(slots, mario, i, slot, kind_of_enemy)
            if kind == Kind.NONE:
                continue
            objects.kind[i, slot] = kind
            x = slots.x_page[i, slot] * PAGE_PX + slots.x[i, slot]
            y = (slots.y_page[i, slot] - 1) * PAGE_PX + slots.y[i, slot]
            if kind == Kind.POLE_FLAG:
                y = np.int64(slots.y[i, slot])  # the game does not care for its page
            if kind == Kind.BOWSER and slots.direction[i, slot] != LEFT:
                x -= BOXES[kind, 2] // 2  # the slot holds the half with his head
            objects.dx[i, slot] = x - mario.x[i]
            objects.dy[i, slot] = y - mario.y[i]
            objects.vx[i, slot] = _speed_x(slots, i, slot, kind)
            objects.vy[i, slot] = _speed_y(slots, i, slot, kind)
            is_large_lift = Kind.LIFT_BALANCE <= kind <= Kind.LIFT_RIGHT
            is_short = is_large_lift and slots.has_short_lifts[i]
            objects.width[i, slot] = SHORT_LIFT_PX if is_short else BOXES[kind, 2]
            objects.state[i, slot] = slots.state[i, slot]
            objects.faces_right[i, slot] = objects.vx[i, slot] > 0
            if slot < ENEMY_SLOTS:
                objects.faces_right[i, slot] = slots.direction[i, slot] != LEFT
                objects.timer[i, slot] = slots.timer[i, slot]
            if Kind.SMALL_LIFT_UP <= kind <= Kind.SMALL_LIFT_DOWN:
                objects.twin_dy[i, slot] = (y + SMALL_LIFT_TWIN_PX) % PAGE_PX - mario.y[i]
            if kind == Kind.FIRE_BAR:
                is_long = slots.type[i, slot] == LONG_FIRE_BAR
                objects.fires[i, slot] = LONG_BAR_FIRES if is_long else SHORT_BAR_FIRES
                objects.angle[i, slot] = (slots.y_speed[i, slot] & TURN - 1) * (2 * np.pi / TURN)
            objects.on_screen[i, slot] = _is_shown(slots, mario, objects, i, slot)
