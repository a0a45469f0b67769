"""How flags and files become a trainer's config, and back; what a run may be resumed with.

A recipe is a YAML file of flags. Names of earlier versions are read, too. Nothing here is slow to
import, so that a command answers `--help` at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mario_cli import UsageError
from mario_config import EnvConfig
from mario_game import StageId, stages_label, stages_text, with_stages_field
from mario_reward import reward_signature
from mario_runs import provenance
from mario_values import as_values, read_yaml, with_values

# --------------------------------------------------------------------------------------------
# Flags and files
# --------------------------------------------------------------------------------------------

# What flags were called in an earlier version, by either trainer; both read both.
OLDER_NAMES = {
    "logdir": "run_dir",
    "configs": "config",
    "steps": "timesteps",
    "checkpoint_every": "checkpoint_freq",
    "eval_every": "eval_freq",
}
MOST_LAYERS = 16  # of recipes, each on its base
GONE = {"compile_policy"}  # flags that files may still hold, and that nothing reads any more


def with_newer_flags(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the flags of an earlier version under their names of today.

    The environment's go by name alone: --env.n-envs and --env.reward.flag-bonus are older.
    """
    words = []
    for word in arguments:
        flag, equals, value = word.partition("=")
        if flag.startswith("--"):
            name = flag.removeprefix("--")
            if name.startswith("env."):
                name = name.removeprefix("env.").removeprefix("reward.")
            name = OLDER_NAMES.get(name.replace("-", "_"), name)
            word = f"--{name.replace('_', '-')}{equals}{value}"
        words.append(word)
    return words


def newer_names(values: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return a file's values under the names of today; known are those of the config they set."""
    values = {key: value for key, value in values.items() if key in known or key not in GONE}
    for old, new in OLDER_NAMES.items():
        if old in values and old not in known and new in known:
            values[new] = values.pop(old)
    return with_stages_field(values) if "stages" in known else values


def with_file_values[Config](config: Config, values: Mapping[str, Any], where: str) -> Config:
    """Return a trainer's config with values of a file, flat or nested, in today's names or older.

    Raises:
        UsageError: a key that is no flag, or a value that does not fit; where is the file's name.
    """
    return with_values(config, values, where, newer_names)


def recipe_layers(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return what a recipe says, file by file: the one that its `base` names comes first.

    A file that sets `timesteps` and no phases to follow (`then`) has one phase, whatever its base
    has.

    Args:
        path: a YAML file of flags; `base` in it is a path from its own folder.

    Raises:
        UsageError: a file cannot be read, or they name each other in a circle.
    """

    def read(file: Path) -> dict[str, Any]:
        content = read_yaml(file)
        return {"then": [], **content} if "timesteps" in content else content

    return layers_of(path, read, lambda file, base: file.parent / base)


def layers_of[Name](
    name: Name, read: Callable[[Name], dict[str, Any]], below: Callable[[Name, str], Name]
) -> list[tuple[Name, dict[str, Any]]]:
    """Return the flags of a recipe and of all that it stands on, with their names, lowest first.

    Args:
        name: the recipe's.
        read: returns what one holds; `base` in it says on which it stands.
        below: returns that one's name, by the name of who has it as base.

    Raises:
        UsageError: a base is no text, or they name each other in a circle.
    """
    layers: list[tuple[Name, dict[str, Any]]] = []
    while True:
        content = dict(read(name))
        base = content.pop("base", None)
        layers.insert(0, (name, content))
        if base is None:
            return layers
        if not isinstance(base, str) or len(layers) >= MOST_LAYERS:
            raise UsageError(f"{name}: base must name a file without a circle, not {base!r:.40}")
        name = below(name, base)


def config_content(config: Any, agent: str, env: EnvConfig) -> dict[str, Any]:
    """Return train_config.json's content: the flags by group, and what belongs beside them."""

    def as_text(value: Any) -> Any:
        is_stages = isinstance(value, tuple) and all(isinstance(one, StageId) for one in value)
        return stages_text(value) if is_stages and value else value

    return as_values(config, as_text) | {
        "agent": agent,
        "reward_signature": reward_signature(env),
        "provenance": provenance(),
    }


# How a run of each agent goes on.
COMMANDS_OF = {
    "ppo": ": go on with `scripts/run_mario.sh train --resume-model RUN`",
    "dreamerv3": ": go on with `scripts/run_mario.sh dreamer --run-dir RUN`",
    "teacher": ": go on with `scripts/run_mario.sh teach --phase teacher --run-dir ITS_PARENT`",
    "student": ": go on with `scripts/run_mario.sh teach --phase student --run-dir ITS_PARENT`",
}


def config_of_content[Config](default: Config, content: Mapping[str, Any], agent: str) -> Config:
    """Return the config in a train_config.json's content, of this version or an older one.

    Raises:
        UsageError: it is another agent's, or not this version's.
    """
    if content.get("agent") != agent:
        raise UsageError(
            f"the folder holds a run of agent {content.get('agent')!r}, not {agent}"
            f"{COMMANDS_OF.get(str(content.get('agent')), '')}"
        )
    groups = [field.name for field in dataclasses.fields(default)]  # type: ignore[arg-type]
    for group in groups:
        if group not in content:
            raise UsageError(f"not this version's train_config.json: it has no {group!r}")
    values = {group: content[group] for group in groups}
    return with_file_values(default, values, "not this version's train_config.json")


# --------------------------------------------------------------------------------------------
# Resuming
# --------------------------------------------------------------------------------------------


def refuse_another_game(before: EnvConfig, now: EnvConfig, path: Path, advice: str) -> None:
    """Raise a UsageError, which ends with advice, if path's run played something else than now."""
    for name in ("stages", "action_set", "long_jump_action", "show_buttons", "observation", "crop"):
        if name == "crop" and now.observation == "scene":  # which is of no picture
            continue
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            if name == "stages":
                old, new = stages_label(old), stages_label(new)
            raise UsageError(f"{path} was trained with {name} {old}, not {new}: {advice}")


def refuse_fewer_steps(before: int, now: int, done: int) -> None:
    """Raise a UsageError if a resumed run's target was changed to less than what is done.

    Args:
        before: agent steps that the run was to take.
        now: agent steps that it is to take.
        done: agent steps that it has taken.
    """
    if now != before and now < done:
        raise UsageError(
            f"it has {done:,} of {before:,} steps, and --timesteps is the total: "
            f"{now:,} are done already"
        )


def describe_changes(old: Any, new: Any, unimportant: Collection[str] = ()) -> dict[str, str]:
    """Return "0.9 -> 0.95" by "ppo.gamma" for every flag in which two configs differ.

    Args:
        old: a config dataclass.
        new: another of the same class.
        unimportant: flags, or groups of them, to leave out.
    """

    def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        items: dict[str, Any] = {}
        for key, value in values.items():
            name = f"{prefix}{key}"
            if name not in unimportant:
                items |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
        return items

    before, after = flat(dataclasses.asdict(old)), flat(dataclasses.asdict(new))
    return {
        name: f"{before[name]} -> {after[name]}" for name in before if before[name] != after[name]
    }
