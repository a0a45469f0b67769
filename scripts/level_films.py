"""Film shipped policies at the game's own pace: one level, or all of them side by side in a grid.

    python scripts/level_films.py --stages 1-1 --output docs/images/play.webp
    python scripts/level_films.py --output docs/films/levels.mp4

Each policy plays the first seed with which it clears its level, with 1-30 random no-ops at the
start (docs/protocol.md); seeds that it does not clear are counted and said.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import tyro
from PIL import Image, ImageDraw

from mario_cli import Failure, UsageError, exit_code, with_stages_flag
from mario_config import StagesFlag, in_process
from mario_game import FRAMES_PER_SECOND, STAGES, StageId
from mario_judge import protocol_config
from mario_policies import load_policy, shipped_model
from mario_rollout import play, watch_again
from mario_video import CAPTION_FONT, write_video

ENDING_S = 2.0  # how long the last picture stays


@dataclasses.dataclass(frozen=True)
class FilmFlags:
    """Which levels, where the film goes, how large and how smooth it is."""

    output: Path
    """An .mp4, .webp or .gif."""
    stages: StagesFlag = ()
    """Unset: every stage of which a policy is shipped."""
    frame_every: int = 2
    """Of so many frames of the game one is filmed: 1 is 60 a second, 2 is 30."""
    tile_width: int = 256
    """Px of a level in the film; the screen has 256."""
    columns: int = 0
    """Levels beside each other. 0: as many as make the grid about twice as wide as high."""
    seeds: int = 32
    """Episodes that a policy may try until one clears."""
    deterministic: bool = True
    """Argmax of the policy; --no-deterministic samples from it."""


def cleared_screens(stage: StageId, flags: FilmFlags) -> list[np.ndarray]:
    """Return a shipped policy's clear of its stage, uint8[240, 256, 3] each, every so many.

    Raises:
        Failure: none of its episodes clears.
    """
    model = shipped_model(stage)
    if model is None:
        raise UsageError(f"no policy of {stage} is shipped under pretrained/")
    policy = load_policy(model)
    config = protocol_config(in_process(policy.env_config), "noop")
    for seed in range(flags.seeds):
        episode = play(policy, config, 1, deterministic=flags.deterministic, seed=seed)[0]
        if episode.flag:
            break
    else:
        raise Failure(f"{stage}: none of {flags.seeds} episodes clears")
    print(f"{stage}: seed {seed} clears in {episode.length} agent steps", flush=True)
    moments = watch_again(policy, config, episode, every_frame=True)
    screens = [frame.screen for moment in moments for frame in moment.frames]
    return screens[:: flags.frame_every]


def labelled(screen: np.ndarray, label: str, width: int) -> np.ndarray:
    """Return a screen as a tile, uint8[h, width, 3], with its level's name in a corner."""
    height = round(screen.shape[0] * width / screen.shape[1] / 2) * 2
    tile = screen
    if width != screen.shape[1]:
        tile = cv2.resize(screen, (width, height), interpolation=cv2.INTER_AREA)
    picture = Image.fromarray(tile)
    ImageDraw.Draw(picture).text(
        (6, height - 6), label, "white", CAPTION_FONT, "lb", stroke_width=2, stroke_fill="black"
    )
    return np.asarray(picture)


def grid(films: Sequence[tuple[str, list[np.ndarray]]], flags: FilmFlags) -> Iterator[np.ndarray]:
    """Yield the frames of films side by side; each stands still, darker, when it has ended."""
    columns = flags.columns or math.ceil(math.sqrt(2 * len(films)))
    length = max(len(screens) for _, screens in films) + round(
        ENDING_S * FRAMES_PER_SECOND / flags.frame_every
    )
    for i in range(length):
        tiles = []
        for label, screens in films:
            tile = labelled(screens[min(i, len(screens) - 1)], label, flags.tile_width)
            tiles.append(tile // 2 if i >= len(screens) and len(films) > 1 else tile)
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
        rows = [np.hstack(tiles[at : at + columns]) for at in range(0, len(tiles), columns)]
        yield np.vstack(rows)


def run(flags: FilmFlags) -> None:
    """Play, and write the film."""
    if flags.frame_every < 1:
        raise UsageError("--frame-every must be at least 1")
    if flags.tile_width < 16 or flags.tile_width % 2:
        raise UsageError("--tile-width must be even and at least 16")
    if flags.output.suffix not in (".mp4", ".webp", ".gif"):
        raise UsageError("--output must end in .mp4, .webp or .gif")
    stages = flags.stages or tuple(stage for stage in STAGES if shipped_model(stage))
    names = [str(stage) if len(stages) > 1 else "" for stage in stages]
    screens = [cleared_screens(stage, flags) for stage in stages]
    columns = flags.columns or math.ceil(math.sqrt(2 * len(stages)))
    width = flags.tile_width * columns
    films = list(zip(names, screens, strict=True))
    fps = FRAMES_PER_SECOND / flags.frame_every
    count = write_video(flags.output, grid(films, flags), fps, width)
    size = flags.output.stat().st_size
    print(f"{flags.output}: {count} frames at {fps:.0f} a second, {size / 1e6:.1f} MB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and film."""
    given = sys.argv[1:] if arguments is None else arguments

    def task() -> None:
        run(tyro.cli(FilmFlags, args=with_stages_flag(given), description=__doc__))

    return exit_code(task)


if __name__ == "__main__":
    sys.exit(main())
