"""Write the tables of figures in README and docs from the JSON files that they come from.

    python scripts/doc_tables.py            # rewrite what is out of date
    python scripts/doc_tables.py --check    # write nothing; exit 1 if something is

A table stands between `<!-- table: KIND PATH... -->` and `<!-- end -->`. Kinds:

    evaluations FOLDER     every <protocol>_<argmax|sampled>.json of a policy
    policies FOLDER...     a row a policy: cleared under noop and sticky, steps
    seeds FOLDER           summary.json of a recipe's seeds
    speed FILE             bench_throughput.py --json
    comparison FOLDER      compare_agents.py: results
    milestones FOLDER      compare_agents.py: how soon it came how far
    curiosity FOLDER       dreamerv3/diagnose.py --curiosity: diagnosis.json
    played FOLDER          dreamerv3/diagnose.py --play: diagnosis.json
    ablations FOLDER       train_mario_professional.py --output, a folder a plan: against `base`
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from scipy.stats import ttest_ind

from compare_agents import milestone_rows, read_csv, result_rows

ROOT = Path(__file__).resolve().parents[1]
TABLE = re.compile(r"<!-- table: (\w+) ([^>]+?) -->\n.*?<!-- end -->", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class TableFlags:
    """Write, or only look."""

    check: bool = False
    """Write nothing; name what is out of date and exit 1."""


def documents() -> list[Path]:
    """Return the pages that can hold tables."""
    return [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *ROOT.glob("pretrained/*/*.md")]


def row(cells: Iterable[object]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def read(path: Path) -> Any:
    """Return a JSON file's content."""
    return json.loads(path.read_text(encoding="utf-8"))


def head(*names: str) -> list[str]:
    """Return a table's first two lines."""
    return [row(names), "|---" * len(names) + "|"]


def cleared(summary: dict[str, Any]) -> str:
    """Return "99/100 (95-100 %)"; one trajectory has no interval."""
    text = f"{summary['flags_cleared']}/{summary['episodes']}"
    low, high = (100 * bound for bound in summary["clear_rate_ci95"])
    return text if summary["episodes"] == 1 else f"{text} ({low:.0f}-{high:.0f} %)"


def number(value: float | None) -> str:
    """Return "3,161", or nothing."""
    return "" if value is None else f"{value:,.0f}"


def summaries(folder: Path) -> dict[tuple[str, str, bool], dict[str, Any]]:
    """Return a policy's evaluations by emulator, protocol and whether it was sampled, in order."""
    found = [read(path) for path in folder.glob("*.json") if re.search("argmax|sampled", path.name)]
    keyed = {(one["emulator"], one["protocol"], not one["deterministic"]): one for one in found}
    return dict(sorted(keyed.items()))


def evaluations(folder: Path) -> Iterator[str]:
    """Yield a row an evaluation."""
    yield from head(
        *("emulator", "protocol", "policy", "cleared (95 % interval)"),
        *("median max-x", "best max-x", "median steps", "best steps"),
    )
    for (emulator, protocol, is_sampled), found in summaries(folder).items():
        yield row(
            [
                *(emulator, protocol, "sampled" if is_sampled else "argmax", cleared(found)),
                *(number(found["median_max_x"]), number(found["best_max_x"])),
                *(number(found["median_clear_steps"]), number(found["best_clear_steps"])),
            ]
        )


def policies(*folders: Path) -> Iterator[str]:
    """Yield a row a policy, with a link to its card, which is beside its files."""
    kinds = [("noop", False), ("noop", True), ("sticky", True)]
    names = [f"{protocol}, {('argmax', 'sampled')[sampled]}" for protocol, sampled in kinds]
    yield from head("policy", *names, "median steps", "best steps")
    for folder in folders:
        found = {key[1:]: one for key, one in summaries(folder).items() if key[0] == "fast"}
        card = folder.relative_to(ROOT).as_posix()
        best = [one["best_clear_steps"] for one in found.values() if one["best_clear_steps"]]
        yield row(
            [
                f"[{folder.name}]({card}/README.md)",
                *(cleared(found[kind]) if kind in found else "" for kind in kinds),
                number(found["noop", True]["median_clear_steps"]),
                number(min(best, default=None)),
            ]
        )


def seeds(folder: Path) -> Iterator[str]:
    """Yield a row a seed."""
    yield from head(
        *("seed", "argmax", "sampled", "median steps", "best steps"),
        *("kept at step", "trained steps", "minutes", "commit"),
    )
    for one in sorted(read(folder / "summary.json"), key=lambda one: one["seed"]):
        yield row(
            [
                *(one["seed"], one["argmax"], one["sampled"]),
                *(number(one["argmax_median_steps"]), number(one["argmax_best_steps"])),
                *(number(one["kept_at_step"]), number(one["trained_steps"])),
                *(number(one["wall_minutes"]), one["commit"][:7]),
            ]
        )


def speed(path: Path) -> Iterator[str]:
    """Yield a row a measure."""
    yield from head("measure", "ratio (lowest to highest turn)", "ours", "must reach", "verdict")
    for one in read(path)["measures"]:
        ratios, ours = one.get("ratios"), one["ours"]
        yield row(
            [
                one["name"],
                f"{one['ratio']:.3g}x ({min(ratios):.3g} to {max(ratios):.3g})" if ratios else "",
                f"{ours:,.0f} {one['unit']}" if ours >= 100 else f"{ours:.3g} {one['unit']}",
                f"{one['must_reach']:g}{'x' if ratios else ''}" if one["must_reach"] else "",
                one["verdict"],
            ]
        )


