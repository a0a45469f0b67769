"""What the game says: stages, action sets, and the facts in its RAM, for n machines at once.

The one place that reads meaning out of RAM; `fastnes.ram` holds the addresses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from fastnes import ram
from mario_cli import UsageError

SCREEN_SHAPE = (240, 256)
FRAMES_PER_SECOND = 60.0988  # of the NTSC console: 236.25 MHz / 11 / 4 / 89,341.5 dots
# An area pointer: 2 bits of type (water, ground, underground, castle), 5 bits of offset.
N_AREA_POINTERS = 128

# --------------------------------------------------------------------------------------------
# Stages
# --------------------------------------------------------------------------------------------


class StageId(NamedTuple):
    """One of the 32 stages by world and number; as text "8-4"."""

    world: int  # 1-8
    stage: int  # 1-4

    def __str__(self) -> str:
        return f"{self.world}-{self.stage}"


@dataclasses.dataclass(frozen=True)
class Stage:
    """One of the 32 stages, measured from the ROM by scripts/measure_stages.py."""

    start_x: int  # px, where Mario stands after a reset
    start_area: int  # area pointer after a reset
    start_width: int  # px, width of that area
    goal: Literal["flag", "axe"]
    goal_line_x: int  # px, Mario's x when he touches the pole or the axe
    goal_area: int  # area pointer of the area that holds the goal
    goal_width: int  # px, width of that area
    exit_pipe_x: int | None = None  # px, the pipe to the goal's area, where that is another one


STAGES: dict[StageId, Stage] = {
    StageId(1, 1): Stage(40, 0x25, 3328, "flag", 3161, 0x25, 3328),
    StageId(1, 2): Stage(40, 0x40, 3328, "flag", 3161, 0x25, 3328, exit_pipe_x=2656),
    StageId(1, 3): Stage(40, 0x26, 2560, "flag", 2425, 0x26, 2560),
    StageId(1, 4): Stage(40, 0x60, 2560, "axe", 2244, 0x60, 2560),
    StageId(2, 1): Stage(40, 0x28, 3328, "flag", 3193, 0x28, 3328),
    StageId(2, 2): Stage(40, 0x01, 3328, "flag", 3161, 0x25, 3328, exit_pipe_x=3024),
    StageId(2, 3): Stage(40, 0x27, 3840, "flag", 3593, 0x27, 3840),
    StageId(2, 4): Stage(40, 0x62, 2560, "axe", 2244, 0x62, 2560),
    StageId(3, 1): Stage(40, 0x24, 3328, "flag", 3193, 0x24, 3328),
    StageId(3, 2): Stage(40, 0x35, 3584, "flag", 3337, 0x35, 3584),
    StageId(3, 3): Stage(40, 0x20, 2560, "flag", 2409, 0x20, 2560),
    StageId(3, 4): Stage(40, 0x63, 2560, "axe", 2244, 0x63, 2560),
    StageId(4, 1): Stage(40, 0x22, 3840, "flag", 3593, 0x22, 3840),
    StageId(4, 2): Stage(40, 0x41, 3840, "flag", 3161, 0x25, 3328, exit_pipe_x=2992),
    StageId(4, 3): Stage(40, 0x2C, 2560, "flag", 2345, 0x2C, 2560),
    StageId(4, 4): Stage(40, 0x61, 3072, "axe", 2756, 0x61, 3072),
    StageId(5, 1): Stage(40, 0x2A, 3328, "flag", 3177, 0x2A, 3328),
    StageId(5, 2): Stage(40, 0x31, 3328, "flag", 3193, 0x31, 3328),
    StageId(5, 3): Stage(40, 0x26, 2560, "flag", 2425, 0x26, 2560),
    StageId(5, 4): Stage(40, 0x62, 2560, "axe", 2244, 0x62, 2560),
    StageId(6, 1): Stage(40, 0x2E, 3328, "flag", 2969, 0x2E, 3328),
    StageId(6, 2): Stage(40, 0x23, 3584, "flag", 3449, 0x23, 3584),
    StageId(6, 3): Stage(40, 0x2D, 2816, "flag", 2665, 0x2D, 2816),
    StageId(6, 4): Stage(40, 0x60, 2560, "axe", 2244, 0x60, 2560),
    StageId(7, 1): Stage(40, 0x33, 3072, "flag", 2857, 0x33, 3072),
    StageId(7, 2): Stage(40, 0x01, 3328, "flag", 3161, 0x25, 3328, exit_pipe_x=3024),
    StageId(7, 3): Stage(40, 0x27, 3840, "flag", 3593, 0x27, 3840),
    StageId(7, 4): Stage(40, 0x64, 3584, "axe", 3268, 0x64, 3584),
    StageId(8, 1): Stage(40, 0x30, 6144, "flag", 6009, 0x30, 6144),
    StageId(8, 2): Stage(40, 0x32, 3584, "flag", 3449, 0x32, 3584),
    StageId(8, 3): Stage(40, 0x21, 3584, "flag", 3417, 0x21, 3584),
    StageId(8, 4): Stage(40, 0x65, 5120, "axe", 4804, 0x65, 5120),
}


# Names of the earlier project, whose users import them.
STAGE_FLAG_LINE_X = {stage: table.goal_line_x for stage, table in STAGES.items()}
LEVEL_1_1_GOAL_X = STAGE_FLAG_LINE_X[StageId(1, 1)]


def parse_stages(text: str) -> tuple[StageId, ...]:
    """Return the stages in "1-1,8-4", each once and in this order; all 32 for "all".

    Raises:
        UsageError: no such stage, or none at all.
    """
    if text == "all":
        return tuple(STAGES)
    found = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        world, _, stage = name.partition("-")
        if not (world.isdecimal() and stage.isdecimal() and (int(world), int(stage)) in STAGES):
            raise UsageError(f"no stage {name!r}; stages are 1-1 to 8-4, or all")
        found.append(StageId(int(world), int(stage)))
    if not found:
        raise UsageError("stages must be 'all' or stages with commas between, as 1-1,1-2")
    return tuple(dict.fromkeys(found))


def stages_text(stages: Iterable[StageId]) -> str:
    """Return "1-1,8-4", which `parse_stages` reads; "all" for all 32."""
    stages = tuple(stages)
    return "all" if stages == tuple(STAGES) else ",".join(map(str, stages))


def stages_label(stages: Iterable[StageId]) -> str:
    """Return "1-1", "1-1,1-2" or "32-stages": what a name or a line has room for."""
    stages = tuple(stages)
    return ",".join(map(str, stages)) if len(stages) <= 4 else f"{len(stages)}-stages"


def with_stages_field(values: dict[str, Any]) -> dict[str, Any]:
    """Return a config's values with the older `world`, `stage` and `stages` as one `stages`."""
    values = dict(values)
    world, stage = values.pop("world", None), values.pop("stage", None)
    if values.get("stages") in ("", None, ()):
        values.pop("stages", None)
        if world is not None or stage is not None:
            named = isinstance(stage, str) and not stage.isdecimal()
            values["stages"] = str(stage) if named else f"{world or 1}-{stage or 1}"
    return values


