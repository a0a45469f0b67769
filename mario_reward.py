"""The one place where reward is computed, for n environments at once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np

from mario_cli import UsageError
from mario_config import EnvConfig
from mario_files import fill
from mario_game import N_AREA_POINTERS, STAGES, GameFacts, StageId, has_cleared, is_home

# Faster than anything Mario does in a frame on this ROM (3 px): more is no movement.
MAX_PX_PER_FRAME = 4
NO_LIMIT_X = 1 << 16  # px, more than x can be


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
    - Another stage, where a warp zone leads: no ground pays. It would be a whole level's, against
      which the goal's bonus is little.
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
        "time_left",
    )

    def __init__(self, config: EnvConfig, n_envs: int = 1) -> None:
        self.env_config = config
        self.config = config.reward
        self.began = np.ones((n_envs, 2), dtype=np.int64)  # world and stage of each episode's start
        self.goal = np.zeros(n_envs, dtype=np.int64)  # px, of that stage
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
        self.cleared = np.zeros(n_envs, dtype=bool)  # its own stage, in this episode

    STATE = (
        *("began", "goal", "limit", "x", "area", "clock", "best_x", "stall_x", "stalled_steps"),
        *("hurdle_paid", "cleared"),
    )

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of the arrays that `load_state_dict` needs to go on exactly."""
        return {name: getattr(self, name).copy() for name in self.STATE}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what `state_dict` returned."""
        for name in self.STATE:
            fill(getattr(self, name), state[name], name)
        if any(tuple(stage) not in STAGES for stage in self.began.tolist()):
            raise UsageError("an episode began in no stage")

    @property
    def max_x(self) -> np.ndarray:
        """The furthest x of each episode in any area, int64[n] px; leaps do not count."""
        return self.best_x.max(axis=1)

    def reset(self, facts: GameFacts, envs: np.ndarray | slice = slice(None)) -> None:
        """Begin an episode in the environments envs; facts hold just these, in this order."""
        envs = np.arange(len(self.x))[envs]
        for i, world, stage in zip(envs, facts.world.tolist(), facts.stage.tolist(), strict=True):
            began = StageId(world, stage)
            self.began[i] = began
            table = STAGES[began]
            self.goal[i] = self.env_config.goal_of(began)
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
        home = is_home(facts, self.began[:, 0], self.began[:, 1])
        moved = np.where(leapt | ~home, 0, dx)

        x = np.minimum(facts.x_pos, self.limit[rows, facts.area_pointer] * home)
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

        cleared = has_cleared(facts, self.began[:, 0], self.began[:, 1])
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
            terms["flag"] = config.flag_bonus * (cleared & ~self.cleared)
        if config.time_left_bonus:
            terms["time_left"] = config.time_left_bonus * facts.time * (cleared & ~self.cleared)
        self.cleared |= cleared
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


def reward_signature(config: EnvConfig) -> str:
    """Return 16 hex digits that change when the reward's formula or any of its numbers does.

    Stored beside every checkpoint and replay folder, so that data made under another reward is
    refused, not mixed. Goal line and exit pipe are part of the reward: they cap the forward term.
    """
    reward = dataclasses.asdict(config.reward)
    if not config.reward.time_left_bonus:
        del reward["time_left_bonus"]  # younger than what was made without it
    goals: Any = [config.goal_of(stage) for stage in config.stages]
    goals = goals if len(goals) > 1 else goals[0]
    content = {"formula": RewardShaper.FORMULA, "goal_line_x": goals, "reward": reward}
    if pipes := [pipe for stage in config.stages if (pipe := STAGES[stage].exit_pipe_x)]:
        content["exit_pipe_x"] = pipes
    if config.reward.goal_potential_scale:
        content["discount"] = config.discount
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
