"""Write docs/results/levels.md: per stage the shortest route found and what its policy reaches.

    python scripts/level_table.py

Every figure is read from a JSON file: docs/results/routes.json (scripts/search_route.py) and the
evaluation_noop_*.json and training.json of each shipped policy (scripts/ship_policy.py).
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from doc_tables import cleared

from mario_game import STAGES, StageId
from mario_policies import PRETRAINED, shipped_model

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
GOAL = 0.95  # of the episodes, in the better mode

INTRODUCTION = """# The levels

    python scripts/level_table.py     # writes this page

One policy a level, `noop` protocol, emulator fast; each level's card says how it was trained and
how to judge it again.

- route: agent steps (4 frames) of the shortest clear that a search has found
  ([routes](../routes.md)); steps: what the policy takes, median and best of its clears.
- argmax, sampled: cleared of so many episodes, and the 95 % Wilson interval of the rate.
- dies at: x in px where the episodes end that do not clear, the median of the better mode.
- trained: agent steps of the trainings that had this level among theirs, then of all trainings
  behind the weights (warm starts), and the minutes of these; other work ran beside them.

| level | route | argmax | sampled | steps | dies at | trained | of all | minutes | seed |
|---|---|---|---|---|---|---|---|---|---|
"""


def read_json(path: Path) -> Any:
    """Return what a JSON file holds, None if there is none."""
    return json.loads(path.read_text()) if path.is_file() else None


def policy_cells(folder: Path, level: str) -> tuple[list[str], float]:
    """Return a shipped policy's cells, from argmax to seed, and its better clear rate."""
    modes = [read_json(folder / f"evaluation_noop_{mode}.json") for mode in ("argmax", "sampled")]
    better = max(modes, key=lambda summary: summary["clear_rate"])  # argmax if they are alike
    failures = [
        x
        for x, flag in zip(better["end_x_positions"], better["episode_flags"], strict=True)
        if not flag
    ]
    steps = ""
    if better["best_clear_steps"] is not None:
        steps = f"{better['median_clear_steps']:.0f}, {better['best_clear_steps']}"
    trainings = read_json(folder / "training.json") or []
    own = [one for one in trainings if level in one["stages"].split(",") or one["stages"] == "all"]
    trained = ["", "", ""]
    if trainings and all(one["steps"] is not None for one in trainings):
        trained = [
            f"{sum(one['steps'] for one in own):,}",
            f"{sum(one['steps'] for one in trainings):,}",
            f"{sum(one['wall_s'] for one in trainings) / 60:.0f}",
        ]
    cells = [
        *(cleared(summary) for summary in modes),
        steps,
        f"{statistics.median(failures):.0f}" if failures else "",
        *trained,
        str(trainings[-1]["seed"]) if trainings else "",
    ]
    return cells, better["clear_rate"]


def levels_page() -> str:
    """Return docs/results/levels.md."""
    routes = read_json(RESULTS / "routes.json") or {}
    lines, rates = [], []
    for world, stage in STAGES:
        name = said = str(StageId(world, stage))
        cells = [""] * 8
        if model := shipped_model(StageId(world, stage)):
            cells, clear_rate = policy_cells(model.parent, name)
            rates.append(clear_rate)
            card = Path(os.path.relpath(model.parent / "README.md", RESULTS)).as_posix()
            said = f"[{name}]({card})"
        route = routes.get(name, {}).get("agent_steps", "")
        lines.append(f"| {' | '.join([said, str(route), *cells])} |\n")
    there = sum(rate >= GOAL for rate in rates)
    count = f"{len(rates)} of {len(STAGES)} levels have a policy; {there} clear {GOAL:.0%} or more."
    return f"{INTRODUCTION}{''.join(lines)}\n{count}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; exit 1 if a policy's files are not whole."""
    tyro.cli(lambda: None, args=arguments, description=__doc__)
    try:
        page = levels_page()
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"error: a file under {PRETRAINED} is not whole: {error!r}", file=sys.stderr)
        return 1
    (RESULTS / "levels.md").write_text(page, encoding="utf-8")
    print(page.splitlines()[-1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
