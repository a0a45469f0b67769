"""The episodes that a run's replay holds, and which of them were best."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamerv3.envs.mario import mario_row, replay_contents
from dreamerv3.flags import DreamerConfig, config_from_dict
from dreamerv3.replay import Replay
from mario_cli import UsageError
from mario_game import GameFacts, has_cleared
from mario_runs import RunFolder


class StoredEpisode(NamedTuple):
    """An episode in the replay, from its first row to its last."""

    stream: int
    first: int  # row of the stream
    length: int  # rows; agent steps + 1
    episode_return: float
    start_x: int  # px
    end_x: int
    max_x: int
    flag: bool
    dead: bool


def stored_episodes(replay: Replay) -> Iterator[StoredEpisode]:
    """Yield the finished episodes of a replay, stream by stream."""
    for stream in range(len(replay.end)):
        rows = replay.without_images(stream)
        for first in np.flatnonzero(rows["is_first"]):
            lasts = np.flatnonzero(rows["is_last"][first:])
            if not len(lasts):
                break
            episode = rows[first : first + lasts[0] + 1]
            facts = GameFacts(*episode["facts"].T)
            facts = facts._replace(flag_get=facts.flag_get != 0, dead=facts.dead != 0)
            cleared = has_cleared(facts, facts.world[0], facts.stage[0])
            yield StoredEpisode(
                stream=stream,
                first=replay.first[stream] + int(first),
                length=len(episode),
                episode_return=float(episode["reward"].sum()),
                start_x=int(facts.x_pos[0]),
                end_x=int(facts.x_pos[-1]),
                max_x=int(facts.x_pos.max()),
                flag=bool(cleared[-1]),
                dead=bool(facts.dead[-1]),
            )


def best_first(episodes: Sequence[StoredEpisode]) -> list[StoredEpisode]:
    """Return episodes from the level's start, clears in few steps first, then the furthest."""
    start_x = min(episode.start_x for episode in episodes)
    from_start = [episode for episode in episodes if episode.start_x == start_x]
    return sorted(from_start, key=lambda e: (not e.flag, e.length if e.flag else -e.max_x))


def open_run(run: Path) -> tuple[DreamerConfig, Replay]:
    """Return a run's config and its replay, which is only read.

    Raises:
        UsageError: it is not a DreamerV3 run, or has no replay.
    """
    folder = RunFolder(run)
    if not folder.config_path.is_file():
        raise UsageError(f"{run} holds no train_config.json")
    config = config_from_dict(read_config(folder.config_path))
    env = config.env
    replay = Replay(
        run / "replay",
        mario_row(env, config.keeps_ram),
        replay_contents(env),
        streams=0,
        length=1,
        read_only=True,
    )
    return config, replay


def read_config(path: Path) -> dict[str, Any]:
    """Return a train_config.json's content.

    Raises:
        UsageError: it is not JSON.
        OSError: it cannot be read.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
