"""The environment that every agent and tool plays: stages, actions, wrappers, reward, vec envs.

`make_single_env` builds the wrapper stack around one emulator, `make_vec_env` n of them. From the
game outward: `ActionSetWrapper` (index to buttons), `StickyFrames`, `NoopResetEnv`,
`MaxAndSkipFrame`, `LongJumpActionWrapper` (optional), `StageSuccessWrapper`,
`FastClearRewardWrapper`, area resize, frame stack. Evaluation uses the same stack as training.

Screens are gray from the emulator on (nes-py's own conversion), so the maximum over two frames is
taken of gray values. Everything random in an environment comes from its own `np_random`, seeded
with `seed + index`: no-op counts directly, sticky actions through a key drawn at each reset.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import cv2
import gymnasium as gym
import numpy as np
import tyro
from gym_super_mario_bros.actions import COMPLEX_MOVEMENT, RIGHT_ONLY, SIMPLE_MOVEMENT
from gym_super_mario_bros.smb_env import SuperMarioBrosEnv
from gymnasium.wrappers import FrameStackObservation
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from fastnes import BatchMachine, area_resize, start_screen, start_snapshot

SCREEN_SHAPE = (240, 256)
FRAMES_PER_SECOND = 60
# Faster than anything Mario does in a frame on this ROM (3 px, FACTS.md): more is no movement.
MAX_PX_PER_FRAME = 4
# An area pointer: 2 bits of type (water, ground, underground, castle), 5 bits of offset.
N_AREA_POINTERS = 128
NO_LIMIT_X = 1 << 16  # px, more than x can be


EmulatorName = Literal["fast", "nes-py"]


class UsageError(Exception):
    """What a person asked for does not exist or does not fit; the message says what would.

    No ValueError: tyro would take that for its own and print a box instead of the line.
    """


# --------------------------------------------------------------------------------------------
# Actions
# --------------------------------------------------------------------------------------------

BUTTON_BITS = {
    "right": 0x80,
    "left": 0x40,
    "down": 0x20,
    "up": 0x10,
    "start": 0x08,
    "select": 0x04,
    "B": 0x02,
    "A": 0x01,
}

ACTION_SETS: dict[str, list[list[str]]] = {
    "right_only": RIGHT_ONLY,
    "simple": SIMPLE_MOVEMENT,
    "complex": COMPLEX_MOVEMENT,
    # Full speed only. On 1-1 simple's seven are learnt as fast (docs/results/ablations).
    "fast": [["right", "B"], ["right", "A", "B"], ["NOOP"], ["left"], ["A"]],
    # complex, and what it lacks: standing to throw or swim (B, A+B) and the jump while crouched.
    # Pipes need down, vines up, water A; the mazes need left at full speed.
    "full": [*COMPLEX_MOVEMENT, ["B"], ["A", "B"], ["down", "A"]],
}


def action_buttons(action_set: str) -> np.ndarray:
    """Return the button byte of each action of a set, uint8[n_actions] (bits: `BUTTON_BITS`).

    Raises:
        UsageError: there is no action set of that name.
    """
    if action_set not in ACTION_SETS:
        raise UsageError(f"no action set {action_set!r}; there are: {', '.join(ACTION_SETS)}")
    return np.array(
        [
            sum(BUTTON_BITS[button] for button in buttons if button != "NOOP")
            for buttons in ACTION_SETS[action_set]
        ],
        dtype=np.uint8,
    )


# --------------------------------------------------------------------------------------------
# The game: facts in RAM, stages
# --------------------------------------------------------------------------------------------

# RAM addresses (Super Mario Bros.; the same in this ROM as in the public disassembly).
RAM_PLAYER_STATE = 0x0E
RAM_ENEMY_TYPES = slice(0x16, 0x1B)
RAM_FLOAT_STATE = 0x1D
RAM_X_PAGE, RAM_X = 0x6D, 0x86
RAM_Y_PAGE, RAM_Y = 0xB5, 0x03B8
RAM_AREA_TYPE, RAM_AREA_OFFSET = 0x074E, 0x074F
RAM_STATUS = 0x0756
RAM_LIFE = 0x075A
RAM_STAGE, RAM_WORLD = 0x075C, 0x075F
RAM_GAME_MODE = 0x0770
RAM_SCORE = slice(0x07DE, 0x07E4)
RAM_COINS = slice(0x07ED, 0x07EF)
RAM_CLOCK = slice(0x07F8, 0x07FB)

PLAYER_DYING, PLAYER_DEAD = 0x0B, 0x06
ENEMY_BOWSER, ENEMY_FLAG = 0x2D, 0x31
FLOAT_ON_POLE = 3
GAME_MODE_WORLD_OVER = 2


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
    player_state: np.ndarray  # int64, RAM 0x0E
    flag_get: np.ndarray  # bool, on the pole or world over
    dead: np.ndarray  # bool, dying, dead or below the screen


_POWERS_OF_TEN = 10 ** np.arange(5, -1, -1)  # of the score's six digits


def _decimal(digits: np.ndarray) -> np.ndarray:
    """Return the numbers in int64[d, n] decimal digits, most significant first, as int64[n]."""
    return _POWERS_OF_TEN[-len(digits) :] @ digits


# What read_facts takes out of RAM, all at once: an array operation costs as much for one byte.
_FACT_BYTES = np.r_[
    *(RAM_PLAYER_STATE, RAM_FLOAT_STATE, RAM_X_PAGE, RAM_X, RAM_Y_PAGE, RAM_Y),
    *(RAM_AREA_TYPE, RAM_AREA_OFFSET, RAM_STATUS, RAM_LIFE, RAM_STAGE, RAM_WORLD, RAM_GAME_MODE),
    *(RAM_ENEMY_TYPES, RAM_SCORE, RAM_COINS, RAM_CLOCK),
]


def read_facts(ram: np.ndarray) -> GameFacts:
    """Return the facts in uint8[n, 2048] RAM, as the game left it at the end of a frame."""
    byte = ram.take(_FACT_BYTES, axis=1).T.astype(np.int64, order="C")
    player_state, float_state, x_page, x, y_page, y = byte[:6]
    area_type, area_offset, status, life, stage, world, game_mode = byte[6:13]
    enemies, score, coins, clock = byte[13:18], byte[18:24], byte[24:26], byte[26:]
    on_pole = ((enemies == ENEMY_BOWSER) | (enemies == ENEMY_FLAG)).any(axis=0) & (
        float_state == FLOAT_ON_POLE
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
        flag_get=(game_mode == GAME_MODE_WORLD_OVER) | on_pole,
        dead=(player_state == PLAYER_DYING) | (player_state == PLAYER_DEAD) | (y_page > 1),
    )


def facts_as_dicts(facts: GameFacts, **more: np.ndarray) -> list[dict[str, Any]]:
    """Return one info dictionary an environment, of plain Python numbers.

    Args:
        facts: arrays of [n].
        more: arrays of [n] that go into the dictionaries too.
    """
    columns = {**facts._asdict(), **more}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One of the 32 stages, measured from the ROM by scripts/measure_stages.py."""

    start_x: int  # px, where Mario stands after a reset
    start_area: int  # area pointer after a reset
    goal: Literal["flag", "axe"]
    goal_line_x: int  # px, Mario's x when he touches the pole or the axe
    goal_area: int  # area pointer of the area that holds the goal
    width: int  # px, width of the area that holds the goal
    exit_pipe_x: int | None = None  # px, the pipe to the goal's area, where that is another one