# --------------------------------------------------------------------------------------------
# Actions
# --------------------------------------------------------------------------------------------

# The first three are gym-super-mario-bros's, in its order (tests/test_runtime.py compares).
_RIGHT_ONLY = [["NOOP"], ["right"], ["right", "A"], ["right", "B"], ["right", "A", "B"]]
_SIMPLE = [*_RIGHT_ONLY, ["A"], ["left"]]
_COMPLEX = [*_SIMPLE, ["left", "A"], ["left", "B"], ["left", "A", "B"], ["down"], ["up"]]
ACTION_SETS: dict[str, list[list[str]]] = {
    "right_only": _RIGHT_ONLY,
    "simple": _SIMPLE,
    "complex": _COMPLEX,
    # Full speed only. On 1-1 simple's seven are learnt as fast (results/ablations).
    "fast": [["right", "B"], ["right", "A", "B"], ["NOOP"], ["left"], ["A"]],
    # fast, the jump to the left, and down, which pipes need: what teachers and students play with.
    "agile": [
        *(["right", "B"], ["right", "A", "B"], ["NOOP"], ["left", "B"], ["A"]),
        *(["left", "A", "B"], ["down"]),
    ],
    # complex, and what it lacks: standing to throw or swim (B, A+B) and the jump while crouched.
    # Pipes need down, vines up, water A; the mazes need left at full speed.
    "full": [*_COMPLEX, ["B"], ["A", "B"], ["down", "A"]],
}


def action_buttons(action_set: str) -> np.ndarray:
    """Return the button byte of each action of a set, uint8[n_actions].

    Raises:
        UsageError: there is no action set of that name.
    """
    if action_set not in ACTION_SETS:
        raise UsageError(f"no action set {action_set!r}; there are: {', '.join(ACTION_SETS)}")
    return np.array(
        [
            sum(ram.BUTTON_BITS[button] for button in buttons if button != "NOOP")
            for buttons in ACTION_SETS[action_set]
        ],
        dtype=np.uint8,
    )


# --------------------------------------------------------------------------------------------
# Facts in RAM
# --------------------------------------------------------------------------------------------


class GameFacts(NamedTuple):
    """What the game says of n environments, each an array of shape [n]; read by `read_facts`."""

    x_pos: np.ndarray  # int64, px from the left edge of the area
    y_pos: np.ndarray  # int64, px from the bottom of the screen
    time: np.ndarray  # int64, the game's clock (0-999)
    area_pointer: np.ndarray  # int64, the area Mario is in: type << 5 | offset, as the ROM counts
    world: np.ndarray  # int64, 1-8
    stage: np.ndarray  # int64, 1-4
    life: np.ndarray  # int64
    coins: np.ndarray  # int64, 0-99
    score: np.ndarray  # int64, 0-999990
    status: np.ndarray  # int64, 0 small, 1 tall, 2 fireball
    player_state: np.ndarray  # int64, as `fastnes.ram.PLAYER_STATE`
    flag_get: np.ndarray  # bool, on a pole or world over, of whichever stage he is in
    dead: np.ndarray  # bool, dying, dead or below the screen


