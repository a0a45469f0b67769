"""Judge a policy: protocols, `evaluate`, and the `Summary` that is written and read back.

Each stage is judged apart, and over all. How a policy is judged, and why: docs/protocol.md.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

import numpy as np
from pydantic import (
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    with_config,
)

from mario_cli import UsageError
from mario_config import EnvConfig, ProtocolName
from mario_game import STAGES, StageId, stages_label
from mario_runs import write_json

if TYPE_CHECKING:
    from mario_rollout import Episode, Policy

NOOP_MAX = 30  # as in the Atari literature (Mnih et al. 2015)
STICKY_PROB = 0.25  # Machado et al. 2018
# Protocol: the most no-ops at the start, and the chance that a frame keeps the last buttons.
PROTOCOLS: dict[ProtocolName, tuple[int, float]] = {
    "fixed": (0, 0.0),
    "noop": (NOOP_MAX, 0.0),
    "sticky": (NOOP_MAX, STICKY_PROB),
}
# First seed of what is judged: not those of training (--seed and on) or of the evaluations by which
# a trainer keeps its best model (--seed + SELECTION_SEED and on).
JUDGE_SEED = 1_000_000
SELECTION_SEED = 10_000
MAX_FILE_BYTES = 32 * 2**20  # of a summary; 32 stages of 200 episodes take 1 MB


def protocol_config(config: EnvConfig, protocol: ProtocolName) -> EnvConfig:
    """Return config as a protocol starts and disturbs it.

    `fixed`: the one deterministic start; `noop`: 1-30 random frames without buttons first;
    `sticky`: noop, and each emulated frame keeps the last buttons with probability 0.25.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"no protocol {protocol!r}; there are: {', '.join(PROTOCOLS)}")
    noop_max, sticky_prob = PROTOCOLS[protocol]
    return dataclasses.replace(config, noop_max=noop_max, sticky_prob=sticky_prob)


def default_protocol(config: EnvConfig) -> ProtocolName:
    """Return what a policy's best model is chosen by: sticky where it is trained under sticky."""
    return "sticky" if config.sticky_prob else "noop"


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a rate (Wilson 1927); (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    rate = successes / n
    center = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, center - half), min(1.0, center + half)


# --------------------------------------------------------------------------------------------
# What an evaluation found
# --------------------------------------------------------------------------------------------

Rank = tuple[float, float, float]
StageText = Annotated[
    StageId,
    PlainValidator(lambda value: value if isinstance(value, StageId) else parse_stage(value)),
    PlainSerializer(str),
]
CHECKED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def parse_stage(text: object) -> StageId:
    """Return the one stage in "8-4".

    Raises:
        ValueError: there is no such stage.
    """
    for stage in STAGES:
        if text == str(stage):
            return stage
    raise ValueError("stages are 1-1 to 8-4")


@with_config(CHECKED)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """What a number of episodes came to."""

    episodes: int
    flags_cleared: int
    clear_rate: float
    clear_rate_ci95: tuple[float, float] | None
    """None where the episodes are all that there are, so that the rate is exact."""
    median_max_x: float
    best_max_x: int
    best_clear_steps: int | None
    median_clear_steps: float | None
    mean_return: float

    @property
    def clears(self) -> str:
        """The clears as a person writes them: "28/30"."""
        return f"{self.flags_cleared}/{self.episodes}"

    @property
    def interval(self) -> str:
        """The clear rate's 95 % interval in percent, "78-97 %", or that it is exact."""
        if self.clear_rate_ci95 is None:
            return "exact"
        low, high = self.clear_rate_ci95
        return f"{100 * low:.0f}-{100 * high:.0f} %"

    @property
    def rank(self) -> Rank:
        """What the best model has most of: clear rate, then median max-x, then few steps."""
        return self.clear_rate, self.median_max_x, -(self.median_clear_steps or 0.0)


@with_config(CHECKED)
@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSummary(Figures):
    """What the episodes that began in one stage came to."""

    stage: StageText
    goal_line_x: int  # px


