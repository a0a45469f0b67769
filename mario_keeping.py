"""What a study keeps of a run folder, an evaluation, a benchmark, a tool's JSON."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

from mario_cli import UsageError
from mario_judge import NOOP_MAX, Summary
from mario_report import evaluation_rows
from mario_results import (
    About,
    Evaluation,
    Figure,
    PhaseRecord,
    Played,
    Point,
    Row,
    RunFacts,
    Study,
    Told,
    Training,
    Turn,
    is_study,
    read_study,
    write_study,
)
from mario_runs import provenance
from mario_status import RunReader

KEPT_EVERY = 10_000  # agent steps between the points that a study keeps of a curve

# What a curve keeps of metrics.jsonl beside step and wall_s.
CURVE_METRICS = (
    *("env_steps_per_s", "episode_return", "episode_length", "max_x", "clear_rate", "entropy"),
    *("approx_kl", "clip_fraction", "value_loss", "explained_variance", "intrinsic_reward"),
    *("student/gap", "dreamer/label_gap"),
    *("dreamer/latent_recall", "dreamer/latent_precision", "dreamer/latent_place_px"),
    *("dreamer/foretold_recall", "dreamer/foretold_precision", "dreamer/foretold_place_px"),
)


def noops_of_seed(seed: int) -> int:
    """Return the no-ops at the start of an episode of one stage: its generator's first draw."""
    return int(gym.utils.seeding.np_random(seed)[0].integers(1, NOOP_MAX + 1))


def played_rows(run: str, summary: Summary) -> list[Played]:
    """Return an evaluation's episodes, a row each.

    Args:
        run: whose.
        summary: as `mario_judge.evaluate` returns it.
    """
    begun = [(one.stage, i) for one in summary.stages for i in range(one.episodes)]
    is_each_start = summary.protocol == "noop" and summary.deterministic
    episodes = zip(
        begun,
        *(summary.episode_flags, summary.episode_lengths, summary.episode_returns),
        *(summary.max_x_positions, summary.end_x_positions),
        strict=True,
    )
    rows = []
    for (stage, i), flag, length, episode_return, max_x, end_x in episodes:
        seed = summary.seed + i
        drawn = i + 1 if is_each_start else noops_of_seed(seed)
        rows.append(
            Played(
                run=run,
                mode=summary.mode,
                protocol=summary.protocol,
                emulator=summary.emulator,
                stage=str(stage),
                seed=seed,
                cleared=flag,
                length=length,
                episode_return=episode_return,
                max_x=max_x,
                end_x=end_x,
                noops=None if summary.protocol == "fixed" else drawn,
            )
        )
    return rows


def phase_of_run(folder: Path, run: str = "", phase: str = "", every: int = 1) -> PhaseRecord:
    """Return what is kept of a run folder.

    Args:
        folder: the run folder.
        run: its name in the study.
        phase: its name among the run's phases.
        every: agent steps between points; a point is the last line of metrics.jsonl up to there.

    Raises:
        UsageError: it has no metrics.
    """
    reader = RunReader(folder)
    last_in_bin = {-(-line["step"] // every): line for line in reader.read_metrics()}
    if not last_in_bin:
        raise UsageError(f"{folder} has no metrics.jsonl with lines in it")
    points = [
        Point(
            run,
            line["step"],
            line["wall_s"],
            phase,
            {name: line[name] for name in CURVE_METRICS if name in line},
        )
        for line in last_in_bin.values()
    ]
    evaluations = [
        Evaluation(run=run, phase=phase, mode=row.pop("policy"), **row)
        for row in evaluation_rows(reader)
    ]
    return PhaseRecord(reader.read_json(reader.folder.config_path), points, evaluations)


def figure_rows(run: str, content: Any, name: str = "") -> list[Figure]:
    """Return every number in JSON content, named by its path, without text and what is null."""
    if isinstance(content, dict | list | tuple):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        return [
            figure
            for key, value in pairs
            for figure in figure_rows(run, value, f"{name}/{key}" if name else str(key))
        ]
    return [Figure(run, name, float(content))] if isinstance(content, int | float) else []


def turn_rows(run: str, measures: Iterable[dict[str, Any]]) -> list[Turn]:
    """Return the `measures` of bench_throughput.py --json: of each the median, then its turns."""
    rows = []
    for one in measures:
        name, unit = one["name"], one["unit"]
        rows.append(Turn(run, name, unit, 0, one["ours"], one.get("theirs"), one.get("ratio")))
        rows += [
            Turn(run, name, unit, number, ratio=ratio)
            for number, ratio in enumerate(one.get("ratios", ()), 1)
        ]
    return rows


def told_by(*configs: dict[str, Any]) -> Told:
    """Return what the learner of trainings was told beside pixels and reward.

    Args:
        configs: the train_config.json of each.
    """
    agents = {config.get("agent") for config in configs}
    if "teacher" in agents:
        return "game state"
    models = [config.get("model", {}) for config in configs]
    if any(one.get("scene_head") == "informed" or one.get("sprite_share") for one in models):
        return "informed"
    if "student" in agents or any(config.get("run", {}).get("teacher") for config in configs):
        return "taught"
    demos = ("backward_demos", "seed_demos")
    parts = [config.get(part, {}) for config in configs for part in ("run", "curriculum")]
    return "demos" if any(part.get(key) for part in parts for key in demos) else "pixels only"


def told_in(trainings: Sequence[Training]) -> Told | None:
    """Return the most that any training behind a policy was told; None if of none is known.

    What its teachers were told it was not: a student of theirs is taught.
    """
    told = [one.told for one in trainings]
    if "taught" in told:
        told = told[told.index("taught") :]
    order: tuple[Told, ...] = ("game state", "informed", "taught", "demos", "pixels only")
    return next((one for one in order if one in told), None)


def keep_run(
    folder: Path,
    name: str,
    facts: RunFacts,
    rows: Iterable[Row],
    phases: dict[str, PhaseRecord] | None = None,
) -> None:
    """Put a run into the study in a folder, as `Study.with_run`.

    If there is none it is made, and says which command made it, on what machine.

    Raises:
        UsageError: the study there cannot be read.
        OSError: it cannot be written; it is as it was.
    """
    made = provenance()
    machine = made["machine"]
    about = About(
        title=folder.name,
        commands=(shlex.join(["python", *made["command"]]),),
        conditions=f"{machine['cpus']} cores, {machine['cpu']}",
        runs={},
    )
    study = read_study(folder) if is_study(folder) else Study(about)
    write_study(folder, study.with_run(name, facts, rows, phases))
