"""What a study keeps of a run folder, an evaluation, a benchmark, a tool's JSON."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import gymnasium as gym
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from mario_cli import UsageError
from mario_files import MAX_JSON_BYTES, parse_json, read_file
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
    study_of,
    write_study,
)
from mario_runs import CONFIG_MEMBER, provenance
from mario_status import RunReader

MAX_DEPTH = 32  # of mappings and lists in each other; a train_config.json has 4
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
    timed = [line for line in reader.read_metrics() if "wall_s" in line]
    if not timed:
        raise UsageError(f"{folder} has no metrics.jsonl with lines in it that say step and wall_s")
    last_in_bin = {-(-line["step"] // every): line for line in timed}
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


def leaves(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield every value in JSON content that is no mapping and no list, after its path.

    Raises:
        UsageError: no study can keep it: it is too deep, a number is not finite or has no name, or
            a text is no UTF-8 or has a null in it.
    """
    if isinstance(content, dict | list | tuple):
        if depth == MAX_DEPTH:
            raise UsageError(f"{name[:60]!r} is too deep")
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            check_text(str(key), name)
            yield from leaves(value, f"{name}/{key}" if name else str(key), depth + 1)
        return
    if isinstance(content, str):
        check_text(content, name)
    elif isinstance(content, int | float) and not (name and is_finite(content)):
        raise UsageError(f"{name[:60]!r} is no finite number, or has no name")
    yield name, content


def check_text(text: str, name: str) -> None:
    """Raise UsageError if no file and no path can hold a text; name is where it stands."""
    if "\0" in text or text.encode(errors="replace").decode() != text:
        raise UsageError(f"{name[:60]!r} holds a text that is no UTF-8, or a null")


def is_finite(number: float) -> bool:
    """Return whether a number, which may be an int of any size, is finite as a float."""
    try:
        return math.isfinite(float(number))
    except OverflowError:
        return False


def figure_rows(run: str, content: Any) -> list[Figure]:
    """Return every number in JSON content, named by its path, without text and what is null.

    Raises:
        UsageError: as `leaves`.
    """
    numbers = ((name, one) for name, one in leaves(content) if isinstance(one, int | float))
    return [Figure(run, name, float(number)) for name, number in numbers]


def read_figures(run: str, path: Path) -> list[Figure]:
    """Return the `figure_rows` of a tool's JSON file.

    Raises:
        UsageError: it cannot be read, is no JSON, or holds what no study can keep.
    """
    content = parse_json(read_file(path, MAX_JSON_BYTES), str(path))
    try:
        return figure_rows(run, content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


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


READ = ConfigDict(extra="ignore")


@dataclass(frozen=True, config=READ)
class DemosPart:
    """Which demos a part of a config names."""

    backward_demos: str | None = None
    seed_demos: str | None = None


@dataclass(frozen=True, config=READ)
class RunPart(DemosPart):
    """What a config's `run` says of where its model comes from."""

    seed: int | None = None
    run_dir: str = ""
    teacher: str | None = None
    warm_start: str | None = None


@dataclass(frozen=True, config=READ)
class ModelPart:
    """What a config's `model` says of what was told."""

    scene_head: str | None = None
    sprite_share: float | None = None


@dataclass(frozen=True, config=READ)
class Machine:
    """Where it was trained."""

    cpus: int | None = None
    cpu: str = ""
    gpu: str | None = None


@dataclass(frozen=True, config=READ)
class Provenance:
    """What a config's `provenance` says (`mario_runs.provenance`)."""

    command: tuple[str, ...]
    machine: Machine
    git_commit: str | None = None


@dataclass(frozen=True, config=READ)
class Origin:
    """What a train_config.json says of where its model comes from, and what it was told."""

    run: RunPart
    agent: str = ""
    env: dict[str, Any] = dataclasses.field(default_factory=dict)
    model: ModelPart = ModelPart()
    curriculum: DemosPart = DemosPart()
    provenance: Provenance | None = None


def read_origin(config: dict[str, Any], name: str) -> Origin:
    """Return what a config says of its model's origin.

    Args:
        config: the content of a train_config.json.
        name: of the file, for errors.

    Raises:
        UsageError: it lacks `run`, a part is of another kind, or no study can keep it.
    """
    try:
        for _ in leaves(config):
            pass
        return TypeAdapter(Origin).validate_python(config)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"{name}: {place}: {first['msg']}") from error
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error


def told_by(*configs: dict[str, Any]) -> Told:
    """Return what the learner of trainings was told beside pixels and reward.

    Args:
        configs: the train_config.json of each.

    Raises:
        UsageError: as `read_origin`.
    """
    origins = [read_origin(config, CONFIG_MEMBER) for config in configs]
    agents = {one.agent for one in origins}
    if "teacher" in agents:
        return "game state"
    models = [one.model for one in origins]
    if any(one.scene_head == "informed" or one.sprite_share for one in models):
        return "informed"
    if "student" in agents or any(one.run.teacher for one in origins):
        return "taught"
    parts = [part for one in origins for part in (one.run, one.curriculum)]
    has_demos = any(part.backward_demos or part.seed_demos for part in parts)
    return "demos" if has_demos else "pixels only"


def told_in(trainings: Sequence[Training]) -> Told | None:
    """Return the most that any training behind a policy was told; None if of none is known.

    What its teachers were told it was not: a student of theirs is taught.
    """
    told = [one.told for one in trainings]
    if "taught" in told:
        told = told[told.index("taught") :]
    order: tuple[Told, ...] = ("game state", "informed", "taught", "demos", "pixels only")
    return next((one for one in order if one in told), None)


def study_to_keep_in(path: Path) -> tuple[Path, str]:
    """Return the folder of the study that is to keep a run, and the run's name there: `study_of`.

    Raises:
        UsageError: path names no run, as `/`, `.` and a study itself, or no folder for a study.
    """
    check_text(str(path), str(path))
    folder, name = study_of(path)
    is_named = path.name and ".." not in Path(name).parts and not is_study(path)
    if not is_named or not (folder.name or is_study(folder)):
        raise UsageError(f"{path} names no run of a study: results/mine/seed0 does")
    return folder, name


def keep_run(
    folder: Path,
    name: str,
    facts: RunFacts,
    rows: Iterable[Row],
    phases: dict[str, PhaseRecord] | None = None,
) -> None:
    """Put a run into the study in a folder, as `Study.with_run`.

    If there is none it is made, and says which command made it, on what machine. Processes that
    keep runs in the same study wait for each other.

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
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / "study.lock"):
        read_study.cache_clear()  # another process may have written since it was read
        study = read_study(folder) if is_study(folder) else Study(about)
        write_study(folder, study.with_run(name, facts, rows, phases))
