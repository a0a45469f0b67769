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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro
from matplotlib.figure import Figure
from scipy.stats import bootstrap, trim_mean

from mario_cli import UsageError, exit_code
from mario_game import with_stages_field
from mario_keeping import phase_of_run
from mario_results import PhaseRecord, study_and_run
from mario_runs import RunFolder, atomic_write, provenance, write_json

# px: past the first pits, the middle, the second pits, the stairs before the flag (3,161).
MILESTONES_PX = (724, 1500, 2000, 2600)
MEASURES = {"clear_rate": "clear rate", "max_x": "mean max-x (px)"}
AXES = {"step": ("agent steps", 1.0), "wall_s": ("minutes", 60.0)}  # title, units in one of it
CURVE_POINTS = 100
RESAMPLES = 2000
COLORS = {"ppo": "#2563eb", "dreamerv3": "#dc2626"}


@dataclasses.dataclass(frozen=True)
class CompareFlags:
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
    note: str = ""
    """What a reader has to know of the runs: what else the machine did."""
    output_dir: Path = Path("runs/comparison")
    """Where the three files go."""


# --------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------


class Point(NamedTuple):
    """A run at one moment."""

    step: float  # agent steps since its beginning
    wall_s: float
    clear_rate: float
    max_x: float  # px, mean over episodes


@dataclasses.dataclass(frozen=True)
class Run:
    """One seed."""

    name: str
    begun_from: str | None  # the model it was warm-started from, whose steps are not counted
    stage: str
    conditions: str  # what its episodes were played under
    machine: str
    points: list[Point]


def read_phases(path: Path) -> list[PhaseRecord]:
    """Return a run folder as one phase, or the phases of a study's run in their order.

    Raises:
        UsageError: it is neither.
    """
    if RunFolder(path).metrics_path.is_file():
        return [phase_of_run(path)]
    study, run = study_and_run(path)
    return study.phases(run)


def read_run(path: Path, agent: str, flags: CompareFlags) -> Run:
    """Return a seed's points; phases follow each other in steps and wall time.

    Raises:
        UsageError: there are none, or they are another agent's.
    """
    points: list[Point] = []
    conditions = set()
    step = wall_s = 0.0
    phases = read_phases(path)
    for phase in phases:
        if (of := phase.config.get("agent")) != agent:
            raise UsageError(f"{path} is a run of {of}, not of {agent}")
        if flags.source == "training":
            conditions.add(training_conditions(phase.config))
            points += [
                Point(
                    step + row.step,
                    wall_s + row.wall_s,
                    row.metrics["clear_rate"],
                    row.metrics["max_x"],
                )
                for row in phase.points
                if MEASURES.keys() <= row.metrics.keys()
            ]
        else:
            rows = [row for row in phase.evaluations if row.mode == flags.policy]
            conditions |= {f"protocol {row.protocol}" for row in rows}
            points += [
                Point(step + row.step, wall_s + row.wall_s, row.clear_rate, row.max_x)
                for row in rows
            ]
        step += phase.points[-1].step
        wall_s += phase.points[-1].wall_s
    if not points:
        raise UsageError(f"{path} has no {flags.source} to compare by (--source)")
    env = phases[0].config.get("env", {})
    machine = phases[0].config.get("provenance", {}).get("machine", {})
    return Run(
        name=path.as_posix(),
        begun_from=phases[0].config.get("run", {}).get("warm_start"),
        stage=with_stages_field(env).get("stages", "?"),
        conditions=" and ".join(sorted(conditions)),
        machine=f"{machine.get('cpus', '?')} cores, {machine.get('cpu', '?')}",
        points=points,
    )


def training_conditions(config: dict[str, Any]) -> str:
    """Return how a run's training episodes begin and are disturbed."""
    env = config.get("env", {})
    return f"{env.get('noop_max', '?')} no-ops at most, sticky {env.get('sticky_prob', '?')}"


# --------------------------------------------------------------------------------------------
# Comparing
# --------------------------------------------------------------------------------------------


