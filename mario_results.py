"""Evidence on disk: a study is one table, what made it, and its page.

    results/<study>/study.csv.gz   a row a `Point`, `Evaluation`, `Played`, `Turn` or `Figure`
    results/<study>/study.json     `About`: commands, conditions, and of each run what it was
    results/<study>/README.md      what the study says, with tables of `mario_tables`

Every record is a dataclass, written and read back as that dataclass, its types checked by pydantic.
The same study is the same bytes: no time stamp, rows in their order. A run is named by a path
through its study: `results/ppo_1-1/seed0`. `mario_keeping` makes records of what a run wrote.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from mario_cli import UsageError
from mario_files import read_file
from mario_judge import NOOP_MAX, wilson_interval
from mario_runs import atomic_write, write_json

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"
SHIPPED = RESULTS / "shipped"  # the one study of all shipped policies
TABLE, ABOUT = "study.csv.gz", "study.json"
MAX_TABLE_BYTES = 64 * 2**20  # unpacked; ablations, the largest study, takes 0.8 MB
MAX_ABOUT_BYTES = 4 * 2**20

Told = Literal["pixels only", "demos", "taught", "informed", "game state"]
Mode = Literal["argmax", "sampled"]
CHECKED = ConfigDict(extra="forbid")


# --------------------------------------------------------------------------------------------
# The records of a table
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True, config=CHECKED)
class Point:
    """A point of a training's curve: a line of its metrics.jsonl."""

    run: str
    step: int  # agent steps since the phase began
    wall_s: float
    phase: str = ""  # of a run that is one training: ""
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)  # one column each


@dataclass(frozen=True, config=CHECKED)
class Evaluation:
    """An evaluation while training, in one mode."""

    run: str
    step: int  # agent steps since the phase began
    wall_s: float
    mode: Mode
    protocol: str
    episodes: int
    clear_rate: float
    max_x: float  # px, mean over the episodes
    median_max_x: float  # px
    median_clear_steps: float | None = None  # agent steps; None if none cleared
    phase: str = ""


@dataclass(frozen=True, config=CHECKED)
class Played:
    """An episode by which a policy was judged."""

    run: str
    mode: Mode
    protocol: str
    emulator: str
    stage: str
    seed: int
    cleared: bool
    length: int  # agent steps
    episode_return: float
    max_x: int  # px
    end_x: int  # px, where it ended
    noops: int | None = None  # frames waited at the start; None under `fixed`


@dataclass(frozen=True, config=CHECKED)
class Turn:
    """A turn of a benchmark, or the median over its turns, which is numbered 0."""

    run: str
    measure: str
    unit: str
    turn: int
    ours: float | None = None
    theirs: float | None = None
    ratio: float | None = None  # ours over theirs


@dataclass(frozen=True, config=CHECKED)
class Figure:
    """A single number that a tool said of a run."""

    run: str
    name: str  # "curiosity/variance/mean"
    value: float


Row = Point | Evaluation | Played | Turn | Figure
KINDS: dict[str, type[Row]] = {
    **{"curve": Point, "evaluation": Evaluation, "episode": Played},
    **{"speed": Turn, "figure": Figure},
}
R = TypeVar("R", Point, Evaluation, Played, Turn, Figure)


# --------------------------------------------------------------------------------------------
# What made it
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True, config=CHECKED)
class Training:
    """One training on the way to a policy. Of one whose files are gone only the name is known."""

    run: str
    stages: str = ""  # "1-1,1-2"
    steps: int | None = None  # agent steps of the whole run, what came after the best model too
    wall_s: float | None = None
    seed: int | None = None
    git_commit: str | None = None
    command: tuple[str, ...] = ()
    told: Told | None = None