@with_config(CHECKED)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary(Figures):
    """What an evaluation found, over all its episodes and per stage: the content of summary.json.

    The figures of each episode stand in the order of `stages`.
    """

    protocol: ProtocolName
    emulator: str
    deterministic: bool
    seed: int
    model: str
    stages: tuple[StageSummary, ...]
    episode_flags: tuple[bool, ...]
    episode_lengths: tuple[int, ...]
    episode_returns: tuple[float, ...]
    max_x_positions: tuple[int, ...]
    end_x_positions: tuple[int, ...]
    note: str = ""

    def __post_init__(self) -> None:
        episodes = sum(one.episodes for one in self.stages)
        for name in EPISODE_FIGURES:
            if not len(getattr(self, name)) == self.episodes == episodes:
                raise ValueError(f"{name} does not have an entry for each episode")
        if not self.episodes or self.flags_cleared != sum(self.episode_flags):
            raise ValueError("it counts other clears or episodes than it holds")

    @property
    def rank(self) -> Rank:
        """What the best model has most of: the mean over stages of each part of their rank."""
        first, second, third = np.mean([one.rank for one in self.stages], axis=0).tolist()
        return first, second, third

    @property
    def mode(self) -> Literal["argmax", "sampled"]:
        """How actions were chosen."""
        return "argmax" if self.deterministic else "sampled"

    def endings(self, stage: StageId) -> Iterator[tuple[int, bool]]:
        """Yield of each episode of a stage where it ended, in px, and whether it cleared."""
        begin = 0
        for one in self.stages:
            place = slice(begin, begin + one.episodes)
            if one.stage == stage:
                yield from zip(self.end_x_positions[place], self.episode_flags[place], strict=True)
            begin += one.episodes

    @classmethod
    def from_json(cls, path: Path) -> Self:
        """Return a summary that was written, an older version's too.

        Raises:
            UsageError: it is missing, too large, or no summary.
        """
        return _checked(cls, _with_stages(_read(path)), path)

    def as_json(self) -> dict[str, Any]:
        """Return what JSON holds of it."""
        return _plain(Summary, self)

    def write(self, path: Path) -> None:
        """Write it as JSON, atomically.

        Raises:
            OSError: the disk is full; path is untouched.
        """
        write_json(path, self.as_json())


EPISODE_FIGURES = (
    *("episode_flags", "episode_lengths", "episode_returns", "max_x_positions", "end_x_positions"),
)


@with_config(CHECKED)
@dataclasses.dataclass(frozen=True)
class ModelEvaluation:
    """How a trainer judged its model at a step: evaluations/step_<n>/summary.json.

    In the file, the fields of `argmax` stand beside the others, as in every summary.json.
    """

    step: int  # agent steps
    argmax: Summary
    sampled: Summary | None = None

    @property
    def rank(self) -> Rank:
        """What the best model has most of, in the mode that is worse at it."""
        return min(summary.rank for summary in self.summaries)

    @property
    def summaries(self) -> tuple[Summary, ...]:
        """Argmax, and sampled if it was played."""
        return (self.argmax,) if self.sampled is None else (self.argmax, self.sampled)

    def of_stages(self) -> Iterator[ModelEvaluation]:
        """Yield the evaluation of each stage apart."""
        for parts in zip(*(parted(summary) for summary in self.summaries), strict=True):
            yield ModelEvaluation(self.step, *parts)

    @classmethod
    def from_json(cls, path: Path, step: int | None = None) -> Self:
        """Return an evaluation that was written, an older version's too.

        Args:
            path: the file.
            step: of an evaluation whose file does not say it.

        Raises:
            UsageError: it is missing, too large, or no evaluation.
        """
        content = _read(path)
        content.pop("rank", None)  # for people: it follows from the rest
        sampled, at = content.pop("sampled", None), content.pop("step", step)
        parts = {"step": at, "argmax": _with_stages(content), "sampled": _with_stages(sampled)}
        if isinstance(content.get("stages"), dict):  # an older version's, one by one
            apart = _checked(dict[str, dict[str, dict[str, Any]]], content["stages"], path)
            for mode in ("argmax", "sampled"):
                each = [_with_stages(by[mode]) for by in apart.values() if mode in by]
                together = [_checked(Summary, one, path) for one in each]
                parts[mode] = joined(together).as_json() if together else None
        return _checked(cls, parts, path)

    def write(self, path: Path) -> None:
        """Write it as JSON, atomically.

        Raises:
            OSError: the disk is full; path is untouched.
        """
        content = _plain(ModelEvaluation, self)
        write_json(path, content.pop("argmax") | content | {"rank": self.rank})


