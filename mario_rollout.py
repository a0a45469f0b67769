"""Play episodes, judge them, film them: the one rollout loop of this project.

A `Policy` is handed in; nothing here knows an agent. An episode is its seed, its protocol and its
actions: the emulator has no randomness of its own, so `film` plays recorded actions again.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import cv2
import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from fastnes import BUTTON_BITS
from mario_cli import UsageError
from mario_config import EnvConfig, buttons_of_actions
from mario_game import FRAMES_PER_SECOND
from mario_runs import atomic_write
from mario_runtime import make_single_env, make_vector_env

ProtocolName = Literal["fixed", "noop", "sticky"]
NOOP_MAX = 30  # as in the Atari literature (Mnih et al. 2015)
STICKY_PROB = 0.25  # Machado et al. 2018
# Protocol: the most no-ops at the start, and the chance that a frame keeps the last buttons.
PROTOCOLS: dict[ProtocolName, tuple[int, float]] = {
    "fixed": (0, 0.0),
    "noop": (NOOP_MAX, 0.0),
    "sticky": (NOOP_MAX, STICKY_PROB),
}

CAPTION_HEIGHT = 32  # px below a screen of twice its size: 512 x 512 in all
CAPTION_COLOR = (24, 24, 32)


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
            previous_actions: int64[n], what was done last; -1 at an episode's start, where a
                policy with memory begins anew, whatever its state says.
            state: what `initial_state` or the last call returned.

        Returns:
            action logits float32[n, n_actions], and the next state.
        """


@runtime_checkable
class Critic(Protocol):
    """A `Policy` that also says what it expects."""

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
    """
    # By failure, a stage would depend on how the episodes went that ended before.
    config = dataclasses.replace(
        config, n_envs=min(config.n_envs, episodes), stage_sampling="uniform"
    )
    env = make_vector_env(config, autoreset=False)
    try:
        seeds = range(seed, seed + episodes)
        return _play_seeds(policy, env, seeds, deterministic, max_steps, on_episode)
    finally:
        env.close()


class _EpisodeUnderWay:
    """What has happened in an environment since its episode began."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.generator = np.random.default_rng([seed, 1])
        self.actions: list[int] = []
        self.episode_return = 0.0

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
        )


def _play_seeds(
    policy: Policy,
    env: VectorEnv,
    seeds: Sequence[int],
    deterministic: bool,
    max_steps: int,
    on_episode: Callable[[Episode], None] | None,
) -> list[Episode]:
    """Play an episode of each seed; an environment that is done begins the next seed at once.

    When no seed is left, it plays its last episode again, and nobody looks.
    """
    n = env.num_envs
    observations, _ = env.reset(seed=seeds[0])
    playing = [_EpisodeUnderWay(seeds[0] + i) for i in range(n)]
    waiting = list(seeds[n:])[::-1]
    previous = np.full(n, -1, dtype=np.int64)
    state = policy.initial_state(n)
    ended: dict[int, Episode] = {}
    while len(ended) < len(seeds):
        logits, state = policy.logits(observations, previous, state)
        previous = select_actions(logits, deterministic, [one.generator for one in playing])
        observations, rewards, terminations, truncations, infos = env.step(previous)
        for one, action, reward in zip(playing, previous.tolist(), rewards.tolist(), strict=True):
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
            playing[i] = _EpisodeUnderWay(waiting.pop() if waiting else episode.seed)
            previous[i] = -1
        next_seeds: Any = [one.seed for one in playing]
        observations, _ = env.reset(seed=next_seeds, options={"reset_mask": over})
    return [ended[seed] for seed in seeds]


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
    value: float | None  # what a `Critic` expects from here on
    probabilities: np.ndarray  # float32[n_actions], of what it does next
    flag: bool
    done: bool
    frames: list[Frame]  # since the moment before, no-ops included, if asked for


