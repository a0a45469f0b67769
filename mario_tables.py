"""Evidence as Markdown: the tables that stand in README, docs, results and cards.

A table stands between `<!-- table: KIND PATH... -->` and `<!-- end -->`. A path is a study's
folder, or a run in it (`results/ppo_1-1/seed0`). Kinds:

    evaluations RUN    every protocol in both modes
    policies RUN...    a row a shipped policy: cleared under noop and sticky, steps
    teachers STUDY     a row a level: its teacher under sticky buttons, and its shipped student
    trainings RUN      the trainings behind a shipped policy, warm start by warm start
    routes STUDY       a row a searched clear: its length, what it cost, its flags
    levels STUDY       a row a stage: the shortest route found, what its shipped policy reaches
    seeds STUDY        a row a seed of a recipe
    speed RUN          a row a measure of bench_throughput.py: ours beside the peer's
    comparison RUN...  compare_agents.py: results
    milestones RUN...  compare_agents.py: how soon it came how far
    curiosity RUN      dreamerv3/diagnose.py --curiosity
    played RUN         dreamerv3/diagnose.py --play
    deaths STUDY       a row a run: flags in training, and what its model says of deaths
    ablations STUDY    a row a variant, over its seeds: against `base`
    chains STUDY       a row a judged run, as train_mario_professional.py reports it
    over_seeds STUDY   a row a variant and mode: medians and intervals over seeds
    progress STUDY     a row an evaluation while training: metrics up to it, and clears
"""

from __future__ import annotations

import functools
import os
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_ind

import mario_comparison
from mario_comparison import compare, milestone_rows, read_run, result_rows
from mario_demos import AGENT_FRAMES
from mario_game import STAGES, StageId, parse_stages
from mario_judge import wilson_interval
from mario_policies import PRETRAINED, shipped_models
from mario_results import (
    RESULTS,
    ROOT,
    SHIPPED,
    Evaluation,
    Judgement,
    Mode,
    Point,
    Study,
    Turn,
    is_study,
    read_study,
    study_and_run,
)
from mario_search.play import MAX_SPEED_PX, STAGES_BEHIND_PIPES

TABLE = re.compile(r"<!-- table: (\w+) ([^>]+?) -->\n.*?<!-- end -->", re.DOTALL)
MODES: tuple[Mode, ...] = ("argmax", "sampled")
JUDGED = [(protocol, mode) for protocol in ("noop", "sticky") for mode in MODES]
ROUTES = RESULTS / "routes"  # the study of all searched clears
FASTEST_POLICY = "ppo_mario_1-1_speedrun"
GOAL = 0.95  # of the episodes: what counts as clearing a level
TEACHES = 0.8  # of the episodes: what counts as a teacher of a level


def documents() -> list[Path]:
    """Return the pages that can hold tables."""
    folders = ("docs", "results", "pretrained")
    return [
        ROOT / "README.md",
        *(page for of in folders for page in sorted(ROOT.glob(f"{of}/**/*.md"))),
    ]


# --------------------------------------------------------------------------------------------
# Cells
# --------------------------------------------------------------------------------------------


