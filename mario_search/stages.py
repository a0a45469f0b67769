"""The stage table, measured: where each stage starts, where its goal line is, how wide it is.

Two sources are read and held against each other: the ROM's own level data, and the running game
(SuperMarioBrosEnv of gym-super-mario-bros): start x and area after a reset; the x at which
`flag_get` turns true when Mario touches the pole or the axe; the area that the exit pipe of an
underground or water stage leads to; how far a maze castle throws him back.
"""

from __future__ import annotations

from dataclasses import dataclass

from gym_super_mario_bros import SuperMarioBrosEnv

from fastnes.ram import (
    AREA_OFFSET,
    AREA_TYPE,
    BUTTON_B,
    BUTTON_RIGHT,
    ENTRANCE_KIND,
    ENTRANCE_PAGE,
    GAME_TASK,
    GAME_TASK_PLAY,
    HALFWAY_PAGE,
    INJURY_TIMER,
    NEXT_AREA,
    NO_BUTTON,
    PLAYER_NORMAL,
    PLAYER_STATE,
    PLAYER_X,
    PLAYER_X_PAGE,
    PLAYER_X_SPEED,
    PLAYER_Y,
    PLAYER_Y_PAGE,
    PLAYER_Y_SPEED,
    PRE_LEVEL_TIMER,
    TILE_COLUMNS,
    TILE_MAP,
    TILE_MAP_PAGE_BYTES,
    TILE_MAP_TOP,
    TILE_ROWS,
)
from mario_search.level_data import PAGE_PX, Exit, LevelData, LoopCommand
from mario_search.play import COLUMN_PX

SIDE_PIPE_MOUTHS = (0x6C, 0x1F)  # the metatiles that let Mario in: dry, under water

# The x of Mario (left edge of his 16 px) relative to the left edge of the goal's column. The pole
# pulls him to 7 px left of it whatever way he came; the axe ends the world when a foot is in its
# column, and his right foot is 12 px right of his x. Both are checked against the running game.
GOAL_OFFSET_PX = {"flag": -7, "axe": -12}

# By world: the page to start from, and the height (px) that fails a maze castle's first check.
LOOP_FLIGHTS = {4: (2, 0x20), 7: (2, 0x40), 8: (3, 0x20)}
FLIGHT_HEIGHTS = (0x20, 0x40, 0x60, 0x80, 0x30, 0x50, 0x70)

RIGHT_B = BUTTON_RIGHT | BUTTON_B


@dataclass(frozen=True)
class MeasuredStage:
    """A stage of the single-stage environment. Areas are area pointers without bit 7; x in px."""

    start_x: int
    start_area: int
    goal: str
    goal_line_x: int
    goal_area: int
    areas: tuple[int, ...]
    """Every area that pipes and vines reach from the start, warp zones left out."""
    widths: tuple[int, ...]
    """The right edge of the last page of each of them that holds an object."""
    exits: tuple[Exit, ...]
    exit_pipe_x: int | None
    """Left edge of the pipe to the goal's area, where that is not the start area."""


@dataclass(frozen=True)
class Loops:
    """The checks of the maze castles, and what a failed one leads to."""

    commands: list[LoopCommand]
    first_x_after: dict[str, int]
    """By stage: the x (px) read in the first frame after Mario was thrown back; it may wrap."""


class Game:
    """A stage of the running game, with Mario where a measurement wants him."""

    def __init__(self, world: int, stage: int) -> None:
        self.env = SuperMarioBrosEnv(target=(world, stage))
        self.env.reset()
        self.ram = self.env.ram

    @property
    def x(self) -> int:
        """Mario's x in px."""
        return int(self.ram[PLAYER_X_PAGE]) * PAGE_PX + int(self.ram[PLAYER_X])

    @property
    def area(self) -> int:
        """The area that is loaded."""
        return int(self.ram[AREA_TYPE]) << 5 | int(self.ram[AREA_OFFSET])

    def place(self, x_px: int, y_px: int) -> None:
        """Put Mario at x and y (px, y downwards, his sprite's top), not falling."""
        self.ram[PLAYER_X_PAGE], self.ram[PLAYER_X] = divmod(x_px, PAGE_PX)
        self.ram[PLAYER_Y], self.ram[PLAYER_Y_PAGE] = y_px, 1
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
        self.ram[NEXT_AREA], self.ram[HALFWAY_PAGE] = area, page
        self.ram[ENTRANCE_PAGE] = self.ram[ENTRANCE_KIND] = 0
        self.ram[GAME_TASK] = 0
        for count in range(400):
            self.frame(NO_BUTTON)
            self.ram[PRE_LEVEL_TIMER] = 0
            is_played = self.ram[GAME_TASK] == GAME_TASK_PLAY
            if count > 5 and self.ram[PLAYER_STATE] == PLAYER_NORMAL and is_played:
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
        self.load(area, (column - 3) // TILE_COLUMNS)
        for _ in range(60):  # the right half of the screen is built after the left one
            self.place(self.x, 0x30)
            self.frame(NO_BUTTON)
        row = self._pipe_mouth_row(column)
        # His feet stand on the mouth's lower row.
        self.place(column * COLUMN_PX - 18, TILE_MAP_TOP + row * COLUMN_PX - 16)
        for _ in range(400):
            self.env.step(RIGHT_B)
            if self.area != area and self.ram[GAME_TASK] == GAME_TASK_PLAY:
                return self.area, self.x
        raise RuntimeError(f"area {area:#04x}: the pipe at column {column} leads nowhere")

    def _pipe_mouth_row(self, column: int) -> int:
        """Return the row of the lower tile of a sideways pipe's mouth."""
        page, column_of_it = divmod(column, TILE_COLUMNS)
        first = TILE_MAP + page % 2 * TILE_MAP_PAGE_BYTES + column_of_it
        for row in range(TILE_ROWS):
            if self.ram[first + row * TILE_COLUMNS] in SIDE_PIPE_MOUTHS:
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
        areas=tuple(sorted(areas)),
        widths=tuple(levels.width(area) for area in sorted(areas)),
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


def check_loops(levels: LevelData) -> Loops:
    """Return the checks of the maze castles, the first of each held against the running game.

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
    return Loops(commands, first_x_after)
