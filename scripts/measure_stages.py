"""Measure the stage table: where each of the 32 stages starts, and where its goal line is.

Nothing here is copied from a map or a guide. Two sources are read and held against each other:

1. The ROM's own level data. The tables are found by their bytes, not by their address, because
   the ROM in gym-super-mario-bros is laid out like the PAL cartridge and the addresses that
   disassemblies of the NTSC one give are off by a little.
2. The running game (SuperMarioBrosEnv of gym-super-mario-bros): start x and area after a reset;
   the x at which `flag_get` turns true when Mario touches the pole or the axe; the area that the
   exit pipe of an underground or water stage leads to; how far a maze castle throws him back.

    python scripts/measure_stages.py            # writes docs/results/stages.json (about 2 minutes)
    python scripts/measure_stages.py --check    # measures again; exit 1 where the file differs

The level format, as read here (column = 16 px, page = 16 columns):

- area pointer, one byte: bits 5-6 the type (0 water, 1 ground, 2 underground, 3 castle), bits 0-4
  the index within the type. Bit 7 is not part of it.
- area objects: a 2-byte header, then 2 bytes each up to 0xFD: column << 4 | row, then bit 7 = "one
  page on" and bits 0-6 the object. Row 13 with bit 6 clear jumps to a page; with bit 6 set it is a
  special object: 0x41 flag pole, 0x42 axe, 0x45-0x47 scroll lock.
- enemy data: 2 bytes each up to 0xFF in the same form; row 15 jumps to a page; row 14 takes 3
  bytes and says where the next pipe or vine leads: area pointer (its bit 7 is the page bit), then
  world << 5 | entrance page. It counts only in that world.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gym_super_mario_bros import SuperMarioBrosEnv
from gym_super_mario_bros._roms import decode_target, smb1_rom_path

REPOSITORY = Path(__file__).resolve().parent.parent
OUTPUT = REPOSITORY / "docs" / "results" / "stages.json"
ALL_STAGES = [(world, stage) for world in range(1, 9) for stage in range(1, 5)]

COLUMN_PX = 16
PAGE_PX = 256

# How the level tables start: the eight worlds' offsets, then the first world's areas.
AREA_TABLE_SIGNATURE = bytes.fromhex("00050a0e13171b20 2529c02660")
AREA_COUNT = 36  # area pointers over all worlds, intro areas included
LEVEL_COUNT = 34  # distinct areas with data of their own
# How the loop commands start: the worlds (counted from 0) of the eleven checks.
LOOP_WORLDS = bytes([3, 3, 6, 6, 6, 6, 6, 6, 7, 7, 7])

# Special objects of row 13.
FLAG_POLE, AXE = 0x41, 0x42
SCROLL_LOCKS = (0x45, 0x46, 0x47)
# Sideways pipes: object 9 in rows 0-11 (under water), 0x40-0x4F in row 15 (bits 0-3 its height).
WATER_PIPE, EXIT_PIPE = 0x09, 0x40
SIDE_PIPE_MOUTHS = (0x6C, 0x1F)  # the metatiles that let Mario in: dry, under water

# The x of Mario (left edge of his 16 px) relative to the left edge of the goal's column. The pole
# pulls him to 7 px left of it whatever way he came; the axe ends the world when a foot is in its
# column, and his right foot is 12 px right of his x. Both are checked against the running game.
GOAL_OFFSET_PX = {"flag": -7, "axe": -12}

# By world: the page to start from, and the height (px) that fails a maze castle's first check.
LOOP_FLIGHTS = {4: (2, 0x20), 7: (2, 0x40), 8: (3, 0x20)}
FLIGHT_HEIGHTS = (0x20, 0x40, 0x60, 0x80, 0x30, 0x50, 0x70)

# Buttons as nes-py takes them.
RIGHT_B = 0x82

# RAM, as the game uses it; all of these are the same in every release of the game.
PLAYER_STATE = 0x0E  # 8 = normal
PLAYER_PAGE, PLAYER_X = 0x6D, 0x86
PLAYER_X_SPEED = 0x57
PLAYER_Y_SPEED = 0x9F
PLAYER_SCREENS_DOWN, PLAYER_Y = 0xB5, 0xCE
BLOCK_BUFFER = 0x500  # two pages of 13 rows x 16 columns of metatiles
BLOCK_PAGE_BYTES = 0xD0
AREA_TYPE, AREA_INDEX = 0x74E, 0x74F  # the area that is loaded
AREA_POINTER = 0x750  # where the NEXT pipe or vine leads: not always the area that is loaded
ENTRANCE_PAGE, ENTRANCE_KIND = 0x751, 0x752
HALFWAY_PAGE = 0x75B  # the page at which the game starts an area after a death
GAME_TASK = 0x772  # 0 = load the area, 3 = play
PRELEVEL_TIMER = 0x7A0
INJURY_TIMER = 0x79E  # while it runs, enemies cannot hurt Mario


@dataclass(frozen=True)
class AreaObject:
    """One object of an area: its column (16 px) and row (0-15) and its 7-bit number."""

    column: int
    row: int
    number: int


@dataclass(frozen=True)
class Exit:
    """Where a pipe or a vine leads, from `x_px` on until the next Exit says otherwise.

    It says nothing about whether there is a pipe; `entrance_page` (256 px) is where Mario arrives.
    """

    area: int
    x_px: int
    world: int
    to_area: int
    entrance_page: int


@dataclass(frozen=True)
class LoopCommand:
    """A maze castle's check: Mario at `y_px` (his sprite's top) on the ground goes on.

    It is made when the game, about a screen ahead of Mario, builds the first column of `page`; in
    7-4 three checks count together. `back_px` is how far a failed one throws him back.
    """

    world: int
    page: int
    y_px: int
    back_px: int


@dataclass(frozen=True)
class MeasuredStage:
    """A stage of the single-stage environment. Areas are area pointers without bit 7; x in px."""

    start_x: int
    start_area: int
    goal: str
    goal_line_x: int
    goal_area: int
    start_width: int
    """Right edge of the last page of the start area that holds an object."""
    goal_width: int
    """The same for the goal area."""
    areas: tuple[int, ...]
    """Every area that pipes and vines reach from the start, warp zones left out."""
    exits: tuple[Exit, ...]
    exit_pipe_x: int | None
    """Left edge of the pipe to the goal's area, where that is not the start area."""


