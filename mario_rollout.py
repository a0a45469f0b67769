"""Play episodes, judge them, film them: the one rollout loop of this project.

A `Policy` is handed in; nothing here knows an agent. An episode is its seed, its protocol and its
actions: the emulator has no randomness of its own, so `film` plays recorded actions again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import imageio.v2 as imageio
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from mario_runtime import FRAMES_PER_SECOND, EnvConfig, UsageError, make_single_env, make_vec_env

ProtocolName = Literal["fixed", "noop", "sticky"]
NOOP_MAX = 30  # as in the Atari literature (Mnih et al. 2015)
STICKY_PROB = 0.25  # Machado et al. 2018
# Protocol: the most no-ops at the start, and the chance that a frame keeps the last buttons.
PROTOCOLS: dict[ProtocolName, tuple[int, float]] = {
    "fixed": (0, 0.0),
    "noop": (NOOP_MAX, 0.0),
    "sticky": (NOOP_MAX, STICKY_PROB),
}


class Policy(Protocol):
    """What can play: logits from observations, with a state it may carry from step to step."""

    env_config: EnvConfig

    def initial_state(self, n: int) -> Any:
        """Return the state of n fresh episodes (None for a policy without memory)."""

    def logits(
        self, observations: np.ndarray, previous_actions: np.ndarray, state: Any
    ) -> tuple[np.ndarray, Any]:
        """Return what to do next, and the state to carry on.

        Args:
            observations: uint8[n, frame_stack, screen_size, screen_size].
            previous_actions: int64[n], what was done last; -1 at an episode's start.
            state: what `initial_state` or the last call returned.

        Returns:
            action logits float32[n, n_actions], and the next state.
        """


class RandomPolicy:
    """Every action alike: what a policy has to beat."""

    def __init__(self, env_config: EnvConfig, n_actions: int) -> None:
        self.env_config = env_config
        self.n_actions = n_actions

    def initial_state(self, n: int) -> None:
        return None

    def logits(
        self, observations: np.ndarray, previous_actions: np.ndarray, state: None
    ) -> tuple[np.ndarray, None]:
        return np.zeros((len(observations), self.n_actions), dtype=np.float32), None


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode as it went."""

    seed: int
    actions: tuple[int, ...]
    episode_return: float
    max_x: int  # px, the furthest in any area
    flag: bool
    end_x: int  # px, where it ended
    truncated: bool  # cut off by a step limit, neither dead nor cleared

    @property
    def length(self) -> int:
        """Agent steps."""
        return len(self.actions)


