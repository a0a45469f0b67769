"""The report: one HTML file of runs that needs nothing else."""

from __future__ import annotations

import base64
import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from mario_game import STAGES, StageId
from mario_monitor.facts import summary_content
from mario_report import (
    BIN_PX,
    CURVES,
    RUN_COLUMNS,
    STATE_COLORS,
    death_counts,
    describe_endings,
    endings,
    level_picture,
    png,
    points,
    run_cells,
)
from mario_runs import atomic_write
from mario_status import RunReader
from mario_video import poster

MAX_VIDEO_BYTES = 8 * 2**20  # of a preview that a report holds
COLORS = ("#2f81f7", "#e5534b", "#3fa45b", "#c78a1a", "#a371f7", "#1fa3b8", "#db61a2", "#7d8590")
TICKS = 5  # about so many an axis
PAGE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    (Path(__file__).parent / "report.html").read_text(encoding="utf-8")
)


class Line(NamedTuple):
    """A run in a chart. Marks are (x, y, low, high, whether its model was kept)."""

    name: str
    color: str
    x: Sequence[float]
    y: Sequence[float]
    is_dashed: bool = False
    marks: Sequence[tuple[float, float, float, float, bool]] = ()


# --------------------------------------------------------------------------------------------
# Charts
# --------------------------------------------------------------------------------------------


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers from low to high: steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / TICKS))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= span / TICKS)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def tick_text(value: float) -> str:
    """Return "1.5M", "20k" or "0.05"."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if unit <= abs(value) < 1e15:
            return f"{value / unit:.4g}{name}"
    return f"{value:.4g}"


def chart(title: str, lines: Sequence[Line], is_share: bool = False, width: int = 360) -> Any:
    """Return what `report.html` draws of a chart: lines in px of an SVG, with both axes' ticks.

    Args:
        title: above it.
        lines: at least one, each with a point.
        is_share: y goes from 0 to 1, in percent.
        width: of the SVG.
    """
    height, left, bottom = max(150, width // 4), 46, 20
    all_x = np.concatenate([line.x for line in lines]).astype(float)
    all_y = np.concatenate([line.y for line in lines]).astype(float)
    x_low, x_high = min(0.0, all_x.min()), max(all_x.max(), 1.0)
    y_low, y_high = (0.0, 1.0) if is_share else (min(0.0, all_y.min()), max(0.0, all_y.max()))
    y_high = y_high if y_high > y_low else y_low + 1
    y_span = min(y_high - y_low, 1.7e308)

    def at_x(value: float) -> float:
        return round(left + (width - left - 12) * (value - x_low) / (x_high - x_low), 1)

    def at_y(value: float) -> float:
        return round(height - bottom - (height - bottom - 10) * (value - y_low) / y_span, 1)

    return {
        "title": title,
        **{"width": width, "height": height, "left": left},
        "x_ticks": [(at_x(x), tick_text(x)) for x in ticks(x_low, x_high)],
        "y_ticks": [
            (at_y(y), f"{100 * y:.0f} %" if is_share else tick_text(y))
            for y in ticks(y_low, y_high)
        ],
        "lines": [
            {
                "name": line.name,
                "color": line.color,
                "is_dashed": line.is_dashed,
                "points": " ".join(
                    f"{at_x(x)},{at_y(y)}" for x, y in zip(line.x, line.y, strict=True)
                ),
                "marks": [
                    (at_x(x), at_y(y), at_y(low), at_y(high), kept)
                    for x, y, low, high, kept in line.marks
                ],
            }
            for line in lines
        ],
    }


def evaluation_lines(reader: RunReader, color: str) -> Iterator[Line]:
    """Yield a run's clear rates by step, argmax and sampled."""
    best = reader.best()
    found = [
        (evaluation.step, summary_content(summary))
        for evaluation in reader.readable_evaluations()
        for summary in evaluation.summaries
    ]
    for mode in ("argmax", "sampled"):
        those = [(step, one) for step, one in found if one["mode"] == mode]
        if not those:
            continue
        kept = best.step if best and mode == "argmax" else None
        yield Line(
            f"{reader.name}, {mode}",
            color,
            [step for step, _ in those],
            [one["clear_rate"] for _, one in those],
            is_dashed=mode == "sampled",
            marks=[
                (step, one["clear_rate"], one["low"], one["high"], step == kept)
                for step, one in those
            ],
        )


