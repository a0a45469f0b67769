"""The environment that every agent and tool plays: one emulator, or many on arrays.

`make_single_env` builds the wrapper stack of mario_wrappers.py around one emulator.
`MarioVectorEnv` does the same for n of them, stepped together on arrays, bit for bit. From the
game outward: action index to buttons, sticky frames, random no-op start, frame skip with the
maximum over the last two frames, long jump (optional), stage success, reward, observation.
Evaluation uses the same stack as training.

Screens are gray from the emulator on (nes-py's own conversion), so the maximum over two frames is
taken of gray values. Everything random in an environment comes from its own generator, seeded with
`seed + index`: no-op counts directly, sticky actions through a key drawn at each reset.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import FrameStackObservation

from fastnes import BatchMachine, EmulationError, View
from fastnes.state import RAM_SIZE
from fastnes.tables import PALETTE_RGB
from mario_cli import UsageError
from mario_config import EnvConfig, RewardConfig, buttons_of_actions
from mario_files import fill
from mario_game import (
    FRAMES_PER_SECOND,
    LEVEL_1_1_GOAL_X,
    SCREEN_SHAPE,
    STAGE_FLAG_LINE_X,
    STAGES,
    StageId,
    parse_stages,
    read_facts,
)
from mario_inputs import (
    checked_actions,
    checked_mask,
    checked_options,
    checked_seeds,
    needs_reset,
    noops_of,
    stages_of_options,
)
from mario_reward import RewardShaper, reward_signature
from mario_scene import read_scene
from mario_scene_flat import SCENE_SIZE, flatten_scene
from mario_snapshots import EnvSnapshot, restore_env, snapshot_env, snapshots_of_options
from mario_starts import NO_NUMBER, StageStarts, Starts, stage_start
from mario_wrappers import (
    ActionSetWrapper,
    AreaResizeObservation,
    BrokenGame,
    EpisodeOrder,
    FastClearRewardWrapper,
    FrameListener,
    LongJumpActionWrapper,
    MaxAndSkipFrame,
    NoopResetEnv,
    RamObservation,
    ScreenObservation,
    SeveralStagesEnv,
    ShowButtons,
    SplitMix64,
    StageSuccessWrapper,
    StickyFrames,
    button_marks,
    draw_key,
    game_env,
    shrink_screen,
)

# What users import from here, whichever room of this floor or the one below it stands in.
__all__ = [
    "LEVEL_1_1_GOAL_X",
    "STAGES",
    "STAGE_FLAG_LINE_X",
    "EnvConfig",
    "MarioVectorEnv",
    "RewardConfig",
    "RewardShaper",
    "StageId",
    "UsageError",
    "action_space",
    "make_single_env",
    "make_vector_env",
    "observation_space",
    "parse_stages",
    "reward_signature",
]

# Observations that are made of RAM alone, so that nothing is drawn: uint8[n, 2048] to [n, ...].
RAM_READERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ram": np.array,
    "scene": lambda memory: flatten_scene(read_scene(memory)),
}


def observation_space(config: EnvConfig) -> gym.spaces.Box:
    """Return the space of one environment's observations.

    pixels: uint8[frame_stack, screen_size, screen_size], the oldest screen first; color: three
    planes a screen, red, green and blue, instead of one; rgb: uint8[240, 256, 3]; ram: uint8[2048];
    scene: float32[SCENE_SIZE], as `mario_scene_flat` lays it out.
    """
    if config.observation == "scene":
        return gym.spaces.Box(-np.inf, np.inf, (SCENE_SIZE,), np.float32)
    stack = (config.planes * config.frame_stack, config.screen_size, config.screen_size)
    shapes: dict[str, tuple[int, ...]] = {
        "pixels": stack,
        "color": stack,
        "rgb": (*SCREEN_SHAPE, 3),
        "ram": (RAM_SIZE,),
    }
    return gym.spaces.Box(0, 255, shapes[config.observation], np.uint8)


def action_space(config: EnvConfig) -> gym.spaces.Discrete:
    """Return the actions' space: the action set, and the long jump if there is one."""
    return gym.spaces.Discrete(len(buttons_of_actions(config)))


# --------------------------------------------------------------------------------------------
# One environment
# --------------------------------------------------------------------------------------------


