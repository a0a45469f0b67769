"""Values from files into dataclasses: every key known, every type checked, one line if not.

What is written in YAML or JSON comes from people. `with_values` takes it key by key into a config
dataclass, flat or nested; pydantic checks each value against the field's type, as JSON has them: a
whole number is a number, a list a tuple, a text a path, and `"false"` no truth value.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import functools
import io
import json
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

import pydantic
import tyro
import yaml
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from mario_cli import UsageError
from mario_files import read_file

CALLED_AS = "MARIO_CALLED_AS"  # the front door's command that this process is, if it is one

# Older names to those of today: a mapping, and the names that the dataclass it is meant for knows.
OlderNames = Callable[[dict[str, Any], Collection[str]], dict[str, Any]]


# What numbers may be, where a field is declared. Each holds for files and the command line.
Count = Annotated[int, pydantic.Field(ge=1, le=10**12)]
Amount = Annotated[int, pydantic.Field(ge=0, le=10**12)]  # 0 is mostly "never" or "off"
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]
Threads = Annotated[int, pydantic.Field(ge=0, le=1024)]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]
Weight = Annotated[float, pydantic.Field(ge=0, le=1e6)]
Positive = Annotated[float, pydantic.Field(gt=0, le=1e6)]
StepSize = Annotated[float, pydantic.Field(ge=0, le=1)]  # of an optimiser
Episodes = Annotated[int, pydantic.Field(ge=1, le=10**6)]
Seconds = Annotated[float, pydantic.Field(ge=0, le=1e7)]
Pause = Annotated[float, pydantic.Field(gt=0, le=1e7)]  # s, between two looks
Temperature = Annotated[float, pydantic.Field(ge=1e-3, le=1e3)]

MAX_YAML_BYTES = 2**18
MAX_YAML_VALUES = 100_000  # with those repeated by reference
MOST_DIGITS = 40
UNITS = {"k": 1_000, "m": 1_000_000}


def whole_number(text: str) -> int:
    """Return the whole number that a person writes as 700000, 700_000, 7e5, 700k or 0.7M.

    Raises:
        ValueError: it is none.
    """
    words = text.strip().lower().replace("_", "")
    unit = UNITS.get(words[-1:], 1)
    digits = words[:-1] if unit > 1 else words
    if re.fullmatch(rf"[-+]?\d{{1,{MOST_DIGITS}}}", digits):
        return int(digits) * unit
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d{1,2})?", digits[:MOST_DIGITS]):
        raise ValueError(f"{text[:40]!r} is not a whole number, as 100000 or 100k")
    value = round(float(digits[:MOST_DIGITS]) * unit, 6)
    if not value.is_integer():
        raise ValueError(f"{text[:40]!r} is not a whole number, as 100000 or 100k")
    return int(value)


class Checked:
    """A dataclass of flags that looks at its values when it is made, whoever makes it."""

    def __post_init__(self) -> None:
        """Check each field that is no dataclass against its declared type and range.

        Raises:
            UsageError: one does not fit; the message names its flag.
        """
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if not _is_config(value):
                reader = _reader(typing.cast(Hashable, type(self)), field.name)
                _checked(reader, value, flag_name(field.name))


def flag_name(field: str) -> str:
    """Return a field's flag: "--n-envs"."""
    return f"--{field.rstrip('_').replace('_', '-')}"


_FLAGS = ConstructorRegistry()