STAGES: dict[tuple[int, int], Stage] = {
    (1, 1): Stage(40, 0x25, "flag", 3161, 0x25, 3328),
    (1, 2): Stage(40, 0x40, "flag", 3161, 0x25, 3328, exit_pipe_x=2656),
    (1, 3): Stage(40, 0x26, "flag", 2425, 0x26, 2560),
    (1, 4): Stage(40, 0x60, "axe", 2244, 0x60, 2560),
    (2, 1): Stage(40, 0x28, "flag", 3193, 0x28, 3328),
    (2, 2): Stage(40, 0x01, "flag", 3161, 0x25, 3328, exit_pipe_x=3024),
    (2, 3): Stage(40, 0x27, "flag", 3593, 0x27, 3840),
    (2, 4): Stage(40, 0x62, "axe", 2244, 0x62, 2560),
    (3, 1): Stage(40, 0x24, "flag", 3193, 0x24, 3328),
    (3, 2): Stage(40, 0x35, "flag", 3337, 0x35, 3584),
    (3, 3): Stage(40, 0x20, "flag", 2409, 0x20, 2560),
    (3, 4): Stage(40, 0x63, "axe", 2244, 0x63, 2560),
    (4, 1): Stage(40, 0x22, "flag", 3593, 0x22, 3840),
    (4, 2): Stage(40, 0x41, "flag", 3161, 0x25, 3328, exit_pipe_x=2992),
    (4, 3): Stage(40, 0x2C, "flag", 2345, 0x2C, 2560),
    (4, 4): Stage(40, 0x61, "axe", 2756, 0x61, 3072),
    (5, 1): Stage(40, 0x2A, "flag", 3177, 0x2A, 3328),
    (5, 2): Stage(40, 0x31, "flag", 3193, 0x31, 3328),
    (5, 3): Stage(40, 0x26, "flag", 2425, 0x26, 2560),
    (5, 4): Stage(40, 0x62, "axe", 2244, 0x62, 2560),
    (6, 1): Stage(40, 0x2E, "flag", 2969, 0x2E, 3328),
    (6, 2): Stage(40, 0x23, "flag", 3449, 0x23, 3584),
    (6, 3): Stage(40, 0x2D, "flag", 2665, 0x2D, 2816),
    (6, 4): Stage(40, 0x60, "axe", 2244, 0x60, 2560),
    (7, 1): Stage(40, 0x33, "flag", 2857, 0x33, 3072),
    (7, 2): Stage(40, 0x01, "flag", 3161, 0x25, 3328, exit_pipe_x=3024),
    (7, 3): Stage(40, 0x27, "flag", 3593, 0x27, 3840),
    (7, 4): Stage(40, 0x64, "axe", 3268, 0x64, 3584),
    (8, 1): Stage(40, 0x30, "flag", 6009, 0x30, 6144),
    (8, 2): Stage(40, 0x32, "flag", 3449, 0x32, 3584),
    (8, 3): Stage(40, 0x21, "flag", 3417, 0x21, 3584),
    (8, 4): Stage(40, 0x65, "axe", 4804, 0x65, 5120),
}


