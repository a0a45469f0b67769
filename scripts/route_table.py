"""Write the table of docs/routes.md from docs/results/routes.json.

    python scripts/route_table.py            # rewrite it
    python scripts/route_table.py --check    # write nothing; exit 1 if it is out of date

The page's text stands in the page; only what is between its two markers is written.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro

from mario_demos import AGENT_FRAMES
from mario_game import STAGES, parse_stages
from mario_results import SHIPPED, read_study
from mario_search.play import MAX_SPEED_PX, STAGES_BEHIND_PIPES

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "routes.json"
PAGE = ROOT / "docs" / "routes.md"
FASTEST_POLICY = "ppo_mario_1-1_speedrun"
TABLE = re.compile(r"(?<=<!-- routes -->\n).*?(?=<!-- end -->)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class TableFlags:
    """Write, or only look."""

    check: bool = False
    """Write nothing; exit 1 if the page is out of date."""


def floor_steps(name: str) -> str:
    """Return the agent steps at top speed from start to goal, if one area holds both."""
    [level] = parse_stages(name)
    stage = STAGES[level]
    if stage.start_area != stage.goal_area or level in STAGES_BEHIND_PIPES:
        return ""
    return str((stage.goal_line_x - stage.start_x) // (MAX_SPEED_PX * AGENT_FRAMES))


def table_rows(routes: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the table's lines, of what routes.json holds, and the sentences below it."""
    yield (
        "| stage | agent steps | floor | frames | first | found, CPU s | by the clock "
        "| shortened | flags |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, route in routes.items():
        cells = (
            *(name, route["agent_steps"], floor_steps(name.removesuffix("-pipes"))),
            *(route["frames"], route["first_agent_steps"]),
            *(route["explore_cpu_s"], route["explore_wall_s"], route["shorten_cpu_s"]),
            f"`{route['search']}`",
        )
        yield f"| {' | '.join(str(cell) for cell in cells)} |"
    if yardstick := routes.get("1-1"):
        judged = read_study(SHIPPED).judgement(FASTEST_POLICY, "fixed", "argmax")
        fastest = judged.best_clear_steps
        yield ""
        yield (
            f"1-1, the yardstick of speed: {yardstick['agent_steps']} agent steps, "
            f"{yardstick['frames']} frames; the floor"
        )
        yield (
            f"is {floor_steps('1-1')} and the start-up. "
            f"The shipped policy ppo_mario_1-1_speedrun takes {fastest}."
        )
    machines = {f"{r['machine']['cpus']} cores of {r['machine']['cpu']}" for r in routes.values()}
    commits = sorted({r["git_commit"][:7] for r in routes.values()})
    yield ""
    yield f"Machine: {'; '.join(sorted(machines))}. Commits: {', '.join(commits)}."


def with_table(page: str, routes: dict[str, dict[str, Any]]) -> str:
    """Return a page's text with the table between its markers written anew."""
    rows = "".join(f"{line}\n" for line in table_rows(routes))
    return TABLE.sub(lambda _: rows, page)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, or look."""
    flags = tyro.cli(TableFlags, args=arguments, description=__doc__)
    page = PAGE.read_text(encoding="utf-8")
    fresh = with_table(page, json.loads(RESULTS.read_text(encoding="utf-8")))
    if fresh == page:
        return 0
    print(f"{'out of date' if flags.check else 'written'}: {PAGE.relative_to(ROOT)}")
    if not flags.check:
        PAGE.write_text(fresh, encoding="utf-8", newline="\n")
    return int(flags.check)


if __name__ == "__main__":
    sys.exit(main())
