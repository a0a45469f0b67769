"""Mario as streams of replay rows: what mario_runtime's batched environment lives through.

Same start, stack and reward as every other agent's. Death and the flag are terminal; a time-out
ends an episode too, but not the future that its last state promises. Episodes may start along a
demo instead of at the level's start (`BackwardCurriculum`).
"""

from __future__ import annotations

import dataclasses
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamerv3.replay import row_type
from fastnes.ram import PLAYER_X, PLAYER_X_PAGE
from mario_cli import UsageError
from mario_config import EnvConfig
from mario_demos import Demo, DemoPlayer, Waypoint, load_demo, snapshots
from mario_game import GameFacts, read_facts, stages_text
from mario_reward import RewardShaper, reward_signature
from mario_runtime import MarioVectorEnv, observation_space
from mario_starts import StageStarts, Start


def mario_row(config: EnvConfig) -> np.dtype:
    """Return the type of a replay row of this environment."""
    channels, height, width = observation_space(config).shape
    return row_type((channels, height, width), len(GameFacts._fields))


def replay_contents(config: EnvConfig) -> dict[str, Any]:
    """Return what replay.json says of this environment's rows."""
    return {
        "reward_signature": reward_signature(config),
        "stage": stages_text(config.stages),
        "action_set": config.action_set + ("+long_jump" if config.long_jump_action else ""),
        "frame_skip": config.frame_skip,
        "facts": list(GameFacts._fields),
    }


class FinishedEpisode(NamedTuple):
    """An episode of training as it went."""

    episode_return: float
    length: int  # agent steps
    max_x: int  # px
    flag: bool
    place: int  # where it began: places before the demo's end; -1 is the level's start


# --------------------------------------------------------------------------------------------
# Backward curriculum
# --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CurriculumConfig:
    """Starts along demos, from the goal backward (Salimans and Chen 2018, arXiv:1812.03381)."""

    backward_demos: Path | None = None
    """A demo file or a folder of them. Unset: every episode begins at the level's start."""
    backward_share: float = 0.5
    """Share of episodes that begin along a demo, until its start is reached."""
    backward_steps: int = 8
    """Agent steps between two places of a demo."""
    backward_window: int = 3
    """Places, from the furthest back toward the goal, that episodes begin at."""
    backward_episodes: int = 20
    """Episodes, begun in the window, that the clear rate is taken of."""
    backward_threshold: float = 0.5
    """Clear rate from which the window moves back by one place."""


