"""The best episode of a run's replay as the agent saw it: best.mp4 and best.gif in the run folder.

    python dreamerv3/render_best.py logs/run

For the game's own picture of the best model: render_best_checkpoint.py --model logs/run.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

from dreamerv3.episodes import best_first, open_run, stored_episodes
from mario_cli import UsageError, exit_code
from mario_rollout import game_fps
from mario_values import Checked, parse_flags
from mario_video import write_video

ZOOM = 4  # a 64 px screen is a stamp


@dataclasses.dataclass(frozen=True)
class RenderFlags(Checked):
    """Which run."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    output_dir: Path | None = None
    """Unset: the run folder."""


def render(flags: RenderFlags) -> None:
    """Find the best episode that began at the level's start, and film it."""
    config, replay = open_run(flags.run)
    episodes = list(stored_episodes(replay))
    if not episodes:
        raise UsageError(f"{flags.run} holds no finished episode yet")
    best = best_first(episodes)[0]
    screens = replay.read(best.stream, best.first, best.length)["image"][:, -1]  # [T, H, W]
    frames = [
        np.repeat(screen[..., None], 3, axis=2).repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
        for screen in screens
    ]
    output = flags.output_dir or flags.run
    for name in ("best.mp4", "best.gif"):
        write_video(output / name, frames, game_fps(config.env))
    goal = config.env.goal_of(config.env.stages[0])
    print(
        f"max-x {best.max_x} of {goal} in {best.length - 1} steps"
        f"{', flag' if best.flag else ''}: {output / 'best.mp4'}, {output / 'best.gif'}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and render."""
    return exit_code(lambda: render(parse_flags(RenderFlags, arguments, __doc__.split("\n\n")[0])))


if __name__ == "__main__":
    sys.exit(main())
