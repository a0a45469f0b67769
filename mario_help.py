"""The first page of a trainer's help: the ten flags that people use, and examples.

`--help` shows it, `--help-all` what tyro makes of all flags. Both read the same docstrings.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import operator
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

WIDTH = 92  # characters of a line


class FirstPage(NamedTuple):
    """What `--help` says of a command with many flags."""

    command: str  # as the front door has it
    about: str
    flags: tuple[str, ...]  # "run.timesteps": where each stands in the config
    examples: tuple[str, ...]  # what follows the command
    prefixes: tuple[str, ...] = ()  # groups whose flags are called --group.name, not --name


def answer_help(
    arguments: Sequence[str], page: FirstPage, defaults: Callable[[], Any]
) -> list[str]:
    """Return a command line with `--help-all` as the `--help` that tyro knows.

    Args:
        arguments: the command line.
        page: what `--help` shows.
        defaults: makes the config dataclass whose values stand in it as defaults.

    Raises:
        SystemExit: `--help` was asked for, and is printed.
    """
    if {"-h", "--help"} & set(arguments):
        print(first_page(page, defaults()))
        raise SystemExit(0)
    return ["--help" if word == "--help-all" else word for word in arguments]


def first_page(page: FirstPage, defaults: Any) -> str:
    """Return the text of a first page."""
    rows = []
    for place in page.flags:
        group, _, name = place.rpartition(".")
        owner = operator.attrgetter(group)(defaults) if group else defaults
        shown = place if group in page.prefixes else name
        flag = f"--{shown.replace('_', '-')}"
        value = getattr(owner, name)
        default = "" if value in (None, (), False) else f" (default: {shown_value(value)})"
        rows.append((flag, first_sentence(flag_docs(type(owner))[name]) + default))
    width = max(len(flag) for flag, _ in rows)
    lines = [
        f"usage: run_mario.sh {page.command} [flags]",
        "",
        *textwrap.wrap(page.about, WIDTH),
        "",
    ]
    for flag, text in rows:
        wrapped = textwrap.wrap(text, WIDTH - width - 4)
        lines.append(f"  {flag:{width}}  {wrapped[0]}")
        lines += [f"  {'':{width}}  {line}" for line in wrapped[1:]]
    lines += ["", "examples:"]
    lines += [f"  run_mario.sh {page.command} {example}" for example in page.examples]
    return "\n".join([*lines, "", "--help-all says what all flags are, and why."])


def shown_value(value: Any) -> str:
    """Return a default for a person."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def first_sentence(text: str) -> str:
    """Return what a text says first."""
    return " ".join(text.split()).partition(". ")[0].rstrip(".")


def flag_docs(kind: type) -> dict[str, str]:
    """Return the strings below the fields of a dataclass and of what it inherits, by field."""
    docs: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(one):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                docs[field.target.id] = str(after.value.value)
    return docs
