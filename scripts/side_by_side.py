"""Put films beside each other under their titles: the picture at the top of the README.

    python render_best_checkpoint.py --model pretrained/ppo_mario_1-1_noop --output-dir runs/film
    python scripts/side_by_side.py runs/film/best.mp4 --titles PPO --output runs/film/both.gif

A film that is over keeps its last picture until the longest one is.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import imageio.v2 as imageio
import numpy as np
import pydantic
import tyro
from PIL import Image, ImageDraw

from mario_cli import UsageError, exit_code
from mario_values import Checked, Count, parse_flags
from mario_video import CAPTION_COLOR, CAPTION_FONT, CAPTION_HEIGHT, scaled, write_video


@dataclasses.dataclass(frozen=True)
class SideFlags(Checked):
    """Which films, how large."""

    films: tyro.conf.Positional[tuple[Path, ...]]
    """Videos of one frame rate, such as render_best_checkpoint.py's best.mp4."""
    output: Path
    """A .gif or .mp4 file."""
    titles: tuple[str, ...] = ()
    """One a film."""
    width: Annotated[int, pydantic.Field(ge=16, le=4096)] = 256
    """Of each, in px."""
    every: Count = 1
    """Show only each so many frames: a GIF shrinks with it."""
    hold_s: Annotated[float, pydantic.Field(ge=0, le=3600)] = 1.0
    """How long the end stays."""


def frames_of(film: Path, width: int) -> Iterator[np.ndarray]:
    """Yield a film's frames, uint8[h, width, 3]."""
    reader: Any  # imageio's type lacks what it does
    with imageio.get_reader(film) as reader:
        for frame in reader:
            yield scaled(np.asarray(frame), width)


def title_strip(title: str, width: int) -> np.ndarray:
    """Return a strip that says a title, uint8[CAPTION_HEIGHT, width, 3]."""
    strip = Image.new("RGB", (width, CAPTION_HEIGHT), CAPTION_COLOR)
    place = (width // 2, CAPTION_HEIGHT // 2)
    ImageDraw.Draw(strip).text(place, title, "white", CAPTION_FONT, anchor="mm")
    return np.asarray(strip)


def beside(flags: SideFlags) -> Iterator[np.ndarray]:
    """Yield what all films show at the same time, uint8[h, films * width, 3]."""
    titles = [title_strip(title, flags.width) for title in flags.titles]
    shown: list[Any] = [None] * len(flags.films)
    films = (frames_of(film, flags.width) for film in flags.films)
    for frames in itertools.zip_longest(*films):
        shown = [new if new is not None else old for new, old in zip(frames, shown, strict=True)]
        columns = [np.vstack(pair) for pair in zip(titles, shown, strict=True)] if titles else shown
        yield np.hstack(columns)


def flat_colors(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return frames in 64 colours of all: a GIF without H.264's noise is smaller."""
    some = np.vstack(frames[:: max(1, len(frames) // 16)])
    palette = Image.fromarray(some).quantize(64)
    flat = (
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    )
    return [np.asarray(frame.convert("RGB")) for frame in flat]


def write(flags: SideFlags) -> None:
    """Check, join and write.

    Raises:
        UsageError: the films do not fit together.
    """
    if flags.titles and len(flags.titles) != len(flags.films):
        raise UsageError(f"{len(flags.films)} films need as many titles, not {len(flags.titles)}")
    if missing := [film for film in flags.films if not film.is_file()]:
        raise UsageError(f"there is no film {missing[0]}")
    if flags.output.suffix not in (".gif", ".mp4") or flags.output.is_dir():
        raise UsageError(f"{flags.output} is to be a .gif or an .mp4")
    rates = set()
    reader: Any
    for film in flags.films:
        try:
            with imageio.get_reader(film) as reader:
                rates.add(reader.get_meta_data()["fps"])
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise UsageError(f"{film} is no film that can be read") from error
    if len(rates) != 1:
        raise UsageError("give films of one frame rate")
    fps = rates.pop() / flags.every
    frames = list(beside(flags))[:: flags.every]
    if flags.output.suffix == ".gif":
        frames = flat_colors(frames)
    frames += frames[-1:] * round(flags.hold_s * fps)
    write_video(flags.output, frames, fps, max_width=flags.width * len(flags.films))
    print(f"{flags.output}: {len(frames)} frames, {flags.output.stat().st_size / 2**20:.1f} MiB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and write."""
    return exit_code(lambda: write(parse_flags(SideFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