@functools.cache
def _adapter_of(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Return what reads and writes a type; made once, which takes longer than using it."""
    return _adapter_of(kind)


def _plain[T](kind: type[T], record: T) -> dict[str, Any]:
    """Return a record as JSON has it."""
    content: dict[str, Any] = _adapter(kind).dump_python(record, mode="json")
    return content


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON file's mapping."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UsageError(f"{path} has over {MAX_FILE_BYTES >> 20} MiB: no summary")
    return _checked(dict[str, Any], path.read_bytes(), path)


def _checked[T](kind: type[T], content: Any, path: Path) -> T:
    """Return JSON, or what was read of it, as what it should be.

    Raises:
        UsageError: its first fault in one line.
    """
    text = content if isinstance(content, bytes) else json.dumps(content)
    try:
        checked: T = _adapter(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise UsageError(f"{path} is no summary of an evaluation: {where}{first['msg']}") from error
    return checked


def _with_stages(content: Any) -> Any:
    """Return a summary's content with `stages`, where an older version says world and stage."""
    if not isinstance(content, dict) or "world" not in content:
        return content
    content = dict(content)
    stage = f"{content.pop('world')}-{content.pop('stage', None)}"
    figures = {one.name: content.get(one.name) for one in dataclasses.fields(Figures)}
    goal_line_x = content.pop("goal_line_x", None)
    return content | {"stages": [figures | {"stage": stage, "goal_line_x": goal_line_x}]}


# --------------------------------------------------------------------------------------------
# Judging
# --------------------------------------------------------------------------------------------


def _figures(
    flags: Sequence[bool],
    lengths: Sequence[int],
    returns: Sequence[float],
    max_x: Sequence[int],
    is_exact: bool,
) -> dict[str, Any]:
    """Return the fields of `Figures` of episodes."""
    clears = [length for length, flag in zip(lengths, flags, strict=True) if flag]
    return {
        "episodes": len(flags),
        "flags_cleared": sum(flags),
        "clear_rate": sum(flags) / len(flags),
        "clear_rate_ci95": None if is_exact else wilson_interval(sum(flags), len(flags)),
        "median_max_x": float(np.median(max_x)),
        "best_max_x": max(max_x),
        "best_clear_steps": min(clears, default=None),
        "median_clear_steps": float(np.median(clears)) if clears else None,
        "mean_return": float(np.mean(returns)),
    }


def summarize(
    episodes: Sequence[Episode],
    config: EnvConfig,
    *,
    protocol: ProtocolName,
    deterministic: bool,
    seed: int,
    model: str,
    note: str = "",
    is_exact: bool = False,
) -> Summary:
    """Return the `Summary` of episodes that began in one stage, played under config.

    Args:
        episodes: at least one.
        config: says the emulator and the goal line.
        protocol: under which they were played.
        deterministic: argmax, or sampled.
        seed: the first episode's.
        model: who played.
        note: what a reader has to know of them.
        is_exact: they are all that the protocol has, no sample of more.
    """
    flags = tuple(episode.flag for episode in episodes)
    lengths = tuple(episode.length for episode in episodes)
    returns = [episode.episode_return for episode in episodes]
    max_x = tuple(episode.max_x for episode in episodes)
    figures = _figures(flags, lengths, returns, max_x, is_exact)
    stage = episodes[0].stage
    return Summary(
        protocol=protocol,
        emulator=config.emulator,
        deterministic=deterministic,
        seed=seed,
        model=model,
        note=note,
        stages=(StageSummary(stage=stage, goal_line_x=config.goal_of(stage), **figures),),
        episode_flags=flags,
        episode_lengths=lengths,
        episode_returns=tuple(round(value, 4) for value in returns),
        max_x_positions=max_x,
        end_x_positions=tuple(episode.end_x for episode in episodes),
        **figures,
    )


def joined(summaries: Sequence[Summary]) -> Summary:
    """Return the summary over all stages of one summary a stage; protocol and model are alike."""
    first, *others = summaries
    if not others:
        return first
    by_name: dict[str, Any] = {
        name: tuple(value for one in summaries for value in getattr(one, name))
        for name in ("stages", *EPISODE_FIGURES)
    }
    flags, lengths, returns, max_x = (by_name[name] for name in EPISODE_FIGURES[:4])
    figures = _figures(flags, lengths, returns, max_x, first.clear_rate_ci95 is None)
    return dataclasses.replace(first, **by_name, **figures)


def parted(summary: Summary) -> Iterator[Summary]:
    """Yield one summary a stage of a summary over several: what `joined` joined."""
    begin = 0
    for stage in summary.stages:
        place = slice(begin, begin + stage.episodes)
        by_name = {name: getattr(summary, name)[place] for name in EPISODE_FIGURES}
        figures = {one.name: getattr(stage, one.name) for one in dataclasses.fields(Figures)}
        yield dataclasses.replace(summary, stages=(stage,), **by_name, **figures)
        begin += stage.episodes


def evaluate(
    policy: Policy,
    config: EnvConfig,
    *,
    protocol: ProtocolName,
    episodes: int,
    deterministic: bool,
    seed: int = JUDGE_SEED,
    max_steps: int = 0,
    model: str = "",
    on_episode: Callable[[Episode], None] | None = None,
) -> tuple[Summary, list[Episode]]:
    """Play each of the config's stages under a protocol and summarize; the stages' order stays.

    In each stage episode i has the seed `seed + i`. Where argmax leaves nothing to chance, all that
    there is is played once, whatever `episodes` says, and the summary's note says so: the one
    trajectory under `fixed`, the 30 starts, 1 to 30 no-ops, under `noop`.

    Args:
        policy: whom to judge.
        config: where: its stages, its emulator; `n_envs` are played side by side.
        protocol: `PROTOCOLS`.
        episodes: of each stage, where they are a sample.
        deterministic: argmax, or sample from the policy.
        seed: the first episode's.
        max_steps: agent steps after which an episode is cut off; 0 is never.
        model: what the summary calls the policy.
        on_episode: called as each episode ends, for progress.

    Raises:
        UsageError: no such protocol, fewer than one episode, a negative number.
    """
    from mario_rollout import play  # the machine: a summary can be read without it

    if episodes < 1:
        raise UsageError(f"episodes must be at least 1, not {episodes}")
    if seed < 0 or max_steps < 0:
        raise UsageError("an evaluation's seed and max_steps must not be negative")
    played_config = protocol_config(config, protocol)
    count = episodes_played(protocol, episodes, deterministic)
    is_exact = deterministic and protocol != "sticky"
    noops = range(1, NOOP_MAX + 1) if is_exact and protocol == "noop" else None
    summaries, played = [], []
    for stage in config.stages:
        of_stage = play(
            policy,
            dataclasses.replace(played_config, stages=(stage,)),
            count,
            deterministic=deterministic,
            seed=seed,
            noops=noops,
            max_steps=max_steps,
            on_episode=on_episode,
        )
        summary = summarize(
            of_stage,
            played_config,
            protocol=protocol,
            deterministic=deterministic,
            seed=seed,
            model=model,
            note=EXACT_NOTES[protocol] if is_exact else "",
            is_exact=is_exact,
        )
        summaries.append(summary)
        played += of_stage
    return joined(summaries), played


EXACT_NOTES: dict[ProtocolName, str] = {
    "fixed": "argmax from the one start: one episode, which is all there is",
    "noop": f"argmax from 1 to {NOOP_MAX} no-ops: each start once, which is all there is",
}


def episodes_played(protocol: ProtocolName, episodes: int, deterministic: bool) -> int:
    """Return how many episodes `evaluate` plays in a stage when it is asked for so many."""
    if deterministic and protocol == "fixed":
        return 1
    return NOOP_MAX if deterministic and protocol == "noop" else episodes


def summary_lines(summary: Summary) -> Iterator[str]:
    """Yield what a person wants to know first, a line each."""
    count = len(summary.stages)
    yield (
        f"{stages_label(one.stage for one in summary.stages)} {summary.mode}, protocol "
        f"{summary.protocol} on {summary.emulator}, {summary.episodes} "
        f"episode{'s' * (summary.episodes != 1)} from seed "
        f"{summary.seed}{' on in each stage' * (count > 1)}"
    )
    if count == 1:
        [stage] = summary.stages
        yield (f"  cleared   {cleared(summary)}")
        yield (
            f"  max-x     median {summary.median_max_x:.0f}, best {summary.best_max_x} "
            f"of {stage.goal_line_x}"
        )
    else:
        yield (f"  cleared   {cleared(summary)} over {count} stages")
        for stage in summary.stages:
            yield (
                f"  {stage.stage}       {cleared(stage)}, max-x median {stage.median_max_x:.0f}, "
                f"best {stage.best_max_x} of {stage.goal_line_x}"
            )
    if summary.best_clear_steps is not None:
        yield (
            f"  clear in  median {summary.median_clear_steps:.0f}, "
            f"best {summary.best_clear_steps} agent steps"
        )
    if summary.note:
        yield (f"  note      {summary.note}")


def cleared(figures: Figures) -> str:
    """Return "28/30 (93 %, exact)" or "88/100 (88 %, 95 % interval 80-93 %)"."""
    interval = "exact" if figures.clear_rate_ci95 is None else f"95 % interval {figures.interval}"
    return f"{figures.clears} ({100 * figures.clear_rate:.0f} %, {interval})"