_POWERS_OF_TEN = 10 ** np.arange(5, -1, -1)  # of the score's six digits


def _decimal(digits: np.ndarray) -> np.ndarray:
    """Return the numbers in int64[d, n] decimal digits, most significant first, as int64[n]."""
    return _POWERS_OF_TEN[-len(digits) :] @ digits


# The largest of each that RAM can say, digits of 255 included; none is negative.
LARGEST_FACTS = np.array(
    [0xFFFF, 510, 255 * 111, 127, 256, 256, 255, 255 * 11, 255 * 111_111, 255, 255, 1, 1]
)


# What read_facts takes out of RAM, all at once: an array operation costs as much for one byte.
_FACT_BYTES = np.r_[
    *(ram.PLAYER_STATE, ram.PLAYER_FLOAT_STATE, ram.PLAYER_X_PAGE, ram.PLAYER_X),
    *(ram.PLAYER_Y_PAGE, ram.PLAYER_Y_ON_SCREEN, ram.AREA_TYPE, ram.AREA_OFFSET, ram.STATUS),
    *(ram.LIVES, ram.STAGE, ram.WORLD, ram.GAME_MODE),
    ram.ENEMY_TYPE : ram.ENEMY_TYPE + ram.ENEMY_SLOTS_OF_GOAL,
    ram.SCORE_DIGITS : ram.SCORE_DIGITS + ram.SCORE_DIGIT_COUNT,
    ram.COIN_DIGITS : ram.COIN_DIGITS + ram.COIN_DIGIT_COUNT,
    ram.CLOCK_DIGITS : ram.CLOCK_DIGITS + ram.CLOCK_DIGIT_COUNT,
]


def read_facts(memory: np.ndarray) -> GameFacts:
    """Return the facts in uint8[n, 2048] RAM, as the game left it at the end of a frame."""
    byte = memory.take(_FACT_BYTES, axis=1).T.astype(np.int64, order="C")
    player_state, float_state, x_page, x, y_page, y = byte[:6]
    area_type, area_offset, status, life, stage, world, game_mode = byte[6:13]
    enemies, score, coins, clock = byte[13:18], byte[18:24], byte[24:26], byte[26:]
    on_pole = ((enemies == ram.ENEMY_BOWSER) | (enemies == ram.ENEMY_FLAG)).any(axis=0) & (
        float_state == ram.FLOAT_ON_POLE
    )
    return GameFacts(
        x_pos=x_page * 256 + x,
        y_pos=np.where(y_page < 1, 2 * 255, 255) - y,
        time=_decimal(clock),
        area_pointer=(area_type & 3) << 5 | area_offset & 0x1F,
        world=world + 1,
        stage=stage + 1,
        life=life,
        coins=_decimal(coins),
        score=_decimal(score),
        status=status,
        player_state=player_state,
        flag_get=(game_mode == ram.GAME_MODE_WORLD_OVER) | on_pole,
        dead=(player_state == ram.PLAYER_DYING) | (player_state == ram.PLAYER_DEAD) | (y_page > 1),
    )


def is_home(facts: GameFacts, world: np.ndarray | int, stage: np.ndarray | int) -> np.ndarray:
    """Return bool[n], whether Mario is on this stage: a warp zone leads elsewhere.

    Args:
        facts: arrays of [n].
        world: 1-8, one or int64[n].
        stage: 1-4, alike.
    """
    return (facts.world == world) & (facts.stage == stage)


def has_cleared(facts: GameFacts, world: np.ndarray | int, stage: np.ndarray | int) -> np.ndarray:
    """Return bool[n], whether Mario is at the goal of this stage: a warp's flag is none.

    Args:
        facts: arrays of [n].
        world: 1-8, of the stage that the episode began in, one or int64[n].
        stage: 1-4, alike.
    """
    return facts.flag_get & ~facts.dead & is_home(facts, world, stage)


def facts_of_info(info: Mapping[str, Any]) -> GameFacts:
    """Return the facts in one environment's info dictionary, arrays of [1]."""
    return GameFacts(*(np.array([info[name]]) for name in GameFacts._fields))


def facts_as_dicts(facts: GameFacts, **more: np.ndarray) -> list[dict[str, Any]]:
    """Return one info dictionary an environment, of plain Python numbers.

    Args:
        facts: arrays of [n].
        more: arrays of [n] that go into the dictionaries too.
    """
    columns = {**facts._asdict(), **more}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]
