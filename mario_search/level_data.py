"""The ROM's own level data: areas, what stands in them, where their pipes and vines lead.

Nothing here is copied from a map or a guide. The tables are found by their bytes, not by their
address, because the ROM in gym-super-mario-bros is laid out like the PAL cartridge and the
addresses that disassemblies of the NTSC one give are off by a little.

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

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from gym_super_mario_bros._roms import decode_target

from fastnes.ram import PLAYER_X_PAGE
from mario_search.play import COLUMN_PX

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
        if start < 0 or code[:4] != bytes([0xA5, PLAYER_X_PAGE, 0x38, 0xE9]):
            raise ValueError("this ROM does not hold the loop commands of Super Mario Bros.")
        return [
            LoopCommand(world + 1, page, y_px, code[4] * PAGE_PX)
            for world, page, y_px in zip(LOOP_WORLDS, pages, heights, strict=True)
        ]