class _FrameTap(gym.Wrapper):
    """Keeps every emulated frame that runs through it."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.frames: list[Frame] = []

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        game: Any = self.env.unwrapped
        screen, ram = np.array(self.env.render()), np.array(game.ram, np.uint8)
        self.frames.append(Frame(int(action), screen, ram))
        return result

    def take(self) -> list[Frame]:
        taken, self.frames = self.frames, []
        return taken


def watch(
    policy: Policy,
    config: EnvConfig,
    seed: int,
    *,
    deterministic: bool = False,
    actions: Sequence[int] | None = None,
    every_frame: bool = False,
) -> Iterator[Moment]:
    """Play one episode, the same that `play` plays with this seed, and yield its moments.

    Args:
        policy: who plays.
        config: where, as `play`.
        seed: the episode's.
        deterministic: argmax, or sample from the policy.
        actions: do these instead of what the policy chooses, and stop after them.
        every_frame: fill `Moment.frames`: 60 screens a second instead of 15.
    """
    env = make_single_env(config)
    tap = _FrameTap(env.unwrapped)
    if every_frame:
        innermost: Any = env
        while innermost.env is not env.unwrapped:
            innermost = innermost.env
        innermost.env = tap
    buttons = buttons_of_actions(config)
    generator = np.random.default_rng([seed, 1])
    state = policy.initial_state(1)
    previous, step, done = -1, 0, False
    try:
        observation, info = env.reset(seed=seed)
        while True:
            seen = observation[None]
            logits, state = policy.logits(seen, np.array([previous]), state)
            weights = np.exp(logits[0] - logits[0].max())
            yield Moment(
                screen=np.array(env.render()),
                step=step,
                x=int(info["x_pos"]),
                buttons=int(buttons[previous]) if step else 0,
                value=float(policy.values(seen, state)[0]) if isinstance(policy, Critic) else None,
                probabilities=weights / weights.sum(),
                flag=bool(info.get("is_success", False)),
                done=done,
                frames=tap.take(),
            )
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
        world=config.stages[0].world,
        stage=config.stages[0].stage,
        episodes=len(episodes),
        deterministic=deterministic,
        seed=seed,
        model=model,
        goal_line_x=config.goal_of(config.stages[0]),
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
        _, info = env.reset(seed=episode.seed)
        yield np.array(env.render())
        for action in episode.actions:
            _, _, _, _, info = env.step(action)
            yield np.array(env.render())
        _check_end(episode, info["x_pos"], info["is_success"])
    finally:
        env.close()


def _check_end(episode: Episode, x: int, flag: bool) -> None:
    if (x, flag) != (episode.end_x, episode.flag):
        raise RuntimeError(f"replay of seed {episode.seed} ended at x {x}, not at {episode.end_x}")


def film_with_captions(episode: Episode, config: EnvConfig, policy: Policy) -> Iterator[np.ndarray]:
    """Yield what `film` does, `with_caption`: uint8[512, 512, 3] each.

    Raises:
        RuntimeError: the replay ended elsewhere than the episode did.
    """
    for moment in watch(policy, config, episode.seed, actions=episode.actions):
        yield with_caption(moment)
    _check_end(episode, moment.x, moment.flag)


def with_caption(moment: Moment) -> np.ndarray:
    """Return the screen twice as large with a strip below, uint8[512, 512, 3].

    The strip says step, x, what the policy expects if it is a `Critic`, and the buttons that led
    here.
    """
    from PIL import Image, ImageDraw  # films are optional: of the extras, not the environment's

    width = 2 * moment.screen.shape[1]
    strip = Image.new("RGB", (width, CAPTION_HEIGHT), CAPTION_COLOR)
    draw = ImageDraw.Draw(strip)
    value = "" if moment.value is None else f"value {moment.value:+.2f}"
    for x, text in ((8, f"step {moment.step}"), (108, f"x {moment.x}"), (198, value)):
        draw.text((x, CAPTION_HEIGHT // 2), text, "white", caption_font(), anchor="lm")
    names = button_names(moment.buttons)
    draw.text((width - 8, CAPTION_HEIGHT // 2), names, "gold", caption_font(), anchor="rm")
    return np.vstack([scaled(moment.screen, width), np.asarray(strip)])


@functools.cache
def caption_font() -> Any:
    """Return the font of `with_caption`, Pillow's own, 18 px."""
    from PIL import ImageFont

    return ImageFont.load_default(size=18)


def button_names(buttons: int) -> str:
    """Return the buttons in a byte as people write them: "right+A+B"."""
    return "+".join(name for name, bit in BUTTON_BITS.items() if buttons & bit)


def game_fps(config: EnvConfig) -> float:
    """Return how many agent steps a second the game itself runs at."""
    return FRAMES_PER_SECOND / config.frame_skip


def scaled(frame: np.ndarray, max_width: int) -> np.ndarray:
    """Return uint8[h, w, 3] as wide as max_width allows, both sides even (H.264 wants that).

    Larger by whole factors, so that pixels stay pixels; smaller by the mean of the area covered.
    """
    height, width = frame.shape[:2]
    if factor := max_width // width:
        return frame.repeat(factor, axis=0).repeat(factor, axis=1)
    even_width = max_width // 2 * 2
    size = (even_width, round(height * even_width / width / 2) * 2)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def write_video(
    path: Path,
    frames: Iterator[np.ndarray] | Sequence[np.ndarray],
    fps: float,
    max_width: int = 512,
) -> int:
    """Write RGB frames as H.264 mp4 (or GIF, by the suffix), and return how many there were.

    Args:
        path: replaced as a whole when the film is complete.
        frames: uint8[h, w, 3] each, with h and w even.
        fps: frames a second; a GIF, which counts in hundredths of a second, keeps to it on average.
        max_width: px, at least 16; frames are `scaled` to it.
    """
    count = 0

    def sized() -> Iterator[np.ndarray]:
        nonlocal count
        for frame in frames:
            count += 1
            yield scaled(frame, max_width)

    def write_gif(temporary: Path) -> None:
        from PIL import Image

        first, *others = [Image.fromarray(frame).quantize(256) for frame in sized()]
        ends = [round(100 * i / fps) for i in range(count + 1)]
        durations_ms = [10 * (end - begin) for begin, end in itertools.pairwise(ends)]
        first.save(temporary, save_all=True, append_images=others, duration=durations_ms, loop=0)

    def write_mp4(temporary: Path) -> None:
        import imageio.v2 as imageio

        with imageio.get_writer(
            temporary, fps=fps, codec="libx264", quality=7, macro_block_size=2
        ) as writer:
            for frame in sized():
                writer.append_data(frame)  # type: ignore[attr-defined]

    atomic_write(path, write_gif if path.suffix == ".gif" else write_mp4)
    return count