def row(cells: Iterable[object]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def head(*names: str) -> list[str]:
    """Return a table's first two lines."""
    return [row(names), "|---" * len(names) + "|"]


def number(value: float | None) -> str:
    """Return "3,161", or nothing."""
    return "" if value is None else f"{value:,.0f}"


def short(commit: str) -> str:
    """Return a commit's first seven digits, and the + of a working tree with changes."""
    return commit[:7] + "+" * commit.endswith("+")


def minutes(seconds: float | None) -> str:
    """Return seconds as whole minutes, or nothing."""
    return "" if seconds is None else f"{seconds / 60:.0f}"


def card_link(run: str) -> str:
    """Return a link to a shipped policy's card, as of the repository's root."""
    return f"[{run.rpartition('/')[2]}]({PRETRAINED.name}/{run}/README.md)"


# --------------------------------------------------------------------------------------------
# Policies
# --------------------------------------------------------------------------------------------


def judged_on_fast(study: Study, run: str) -> dict[tuple[str, Mode], Judgement]:
    """Return a run's judgements on the emulator `fast`, by protocol and mode."""
    found = study.judgements(run)
    return {(one.protocol, one.mode): one for one in found if one.emulator == "fast"}


def evaluations(path: Path) -> Iterator[str]:
    """Yield a row a protocol and mode."""
    study, run = study_and_run(path)
    yield from head(
        *("emulator", "protocol", "policy", "cleared (95 % interval)"),
        *("median max-x", "best max-x", "median steps", "best steps"),
    )
    for one in study.judgements(run):
        yield row(
            [
                *(one.emulator, one.protocol, one.mode, one),
                *(number(one.median_max_x), number(one.best_max_x)),
                *(number(one.median_clear_steps), number(one.best_clear_steps)),
            ]
        )


def policies(*paths: Path) -> Iterator[str]:
    """Yield a row a shipped policy, with a link to its card."""
    names = [f"{protocol}, {mode}" for protocol, mode in JUDGED]
    yield from head("policy", "told in training", *names, "median steps", "best steps")
    for path in paths:
        study, run = study_and_run(path)
        found = judged_on_fast(study, run)
        best = [one.best_clear_steps for one in found.values() if one.best_clear_steps]
        yield row(
            [
                *(card_link(run), study.about.runs[run].told),
                *(found.get(kind, "") for kind in JUDGED),
                number(found["noop", "sampled"].median_clear_steps),
                number(min(best, default=None)),
            ]
        )


def teachers(path: Path) -> Iterator[str]:
    """Yield a row a level, its run called after it, and how many levels a teacher clears."""
    study, shipped = read_study(path), read_study(SHIPPED)
    names = [f"{who}, {mode}" for who in ("teacher", "its student") for mode in MODES]
    yield from head("level", "taught with", "agent steps", *names, "steps")
    good = 0
    for level in sorted(study.about.runs):
        [training] = study.about.runs[level].trainings
        found = [study.judgement(level, "sticky", mode) for mode in MODES]
        good += max(one.clear_rate for one in found) >= TEACHES
        student = f"taught/{level}"
        learnt: list[object] = ["", ""]
        if student in shipped.about.runs:
            learnt = [shipped.judgement(student, "sticky", mode) for mode in MODES]
        others = [str(one) for one in parse_stages(training.stages) if str(one) != level]
        taught_with = "all" if training.stages == "all" else ", ".join(others)
        best = max(found, key=lambda one: one.clear_rate)
        steps = number(best.median_clear_steps)
        yield row([level, taught_with, number(training.steps), *found, *learnt, steps])
    yield ""
    total = len(study.about.runs)
    yield f"{good} of {total} teachers clear {TEACHES:.0%} or more in the better mode."


def trainings(path: Path) -> Iterator[str]:
    """Yield a row a training, the first one first."""
    study, run = study_and_run(path)
    yield from head(
        *("training", "stages", "told", "agent steps", "minutes", "seed", "commit", "command")
    )
    for one in study.about.runs[run].trainings:
        if one.steps is None:
            yield row([one.run, "", "", "not recorded", "", "", "", ""])
            continue
        yield row(
            [
                *(one.run, one.stages, one.told, number(one.steps), minutes(one.wall_s), one.seed),
                *(short(one.git_commit or ""), f"`{' '.join(['python', *one.command])}`"),
            ]
        )


# --------------------------------------------------------------------------------------------
# Levels
# --------------------------------------------------------------------------------------------


def route_steps() -> dict[str, int]:
    """Return the agent steps of the shortest clear that a search has found, by stage."""
    if not is_study(ROUTES):
        return {}
    study = read_study(ROUTES)
    return {run: int(study.figures(run)["agent_steps"]) for run in study.about.runs}


def floor_steps(level: StageId) -> int | None:
    """Return the agent steps at top speed from start to goal; None if no one area holds both."""
    stage = STAGES[level]
    if stage.start_area != stage.goal_area or level in STAGES_BEHIND_PIPES:
        return None
    return (stage.goal_line_x - stage.start_x) // (MAX_SPEED_PX * AGENT_FRAMES)


def routes(path: Path) -> Iterator[str]:
    """Yield a row a searched clear, what 1-1's is held against, and where all were searched."""
    study = read_study(path)
    yield from head(
        *("stage", "agent steps", "floor", "frames", "first", "found, CPU s", "by the clock"),
        *("shortened", "flags"),
    )
    for run, facts in sorted(study.about.runs.items()):
        found = study.figures(run)
        floor = floor_steps(*parse_stages(facts.stage))
        yield row(
            [
                *(run, f"{found['agent_steps']:.0f}", "" if floor is None else floor),
                *(f"{found[key]:.0f}" for key in ("frames", "first_agent_steps")),
                *(found[key] for key in ("explore_cpu_s", "explore_wall_s", "shorten_cpu_s")),
                f"`{facts.note}`",
            ]
        )
    if "1-1" in study.about.runs:
        found = study.figures("1-1")
        fastest = read_study(SHIPPED).judgement(FASTEST_POLICY, "fixed", "argmax").best_clear_steps
        yield ""
        yield (
            f"1-1, the yardstick of speed: {found['agent_steps']:.0f} agent steps, "
            f"{found['frames']:.0f} frames; the floor is {floor_steps(StageId(1, 1))} and the "
            f"start-up. The shipped policy {FASTEST_POLICY} takes {fastest}."
        )
    made = [study.phases(run)[0].config["provenance"] for run in study.about.runs]
    machines = {f"{one['machine']['cpus']} cores of {one['machine']['cpu']}" for one in made}
    commits = sorted({short(one["git_commit"] or "unknown") for one in made})
    yield ""
    yield f"Machine: {'; '.join(sorted(machines))}. Commits: {', '.join(commits)}."


def better_mode(study: Study, run: str, protocol: str) -> Judgement:
    """Return the mode that clears more often, argmax if they are alike."""
    return max(
        (study.judgement(run, protocol, mode) for mode in MODES), key=lambda one: one.clear_rate
    )


def level_cells(study: Study, run: str, level: str) -> list[object]:
    """Return a shipped policy's cells of the table of levels, from told to seed."""
    better = better_mode(study, run, "noop")
    found = judged_on_fast(study, run)
    ends = [one.end_x for one in better.played if not one.cleared]
    facts = study.about.runs[run]
    own = [one for one in facts.trainings if level in one.stages.split(",") or one.stages == "all"]
    trained: list[object] = ["", "", ""]
    if facts.trainings and all(one.steps is not None for one in facts.trainings):
        trained = [
            number(sum(one.steps or 0 for one in own)),
            number(sum(one.steps or 0 for one in facts.trainings)),
            minutes(sum(one.wall_s or 0 for one in facts.trainings)),
        ]
    return [
        facts.told,
        *(found.get(kind, "") for kind in JUDGED),
        f"{better.median_clear_steps:.0f}, {better.best_clear_steps}" if better.clears else "",
        f"{statistics.median(ends):.0f}" if ends else "",
        *trained,
        facts.trainings[-1].seed if facts.trainings else "",
    ]


def levels(path: Path) -> Iterator[str]:
    """Yield a row a stage, one for each other and each older policy, and a sentence that counts."""
    study, steps = read_study(path), route_steps()
    yield from head(
        *("level", "route", "told", *(f"{protocol}, {mode}" for protocol, mode in JUDGED)),
        *("steps", "dies at", "trained", "of all", "minutes", "seed"),
    )
    there: dict[str, int] = {"noop": 0, "sticky": 0}
    count = 0
    for stage in STAGES:
        name = str(stage)
        if not (models := shipped_models(stage)):
            yield row([name, steps.get(name, ""), *[""] * 11])
            continue
        runs = [model.parent.relative_to(PRETRAINED).as_posix() for model in models]
        # A policy that a better one has replaced is not shipped any more; its episodes are kept.
        gone = [run for run in study.about.runs if run.endswith(f"/{name}") and run not in runs]
        for run in [*runs, *gone]:
            said = name if run == runs[0] else f"{name}, {'older' if run in gone else 'another'}"
            link = f"[{said}]({PRETRAINED.name}/{run}/README.md)"
            cells = level_cells(study, run, name)
            yield row([said if run in gone else link, steps.get(name, ""), *cells])
        count += 1
        there["noop"] += better_mode(study, runs[0], "noop").clear_rate >= GOAL
        rates = [study.judgement(runs[0], "sticky", mode).clear_rate for mode in MODES]
        there["sticky"] += min(rates) >= GOAL
    yield ""
    yield (
        f"{count} of {len(STAGES)} levels have a policy; {there['noop']} clear {GOAL:.0%} or more "
        f"under `noop` in the better mode, {there['sticky']} under `sticky` in both."
    )


# --------------------------------------------------------------------------------------------
# Recipes
# --------------------------------------------------------------------------------------------


def trained(study: Study, run: str) -> tuple[int, float, str]:
    """Return a run's agent steps, its seconds, and the commit that made it."""
    phases = study.phases(run)
    steps = sum(phase.points[-1].step for phase in phases)
    wall_s = sum(phase.points[-1].wall_s for phase in phases)
    return steps, wall_s, phases[-1].config["provenance"]["git_commit"]


def seeds(path: Path) -> Iterator[str]:
    """Yield a row a seed."""
    study = read_study(path)
    yield from head(
        *("seed", "argmax", "sampled", "median steps", "best steps"),
        *("kept at step", "trained steps", "minutes", "commit"),
    )
    of_seeds = [(facts.seed, run) for run, facts in study.about.runs.items()]
    for seed, run in sorted(of_seeds):
        argmax, sampled = (study.judgement(run, "noop", mode) for mode in MODES)
        steps, wall_s, commit = trained(study, run)
        yield row(
            [
                *(seed, argmax, sampled),
                *(number(argmax.median_clear_steps), number(argmax.best_clear_steps)),
                *(number(study.about.runs[run].kept_at_step), number(steps)),
                *(minutes(wall_s), short(commit)),
            ]
        )


def judged_chain(study: Study, run: str) -> dict[str, Any]:
    """Return a run as train_mario_mario_comparison.py's report has it."""
    facts = study.about.runs[run]
    steps, wall_s, commit = trained(study, run)
    content: dict[str, Any] = {
        **{"variant": facts.variant, "stage": facts.stage, "seed": facts.seed},
        **{"steps": steps, "wall_s": wall_s, "git_commit": commit, "findings": facts.findings},
        "entropy": study.phases(run)[-1].points[-1].metrics["entropy"],
    }
    for mode in MODES:
        judged = study.judgement(run, "noop", mode)
        content["episodes"] = len(judged.played)
        content[mode] = {
            "clear_rate": judged.clear_rate,
            "median_max_x": judged.median_max_x,
            "median_clear_steps": judged.median_clear_steps,
        }
    return content


def judged_chains(path: Path) -> list[dict[str, Any]]:
    """Return a study's judged runs by variant, stage and seed."""
    study = read_study(path)
    found = [judged_chain(study, run) for run in study.about.runs if study.judgements(run)]
    return sorted(found, key=lambda one: (one["variant"], one["stage"], one["seed"]))


def chains(path: Path) -> Iterator[str]:
    """Yield a row a judged run."""
    yield from mario_comparison.chain_rows(judged_chains(path))


def over_seeds(path: Path) -> Iterator[str]:
    """Yield a row a variant, stage and mode."""
    yield from mario_comparison.seed_rows(judged_chains(path))


def difference(values: Sequence[float], base: Sequence[float], scale: float) -> str:
    """Return "-12 (-30 to +6)": of two means, and Welch's 95 % interval, over seeds."""
    by = f"{scale * (np.mean(values) - np.mean(base)):+,.0f}"
    if np.ptp(values) == np.ptp(base) == 0:
        return by  # every seed the same: no interval
    low, high = ttest_ind(values, base, equal_var=False).confidence_interval()
    return f"{by} ({scale * low:+,.0f} to {scale * high:+,.0f})"


def mean_sampled_x(study: Study, run: str) -> float:
    """Return the mean over a run's evaluations of the sampled episodes' mean max-x, px."""
    rows = [one.max_x for one in study.of(Evaluation, run) if one.mode == "sampled"]
    return float(np.mean(rows))


def ablations(path: Path) -> Iterator[str]:
    """Yield a row a variant: its seeds side by side, and the difference to `base`."""
    study = read_study(path)
    yield from head(
        *("variant", "argmax", "sampled", "sampled - base", "max-x while training"),
        *("max-x - base", "entropy at the end", "minutes", "doctor", "commit"),
    )
    found: dict[str, list[tuple[int, str]]] = {}
    for run, facts in study.about.runs.items():
        found.setdefault(facts.variant, []).append((facts.seed or 0, run))
    runs = {variant: [run for _, run in sorted(of)] for variant, of in found.items()}
    xs = {variant: [mean_sampled_x(study, run) for run in of] for variant, of in runs.items()}
    cells = {variant: [judged_chain(study, run) for run in of] for variant, of in runs.items()}
    rates = {variant: [one["sampled"]["clear_rate"] for one in of] for variant, of in cells.items()}
    for variant in sorted(runs):
        is_base, of = variant == "base", cells[variant]
        yield row(
            [
                *(variant, ", ".join(f"{100 * one['argmax']['clear_rate']:.0f}" for one in of)),
                ", ".join(f"{100 * rate:.0f}" for rate in rates[variant]),
                "" if is_base else difference(rates[variant], rates["base"], 100),
                ", ".join(f"{x:,.0f}" for x in xs[variant]),
                "" if is_base else difference(xs[variant], xs["base"], 1),
                ", ".join(f"{one['entropy']:.2g}" for one in of),
                ", ".join(minutes(one["wall_s"]) for one in of),
                "; ".join(sorted({finding for one in of for finding in one["findings"]})),
                ", ".join(sorted({short(one["git_commit"]) for one in of})),
            ]
        )


PROGRESS = {  # a metric's heading
    "max_x": "max-x, mean of the last episodes",
    "dreamer/label_gap": "gap to the teacher",
    "dreamer/latent_recall": "things known: recall",
    "dreamer/latent_precision": "precision",
    "dreamer/latent_place_px": "place, px",
    "dreamer/foretold_recall": "things foretold: recall",
    "dreamer/foretold_precision": "foretold: precision",
    "dreamer/foretold_place_px": "foretold: place, px",
}


def measured(value: float | None) -> str:
    """Return "1,930", "0.337", or nothing."""
    return number(value) if value is None or value >= 100 else f"{value:.3g}"


def progress(path: Path) -> Iterator[str]:
    """Yield a row an evaluation, and one of where it ended for a run that had none."""
    study = read_study(path)
    points = [point for run in study.about.runs for point in study.of(Point, run)]
    metrics = [name for name in PROGRESS if any(name in one.metrics for one in points)]
    names = [PROGRESS[name] for name in metrics]
    yield from head("run", "steps", "minutes", *names, "argmax", "sampled", "median max-x")
    for run in study.about.runs:
        curve = study.of(Point, run)
        judged: dict[int, dict[Mode, Evaluation]] = {}
        for one in study.of(Evaluation, run):
            judged.setdefault(one.step, {})[one.mode] = one
        last = -1  # a metric counts until the evaluation after it
        for step in sorted(judged) or [curve[-1].step]:
            before = [point for point in curve if point.step <= step]
            since = [point for point in before if point.step > last]
            known = {name: value for point in since for name, value in point.metrics.items()}
            last = step
            modes = [judged.get(step, {}).get(mode) for mode in MODES]
            clears = [
                f"{one.clear_rate * one.episodes:.0f}/{one.episodes}" if one else ""
                for one in modes
            ]
            median = " / ".join(number(one.median_max_x) for one in modes if one)
            yield row(
                [
                    *(run, number(step), minutes(before[-1].wall_s if before else None)),
                    *(measured(known.get(name)) for name in metrics),
                    *(*clears, median),
                ]
            )


# --------------------------------------------------------------------------------------------
# Tools
# --------------------------------------------------------------------------------------------


def times(ratio: float) -> str:
    """Return "31.3x", or "0.871x, slower"."""
    return f"{ratio:.3g}x" + (", slower" if ratio < 1 else "")


def reached(ratio: float | None, ratios: Sequence[float]) -> str:
    """Return "31.3x (28.5 to 34.1)": a ratio, its lowest and highest turn; or nothing."""
    return f"{times(ratio)} ({min(ratios):.3g} to {max(ratios):.3g})" if ratio is not None else ""


def with_unit(value: float | None, unit: str) -> str:
    """Return "6,687 agent steps/s", or nothing."""
    if value is None:
        return ""
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def speed(path: Path) -> Iterator[str]:
    """Yield a row a measure: the medians over its turns, and the ratio's lowest and highest."""
    study, run = study_and_run(path)
    yield from head("measure", "ours", "the peer's", "ours over theirs (lowest to highest turn)")
    turns = study.of(Turn, run)
    for median in (one for one in turns if one.turn == 0):
        ratios = [
            one.ratio for one in turns if one.measure == median.measure and one.turn and one.ratio
        ]
        yield row(
            [
                *(median.measure, with_unit(median.ours, median.unit)),
                *(with_unit(median.theirs, median.unit), reached(median.ratio, ratios)),
            ]
        )


@functools.cache
def compared(paths: tuple[Path, ...]) -> dict[str, Any]:
    """Return compare_agents.py's comparison of runs by what they did while training."""
    agents: dict[str, list[Any]] = {}
    for path in paths:
        study, name = study_and_run(path)
        agent = study.phases(name)[0].config["agent"]
        agents.setdefault(agent, []).append(read_run(path, agent, "training", "sampled"))
    return compare(agents)


def comparison(*paths: Path) -> Iterator[str]:
    """Yield compare_agents.py's results."""
    yield from result_rows(compared(paths))


def milestones(*paths: Path) -> Iterator[str]:
    """Yield compare_agents.py's milestones."""
    yield from milestone_rows(compared(paths))


def tree(path: Path, part: str) -> dict[str, dict[str, float]]:
    """Return a run's figures called `part`/name/key as key by name."""
    study, run = study_and_run(path)
    found: dict[str, dict[str, float]] = {}
    for name, value in study.figures(run).items():
        if name.startswith(f"{part}/"):
            _, of, key = name.split("/", 2)
            found.setdefault(of, {})[key] = value
    return found


def curiosity(path: Path) -> Iterator[str]:
    """Yield a row a signal."""
    yield from head("paid", "mean a step", "lowest", "highest", "better dead", "life")
    for name, found in tree(path, "curiosity").items():
        figures = (f"{found[key]:.2g}" for key in ("mean", "min", "max"))
        yield row([name, *figures, f"{found['better_dead']:.0%}", f"{found['life']:+.2f}"])


def played(path: Path) -> Iterator[str]:
    """Yield a row a way of sampling."""
    yield from head("sampled", "cleared (95 % interval)", "median max-x")
    for name, found in tree(path, "played").items():
        clears, episodes = int(found["flags_cleared"]), int(found["episodes"])
        low, high = (100 * bound for bound in wilson_interval(clears, episodes))
        text = f"{clears}/{episodes} ({low:.0f}-{high:.0f} %)"
        yield row([name, text, number(found["median_max_x"])])


def deaths(path: Path) -> Iterator[str]:
    """Yield a row a run that dreamerv3/diagnose.py has asked of deaths."""
    study = read_study(path)
    chances = {run: tree(path / run, "lives_on") for run in study.about.runs}
    asked = {run: found for run, found in chances.items() if found}
    times = list(next(iter(asked.values())))
    yield from head("run", "steps", "flags in training", *times)
    for run, found in asked.items():
        figures = study.figures(run)
        flags = f"{figures['flags']:.0f} of {figures['episodes']:,.0f} episodes"
        cells = (f"{found[of]['dies']:.2f} ({found[of]['lives']:.2f})" for of in times)
        yield row([run, number(study.of(Point, run)[-1].step), flags, *cells])


KINDS: dict[str, Callable[..., Iterator[str]]] = {
    **{"evaluations": evaluations, "policies": policies, "trainings": trainings},
    "teachers": teachers,
    **{"routes": routes, "levels": levels, "seeds": seeds, "speed": speed},
    **{"comparison": comparison, "milestones": milestones},
    **{"curiosity": curiosity, "played": played, "deaths": deaths},
    **{"ablations": ablations, "chains": chains, "over_seeds": over_seeds},
    "progress": progress,
}


# --------------------------------------------------------------------------------------------
# Pages
# --------------------------------------------------------------------------------------------


def with_tables(page: Path, text: str) -> str:
    """Return a page's text with every table written anew; links fit the page's folder.

    Raises:
        KeyError, UsageError: a marker names no kind, or no study or run of that kind.
    """

    def table(match: re.Match[str]) -> str:
        paths = [ROOT / path for path in match[2].split()]
        rows = "\n".join(KINDS[match[1]](*paths))
        up = Path(os.path.relpath(ROOT, page.parent)).as_posix()
        if up != ".":
            rows = rows.replace("](", f"]({up}/")
        return f"<!-- table: {match[1]} {match[2]} -->\n{rows}\n<!-- end -->"

    return TABLE.sub(table, text)
