"""The best episode of a run's replay, the real screen beside what the agent saw of it.

    python dreamerv3/render_best.py runs/dreamer

Writes best.mp4 and best.gif into the run folder; a model that tells things has them drawn in. For
the game's own picture of the best model: render_best_checkpoint.py --model runs/dreamer.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

from dreamerv3.episodes import best_first, open_run, stored_episodes
from dreamerv3.pictures import (
    Told,
    as_panel,
    as_rgb,
    can_show_screens,
    draw_things,
    states_of,
    told_of,
    views_of,
)
from dreamerv3.policy import policy_from_tensors
from mario_checkpoints import find_model, read_model_zip
from mario_cli import UsageError, exit_code
from mario_rollout import game_fps
from mario_runs import BadModelFile
from mario_values import Checked, parse_flags
from mario_video import write_video


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
    rows = replay.read(best.stream, best.first, best.length)
    views = views_of(rows, config.env) if can_show_screens(config.env) else None
    told = told_along(flags.run, rows) if views else None
    frames = []
    for t, picture in enumerate(as_rgb(rows["image"], config.env)):
        panels = [as_panel(picture)]
        if views:
            screen = views.screens[t]
            panels.insert(0, draw_things(screen, told, t, views.left[t]) if told else screen)
        frames.append(np.concatenate(panels, axis=1))
    output = flags.output_dir or flags.run
    for name in ("best.mp4", "best.gif"):
        write_video(output / name, frames, game_fps(config.env))
    goal = config.env.goal_of(config.env.stages[0])
    print(
        f"max-x {best.max_x} of {goal} in {best.length - 1} steps"
        f"{', flag' if best.flag else ''}: {output / 'best.mp4'}, {output / 'best.gif'}"
    )


def told_along(run: Path, rows: np.ndarray) -> Told | None:
    """Return what a run's model tells along an episode that it sees; None: it tells nothing."""
    try:
        model = find_model(run)
    except BadModelFile:
        return None
    agent = policy_from_tensors(*read_model_zip(model), str(model)).agent
    return told_of(agent, states_of(agent, rows, len(rows)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and render."""
    return exit_code(lambda: render(parse_flags(RenderFlags, arguments, __doc__.split("\n\n")[0])))


if __name__ == "__main__":
    sys.exit(main())
