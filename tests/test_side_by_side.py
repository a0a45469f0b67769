"""scripts/side_by_side.py on films of plain colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mario_video import CAPTION_HEIGHT, write_video
from scripts import side_by_side


def film(path: Path, colors: list[tuple[int, int, int]], fps: float = 10) -> str:
    frames = [np.full((48, 64, 3), color, np.uint8) for color in colors]
    write_video(path, frames, fps, max_width=64)
    return str(path)


RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def near(pixel: Any, color: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.subtract(pixel, color)).max() < 40)  # H.264 is lossy


def test_a_film_that_is_over_waits_for_the_other(tmp_path: Path) -> None:
    films = [
        film(tmp_path / "a.mp4", [RED] * 2),
        film(tmp_path / "b.mp4", [BLUE] * 3 + [GREEN] * 3),
    ]
    output = tmp_path / "both.gif"
    flags = ["--titles", "one", "two", "--width", "64", "--hold-s", "0.4", "--output", str(output)]
    assert side_by_side.main([*films, *flags]) == 0
    with Image.open(output) as gif:
        assert gif.size == (128, 48 + CAPTION_HEIGHT)
        total_ms = 0
        for number in range(getattr(gif, "n_frames", 0)):
            gif.seek(number)
            total_ms += gif.info["duration"]
        assert total_ms == 1000, "six frames of 100 ms, and the end held for four more"
        last = gif.convert("RGB")
        gif.seek(0)
        first = gif.convert("RGB")
    left, right = (32, CAPTION_HEIGHT + 24), (96, CAPTION_HEIGHT + 24)
    assert near(first.getpixel(left), RED) and near(first.getpixel(right), BLUE)
    assert near(last.getpixel(left), RED) and near(last.getpixel(right), GREEN)


def test_what_does_not_fit_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow, fast = film(tmp_path / "s.mp4", [RED] * 3, 5), film(tmp_path / "f.mp4", [RED] * 3, 10)
    output = ["--output", str(tmp_path / "x.gif")]
    for arguments, said in (
        ([slow, fast], "one frame rate"),
        ([slow, "--titles", "a", "b"], "1 films need as many titles"),
        ([str(tmp_path / "none.mp4")], "there is no film"),
    ):
        assert side_by_side.main([*arguments, *output]) == 2
        assert said in capsys.readouterr().err
