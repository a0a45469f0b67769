"""A run as a person sees it: its curves, where on the level it dies, a line of a table."""

from __future__ import annotations

import functools
import io
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastnes import BUTTON_BITS
from fastnes import ram as ram_names
from mario_cli import UsageError
from mario_game import STAGES, StageId
from mario_judge import ModelEvaluation
from mario_status import RunReader, RunStatus
from mario_wrappers import FastMarioEnv

CURVE_POINTS = 300  # a report's curve is as wide as that many px
RECENT_EPISODES = 200  # where it dies now, not where it died when it knew nothing
BIN_PX = 32


class Curve(NamedTuple):
    """What to draw of metrics.jsonl."""

    key: str
    title: str


# In the order of the page; a run that does not log a key has no such curve.
CURVES = (
    Curve("episode_return", "Return"),
    Curve("max_x", "Max-x (px)"),
    Curve("clear_rate", "Clear rate"),
    Curve("env_steps_per_s", "Steps per second"),
    Curve("entropy", "Entropy (nats)"),
    Curve("approx_kl", "KL divergence"),
    Curve("value_loss", "Value loss"),
    Curve("explained_variance", "Explained variance"),
)


def points(rows: Sequence[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    """Return (step, value) of a key, thinned to at most `CURVE_POINTS`; the last one stays."""
    found = [(row["step"], float(row[key])) for row in rows if key in row]
    stride = max(1, math.ceil(len(found) / CURVE_POINTS))
    return found[::-1][::stride][::-1]


def evaluation_rows(reader: RunReader) -> list[dict[str, Any]]:
    """Return a run's evaluations, argmax and sampled, as flat rows in the order of their steps.

    `wall_s` is when the trainer came there, between lines of metrics.jsonl; `max_x` is the mean.

    Raises:
        UsageError: a file of them is no evaluation.
    """
    timed = [row for row in reader.read_metrics() if "wall_s" in row]
    if not timed:
        raise UsageError(f"{reader.folder.metrics_path} says no time of any step")
    steps, walls = [row["step"] for row in timed], [row["wall_s"] for row in timed]
    return [
        {
            "step": evaluation.step,
            "wall_s": round(float(np.interp(evaluation.step, steps, walls)), 1),
            "policy": summary.mode,
            "protocol": summary.protocol,
            "episodes": summary.episodes,
            "clear_rate": summary.clear_rate,
            "max_x": float(np.mean(summary.max_x_positions)),
            "median_max_x": summary.median_max_x,
            "median_clear_steps": summary.median_clear_steps,
        }
        for evaluation in reader.evaluations()
        for summary in evaluation.summaries
    ]


def rounded(value: float, digits: int) -> str:
    """Return a number with so many significant digits as a person writes it: 3,161 or 0.0042."""
    if value == 0 or not math.isfinite(value):
        return str(round(value)) if value == 0 else str(value)
    if not 1e-4 <= abs(value) < 1e15:
        return f"{value:.{digits}g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, decimals)}f}"


# --------------------------------------------------------------------------------------------
# The level
# --------------------------------------------------------------------------------------------

STATUS_BAR_PX = 32
# Where Mario is held while the level scrolls by: above the screen, where nothing is in his way.
# Under water and in castles something is: then at other heights, in turn.
FLIGHT_HEIGHTS = ((0, 0xE0), (1, 0x20), (1, 0x40), (1, 0x60), (1, 0x80), (1, 0xA0))
PATIENCE_FRAMES = 64  # without scrolling, until another height is tried


@functools.cache
def level_picture(stage: StageId) -> np.ndarray:
    """Return the area in which a stage starts, uint8[208, start_width, 3], status bar left out.

    Drawn by the running game: Mario is held in the air, out of harm's way, and flown to its
    end, past the places where the screen would stand still (a warp zone, an axe).
    What he cannot reach (a maze castle throws him back) stays black.

    Raises:
        KeyError: no such stage.
    """
    width = STAGES[stage].start_width
    env = FastMarioEnv(*stage)
    env.reset()
    machine, ram = env.machine, env.machine.states[0]
    right = np.array([BUTTON_BITS["right"] | BUTTON_BITS["B"]], np.uint8)
    screen_width = machine.rgb(0).shape[1]
    picture = np.zeros((machine.rgb(0).shape[0] - STATUS_BAR_PX, width, 3), np.uint8)
    left = drawn = waited = height = 0
    while drawn < width and waited < PATIENCE_FRAMES * len(FLIGHT_HEIGHTS):
        if waited % PATIENCE_FRAMES == PATIENCE_FRAMES - 1:
            height = (height + 1) % len(FLIGHT_HEIGHTS)
        ram[ram_names.PLAYER_Y_PAGE], ram[ram_names.PLAYER_Y] = FLIGHT_HEIGHTS[height]
        ram[ram_names.PLAYER_Y_SPEED], ram[ram_names.INJURY_TIMER] = 0, 0x20
        ram[ram_names.SCROLL_IS_LOCKED] = 0
        machine.step(right, draw=False)
        before, left = (
            left,
            256 * int(ram[ram_names.SCREEN_LEFT_PAGE]) + int(ram[ram_names.SCREEN_LEFT_X]),
        )
        edge = left + screen_width
        is_new = left > before and before + screen_width >= drawn - screen_width
        waited = 0 if is_new else waited + 1
        if drawn + screen_width // 2 <= edge < drawn + 2 * screen_width or edge >= width:
            screen = machine.rgb(0)[STATUS_BAR_PX:]
            picture[:, left : left + screen_width] = screen[:, : max(0, width - left)]
            drawn = edge
    return picture


def png(picture: np.ndarray) -> bytes:
    """Return uint8[h, w, 3] as a PNG file; no more than 256 colours, as the NES has."""
    content = io.BytesIO()
    Image.fromarray(picture).quantize(256).save(content, "PNG", optimize=True)
    return content.getvalue()


class Ending(NamedTuple):
    """Where an evaluation's episode ended."""

    x: int  # px
    cleared: bool


def endings(evaluations: Sequence[ModelEvaluation], stage: StageId) -> list[Ending]:
    """Return the ends of a stage's last `RECENT_EPISODES` episodes, argmax and sampled.

    The newest evaluation's come first.
    """
    found: list[Ending] = []
    for evaluation in reversed(evaluations):
        for summary in evaluation.summaries:
            found += [Ending(*ending) for ending in summary.endings(stage)]
        if len(found) >= RECENT_EPISODES:
            break
    return found[:RECENT_EPISODES]


def death_counts(ends: Sequence[Ending]) -> list[tuple[int, int]]:
    """Return (x of a bin's left edge, deaths in it) for bins of `BIN_PX` with any, by x."""
    deaths = Counter(end.x // BIN_PX * BIN_PX for end in ends if not end.cleared)
    return sorted(deaths.items())


def describe_endings(ends: Sequence[Ending]) -> str:
    """Return "18 of 200 cleared; most die at x 1,120-1,151 (31)"."""
    text = f"{sum(end.cleared for end in ends)} of {len(ends)} cleared"
    if deaths := death_counts(ends):
        x, count = max(deaths, key=lambda pair: pair[1])
        text += f"; most of the others ended at x {x:,}-{x + BIN_PX - 1:,} ({count})"
    return text


# --------------------------------------------------------------------------------------------
# Text
# --------------------------------------------------------------------------------------------

STATE_COLORS = {
    "training": "#22c55e",
    "stalled": "#f59e0b",
    "dead": "#ef4444",
    "collapsed": "#ef4444",
    "stopped": "#94a3b8",
    "finished": "#38bdf8",
    "empty": "#64748b",
}


def best_clears(status: RunStatus) -> str:
    """Return the best evaluation's "31/32", or nothing."""
    return status.best.argmax.clears if status.best else ""


def latest(status: RunStatus, key: str, digits: int) -> str:
    """Return the last line's value of a key, or nothing."""
    return rounded(status.last[key], digits) if key in status.last else ""


def run_cells(status: RunStatus) -> list[str]:
    """Return a run as a line of a table: `RUN_COLUMNS`."""
    return [
        status.state,
        status.name,
        status.agent,
        status.stage,
        f"{status.step:,}",
        latest(status, "max_x", 4),
        latest(status, "clear_rate", 2),
        best_clears(status),
        latest(status, "env_steps_per_s", 3),
        status.remark,
    ]


RUN_COLUMNS = (
    *("state", "run", "agent", "stage", "steps", "max-x", "clears", "best", "steps/s", "why"),
)


def print_runs(statuses: Sequence[RunStatus]) -> None:
    """Print the table of runs."""
    table = Table(*RUN_COLUMNS)
    for column in table.columns[4:9]:
        column.justify = "right"
    for status in statuses:
        table.add_row(*map(Text, run_cells(status)))  # plain: a name is no markup
    console = Console()
    Console(width=None if console.is_terminal else 140).print(table)
