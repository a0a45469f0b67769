"""What the page is told of runs, as JSON: list, curves, evaluations, places of death, config."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mario_cli import UsageError
from mario_game import STAGES, parse_stages, with_stages_field
from mario_judge import Summary
from mario_monitor.board import Board
from mario_monitor.configs import flags_of, group_of, recipe_of
from mario_report import (
    BIN_PX,
    CURVES,
    RECENT_EPISODES,
    STATE_COLORS,
    death_counts,
    describe_endings,
    endings,
)
from mario_runs import is_own_file, printable
from mario_status import RunReader, RunStatus

MAX_POINTS = 600  # of a curve: about the px of a chart
MAX_KEYS = 2000  # that a run may log
LOG_BYTES = 20_000  # of the end of a trainer's output
LOG_LINES = 200
MAX_LINE = 400  # characters
LOG_NAME = "trainer.log"  # where scripts/launch.py puts a trainer's output


# --------------------------------------------------------------------------------------------
# The list
# --------------------------------------------------------------------------------------------


class RunList:
    """All runs of a board as the list shows them; one of which nothing is new is not made anew."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._made: dict[str, tuple[RunStatus, dict[str, Any]]] = {}

    def content(self) -> dict[str, Any]:
        """Return the list, and what the page has to know once."""
        before, self._made = self._made, {}
        for status in self.board.statuses:
            known = before.get(status.name)
            is_same = known is not None and known[0] is status
            entry = known[1] if known and is_same else self._entry(status)
            self._made[status.name] = status, entry
        return {
            "root": printable(str(self.board.root)),
            "runs": [entry for _, entry in self._made.values()],
            "unread": self.board.unread,
            "states": STATE_COLORS,
            "curves": [{"key": curve.key, "title": curve.title} for curve in CURVES],
        }

    def _entry(self, status: RunStatus) -> dict[str, Any]:
        """Return a run; what changes while nothing is written is left out."""
        version = hashlib.sha256(repr(status.signature).encode()).hexdigest()[:16]
        return {
            "name": status.name,
            "state": status.state,
            "why": status.trouble if status.state == "collapsed" else status.remark,
            "agent": status.agent,
            "stage": status.stage,
            "step": status.step,
            "target": status.target,
            "to_go_s": status.to_go_s,
            "written": status.written,
            "steps_per_s": status.last.get("env_steps_per_s"),
            "clear_rate": status.last.get("clear_rate"),
            "best": status.best.argmax.clears if status.best else "",
            "rank": status.best.rank[0] if status.best else None,
            "version": version,
            "group": group_of(self.board.readers[status.name].config),
        }


# --------------------------------------------------------------------------------------------
# Curves
# --------------------------------------------------------------------------------------------


def curves_content(reader: RunReader, keys: Sequence[str]) -> dict[str, Any]:
    """Return a run's curves of some keys, thinned, and the names of all that it logs."""
    rows = reader.rows[:]  # another thread may be adding to them
    known = sorted({key for row in rows for key in row} - {"step"})[:MAX_KEYS]
    wanted = [key for key in keys if key in known]
    edges = np.unique(np.linspace(0, len(rows), MAX_POINTS + 1).astype(int)[:-1])[: len(rows)]
    last = np.append(edges[1:], len(rows))[: len(edges)] - 1  # row of each bucket
    walls = column(rows, "wall_s")
    return {
        "keys": known,
        "steps": [rows[i]["step"] for i in last],
        "minutes": numbers(walls[last] / 60),
        "values": {key: numbers(means(column(rows, key), edges)) for key in wanted},
    }


