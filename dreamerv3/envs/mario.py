"""Mario as streams of replay rows: what mario_runtime's batched environment lives through.

Same start, stack and reward as every other agent's. Death and the flag are terminal; a time-out
ends an episode too, but not the future that its last state promises.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dreamerv3.replay import row_type
from fastnes.state import RAM_SIZE
from mario_cli import UsageError
from mario_config import EnvConfig
from mario_curriculum import BackwardStarts
from mario_demos import Demo, DemoPlayer
from mario_files import fill
from mario_game import LARGEST_FACTS, GameFacts, read_facts, stages_text
from mario_reward import RewardShaper, reward_signature
from mario_runtime import MarioVectorEnv, observation_space


def mario_row(config: EnvConfig, with_ram: bool = False) -> np.dtype:
    """Return the type of a replay row of this environment, with the machine's RAM or without."""
    channels, height, width = observation_space(config).shape
    ram_bytes = RAM_SIZE if with_ram else 0
    return row_type((channels, height, width), len(GameFacts._fields), ram_bytes)


def replay_contents(config: EnvConfig) -> dict[str, Any]:
    """Return what replay.json says of this environment's rows."""
    return {
        "reward_signature": reward_signature(config),
        "stage": stages_text(config.stages),
        "action_set": config.action_set + ("+long_jump" if config.long_jump_action else ""),
        "frame_skip": config.frame_skip,
        "facts": list(GameFacts._fields),
    } | ({} if config.crop == "none" else {"crop": config.crop})


class FinishedEpisode(NamedTuple):
    """An episode of training as it went."""

    episode_return: float
    length: int  # agent steps
    max_x: int  # px
    flag: bool
    from_start: bool  # it began at its stage's start


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

    def __init__(self, venv: MarioVectorEnv, seed: int = 0, with_ram: bool = False) -> None:
        n = venv.num_envs
        self.venv = venv
        self.with_ram = with_ram  # keep it in the rows
        self.row = mario_row(venv.config, with_ram)
        self.seed = seed
        self.images = np.zeros((n, *self.row["image"].shape), dtype=np.uint8)
        self.actions = np.zeros(n, dtype=np.int64)
        self.is_first = np.ones(n, dtype=bool)
        self.returns, self.lengths = np.zeros(n), np.zeros(n, dtype=np.int64)
        self.episodes: list[FinishedEpisode] = []

    STATE = ("actions", "is_first", "returns", "lengths")

    def reset(self) -> list[np.ndarray]:
        """Begin an episode everywhere; return each stream's first row, [1]."""
        self.images, _ = self.venv.reset(seed=self.seed)
        return list(self._first_rows(np.arange(len(self.images))))

    def _first_rows(self, envs: np.ndarray) -> np.ndarray:
        """Return the rows that begin an episode in each of envs, [len(envs), 1]."""
        rows = np.zeros((len(envs), 1), self.row)
        rows["image"][:, 0], rows["is_first"] = self.images[envs], True
        ram = self.venv.machines.ram_before[envs]
        rows["facts"][:, 0] = np.stack(read_facts(ram), axis=1)
        if self.with_ram:
            rows["ram"][:, 0] = ram
        return rows

    def step(self, actions: np.ndarray) -> list[np.ndarray]:
        """Do one action in each; return each stream's new rows, [1], or [2] where one ended.

        The second is the next episode's first.
        """
        venv, from_start = self.venv, self.venv.from_start.copy()
        self.images, rewards, terminations, truncations, infos = venv.step(actions)
        self.actions, self.is_first = actions, terminations | truncations
        self.returns += rewards
        self.lengths += 1
        rows = np.zeros((len(actions), 1), self.row)
        columns = {"image": self.images, "action": actions, "reward": rewards}
        columns |= {"is_last": self.is_first, "is_terminal": terminations, "frames": venv.frames}
        columns["facts"] = np.stack(venv.facts, axis=1)
        if self.with_ram:
            over = self.is_first[:, None]
            columns["ram"] = np.where(over, venv.last_ram, venv.machines.ram_before)
        for name, column in columns.items():
            rows[name][:, 0] = column
        new = list(rows)
        ended = np.flatnonzero(self.is_first)
        for i, first in zip(ended.tolist(), self._first_rows(ended), strict=True):
            rows["image"][i, 0] = infos["final_obs"][i]
            new[i] = np.concatenate([rows[i], first])
            self._end_episode(i, bool(from_start[i]))
        return new

    def _end_episode(self, i: int, from_start: bool) -> None:
        self.episodes.append(
            FinishedEpisode(
                episode_return=float(self.returns[i]),
                length=int(self.lengths[i]),
                max_x=int(self.venv.max_x[i]),
                flag=bool(self.venv.cleared[i]),
                from_start=from_start,
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
            **{name: getattr(self, name).copy() for name in self.STATE},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            UsageError: it is of other environments.
        """
        venv_state = state["venv"]
        if state.get("curriculum") and isinstance(self.venv.starts, BackwardStarts):
            venv_state = _with_starts(venv_state, state["curriculum"], self.venv.starts)
        self.venv.load_state_dict(venv_state)
        self.images = self.venv.observations
        for name in self.STATE:
            own = np.zeros_like(getattr(self, name))
            most = len(self.venv.buttons) - 1 if name == "actions" else None
            fill(own, state[name], name, None if name == "returns" else 0, most)
            setattr(self, name, own)


def _with_starts(
    venv: dict[str, Any], curriculum: dict[str, Any], starts: BackwardStarts
) -> dict[str, Any]:
    """Return the environments' state of an older version with its curriculum's among it.

    Dreamer had a curriculum of its own then, in which number 0 was the level's start and p + 1 a
    place p.
    """
    [level] = starts.places
    numbers = np.asarray(venv["start_numbers"]).copy()
    numbers = np.where(numbers == 0, level, np.minimum(numbers - 1, level - 1))
    older = {
        "front": np.array([min(curriculum["back"], level)]),
        "tried": np.array([min(len(curriculum["results"]), starts.pace.episodes - 1)]),
        "reached": np.array([sum(curriculum["results"])]),
    }
    return venv | {"start_numbers": numbers, "starts": dict(venv["starts"]) | older}


# --------------------------------------------------------------------------------------------
# Rewards anew, rows of demos
# --------------------------------------------------------------------------------------------


def recompute_rewards(rows: np.ndarray, config: EnvConfig) -> np.ndarray:
    """Return what a stream's rows are paid under config's reward, float32[rows].

    NaN for the rows before the first episode's beginning, whose reward cannot be told.

    Raises:
        UsageError: a row says of the game what no game says.
    """
    said = rows["facts"]
    first = GameFacts(*said[rows["is_first"]].T)
    is_nowhere = (first.world < 1) | (first.world > 8) | (first.stage < 1) | (first.stage > 4)
    if ((said < 0) | (said > LARGEST_FACTS)).any() or is_nowhere.any():
        raise UsageError("the rows hold facts of no game: make them anew")
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


def demo_rows(demo: Demo, config: EnvConfig, with_ram: bool = False) -> tuple[np.ndarray, int]:
    """Return a demo as one episode's rows, and at how many of them no action fits the buttons."""
    player = DemoPlayer(config, demo)
    streams = MarioStreams(player.env, with_ram=with_ram)
    rows = streams.reset()
    unfit = 0
    for action, fits in player.agent_steps():
        unfit += not fits
        [new] = streams.step(np.array([action]))
        rows.append(new[:1])
    rows[-1]["is_last"] = True
    return np.concatenate(rows), unfit
