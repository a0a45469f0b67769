"""What a run was told: its flags, those of its recipe, and which runs differ by seed alone."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from mario_runs import printable

MAX_FLAGS = 1000  # of a file that anybody may have written
MAX_TEXT = 300  # characters of a value
MAX_DEPTH = 8
# Where a run lies, what it began with and how it is seeded: two runs that differ in these alone
# are one experiment.
INDIVIDUAL = frozenset(
    "seed run_dir logdir config resume_model device threads live_preview".split()
)


def flat(values: Mapping[str, Any]) -> dict[str, str]:
    """Return a config's flags as text by "group.name", at most `MAX_FLAGS` of them."""
    found: dict[str, str] = {}
    for name, value in _leaves(values, "", MAX_DEPTH):
        if len(found) == MAX_FLAGS:
            break
        found[printable(name)[:MAX_TEXT]] = as_text(value)
    return found


def _leaves(values: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and depth:
            yield from _leaves(value, f"{name}.", depth - 1)
        else:
            yield name, value


def as_text(value: Any) -> str:
    """Return a flag's value as a person types it."""
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except (ValueError, RecursionError):
        text = "?"
    text = printable(text)
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


def flags_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the flags of a train_config.json, without what only says where it came from."""
    return flat({key: value for key, value in config.items() if key != "provenance"})


def group_of(config: Mapping[str, Any]) -> str:
    """Return a short name that all runs of one experiment share: they differ in `INDIVIDUAL`."""
    flags = {
        name: value
        for name, value in flags_of(config).items()
        if name.rpartition(".")[2] not in INDIVIDUAL
    }
    return hashlib.sha256(json.dumps(flags, sort_keys=True).encode()).hexdigest()[:12]


@functools.cache
def recipe_of(agent: str) -> dict[str, str]:
    """Return the flags that a run of an agent has if nobody changes any; empty if it is unknown."""
    # Only who looks at a config waits for the trainers and, with them, for torch.
    from dreamerv3 import flags as dreamer
    from teach_mario import PHASES, TeachConfig
    from train_mario import config_as_dict, parse_config

    if agent == "ppo":
        return flags_of(config_as_dict(parse_config([])))
    if agent == "dreamerv3":
        return flags_of(dreamer.config_as_dict(dreamer.parse_config([])))
    for phase in PHASES:
        if phase == agent:
            return flags_of(TeachConfig().content(phase))
    return {}