def protocol_config(config: EnvConfig, protocol: ProtocolName) -> EnvConfig:
    """Return config as a protocol starts and disturbs it.

    `fixed`: the one deterministic start; `noop`: 1-30 random frames without buttons first;
    `sticky`: noop, and each emulated frame keeps the last buttons with probability 0.25.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"no protocol {protocol!r}; there are: {', '.join(PROTOCOLS)}")
    noop_max, sticky_prob = PROTOCOLS[protocol]
    return dataclasses.replace(config, noop_max=noop_max, sticky_prob=sticky_prob)


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
    max_steps: int = 0,
    on_episode: Callable[[Episode], None] | None = None,
    venv: VecEnv | None = None,
) -> list[Episode]:
    """Play episodes, `config.n_envs` side by side; episode i has the seed `seed + i`.

    Args:
        policy: who plays.
        config: where; its noop_max and sticky_prob are the protocol's (`protocol_config`).
        episodes: how many.
        deterministic: argmax, or sample from the policy.
        seed: an episode's no-ops, sticky frames and action samples all come from its seed, so
            it is the same whoever plays beside it.
        max_steps: agent steps after which an episode is cut off as truncated; 0 is never.
        on_episode: called as each episode ends, for progress.
        venv: environments to play in; without, they are made and closed here.
    """
    own = venv is None
    if venv is None:
        venv = make_vec_env(dataclasses.replace(config, n_envs=min(config.n_envs, episodes)))
    try:
        played: list[Episode] = []
        while len(played) < episodes:
            count = min(venv.num_envs, episodes - len(played))
            first_seed = seed + len(played)
            played += _play_chunk(
                policy, venv, first_seed, count, deterministic, max_steps, on_episode
            )
        return played
    finally:
        if own:
            venv.close()


def _play_chunk(
    policy: Policy,
    venv: VecEnv,
    seed: int,
    count: int,
    deterministic: bool,
    max_steps: int,
    on_episode: Callable[[Episode], None] | None,
) -> list[Episode]:
    """Play the first episode of each of the first count environments; the others idle along."""
    n = venv.num_envs
    venv.seed(seed)
    observations = venv.reset()
    generators = [np.random.default_rng([seed + i, 1]) for i in range(n)]
    chosen = np.full(n, -1, dtype=np.int64)
    state = policy.initial_state(n)
    returns = np.zeros(n)
    actions: list[list[int]] = [[] for _ in range(n)]
    episodes: dict[int, Episode] = {}
    while len(episodes) < count:
        logits, state = policy.logits(np.asarray(observations), chosen, state)
        chosen = select_actions(logits, deterministic, generators)
        observations, rewards, dones, infos = venv.step(chosen)
        for i in range(count):
            if i in episodes:
                continue
            info = infos[i]
            actions[i].append(int(chosen[i]))
            returns[i] += rewards[i]
            cut_off = bool(max_steps) and len(actions[i]) >= max_steps and not dones[i]
            if dones[i] or cut_off:
                episodes[i] = Episode(
                    seed=seed + i,
                    actions=tuple(actions[i]),
                    episode_return=float(returns[i]),
                    max_x=int(info["max_x"]),
                    flag=bool(info["flag_get"]),
                    end_x=int(info["x_pos"]),
                    truncated=cut_off or bool(info.get("TimeLimit.truncated", False)),
                )
                if on_episode:
                    on_episode(episodes[i])
    return [episodes[i] for i in range(count)]


# --------------------------------------------------------------------------------------------
# Judging
# --------------------------------------------------------------------------------------------


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a rate (Wilson 1927); (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    rate = successes / n
    center = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, center - half), min(1.0, center + half)


@dataclasses.dataclass(frozen=True)
class Summary:
    """What an evaluation found; the fields of summary.json."""

    protocol: str
    emulator: str
    world: int
    stage: int
    episodes: int
    deterministic: bool
    seed: int
    model: str
    goal_line_x: int
    flags_cleared: int
    clear_rate: float
    clear_rate_ci95: tuple[float, float]
    median_max_x: float
    best_max_x: int
    best_clear_steps: int | None
    median_clear_steps: float | None
    mean_return: float
    episode_flags: list[bool]
    episode_lengths: list[int]
    episode_returns: list[float]
    max_x_positions: list[int]
    end_x_positions: list[int]
    note: str = ""

    @property
    def rank(self) -> tuple[float, float, float]:
        """What the best model has most of: clear rate, then median max-x, then few steps."""
        return self.clear_rate, self.median_max_x, -(self.median_clear_steps or 0.0)


def summarize(
    episodes: Sequence[Episode],
    config: EnvConfig,
    *,
    protocol: str,
    deterministic: bool,
    seed: int,
    model: str,
    note: str = "",
) -> Summary:
    """Return the `Summary` of episodes played under config."""
    flags = [episode.flag for episode in episodes]
    clears = [episode.length for episode in episodes if episode.flag]
    return Summary(
        protocol=protocol,
        emulator=config.emulator,
        world=config.world,
        stage=config.stage,
        episodes=len(episodes),
        deterministic=deterministic,
        seed=seed,
        model=model,
        goal_line_x=config.goal,
        flags_cleared=sum(flags),
        clear_rate=sum(flags) / len(flags),
        clear_rate_ci95=wilson_interval(sum(flags), len(flags)),
        median_max_x=float(np.median([episode.max_x for episode in episodes])),
        best_max_x=max(episode.max_x for episode in episodes),
        best_clear_steps=min(clears, default=None),
        median_clear_steps=float(np.median(clears)) if clears else None,
        mean_return=float(np.mean([episode.episode_return for episode in episodes])),
        episode_flags=flags,
        episode_lengths=[episode.length for episode in episodes],
        episode_returns=[round(episode.episode_return, 4) for episode in episodes],
        max_x_positions=[episode.max_x for episode in episodes],
        end_x_positions=[episode.end_x for episode in episodes],
        note=note,
    )


def evaluate(
    policy: Policy,
    config: EnvConfig,
    *,
    protocol: ProtocolName,
    episodes: int,
    deterministic: bool,
    seed: int = 0,
    max_steps: int = 0,
    model: str = "",
    on_episode: Callable[[Episode], None] | None = None,
    venv: VecEnv | None = None,
) -> tuple[Summary, list[Episode]]:
    """Play under a protocol, episode i with seed + i, and summarize.

    A deterministic policy under `fixed` has one trajectory however often it is run, so it is run
    once, and the summary's note says so.

    Raises:
        UsageError: no such protocol, or fewer than one episode.
    """
    if episodes < 1:
        raise UsageError(f"episodes must be at least 1, not {episodes}")
    note = ""
    if protocol == "fixed" and deterministic and episodes > 1:
        note = f"one deterministic start and argmax: 1 episode instead of {episodes} copies of it"
        episodes = 1
    played_config = protocol_config(config, protocol)
    played = play(
        policy,
        played_config,
        episodes,
        deterministic=deterministic,
        seed=seed,
        max_steps=max_steps,
        on_episode=on_episode,
        venv=venv,
    )
    summary = summarize(
        played,
        played_config,
        protocol=protocol,
        deterministic=deterministic,
        seed=seed,
        model=model,
        note=note,
    )
    return summary, played


def best_episode(episodes: Sequence[Episode]) -> Episode:
    """Return the episode to show: a clear in the fewest steps, else the furthest."""
    return max(
        episodes, key=lambda episode: (episode.flag, -episode.length * episode.flag, episode.max_x)
    )


# --------------------------------------------------------------------------------------------
# Video
# --------------------------------------------------------------------------------------------


def film(episode: Episode, config: EnvConfig) -> Iterator[np.ndarray]:
    """Yield the full screens of an episode played again, uint8[240, 256, 3] each, start included.

    Raises:
        RuntimeError: the replay ended elsewhere than the episode did.
    """
    env = make_single_env(config)
    try:
        env.reset(seed=episode.seed)
        yield np.array(env.render())
        info: dict[str, Any] = {}
        for action in episode.actions:
            _, _, _, _, info = env.step(action)
            yield np.array(env.render())
        if (info["x_pos"], info["flag_get"]) != (episode.end_x, episode.flag):
            raise RuntimeError(
                f"replay of seed {episode.seed} ended at x {info['x_pos']}, not at {episode.end_x}"
            )
    finally:
        env.close()


def game_fps(config: EnvConfig) -> float:
    """Return how many agent steps a second the game itself runs at."""
    return FRAMES_PER_SECOND / config.frame_skip


def write_video(path: Path, frames: Iterator[np.ndarray] | Sequence[np.ndarray], fps: float) -> int:
    """Write RGB frames as H.264 mp4 (or GIF, by the suffix) and return how many there were.

    Frames are doubled in size, without smoothing, so that a player shows pixels as pixels.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"fps": fps}
    if path.suffix != ".gif":
        options |= {"codec": "libx264", "quality": 7, "macro_block_size": 16}
    count = 0
    with imageio.get_writer(path, **options) as writer:
        for frame in frames:
            writer.append_data(frame.repeat(2, axis=0).repeat(2, axis=1))  # type: ignore[attr-defined]
            count += 1
    return count
