"""What an environment is made from: `EnvConfig` and the numbers of its reward, as flags."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import tyro

from fastnes.ram import BUTTON_BITS
from mario_cli import UsageError
from mario_game import (
    STAGES,
    StageId,
    action_buttons,
    parse_stages,
    stages_text,
    with_stages_field,
)
from mario_values import Amount, Checked, Positive, Share, Weight, with_values

MOST_X = 65_535  # px, of which the game counts
ProtocolName = Literal["fixed", "noop", "sticky"]  # how a policy is judged: docs/protocol.md
FeaturesName = Literal["small", "nature", "fine"]  # networks that look at pictures
EmulatorName = Literal["fast", "nes-py"]
PICTURE_ROWS = {"none": (0, 240), "playfield": (32, 224)}  # by `EnvConfig.crop`
ActionSetName = Literal["right_only", "simple", "complex", "fast", "agile", "full"]


def stages_of(value: Any) -> tuple[StageId, ...]:
    """Return the stages in a value of a config file: "1-1,8-4", or a list of such or of pairs.

    Raises:
        UsageError: it holds something else.
    """
    if isinstance(value, str):
        return parse_stages(value) if value else ()
    if not isinstance(value, list | tuple):
        raise UsageError(f"no stages: {value!r:.40}; write them as 1-1,8-4")
    names = ["-".join(map(str, item)) if isinstance(item, list) else str(item) for item in value]
    return parse_stages(",".join(names)) if names else ()


# On a command line: one word, as `parse_stages` reads it; nothing for none. In a file: `stages_of`.
StagesFlag = Annotated[
    tuple[StageId, ...],
    pydantic.PlainValidator(stages_of),
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="STAGES",
        instance_from_str=lambda words: parse_stages(words[0]) if words[0] else (),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [stages_text(value)],
    ),
]


@dataclasses.dataclass(frozen=True)
class RewardConfig(Checked):
    """The reward: a sum of named terms, times `reward_scale`. Distances in px, agent steps."""

    base_reward_scale: Weight = 1.0
    """Times the classic game reward: progress + clock + death, clipped to +-15 a step. 0 is off."""
    forward_reward_scale: Weight = 0.0
    """Per px forward. 0.15 makes a full run of 1-1 (3,121 px) 468, beside a flag bonus of 200."""
    forward_mode: Literal["new_max", "positive_delta"] = "new_max"
    """new_max pays new ground only; positive_delta any step right: exploitable, kept to show it."""
    backward_penalty_scale: Weight = 0.0
    """Subtracted per px moved left. Small: a step back is sometimes the right move."""
    flag_bonus: Weight = 0.0
    """Once, on the flag pole or the axe."""
    time_left_bonus: Weight = 0.0
    """With the flag, for each unit that the game's clock still shows (400 at a level's start)."""
    death_penalty: Weight = 0.0
    """Subtracted once, at death (a pit, an enemy, the clock)."""
    stall_steps: Amount = 0
    """Agent steps without new ground after which stall_penalty is due. 0 is off."""
    stall_penalty: Weight = 0.0
    """Subtracted every step of a stall. 0: it punishes waiting for the right moment."""
    end_on_stall_steps: Amount = 0
    """Agent steps without new ground after which the episode is truncated. 0 is off."""
    end_on_stall_penalty: Weight = 0.0
    """Subtracted once, when a stall ends the episode."""
    milestone_step: Amount = 0
    """Distance in px between milestones. 0 is off."""
    milestone_bonus: Weight = 0.0
    """For each milestone passed for the first time."""
    hurdle_x: tuple[Annotated[int, pydantic.Field(ge=0, le=MOST_X)], ...] = ()
    """x in px of hard places; passing each pays hurdle_bonus, once an episode."""
    hurdle_bonus: Weight = 0.0
    """For each hurdle passed for the first time."""
    time_penalty_per_step: Weight = 0.0
    """Subtracted every agent step. 0 while learning to clear; 0.02 to fine-tune for speed."""
    goal_potential_scale: Weight = 0.0
    """Times gamma Phi(s') - Phi(s), Phi = px gained toward the goal line (Ng et al. 1999)."""
    reward_scale: Positive = 1.0
    """Times the whole sum. Small, so that the value loss does not drown the policy's gradient."""


@dataclasses.dataclass(frozen=True)
class EnvConfig(Checked):
    """The environment: which stage, seen how, on which emulator."""

    stages: StagesFlag = (StageId(1, 1),)
    """Stages that episodes begin in, as 1-1 or 1-1,8-4 or all. --stage 1-2 and the older --world 1
    --stage 2 say the same of one."""
    stage_sampling: Literal["uniform", "failure"] = "uniform"
    """How a stage is drawn: each alike, or those more often that are cleared less often."""
    goal_line_x: Annotated[int, pydantic.Field(ge=1, le=MOST_X)] | None = None
    """x in px of the goal. Unset: as measured from the ROM (`STAGES`)."""
    emulator: EmulatorName = "fast"
    """fast is fastnes, compiled by Numba; nes-py is the reference that it equals."""
    vec_backend: Literal["batched", "subproc", "dummy"] = "batched"
    """batched (fast only): one process, threads; subproc: a worker process an environment; dummy:
    one process, one after the other."""
    n_envs: Annotated[int, pydantic.Field(ge=1, le=4096)] = 8
    """Environments side by side."""
    frame_skip: Annotated[int, pydantic.Field(ge=1, le=60)] = 4
    """Emulated frames per agent step, the buttons held. 4 is the Atari standard."""
    observation: Literal["pixels", "color", "rgb", "ram", "scene"] = "pixels"
    """pixels: gray screens, shrunk and stacked; color: the same in colour, three planes a screen;
    rgb: the whole screen in colour; ram: the machine's 2,048 bytes; scene: what stands and moves
    around Mario. The last two are never drawn."""
    frame_stack: Annotated[int, pydantic.Field(ge=1, le=32)] = 4
    """Screens in an observation: what shows speed and direction."""
    screen_size: Annotated[int, pydantic.Field(ge=8, le=240)] = 84
    """Height and width of an observation in px."""
    crop: Literal["none", "playfield"] = "none"
    """What of the screen is shrunk to that. playfield: without the status bar and the ground's
    lower half (rows 32 to 223), so that things are a quarter higher."""
    show_buttons: bool = False
    """Draw what the last action pressed above the picture: a held A, which no screen shows, does
    not jump again."""
    noop_max: Annotated[int, pydantic.Field(ge=0, le=1000)] = 30
    """Every episode starts with 1 to this many frames without buttons. 0: one fixed start."""
    sticky_prob: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0
    """Chance that an emulated frame keeps the last buttons (Machado et al. 2018: 0.25)."""
    action_set: ActionSetName = "simple"
    """right_only 5, simple 7, complex 12, fast 5 (full speed only), agile 7 (fast, down, and the
    jump to the left), full 15 actions."""
    long_jump_action: bool = False
    """Add one action that holds a jump for long_jump_hold_steps agent steps."""
    long_jump_hold_steps: Annotated[int, pydantic.Field(ge=1, le=60)] = 4
    """Agent steps that the long jump holds its buttons: 16 frames reach full height."""
    long_jump_base_action: str = "right+A+B"
    """Buttons of the long jump, joined by +."""
    max_episode_steps: Amount = 0
    """Agent steps after which an episode is truncated. 0: only the game's own clock ends it."""
    discount: Annotated[Share, tyro.conf.Suppress] = 1.0
    """gamma of the potential term. No flag: the trainer sets it to its own gamma."""
    reward: RewardConfig = dataclasses.field(default_factory=RewardConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stages:
            raise UsageError("stages must name at least one stage")
        for stage in self.stages:
            if stage not in STAGES:
                raise UsageError(f"no stage {stage}; stages are 1-1 to 8-4")
        if self.goal_line_x is not None and len(self.stages) > 1:
            raise UsageError("goal_line_x is one stage's: leave it out with several stages")
        if self.vec_backend == "batched" and self.emulator != "fast":
            raise UsageError(
                f"the batched backend needs --emulator fast; with {self.emulator} use "
                "--vec-backend subproc or dummy"
            )
        first, end = self.picture_rows
        if self.screen_size > end - first:
            raise UsageError(
                f"screen_size {self.screen_size} is more than the {end - first} rows that crop "
                f"{self.crop} leaves"
            )
        buttons_of_actions(self)

    @property
    def picture_rows(self) -> tuple[int, int]:
        """The screen's rows that a picture is made from, the first and the one after the last."""
        return PICTURE_ROWS[self.crop]

    @property
    def planes(self) -> int:
        """How many planes of an observation are of one screen; 0: it is no stack of pictures."""
        return {"pixels": 1, "color": 3}.get(self.observation, 0)

    def goal_of(self, stage: StageId) -> int:
        """Return x of a stage's goal line in px: the one given, else the one measured."""
        return STAGES[stage].goal_line_x if self.goal_line_x is None else self.goal_line_x


def in_process(config: EnvConfig, emulator: EmulatorName | None = None) -> EnvConfig:
    """Return config for playing in this process, on another emulator if one is named."""
    emulator = emulator or config.emulator
    backend: Any = "batched" if emulator == "fast" else "dummy"
    return dataclasses.replace(config, emulator=emulator, vec_backend=backend)


def env_config_from_dict(values: dict[str, Any]) -> EnvConfig:
    """Return the `EnvConfig` that a train_config.json holds, of this version or an older one.

    Raises:
        UsageError: a key or a value does not fit.
    """
    if not isinstance(values, dict):
        raise UsageError("an environment config is a mapping")
    try:
        return with_values(EnvConfig(), with_stages_field(values), "environment config")
    except (TypeError, ValueError) as error:
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