class BackwardCurriculum:
    """Chooses where an episode begins, and moves back as places are mastered.

    Places are counted from a demo's end: place 0 is the last one before the goal. All demos share
    one count.
    """

    def __init__(self, config: CurriculumConfig, env: EnvConfig) -> None:
        """Read the demos and make their snapshots.

        Raises:
            UsageError: no demo, one of another stage, or one that does not clear it.
        """
        assert config.backward_demos
        self.config = config
        self.demos: list[list[Waypoint]] = []
        for demo in load_demos(config.backward_demos, env):
            if not demo.cleared:
                raise UsageError("a demo for the backward curriculum has to clear the stage")
            places = snapshots(demo, config.backward_steps * env.frame_skip)
            last = demo.frames - 2 * env.frame_skip  # not so near that waiting a frame reaches it
            self.demos.append([p for p in places if demo.noops <= p.frame <= last][::-1])
        self.back = 0  # the furthest place that episodes begin at
        self.results: deque[bool] = deque(maxlen=config.backward_episodes)

    @property
    def finished(self) -> bool:
        """Whether every place of the longest demo is mastered."""
        return self.back >= max(len(places) for places in self.demos)

    @property
    def start_x(self) -> int | None:
        """x in px of the furthest place of the first demo that reaches back so far."""
        for places in self.demos:
            if self.back < len(places):
                ram = places[self.back].state
                return int(ram[PLAYER_X_PAGE]) * 256 + int(ram[PLAYER_X])
        return None

    def choose(self, generator: np.random.Generator) -> tuple[int, Waypoint | None]:
        """Return a place and its snapshot; -1 and None for the level's start."""
        if self.finished or generator.random() >= self.config.backward_share:
            return -1, None
        demos = [places for places in self.demos if len(places) > self.back]
        place = int(
            generator.integers(max(0, self.back + 1 - self.config.backward_window), self.back + 1)
        )
        return place, demos[int(generator.integers(len(demos)))][place]

    def ended(self, place: int, cleared: bool) -> None:
        """Count an episode that began at a place."""
        if place <= self.back - self.config.backward_window:
            return  # begun before the window moved on
        self.results.append(cleared)
        full = len(self.results) == self.config.backward_episodes
        if full and np.mean(self.results) >= self.config.backward_threshold:
            self.back += 1
            self.results.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` goes on from."""
        return {"back": self.back, "results": list(self.results)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.back = state["back"]
        self.results.clear()
        self.results.extend(state["results"])


def load_demos(path: Path, env: EnvConfig) -> list[Demo]:
    """Return the demos of env's stage in a file or a folder, by name.

    Raises:
        UsageError: there are none, or the file named is of another stage.
    """
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    [stage] = env.stages
    demos = [demo for demo in map(load_demo, files) if (demo.world, demo.stage) == stage]
    if not demos:
        raise UsageError(f"{path} holds no demo of {stage}")
    return demos


class CurriculumStarts(StageStarts):
    """The level's start as number 0, and a curriculum's place p as number p + 1."""

    def __init__(self, config: EnvConfig, curriculum: BackwardCurriculum) -> None:
        super().__init__(config)
        self.curriculum = curriculum

    def draw(self, generator: np.random.Generator) -> Start:
        place, waypoint = self.curriculum.choose(generator)
        if waypoint is None:
            return super().draw(generator)
        return Start(waypoint.state, waypoint.screen, place + 1, at_level_start=False)

    def count(self, number: int, cleared: bool) -> None:
        if number:
            self.curriculum.ended(number - 1, cleared)
        else:
            super().count(number, cleared)


class MarioFromPlaces(MarioVectorEnv):
    """The batched environment, whose episodes may begin along a demo."""

    def __init__(self, config: EnvConfig, curriculum: BackwardCurriculum | None = None) -> None:
        super().__init__(
            config, starts=CurriculumStarts(config, curriculum) if curriculum else None
        )
        self.curriculum = curriculum


# --------------------------------------------------------------------------------------------
# Streams
# --------------------------------------------------------------------------------------------


class MarioStreams:
    """n environments, stepped together, as n streams of rows.

    Attributes:
        images: uint8[n, C, H, W], what each sees now.
        actions: int64[n], what each did last.
        is_first: bool[n], whether an episode begins here, so that actions is not read.
        episodes: finished since the last `take_episodes`.
    """

    def __init__(self, venv: MarioVectorEnv, seed: int = 0) -> None:
        n = venv.num_envs
        self.venv = venv
        self.row = mario_row(venv.config)
        self.seed = seed
        self.images = np.zeros((n, *self.row["image"].shape), dtype=np.uint8)
        self.actions = np.zeros(n, dtype=np.int64)
        self.is_first = np.ones(n, dtype=bool)
        self.returns, self.lengths = np.zeros(n), np.zeros(n, dtype=np.int64)
        self.episodes: list[FinishedEpisode] = []

    STATE = ("actions", "is_first", "returns", "lengths")

    @property
    def curriculum(self) -> BackwardCurriculum | None:
        """Where episodes begin, if not at the level's start."""
        return getattr(self.venv, "curriculum", None)

    def reset(self) -> list[np.ndarray]:
        """Begin an episode everywhere; return each stream's first row, [1]."""
        self.images, _ = self.venv.reset(seed=self.seed)
        return list(self._first_rows(np.arange(len(self.images))))

    def _first_rows(self, envs: np.ndarray) -> np.ndarray:
        """Return the rows that begin an episode in each of envs, [len(envs), 1]."""
        rows = np.zeros((len(envs), 1), self.row)
        rows["image"][:, 0], rows["is_first"] = self.images[envs], True
        facts = read_facts(self.venv.machines.ram_before[envs])
        rows["facts"][:, 0] = np.stack(facts, axis=1)
        return rows

    def step(self, actions: np.ndarray) -> list[np.ndarray]:
        """Do one action in each; return each stream's new rows, [1], or [2] where one ended.

        The second is the next episode's first.
        """
        venv, places = self.venv, self.places
        self.images, rewards, terminations, truncations, infos = venv.step(actions)
        self.actions, self.is_first = actions, terminations | truncations
        self.returns += rewards
        self.lengths += 1
        rows = np.zeros((len(actions), 1), self.row)
        columns = {"image": self.images, "action": actions, "reward": rewards}
        columns |= {"is_last": self.is_first, "is_terminal": terminations, "frames": venv.frames}
        columns["facts"] = np.stack(venv.facts, axis=1)
        for name, column in columns.items():
            rows[name][:, 0] = column
        new = list(rows)
        ended = np.flatnonzero(self.is_first)
        for i, first in zip(ended.tolist(), self._first_rows(ended), strict=True):
            rows["image"][i, 0] = infos["final_obs"][i]
            new[i] = np.concatenate([rows[i], first])
            self._end_episode(i, int(places[i]))
        return new

    @property
    def places(self) -> np.ndarray:
        """Where each episode began, int64[n]; -1 is the level's start."""
        return np.where(self.venv.from_start, -1, self.venv.start_numbers - 1)

    def _end_episode(self, i: int, place: int) -> None:
        self.episodes.append(
            FinishedEpisode(
                episode_return=float(self.returns[i]),
                length=int(self.lengths[i]),
                max_x=int(self.venv.max_x[i]),
                flag=bool(self.venv.cleared[i]),
                place=place,
            )
        )
        self.returns[i], self.lengths[i] = 0.0, 0

    def take_episodes(self) -> list[FinishedEpisode]:
        """Return the episodes that ended since the last call."""
        taken, self.episodes = self.episodes, []
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        return {
            "venv": self.venv.state_dict(),
            "curriculum": self.curriculum.state_dict() if self.curriculum else None,
            **{name: getattr(self, name).copy() for name in self.STATE},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            UsageError: it is of other environments.
        """
        self.venv.load_state_dict(state["venv"])
        self.images = self.venv.observations
        if self.curriculum and state["curriculum"]:
            self.curriculum.load_state_dict(state["curriculum"])
        for name in self.STATE:
            setattr(self, name, np.asarray(state[name]).copy())


# --------------------------------------------------------------------------------------------
# Rewards anew, rows of demos
# --------------------------------------------------------------------------------------------


def recompute_rewards(rows: np.ndarray, config: EnvConfig) -> np.ndarray:
    """Return what a stream's rows are paid under config's reward, float32[rows].

    NaN for the rows before the first episode's beginning, whose reward cannot be told.
    """
    rewards = np.full(len(rows), np.nan, dtype=np.float32)
    shaper = RewardShaper(config)
    begun = False
    for t, (is_first, frames, row) in enumerate(
        zip(rows["is_first"], rows["frames"], rows["facts"], strict=True)
    ):
        columns = [np.array([value]) for value in row.astype(np.int64)]
        facts = GameFacts(*columns[:-2], *(column.astype(bool) for column in columns[-2:]))
        if is_first:
            shaper.reset(facts)
            rewards[t] = 0.0
            begun = True
        elif begun:
            rewards[t] = shaper.step(facts, np.array([frames], dtype=np.int64))[0][0]
    return rewards


def demo_rows(demo: Demo, config: EnvConfig) -> tuple[np.ndarray, int]:
    """Return a demo as one episode's rows, and at how many of them no action fits the buttons."""
    player = DemoPlayer(config, demo)
    streams = MarioStreams(player.env)
    rows = streams.reset()
    unfit = 0
    for action, fits in player.agent_steps():
        unfit += not fits
        [new] = streams.step(np.array([action]))
        rows.append(new[:1])
    rows[-1]["is_last"] = True
    return np.concatenate(rows), unfit