def comparison(folder: Path) -> Iterator[str]:
    """Yield compare_agents.py's results."""
    yield from result_rows(read(folder / "comparison.json"))


def milestones(folder: Path) -> Iterator[str]:
    """Yield compare_agents.py's milestones."""
    yield from milestone_rows(read(folder / "comparison.json"))


def curiosity(folder: Path) -> Iterator[str]:
    """Yield a row a signal."""
    yield from head("paid", "mean a step", "lowest", "highest", "better dead", "life")
    for name, found in read(folder / "diagnosis.json")["curiosity"].items():
        figures = (f"{found[key]:.2g}" for key in ("mean", "min", "max"))
        yield row([name, *figures, f"{found['better_dead']:.0%}", f"{found['life']:+.2f}"])


def played(folder: Path) -> Iterator[str]:
    """Yield a row a way of sampling."""
    yield from head("sampled", "cleared (95 % interval)", "median max-x")
    for name, found in read(folder / "diagnosis.json")["played"].items():
        yield row([name, cleared(found), number(found["median_max_x"])])


def difference(values: Sequence[float], base: Sequence[float], scale: float) -> str:
    """Return "-12 (-30 to +6)": of two means, and Welch's 95 % interval, over seeds."""
    by = f"{scale * (np.mean(values) - np.mean(base)):+,.0f}"
    if np.ptp(values) == np.ptp(base) == 0:
        return by  # every seed the same: no interval
    low, high = ttest_ind(values, base, equal_var=False).confidence_interval()
    return f"{by} ({scale * low:+,.0f} to {scale * high:+,.0f})"


def ablations(folder: Path) -> Iterator[str]:
    """Yield a row a variant: its seeds side by side, and the difference to `base`."""
    yield from head(
        *("variant", "argmax", "sampled", "sampled - base", "max-x while training"),
        *("max-x - base", "entropy at the end", "minutes", "doctor", "commit"),
    )
    found: dict[str, dict[int, tuple[dict[str, Any], float]]] = {}
    for plan in sorted(folder.glob("*/professional_summary.json")):
        for one in read(plan)["chains"]:
            played = read_csv(plan.parent / one["folder"] / "1_train_evaluations.csv")
            x = [line["max_x"] for line in played if line["policy"] == "sampled"]
            seeds_of = found.setdefault(one["variant"], {})
            seeds_of[one["seed"]] = (one, float(np.mean(x)))
    for variant, of_seeds in sorted(found.items()):
        cells, xs = zip(*(of_seeds[seed] for seed in sorted(of_seeds)), strict=True)
        base, base_xs = zip(*found["base"].values(), strict=True)
        rates, base_rates = ([c["sampled"]["clear_rate"] for c in of] for of in (cells, base))
        is_base = variant == "base"
        yield row(
            [
                *(variant, ", ".join(f"{100 * c['argmax']['clear_rate']:.0f}" for c in cells)),
                ", ".join(f"{100 * rate:.0f}" for rate in rates),
                "" if is_base else difference(rates, base_rates, 100),
                ", ".join(f"{x:,.0f}" for x in xs),
                "" if is_base else difference(xs, base_xs, 1),
                ", ".join(f"{c['last']['entropy']:.2g}" for c in cells),
                ", ".join(f"{c['wall_s'] / 60:.0f}" for c in cells),
                "; ".join(sorted({f for c in cells for f in c["findings"]})),
                ", ".join(sorted({c["git_commit"][:7] for c in cells})),
            ]
        )


KINDS: dict[str, Callable[..., Iterator[str]]] = {
    **{"evaluations": evaluations, "policies": policies, "seeds": seeds, "speed": speed},
    **{"comparison": comparison, "milestones": milestones, "curiosity": curiosity},
    **{"played": played, "ablations": ablations},
}


def with_tables(page: Path, text: str) -> str:
    """Return a page's text with every table written anew; links fit the page's folder.

    Raises:
        KeyError, OSError, ValueError: a marker names no kind, or no file of that kind.
    """

    def table(match: re.Match[str]) -> str:
        paths = [ROOT / path for path in match[2].split()]
        rows = "\n".join(KINDS[match[1]](*paths))
        up = Path(os.path.relpath(ROOT, page.parent)).as_posix()
        if up != ".":
            rows = rows.replace("](", f"]({up}/")
        return f"<!-- table: {match[1]} {match[2]} -->\n{rows}\n<!-- end -->"

    return TABLE.sub(table, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, or look; exit 2 if a marker cannot be followed."""
    flags = tyro.cli(TableFlags, args=arguments, description=__doc__)
    stale = []
    for page in documents():
        text = page.read_text(encoding="utf-8")
        try:
            fresh = with_tables(page, text)
        except (KeyError, OSError, ValueError) as error:
            print(f"error: a table of {page.relative_to(ROOT)}: {error!r}", file=sys.stderr)
            return 2
        if fresh == text:
            continue
        stale.append(page.relative_to(ROOT).as_posix())
        if not flags.check:
            page.write_text(fresh, encoding="utf-8", newline="\n")
    for name in stale:
        print(f"{'out of date' if flags.check else 'written'}: {name}")
    return 1 if flags.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