@_FLAGS.primitive_rule
def _whole_flag(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[int] | None:
    """Read whole numbers of a command line by `whole_number`."""
    if info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: whole_number(words[0]),
        is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


@_FLAGS.primitive_rule
def _path_flag(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    """Read paths of a command line; an empty one would be the current folder."""
    if info.type is not Path:
        return None

    def path(words: list[str]) -> Path:
        return _path(words[0], "a path on the command line")

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=path,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


def _path(text: str, where: str) -> Path:
    """Return a path that is not empty."""
    if not text.strip():
        raise UsageError(f"{where} is empty: name a file or a folder")
    if "\0" in text:
        raise UsageError(f"{where} has a null in it")
    return Path(text)


def parse_flags[Config](
    kind: type[Config],
    arguments: Sequence[str] | None,
    description: str | None,
    default: Config | None = None,
    markers: Sequence[Any] = (),
) -> Config:
    """Return a command line as a dataclass of flags, `Checked` ones checked.

    Args:
        kind: the dataclass.
        arguments: the command line; None is this process's own.
        description: what --help says first.
        default: the values of flags that are not given.
        markers: of `tyro.conf`.

    Raises:
        UsageError: the arguments do not parse, or a value is out of its range.
        SystemExit: --help.
    """
    given: dict[str, Any] = {} if default is None else {"default": default}
    if called_as := os.environ.get(CALLED_AS):
        given["prog"] = called_as
        script = rf"python ([\w/]+/)?{re.escape(Path(sys.argv[0]).name)}"
        description = re.sub(script, called_as, description or "")
    with _FLAGS, _one_line():
        return tyro.cli(kind, args=arguments, description=description, config=markers, **given)


class FirstLook(argparse.ArgumentParser):
    """Reads those flags of a command line on which the defaults of all others hang.

    Its `parse_known_args` raises a UsageError where argparse would print its usage and exit.
    """

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Say what does not parse as `parse_flags` does: in one line."""
        raise UsageError(f"{message.removeprefix('argument ')}; see --help")


def parse_known_flags[Config](
    kind: type[Config], arguments: Sequence[str] | None, description: str | None
) -> tuple[Config, list[str]]:
    """Return a command line as `parse_flags` does, and the words that are none of its flags."""
    with _FLAGS, _one_line():
        return tyro.cli(kind, args=arguments, description=description, return_unknown_args=True)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Within it, what tyro says of arguments that do not parse, in a box, is a UsageError."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as error:
        if error.code in (0, None):
            raise
        raise UsageError(_unboxed(said.getvalue())) from None


def _unboxed(box: str) -> str:
    """Return what stands in tyro's box, and which flag it supposes was meant, in one line."""
    lines = [line.strip("│ ") for line in box.splitlines()]
    titled = "╭" in box  # else the title stands above a rule of its own, as in ASCII
    text = "\n".join("" if line[:1] in "╭╰" or set(line) <= set("─-") else line for line in lines)
    parts = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
    reason, *more = parts[0 if titled else 1 :] or ["the command line does not parse"]
    reason = reason[:300].rstrip(".").removeprefix("Error parsing ")
    close = re.search(r"Perhaps you meant:.*?(--[\w.-]+)", " ".join(more))
    return f"{reason}; " + (f"did you mean {close[1]}?" if close else "see --help")


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
        UsageError: it cannot be read, is no UTF-8, not YAML, or holds something else.
    """
    content = read_file(path, MAX_YAML_BYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "no UTF-8 text"
        raise UsageError(f"{path} is {kind} (byte {error.start}): save it as UTF-8") from error
    try:
        found = yaml.load(text, _Loader)
        if _count(found, {}) > MAX_YAML_VALUES:
            raise ValueError("it repeats too much by reference")
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} is not YAML: {reason}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} must hold a mapping of flags to values")
    return found


def _count(content: Any, known: dict[int, int]) -> int:
    """Return the values in YAML's content, each as often as it is referred to."""
    if not isinstance(content, dict | list | tuple | set):
        return 1
    if id(content) not in known:
        known[id(content)] = MAX_YAML_VALUES  # what holds itself has no end
        items = content.values() if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(_count(item, known) for item in items)
    return known[id(content)]


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
    nested = _nested(config, values, where, "", older)
    try:
        return _replaced(config, nested)
    except UsageError as error:  # values that each fit, but not together
        raise UsageError(f"{where}: {error}") from None


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
    takes_numbers: bool
    takes_text: bool
    takes_paths: bool
    choices: tuple[str, ...]


@functools.cache
def _reader(kind: Hashable, field: str) -> _Reader:
    """Return the reader of a dataclass's field; made once, which takes a millisecond."""
    hint = typing.get_type_hints(typing.cast(Any, kind), include_extras=True)[field]
    return _Reader(
        pydantic.TypeAdapter(hint),
        takes_fractions=_takes(hint, float),
        takes_numbers=_takes(hint, int),
        takes_text=_takes(hint, str),
        takes_paths=_takes(hint, Path) or Path in typing.get_args(hint),
        choices=_choices(hint),
    )


def _checked(reader: _Reader, value: Any, where: str) -> Any:
    """Return a value as a field has it.

    A number without a fraction may stand for a whole one: YAML reads 1e6 as a float. So may "900k".

    Raises:
        UsageError: it does not fit.
    """
    if isinstance(value, float) and value.is_integer() and not reader.takes_fractions:
        value = int(value)
    is_number = reader.takes_numbers and not reader.takes_text
    if isinstance(value, str) and is_number and value[-1:].lower() in UNITS:
        value = _whole(value, where)
    if isinstance(value, str) and reader.takes_paths and not reader.takes_text:
        return _path(value, where)
    # Not by way of JSON, which has no place for a name that is not UTF-8.
    paths = value if isinstance(value, tuple) else (value,)
    if reader.takes_paths and paths and all(isinstance(path, Path) for path in paths):
        return value
    if not _is_sane(value):
        raise UsageError(f"{where} is {_shown(value)}: no number of a flag")
    try:
        return reader.adapter.validate_json(json.dumps(value, default=_plain), strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) if isinstance(value, list | tuple | dict) else ""
        at = f" (at {place})" if place else ""
        if beyond := _beyond(first.get("ctx", {})):
            raise UsageError(f"{where} {beyond}, not {_shown(value)}{at}") from None
        reason = first["msg"]
        close = difflib.get_close_matches(str(value), reader.choices, 1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(
            f"{where} is {_shown(value)}: {reason[0].lower()}{reason[1:]}{meant}{at}"
        ) from None
    except UsageError as error:  # a field's own reader
        raise UsageError(f"{where}: {error}") from None
    except (TypeError, ValueError, RecursionError) as error:  # what JSON does not hold
        raise UsageError(f"{where} is {_shown(value)}: {str(error)[:80]}") from None


def _beyond(limits: Mapping[str, Any]) -> str:
    """Return what a number out of its range must be, from pydantic's account of it."""
    if limits.get("ge") == 0:
        return "must not be negative"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return next((f"must be {words[key]} {limits[key]}" for key in words if key in limits), "")


def _whole(text: str, where: str) -> int:
    try:
        return whole_number(text)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def _plain(value: Any) -> Any:
    """Return what JSON has for what it does not know: NumPy's numbers, paths, dates."""
    return value.item() if hasattr(value, "item") else str(value)


def _is_sane(value: Any) -> bool:
    """Return whether all numbers in a value are finite, and whole ones fit 64 bits."""
    if isinstance(value, list | tuple):
        return all(map(_is_sane, value))
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return not isinstance(value, float) or math.isfinite(value)


def _shown(value: Any) -> str:
    """Return a value for an error, not at length."""
    if isinstance(value, int) and not _is_sane(value):
        return "a number of too many digits"
    return f"{value!r:.40}"


def _choices(hint: Any) -> tuple[str, ...]:
    """Return the words that a hint's literals allow."""
    if typing.get_origin(hint) is Literal:
        return tuple(word for word in typing.get_args(hint) if isinstance(word, str))
    parts = typing.get_args(hint) if typing.get_origin(hint) is not None else ()
    parts = parts[:1] if typing.get_origin(hint) is Annotated else parts
    return tuple(word for part in parts for word in _choices(part))


def _takes(hint: Any, kind: type) -> bool:
    """Return whether a hint is a type, or a union that has it."""
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(_takes(part, kind) for part in typing.get_args(hint))
    return hint is kind


def with_changes[Config](config: Config, before: Config, now: Config) -> Config:
    """Return a config dataclass with all that differs between two others of its class."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        own, old, new = (getattr(one, field.name) for one in (config, before, now))
        if old != new:
            changes[field.name] = with_changes(own, old, new) if _is_config(own) else new
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def _posix(value: Any) -> Any:
    return value.as_posix() if isinstance(value, Path) else value


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
            value = _posix(as_text(value))
            values[field.name] = list(map(_posix, value)) if isinstance(value, tuple) else value
    return values
