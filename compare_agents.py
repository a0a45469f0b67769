"""PPO and DreamerV3 side by side, by steps and by wall time: comparison.md, .png and .json.

    python compare_agents.py --ppo runs/ppo_seed0 runs/ppo_seed1 --dreamerv3 runs/dreamer_seed0

A path is one seed: a run folder, or a run that a study keeps, such as results/ppo_1-1/seed0
(`mario_results`), whose phases follow each other.
Over seeds: interquartile mean with 95 % bootstrap intervals (Agarwal et al. 2021,
arXiv:2108.13264, whose library rliable does the same with pandas, arch and seaborn on top).
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from mario_cli import UsageError, exit_code
from mario_comparison import AXES, MEASURES, Run, compare, milestone_rows, read_run, result_rows
from mario_files import make_folder
from mario_runs import atomic_write, provenance, write_json
from mario_values import Checked, parse_flags

COLORS = {"ppo": "#2563eb", "dreamerv3": "#dc2626"}
MORE_COLORS = ("#2563eb", "#dc2626", "#16a34a", "#9333ea", "#ea580c", "#0891b2", "#be185d")


def color_of(name: str, names: Sequence[str]) -> str:
    """Return the colour of a curve: an agent's own, or one by its place."""
    return COLORS.get(name, MORE_COLORS[list(names).index(name) % len(MORE_COLORS)])


def by_run(agents: dict[str, list[Run]]) -> dict[str, list[Run]]:
    """Return each run alone, under the name of its folder; of two alike, under its whole path."""
    runs = [run for found in agents.values() for run in found]
    names = [Path(run.name).name for run in runs]
    return {
        run.name if names.count(name) > 1 else name: [run]
        for name, run in zip(names, runs, strict=True)
    }


@dataclasses.dataclass(frozen=True)
class CompareFlags(Checked):
    """Which runs, by what."""

    ppo: tuple[Path, ...] = ()
    """PPO's seeds."""
    dreamerv3: tuple[Path, ...] = ()
    """DreamerV3's seeds."""
    source: Literal["evaluations", "training"] = "evaluations"
    """evaluations: episodes under a protocol at intervals; training: the last 100 training episodes
    from the level's start, sampled."""
    policy: Literal["sampled", "argmax"] = "sampled"
    """Whose evaluations."""
    apart: bool = False
    """A curve for each run, named by its folder, instead of one over the seeds of an agent: for
    runs of one agent under different flags."""
    note: str = ""
    """What a reader has to know of the runs: what else the machine did."""
    output_dir: Path = Path("runs/comparison")
    """Where the three files go."""


# --------------------------------------------------------------------------------------------
# Writing
# --------------------------------------------------------------------------------------------


def figure(agents: dict[str, list[Run]], content: dict[str, Any]) -> Figure:
    """Return the four panels: both measures by both axes; seeds thin, their IQM with its band."""
    drawing = Figure(figsize=(10, 6), layout="constrained")
    panels = drawing.subplots(2, 2, sharex="col", sharey="row")
    for row, (measure, title) in enumerate(MEASURES.items()):
        for column, (axis, (unit, size)) in enumerate(AXES.items()):
            panel = panels[row, column]
            for name, runs in agents.items():
                color = color_of(name, list(agents))
                for run in runs:
                    xs = [getattr(point, axis) / size for point in run.points]
                    ys = [getattr(point, measure) for point in run.points]
                    panel.step(xs, ys, where="post", color=color, alpha=0.35, linewidth=0.8)
                curve = content["agents"][name]["curves"][axis]
                xs = [x / size for x in curve[axis]]
                found = curve[measure]
                label = f"{name}, {len(runs)} seed{'s' * (len(runs) > 1)}"
                panel.plot(xs, found["iqm"], color=color, linewidth=2, label=label)
                if "low" in found:
                    panel.fill_between(xs, found["low"], found["high"], color=color, alpha=0.15)
            panel.set_xscale("log")
            panel.grid(alpha=0.25)
            if row == 1:
                panel.set_xlabel(unit)
            if column == 0:
                panel.set_ylabel(title)
    panels[0, 0].legend(frameon=False)
    return drawing


def markdown(content: dict[str, Any]) -> str:
    """Return comparison.md."""
    runs = [run for agent in content["agents"].values() for run in agent["runs"]]
    machines = sorted({run["machine"] for run in runs})
    lines = [
        f"# {' and '.join(content['agents'])} on {content['stage']}",
        "",
        "![clear rate and max-x by steps and by wall time](comparison.png)",
        "",
        f"By {content['source']}: {content['policy']}, {content['conditions']}. Interquartile "
        "mean over seeds (of fewer than four: their mean) and, in brackets, its 95 % bootstrap "
        "interval, which is rough for few seeds.",
        f"Machine: {machines[0]}."
        if len(machines) == 1
        else f"**Wall times are of different machines: {'; '.join(machines)}.**",
        *([content["note"]] if content["note"] else []),
        "",
        *result_rows(content),
        "",
        "First point at which the mean max-x came that far, and at which an episode cleared; "
        "medians over the seeds that got there:",
        "",
        *milestone_rows(content),
        "",
        f"    python {shlex.join(content['provenance']['command'])}",
        "",
        f"Commit {content['provenance']['git_commit']}. Runs:",
        "",
        *(
            f"- {run['name']}: {run['steps']:,.0f} steps, {run['wall_s'] / 60:,.0f} min"
            + (f", after the steps of {run['begun_from']}" if run["begun_from"] else "")
            for run in runs
        ),
    ]
    return "\n".join(lines) + "\n"


def run_comparison(flags: CompareFlags) -> None:
    """Read, compare, write."""
    if flags.source == "training" and flags.policy == "argmax":
        raise UsageError("training episodes are sampled: --policy argmax goes with evaluations")
    paths = {"ppo": flags.ppo, "dreamerv3": flags.dreamerv3}
    given = [path.resolve() for found in paths.values() for path in found]
    if twice := [path for path in given if given.count(path) > 1]:
        raise UsageError(f"{twice[0].name} is named twice: a run is one seed")
    agents = {
        name: [read_run(path, name, flags.source, flags.policy) for path in found]
        for name, found in paths.items()
        if found
    }
    runs = [run for found in agents.values() for run in found]
    if not runs:
        raise UsageError("name run folders: --ppo, --dreamerv3")
    for field in ("stage", "conditions"):
        kinds = sorted({getattr(run, field) for run in runs})
        if len(kinds) > 1:
            raise UsageError(f"runs of different {field} are not compared: {' | '.join(kinds)}")
    if flags.apart:
        agents = by_run(agents)
    about = {
        **{"stage": runs[0].stage, "conditions": runs[0].conditions},
        **{"source": flags.source, "policy": flags.policy, "note": flags.note},
        "provenance": provenance(),
    }
    content = about | compare(agents)
    output = flags.output_dir
    make_folder(output)
    print("\n".join([*result_rows(content), "", *milestone_rows(content)]), flush=True)
    write_json(output / "comparison.json", content)
    atomic_write(
        output / "comparison.png", lambda path: figure(agents, content).savefig(path, dpi=110)
    )
    atomic_write(output / "comparison.md", markdown(content).encode())
    print(f"written: {output}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and compare."""
    return exit_code(lambda: run_comparison(parse_flags(CompareFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
