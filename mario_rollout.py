"""Play episodes and watch them: the one rollout loop of this project.

A `Policy` is handed in; nothing here knows an agent. An episode is its seed, its no-ops where they
were chosen, and its actions: the emulator has no randomness of its own, so that `mario_video.film`
plays recorded actions again. How a policy is judged stands in mario_judge.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from fastnes import BUTTON_BITS
from mario_cli import UsageError
from mario_config import EnvConfig, buttons_of_actions
from mario_game import FRAMES_PER_SECOND, StageId, parse_stages
from mario_runtime import make_single_env, make_vector_env


class Policy(Protocol):
    """What can play: logits from observations, with a state it may carry from step to step.

    Attributes:
        env_config: the environment it was trained in. It says what the policy observes
            (`EnvConfig.observation`) and which actions it has.
    """

    env_config: EnvConfig

    def initial_state(self, n: int) -> Any:
        """Return the state of n fresh episodes (None for a policy without memory)."""

    def logits(
        self, observations: np.ndarray, previous_actions: np.ndarray, state: Any
    ) -> tuple[np.ndarray, Any]:
        """Return what to do next, and the state to carry on.

        Args:
            observations: [n, *shape] of `mario_runtime.observation_space(env_config)`.
            previous_actions: int64[n], what was done last; -1 at an episode's start, where a
                policy with memory begins anew, whatever its state says.
            state: what `initial_state` or the last call returned.

        Returns:
            action logits float32[n, n_actions], and the next state.
        """


@runtime_checkable
class PolicyWithValue(Protocol):
    """A `Policy` that also says what reward it expects."""

    def values(self, observations: np.ndarray, state: Any) -> np.ndarray:
        """Return the discounted reward expected from here on, float32[n], in training's units.

        Args:
            observations: as `Policy.logits` got them.
            state: what that call returned.
        """


class RandomPolicy:
    """Every action alike: what a policy has to beat."""

    def __init__(self, env_config: EnvConfig, n_actions: int) -> None:
        self.env_config = env_config
        self.n_actions = n_actions

    def initial_state(self, n: int) -> None:
        """Return None: it remembers nothing."""
        return None

    def logits(
        self, observations: np.ndarray, previous_actions: np.ndarray, state: None
    ) -> tuple[np.ndarray, None]:
        """Return zeros, float32[n, actions]: every action is as likely as any other."""
        return np.zeros((len(observations), self.n_actions), dtype=np.float32), None


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode as it went."""

    seed: int
    actions: tuple[int, ...]
    episode_return: float
    max_x: int  # px, the furthest in any area
    flag: bool  # it reached the goal of the stage it began in
    end_x: int  # px, where it ended
    truncated: bool  # cut off by a step limit, neither dead nor cleared
    stage: StageId  # where it began
    drawn_from: tuple[StageId, ...]  # the stages of which its seed drew that one
    noops: int | None = None  # frames without buttons at its start; None: as its seed draws them

    @property
    def length(self) -> int:
        """Agent steps."""
        return len(self.actions)


def answers(
    policy: Policy, observations: np.ndarray, previous_actions: np.ndarray, state: Any
) -> tuple[np.ndarray, Any]:
    """Return what `Policy.logits` does; an action may be impossible, -inf, but not all of them.

    Raises:
        FloatingPointError: an answer is not finite; huge weights lead there.
    """
    try:
        logits, state = policy.logits(observations, previous_actions, state)
        are_finite = bool(np.isfinite(logits.max(axis=1)).all())
    except ValueError as error:
        if "found invalid values" not in str(error):  # as torch.distributions says it
            raise
        are_finite = False
    if not are_finite:
        raise FloatingPointError("the policy's answers are not finite: its weights are broken")
    return logits, state


def select_actions(
    logits: np.ndarray, deterministic: bool, generators: Sequence[np.random.Generator]
) -> np.ndarray:
    """Return int64[n] actions: the largest logit, or a sample by the Gumbel-max trick.

    Each episode draws from its own generator, so that it does not depend on its neighbours.
    """
    if not deterministic:
        logits = logits + np.stack([rng.gumbel(size=logits.shape[1]) for rng in generators])
    return np.asarray(logits.argmax(axis=1), dtype=np.int64)


