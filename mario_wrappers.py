"""The wrapper stack around one emulator, from the game outward; `mario_runtime` builds it.

The batched environment does the same on arrays, bit for bit (tests/test_backends.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from fastnes import BatchMachine, EmulationError, area_resize, start_screen, start_snapshot
from fastnes.state import RAM_SIZE
from mario_cli import Failure
from mario_config import EnvConfig
from mario_game import (
    FRAMES_PER_SECOND,
    SCREEN_SHAPE,
    StageId,
    facts_as_dicts,
    facts_of_info,
    has_cleared,
    read_facts,
)
from mario_inputs import checked_action, checked_options, checked_seed, chosen_noops, needs_reset
from mario_reward import RewardShaper
from mario_starts import StageStarts


class BrokenGame(Failure):
    """The game runs into what no machine can do: it began from a state that no play leads to."""

    def __init__(self, error: EmulationError | str) -> None:
        super().__init__(f"the game is broken, its state is of no play: {error}")


class FastMarioEnv(gym.Env):
    """gym-super-mario-bros's single-stage environment on fastnes: equal to it, bit for bit.

    One emulated frame a step; the action is a button byte. Observations are gray, uint8[240, 256].
    Info holds the game as the frame left it, before the interventions of gym-super-mario-bros; the
    screen is of after them. `mario_reference.NesPyMarioEnv` is the same on nes-py.
    """

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
        try:
            self.machine.step(np.array([action], dtype=np.uint8), draw=False)
        except EmulationError as error:
            raise BrokenGame(error) from error
        return self.machine.gray(0), 0.0, bool(self.machine.terminated[0]), False, self._info()

    def render(self) -> np.ndarray:
        return self.machine.rgb(0)

    @property
    def ram(self) -> np.ndarray:
        """RAM as it is now, uint8[2048], a view; the reference has it, too."""
        return self.machine.states[0, :RAM_SIZE]

    @property
    def ram_before(self) -> np.ndarray:
        """RAM as the last frame left it, uint8[2048]."""
        return self.machine.ram_before[0]

    def _info(self) -> dict[str, Any]:
        return facts_as_dicts(read_facts(self.machine.ram_before))[0]


def game_env(config: EnvConfig, stage: StageId) -> gym.Env:
    """Return one stage's game on the config's emulator; nes-py is imported only where it runs."""
    if config.emulator == "fast":
        return FastMarioEnv(*stage)
    from mario_reference import NesPyMarioEnv

    return NesPyMarioEnv(*stage)


class SeveralStagesEnv(gym.Env):
    """A game environment a stage; each episode is in one of them, drawn as `StageStarts` draws."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": FRAMES_PER_SECOND}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 255, SCREEN_SHAPE, np.uint8)
    action_space = gym.spaces.Discrete(256)
    render_mode = "rgb_array"

    def __init__(self, config: EnvConfig) -> None:
        self.starts = StageStarts(config)
        self.games: list[Any] = [game_env(config, stage) for stage in config.stages]
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
        info = result[-1]
        self.cleared = bool(has_cleared(facts_of_info(info), *self.starts.stages[self.number])[0])
        return result

    @property
    def ram(self) -> np.ndarray:
        """RAM of the game that is played, uint8[2048]."""
        return self.games[self.number or 0].ram

    @property
    def ram_before(self) -> np.ndarray:
        """RAM as the last frame left it, uint8[2048]."""
        return self.games[self.number or 0].ram_before

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
        return int(self.buttons[checked_action(action, len(self.buttons))])


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
    """Start each episode with 1 to noop_max frames without buttons, drawn from np_random.

    `reset(options={"noops": 7})` chooses 7 of them; of one number an environment, int[n], this
    environment takes the one at its index. The draw is made all the same, so that what is drawn
    after it does not depend on who chose.
    """

    def __init__(self, env: gym.Env, noop_max: int, noop_action: int, index: int = 0) -> None:
        super().__init__(env)
        self.noop_max = noop_max
        self.noop_action = noop_action
        self.index = index

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        checked_options(options, ("noops",))
        observation, info = self.env.reset(seed=seed, options=options)
        noops = int(self.np_random.integers(1, self.noop_max + 1)) if self.noop_max else 0
        if options and "noops" in options:
            chosen = np.atleast_1d(chosen_noops(options["noops"]))
            noops = int(chosen[self.index if len(chosen) > 1 else 0])
        for _ in range(noops):
            observation, _, terminated, truncated, info = self.env.step(self.noop_action)
            if terminated or truncated:
                raise RuntimeError("Mario died while waiting for an episode to start")
        return observation, info


class FrameListener(gym.Wrapper):
    """Tells a function of every emulated frame, no-ops included: its buttons, and the game."""

    def __init__(self, env: gym.Env, on_frame: Callable[[int, gym.Env], None]) -> None:
        super().__init__(env)
        self.on_frame = on_frame

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self.on_frame(int(action), self.env)
        return result


