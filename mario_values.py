"""Values from files into dataclasses: every key known, every type checked, one line if not.

What is written in YAML or JSON comes from people. `with_values` takes it key by key into a config
dataclass, flat or nested; pydantic checks each value against the field's type, as JSON has them: a
whole number is a number, a list a tuple, a text a path, and `"false"` no truth value.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
import types
import typing
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
import yaml

from mario_cli import UsageError

# Older names to those of today: a mapping, and the names that the dataclass it is meant for knows.
OlderNames = Callable[[dict[str, Any], Collection[str]], dict[str, Any]]


class _Loader(yaml.SafeLoader):
    """YAML in which 5e-2 and 1e6 are numbers: YAML 1.1 wants a point and a sign in them."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        UsageError: it cannot be read, is not YAML, or holds something else.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold a mapping of flags to values")
    return content


def with_values[Config](
    config: Config, values: Mapping[str, Any], where: str, older: OlderNames | None = None
) -> Config:
    """Return a config dataclass with values replaced.

    Args:
        config: a dataclass, whose fields may be dataclasses in turn.
        values: by field name (`-` and `_` are the same). A field of a nested dataclass may stand
            under that one's name or, if no other has it too, at the top.
        where: what holds the values, for errors: a file's name.
        older: gives names of former versions those of today.

    Raises:
        UsageError: a key that is no field, or a value that does not fit its type.
    """
    return _replaced(config, _nested(config, values, where, "", older))


def _nested(
    config: Any, values: Mapping[str, Any], where: str, group: str, older: OlderNames | None
) -> dict[str, Any]:
    """Return values as they are nested in config, each checked."""
    places: dict[str, list[tuple[str, ...]]] = {}
    for path in _leaves(config):
        places.setdefault(path[-1], []).append(path)
    given = {str(key).replace("-", "_"): value for key, value in values.items()}
    given = older(given, places.keys()) if older else given
    found: dict[str, Any] = {}
    for key, value in given.items():
        current = getattr(config, key, None)
        if _is_config(current):
            if not isinstance(value, Mapping):
                raise UsageError(f"{where}: {group}{key} must be a mapping of flags to values")
            part = _nested(current, value, where, f"{group}{key}.", older)
            found[key] = _merged(found.get(key, {}), part)
            continue
        if key not in places:
            raise UsageError(f"{where}: {_unknown(key, group, [*places, *_groups(config)])}")
        if len(places[key]) > 1:
            groups = " and ".join(".".join(path[:-1]) for path in places[key])
            raise UsageError(f"{where}: {key} is a flag of {groups}: put it under one of them")
        [path] = places[key]
        owner, inner = config, found
        for name in path[:-1]:
            owner, inner = getattr(owner, name), inner.setdefault(name, {})
        inner[key] = _checked(_reader(owner.__class__, key), value, f"{where}: {group}{key}")
    return found


def _unknown(key: str, group: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    said = f"no flag --{f'{group}{key}'.replace('_', '-')}"
    meant = f"did you mean --{close[0].replace('_', '-')}?" if close else "see --help"
    return f"{said}; {meant}"


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _groups(config: Any) -> list[str]:
    """Return the names of the dataclasses in a dataclass."""
    names = (field.name for field in dataclasses.fields(config))
    return [name for name in names if _is_config(getattr(config, name))]


def _leaves(config: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield where every field stands that is no dataclass itself."""
    for field in dataclasses.fields(config):
        current = getattr(config, field.name)
        if _is_config(current):
            yield from _leaves(current, (*before, field.name))
        else:
            yield (*before, field.name)


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return two nested mappings as one."""
    both = {
        key: _merged(one[key], other[key])
        for key in one.keys() & other.keys()
        if isinstance(one[key], dict) and isinstance(other[key], dict)
    }
    return one | other | both


def _replaced(config: Any, changes: dict[str, Any]) -> Any:
    """Return config with nested changes; every dataclass on the way checks itself once."""
    for name in _groups(config):
        if name in changes:
            changes = changes | {name: _replaced(getattr(config, name), changes[name])}
    return dataclasses.replace(config, **changes)


class _Reader(NamedTuple):
    """How a field's values are checked."""

    adapter: pydantic.TypeAdapter[Any]
    takes_fractions: bool


@functools.cache
def _reader(kind: Hashable, field: str) -> _Reader:
    """Return the reader of a dataclass's field; made once, which takes a millisecond."""
    hint = typing.get_type_hints(typing.cast(Any, kind), include_extras=True)[field]
    return _Reader(pydantic.TypeAdapter(hint), _takes(hint, float))


def _checked(reader: _Reader, value: Any, where: str) -> Any:
    """Return a value as a field has it.

    A number without a fraction may stand for a whole one: YAML reads 1e6 as a float.

    Raises:
        UsageError: it does not fit.
    """
    if isinstance(value, float) and value.is_integer() and not reader.takes_fractions:
        value = int(value)
    try:
        return reader.adapter.validate_json(json.dumps(value, default=str), strict=True)
    except pydantic.ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UsageError(f"{where} is {value!r:.40}: {reason[0].lower()}{reason[1:]}") from None
    except UsageError as error:  # a field's own reader
        raise UsageError(f"{where}: {error}") from None


def _takes(hint: Any, kind: type) -> bool:
    """Return whether a hint is a type, or a union that has it."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(_takes(part, kind) for part in typing.get_args(hint))
    return hint is kind


def as_values(config: Any, as_text: Callable[[Any], Any] = lambda value: value) -> dict[str, Any]:
    """Return a config dataclass as nested mappings that JSON holds and `with_values` reads.

    Args:
        config: the dataclass.
        as_text: what to write for a value; called for each that is no dataclass.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if _is_config(value):
            values[field.name] = as_values(value, as_text)
        else:
            value = value.as_posix() if isinstance(value, Path) else as_text(value)
            values[field.name] = list(value) if isinstance(value, tuple) else value
    return values