def play(
    policy: Policy,
    config: EnvConfig,
    episodes: int,
    *,
    deterministic: bool,
    seed: int = 0,
    noops: Sequence[int] | None = None,
    max_steps: int = 0,
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Play episodes, `config.n_envs` side by side; episode i has the seed `seed + i`.

    Args:
        policy: who plays.
        config: where; its noop_max and sticky_prob are the protocol's (`protocol_config`).
        episodes: how many.
        deterministic: argmax, or sample from the policy.
        seed: an episode's no-ops, sticky frames and action samples all come from its seed, so
            it is the same whoever plays beside it.
        noops: how many each episode begins with, instead of those its seed draws.
        max_steps: agent steps after which an episode is cut off as truncated; 0 is never.
        on_episode: called as each episode ends, for progress.

    Raises:
        UsageError: no-ops for another number of episodes.
        FloatingPointError: as `answers`.
    """
    if noops is not None and len(noops) != episodes:
        raise UsageError(f"{episodes} episodes need as many no-ops, not {len(noops)}")
    # By failure, a stage would depend on how the episodes went that ended before.
    config = dataclasses.replace(
        config, n_envs=min(config.n_envs, episodes), stage_sampling="uniform"
    )
    env = make_vector_env(config, autoreset=False)
    try:
        begin = [
            _EpisodeUnderWay(seed + i, None if noops is None else noops[i], config.stages)
            for i in range(episodes)
        ]
        return _play_all(policy, env, begin, deterministic, max_steps, on_episode)
    finally:
        env.close()


class _EpisodeUnderWay:
    """What has happened in an environment since its episode began."""

    def __init__(self, seed: int, noops: int | None, drawn_from: tuple[StageId, ...]) -> None:
        self.seed, self.noops, self.drawn_from = seed, noops, drawn_from
        self.generator = np.random.default_rng([seed, 1])
        self.actions: list[int] = []
        self.episode_return = 0.0

    def again(self) -> _EpisodeUnderWay:
        """Return the same episode at its start."""
        return _EpisodeUnderWay(self.seed, self.noops, self.drawn_from)

    def ended(self, infos: dict[str, Any], i: int, is_terminal: bool) -> Episode:
        """Return the episode, of which this was the last step in environment i."""
        return Episode(
            seed=self.seed,
            actions=tuple(self.actions),
            episode_return=self.episode_return,
            max_x=int(infos["max_x"][i]),
            flag=bool(infos["is_success"][i]),
            end_x=int(infos["x_pos"][i]),
            truncated=not is_terminal,
            stage=parse_stages(str(infos["start_stage"][i]))[0],
            drawn_from=self.drawn_from,
            noops=self.noops,
        )


def _play_all(
    policy: Policy,
    env: VectorEnv,
    begin: Sequence[_EpisodeUnderWay],
    deterministic: bool,
    max_steps: int,
    on_episode: Callable[[Episode], None] | None,
) -> list[Episode]:
    """Play every episode; an environment that is done begins the next one at once.

    When none is left, it plays its last one again, and nobody looks.
    """
    n = env.num_envs
    playing, waiting = list(begin[:n]), list(begin[n:])[::-1]
    observations = _reset(env, playing, np.ones(n, dtype=bool))
    previous = np.full(n, -1, dtype=np.int64)
    state = policy.initial_state(n)
    ended: dict[int, Episode] = {}
    while len(ended) < len(begin):
        logits, state = answers(policy, observations, previous, state)
        previous = select_actions(logits, deterministic, [one.generator for one in playing])
        observations, rewards, terminations, truncations, infos = env.step(previous)
        # float32 as a batch pays it: Gymnasium's own batch of single environments has float64.
        paid = rewards.astype(np.float32).tolist()
        for one, action, reward in zip(playing, previous.tolist(), paid, strict=True):
            one.actions.append(action)
            one.episode_return += reward
        over = terminations | truncations
        if max_steps:
            over |= np.array([len(one.actions) >= max_steps for one in playing])
        if not over.any():
            continue
        for i in np.flatnonzero(over).tolist():
            episode = playing[i].ended(infos, i, bool(terminations[i]))
            if episode.seed not in ended:
                ended[episode.seed] = episode
                if on_episode:
                    on_episode(episode)
            playing[i] = waiting.pop() if waiting else playing[i].again()
            previous[i] = -1
        observations = _reset(env, playing, over)
    return [ended[one.seed] for one in begin]


def _reset(env: VectorEnv, playing: Sequence[_EpisodeUnderWay], where: np.ndarray) -> np.ndarray:
    """Begin the episodes in the environments of a mask, bool[n]; return all observations."""
    seeds: Any = [one.seed for one in playing]
    options: dict[str, Any] = {"reset_mask": where}
    if playing[0].noops is not None:
        options["noops"] = np.array([one.noops for one in playing])
    return env.reset(seed=seeds, options=options)[0]


# --------------------------------------------------------------------------------------------
# Watching
# --------------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """One emulated frame."""

    buttons: int  # bits as in `fastnes.BUTTON_BITS`
    screen: np.ndarray  # uint8[240, 256, 3]
    ram: np.ndarray  # uint8[2048], after it


class Moment(NamedTuple):
    """An episode at its start or after a step, as someone who watches sees it."""

    screen: np.ndarray  # uint8[240, 256, 3]
    step: int  # agent steps done
    x: int  # px
    buttons: int  # of the step that led here; 0 at the start
    value: float | None  # what a `PolicyWithValue` expects from here on
    probabilities: np.ndarray  # float32[n_actions], of what it does next
    stage: StageId  # where the episode began
    flag: bool
    done: bool
    frames: list[Frame]  # since the moment before, no-ops included, if asked for
    seen: np.ndarray  # what the policy chooses by: `mario_runtime.observation_space`


def watch(
    policy: Policy,
    config: EnvConfig,
    seed: int,
    *,
    noops: int | None = None,
    deterministic: bool = False,
    actions: Sequence[int] | None = None,
    every_frame: bool = False,
) -> Iterator[Moment]:
    """Play one episode, the same that `play` plays with this seed, and yield its moments.

    Args:
        policy: who plays.
        config: where, as `play`.
        seed: the episode's.
        noops: the episode's, if they were chosen.
        deterministic: argmax, or sample from the policy.
        actions: do these instead of what the policy chooses, and stop after them.
        every_frame: fill `Moment.frames`: 60 screens a second instead of 15.

    Raises:
        FloatingPointError: as `answers`.
    """
    frames: list[Frame] = []

    def keep(pressed: int, game: gym.Env) -> None:
        ram = np.array(game.get_wrapper_attr("ram"), np.uint8)  # in colour there is a wrapper
        frames.append(Frame(pressed, np.array(game.render()), ram))

    env = make_single_env(config, on_frame=keep if every_frame else None)
    buttons = buttons_of_actions(config)
    generator = np.random.default_rng([seed, 1])
    state = policy.initial_state(1)
    previous, step, done = -1, 0, False
    try:
        observation, info = env.reset(seed=seed, options=start_options(noops))
        stage = StageId(info["world"], info["stage"])
        while True:
            seen = observation[None]
            logits, state = answers(policy, seen, np.array([previous]), state)
            weights = np.exp(logits[0] - logits[0].max())
            yield Moment(
                screen=np.array(env.render()),
                step=step,
                x=int(info["x_pos"]),
                buttons=int(buttons[previous]) if step else 0,
                value=float(policy.values(seen, state)[0])
                if isinstance(policy, PolicyWithValue)
                else None,
                probabilities=weights / weights.sum(),
                stage=stage,
                flag=bool(info.get("is_success", False)),
                done=done,
                frames=frames[:],
                seen=np.array(observation),
            )
            frames.clear()
            if done or (actions is not None and step == len(actions)):
                return
            if actions is None:
                previous = int(select_actions(logits, deterministic, [generator])[0])
            else:
                previous = actions[step]
            observation, _, terminated, truncated, info = env.step(previous)
            step, done = step + 1, terminated or truncated
    finally:
        env.close()


def watch_again(
    policy: Policy, config: EnvConfig, episode: Episode, *, every_frame: bool = False
) -> Iterator[Moment]:
    """Yield the moments of an episode that was played, as `watch`.

    Args:
        policy: who played; what it expects and would do is asked anew.
        config: under which it was played; its stages may be others.
        episode: what to do.
        every_frame: as `watch`.
    """
    yield from watch(
        policy,
        as_played(config, episode),
        episode.seed,
        noops=episode.noops,
        actions=episode.actions,
        every_frame=every_frame,
    )


def pressed_buttons(episode: Episode, config: EnvConfig) -> tuple[list[int], int]:
    """Return the button byte of each emulated frame of an episode, and how many were its no-ops.

    Args:
        episode: what to play again.
        config: under which it was played; its stages may be others.
    """
    pressed: list[int] = []
    env = make_single_env(
        as_played(config, episode), on_frame=lambda buttons, _: pressed.append(buttons)
    )
    try:
        env.reset(seed=episode.seed, options=start_options(episode.noops))
        noops = len(pressed)
        for action in episode.actions:
            env.step(action)
        return pressed, noops
    finally:
        env.close()


def as_played(config: EnvConfig, episode: Episode) -> EnvConfig:
    """Return config with the stages of which the episode's seed drew its own."""
    return dataclasses.replace(config, stages=episode.drawn_from, stage_sampling="uniform")


def start_options(noops: int | None) -> dict[str, Any]:
    """Return what `reset(options=...)` needs to begin with so many no-ops; None: as drawn."""
    return {} if noops is None else {"noops": noops}


def in_stages(config: EnvConfig, stages: Sequence[StageId]) -> EnvConfig:
    """Return config in other stages, with their own goal lines; as it is if none are named."""
    if not stages:
        return config
    return dataclasses.replace(config, stages=tuple(stages), goal_line_x=None)


def game_fps(config: EnvConfig) -> float:
    """Return how many agent steps a second the game itself runs at."""
    return FRAMES_PER_SECOND / config.frame_skip


def button_names(buttons: int) -> str:
    """Return the buttons in a byte as people write them: "right+A+B"."""
    return "+".join(name for name, bit in BUTTON_BITS.items() if buttons & bit)


def fastest_clear(episode: Episode) -> tuple[float, ...]:
    """Return what the episode to show has most of: a clear in the fewest steps, else max-x."""
    return episode.flag, -episode.length * episode.flag, episode.max_x


def furthest(episode: Episode) -> tuple[float, ...]:
    """Return another order of episodes: clears first, then max-x, then the return."""
    return episode.flag, episode.max_x, episode.episode_return


def best_episode(
    episodes: Sequence[Episode], rank: Callable[[Episode], tuple[float, ...]] = fastest_clear
) -> Episode:
    """Return the first of the episodes that rank highest."""
    return max(episodes, key=rank)
