"""The environment for anyone's agent: Gymnasium ids, one environment or many at once.

`import mario_gym` registers `FastMario-1-1-v0` to `FastMario-8-4-v0`, and `FastMario-v0`, whose
episodes begin in all stages or in those of `stages=`:

    import gymnasium as gym
    import mario_gym

    env = gym.make("FastMario-1-1-v0", observation="pixels", sticky_prob=0.25)
    envs = gym.make_vec("FastMario-1-1-v0", num_envs=64, vectorization_mode="vector_entry_point")

Keywords are the fields of `mario_config.EnvConfig` (observation, action_set, sticky_prob, noop_max,
frame_skip, ...), with `reward` a `RewardConfig` or a mapping of its fields. docs/environment.md
shows all of it.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.error import DependencyNotInstalled

from fastnes.ram import BUTTON_BITS
from mario_cli import UsageError
from mario_config import EnvConfig, RewardConfig
from mario_game import FRAMES_PER_SECOND, SCREEN_SHAPE, STAGES
from mario_inputs import checked_action, checked_actions, checked_options, checked_seed, needs_reset
from mario_runtime import MarioVectorEnv
from mario_snapshots import EnvSnapshot
from mario_starts import NO_NUMBER
from mario_values import with_values

__all__ = ["EnvSnapshot", "MarioEnv", "make_vector", "register"]

RENDER_MODES = ("rgb_array", "human")
CHOSEN_HERE = ("emulator", "vec_backend", "n_envs", "discount")  # no keywords
WINDOW_SCALE = 3  # window pixels a pixel of the game
# As in nes-py: D and A walk, W and S climb and duck, O is the NES's A button, P its B.
KEYS = {"right": "d", "left": "a", "down": "s", "up": "w", "start": "\r", "select": " "}
KEYS |= {"A": "o", "B": "p"}


def env_config(keywords: Mapping[str, Any], n_envs: int = 1) -> EnvConfig:
    """Return the config that keywords of `gym.make` mean.

    Raises:
        UsageError: a keyword that there is not, or a value that does not fit.
    """
    names = {field.name for field in dataclasses.fields(EnvConfig)} - set(CHOSEN_HERE)
    terms = {field.name for field in dataclasses.fields(RewardConfig)}
    values: dict[str, Any] = {}
    for name, value in keywords.items():
        _check_known(name, names, "keyword", "render_mode")
        if isinstance(value, RewardConfig):
            value = dataclasses.asdict(value)
        if name == "reward" and isinstance(value, Mapping):
            for term in value:
                _check_known(term, terms, "key of reward")
        values[name] = value.item() if isinstance(value, np.generic) else value
    if values.get("max_episode_steps", 0) in (None, -1):  # Gymnasium's words for no limit
        del values["max_episode_steps"]
    return dataclasses.replace(with_values(EnvConfig(), values, "keywords"), n_envs=n_envs)


def _check_known(name: Any, known: Collection[str], what: str, *elsewhere: str) -> None:
    """Raise a UsageError if a name is not known, which says what may be meant."""
    if name not in known:
        close = difflib.get_close_matches(str(name), [*known, *elsewhere], 1)
        meant = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(known))}"
        raise UsageError(f"no {what} {name!r}; {meant}")


class MarioEnv(gym.Env[np.ndarray, int]):
    """One environment on fastnes; `gym.make` makes it.

    It is a batch of one, so that what it does is what `MarioVectorEnv` does. An observation is a
    copy, an info a dictionary of plain numbers.
    """

    # render_fps: the game's own speed at 4 frames a step; an environment's own holds for its skip.
    metadata = {"render_modes": list(RENDER_MODES), "render_fps": FRAMES_PER_SECOND / 4}  # noqa: RUF012

    def __init__(self, *, render_mode: str | None = None, **keywords: Any) -> None:
        """Make it.

        Args:
            render_mode: rgb_array for `render()` to return the screen, uint8[240, 256, 3]; human
                for a window (pygame-ce, which the extra `watch` brings); None for neither.
            keywords: fields of `EnvConfig`.

        Raises:
            UsageError: a keyword, a value or a render mode that there is not.
            DependencyNotInstalled: a window without pygame.
        """
        if render_mode not in (None, *RENDER_MODES):
            raise UsageError(f"no render_mode {render_mode!r}; there are: rgb_array, human")
        self.render_mode = render_mode
        self.config = env_config(keywords)
        self.batch = MarioVectorEnv(self.config, autoreset=False)
        fps = FRAMES_PER_SECOND / self.config.frame_skip
        self.metadata = {**type(self).metadata, "render_fps": fps}
        self.observation_space = self.batch.single_observation_space
        self.action_space = self.batch.single_action_space
        self.window = _Window(fps) if render_mode == "human" else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode, or go on with one.

        Args:
            seed: of the environment's generator; None leaves it as it is.
            options: `stage`, as "3-2", instead of the next one; `noops`, the frames without buttons
                at the start, instead of as many as are drawn; `snapshot`, one that `snapshot()`
                returned, to go on from there.

        Raises:
            UsageError: a seed or an option that does not fit.
        """
        super().reset(seed=checked_seed(seed))
        options = checked_options(options)
        options.pop("reset_mask", None)
        self.batch.generators[0] = self.np_random
        observations, infos = self.batch.reset(options=options)
        if seed is not None and options.get("snapshot") is not None:
            super().reset(seed=seed)  # the snapshot brought its own
        return self._seen(observations, infos)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Do an action.

        Raises:
            UsageError: an action that there is not.
            gymnasium.error.ResetNeeded: before the first reset, or after an episode's end.
        """
        number = checked_action(action, len(self.batch.buttons))
        if self.batch.is_over[0]:
            raise needs_reset()
        observations, rewards, [terminated], [truncated], infos = self.batch.step(
            np.array([number])
        )
        observation, info = self._seen(observations, infos)
        return observation, float(rewards[0]), bool(terminated), bool(truncated), info

    def _seen(
        self, observations: np.ndarray, infos: dict[str, Any]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if self.window:
            self.window.show(self.batch.machines.rgb(0))
        return observations[0].copy(), _plain(infos)

    def snapshot(self) -> EnvSnapshot:
        """Return all that the next step depends on; see `MarioVectorEnv.snapshot`."""
        return self.batch.snapshot(0)

    def restore(self, snapshot: EnvSnapshot) -> tuple[np.ndarray, dict[str, Any]]:
        """Go on from a snapshot; return its observation and info, as `reset` does.

        Wrappers around this environment (a time limit) do not notice;
        `reset(options={"snapshot": snapshot})` goes through them.

        Raises:
            UsageError: no snapshot, or one of other observations.
        """
        self.np_random  # noqa: B018 (there is a generator to set)
        self.batch.generators[0] = self.np_random
        self.batch.restore(0, snapshot)
        return self._seen(self.batch.observations, self.batch._start_infos())

    def render(self) -> np.ndarray | None:
        """Return the screen, uint8[240, 256, 3], or show it in the window, by `render_mode`."""
        if self.render_mode == "rgb_array":
            return self.batch.machines.rgb(0)
        if self.window:
            self.window.show(self.batch.machines.rgb(0))
            return None
        gym.logger.warn('render() shows nothing: make the environment with render_mode="rgb_array"')
        return None

    def get_action_meanings(self) -> list[str]:
        """Return the buttons of each action, as "right+A"; "NOOP" for none."""
        names = []
        for byte in self.batch.buttons.tolist():
            held = [name for name, bit in BUTTON_BITS.items() if byte & bit]
            names.append("+".join(held) or "NOOP")
        return names

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """Return the action of each combination of keys, for `gymnasium.utils.play`."""
        return {
            tuple(sorted(ord(KEYS[name]) for name, bit in BUTTON_BITS.items() if byte & bit)): i
            for i, byte in reversed(list(enumerate(self.batch.buttons.tolist())))
            if byte  # no key at all is play's own `noop`
        }

    def close(self) -> None:
        """Close the window, if there is one."""
        if self.window:
            self.window.close()
        self.batch.close()


def _plain(infos: dict[str, Any]) -> dict[str, Any]:
    """Return the infos of a batch of one as plain numbers, without masks."""
    return {
        name: _plain(values) if isinstance(values, dict) else values[0].item()
        for name, values in infos.items()
        if not name.startswith("_")
    }


class _Window:
    """The screen in a window, at the game's speed; opened when there is something to show."""

    def __init__(self, fps: float) -> None:
        try:
            import pygame
        except ImportError as error:
            raise DependencyNotInstalled(
                'render_mode="human" opens a window with pygame: pip install pygame-ce'
            ) from error
        self.pygame, self.fps = pygame, fps
        self.surface: Any = None

    def show(self, screen: np.ndarray) -> None:
        """Show uint8[240, 256, 3], and wait until it is time for the next one."""
        pygame = self.pygame
        height, width = SCREEN_SHAPE
        size = (width * WINDOW_SCALE, height * WINDOW_SCALE)
        if self.surface is None:
            pygame.display.init()
            pygame.display.set_caption("Super Mario Bros.")
            self.surface = pygame.display.set_mode(size)
            self.clock = pygame.time.Clock()
        picture = pygame.surfarray.make_surface(screen.swapaxes(0, 1))
        self.surface.blit(pygame.transform.scale(picture, size), (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        self.clock.tick(self.fps)

    def close(self) -> None:
        if self.surface is not None:
            self.pygame.display.quit()
            self.surface = None

    def __getstate__(self) -> dict[str, Any]:
        return {"fps": self.fps}  # a copy opens a window of its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["fps"])  # type: ignore[misc]


def make_vector(
    *,
    num_envs: int = 1,
    render_mode: str | None = None,
    autoreset_mode: str | gym.vector.AutoresetMode = gym.vector.AutoresetMode.SAME_STEP,
    threads: int | None = None,
    copy: bool = True,
    **keywords: Any,
) -> MarioVectorEnv:
    """Return many environments, stepped together; `gym.make_vec` calls this.

    Args:
        num_envs: how many.
        render_mode: rgb_array or None; `render()` returns all screens with either.
        autoreset_mode: SAME_STEP begins the next episode within the step that ends one, and
            `final_obs` and `final_info` hold the end of the last; NEXT_STEP begins it in the step
            after that, as Gymnasium's wrappers expect; DISABLED leaves it to
            `reset(options={"reset_mask": ...})`.
        threads: how many share the emulation, by default one a core.
        copy: return arrays that may be kept. False saves the copying: the arrays of one call are
            overwritten by the next.
        keywords: fields of `EnvConfig`.

    Raises:
        UsageError: a keyword or a value that there is not.
    """
    if render_mode not in (None, "rgb_array"):
        raise UsageError(f"many environments have render_mode rgb_array, not {render_mode!r}")
    if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
        raise UsageError(f"num_envs is a whole number from 1 on, not {num_envs!r}")
    try:
        mode = gym.vector.AutoresetMode(autoreset_mode)
    except ValueError:
        there_are = ", ".join(one.value for one in gym.vector.AutoresetMode)
        raise UsageError(f"no autoreset_mode {autoreset_mode!r}; there are: {there_are}") from None
    config = env_config(keywords, int(num_envs))
    if mode is gym.vector.AutoresetMode.NEXT_STEP:
        return NextStepVectorEnv(config, threads=threads, copy=copy)
    same_step = mode is gym.vector.AutoresetMode.SAME_STEP
    return MarioVectorEnv(config, threads=threads, autoreset=same_step, copy=copy)


class NextStepVectorEnv(MarioVectorEnv):
    """Environments that begin their next episode in the step after the one that ended the last.

    Gymnasium's `NEXT_STEP`, which its wrappers around vector environments expect.
    """

    def __init__(self, config: EnvConfig, *, threads: int | None = None, copy: bool = True) -> None:
        """Make them, as `MarioVectorEnv` does."""
        super().__init__(config, threads=threads, autoreset=False, copy=copy)
        self.metadata["autoreset_mode"] = gym.vector.AutoresetMode.NEXT_STEP

    def step(
        self, actions: npt.ArrayLike
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Do one action in every environment, but begin an episode where the last one ended.

        Args:
            actions: int[n]; where an episode begins, they do nothing.

        Returns:
            observations, rewards, terminations, truncations, infos. Where an episode begins,
            observation and info are a reset's, the reward is 0, and nothing ends.

        Raises:
            UsageError: an action that there is not, or not one for each environment.
            ResetNeeded: an environment was never reset.
        """
        beginning = self.is_over & (self.terminations | self.truncations)
        if not beginning.any():
            return super().step(actions)
        actions = checked_actions(actions, self.num_envs, len(self.buttons))
        # The ended machines run on beside the others: the new episode replaces all of them.
        self.is_over[beginning], self.start_numbers[beginning] = False, NO_NUMBER
        super().step(actions)
        self.begin_episodes(np.flatnonzero(beginning))
        for array in (self.rewards, self.terminations, self.truncations, self.cleared, self.frames):
            array[beginning] = 0
        going_on = {} if beginning.all() else self._step_infos(~beginning)
        return *self._results(), going_on | self._start_infos()


def register() -> None:
    """Register the ids with Gymnasium; importing this module does it."""
    ids = {f"FastMario-{stage}-v0": str(stage) for stage in STAGES} | {"FastMario-v0": "all"}
    for name, stages in ids.items():
        if name not in gym.registry:
            gym.register(
                name,
                entry_point="mario_gym:MarioEnv",
                vector_entry_point="mario_gym:make_vector",
                kwargs={"stages": stages},
            )


register()