class LevelData:
    """The level tables of a ROM.

    Args:
        rom: the whole .nes file, 16-byte header and 32 KiB of program, mapper 0.

    Raises:
        ValueError: the ROM does not hold the tables of Super Mario Bros.
    """

    def __init__(self, rom: bytes) -> None:
        self.program = rom[16 : 16 + 0x8000]
        start = self.program.find(AREA_TABLE_SIGNATURE)
        if start < 0:
            raise ValueError("this ROM does not hold the level tables of Super Mario Bros.")
        cursor = start

        def take(count: int) -> bytes:
            nonlocal cursor
            cursor += count
            return self.program[cursor - count : cursor]

        self.world_offsets = take(8)
        self.area_pointers = take(AREA_COUNT)
        self.enemy_type_offsets = take(4)
        self.enemy_low, self.enemy_high = take(LEVEL_COUNT), take(LEVEL_COUNT)
        self.area_type_offsets = take(4)
        self.area_low, self.area_high = take(LEVEL_COUNT), take(LEVEL_COUNT)

    def start_area(self, world: int, stage: int) -> int:
        """Return the area in which the single-stage environment starts a stage.

        gym-super-mario-bros skips the walk into the pipe before 1-2, 2-2, 4-2 and 7-2; its own
        `decode_target` says which entry of the world's list it takes instead.
        """
        _, _, entry = decode_target((world, stage), False)
        return self.area_pointers[self.world_offsets[world - 1] + entry - 1] & 0x7F

    def _data(self, area: int, type_offsets: bytes, low: bytes, high: bytes) -> bytes:
        index = type_offsets[area >> 5] + (area & 0x1F)
        return self.program[(low[index] | high[index] << 8) - 0x8000 :]

    def objects(self, area: int) -> Iterator[AreaObject]:
        """Yield the objects of an area from left to right."""
        data = self._data(area, self.area_type_offsets, self.area_low, self.area_high)
        page, cursor = 0, 2
        while data[cursor] != 0xFD:
            position, number = data[cursor], data[cursor + 1]
            cursor += 2
            page += number >> 7
            row = position & 0x0F
            if row == 13 and not number & 0x40:
                page = number & 0x1F
                continue
            yield AreaObject(page * 16 + (position >> 4), row, number & 0x7F)

    def exits(self, area: int) -> Iterator[Exit]:
        """Yield the exits of an area, those of all worlds, from left to right."""
        data = self._data(area, self.enemy_type_offsets, self.enemy_low, self.enemy_high)
        page, cursor = 0, 0
        while data[cursor] != 0xFF:
            position, second = data[cursor], data[cursor + 1]
            page += second >> 7
            row = position & 0x0F
            if row == 15:
                page = second & 0x3F
            if row == 14:
                third = data[cursor + 2]
                x_px = page * PAGE_PX + (position & 0xF0)
                yield Exit(area, x_px, (third >> 5) + 1, second & 0x7F, third & 0x1F)
            cursor += 3 if row == 14 else 2

    def width(self, area: int) -> int:
        """Return the right edge (px) of the last page of an area that holds an object."""
        last = max(found.column for found in self.objects(area))
        return (last // 16 + 1) * PAGE_PX

    def goals(self, area: int) -> list[tuple[str, int]]:
        """Return the goals of an area as ("flag" | "axe", column)."""
        kinds = {FLAG_POLE: "flag", AXE: "axe"}
        return [
            (kinds[found.number], found.column)
            for found in self.objects(area)
            if found.row == 13 and found.number in kinds
        ]

    def sideways_pipes(self, area: int) -> list[int]:
        """Return the columns of an area's sideways pipes, from left to right."""
        return [
            found.column
            for found in self.objects(area)
            if (found.row < 12 and found.number == WATER_PIPE)
            or (found.row == 15 and found.number & 0x70 == EXIT_PIPE)
        ]

    def reach(self, world: int, area: int) -> tuple[set[int], set[Exit], set[tuple[str, int, int]]]:
        """Follow every exit from the left end of `area`.

        Mario goes right from where he enters up to the next scroll lock; bonus rooms share one
        area and are kept apart by those locks.

        Returns:
            the areas, the exits and the goals as (kind, area, column)
        """
        areas: set[int] = set()
        exits: set[Exit] = set()
        goals: set[tuple[str, int, int]] = set()
        queue, seen = [(area, 0)], set()
        while queue:
            here = queue.pop()
            if here in seen:
                continue
            seen.add(here)
            area, entrance_page = here
            areas.add(area)
            first = entrance_page * 16
            locks = (
                found.column
                for found in self.objects(area)
                if found.row == 13 and found.number in SCROLL_LOCKS and found.column >= first
            )
            last = min(locks, default=sys.maxsize)
            goals.update(
                (kind, area, column) for kind, column in self.goals(area) if first <= column <= last
            )
            for found in self.exits(area):
                if found.world == world and first <= found.x_px // COLUMN_PX <= last:
                    exits.add(found)
                    queue.append((found.to_area, found.entrance_page))
        return areas, exits, goals

    def loop_commands(self) -> list[LoopCommand]:
        """Return the checks of the maze castles.

        After the three tables of eleven bytes stands the code that throws Mario back; it starts
        with LDA page, SEC, SBC #pages.

        Raises:
            ValueError: the tables or that code are not where they belong.
        """
        start = self.program.find(LOOP_WORLDS)
        count = len(LOOP_WORLDS)
        pages = self.program[start + count : start + 2 * count]
        heights = self.program[start + 2 * count : start + 3 * count]
        code = self.program[start + 3 * count : start + 3 * count + 5]
        if start < 0 or code[:4] != bytes([0xA5, PLAYER_PAGE, 0x38, 0xE9]):
            raise ValueError("this ROM does not hold the loop commands of Super Mario Bros.")
        return [
            LoopCommand(world + 1, page, y_px, code[4] * PAGE_PX)
            for world, page, y_px in zip(LOOP_WORLDS, pages, heights, strict=True)
        ]


class Game:
    """A stage of the running game, with Mario where a measurement wants him."""

    def __init__(self, world: int, stage: int) -> None:
        self.env = SuperMarioBrosEnv(target=(world, stage))
        self.env.reset()
        self.ram = self.env.ram

    @property
    def x(self) -> int:
        """Mario's x in px."""
        return int(self.ram[PLAYER_PAGE]) * PAGE_PX + int(self.ram[PLAYER_X])

    @property
    def area(self) -> int:
        """The area that is loaded."""
        return int(self.ram[AREA_TYPE]) << 5 | int(self.ram[AREA_INDEX])

    def place(self, x_px: int, y_px: int) -> None:
        """Put Mario at x and y (px, y downwards, his sprite's top), not falling."""
        self.ram[PLAYER_PAGE], self.ram[PLAYER_X] = divmod(x_px, PAGE_PX)
        self.ram[PLAYER_Y], self.ram[PLAYER_SCREENS_DOWN] = y_px, 1
        self.ram[PLAYER_Y_SPEED] = 0

    def frame(self, buttons: int = RIGHT_B) -> None:
        """Advance one frame, unhurt by enemies."""
        self.ram[INJURY_TIMER] = 0x20
        self.env._frame_advance(buttons)

    def load(self, area: int, page: int) -> None:
        """Have the game load an area from a page on, by its own halfway-point start.

        Raises:
            RuntimeError: the game does not get there within 400 frames.
        """
        self.env.reset()
        self.ram[AREA_POINTER], self.ram[HALFWAY_PAGE] = area, page
        self.ram[ENTRANCE_PAGE] = self.ram[ENTRANCE_KIND] = 0
        self.ram[GAME_TASK] = 0
        for count in range(400):
            self.frame(0)
            self.ram[PRELEVEL_TIMER] = 0
            if count > 5 and self.ram[PLAYER_STATE] == 8 and self.ram[GAME_TASK] == 3:
                break
        if self.area != area or self.x // PAGE_PX != page:
            raise RuntimeError(f"area {area:#04x} page {page}: the game did not load it")

    def fly(self, x_px: int, frames: int = 400) -> None:
        """Carry Mario to the right through the air, the screen scrolling with him, up to x.

        He changes his height, from 0x20 px on downwards, whenever something holds him.

        Raises:
            RuntimeError: he is held at every height.
        """
        held, height = 0, 0
        for _ in range(frames):
            before = self.x
            if before >= x_px:
                return
            self.place(before, FLIGHT_HEIGHTS[height % len(FLIGHT_HEIGHTS)])
            self.frame()
            held = held + 1 if self.x <= before else 0
            if held == 20:
                held, height = 0, height + 1
        raise RuntimeError(f"Mario is held at x = {self.x}, before {x_px}")

    def goal_line(self, area: int, column: int) -> int:
        """Return the smallest x at which `flag_get` is true when Mario meets the goal.

        He is dropped towards the goal's column from heights and distances in every phase of his
        3 px a frame, running; the x is the one that the environment reports with `flag_get`.

        Raises:
            RuntimeError: no attempt meets the goal.
        """
        goal_x = column * COLUMN_PX
        self.load(area, (goal_x - 120) // PAGE_PX)
        self.fly(goal_x - 64)
        snapshot = self.env.dump_state()
        touched = []
        for y_px in (0x38, 0x44):
            for distance in range(24, 36):
                self.env.load_state(snapshot)
                self.place(goal_x - distance, y_px)
                self.ram[PLAYER_X_SPEED] = 0x28  # running
                for _ in range(40):
                    self.ram[INJURY_TIMER] = 0x20
                    _, _, terminated, _, info = self.env.step(RIGHT_B)
                    if terminated:
                        if info["flag_get"]:
                            touched.append(int(info["x_pos"]))
                        break
        if not touched:
            raise RuntimeError(f"the goal at column {column} was never touched")
        return min(touched)

    def pipe_leads_to(self, area: int, column: int) -> tuple[int, int]:
        """Push Mario into the sideways pipe that starts at a column of an area.

        Returns:
            the area in which he comes out, and his x there

        Raises:
            RuntimeError: there is no such pipe, or he does not get through it.
        """
        self.load(area, (column - 3) // 16)
        for _ in range(60):  # the right half of the screen is built after the left one
            self.place(self.x, 0x30)
            self.frame(0)
        row = self._pipe_mouth_row(column)
        # His feet stand on the mouth's lower row; 0x20 is the height of the status bar.
        self.place(column * COLUMN_PX - 18, 0x20 + row * 16 - 16)
        for _ in range(400):
            self.env.step(RIGHT_B)
            if self.area != area and self.ram[GAME_TASK] == 3:
                return self.area, self.x
        raise RuntimeError(f"area {area:#04x}: the pipe at column {column} leads nowhere")

    def _pipe_mouth_row(self, column: int) -> int:
        """Return the row of the lower tile of a sideways pipe's mouth."""
        buffer = BLOCK_BUFFER + (column >> 4 & 1) * BLOCK_PAGE_BYTES + (column & 15)
        for row in range(13):
            if self.ram[buffer + row * 16] in SIDE_PIPE_MOUTHS:
                return row
        raise RuntimeError(f"area {self.area:#04x}: no sideways pipe at column {column}")

    def thrown_back(self, area: int, page: int, y_px: int) -> tuple[int, int]:
        """Fly through a maze castle from a page on, at one height, until it throws Mario back.

        Returns:
            how far (px), and the x read in the first frame after it

        Raises:
            RuntimeError: it does not throw him back.
        """
        self.load(area, page)
        for _ in range(400):
            before = self.x
            self.place(before, y_px)
            self.frame()
            # x is 16 bits and may wrap below 0 here.
            moved = (self.x - before + 0x8000) % 0x10000 - 0x8000
            if moved < -PAGE_PX:
                # He also moves by up to 3 px in that frame; whole pages are what is taken off.
                return round(-moved / PAGE_PX) * PAGE_PX, self.x
        raise RuntimeError(f"area {area:#04x} from page {page} on: no loop")


def measure_static(levels: LevelData, world: int, stage: int, start_x: int) -> MeasuredStage:
    """Measure a stage from the ROM alone; only `start_x` (px) has to be told.

    Raises:
        ValueError: not exactly one goal can be reached.
    """
    start_area = levels.start_area(world, stage)
    areas, exits, goals = levels.reach(world, start_area)
    if len(goals) != 1:
        raise ValueError(f"{world}-{stage}: {len(goals)} goals can be reached, not one: {goals}")
    goal, goal_area, column = goals.pop()
    return MeasuredStage(
        start_x=start_x,
        start_area=start_area,
        goal=goal,
        goal_line_x=column * COLUMN_PX + GOAL_OFFSET_PX[goal],
        goal_area=goal_area,
        start_width=levels.width(start_area),
        goal_width=levels.width(goal_area),
        areas=tuple(sorted(areas)),
        exits=tuple(sorted(exits, key=lambda found: (found.area, found.x_px))),
        exit_pipe_x=levels.sideways_pipes(start_area)[-1] * COLUMN_PX
        if goal_area != start_area
        else None,
    )


def measure_stage(levels: LevelData, world: int, stage: int) -> MeasuredStage:
    """Measure a stage from the ROM and hold every number against the running game.

    Raises:
        ValueError: not exactly one goal can be reached, or the running game disagrees.
        RuntimeError: a measurement could not be made.
    """
    game = Game(world, stage)
    measured = measure_static(levels, world, stage, start_x=game.x)
    name = f"{world}-{stage}"
    if game.area != measured.start_area:
        raise ValueError(f"{name}: the game starts in area {game.area:#04x}")
    column = (measured.goal_line_x - GOAL_OFFSET_PX[measured.goal]) // COLUMN_PX
    touched = game.goal_line(measured.goal_area, column)
    if touched != measured.goal_line_x:
        raise ValueError(f"{name}: the goal is touched at {touched}, not {measured.goal_line_x}")
    if measured.exit_pipe_x is not None:
        pipe = measured.exit_pipe_x // COLUMN_PX
        area, x_px = game.pipe_leads_to(measured.start_area, pipe)
        leads_to = [
            (found.to_area, found.entrance_page)
            for found in measured.exits
            if found.area == measured.start_area and found.x_px <= pipe * COLUMN_PX + PAGE_PX
        ][-1]
        if (area, x_px // PAGE_PX) != leads_to or area != measured.goal_area:
            raise ValueError(f"{name}: the exit pipe leads to area {area:#04x}, x = {x_px}")
    return measured


def check_loops(levels: LevelData) -> dict[str, Any]:
    """Return the loop commands, the first of each maze castle held against the running game.

    Raises:
        ValueError: the running game throws Mario back by another distance.
        RuntimeError: it does not throw him back.
    """
    commands = levels.loop_commands()
    first_x_after = {}
    for world, (page, y_px) in LOOP_FLIGHTS.items():
        expected = next(command.back_px for command in commands if command.world == world)
        game = Game(world, 4)
        back_px, x_px = game.thrown_back(levels.start_area(world, 4), page, y_px)
        if back_px != expected:
            raise ValueError(f"{world}-4: thrown back by {back_px} px, not {expected}")
        first_x_after[f"{world}-4"] = x_px
    return {
        "commands": [asdict(command) for command in commands],
        "first_x_after": first_x_after,
    }


def measure() -> dict[str, Any]:
    """Measure everything and return what stages.json holds."""
    rom = Path(smb1_rom_path()).read_bytes()
    levels = LevelData(rom)
    stages = {}
    for world, stage in ALL_STAGES:
        stages[f"{world}-{stage}"] = asdict(measure_stage(levels, world, stage))
        print(_table_row(f"{world}-{stage}", stages[f"{world}-{stage}"]), flush=True)
    return {
        "measured_by": "scripts/measure_stages.py",
        "rom_sha256": hashlib.sha256(rom).hexdigest(),
        "units": "x and widths in px (256 a page); areas are the game's area pointers, bit 7 off",
        "stages": stages,
        "loops": check_loops(levels),
    }


def _table_row(name: str, stage: dict[str, Any]) -> str:
    areas = " ".join(f"{area:02x}" for area in stage["areas"])
    return (
        f"{name}  {stage['start_x']:7d} {stage['start_area']:6x}  {stage['goal']:5s}"
        f"{stage['goal_line_x']:7d} {stage['goal_area']:6x} {stage['start_width']:6d}"
        f" {stage['goal_width']:6d}   {areas}"
    )


def differences(measured: dict[str, Any], expected: dict[str, Any], where: str = "") -> list[str]:
    """Return one line for each value of two nested dictionaries that differs."""
    lines = []
    for key in sorted(measured.keys() | expected.keys()):
        here, there = measured.get(key), expected.get(key)
        if isinstance(here, dict) and isinstance(there, dict):
            lines += differences(here, there, f"{where}{key}.")
        elif here != there:
            lines.append(f"{where}{key}: measured {here}, expected {there}")
    return lines


def runtime_differences(stages: dict[str, Any]) -> list[str]:
    """Hold measured stages against `mario_runtime.STAGES`; no differences where it is absent."""
    sys.path.insert(0, str(REPOSITORY))
    try:
        table = importlib.import_module("mario_runtime").STAGES
    except ModuleNotFoundError as error:
        if error.name != "mario_runtime":
            raise
        return []
    fields = {
        name: name
        for name in ("start_x", "start_area", "goal", "goal_line_x", "goal_area", "exit_pipe_x")
    }
    fields["width"] = "goal_width"
    used = {
        f"{world}-{stage}": {field: getattr(entry, field) for field in fields}
        for (world, stage), entry in table.items()
    }
    measured = {
        name: {field: stage[source] for field, source in fields.items()}
        for name, stage in stages.items()
    }
    return differences(measured, used, "mario_runtime.STAGES: ")


def main() -> int:
    """Measure, print the table, then write the file or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    print("stage start_x   area  goal   line_x   area  width  width   areas reachable")
    # Through JSON, so that what was measured and what was read are of the same types.
    measured = json.loads(json.dumps(measure()))
    if not arguments.check:
        OUTPUT.parent.mkdir(parents=True, exist_ok=True)
        OUTPUT.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {OUTPUT.relative_to(REPOSITORY)}")
        return 0
    if not OUTPUT.is_file():
        print(f"{OUTPUT.relative_to(REPOSITORY)} is missing: run this script without --check")
        return 1
    lines = differences(measured, json.loads(OUTPUT.read_text(encoding="utf-8")))
    lines += runtime_differences(measured["stages"])
    print("\n".join(lines) if lines else "the same as before")
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main())