@dataclass(frozen=True, config=CHECKED)
class RunFacts:
    """What a run of a study is."""

    told: Told | None = None  # what its learner was told; None where nothing was learnt
    variant: str = ""
    stage: str = ""
    seed: int | None = None
    note: str = ""
    kept_at_step: int | None = None  # agent steps when the model that was judged was saved
    findings: tuple[str, ...] = ()  # mario_doctor.py's
    trainings: tuple[Training, ...] = ()  # the first one first; of shipped policies
    phases: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Of each phase what its train_config.json says beyond `About.config`."""


@dataclass(frozen=True, config=CHECKED)
class About:
    """The content of study.json."""

    title: str
    commands: tuple[str, ...]  # what makes the study again
    conditions: str  # the machine, and what else it did
    runs: dict[str, RunFacts]
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the train_config.json of all phases of all runs have in common."""


class PhaseRecord(NamedTuple):
    """A training as a study keeps it."""

    config: dict[str, Any]  # its train_config.json
    points: list[Point]
    evaluations: list[Evaluation]


@dataclasses.dataclass(frozen=True)
class Study:
    """A study as it stands in its folder."""

    about: About
    rows: tuple[Row, ...] = ()

    def of(self, kind: type[R], run: str) -> list[R]:
        """Return a run's rows of one kind, in order."""
        return [row for row in self.rows if isinstance(row, kind) and row.run == run]

    def phases(self, run: str) -> list[PhaseRecord]:
        """Return a run's trainings in their order.

        Raises:
            KeyError: no such run.
        """
        points, evaluations = self.of(Point, run), self.of(Evaluation, run)
        return [
            PhaseRecord(
                merged(self.about.config, own),
                [point for point in points if point.phase == name],
                [one for one in evaluations if one.phase == name],
            )
            for name, own in self.about.runs[run].phases.items()
        ]

    def judgements(self, run: str) -> list[Judgement]:
        """Return what a run's policy was judged by, ordered by emulator, protocol and mode."""
        found: dict[tuple[str, str, Mode], list[Played]] = {}
        for row in self.of(Played, run):
            found.setdefault((row.emulator, row.protocol, row.mode), []).append(row)
        return [Judgement(tuple(found[key])) for key in sorted(found)]

    def judgement(self, run: str, protocol: str, mode: Mode, emulator: str = "fast") -> Judgement:
        """Return one of `judgements`.

        Raises:
            KeyError: it was not played.
        """
        for one in self.judgements(run):
            if (one.emulator, one.protocol, one.mode) == (emulator, protocol, mode):
                return one
        raise KeyError(f"{run} was not judged under {protocol}, {mode}, on {emulator}")

    def figures(self, run: str) -> dict[str, float]:
        """Return a run's single numbers by name."""
        return {row.name: row.value for row in self.of(Figure, run)}

    def with_run(
        self,
        name: str,
        facts: RunFacts,
        rows: Iterable[Row],
        phases: dict[str, PhaseRecord] | None = None,
    ) -> Study:
        """Return the study with a run added, or put in the place of the one of that name.

        Args:
            name: the run's.
            facts: what it was; its phases are made of those given.
            rows: what there is beside its phases.
            phases: its trainings by name, in their order.
        """
        kept = phases or {}
        whole = {
            run: {phase: merged(self.about.config, own) for phase, own in of.phases.items()}
            for run, of in self.about.runs.items()
        }
        whole[name] = {phase: record.config for phase, record in kept.items()}
        common = shared([config for of in whole.values() for config in of.values()])
        runs = {
            run: dataclasses.replace(
                self.about.runs[run] if run != name else facts,
                phases={phase: beyond(config, common) for phase, config in of.items()},
            )
            for run, of in whole.items()
        }
        own: list[Row] = []
        for record in kept.values():
            own += [*record.points, *record.evaluations]
        others = [row for row in self.rows if row.run != name]
        places = {run: place for place, run in enumerate(runs)}
        ordered = sorted([*others, *own, *rows], key=lambda row: places[row.run])
        return Study(dataclasses.replace(self.about, runs=runs, config=common), tuple(ordered))