# --------------------------------------------------------------------------------------------
# Configuration
# --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """The reward: a sum of named terms, times `reward_scale`. Distances in px, agent steps."""

    base_reward_scale: float = 1.0
    """Times the classic game reward: progress + clock + death, clipped to +-15 a step. 0 is off."""
    forward_reward_scale: float = 0.0
    """Per px forward. 0.15 makes a full run of 1-1 (3,121 px) 468, beside a flag bonus of 200."""
    forward_mode: Literal["new_max", "positive_delta"] = "new_max"
    """new_max pays new ground only; positive_delta any step right: exploitable, kept to show it."""
    backward_penalty_scale: float = 0.0
    """Subtracted per px moved left. Small: a step back is sometimes the right move."""
    flag_bonus: float = 0.0
    """Once, on the flag pole or the axe."""
    death_penalty: float = 0.0
    """Subtracted once, at death (a pit, an enemy, the clock)."""
    stall_steps: int = 0
    """Agent steps without new ground after which stall_penalty is due. 0 is off."""
    stall_penalty: float = 0.0
    """Subtracted every step of a stall. 0: it punishes waiting for the right moment."""
    end_on_stall_steps: int = 0
    """Agent steps without new ground after which the episode is truncated. 0 is off."""
    end_on_stall_penalty: float = 0.0
    """Subtracted once, when a stall ends the episode."""
    milestone_step: int = 0
    """Distance in px between milestones. 0 is off."""
    milestone_bonus: float = 0.0
    """For each milestone passed for the first time."""
    hurdle_x: tuple[int, ...] = ()
    """x in px of hard places; passing each pays hurdle_bonus, once an episode."""
    hurdle_bonus: float = 0.0
    """For each hurdle passed for the first time."""
    time_penalty_per_step: float = 0.0
    """Subtracted every agent step. 0 while learning to clear; 0.02 to fine-tune for speed."""
    goal_potential_scale: float = 0.0
    """Times gamma Phi(s') - Phi(s), Phi = px gained toward the goal line (Ng et al. 1999)."""
    reward_scale: float = 1.0
    """Times the whole sum. Small, so that the value loss does not drown the policy's gradient."""


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """The environment: which stage, seen how, on which emulator."""

    world: int = 1
    """World, 1-8."""
    stage: int = 1
    """Stage within the world, 1-4."""
    stages: str = ""
    """Several stages to draw each episode's from, as 1-1,1-2 or all. Unset: --world and --stage."""
    stage_sampling: Literal["uniform", "failure"] = "uniform"
    """How a stage is drawn: each alike, or those more often that are cleared less often."""
    goal_line_x: int | None = None
    """x in px of the goal. Unset: as measured from the ROM (`STAGES`)."""
    emulator: EmulatorName = "fast"
    """fast is fastnes, compiled by Numba; nes-py is the reference that it equals."""
    vec_backend: Literal["batched", "subproc", "dummy"] = "batched"
    """batched (fast only): one process, threads; subproc: a worker process an environment; dummy:
    one process, one after the other."""
    n_envs: int = 8
    """Environments side by side."""
    frame_skip: int = 4
    """Emulated frames per agent step, the buttons held. 4 is the Atari standard."""
    frame_stack: int = 4
    """Screens in an observation: what shows speed and direction."""
    screen_size: int = 84
    """Height and width of an observation in px."""
    show_buttons: bool = False
    """Draw what the last action pressed above the picture: a held A, which no screen shows, does
    not jump again."""
    noop_max: int = 30
    """Every episode starts with 1 to this many frames without buttons. 0: one fixed start."""
    sticky_prob: float = 0.0
    """Chance that an emulated frame keeps the last buttons (Machado et al. 2018: 0.25)."""
    action_set: Literal["right_only", "simple", "complex", "fast", "full"] = "simple"
    """right_only 5, simple 7, complex 12, fast 5 (full speed only), full 15 actions."""
    long_jump_action: bool = False
    """Add one action that holds a jump for long_jump_hold_steps agent steps."""
    long_jump_hold_steps: int = 4
    """Agent steps that the long jump holds its buttons: 16 frames reach full height."""
    long_jump_base_action: str = "right+A+B"
    """Buttons of the long jump, joined by +."""
    max_episode_steps: int = 0
    """Agent steps after which an episode is truncated. 0: only the game's own clock ends it."""
    discount: Annotated[float, tyro.conf.Suppress] = 1.0
    """gamma of the potential term. No flag: the trainer sets it to its own gamma."""
    reward: RewardConfig = dataclasses.field(default_factory=RewardConfig)

    def __post_init__(self) -> None:
        if (self.world, self.stage) not in STAGES:
            raise UsageError(f"no stage {self.world}-{self.stage}; worlds are 1-8, stages 1-4")
        for name in ("n_envs", "frame_skip", "frame_stack", "screen_size", "long_jump_hold_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.sticky_prob < 1:
            raise UsageError(f"sticky_prob must be in [0, 1), not {self.sticky_prob}")
        if self.noop_max < 0 or self.max_episode_steps < 0:
            raise UsageError("noop_max and max_episode_steps must not be negative")
        if self.vec_backend == "batched" and self.emulator != "fast":
            raise UsageError(
                f"the batched backend needs --emulator fast; with {self.emulator} use "
                "--vec-backend subproc or dummy"
            )
        buttons_of_actions(self)
        if not self.stage_list:
            raise UsageError("stages must be 'all' or stages with commas between, as 1-1,1-2")

    @property
    def stage_list(self) -> list[tuple[int, int]]:
        """World and stage of every stage that an episode can begin in."""
        return parse_stages(self.stages) if self.stages else [(self.world, self.stage)]

    def goal_of(self, world: int, stage: int) -> int:
        """Return x of a stage's goal line in px: the one given, else the one measured."""
        return STAGES[world, stage].goal_line_x if self.goal_line_x is None else self.goal_line_x

    @property
    def goal(self) -> int:
        """x of the goal line in px, of the first stage if there are several."""
        return self.goal_of(*self.stage_list[0])


def parse_stages(text: str) -> list[tuple[int, int]]:
    """Return the stages in "1-1,8-4", or all 32 for "all", each as world and stage.

    Raises:
        UsageError: no such stage.
    """
    if text == "all":
        return list(STAGES)
    found = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        world, _, stage = name.partition("-")
        if not (world.isdecimal() and stage.isdecimal() and (int(world), int(stage)) in STAGES):
            raise UsageError(f"no stage {name!r}; stages are 1-1 to 8-4")
        found.append((int(world), int(stage)))
    return found


def stage_name(world: int, stage: int) -> str:
    """Return "1-2"."""
    return f"{world}-{stage}"


def in_process(config: EnvConfig, emulator: EmulatorName | None = None) -> EnvConfig:
    """Return config for playing in this process, on another emulator if one is named."""
    emulator = emulator or config.emulator
    backend: Any = "batched" if emulator == "fast" else "dummy"
    return dataclasses.replace(config, emulator=emulator, vec_backend=backend)


def env_config_from_dict(values: dict[str, Any]) -> EnvConfig:
    """Return the `EnvConfig` whose `dataclasses.asdict` is values; unknown keys are refused.

    Raises:
        UsageError: a key or a value does not fit.
    """
    try:
        reward = dict(values.get("reward", {}))
        reward["hurdle_x"] = tuple(reward.get("hurdle_x", ()))
        return EnvConfig(**{**values, "reward": RewardConfig(**reward)})
    except TypeError as error:
        raise UsageError(f"not an environment config: {error}") from error


def buttons_of_actions(config: EnvConfig) -> np.ndarray:
    """Return the button byte of every action an agent has, uint8[n_actions]; the long jump last."""
    buttons = action_buttons(config.action_set)
    if not config.long_jump_action:
        return buttons
    names = config.long_jump_base_action.split("+")
    unknown = [name for name in names if name not in BUTTON_BITS]
    if unknown:
        raise UsageError(f"no button {unknown[0]!r}; there are: {', '.join(BUTTON_BITS)}")
    return np.append(buttons, np.uint8(sum(BUTTON_BITS[name] for name in names)))


def button_marks(buttons: np.ndarray, size: int) -> np.ndarray:
    """Return the strip that shows each action's buttons, uint8[n_actions, size // 10, size].

    A white square a pressed button, from left to right in the order of `BUTTON_BITS`; it covers
    the screen's rim above the status bar.
    """
    squares = np.unpackbits(buttons[:, None], axis=1) * np.uint8(255)  # [n_actions, 8]
    strip = np.zeros((len(buttons), size // 10, size), np.uint8)
    strip[:, :, : size // 8 * 8] = np.repeat(squares, size // 8, axis=1)[:, None]
    return strip


def reward_signature(config: EnvConfig) -> str:
    """Return 16 hex digits that change when the reward's formula or any of its numbers does.

    Stored beside every checkpoint and replay folder, so that data made under another reward is
    refused, not mixed. Goal line and exit pipe are part of the reward: they cap the forward term.
    """
    reward = dataclasses.asdict(config.reward)
    goals: Any = [config.goal_of(*stage) for stage in config.stage_list]
    goals = goals if config.stages else config.goal
    content = {"formula": RewardShaper.FORMULA, "goal_line_x": goals, "reward": reward}
    if pipes := [pipe for stage in config.stage_list if (pipe := STAGES[stage].exit_pipe_x)]:
        content["exit_pipe_x"] = pipes
    if config.reward.goal_potential_scale:
        content["discount"] = config.discount
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


# --------------------------------------------------------------------------------------------
# Reward
# --------------------------------------------------------------------------------------------


class RewardShaper:
    """The one place where reward is computed, for n environments at once.

    What a step can do to x, and what is made of it:

    - Movement within an area, at most `MAX_PX_PER_FRAME` a frame: the only thing that pays. In
      new_max mode ground pays once an episode and area, so walking to and fro never gains.
    - A pipe, a vine or an exit to another area (`area_pointer` changes; 0x0750 in RAM does not say
      it, that is the next pipe's target): x starts anew. Nothing is paid for the change itself;
      ground in the new area pays from the entry on; coming back, ground paid before stays paid.
    - A maze castle's jump back (4-4, 7-4, 8-4: x falls by whole pages, the area stays): no
      movement, so no penalty; the ground behind was paid and is not paid again. A stall counts
      from the place of return, since the way has to be walked again.
    - A page wrap (x reads as 65,5xx px for a frame when Mario is pushed left of 0) or any other
      leap: no movement, and the best x of the area is left alone.
    - x beyond the goal line, in the goal's area, or beyond the pipe that leads there, in the area
      before: no ground pays. Behind that pipe lies a warp zone in 1-2 and 4-2: paid for walking on,
      an agent passes the pipe by.
    """

    FORMULA = 1  # raise it when a term's meaning changes: data of another formula is refused
    BASE_CLIP = 15.0
    BASE_DEATH = 15.0
    TERMS = (
        "base",
        "forward",
        "backward",
        "flag",
        "death",
        "stall",
        "milestone",
        "hurdle",
        "time",
        "potential",
    )

    def __init__(self, config: EnvConfig, n_envs: int = 1) -> None:
        self.env_config = config
        self.config = config.reward
        self.goal = np.zeros(n_envs, dtype=np.int64)  # px, of the stage that each episode began in
        # px, in each area; no ground beyond pays
        self.limit = np.zeros((n_envs, N_AREA_POINTERS), dtype=np.int64)
        self.discount = config.discount
        self.hurdles = np.array(config.reward.hurdle_x, dtype=np.int64)
        self.x = np.zeros(n_envs, dtype=np.int64)
        self.area = np.zeros(n_envs, dtype=np.int64)
        self.clock = np.zeros(n_envs, dtype=np.int64)
        self.best_x = np.full((n_envs, N_AREA_POINTERS), -1, dtype=np.int64)  # of each area
        self.stall_x = np.zeros(n_envs, dtype=np.int64)  # what new ground for a stall is
        self.stalled_steps = np.zeros(n_envs, dtype=np.int64)
        self.hurdle_paid = np.zeros((n_envs, len(self.hurdles)), dtype=bool)
        self.cleared = np.zeros(n_envs, dtype=bool)

    STATE = (
        *("goal", "limit", "x", "area", "clock", "best_x", "stall_x", "stalled_steps"),
        *("hurdle_paid", "cleared"),
    )

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of the arrays that `load_state_dict` needs to go on exactly."""
        return {name: getattr(self, name).copy() for name in self.STATE}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `state_dict` returned."""
        for name in self.STATE:
            getattr(self, name)[...] = state[name]

    @property
    def max_x(self) -> np.ndarray:
        """The furthest x of each episode in any area, int64[n] px; leaps do not count."""
        return self.best_x.max(axis=1)

    def reset(self, facts: GameFacts, envs: np.ndarray | slice = slice(None)) -> None:
        """Begin an episode in the environments envs; facts hold just these, in this order."""
        envs = np.arange(len(self.x))[envs]
        for i, world, stage in zip(envs, facts.world.tolist(), facts.stage.tolist(), strict=True):
            table = STAGES[world, stage]
            self.goal[i] = self.env_config.goal_of(world, stage)
            self.limit[i] = NO_LIMIT_X
            self.limit[i, table.start_area] = table.exit_pipe_x or NO_LIMIT_X
            self.limit[i, table.goal_area] = self.goal[i]
        self.x[envs], self.area[envs], self.clock[envs] = (
            facts.x_pos,
            facts.area_pointer,
            facts.time,
        )
        self.best_x[envs] = -1
        self.best_x[envs, facts.area_pointer] = facts.x_pos
        self.stall_x[envs] = facts.x_pos
        self.stalled_steps[envs] = 0
        self.hurdle_paid[envs] = False
        self.cleared[envs] = False

    def step(
        self, facts: GameFacts, frames: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        """Return what one agent step earned.

        Args:
            facts: the game after the step, arrays of [n].
            frames: int[n], the emulated frames that the step took.

        Returns:
            reward float64[n]; the terms by name, each float64[n], before `reward_scale`; and
            bool[n], whether a stall ends the episode here.
        """
        config, rows = self.config, np.arange(len(self.x))
        dx = facts.x_pos - self.x
        same_area = facts.area_pointer == self.area
        leapt = ~same_area | (np.abs(dx) > MAX_PX_PER_FRAME * frames)
        moved = np.where(leapt, 0, dx)

        x = np.minimum(facts.x_pos, self.limit[rows, facts.area_pointer])
        old_best = self.best_x[rows, facts.area_pointer]
        # A leap within the area moves no mark; a change of area sets the mark at the entry.
        new_best = np.where(leapt & same_area, old_best, np.maximum(old_best, x))
        self.best_x[rows, facts.area_pointer] = new_best
        paid_from = np.where(leapt, new_best, old_best)  # what a leap covers is not paid
        gained = new_best - paid_from

        progressed = leapt | (x > self.stall_x)
        self.stall_x = np.where(leapt, x, np.maximum(self.stall_x, x))
        self.stalled_steps = np.where(progressed, 0, self.stalled_steps + 1)
        ends = np.zeros(len(rows), dtype=bool)
        if config.end_on_stall_steps:
            ends = (self.stalled_steps >= config.end_on_stall_steps) & ~facts.dead & ~facts.flag_get

        none = np.zeros(len(rows))
        # what a term that is off stays
        terms: dict[str, np.ndarray] = dict.fromkeys(self.TERMS, none)
        if config.base_reward_scale:
            ticks = np.minimum(facts.time - self.clock, 0)
            base = moved + ticks - self.BASE_DEATH * facts.dead
            base = np.minimum(np.maximum(base, -self.BASE_CLIP), self.BASE_CLIP)
            terms["base"] = config.base_reward_scale * base
        if config.forward_reward_scale:
            forward_px = gained if config.forward_mode == "new_max" else np.maximum(moved, 0)
            terms["forward"] = config.forward_reward_scale * forward_px
        if config.backward_penalty_scale:
            terms["backward"] = -config.backward_penalty_scale * np.maximum(-moved, 0)
        if config.flag_bonus:
            terms["flag"] = config.flag_bonus * (facts.flag_get & ~self.cleared)
        self.cleared |= facts.flag_get
        if config.death_penalty:
            terms["death"] = -config.death_penalty * facts.dead
        if config.stall_steps:
            is_stall = self.stalled_steps >= config.stall_steps
            terms["stall"] = none - config.stall_penalty * is_stall
        if config.end_on_stall_steps:
            terms["stall"] = terms["stall"] - config.end_on_stall_penalty * ends
        if config.milestone_step:
            passed = new_best // config.milestone_step - paid_from // config.milestone_step
            terms["milestone"] = config.milestone_bonus * passed
        if len(self.hurdles):
            hurdles = (paid_from[:, None] < self.hurdles) & (self.hurdles <= new_best[:, None])
            hurdles &= ~self.hurdle_paid
            self.hurdle_paid |= hurdles
            terms["hurdle"] = config.hurdle_bonus * hurdles.sum(axis=1)
        if config.time_penalty_per_step:
            terms["time"] = none - config.time_penalty_per_step
        if config.goal_potential_scale:
            terms["potential"] = config.goal_potential_scale * (
                self.discount * self._potential(facts.x_pos) - self._potential(self.x)
            )
        terms = {name: np.asarray(term, dtype=np.float64) for name, term in terms.items()}
        self.x, self.area, self.clock = (
            facts.x_pos.copy(),
            facts.area_pointer.copy(),
            facts.time.copy(),
        )
        paid = [term for term in terms.values() if term is not none]
        return config.reward_scale * sum(paid, start=none), terms, ends

    def _potential(self, x: np.ndarray) -> np.ndarray:
        """Return Phi in px, 0 at the left edge.

        The history's Phi = -distance differs by a constant, which (gamma - 1) times the constant
        turns into pay for standing still; from 0 upward, standing costs.
        """
        return np.clip(x, 0, self.goal).astype(np.float64)


# --------------------------------------------------------------------------------------------
# Wrappers
# --------------------------------------------------------------------------------------------


class NesPyMarioEnv(SuperMarioBrosEnv):
    """gym-super-mario-bros's single-stage environment, seen through this project's facts.

    One emulated frame a step; the action is a button byte. Observations are gray, uint8[240, 256].
    Its own interventions (start screen, pre-level and area-change timers, busy frames) stay; its
    reward, which pays score, coins and power-ups too, is not computed. As there, info holds the
    game as the frame left it, before the interventions; the screen is of after them.
    """

    observation_space = gym.spaces.Box(0, 255, SCREEN_SHAPE, np.uint8)

    def __init__(self, world: int, stage: int) -> None:
        super().__init__(target=(world, stage), render_mode="rgb_array")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        _, info = super().reset(seed=seed, options=options)
        return self.observation("grayscale"), info

    def step(self, action: int) -> Any:
        _, _, terminated, truncated, info = super().step(int(action))
        return self.observation("grayscale"), 0.0, terminated, truncated, info

    def _get_reward(self) -> float:
        return 0.0

    def _get_info(self) -> dict[str, Any]:
        return facts_as_dicts(read_facts(np.asarray(self.ram)[None]))[0]


class FastMarioEnv(gym.Env):
    """The same environment on fastnes: start, interventions, facts and screens, bit for bit."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": FRAMES_PER_SECOND}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 255, SCREEN_SHAPE, np.uint8)
    action_space = gym.spaces.Discrete(256)
    render_mode = "rgb_array"

    def __init__(self, world: int, stage: int) -> None:
        self.start = start_snapshot(world, stage)
        self.first_screen = start_screen(world, stage)
        self.machine = BatchMachine(1, frames=1, threads=1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.machine.restore(0, self.start, self.first_screen)
        return self.machine.gray(0), self._info()

    def step(self, action: int) -> Any:
        self.machine.step(np.array([action], dtype=np.uint8), draw=False)
        return self.machine.gray(0), 0.0, bool(self.machine.terminated[0]), False, self._info()

    def render(self) -> np.ndarray:
        return self.machine.rgb(0)

    def _info(self) -> dict[str, Any]:
        return facts_as_dicts(read_facts(self.machine.ram_before))[0]


class SeveralStagesEnv(gym.Env):
    """A game environment a stage; each episode is in one of them, drawn as `StageStarts` draws."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": FRAMES_PER_SECOND}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 255, SCREEN_SHAPE, np.uint8)
    action_space = gym.spaces.Discrete(256)
    render_mode = "rgb_array"

    def __init__(self, config: EnvConfig) -> None:
        self.starts = StageStarts(config)
        game = FastMarioEnv if config.emulator == "fast" else NesPyMarioEnv
        self.games = [game(*stage) for stage in config.stage_list]
        self.number: int | None = None  # of the stage that is played
        self.cleared = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        if self.number is not None:
            self.starts.count(self.number, self.cleared)
        self.number, self.cleared = self.starts.draw_number(self.np_random), False
        return self.games[self.number].reset()

    def step(self, action: int) -> Any:
        assert self.number is not None, "reset() comes first"
        result = self.games[self.number].step(action)
        self.cleared = result[-1]["flag_get"]
        return result

    def render(self) -> Any:
        return self.games[self.number or 0].render()

    def close(self) -> None:
        for game in self.games:
            game.close()


class ActionSetWrapper(gym.ActionWrapper):
    """Action index to button byte; an index beyond the set is an error, not a wrong button."""

    def __init__(self, env: gym.Env, buttons: np.ndarray) -> None:
        super().__init__(env)
        self.buttons = buttons
        self.action_space = gym.spaces.Discrete(len(buttons))

    def action(self, action: Any) -> int:
        if not 0 <= int(action) < len(self.buttons):
            raise UsageError(f"action {action} is not in 0..{len(self.buttons) - 1}")
        return int(self.buttons[int(action)])


class SplitMix64:
    """Uniform numbers from a key and a counter, for n environments (Steele et al. 2014).

    A stream's t-th number depends on its key and t alone, so that one environment and a batch of
    them, which look ahead differently, draw the same.
    """

    GAMMA = np.uint64(0x9E3779B97F4A7C15)

    def __init__(self, n: int = 1) -> None:
        self.state = np.zeros(n, dtype=np.uint64)

    def seed(self, key: int, stream: int = 0) -> None:
        """Begin a stream at a 64-bit key."""
        self.state[stream] = key

    def skip(self, count: int, stream: int = 0) -> None:
        """Pass over count numbers of a stream."""
        self.state[stream : stream + 1] += self.GAMMA * np.array([count], dtype=np.uint64)

    def uniform(self, streams: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the next number in [0, 1) of the streams, float64[len(streams)]."""
        self.state[streams] += self.GAMMA
        z = self.state[streams]
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def draw_key(generator: np.random.Generator) -> int:
    """Return the 64-bit key of an episode's sticky actions."""
    return int(generator.integers(2**64, dtype=np.uint64))


class StickyFrames(gym.Wrapper):
    """Each emulated frame keeps the last buttons with probability p (ALE's sticky actions)."""

    def __init__(self, env: gym.Env, probability: float) -> None:
        super().__init__(env)
        self.probability = probability
        self.stream = SplitMix64()
        self.last_action: Any = None

    def reset(self, **kwargs: Any) -> Any:
        result = self.env.reset(**kwargs)
        self.stream.seed(draw_key(self.np_random))
        self.last_action = None
        return result

    def step(self, action: Any) -> Any:
        if self.stream.uniform()[0] >= self.probability or self.last_action is None:
            self.last_action = action
        return self.env.step(self.last_action)


class NoopResetEnv(gym.Wrapper):
    """Start each episode with 1 to noop_max frames without buttons, drawn from np_random."""

    def __init__(self, env: gym.Env, noop_max: int, noop_action: int) -> None:
        super().__init__(env)
        self.noop_max = noop_max
        self.noop_action = noop_action

    def reset(self, **kwargs: Any) -> Any:
        observation, info = self.env.reset(**kwargs)
        for _ in range(int(self.np_random.integers(1, self.noop_max + 1))):
            observation, _, terminated, truncated, info = self.env.step(self.noop_action)
            if terminated or truncated:
                raise RuntimeError("Mario died while waiting for an episode to start")
        return observation, info


class MaxAndSkipFrame(gym.Wrapper):
    """Hold an action for some frames; observe the maximum of the last two that were run.

    Objects that the NES draws on every other frame stay visible. If the episode ends at the first
    frame, that one alone is the observation: never a frame of an earlier step or episode. Adds
    `frames`, the number of emulated frames, to info.
    """

    def __init__(self, env: gym.Env, skip: int) -> None:
        super().__init__(env)
        self.skip = skip

    def step(self, action: Any) -> Any:
        previous: np.ndarray | None = None
        screen: np.ndarray | None = None
        frames = 0
        while frames < self.skip:
            frames += 1
            previous = screen
            screen, _, terminated, truncated, info = self.env.step(action)
            if terminated or truncated:
                break
        assert screen is not None
        observation = screen if previous is None else np.maximum(previous, screen)
        return observation, 0.0, terminated, truncated, {**info, "frames": frames}


class LongJumpActionWrapper(gym.Wrapper):
    """The last action holds its buttons for hold_steps agent steps, or until the episode ends."""

    def __init__(self, env: gym.Env, hold_steps: int) -> None:
        super().__init__(env)
        self.hold_steps = hold_steps
        self.long_jump = int(env.action_space.n) - 1  # type: ignore[attr-defined]

    def step(self, action: Any) -> Any:
        frames = 0
        for _ in range(self.hold_steps if int(action) == self.long_jump else 1):
            observation, reward, terminated, truncated, info = self.env.step(action)
            frames += info["frames"]
            if terminated or truncated:
                break
        return observation, reward, terminated, truncated, {**info, "frames": frames}


class StageSuccessWrapper(gym.Wrapper):
    """The flag ends the episode; info says so as `is_success`, SB3's name for it."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        info["is_success"] = info["flag_get"]
        return observation, reward, terminated or info["flag_get"], truncated, info


class FastClearRewardWrapper(gym.Wrapper):
    """`RewardShaper` for one environment; info has each term by name, and max_x."""

    def __init__(self, env: gym.Env, config: EnvConfig) -> None:
        super().__init__(env)
        self.shaper = RewardShaper(config)

    def reset(self, **kwargs: Any) -> Any:
        observation, info = self.env.reset(**kwargs)
        self.shaper.reset(_facts_of(info))
        self.start_stage = stage_name(info["world"], info["stage"])
        info["max_x"] = int(self.shaper.max_x[0])
        info["start_stage"], info["from_start"] = self.start_stage, True
        return observation, info

    def step(self, action: Any) -> Any:
        observation, _, terminated, truncated, info = self.env.step(action)
        rewards, terms, ends = self.shaper.step(_facts_of(info), np.array([info["frames"]]))
        info["reward_terms"] = {name: float(term[0]) for name, term in terms.items()}
        info["max_x"] = int(self.shaper.max_x[0])
        info["start_stage"], info["from_start"] = self.start_stage, True
        return (observation, float(rewards[0]), terminated, truncated or bool(ends[0]), info)


def _facts_of(info: dict[str, Any]) -> GameFacts:
    """Return one environment's facts as arrays of [1]."""
    return GameFacts(*(np.array([info[name]]) for name in GameFacts._fields))


class AreaResizeObservation(gym.ObservationWrapper):
    """The gray screen as uint8[size, size], each pixel the mean of the area it covers."""

    def __init__(self, env: gym.Env, size: int) -> None:
        super().__init__(env)
        self.size = size
        self.observation_space = gym.spaces.Box(0, 255, (size, size), np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return cv2.resize(observation, (self.size, self.size), interpolation=cv2.INTER_AREA)


class ShowButtons(gym.Wrapper):
    """Draws what the last action pressed above the picture."""

    def __init__(self, env: gym.Env, marks: np.ndarray) -> None:
        super().__init__(env)
        self.marks = marks

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        observation[: self.marks.shape[1]] = 0
        return observation, info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        observation, *rest = self.env.step(action)
        observation[: self.marks.shape[1]] = self.marks[int(action)]
        return observation, *rest


# --------------------------------------------------------------------------------------------
# Where episodes begin
# --------------------------------------------------------------------------------------------


class Start(NamedTuple):
    """Where one episode begins."""

    snapshot: np.ndarray  # uint8[STATE_SIZE]
    screen: np.ndarray  # uint8[240, 256] palette indices, what the snapshot shows
    number: int  # of the stage or place among those of its `Starts`
    at_level_start: bool  # not along a demo: the random no-ops come first, and it counts as a clear


class Starts(Protocol):
    """Where the episodes of a batch begin; the batch tells how they ended."""

    def draw(self, generator: np.random.Generator) -> Start:
        """Return where the next episode of the environment with this generator begins."""

    def count(self, number: int, cleared: bool) -> None:
        """Take note of how an episode that began at a number ended."""

    def scalars(self) -> dict[str, float]:
        """Return what to log of it, by name."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on exactly: arrays and numbers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""


class StageStarts:
    """The starts of the config's stages, drawn alike or by how often they fail."""

    RATE_STEP = 0.05  # weight of the newest episode in a stage's clear rate
    LEAST_WEIGHT = 0.1  # of a stage that is always cleared, beside 1 of one that never is

    def __init__(self, config: EnvConfig) -> None:
        self.stages = config.stage_list
        self.by_failure = config.stage_sampling == "failure"
        self.clear_rates = np.zeros(len(self.stages))

    def draw_number(self, generator: np.random.Generator) -> int:
        """Return the next stage's number; a single stage draws nothing."""
        if len(self.stages) == 1:
            return 0
        weights = np.ones(len(self.stages))
        if self.by_failure:
            weights -= (1 - self.LEAST_WEIGHT) * self.clear_rates
        bounds = np.cumsum(weights)
        return int(np.searchsorted(bounds, generator.random() * bounds[-1], side="right"))

    def draw(self, generator: np.random.Generator) -> Start:
        """As `Starts`."""
        return self.start_of(self.draw_number(generator))

    def start_of(self, number: int) -> Start:
        """Return the start of the stage with this number."""
        stage = self.stages[number]
        return Start(start_snapshot(*stage), start_screen(*stage), number, at_level_start=True)

    def count(self, number: int, cleared: bool) -> None:
        """As `Starts`."""
        self.clear_rates[number] += self.RATE_STEP * (cleared - self.clear_rates[number])

    def scalars(self) -> dict[str, float]:
        """As `Starts`: each stage's clear rate, if there are several."""
        if len(self.stages) == 1:
            return {}
        rates = zip(self.stages, self.clear_rates.tolist(), strict=True)
        return {f"stage/{stage_name(*stage)}/clear_rate": rate for stage, rate in rates}

    def state_dict(self) -> dict[str, Any]:
        """As `Starts`."""
        return {"clear_rates": self.clear_rates.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Starts`."""
        self.clear_rates[...] = state["clear_rates"]


# --------------------------------------------------------------------------------------------
# Environments
# --------------------------------------------------------------------------------------------


def observation_space(config: EnvConfig) -> gym.spaces.Box:
    """Return the space of uint8[frame_stack, screen_size, screen_size], the oldest screen first."""
    shape = (config.frame_stack, config.screen_size, config.screen_size)
    return gym.spaces.Box(0, 255, shape, np.uint8)


def action_space(config: EnvConfig) -> gym.spaces.Discrete:
    """Return the actions' space: the action set, and the long jump if there is one."""
    return gym.spaces.Discrete(len(buttons_of_actions(config)))


def make_single_env(config: EnvConfig, seed: int | None = None) -> gym.Env:
    """Return the whole stack around one emulator.

    Args:
        config: what to build.
        seed: seeds the environment's generator, as `reset(seed=seed)` does.

    Returns:
        an environment with observations uint8[frame_stack, screen_size, screen_size] and
        `Discrete` actions; `render()` returns the full screen, uint8[240, 256, 3].
    """
    buttons = buttons_of_actions(config)
    game = FastMarioEnv if config.emulator == "fast" else NesPyMarioEnv
    stages = config.stage_list
    env: gym.Env = SeveralStagesEnv(config) if len(stages) > 1 else game(*stages[0])
    env = ActionSetWrapper(env, buttons)
    if config.sticky_prob:
        env = StickyFrames(env, config.sticky_prob)
    if config.noop_max:
        env = NoopResetEnv(env, config.noop_max, noop_action=int(np.flatnonzero(buttons == 0)[0]))
    env = MaxAndSkipFrame(env, config.frame_skip)
    if config.long_jump_action:
        env = LongJumpActionWrapper(env, config.long_jump_hold_steps)
    env = StageSuccessWrapper(env)
    env = FastClearRewardWrapper(env, config)
    env = AreaResizeObservation(env, config.screen_size)
    if config.show_buttons:
        env = ShowButtons(env, button_marks(buttons_of_actions(config), config.screen_size))
    if config.max_episode_steps:
        env = gym.wrappers.TimeLimit(env, config.max_episode_steps)
    env = FrameStackObservation(env, config.frame_stack, padding_type="reset")
    if seed is not None:
        env.reset(seed=seed)
    return env


class BatchedMarioVecEnv(VecEnv):
    """All environments in one process on fastnes: what `make_single_env` does, on arrays.

    Equal to `DummyVecEnv` over `make_single_env`, bit for bit: observations, rewards, dones,
    infos (tests/test_backends.py). Observations are copies: SB3 holds on to the last one
    while it steps.
    """

    def __init__(
        self, config: EnvConfig, threads: int | None = None, starts: Starts | None = None
    ) -> None:
        """Make them.

        Args:
            config: what to build.
            threads: how many share the emulation, by default one a core.
            starts: where episodes begin, by default at the config's stages.
        """
        n, size = config.n_envs, config.screen_size
        threads = threads or min(n, os.cpu_count() or 1)
        super().__init__(n, observation_space(config), action_space(config))
        self.config = config
        self.buttons = buttons_of_actions(config)
        self.marks = button_marks(self.buttons, size)
        self.machines = BatchMachine(
            n, frames=config.frame_skip, size=(size, size), threads=threads
        )
        self.shaper = RewardShaper(config, n)
        self.starts: Starts = StageStarts(config) if starts is None else starts
        self.start_numbers = np.full(n, -1, dtype=np.int64)  # where each episode began
        self.start_stages = np.full(n, "", dtype="<U3")
        self.from_start = np.ones(n, dtype=bool)  # of the level, not from along a demo
        self.generators = [np.random.default_rng() for _ in range(n)]
        self.sticky = SplitMix64(n)
        self.held = np.zeros(n, dtype=np.int64)  # buttons of the last frame; -1 at a start
        self.steps = np.zeros(n, dtype=np.int64)  # of each episode
        self.screens = np.zeros((n, size, size), dtype=np.uint8)
        self.stack = np.zeros((n, config.frame_stack, size, size), dtype=np.uint8)
        self._actions = np.zeros(n, dtype=np.int64)

    # -- episodes ------------------------------------------------------------------------------

    def reset(self) -> np.ndarray:
        """Begin an episode everywhere, with the seeds of the last `seed()` call if there is one."""
        for i, seed in enumerate(self._seeds):
            if seed is not None:
                self.generators[i] = gym.utils.seeding.np_random(seed)[0]
        self._reset_seeds()
        self._reset_options()
        self._begin_episodes(np.arange(self.num_envs))
        return self.stack.copy()

    def _begin_episodes(self, envs: np.ndarray) -> None:
        """Put environments at the start: snapshot, no-ops, reward, full frame stack, info."""
        for i in envs:
            start = self.starts.draw(self.generators[i])
            self.start_numbers[i] = start.number
            self.machines.restore(i, start.snapshot, start.screen)
            self.held[i] = -1
            if self.config.sticky_prob:
                self.sticky.seed(draw_key(self.generators[i]), i)
            self.from_start[i] = start.at_level_start
            if self.config.noop_max and start.at_level_start:
                self._wait(i, int(self.generators[i].integers(1, self.config.noop_max + 1)))
            else:
                area_resize(self.machines.gray(i), self.screens[i])
        facts = read_facts(self.machines.ram_before[envs])
        self.shaper.reset(facts, envs)
        for i, world, stage in zip(envs, facts.world, facts.stage, strict=True):
            self.start_stages[i] = stage_name(world, stage)
        self.steps[envs] = 0
        if self.config.show_buttons:
            self.screens[envs, : self.marks.shape[1]] = 0
        self.stack[envs] = self.screens[envs, None]
        max_x = self.shaper.max_x
        for i, info in zip(envs, facts_as_dicts(facts), strict=True):
            more = {
                "max_x": int(max_x[i]),
                "start_stage": str(self.start_stages[i]),
                "from_start": bool(self.from_start[i]),
            }
            self.reset_infos[i] = {**info, **more}

    def _wait(self, i: int, frames: int) -> None:
        """Run frames without buttons; the last one alone is the first observation."""
        if frames > 1:
            idle = np.zeros((1, frames - 1), dtype=np.uint8)
            self.machines.step(idle, indices=np.array([i]), draw=False)
        idle = np.zeros((1, 1), dtype=np.uint8)
        self.machines.step(idle, indices=np.array([i]), observation=self.screens)
        if self.machines.terminated[i]:
            raise RuntimeError("Mario died while waiting for an episode to start")
        self.held[i] = 0
        self.sticky.skip(frames, i)

    # -- steps ---------------------------------------------------------------------------------

    def step_async(self, actions: np.ndarray) -> None:
        actions = np.asarray(actions, dtype=np.int64)
        if actions.min() < 0 or actions.max() >= len(self.buttons):
            wrong = actions[(actions < 0) | (actions >= len(self.buttons))][0]
            raise UsageError(f"action {wrong} is not in 0..{len(self.buttons) - 1}")
        self._actions = actions

    def step_wait(self) -> Any:
        frames = self._run_machines()
        facts = read_facts(self.machines.ram_before)
        rewards, terms, stalled = self.shaper.step(facts, frames)
        self.steps += 1
        terminated = facts.dead | facts.flag_get
        truncated = stalled
        if self.config.max_episode_steps:
            truncated = stalled | (self.steps >= self.config.max_episode_steps)
        dones = terminated | truncated
        infos = self._infos(facts, frames, terms, truncated & ~terminated)
        if self.config.show_buttons:
            self.screens[:, : self.marks.shape[1]] = self.marks[self._actions]
        self.stack = np.concatenate([self.stack[:, 1:], self.screens[:, None]], axis=1)
        if dones.any():
            ended = np.flatnonzero(dones)
            for i in ended:
                infos[i]["terminal_observation"] = self.stack[i].copy()
                self.starts.count(int(self.start_numbers[i]), bool(facts.flag_get[i]))
            self._begin_episodes(ended)
        return self.stack.copy(), rewards.astype(np.float32), dones, infos

    def _run_machines(self) -> np.ndarray:
        """Run the actions, a long jump for as long as it holds, and return int[n] frames run."""
        self.machines.step(self._pressed(np.arange(self.num_envs)), observation=self.screens)
        frames = self.machines.frames_run.astype(np.int64)
        if self.config.long_jump_action:
            jumping = self._actions == len(self.buttons) - 1
            for _ in range(self.config.long_jump_hold_steps - 1):
                envs = np.flatnonzero(jumping & ~self.machines.terminated)
                if len(envs):
                    pressed = self._pressed(envs)
                    self.machines.step(pressed, indices=envs, observation=self.screens)
                    frames[envs] += self.machines.frames_run[envs]
        return frames

    def _pressed(self, envs: np.ndarray) -> np.ndarray:
        """Return the buttons of each frame of a step, uint8[len(envs), frame_skip]."""
        wanted = self.buttons[self._actions[envs]].astype(np.int64)
        pressed = np.repeat(wanted[:, None], self.config.frame_skip, axis=1)
        if self.config.sticky_prob:
            for frame in range(self.config.frame_skip):
                keep = (self.sticky.uniform(envs) < self.config.sticky_prob) & (
                    self.held[envs] >= 0
                )
                pressed[:, frame] = np.where(keep, self.held[envs], wanted)
                self.held[envs] = pressed[:, frame]
        return pressed.astype(np.uint8)

    def _infos(
        self,
        facts: GameFacts,
        frames: np.ndarray,
        terms: dict[str, np.ndarray],
        truncated: np.ndarray,
    ) -> list[dict[str, Any]]:
        """Return what the wrapper stack puts into info."""
        infos = facts_as_dicts(
            facts,
            frames=frames,
            is_success=facts.flag_get,
            max_x=self.shaper.max_x,
            start_stage=self.start_stages,
            from_start=self.from_start,
            **{"TimeLimit.truncated": truncated},
        )
        rows = zip(*(term.tolist() for term in terms.values()), strict=True)
        for info, row in zip(infos, rows, strict=True):
            info["reward_terms"] = dict(zip(terms, row, strict=True))
        return infos

    # -- the rest of SB3's contract ------------------------------------------------------------

    def close(self) -> None:
        """Nothing to close: no processes, no windows."""

    def get_images(self) -> list[np.ndarray]:
        """Return every environment's full screen, uint8[240, 256, 3]."""
        return [self.machines.rgb(i) for i in range(self.num_envs)]

    def views(self, indices: Any = None) -> list[BatchedEnvView]:
        """Return single environments by index, for `env_method` and its kin."""
        return [BatchedEnvView(self, i) for i in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(view, attr_name) for view in self.views(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"{attr_name!r} of one environment cannot be set in a batch")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        return [getattr(view, method_name)(*args, **kwargs) for view in self.views(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))

    # -- exact resume --------------------------------------------------------------------------

    MACHINE_STATE = ("states", "ram_before", "frames_run", "terminated")

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all that the next step depends on: arrays, numbers and strings."""
        return {
            "machines": {name: getattr(self.machines, name).copy() for name in self.MACHINE_STATE},
            "shaper": self.shaper.state_dict(),
            "starts": self.starts.state_dict(),
            "start_numbers": self.start_numbers.copy(),
            "start_stages": self.start_stages.tolist(),
            "from_start": self.from_start.copy(),
            "sticky": self.sticky.state.view(np.int64).copy(),
            "held": self.held.copy(),
            "steps": self.steps.copy(),
            "screens": self.screens.copy(),
            "stack": self.stack.copy(),
            "generators": [json.dumps(rng.bit_generator.state) for rng in self.generators],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned for as many environments.

        Raises:
            UsageError: it is of another number of environments or another observation.
        """
        if np.shape(state["stack"]) != self.stack.shape:
            raise UsageError(
                f"environments were {np.shape(state['stack'])}, now they are {self.stack.shape}"
            )
        for name in self.MACHINE_STATE:
            getattr(self.machines, name)[...] = state["machines"][name]
        self.shaper.load_state_dict(state["shaper"])
        self.starts.load_state_dict(state["starts"])
        self.start_numbers[...] = state["start_numbers"]
        self.start_stages[...] = state["start_stages"]
        self.from_start[...] = state["from_start"]
        self.sticky.state[...] = np.asarray(state["sticky"]).view(np.uint64)
        for name in ("held", "steps", "screens"):
            getattr(self, name)[...] = state[name]
        self.stack = np.asarray(state["stack"]).copy()
        for rng, content in zip(self.generators, state["generators"], strict=True):
            rng.bit_generator.state = json.loads(content)


class BatchedEnvView:
    """One environment of a batch, as far as SB3 asks for it."""

    render_mode = "rgb_array"

    def __init__(self, venv: BatchedMarioVecEnv, index: int) -> None:
        self.venv, self.index = venv, index

    @property
    def config(self) -> EnvConfig:
        """What the environment was made from."""
        return self.venv.config

    @property
    def np_random(self) -> np.random.Generator:
        """The environment's own generator."""
        return self.venv.generators[self.index]

    def render(self) -> np.ndarray:
        """Return the full screen, uint8[240, 256, 3]."""
        return self.venv.machines.rgb(self.index)

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin the episode of a seed here alone, as a single environment does."""
        venv, i = self.venv, self.index
        venv.generators[i] = gym.utils.seeding.np_random(seed)[0]
        venv._begin_episodes(np.array([i]))
        return venv.stack[i].copy(), venv.reset_infos[i]

    def get_wrapper_attr(self, name: str) -> Any:
        """Return an attribute, as gymnasium's wrappers do."""
        return getattr(self, name)


class WorkerDied(RuntimeError):
    """A worker process of a subproc vec env is gone; the message holds its traceback."""


class ReportingSubprocVecEnv(SubprocVecEnv):
    """SB3's SubprocVecEnv; a worker that dies is named, with its traceback or its exit code."""

    def __init__(self, makers: Sequence[Callable[[], gym.Env]]) -> None:
        self._reports = tempfile.TemporaryDirectory(prefix="mario_workers_")
        reports = Path(self._reports.name)
        super().__init__(
            [_ReportingMaker(make, reports / f"{i}.txt") for i, make in enumerate(makers)],
            start_method="forkserver"
            if "forkserver" in multiprocessing.get_all_start_methods()
            else "spawn",
        )

    def reset(self) -> Any:
        try:
            return super().reset()
        except (EOFError, ConnectionResetError, BrokenPipeError) as error:
            raise self._worker_died() from error

    def step_async(self, actions: np.ndarray) -> None:
        try:
            super().step_async(actions)
        except (ConnectionResetError, BrokenPipeError) as error:
            raise self._worker_died() from error

    def step_wait(self) -> Any:
        try:
            return super().step_wait()
        except (EOFError, ConnectionResetError, BrokenPipeError) as error:
            raise self._worker_died() from error

    def _worker_died(self) -> WorkerDied:
        """Return the error that names the dead worker, and end the others."""
        dead = []
        for i, process in enumerate(self.processes):
            process.join(timeout=0.5)
            if process.exitcode is not None:
                report = Path(self._reports.name) / f"{i}.txt"
                cause = report.read_text() if report.exists() else f"exit code {process.exitcode}\n"
                dead.append(f"worker {i} of {len(self.processes)} died: {cause}")
        for process in self.processes:
            process.terminate()
        self.closed = True
        return WorkerDied("".join(dead) or "a worker closed its pipe and still runs")


class _ReportingMaker:
    """Makes an environment whose failure leaves its traceback in a file; picklable."""

    def __init__(self, make: Callable[[], gym.Env], report: Path) -> None:
        self.make, self.report = make, report

    def __call__(self) -> gym.Env:
        try:
            return _ReportingEnv(self.make(), self.report)
        except Exception:
            self.report.write_text(traceback.format_exc())
            raise


class _ReportingEnv(gym.Wrapper):
    """Writes the traceback of whatever an environment raises to a file, and raises it again."""

    def __init__(self, env: gym.Env, report: Path) -> None:
        super().__init__(env)
        self.report = report

    def reset(self, **kwargs: Any) -> Any:
        try:
            return self.env.reset(**kwargs)
        except Exception:
            self.report.write_text(traceback.format_exc())
            raise

    def step(self, action: Any) -> Any:
        try:
            return self.env.step(action)
        except Exception:
            self.report.write_text(traceback.format_exc())
            raise


class _EnvMaker:
    """`make_single_env` with its arguments; picklable, as worker processes need."""

    def __init__(self, config: EnvConfig) -> None:
        self.config = config

    def __call__(self) -> gym.Env:
        return make_single_env(self.config)


def make_vec_env(
    config: EnvConfig, seed: int | None = None, starts: Starts | None = None
) -> VecEnv:
    """Return `config.n_envs` environments behind SB3's `VecEnv`; number i is seeded with seed + i.

    The seeds take effect at the first `reset()`; `seed(s)` followed by `reset()` begins anew.

    Raises:
        UsageError: starts of one's own, which only the batched backend has.
    """
    if starts is not None and config.vec_backend != "batched":
        raise UsageError("episodes that begin at snapshots need --vec-backend batched")
    makers: list[Callable[[], gym.Env]] = [_EnvMaker(config)] * config.n_envs
    venv: VecEnv
    if config.vec_backend == "batched":
        venv = BatchedMarioVecEnv(config, starts=starts)
    elif config.vec_backend == "subproc":
        venv = ReportingSubprocVecEnv(makers)
    else:
        venv = DummyVecEnv(makers)
    if seed is not None:
        venv.seed(seed)
    return venv