def interquartile_mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return the mean without the lowest and highest quarter; of fewer than four, the mean."""
    return np.asarray(trim_mean(values, 0.25, axis=axis))


def over_seeds(values: np.ndarray) -> dict[str, list[float]]:
    """Return interquartile mean and its 95 % percentile bootstrap interval over seeds.

    Args:
        values: [seeds, points].

    Returns:
        `iqm`, `low` and `high`, [points] each; without the last two for a single seed.
    """
    found = {"iqm": interquartile_mean(values)}
    if len(values) > 1:
        interval = bootstrap(
            (values,),
            interquartile_mean,
            axis=0,
            vectorized=True,
            n_resamples=RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        found |= {"low": interval.low, "high": interval.high}
    return {name: [round(float(value), 4) for value in row] for name, row in found.items()}


def values_at(run: Run, axis: str, measure: str, where: np.ndarray) -> np.ndarray:
    """Return what was last known of a run at each place on an axis."""
    known = np.array([getattr(point, axis) for point in run.points])
    values = np.array([getattr(point, measure) for point in run.points])
    return values[np.searchsorted(known, where, side="right") - 1]


def span(runs: Sequence[Run], axis: str) -> tuple[float, float]:
    """Return from where to where on an axis every run has a value.

    Raises:
        UsageError: there is no such place.
    """
    first = max(getattr(run.points[0], axis) for run in runs)
    last = min(getattr(run.points[-1], axis) for run in runs)
    if first > last:
        names = ", ".join(run.name for run in runs)
        raise UsageError(f"no {AXES[axis][0]} that all of these runs have come to: {names}")
    return first, last


def at(runs: Sequence[Run], axis: str, where: np.ndarray) -> dict[str, dict[str, list[float]]]:
    """Return both measures `over_seeds` at places on an axis."""
    return {
        measure: over_seeds(np.array([values_at(run, axis, measure, where) for run in runs]))
        for measure in MEASURES
    }


def milestones(run: Run) -> dict[str, dict[str, float]]:
    """Return step and wall_s of the first point whose mean max-x is a milestone's, and of the flag.

    One that was not reached is absent.
    """
    reached = {
        f"x >= {x:,}": next((point for point in run.points if point.max_x >= x), None)
        for x in MILESTONES_PX
    }
    reached["flag"] = next((point for point in run.points if point.clear_rate > 0), None)
    return {
        name: {"step": point.step, "wall_s": point.wall_s}
        for name, point in reached.items()
        if point
    }


def compare(agents: dict[str, list[Run]]) -> dict[str, Any]:
    """Return what comparison.json holds of each agent, and of all at the same steps and time."""
    content: dict[str, Any] = {"agents": {}, "same": {}}
    for name, runs in agents.items():
        curves = {}
        for axis in AXES:
            where = np.geomspace(*span(runs, axis), CURVE_POINTS)
            curves[axis] = {axis: [round(x, 1) for x in where.tolist()]} | at(runs, axis, where)
        content["agents"][name] = {
            "runs": [
                {
                    **{"name": run.name, "begun_from": run.begun_from, "machine": run.machine},
                    **{"steps": run.points[-1].step, "wall_s": run.points[-1].wall_s},
                    "milestones": milestones(run),
                }
                for run in runs
            ],
            "end": at(runs, "step", np.array([span(runs, "step")[1]])),
            "curves": curves,
        }
    for axis in AXES:
        spans = [span(runs, axis) for runs in agents.values()]
        end = min(last for _, last in spans)
        content["same"][axis] = {axis: end} | {
            name: at(runs, axis, np.array([end]))
            for (name, runs), (first, _) in zip(agents.items(), spans, strict=True)
            if first <= end
        }
    return content


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
                color = COLORS[name]
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


def cell(found: dict[str, list[float]], measure: str) -> str:
    """Return "97 % (94-100)" or "2,310 (2,100-2,405)"; a single seed has no interval."""

    def text(value: float) -> str:
        return f"{100 * value:.0f}" if measure == "clear_rate" else f"{value:,.0f}"

    percent = " %" if measure == "clear_rate" else ""
    interval = f" ({text(found['low'][0])}-{text(found['high'][0])})" if "low" in found else ""
    return text(found["iqm"][0]) + percent + interval


def result_rows(content: dict[str, Any]) -> Iterator[str]:
    """Yield the table of results: each agent at its end, and all at the same steps and time."""
    yield f"| agent | seeds | when | {' | '.join(MEASURES.values())} |"
    yield "|---|---|---|---|---|"

    def row(name: str, when: str, found: dict[str, Any]) -> str:
        seeds = len(content["agents"][name]["runs"])
        cells = " | ".join(cell(found[measure], measure) for measure in MEASURES)
        return f"| {name} | {seeds} | {when} | {cells} |"

    same = content["same"]
    for name, agent in content["agents"].items():
        steps = min(run["steps"] for run in agent["runs"])
        minutes = max(run["wall_s"] for run in agent["runs"]) / 60
        yield row(name, f"at its end: {steps:,.0f} steps, {minutes:,.0f} min", agent["end"])
    if len(content["agents"]) > 1:
        for axis, when in (
            ("step", f"after {same['step']['step']:,.0f} steps"),
            ("wall_s", f"after {same['wall_s']['wall_s'] / 60:,.1f} min"),
        ):
            for name in content["agents"]:
                if name in same[axis]:
                    yield row(name, when, same[axis][name])


def milestone_rows(content: dict[str, Any]) -> Iterator[str]:
    """Yield the table of milestones: steps and minutes, medians over the seeds that reached it."""
    names = [f"x >= {x:,}" for x in MILESTONES_PX] + ["flag"]
    yield f"| agent | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for agent, found in content["agents"].items():
        cells = []
        for name in names:
            reached = [
                run["milestones"][name] for run in found["runs"] if name in run["milestones"]
            ]
            share = f"{len(reached)}/{len(found['runs'])}"
            if reached:
                steps = np.median([place["step"] for place in reached])
                minutes = np.median([place["wall_s"] for place in reached]) / 60
                cells.append(f"{steps:,.0f} steps, {minutes:,.1f} min ({share})")
            else:
                cells.append(f"not reached ({share})")
        yield f"| {agent} | {' | '.join(cells)} |"


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
        name: [read_run(path, name, flags) for path in found]
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
    about = {
        **{"stage": runs[0].stage, "conditions": runs[0].conditions},
        **{"source": flags.source, "policy": flags.policy, "note": flags.note},
        "provenance": provenance(),
    }
    content = about | compare(agents)
    output = flags.output_dir
    write_json(output / "comparison.json", content)
    atomic_write(
        output / "comparison.png", lambda path: figure(agents, content).savefig(path, dpi=110)
    )
    atomic_write(output / "comparison.md", markdown(content).encode())
    print("\n".join([*result_rows(content), "", *milestone_rows(content)]))
    print(f"written: {output}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and compare."""
    flags = tyro.cli(CompareFlags, args=arguments, description=__doc__)
    return exit_code(lambda: run_comparison(flags))


if __name__ == "__main__":
    sys.exit(main())