def column(rows: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    """Return a key of each row, float64[rows]; nan where it was not measured."""
    return np.array([row.get(key, np.nan) for row in rows], dtype=float)


def means(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the mean of what was measured in each bucket that begins at an edge; nan if nothing.

    Args:
        values: float64[rows].
        edges: int[buckets], ascending from 0.
    """
    if not len(values):
        return values
    measured = ~np.isnan(values)
    counts = np.add.reduceat(measured, edges)
    sums = np.add.reduceat(np.where(measured, values, 0.0) / 2, edges)  # halves do not overflow
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.where(counts > 0, 2 * (sums / counts), np.nan)


def numbers(values: Iterable[float]) -> list[float | None]:
    """Return numbers as JSON has them: six digits, None for what is no finite number."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


# --------------------------------------------------------------------------------------------
# Evaluations
# --------------------------------------------------------------------------------------------


def evaluations_content(reader: RunReader) -> dict[str, Any]:
    """Return how a run's models were judged, argmax and sampled, and at which step one was kept."""
    rows = [row for row in reader.rows if "wall_s" in row]
    steps, walls = [row["step"] for row in rows], [row["wall_s"] for row in rows]
    best = reader.best()
    found = [
        {
            "step": evaluation.step,
            "minutes": float(np.interp(evaluation.step, steps, walls)) / 60 if rows else None,
            **summary_content(summary),
        }
        for evaluation in reader.readable_evaluations()
        for summary in evaluation.summaries
    ]
    return {"kept": best.step if best else None, "points": found}


def summary_content(summary: Summary) -> dict[str, Any]:
    """Return what a point of the evaluations' chart is drawn from."""
    low, high = summary.clear_rate_ci95 or (summary.clear_rate, summary.clear_rate)
    return {
        "mode": summary.mode,
        "protocol": summary.protocol,
        "episodes": summary.episodes,
        "clears": summary.flags_cleared,
        "clear_rate": summary.clear_rate,
        "low": low,
        "high": high,
        "median_max_x": summary.median_max_x,
        "stages": [[str(one.stage), one.flags_cleared, one.episodes] for one in summary.stages],
    }


def levels_content(reader: RunReader) -> dict[str, Any]:
    """Return where a run's last episodes ended, for each stage that it was evaluated in."""
    evaluations = reader.readable_evaluations()
    judged = {str(one.stage) for each in evaluations for s in each.summaries for one in s.stages}
    levels = []
    for stage in STAGES:
        ends = endings(evaluations, stage) if str(stage) in judged else []
        if not ends:
            continue
        levels.append(
            {
                "stage": str(stage),
                "width": STAGES[stage].start_width,
                "text": describe_endings(ends),
                "clears": sum(end.cleared for end in ends),
                "episodes": len(ends),
                "deaths": death_counts(ends),
            }
        )
    return {"bin": BIN_PX, "recent": RECENT_EPISODES, "levels": levels}


# --------------------------------------------------------------------------------------------
# One run
# --------------------------------------------------------------------------------------------


def about_content(reader: RunReader, status: RunStatus) -> dict[str, Any]:
    """Return what the config tab says of a run."""
    config = reader.config
    source = config.get("provenance")
    source = source if isinstance(source, dict) else {}
    machine = source.get("machine")
    preview = reader.newest_preview()
    return {
        "name": status.name,
        "agent": status.agent,
        "flags": flags_of(config),
        "recipe": recipe_of(status.agent),
        "command": command_of(source),
        "commit": printable(str(source.get("git_commit") or ""))[:MAX_LINE],
        "started": printable(str(source.get("started") or ""))[:MAX_LINE],
        "machine": flags_of(machine) if isinstance(machine, dict) else {},
        "findings": [
            {**finding._asdict(), "message": printable(finding.message)}
            for finding in status.findings
        ],
        "trouble": status.trouble,
        "log": log_tail(reader),
        "stages": stages_of(config),
        "preview": int(preview.parent.name.removeprefix("step_")) if preview else None,
    }


def command_of(source: dict[str, Any]) -> list[str]:
    """Return the words of the command that began a run, as far as its file says them."""
    words = source.get("command")
    if not isinstance(words, list):
        return []
    return [printable(word)[:MAX_LINE] for word in words[:500] if isinstance(word, str)]


def stages_of(config: dict[str, Any]) -> list[str]:
    """Return the stages that a run plays; none if it does not say any that there are."""
    env = config.get("env")
    text = with_stages_field(env).get("stages") if isinstance(env, dict) else None
    try:
        return [str(stage) for stage in parse_stages(text)] if isinstance(text, str) else []
    except (UsageError, ValueError):
        return []


def log_tail(reader: RunReader) -> list[str]:
    """Return the last lines of what a run's trainer printed, if that is kept in its folder."""
    path = reader.folder.path / LOG_NAME
    if not is_own_file(path, reader.folder.path):
        return []
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_BYTES))
            text = file.read(LOG_BYTES).decode(errors="replace")
    except OSError:
        return []
    # A progress bar writes over itself: only what it said last is kept.
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    return [printable(line)[:MAX_LINE] for line in lines if line.strip()][-LOG_LINES:]
