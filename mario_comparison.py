"""What several runs say together: seeds at the same step or time, and tables of them.

Over seeds: interquartile mean with 95 % bootstrap intervals (Agarwal et al. 2021,
arXiv:2108.13264, whose library rliable does the same with pandas, arch and seaborn on top).
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.stats import bootstrap, trim_mean

from mario_cli import UsageError
from mario_game import with_stages_field
from mario_keeping import phase_of_run
from mario_results import Mode, PhaseRecord, study_and_run
from mario_runs import RunFolder

Source = Literal["evaluations", "training"]
# px: past the first pits, the middle, the second pits, the stairs before the flag (3,161).
MILESTONES_PX = (724, 1500, 2000, 2600)
MEASURES = {"clear_rate": "clear rate", "max_x": "mean max-x (px)"}
AXES = {"step": ("agent steps", 1.0), "wall_s": ("minutes", 60.0)}  # title, units in one of it
CURVE_POINTS = 100
RESAMPLES = 2000


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


def read_run(path: Path, agent: str, source: Source, policy: Mode) -> Run:
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
        if source == "training":
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
            rows = [row for row in phase.evaluations if row.mode == policy]
            conditions |= {f"protocol {row.protocol}" for row in rows}
            points += [
                Point(step + row.step, wall_s + row.wall_s, row.clear_rate, row.max_x)
                for row in rows
            ]
        if phase.points:
            step += phase.points[-1].step
            wall_s += phase.points[-1].wall_s
    if not points:
        other = "training" if source == "evaluations" else "evaluations"
        raise UsageError(f"{path} has no {source} to compare by yet; --source {other} may have")
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


def interquartile_mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return the mean without the lowest and highest quarter; of fewer than four, the mean."""
    return np.asarray(trim_mean(values, 0.25, axis=axis))


def iqm_over_seeds(values: np.ndarray) -> dict[str, list[float]]:
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
        measure: iqm_over_seeds(np.array([values_at(run, axis, measure, where) for run in runs]))
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


def mean_over_seeds(values: Sequence[float]) -> dict[str, float]:
    """Return median and 95 % bootstrap interval of the mean (BCa, SciPy) over seeds."""
    low = high = float(values[0])
    if len(set(values)) > 1:
        interval = bootstrap(
            (np.array(values),), np.mean, rng=np.random.default_rng(0)
        ).confidence_interval
        low, high = (
            float(bound) if np.isfinite(bound) else float(edge)
            for bound, edge in zip(interval, (min(values), max(values)), strict=True)
        )
    mean = statistics.fmean(values)
    return {"median": statistics.median(values), "mean": mean, "low": low, "high": high}


def chain_rows(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a table of judged chains."""
    yield (
        "| variant | stage | seed | argmax | sampled | median max-x (sampled) "
        "| median steps (sampled) | steps | minutes | doctor |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        steps = row["sampled"]["median_clear_steps"]
        cells = (
            *(row["variant"] or "-", row["stage"], row["seed"]),
            *(f"{row[mode]['clear_rate']:.0%}" for mode in ("argmax", "sampled")),
            f"{row['sampled']['median_max_x']:.0f}",
            "-" if steps is None else f"{steps:.0f}",
            f"{row['steps']:,}",
            f"{row['wall_s'] / 60:.0f}",
            ", ".join(row["findings"]) or "-",
        )
        yield f"| {' | '.join(str(cell) for cell in cells)} |"


def seed_rows(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a table of variants: of judged chains the medians and intervals over seeds."""
    yield "| variant | stage | policy | seeds | clear rate | median max-x |"
    yield "|---|---|---|---|---|---|"
    for variant, stage in dict.fromkeys((row["variant"], row["stage"]) for row in rows):
        of_both = [row for row in rows if (row["variant"], row["stage"]) == (variant, stage)]
        for mode in ("argmax", "sampled"):
            rate = mean_over_seeds([row[mode]["clear_rate"] for row in of_both])
            x = mean_over_seeds([row[mode]["median_max_x"] for row in of_both])
            yield (
                f"| {variant or '-'} | {stage} | {mode} | {len(of_both)} | {rate['median']:.0%}, "
                f"{rate['mean']:.0%} ({rate['low']:.0%}-{rate['high']:.0%}) | {x['median']:.0f}, "
                f"{x['mean']:.0f} ({x['low']:.0f}-{x['high']:.0f}) |"
            )


def results_as_markdown(name: str, rows: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: a row a chain, and medians and intervals over seeds."""
    protocols = " and ".join(sorted({row["protocol"] for row in rows}))
    lines = [
        f"# {name}\n\n{protocols} protocol, emulator fast, {rows[0]['episodes']} episodes each.\n",
        *chain_rows(rows),
        "\nOver seeds: the median, then the mean with its 95 % bootstrap interval.\n",
        *seed_rows(rows),
    ]
    return "\n".join(lines) + "\n"
