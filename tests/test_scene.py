"""The scene says what the screen shows: tiles, objects and Mario, on play of all stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from fastnes import BatchMachine, ram, start_snapshot, state
from fastnes.tables import PALETTE_RGB
from mario_demos import load_demo, replay
from mario_game import STAGES, StageId
from mario_reference import NesPyMarioEnv
from mario_scene import (
    BOXES,
    CELL_PX,
    COLUMNS_BEHIND,
    ROWS,
    SHOWN_AS,
    Kind,
    Scene,
    Tile,
    fires_of,
    read_scene,
)
from mario_scene_flat import MARIO_NUMBERS, PARTS, SCENE_SIZE, VISIBLE, flatten_scene
from mario_scene_picture import draw_scene
from mario_wrappers import FastMarioEnv

DEMOS = Path(__file__).resolve().parent.parent / "demos"
QUICK = ((1, 1), (1, 4), (3, 1), (2, 2), (4, 3))  # with fire bars, hammers, water, balances
ALL_STAGES = [
    pytest.param(
        stage, id="-".join(map(str, stage)), marks=() if stage in QUICK else pytest.mark.slow
    )
    for stage in STAGES
]

# --------------------------------------------------------------------------------------------
# Play
# --------------------------------------------------------------------------------------------

MACHINES = 8
RESTART_FRAMES = 96  # how far from the demo's way play can get
SAMPLES = 1500  # of a stage


class Play(NamedTuple):
    """Moments of play: machine states uint8[n, STATE_SIZE] of three frames in a row."""

    before: np.ndarray
    now: np.ndarray
    after: np.ndarray

    @property
    def scene(self) -> Scene:
        return read_scene(self.now[:, : state.RAM_SIZE])


_played: dict[tuple[int, int], Play] = {}


def play_of(stage: tuple[int, int]) -> Play:
    """Return moments of a stage: its clear, disturbed by buttons that are held at random.

    A quarter of the machines begin tall, another throws fireballs.
    """
    if stage in _played:
        return _played[stage]
    demo = load_demo(DEMOS / f"{stage[0]}-{stage[1]}.npz")
    generator = np.random.default_rng(stage)
    guide = BatchMachine(1, frames=1, threads=1)
    guide.restore(0, start_snapshot(*stage))
    machines = BatchMachine(MACHINES, frames=1, threads=1)
    names = [(), ("right",), ("right", "B"), ("right", "A", "B"), ("left",), ("left", "A")]
    names += [("A",), ("down",), ("down", "B"), ("B",), ("up",)]
    choices = np.array([sum(ram.BUTTON_BITS[name] for name in held) for held in names], np.uint8)
    left = np.zeros(MACHINES, np.int64)  # frames for which a machine's own buttons are held
    own = np.zeros(MACHINES, np.uint8)
    alive = np.zeros(MACHINES, np.bool_)
    chance = SAMPLES / (MACHINES * demo.frames)
    moments = []
    for frame, pressed in enumerate(demo.buttons):
        if frame % RESTART_FRAMES == 0:
            for i in range(MACHINES):
                machines.restore(i, guide.snapshot(0))
                if i % 4 >= 2:
                    machines.states[i, ram.STATUS] = i % 4 - 1
                    machines.states[i, ram.PLAYER_SIZE] = 0
            alive[:], left[:] = True, 0
            last = machines.states.copy()
        begins = (left <= 0) & (generator.random(MACHINES) < 0.04)
        left[begins] = generator.integers(3, 30, begins.sum())
        own[begins] = generator.choice(choices, begins.sum())
        now = machines.states.copy()
        machines.step(np.where(left > 0, own, pressed).astype(np.uint8), draw=False)
        alive &= ~machines.terminated
        taken = alive & (generator.random(MACHINES) < chance) & is_in_play(now)
        moments += list(zip(last[taken], now[taken], machines.states[taken], strict=True))
        last, left = now, left - 1
        guide.step(np.array([pressed]), draw=False)
    _played[stage] = Play(*(np.array(states) for states in zip(*moments, strict=True)))
    return _played[stage]


def is_in_play(states: np.ndarray) -> np.ndarray:
    """Return bool[n]: not while an area is loaded."""
    return (states[:, ram.GAME_TASK] == ram.GAME_TASK_PLAY) & (states[:, ram.GAME_MODE] == 1)


# --------------------------------------------------------------------------------------------
# Objects
# --------------------------------------------------------------------------------------------


def numbers(*spans: int | tuple[int, int]) -> list[int]:
    """Return tile numbers; a pair is all from the first to the second."""
    pairs = (span if isinstance(span, tuple) else (span, span) for span in spans)
    return [number for first, last in pairs for number in range(first, last + 1)]


# The sprite tiles of each kind, as they look in the game's pattern table.
KOOPA = numbers((0x69, 0x6C), (0x6E, 0x6F), (0xA0, 0xA9))
CHEEP_CHEEP = numbers((0xB2, 0xB7))
LIFT = numbers(0x5B, 0x75)
FIRE = numbers((0x64, 0x65))
POWER_UP = numbers((0x76, 0x79), 0x8D, 0xD6, 0xD9, 0xE4)
SPRITES: dict[Kind, list[int]] = {
    Kind.GOOMBA: numbers((0x70, 0x73), 0xEF),
    **dict.fromkeys((Kind.GREEN_KOOPA, Kind.RED_KOOPA, Kind.HOPPING_PARATROOPA), KOOPA),
    **dict.fromkeys((Kind.RED_PARATROOPA, Kind.FLYING_PARATROOPA), KOOPA),
    Kind.BUZZY_BEETLE: numbers((0xAA, 0xB1), (0xF4, 0xF5)),
    Kind.HAMMER_BRO: numbers((0x7C, 0x7D), (0x88, 0x8C), (0xD1, 0xD5), (0xE2, 0xE3)),
    Kind.SPINY: numbers((0x8E, 0x8F), (0x94, 0x9D)),
    Kind.PLANT: numbers((0xE5, 0xE6), (0xEB, 0xEE)),
    Kind.BLOOPER: numbers((0xDC, 0xDF)),
    **dict.fromkeys((Kind.GRAY_CHEEP_CHEEP, Kind.RED_CHEEP_CHEEP), CHEEP_CHEEP),
    Kind.FLYING_CHEEP_CHEEP: CHEEP_CHEEP,
    Kind.PODOBOO: numbers(0xD0, 0xD7),
    Kind.LAKITU: numbers((0xB8, 0xBD)),
    Kind.BULLET: numbers((0xE7, 0xEA)),
    Kind.BOWSER: numbers((0xBE, 0xCC)),
    Kind.BOWSER_FLAME: numbers((0x51, 0x53)),
    **dict.fromkeys((Kind.FIRE_BAR, Kind.FIREBALL), FIRE),
    **{Kind(kind): LIFT for kind in range(Kind.LIFT_BALANCE, Kind.SMALL_LIFT_DOWN + 1)},
    **dict.fromkeys((Kind.MUSHROOM, Kind.FLOWER, Kind.STAR, Kind.EXTRA_LIFE), POWER_UP),
    Kind.VINE: numbers((0xE0, 0xE1)),
    Kind.POLE_FLAG: numbers((0x7E, 0x7F)),
    Kind.SPRING: numbers((0xF0, 0xF3)),
    Kind.RETAINER: numbers((0x7A, 0x7B), (0xCD, 0xCF)),
    Kind.JUMPING_BLOCK: numbers((0x85, 0x87)),
    Kind.HAMMER: numbers((0x80, 0x83)),
    Kind.JUMPING_COIN: numbers((0x60, 0x63)),
}
MARIO = numbers((0x00, 0x50), (0x58, 0x5A), (0x5C, 0x5F))
NEAR_PX, FAR_PX = 8, 999
OFF_SCREEN_Y = 0xEF  # from here on a sprite is hidden


def sprites_of(states: np.ndarray) -> np.ndarray:
    """Return int64[n, 64, 4]: y, tile, attributes and x of the sprites that the PPU has."""
    oam = states[:, state.OAM : state.OAM + state.OAM_SIZE]
    return oam.reshape(len(states), -1, 4).astype(np.int64)


def boxes_of(scene: Scene) -> tuple[np.ndarray, ...]:
    """Return left, top, width and height on the screen of all objects, px."""
    objects = scene.objects
    left = objects.dx + scene.mario.x_on_screen[:, None] + BOXES[objects.kind, 0]
    top = objects.dy + scene.mario.y[:, None] + BOXES[objects.kind, 1]
    return left, top, objects.width, BOXES[objects.kind, 3]


def distance_px(sprites: np.ndarray, box: Sequence[int], tiles: list[int]) -> int:
    """Return how far the nearest sprite with one of the tiles is from lying in a box."""
    left, top, width, height = box
    mine = sprites[np.isin(sprites[:, 1], tiles) & (sprites[:, 0] < OFF_SCREEN_Y)]
    across = np.maximum(left - mine[:, 3], mine[:, 3] - (left + width - 8))
    down = np.maximum(top - mine[:, 0], mine[:, 0] - (top + height - 8))
    return int(np.maximum(np.maximum(across, down), 0).min(initial=FAR_PX))


def missing_sprites(play: Play) -> tuple[Counter[str], Counter[str]]:
    """Return how many visible objects of each kind there are, and how many lack their sprite.

    Mario is among them, but for when he flickers.
    """
    scene = play.scene
    boxes = boxes_of(scene)
    seen, lacking = Counter[str](), Counter[str]()
    frames = [sprites_of(states) for states in (play.now, play.after)]
    mario = scene.mario
    top = mario.y + np.where(mario.is_small, CELL_PX, 0)
    for i in np.flatnonzero(~mario.is_hurt & (top > 0) & (top < 224)):
        place = [int(mario.x_on_screen[i]), int(top[i]), CELL_PX, CELL_PX * (2 - mario.is_small[i])]
        seen["MARIO"] += 1
        if min(distance_px(oam[i], place, MARIO) for oam in frames) > NEAR_PX:
            lacking["MARIO"] += 1
    for i, slot in np.argwhere(scene.objects.on_screen):
        kind = Kind(scene.objects.kind[i, slot])
        place = [int(side[i, slot]) for side in boxes]
        seen[kind.name] += 1
        if min(distance_px(oam[i], place, SPRITES[kind]) for oam in frames) > NEAR_PX:
            lacking[kind.name] += 1
    return seen, lacking


@pytest.mark.parametrize("stage", ALL_STAGES)
def test_visible_objects_have_their_sprite(stage: tuple[int, int]) -> None:
    seen, lacking = missing_sprites(play_of(stage))
    print(f"{stage}: {lacking.total()} of {seen.total()} without sprite {dict(lacking)}")
    assert seen.total() > 300
    assert lacking.total() <= 0.01 * seen.total(), (lacking, seen)


def unknown_sprites(play: Play) -> tuple[int, Counter[str]]:
    """Return how many sprites of objects are shown, and the tiles of those of no known object."""
    scene = play.scene
    left, top, width, height = boxes_of(scene)
    fire_x, fire_y, is_fire = fires_of(scene.objects)
    fire_x = fire_x + scene.mario.x_on_screen[:, None, None]
    fire_y = fire_y + scene.mario.y[:, None, None]
    every = sorted({tile for tiles in SPRITES.values() for tile in tiles})
    total, unknown = 0, Counter[str]()
    for i, sprites in enumerate(sprites_of(play.after)):
        shown = sprites[np.isin(sprites[:, 1], every) & (sprites[:, 0] < OFF_SCREEN_Y)]
        total += len(shown)
        for y, tile, _, x in shown.tolist():
            near = (x >= left[i] - NEAR_PX) & (x <= left[i] + width[i] + NEAR_PX - 8)
            near &= (y >= top[i] - NEAR_PX) & (y <= top[i] + height[i] + NEAR_PX - 8)
            is_twin = scene.objects.twin_dy[i] != 0
            twin_y = scene.objects.twin_dy[i] + scene.mario.y[i]
            near |= is_twin & (abs(twin_y - y) <= NEAR_PX) & (abs(left[i] - x) <= 24)
            kinds = {kind for kind, tiles in SPRITES.items() if tile in tiles}
            of_kind = np.isin(scene.objects.kind[i], list(kinds))
            burns = is_fire[i] & (np.maximum(abs(fire_x[i] - x), abs(fire_y[i] - y)) <= NEAR_PX + 4)
            if not (near & of_kind).any() and not (Kind.FIRE_BAR in kinds and burns.any()):
                unknown[f"{tile:02x}"] += 1
    return total, unknown


@pytest.mark.parametrize("stage", ALL_STAGES)
def test_sprites_belong_to_objects_that_the_scene_knows(stage: tuple[int, int]) -> None:
    total, unknown = unknown_sprites(play_of(stage))
    print(f"{stage}: {unknown.total()} of {total} sprites of no object {dict(unknown)}")
    assert unknown.total() <= 0.01 * total, unknown


@pytest.mark.parametrize("stage", ALL_STAGES)
def test_speeds_say_where_an_object_is_in_the_next_frame(stage: tuple[int, int]) -> None:
    play = play_of(stage)
    ones = (play.after[:, ram.FRAME_COUNTER] - play.now[:, ram.FRAME_COUNTER]) == 1
    scene, later = (read_scene(s[ones, : state.RAM_SIZE]) for s in (play.now, play.after))
    is_free = (scene.mario.state == ram.PLAYER_NORMAL) & (later.mario.state == ram.PLAYER_NORMAL)
    one, other = scene.objects, later.objects
    same = one.on_screen & (one.kind == other.kind) & is_free[:, None]
    same &= one.kind != Kind.BOWSER  # he moves two px every fourth frame
    moved_x = other.dx - one.dx + (later.mario.x - scene.mario.x)[:, None]
    moved_y = other.dy - one.dy + (later.mario.y - scene.mario.y)[:, None]
    right = (abs(moved_x - one.vx) <= 1.01) & (abs(moved_y - one.vy) <= 1.01)
    share = right[same].mean()
    print(f"{stage}: {share:.4f} of {same.sum()}")
    assert share >= 0.97
    mario = scene.mario
    steps = (later.mario.x - mario.x, later.mario.y - mario.y)
    on_way = (abs(steps[0] - mario.vx) <= 1.01) & (abs(steps[1] - mario.vy) <= 1.2)
    assert on_way[is_free].mean() >= 0.9


# --------------------------------------------------------------------------------------------
# Tiles
# --------------------------------------------------------------------------------------------

# What is seen in a cell's picture: its four background tiles, the left ones first, each from above.
PICTURES: dict[Tile, str] = {
    Tile.SOLID: "4b4c4d4e 4d4f4d4f 4d4e5051 6b702c2d 6c716d72 6e736f74 a4e9eaeb b4b6b5b7 abacadae"
    " 5d5e5d5e c124c124 cacccbcd 2a2a4040 82838485 b0b1b2b3 5759585a",
    Tile.BRICK: "45474547 47474747",
    Tile.QUESTION: "53555456",
    Tile.COIN: "a5a7a6a8 c2c4c3c5",
    Tile.PIPE: "60646165 62666367 68686969 26266a6a 868a878b 888c888c 898d6969 8e918f92 26932693"
    " 90946969",
    Tile.POLE: "242f243d a2a2a3a3",
    Tile.AXE: "7b7d7c7e",
    Tile.BRIDGE: "77797779",
    Tile.SPRING: "24472447",  # its lower half
    Tile.CANNON: "c6c8c7c9",
    Tile.LAVA: "41264126 26262626",  # also water, and the inside of hills: told by their colour
    # Sky, clouds, bushes, hills, railings, chains, trees, ropes, castles, fences.
    Tile.EMPTY: "24242424 27272727 24242435 36253725 24382424 24303026 26263426 24312432 33262433"
    " 34262626 24c024c0 247f7f24 b8bab9bb b8bcb9bd babcbbbd 99249924 24a23e3f 5b5c24a3 9d479e47"
    " 47472727 27274747 a947aa47 9b279c27 52525252 80a081a1 bebebfbf 75ba76bb bababbbb 24243924"
    " 3a243b24 3c242424 a224a324",
}
TILE_OF_PICTURE = {
    int(picture, 16): tile for tile, pictures in PICTURES.items() for picture in pictures.split()
}
CASTLE_WALL, ROPE = 0x47474747, 0xA2A2A3A3  # drawn as bricks are, and as the pole is
BLANK = 0x24242424


def pictures_of(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each cell's four background tiles as one number, and its palette.

    int64[n, ROWS, 32] each: the two name tables side by side, which hold the columns modulo 32.
    """
    tables = states[:, state.VRAM : state.VRAM + state.VRAM_SIZE].reshape(-1, 2, 1024)
    tiles = tables[:, :, :960].reshape(-1, 2, 30, 32)[:, :, 4:].astype(np.int64)
    corners = [tiles[:, :, y::2, x::2] for x in (0, 1) for y in (0, 1)]
    number = corners[0] << 24 | corners[1] << 16 | corners[2] << 8 | corners[3]
    rows, columns = np.arange(2, 2 + ROWS)[:, None], np.arange(16)
    attributes = tables[:, :, 960:].reshape(-1, 2, 8, 8)[:, :, rows // 2, columns // 2]
    palette = attributes >> (rows % 2 * 4 + columns % 2 * 2) & 3
    return np.concatenate(tuple(number.swapaxes(0, 1)), 2), np.concatenate(
        tuple(palette.swapaxes(0, 1)), 2
    )


def seen_tiles(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the Tile that each cell's picture shows, int64[n, ROWS, 32], and the pictures.

    -1: no picture that anybody knows.
    """
    picture, palette = pictures_of(states)
    known, index = np.unique(picture, return_inverse=True)
    tile = np.array([TILE_OF_PICTURE.get(int(number), -1) for number in known])[index]
    tile = tile.reshape(picture.shape)
    colors = states[:, state.PALETTE : state.PALETTE + 16].reshape(-1, 4, 4)
    rgb = PALETTE_RGB[colors[np.arange(len(states))[:, None, None], palette, 2] & 0x3F]
    is_red = rgb[..., 0] > rgb[..., 2].astype(np.int64) + 40
    tile[(tile == Tile.LAVA) & ~(is_red & (palette == 2))] = Tile.EMPTY
    tile[(picture == ROPE) & (palette == 1)] = Tile.EMPTY
    return tile, picture


@pytest.mark.parametrize("stage", ALL_STAGES)
def test_tiles_agree_with_the_picture(stage: tuple[int, int]) -> None:
    play = play_of(stage)
    scene = play.scene
    seen, pictures = seen_tiles(play.now)
    column = (scene.mario.x // CELL_PX - COLUMNS_BEHIND)[:, None] + np.arange(16)
    index = np.broadcast_to((column % 32)[:, None], scene.tiles.shape)
    seen, pictures = (np.take_along_axis(array, index, axis=2) for array in (seen, pictures))
    shown = SHOWN_AS[scene.tiles]
    agrees = shown == seen
    agrees |= (pictures == CASTLE_WALL) & (shown == Tile.EMPTY)
    agrees |= (pictures == BLANK) & np.isin(shown, (Tile.SPRING, Tile.VINE))  # drawn as sprites
    wrong = Counter(
        (Tile(told).name, Tile(looks).name if looks >= 0 else f"{picture:08x}", int(row))
        for told, looks, picture, row in zip(
            *(array[scene.on_screen & ~agrees] for array in (shown, seen, pictures)),
            np.argwhere(scene.on_screen & ~agrees)[:, 1],
            strict=True,
        )
    )
    print(f"{stage}: {wrong.total()} of {scene.on_screen.sum()} cells {dict(wrong)}")
    assert wrong.total() <= 0.01 * scene.on_screen.sum(), wrong
    assert (scene.tiles[scene.on_screen] != Tile.UNKNOWN).all()


def test_hidden_blocks_and_pipes_that_lead_somewhere_are_known() -> None:
    """1-1's hidden block, and the one of its four first pipes that Mario can enter."""
    scene = play_of(StageId(1, 1)).scene
    at_start = scene.machine.area == STAGES[StageId(1, 1)].start_area
    first = scene.mario.x // CELL_PX - COLUMNS_BEHIND

    def places(tile: Tile) -> set[tuple[int, int]]:
        """Return (column, row) of the cells of the first 100 columns that hold it."""
        cells = np.argwhere((scene.tiles == tile) & at_start[:, None, None])
        return {(int(first[i] + c), int(row)) for i, row, c in cells if first[i] + c < 100}

    assert places(Tile.HIDDEN) == {(64, 6)}
    assert places(Tile.PIPE_ENTRY) == {(57, 7), (58, 7)}


# --------------------------------------------------------------------------------------------
# Both emulators; a scene as numbers; a scene as a picture
# --------------------------------------------------------------------------------------------


def test_both_emulators_say_the_same() -> None:
    scenes: dict[str, list[np.ndarray]] = {"fast": [], "nes-py": []}

    def note(frame: int, env: FastMarioEnv | NesPyMarioEnv) -> None:
        if frame % 20 == 0:
            name = "fast" if isinstance(env, FastMarioEnv) else "nes-py"
            scenes[name].append(flatten_scene(read_scene(np.array(env.ram)[None]))[0])

    demo = load_demo(DEMOS / "1-4.npz")
    for emulator in ("fast", "nes-py"):
        replay(demo, emulator, note)
    assert len(scenes["fast"]) > 30
    np.testing.assert_array_equal(scenes["fast"], scenes["nes-py"])


def test_many_machines_are_read_as_each_alone() -> None:
    now = play_of((1, 4)).now[:40, : state.RAM_SIZE]
    together = flatten_scene(read_scene(now))
    alone = [flatten_scene(read_scene(now[i : i + 1]))[0] for i in range(len(now))]
    np.testing.assert_array_equal(together, alone)
    assert together.shape == (40, SCENE_SIZE)
    assert np.abs(together).max() < 5


def test_what_is_seen_does_not_tell_what_is_hidden() -> None:
    """Timers, random numbers, contents of bricks and what lies off the screen change nothing."""
    now = play_of(StageId(1, 1)).now[:, : state.RAM_SIZE].copy()
    before = flatten_scene(read_scene(now), seen_only=True)
    assert not before[:, ~VISIBLE].any()
    for address in (ram.JUMP_TIMER, ram.PLAYER_GRAVITY, ram.WORLD, ram.FRAME_COUNTER, ram.RANDOM):
        now[:, address] ^= 0x15
    tiles = now[:, ram.TILE_MAP : ram.TILE_MAP + 2 * ram.TILE_MAP_PAGE_BYTES]
    tiles[np.isin(tiles, (0x5F, 0x60))] = 0  # hidden blocks
    tiles[np.isin(tiles, (0x57, 0x58))] = 0x51  # bricks with a star, with coins
    tiles[tiles == 0xC1] = 0xC0  # a power-up in a question block
    scene = read_scene(now)
    np.testing.assert_array_equal(flatten_scene(scene, seen_only=True), before)
    assert (flatten_scene(scene) != flatten_scene(play_of(StageId(1, 1)).scene)).any()
    gone = scene.objects._replace(kind=scene.objects.kind * scene.objects.on_screen)
    only_seen = scene._replace(objects=gone)
    np.testing.assert_array_equal(flatten_scene(only_seen, seen_only=True), before)


def test_parts_of_a_flat_scene_lie_side_by_side() -> None:
    ends = [0] + [part.stop for part in PARTS.values()]
    assert [part.start for part in PARTS.values()] == ends[:-1]
    assert ends[-1] == SCENE_SIZE == len(VISIBLE)
    scene = play_of(StageId(1, 1)).scene
    mario = flatten_scene(scene)[:, PARTS["mario"]]
    vx = mario[:, MARIO_NUMBERS.index("vx")]
    np.testing.assert_allclose(vx * 4, scene.mario.vx, atol=1e-5)
    solid = flatten_scene(scene)[:, PARTS["solid"]].reshape(scene.tiles.shape)
    np.testing.assert_array_equal(solid[scene.tiles == Tile.SOLID], 1)
    np.testing.assert_array_equal(solid[scene.tiles == Tile.EMPTY], 0)


def test_a_scene_is_drawn_where_things_are() -> None:
    play = play_of(StageId(1, 1))
    scene = play.scene
    screen = np.zeros((240, 256, 3), np.uint8)
    goombas = (scene.objects.kind == Kind.GOOMBA) & scene.objects.on_screen
    i, slot = np.argwhere(goombas & (scene.objects.state == 0))[0]
    picture = draw_scene(screen, scene, i)
    left, top, width, height = (int(side[i, slot]) for side in boxes_of(scene))
    assert picture[top + height - 1, max(left, 0) : left + width].any(axis=1).all()
    assert not screen.any()
    assert draw_scene(screen, scene, i, scale=3).shape == (720, 768, 3)