def make_single_env(
    config: EnvConfig,
    seed: int | None = None,
    *,
    index: int = 0,
    on_frame: Callable[[int, gym.Env], None] | None = None,
) -> gym.Env:
    """Return the whole stack around one emulator.

    Args:
        config: what to build.
        seed: seeds the environment's generator, as `reset(seed=seed)` does.
        index: which of several environments this is, for options with an entry each (`reset`'s
            `noops`, as `NoopResetEnv` takes them).
        on_frame: called after every emulated frame with its button byte and the game, whose
            `render()` returns the screen.

    Returns:
        an environment with observations of `observation_space(config)` and `Discrete` actions;
        `render()` returns the full screen, uint8[240, 256, 3].
    """
    buttons = buttons_of_actions(config)
    several = len(config.stages) > 1
    env: gym.Env = SeveralStagesEnv(config) if several else game_env(config, config.stages[0])
    if config.observation == "color":
        env = ScreenObservation(env, gym.spaces.Box(0, 255, (*SCREEN_SHAPE, 3), np.uint8))
    if on_frame:
        env = FrameListener(env, on_frame)
    env = ActionSetWrapper(env, buttons)
    if config.sticky_prob:
        env = StickyFrames(env, config.sticky_prob)
    no_button = int(np.flatnonzero(buttons == 0)[0])
    env = NoopResetEnv(env, config.noop_max, no_button, index)
    env = MaxAndSkipFrame(env, config.frame_skip)
    if config.long_jump_action:
        env = LongJumpActionWrapper(env, config.long_jump_hold_steps)
    env = StageSuccessWrapper(env)
    env = FastClearRewardWrapper(env, config)
    if config.planes:
        env = AreaResizeObservation(env, config.screen_size, config.picture_rows)
        if config.show_buttons:
            env = ShowButtons(env, button_marks(buttons, config.screen_size))
    elif config.observation == "rgb":
        env = ScreenObservation(env, observation_space(config))
    else:
        reader = RAM_READERS[config.observation]
        env = RamObservation(env, observation_space(config), reader)
    if config.max_episode_steps:
        env = gym.wrappers.TimeLimit(env, config.max_episode_steps)
    if config.planes:
        env = FrameStackObservation(env, config.frame_stack, padding_type="reset")
    if config.planes > 1:
        env = gym.wrappers.ReshapeObservation(env, observation_space(config).shape)
    env = EpisodeOrder(env)
    if seed is not None:
        env.reset(seed=seed)
    return env


# --------------------------------------------------------------------------------------------
# Many environments
# --------------------------------------------------------------------------------------------