def shared(configs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what nested configs have in common, value by value."""
    if not configs:
        return {}
    common: dict[str, Any] = {}
    for key, value in configs[0].items():
        values = [config.get(key) for config in configs]
        if not all(key in config for config in configs):
            continue
        if all(isinstance(one, dict) for one in values):
            if inner := shared([config[key] for config in configs]):
                common[key] = inner
        elif len({json.dumps(one) for one in values}) == 1:  # 1, 1.0 and true differ
            common[key] = value
    return common


def beyond(config: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """Return what a config says that common, a part of it, does not."""
    own: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and isinstance(common.get(key), dict):
            if inner := beyond(value, common[key]):
                own[key] = inner
        elif key not in common:
            own[key] = value
    return own


def merged(common: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return the config that `beyond` was taken of."""
    whole = dict(common)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(whole.get(key), dict)
        whole[key] = merged(whole[key], value) if both else value
    return whole


# --------------------------------------------------------------------------------------------
# Judging
# --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The episodes that a policy played under one protocol in one mode; never none."""

    played: tuple[Played, ...]

    @property
    def protocol(self) -> str:
        """`fixed`, `noop` or `sticky`."""
        return self.played[0].protocol

    @property
    def mode(self) -> Mode:
        """How actions were chosen."""
        return self.played[0].mode

    @property
    def emulator(self) -> str:
        """`fast` or `nes-py`."""
        return self.played[0].emulator

    @property
    def clears(self) -> int:
        """Episodes that cleared."""
        return sum(one.cleared for one in self.played)

    @property
    def clear_rate(self) -> float:
        """The share of them."""
        return self.clears / len(self.played)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The rate's 95 % Wilson interval; None where the starts are all that there is to try."""
        if self.mode == "argmax" and self.protocol in ("fixed", "noop"):
            return None
        return wilson_interval(self.clears, len(self.played))

    @property
    def starts(self) -> int:
        """Different numbers of no-ops among the episodes."""
        return len({one.noops for one in self.played})

    @property
    def median_max_x(self) -> float:
        """Px."""
        return float(np.median([one.max_x for one in self.played]))

    @property
    def best_max_x(self) -> int:
        """Px."""
        return max(one.max_x for one in self.played)

    @property
    def clear_steps(self) -> list[int]:
        """Agent steps of the episodes that cleared."""
        return [one.length for one in self.played if one.cleared]

    @property
    def median_clear_steps(self) -> float | None:
        """Their median; None if none cleared."""
        return float(np.median(self.clear_steps)) if self.clear_steps else None

    @property
    def best_clear_steps(self) -> int | None:
        """Their minimum; None if none cleared."""
        return min(self.clear_steps, default=None)

    def __str__(self) -> str:
        """Return "96/100 (90-98 %)", "30/30", or "100/100 (28 of 30 starts)".

        By argmax from `noop` the number of no-ops is all that is random: 30 episodes are all that
        there are. Where other numbers were played, some starts were counted again, others not.
        """
        text = f"{self.clears}/{len(self.played)}"
        if self.interval:
            low, high = (100 * bound for bound in self.interval)
            return f"{text} ({low:.0f}-{high:.0f} %)"
        if self.protocol == "noop" and not self.starts == len(self.played) == NOOP_MAX:
            return f"{text} ({self.starts} of {NOOP_MAX} starts)"
        return text


# --------------------------------------------------------------------------------------------
# Reading and writing
# --------------------------------------------------------------------------------------------


ADAPTERS: dict[type, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in (About, *KINDS.values())
}  # what checks a record


def cells(row: Row) -> dict[str, Any]:
    """Return a row as the table's cells; what is unset has none."""
    content = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    metrics = content.pop("metrics", {})
    kind = next(name for name, of in KINDS.items() if isinstance(row, of))
    filled = {key: value for key, value in content.items() if value not in (None, "")}
    return {"kind": kind} | {
        key: int(value) if isinstance(value, bool) else value
        for key, value in (filled | metrics).items()
    }


def row_of(found: dict[str, str]) -> Row:
    """Return the row of a table's cells.

    Raises:
        KeyError, ValidationError: no such kind, or not that kind's cells.
    """
    content: dict[str, Any] = {key: text for key, text in found.items() if text}
    kind = KINDS[content.pop("kind")]
    if kind is Point:
        names = {field.name for field in dataclasses.fields(Point)}
        metrics = {key: content.pop(key) for key in list(content) if key not in names}
        content["metrics"] = metrics
    row: Row = ADAPTERS[kind].validate_python(content)
    return row


def table_bytes(rows: Sequence[Row]) -> bytes:
    """Return the table as CSV, compressed; the same rows give the same bytes."""
    found = [cells(row) for row in rows]
    names = dict.fromkeys(("run", "kind", "phase", *(name for row in found for name in row)))
    columns = [name for name in names if any(name in row for row in found)]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return gzip.compress(text.getvalue().encode(), 9, mtime=0)


def write_study(folder: Path, study: Study) -> None:
    """Write study.csv.gz and study.json; a README.md is made if there is none, else left.

    Raises:
        UsageError: a row is of a run that study.json does not know, or stands there twice.
    """
    if unknown := sorted({row.run for row in study.rows} - study.about.runs.keys()):
        raise UsageError(f"{folder / ABOUT} would not say what the run {unknown[0]!r} is")
    counts = Counter(tuple(cells(row).items()) for row in study.rows)
    if twice := [dict(found) for found, count in counts.items() if count > 1]:
        raise UsageError(f"{folder / TABLE} would say twice: {twice[0]}")
    about = ADAPTERS[About].dump_python(study.about, mode="json", exclude_defaults=True)
    atomic_write(folder / TABLE, table_bytes(study.rows))
    write_json(folder / ABOUT, about)
    page = folder / "README.md"
    if not page.is_file():
        atomic_write(page, f"# {study.about.title}\n".encode())
    read_study.cache_clear()


@functools.cache
def read_study(folder: Path) -> Study:
    """Return the study in a folder.

    Raises:
        UsageError: a file is missing, torn, or holds what its type does not allow.
    """
    table = folder / TABLE
    try:
        about_text = read_file(folder / ABOUT, MAX_ABOUT_BYTES)
        about: About = ADAPTERS[About].validate_json(about_text, strict=False)
        with gzip.GzipFile(fileobj=io.BytesIO(read_file(table, MAX_TABLE_BYTES))) as file:
            content = file.read(MAX_TABLE_BYTES + 1)
        if len(content) > MAX_TABLE_BYTES:
            raise UsageError(f"{table} is larger unpacked than {MAX_TABLE_BYTES} bytes")
        lines = csv.DictReader(io.StringIO(content.decode(), newline=""), restkey="", strict=True)
        rows = tuple(row_of(line) for line in lines)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise UsageError(f"cannot read the study {folder}: {str(error)[:200]}") from error
    except KeyError as error:
        raise UsageError(f"{table} holds a row of no known kind: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"the study {folder}: {error.title} {place}: {first['msg']}") from error
    return Study(about, rows)


def is_study(folder: Path) -> bool:
    """Return whether a folder holds a study."""
    return (folder / ABOUT).is_file()


def study_of(path: Path) -> tuple[Path, str]:
    """Return the folder of the study that a run's path leads into, and the run's name there.

    The nearest folder above that is a study; if none is, the one above, where one may be made.
    """
    folder = next((above for above in path.parents if is_study(above)), path.parent)
    return folder, path.relative_to(folder).as_posix()


def study_and_run(path: Path) -> tuple[Study, str]:
    """Return the study that a run's path leads into, and the run's name there.

    Raises:
        UsageError: it leads into none, or the study has no such run.
    """
    folder, run = study_of(path)
    if not is_study(folder):
        raise UsageError(f"{path} is no run folder with metrics, and no run of a study")
    study = read_study(folder)
    if run not in study.about.runs:
        known = ", ".join(study.about.runs)
        raise UsageError(f"the study {folder} has no run {run!r}; there are: {known}")
    return study, run
