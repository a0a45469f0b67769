"""Film shipped policies at the game's own pace: one level, or several side by side in a grid.

    python scripts/level_films.py --output docs/films/levels.mp4
    python scripts/level_films.py --models pretrained/ppo_mario_1-1 pretrained/dreamerv3_mario_1-1
        --titles PPO DreamerV3 --output docs/images/play.webp

Each policy plays the first seed with which it clears its level, with 1-30 random no-ops at the
start (docs/protocol.md), and says which one that was.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import pydantic
from PIL import Image, ImageDraw

from mario_cli import Failure, UsageError, exit_code, with_stages_flag
from mario_config import StagesFlag, in_process
from mario_game import FRAMES_PER_SECOND, STAGES, StageId
from mario_judge import protocol_config
from mario_policies import load_policy, shipped_model
from mario_rollout import in_stages, play, watch_again
from mario_values import Amount, Checked, Count, parse_flags
from mario_video import CAPTION_FONT, write_video

QUALITY = 4  # of 10: many small pictures
ENDING_S = 2.0  # how long the last picture stays


@dataclasses.dataclass(frozen=True)
class FilmFlags(Checked):
    """Which levels, where the film goes, how large and how smooth it is."""

    output: Path
    """An .mp4, .webp or .gif."""
    stages: StagesFlag = ()
    """The shipped policies of these. Unset: of every stage that has one."""
    models: tuple[Path, ...] = ()
    """Other models than the shipped ones, each in the first stage that it was trained in."""
    titles: tuple[str, ...] = ()
    """What stands in the corner of each. Unset: its stage."""
    frame_every: Annotated[int, pydantic.Field(ge=1, le=60)] = 2
    """Of so many frames of the game one is filmed: 1 is 60 a second, 2 is 30."""
    tile_width: Annotated[int, pydantic.Field(ge=16, le=4096)] = 160
    """Px of a level in the film; the screen has 256."""
    columns: Amount = 0
    """Levels beside each other. 0: as many as make the grid about twice as wide as high."""
    seeds: Count = 32
    """Episodes that a policy may try until one clears."""
    deterministic: bool = True
    """Argmax of the policy; --no-deterministic samples from it."""


def cleared_tiles(model: Path, title: str | None, flags: FilmFlags) -> list[np.ndarray]:
    """Return a policy's clear of its stage as tiles, uint8[h, tile_width, 3], every so many.

    Whole screens of all levels would be 7 GB.

    Args:
        model: the policy.
        title: what stands in the corner; None: the stage.
        flags: how it is filmed.

    Raises:
        Failure: none of its episodes clears.
    """
    policy = load_policy(model)
    stage = policy.env_config.stages[0]
    config = in_stages(in_process(policy.env_config), (stage,))
    config = protocol_config(config, "noop")
    for seed in range(flags.seeds):
        episode = play(policy, config, 1, deterministic=flags.deterministic, seed=seed)[0]
        if episode.flag:
            break
    else:
        raise Failure(f"{stage}: none of {flags.seeds} episodes clears")
    print(f"{stage}: seed {seed} clears in {episode.length} agent steps", flush=True)
    moments = watch_again(policy, config, episode, every_frame=True)
    screens = (frame.screen for moment in moments for frame in moment.frames)
    label = str(stage) if title is None else title
    return [
        labelled(screen, label, flags.tile_width)
        for screen in itertools.islice(screens, 0, None, flags.frame_every)
    ]


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


def grid(films: Sequence[list[np.ndarray]], flags: FilmFlags) -> Iterator[np.ndarray]:
    """Yield the frames of films side by side; each stands still, darker, when it has ended."""
    columns = columns_of(len(films), flags)
    length = max(map(len, films)) + round(ENDING_S * FRAMES_PER_SECOND / flags.frame_every)
    for i in range(length):
        tiles = []
        for film in films:
            tile = film[min(i, len(film) - 1)]
            tiles.append(tile // 2 if i >= len(film) and len(films) > 1 else tile)
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
        rows = [np.hstack(tiles[at : at + columns]) for at in range(0, len(tiles), columns)]
        yield np.vstack(rows)


def columns_of(count: int, flags: FilmFlags) -> int:
    """Return how many of so many films stand beside each other."""
    return flags.columns or min(count, math.ceil(math.sqrt(2 * count)))


def shipped(stages: Sequence[StageId]) -> list[Path]:
    """Return the shipped policy of each stage; of every stage that has one, if none is named.

    Raises:
        UsageError: a stage has none.
    """
    found = {stage: model for stage in stages or STAGES if (model := shipped_model(stage))}
    if missing := [stage for stage in stages if stage not in found]:
        raise UsageError(f"no policy of {missing[0]} is shipped under pretrained/")
    return list(found.values())


def run(flags: FilmFlags) -> None:
    """Play, and write the film."""
    if flags.tile_width % 2:
        raise UsageError("--tile-width must be even")
    if flags.output.suffix not in (".mp4", ".webp", ".gif"):
        raise UsageError("--output must end in .mp4, .webp or .gif")
    models = flags.models or shipped(flags.stages)
    if flags.titles and len(flags.titles) != len(models):
        raise UsageError(f"--titles names {len(flags.titles)}, and there are {len(models)} films")
    titles = flags.titles or ([None] * len(models) if len(models) > 1 else [""])
    films = [cleared_tiles(*one, flags) for one in zip(models, titles, strict=True)]
    width = flags.tile_width * columns_of(len(films), flags)
    fps = FRAMES_PER_SECOND / flags.frame_every
    count = write_video(flags.output, grid(films, flags), fps, width, QUALITY)
    size = flags.output.stat().st_size
    print(f"{flags.output}: {count} frames at {fps:.0f} a second, {size / 1e6:.1f} MB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and film."""
    given = sys.argv[1:] if arguments is None else arguments

    def task() -> None:
        run(parse_flags(FilmFlags, with_stages_flag(given), __doc__))

    return exit_code(task)


if __name__ == "__main__":
    sys.exit(main())