class MarioVectorEnv(VectorEnv):
    """n environments in one process on fastnes: what `make_single_env` does, on arrays.

    `reset` and `step` fill the arrays below in place and return them: what is to be kept longer
    than until the next call has to be copied. Infos are arrays of [n], each with a mask
    `_<name>`, as Gymnasium's vector environments have them.

    Attributes:
        observations: [n, *observation_space(config).shape], what the next action is chosen by.
        rewards: float32[n], of the last step.
        terminations, truncations: bool[n], of the last step; both may be true.
        facts: `GameFacts` of the last step, an ended episode's last ones where one ended.
        frames: int64[n], emulated frames of the last step.
        reward_terms: float64[n] by name, of the last step.
        max_x: int64[n], the furthest x in px of each episode in any area, as of the last step.
        cleared: bool[n], whether the last step reached the goal of the stage it began in.
        from_start: bool[n], whether each episode began at its stage's start.
        start_stages: the stage that each episode began in, as text "1-2", [n].
        last_ram: uint8[n, 2048], where an episode ended in the last step, RAM as it left it.
    """

    def __init__(
        self,
        config: EnvConfig,
        *,
        threads: int | None = None,
        starts: Starts | None = None,
        autoreset: bool = True,
        copy: bool = False,
    ) -> None:
        """Make them.

        Args:
            config: what to build; its `vec_backend` and `emulator` are those of this class.
            threads: how many share the emulation, by default one a core.
            starts: where episodes begin, by default at the config's stages.
            autoreset: begin the next episode within the step that ends one. Else whoever plays
                calls `reset(options={"reset_mask": ...})`.
            copy: return copies of the arrays, which may be kept.
        """
        n = self.num_envs = config.n_envs
        self.config = config
        self.copy = copy
        mode = AutoresetMode.SAME_STEP if autoreset else AutoresetMode.DISABLED
        self.metadata = {
            "autoreset_mode": mode,
            "render_modes": ["rgb_array"],
            "render_fps": FRAMES_PER_SECOND / config.frame_skip,
        }
        self.render_mode = "rgb_array"
        self.single_observation_space = observation_space(config)
        self.single_action_space = action_space(config)
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)
        self.buttons = buttons_of_actions(config)
        self.marks = button_marks(self.buttons, config.screen_size)
        self.planes = config.planes  # of a screen
        self.is_drawn = self.planes > 0
        size = (config.screen_size, config.screen_size)
        self.machines = BatchMachine(
            n,
            frames=config.frame_skip,
            view=View(size, config.picture_rows),
            threads=threads or min(n, os.cpu_count() or 1),
        )
        self.shaper = RewardShaper(config, n)
        self.starts: Starts = StageStarts(config) if starts is None else starts
        self.start_numbers = np.full(n, -1, dtype=np.int64)  # where each episode began
        self.from_start = np.ones(n, dtype=bool)
        self.start_stages = np.full(n, "", dtype="<U3")
        self.generators = [np.random.default_rng() for _ in range(n)]
        self.sticky = SplitMix64(n)
        self.held = np.zeros(n, dtype=np.int64)  # buttons of the last frame; -1 at a start
        self.steps = np.zeros(n, dtype=np.int64)  # of each episode
        self.most_steps = np.zeros(n, dtype=np.int64)  # after which its start cuts it off; 0: never
        space = self.single_observation_space
        self.observations = np.zeros((n, *space.shape), dtype=space.dtype)
        self.rewards = np.zeros(n, dtype=np.float32)
        self.terminations = np.zeros(n, dtype=bool)
        self.truncations = np.zeros(n, dtype=bool)
        self.facts = read_facts(self.machines.ram_before)
        self.frames = np.zeros(n, dtype=np.int64)
        self.max_x, self.cleared = self.shaper.max_x, self.shaper.cleared.copy()
        self.reward_terms: dict[str, np.ndarray] = {}
        self.last_ram = np.zeros_like(self.machines.ram_before)
        self.is_over = np.ones(n, dtype=bool)  # to be reset before the next step
        self._all = np.ones(n, dtype=bool)

    # -- episodes ------------------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | np.integer | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode everywhere, or where `options["reset_mask"]` (bool[n]) says.

        Args:
            seed: environment i's generator is seeded with seed + i, or with the i-th of several;
                None leaves a generator as it is.
            options: see above; `noops`, an int or int[n], are the no-ops of these episodes instead
                of those drawn; `stage`, as "3-2", or one for each environment, is where they begin
                instead of where the next ones would, and counts for no curriculum; `snapshot`, one
                or a list of one for each (or None), is an episode to go on with.

        Raises:
            UsageError: an option that there is not, or seeds or options that do not fit.
        """
        n = self.num_envs
        options = checked_options(options)
        seeds = checked_seeds(seed, n)
        mask = checked_mask(options.get("reset_mask", self._all), n)
        noops, stages = noops_of(options, n), stages_of_options(options, n)
        snapshots = snapshots_of_options(options, n)
        for snapshot in snapshots:
            if snapshot is not None:
                snapshot.check_fits(self)
        envs = np.flatnonzero(mask)
        fresh = np.array([i for i in envs.tolist() if snapshots[i] is None], dtype=np.int64)
        for i in envs.tolist():
            if (snapshot := snapshots[i]) is not None:
                restore_env(self, i, snapshot)
            if (own := seeds[i]) is not None:
                self.generators[i] = gym.utils.seeding.np_random(own)[0]
        if len(fresh):
            self.begin_episodes(fresh, noops, stages)
        self.terminations[envs] = self.truncations[envs] = False
        return self._seen(), self._start_infos(mask)

    def snapshot(self, i: int) -> EnvSnapshot:
        """Return all that the next step of environment i depends on, a copy.

        It holds the machine with its screen, the reward's state, the held sticky buttons, the
        stack of screens, the step count and the random generator. Drawing the screen takes about
        as long as a step.
        """
        return snapshot_env(self, i)

    def restore(self, i: int, snapshot: EnvSnapshot) -> None:
        """Put environment i where it was at a snapshot, of this or of another such environment.

        Raises:
            UsageError: it is of other observations, or no snapshot.
        """
        snapshots_of_options({"snapshot": snapshot}, 1)
        snapshot.check_fits(self)
        restore_env(self, i, snapshot)
        self.terminations[i] = self.truncations[i] = False

    def _seen(self) -> np.ndarray:
        """Return the observations, a copy if copies were asked for."""
        return self.observations.copy() if self.copy else self.observations

    def begin_episodes(
        self,
        envs: np.ndarray,
        noops: np.ndarray | None = None,
        stages: Sequence[StageId | None] | None = None,
    ) -> None:
        """Put environments at the start: snapshot, no-ops, reward, observation.

        Args:
            envs: which of them.
            noops: int64[n], frames without buttons at a level's start instead of those drawn.
            stages: of each of n, where to begin instead of where was drawn.
        """
        self.is_over[envs] = False
        for i in envs:
            start = self.starts.draw(self.generators[i])
            if stages is not None and (chosen := stages[i]) is not None:
                start = stage_start(chosen, NO_NUMBER)
            self.start_numbers[i] = start.number
            self._bound(i)
            self.machines.restore(i, start.snapshot, start.screen)
            self.held[i] = -1
            if self.config.sticky_prob:
                self.sticky.seed(draw_key(self.generators[i]), i)
            self.from_start[i] = start.at_level_start
            waited = 0
            if start.at_level_start:
                if self.config.noop_max:
                    waited = int(self.generators[i].integers(1, self.config.noop_max + 1))
                waited = waited if noops is None else int(noops[i])
            if waited:
                self._wait(i, waited)
            elif self.is_drawn:
                self._draw(i)
        self.shaper.reset(read_facts(self.machines.ram_before[envs]), envs)
        self._name_start_stages(envs)
        self.steps[envs] = 0
        if self.is_drawn:
            newest = self.observations[envs, -self.planes :]
            if self.config.show_buttons:
                newest[:, :, : self.marks.shape[1]] = 0
            self.observations[envs] = np.tile(newest, (1, self.config.frame_stack, 1, 1))
        else:
            self._look(envs)

    def _bound(self, i: int) -> None:
        number = int(self.start_numbers[i])
        self.most_steps[i] = 0 if number == NO_NUMBER else self.starts.most_steps(number)

    def _name_start_stages(self, envs: np.ndarray) -> None:
        for i in envs:
            self.start_stages[i] = str(StageId(*self.shaper.began[i].tolist()))

    def _wait(self, i: int, frames: int) -> None:
        """Run frames without buttons; the last one alone is the first observation."""
        if frames > 1:
            idle = np.zeros((1, frames - 1), dtype=np.uint8)
            self._step_machines(idle, np.array([i]), is_drawn=False)
        self._step_machines(np.zeros((1, 1), dtype=np.uint8), np.array([i]))
        if self.machines.terminated[i]:
            raise RuntimeError("Mario died while waiting for an episode to start")
        self.held[i] = 0
        self.sticky.skip(frames, i)

    def _start_infos(self, mask: np.ndarray | None = None) -> dict[str, Any]:
        """Return what a reset says of the environments in a mask, by default all."""
        infos = read_facts(self.machines.ram_before)._asdict()
        infos["max_x"] = self.shaper.max_x
        infos["start_stage"] = self.start_stages.copy()
        infos["from_start"] = self.from_start.copy()
        return with_masks(infos, self._all if mask is None else mask)

    # -- steps ---------------------------------------------------------------------------------

    def step(
        self, actions: npt.ArrayLike
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Do one action in every environment; see the class for what is returned.

        Args:
            actions: int[n].

        Returns:
            observations, rewards, terminations, truncations, infos. With autoreset, an ended
            environment's observation and info are those of its next episode, and `final_obs`
            (object[n]) and `final_info` hold the last ones of the episode that ended.

        Raises:
            UsageError: an action that there is not, or not one for each environment.
            ResetNeeded: an environment was never reset, or its episode is over and autoreset off.
        """
        actions = checked_actions(actions, self.num_envs, len(self.buttons))
        if self.is_over.any():
            raise needs_reset(np.flatnonzero(self.is_over))
        if self.is_drawn:
            for i in range(self.observations.shape[1] - self.planes):
                self.observations[:, i] = self.observations[:, i + self.planes]
        self._run_machines(actions)
        facts = self.facts = read_facts(self.machines.ram_before)
        rewards, self.reward_terms, stalled = self.shaper.step(facts, self.frames)
        self.rewards[:] = rewards
        self.max_x, self.cleared = self.shaper.max_x, self.shaper.cleared.copy()
        self.steps += 1
        np.logical_or(facts.dead, facts.flag_get, out=self.terminations)
        self.truncations[:] = stalled | ((self.most_steps > 0) & (self.steps >= self.most_steps))
        if self.config.max_episode_steps:
            self.truncations |= self.steps >= self.config.max_episode_steps
        if self.is_drawn:
            if self.config.show_buttons:
                marks = self.marks[actions][:, None]  # on every plane
                self.observations[:, -self.planes :, : self.marks.shape[1]] = marks
        else:
            self._look(np.arange(self.num_envs))
        ended = self.terminations | self.truncations
        infos = self._end_episodes(ended) if ended.any() else self._step_infos(self._all)
        return *self._results(), infos

    def _results(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return what a step returns but its infos, copies if copies were asked for."""
        rewards, ended, cut = self.rewards, self.terminations, self.truncations
        if self.copy:
            rewards, ended, cut = rewards.copy(), ended.copy(), cut.copy()
        return self._seen(), rewards, ended, cut

    def _look(self, envs: np.ndarray) -> None:
        """Fill the observations of environments that see no stack of screens."""
        if self.config.observation == "rgb":
            for i in envs:
                self.observations[i] = self.machines.rgb(i)
        else:
            read = RAM_READERS[self.config.observation]
            self.observations[envs] = read(self.machines.ram_before[envs])

    def _step_infos(self, mask: np.ndarray) -> dict[str, Any]:
        """Return what the wrapper stack puts into info of the environments in a mask, as arrays."""
        infos: dict[str, Any] = {
            **self.facts._asdict(),
            "frames": self.frames.copy(),
            "is_success": self.cleared,
            "max_x": self.max_x,
            "start_stage": self.start_stages.copy(),
            "from_start": self.from_start.copy(),
        }
        return with_masks(infos | {"reward_terms": self.reward_terms}, mask)

    def _end_episodes(self, ended: np.ndarray) -> dict[str, Any]:
        """Count the episodes that ended and, with autoreset, begin the next ones."""
        envs = np.flatnonzero(ended)
        self.last_ram[envs] = self.machines.ram_before[envs]
        for i in envs:
            if self.start_numbers[i] != NO_NUMBER:
                self.starts.count(int(self.start_numbers[i]), bool(self.cleared[i]))
        if self.metadata["autoreset_mode"] is not AutoresetMode.SAME_STEP:
            self.is_over[envs] = True
            return self._step_infos(self._all)
        last = np.full(self.num_envs, None, dtype=object)
        for i in envs:
            last[i] = self.observations[i].copy()
        final = {
            **{"final_obs": last, "_final_obs": ended},
            **{"final_info": self._step_infos(ended), "_final_info": ended},
        }
        going_on = {} if ended.all() else self._step_infos(~ended)  # as Gymnasium's own
        self.begin_episodes(envs)
        return going_on | self._start_infos() | final

    def _step_machines(
        self, pressed: np.ndarray, envs: np.ndarray | None = None, is_drawn: bool = True
    ) -> None:
        """Run buttons, uint8[len(envs), k], a frame each, and draw the last two, if they are seen.

        The emulator draws where the agent looks: into the newest screen of each stack.

        Raises:
            BrokenGame: a machine met what it does not support.
        """
        newest = None
        if self.planes:
            newest = self.observations[:, -1 if self.planes == 1 else slice(-self.planes, None)]
        try:
            self.machines.step(pressed, indices=envs, observation=newest, draw=is_drawn)
        except EmulationError as error:
            raise BrokenGame(error) from error

    def _draw(self, i: int) -> None:
        """Draw what environment i shows, the brighter of two frames, into the newest of its stack.

        In colour this takes about as long as the step itself, which is run again for it.
        """
        rows = slice(*self.config.picture_rows)
        if self.planes == 1:
            shrink_screen(self.machines.gray(i)[rows], self.observations[i, -1])
        else:
            screen = PALETTE_RGB[self.machines.last_two(i)].max(axis=0)
            shrink_screen(screen[rows], self.observations[i, -self.planes :])

    def _run_machines(self, actions: np.ndarray) -> None:
        """Run the actions, a long jump for as long as it holds, and count the frames run."""
        everywhere = np.arange(self.num_envs)
        self._step_machines(self._pressed(actions, everywhere))
        self.frames[:] = self.machines.frames_run
        if self.config.long_jump_action:
            jumping = actions == len(self.buttons) - 1
            for _ in range(self.config.long_jump_hold_steps - 1):
                envs = np.flatnonzero(jumping & ~self.machines.terminated)
                if len(envs):
                    self._step_machines(self._pressed(actions, envs), envs)
                    self.frames[envs] += self.machines.frames_run[envs]

    def _pressed(self, actions: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """Return the buttons of each frame of a step, uint8[len(envs), frame_skip]."""
        wanted = self.buttons[actions[envs]].astype(np.int64)
        pressed = np.repeat(wanted[:, None], self.config.frame_skip, axis=1)
        if self.config.sticky_prob:
            for frame in range(self.config.frame_skip):
                keep = (self.sticky.uniform(envs) < self.config.sticky_prob) & (
                    self.held[envs] >= 0
                )
                pressed[:, frame] = np.where(keep, self.held[envs], wanted)
                self.held[envs] = pressed[:, frame]
        return pressed.astype(np.uint8)

    def render(self) -> tuple[np.ndarray, ...]:
        """Return every environment's full screen, uint8[240, 256, 3]."""
        return tuple(self.machines.rgb(i) for i in range(self.num_envs))

    # -- exact resume --------------------------------------------------------------------------

    MACHINE_STATE = ("states", "ram_before", "frames_run", "terminated")
    STATE = ("start_numbers", "from_start", "held", "steps")

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all that the next step depends on: arrays, numbers and strings."""
        return {
            "machines": {name: getattr(self.machines, name).copy() for name in self.MACHINE_STATE},
            "shaper": self.shaper.state_dict(),
            "starts": self.starts.state_dict(),
            "sticky": self.sticky.state.view(np.int64).copy(),
            **{name: getattr(self, name).copy() for name in self.STATE},
            "stack": self.observations.copy(),
            "generators": [json.dumps(rng.bit_generator.state) for rng in self.generators],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned for as many environments.

        Raises:
            UsageError: it is of another number of environments or another observation, or holds
                what no environment can: a machine's register, a start that there is not.
        """
        if np.shape(state["stack"]) != self.observations.shape:
            raise UsageError(
                f"environments were {np.shape(state['stack'])}, now they are "
                f"{self.observations.shape}"
            )
        machines = {name: np.asarray(state["machines"][name]) for name in self.MACHINE_STATE}
        try:
            self.machines.load(**machines)
        except ValueError as error:
            raise UsageError(f"no state of these environments: {error}") from error
        shaper = dict(state["shaper"])
        if "began" not in shaper:  # an older version's, which kept it as text
            [shaper["began"]] = [[parse_stages(name)[0] for name in state["start_stages"]]]
        self.shaper.load_state_dict(shaper)
        self.facts = read_facts(self.machines.ram_before)
        self.max_x, self.cleared = self.shaper.max_x, self.shaper.cleared.copy()
        self._name_start_stages(np.arange(self.num_envs))
        self.starts.load_state_dict(state["starts"])
        sticky = np.zeros(self.num_envs, np.int64)
        fill(sticky, state["sticky"], "sticky")
        self.sticky.state[...] = sticky.view(np.uint64)
        for name in self.STATE:
            least, most = {"held": (-1, 0xFF), "steps": (0, None)}.get(name, (None, None))
            fill(getattr(self, name), state[name], name, least, most)
        numbers = [one for one in self.start_numbers.tolist() if one != NO_NUMBER]
        if not all(map(self.starts.has, numbers)):
            raise UsageError("an episode began at a start that there is not")
        for i in range(self.num_envs):
            self._bound(i)
        fill(self.observations, state["stack"], "the observations")
        self.is_over[:] = False
        for rng, content in zip(self.generators, state["generators"], strict=True):
            rng.bit_generator.state = json.loads(content)


def with_masks(infos: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Return infos, arrays of [n] by name, each with a mask `_<name>`, bool[n]; nested ones too."""
    mask = mask.copy()  # the environment's own stays its own
    masked: dict[str, Any] = {}
    for name, values in infos.items():
        masked[name] = with_masks(values, mask) if isinstance(values, dict) else values
        masked[f"_{name}"] = mask
    return masked


def make_vector_env(
    config: EnvConfig, *, starts: Starts | None = None, autoreset: bool = True
) -> VectorEnv:
    """Return `config.n_envs` environments in this process, on either emulator.

    The fast one is a `MarioVectorEnv`; nes-py's environments are stepped one after the other.

    Raises:
        UsageError: starts of one's own on nes-py.
    """
    if config.emulator == "fast":
        return MarioVectorEnv(config, starts=starts, autoreset=autoreset)
    if starts is not None:
        raise UsageError("episodes that begin at snapshots need --emulator fast")
    mode = AutoresetMode.SAME_STEP if autoreset else AutoresetMode.DISABLED
    envs = [functools.partial(make_single_env, config, index=i) for i in range(config.n_envs)]
    return SyncVectorEnv(envs, autoreset_mode=mode)
