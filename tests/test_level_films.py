"""Films of shipped policies: one level, or several in a grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts import level_films


def test_films_stand_side_by_side_and_darken_when_they_have_ended(tmp_path: Path) -> None:
    flags = level_films.FilmFlags(tmp_path / "x.mp4", tile_width=128, columns=2)
    short, long = (
        [level_films.labelled(np.full((240, 256, 3), shade, np.uint8), "", flags.tile_width)] * n
        for shade, n in ((200, 2), (100, 5))
    )
    frames = list(level_films.grid([short, long, long], flags))
    assert len(frames) == 5 + round(2 * 60.0988 / 2)
    assert {frame.shape for frame in frames} == {(240, 256, 3)}
    corners = [[int(frame[y, x, 0]) for y, x in ((0, 0), (0, 128))] for frame in frames]
    assert corners[1:3] == [[200, 100], [100, 100]], "the first has ended"
    assert not frames[0][120:, 128:].any(), "there is no fourth"


@pytest.mark.slow
def test_a_shipped_policys_clear_is_a_film_in_webp(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "film.webp"
    small = "--stage 1-1 --frame-every 8 --tile-width 64"
    assert level_films.main([*small.split(), "--output", str(path)]) == 0
    said = capsys.readouterr().out
    with Image.open(path) as film:
        assert film.size == (64, 60)
        assert film.info["loop"] == 0
        pictures = getattr(film, "n_frames", 0)
    assert "frames at 8 a second" in said
    steps = int(said.split("clears in ")[1].split()[0])
    # Four frames a step, of which one in eight is filmed; the encoder drops what stands still.
    assert steps // 2 - 8 <= pictures <= int(said.split(": ")[-1].split()[0])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--output x.avi", "--output must end in .mp4, .webp or .gif"),
        ("--output x.mp4 --frame-every 0", "--frame-every must be at least 1"),
        ("--output x.mp4 --tile-width 17", "--tile-width must be even"),
        ("--output x.mp4 --stages 8-4", "no policy of 8-4 is shipped"),
    ],
)
def test_what_does_not_fit_is_one_line(
    flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert level_films.main(flags.split()) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