def curve_charts(readers: Sequence[tuple[RunReader, str]]) -> Iterator[Any]:
    """Yield a chart of each of `CURVES` that any run logs, all runs in it."""
    for curve in CURVES:
        lines = [
            Line(reader.name, color, [step for step, _ in found], [value for _, value in found])
            for reader, color in readers
            if (found := points(reader.rows, curve.key))
        ]
        if lines:
            yield chart(curve.title, lines, is_share=curve.key == "clear_rate")


# --------------------------------------------------------------------------------------------
# Levels, films
# --------------------------------------------------------------------------------------------


def level_cards(readers: Sequence[tuple[RunReader, str]]) -> Iterator[Any]:
    """Yield each stage that any run was evaluated in, with where the runs ended there."""
    evaluations = {reader.name: reader.readable_evaluations() for reader, _ in readers}
    for stage in STAGES:
        runs = [
            run_strip(reader.name, color, ends)
            for reader, color in readers
            if (ends := endings(evaluations[reader.name], stage))
        ]
        if runs:
            yield {
                "stage": str(stage),
                "width": STAGES[stage].start_width,
                "picture": data_uri("image/png", picture_of(stage)),
                "runs": runs,
            }


def picture_of(stage: StageId) -> bytes:
    """Return a level's picture as a PNG file."""
    return png(level_picture(stage))


def run_strip(name: str, color: str, ends: Sequence[Any]) -> dict[str, Any]:
    """Return a run's deaths on a level as bars."""
    deaths = death_counts(ends)
    most = max((count for _, count in deaths), default=1)
    bars = [(x, count / most, count) for x, count in deaths]
    return {"name": name, "color": color, "text": describe_endings(ends), "bars": bars}


def data_uri(kind: str, content: bytes) -> str:
    """Return a file's content as an address that a page can hold."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def run_details(reader: RunReader, color: str = COLORS[0]) -> dict[str, Any]:
    """Return what the report says of one run; what the run does not have is absent."""
    details: dict[str, Any] = {"status": reader.status(), "color": color}
    preview = reader.newest_preview()
    with contextlib.suppress(OSError):  # a trainer may be making room
        if preview and preview.stat().st_size <= MAX_VIDEO_BYTES:
            details["video"] = data_uri("video/mp4", preview.read_bytes())
            if first := poster(preview):
                details["poster"] = data_uri("image/jpeg", first)
    return details


def write_html(path: Path, readers: Sequence[RunReader], detailed: Sequence[RunReader]) -> None:
    """Write a page that needs nothing else: a table of all runs, the detailed ones overlaid.

    Raises:
        OSError: it could not be written; path is untouched.
    """
    statuses = [reader.status() for reader in readers]
    colored = [(reader, COLORS[i % len(COLORS)]) for i, reader in enumerate(detailed)]
    judged = [line for reader, color in colored for line in evaluation_lines(reader, color)]
    page = PAGE.render(
        statuses=statuses,
        runs=[run_details(reader, color) for reader, color in colored],
        evaluations=chart("Evaluations: clear rate", judged, True, 1100) if judged else None,
        charts=list(curve_charts(colored)),
        levels=list(level_cards(colored)),
        columns=RUN_COLUMNS,
        cells=run_cells,
        colors=STATE_COLORS,
        bin_px=BIN_PX,
    )
    atomic_write(path, page.encode(errors="backslashreplace"))