class MaxAndSkipFrame(gym.Wrapper):
    """Hold an action for some frames; observe the maximum of the last two that were run.

    Objects that the NES draws on every other frame stay visible. If the episode ends at the first
    frame, that one alone is the observation: never a frame of an earlier step or episode. Adds
    `frames`, the number of emulated frames, to info.
    """

    def __init__(self, env: gym.Env, skip: int) -> None:
        super().__init__(env)
        self.skip = skip
        fps = env.metadata.get("render_fps", FRAMES_PER_SECOND) / skip
        self.metadata = {**env.metadata, "render_fps": fps}  # films of steps run at its speed

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
    """Any flag ends the episode; it is one `is_success` at the goal of the stage it began in."""

    def reset(self, **kwargs: Any) -> Any:
        observation, info = self.env.reset(**kwargs)
        self.stage = StageId(info["world"], info["stage"])
        return observation, info

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        info["is_success"] = bool(has_cleared(facts_of_info(info), *self.stage)[0])
        return observation, reward, terminated or info["flag_get"], truncated, info


class FastClearRewardWrapper(gym.Wrapper):
    """`RewardShaper` for one environment; info has each term by name, and max_x."""

    def __init__(self, env: gym.Env, config: EnvConfig) -> None:
        super().__init__(env)
        self.shaper = RewardShaper(config)

    def reset(self, **kwargs: Any) -> Any:
        observation, info = self.env.reset(**kwargs)
        self.shaper.reset(facts_of_info(info))
        self.start_stage = str(StageId(info["world"], info["stage"]))
        info["max_x"] = int(self.shaper.max_x[0])
        info["start_stage"], info["from_start"] = self.start_stage, True
        return observation, info

    def step(self, action: Any) -> Any:
        observation, _, terminated, truncated, info = self.env.step(action)
        rewards, terms, ends = self.shaper.step(facts_of_info(info), np.array([info["frames"]]))
        info["reward_terms"] = {name: float(term[0]) for name, term in terms.items()}
        info["max_x"] = int(self.shaper.max_x[0])
        info["start_stage"], info["from_start"] = self.start_stage, True
        return (observation, float(rewards[0]), terminated, truncated or bool(ends[0]), info)


class ScreenObservation(gym.ObservationWrapper):
    """The screen in colour, uint8[240, 256, 3]."""

    def __init__(self, env: gym.Env, space: gym.spaces.Box) -> None:
        super().__init__(env)
        self.observation_space = space

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.array(self.env.render())


class RamObservation(gym.ObservationWrapper):
    """What a function makes of RAM as the last frame left it."""

    def __init__(
        self,
        env: gym.Env,
        space: gym.spaces.Box,
        read: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        super().__init__(env)
        self.observation_space = space
        self.read = read  # uint8[n, 2048] to an array of [n, *space.shape]

    def observation(self, observation: np.ndarray) -> np.ndarray:
        game: Any = self.unwrapped
        return self.read(game.ram_before[None])[0]


class AreaResizeObservation(gym.ObservationWrapper):
    """Some rows of the screen as uint8[size, size], each pixel the mean of the area it covers.

    A screen in colour becomes uint8[3, size, size].
    """

    def __init__(self, env: gym.Env, size: int, rows: tuple[int, int] = (0, 240)) -> None:
        super().__init__(env)
        self.rows = slice(*rows)
        is_gray = env.observation_space.shape == SCREEN_SHAPE
        shape = (size, size) if is_gray else (3, size, size)
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        shrunk = np.empty(self.observation_space.shape or (), np.uint8)
        shrink_screen(observation[self.rows], shrunk)
        return shrunk


def shrink_screen(screen: np.ndarray, out: np.ndarray) -> None:
    """Shrink a screen uint8[h, w] into uint8[size, size], or one in colour, [h, w, 3], into three.

    Args:
        screen: as above.
        out: uint8[size, size] or uint8[3, size, size], overwritten.
    """
    if screen.ndim == 2:
        area_resize(screen, out)
    else:
        for channel, plane in enumerate(out):
            area_resize(screen[..., channel], plane)


class EpisodeOrder(gym.Wrapper):
    """Refuses a step before a reset or after an episode's end, as nes-py does, and odd seeds."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.is_over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        result = self.env.reset(seed=checked_seed(seed), options=options)
        self.is_over = False
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self.is_over:
            raise needs_reset()
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.is_over = terminated or truncated
        return observation, reward, terminated, truncated, info


class ShowButtons(gym.Wrapper):
    """Draws what the last action pressed above the picture."""

    def __init__(self, env: gym.Env, marks: np.ndarray) -> None:
        super().__init__(env)
        self.marks = marks

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        observation[..., : self.marks.shape[1], :] = 0
        return observation, info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        observation, *rest = self.env.step(action)
        observation[..., : self.marks.shape[1], :] = self.marks[int(action)]
        return observation, *rest


def button_marks(buttons: np.ndarray, size: int) -> np.ndarray:
    """Return the strip that shows each action's buttons, uint8[n_actions, size // 10, size].

    A white square a pressed button, from left to right in the order of `BUTTON_BITS`; it covers
    the screen's rim above the status bar, or the highest rows of a picture that was cropped.
    """
    squares = np.unpackbits(buttons[:, None], axis=1) * np.uint8(255)  # [n_actions, 8]
    strip = np.zeros((len(buttons), size // 10, size), np.uint8)
    strip[:, :, : size // 8 * 8] = np.repeat(squares, size // 8, axis=1)[:, None]
    return strip
