"""What every command shares: its expected failures as one line and an exit code, and old flags."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Sequence


class UsageError(Exception):
    """What a person asked for does not exist or does not fit; the message says what would.

    No ValueError: tyro would take that for its own and print a box instead of the line.
    """


class Failure(RuntimeError):
    """What was asked for is right, and could not be done; the message says why."""


FAILURES = (Failure, FloatingPointError, MemoryError, OSError, subprocess.CalledProcessError)


def exit_code(task: Callable[[], int | None], stopped: str = "") -> int:
    """Run a command's task and return how it ended.

    Args:
        task: returns its exit code, or None for 0.
        stopped: what to say of Ctrl-C.

    Returns:
        2 after wrong usage, 1 after a failure, each said in one line on stderr; 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        # what a terminal's encoding lacks, a name say, is a ? there and no traceback
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return task() or 0
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if stopped:
            print(stopped, file=sys.stderr)
        return 130


def with_stages_flag(arguments: Sequence[str]) -> list[str]:
    """Return arguments with `--world W`, `--stage S` and `--stage W-S` as one `--stages W-S`.

    Args:
        arguments: a command line, `--flag value` or `--flag=value`.

    Raises:
        UsageError: they contradict each other, or the last one has no value.
    """
    given: dict[str, str] = {}
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        flag, has_value, value = word.partition("=")
        name = flag.removeprefix("--")
        if not flag.startswith("--") or name not in ("world", "stage", "stages"):
            kept.append(word)
            continue
        if not has_value and (found := next(words, None)) is None:
            raise UsageError(f"{flag} needs a value")
        given[name] = value if has_value else str(found)
    if (world := given.get("world")) is not None and not world.isdecimal():
        raise UsageError(f"--world takes a number, not {world!r}; --stage 1-2 names a level")
    stage = given.get("stage", "1" if "world" in given else None)
    if stage is not None and "stages" in given:
        raise UsageError("give --stages or --stage, not both")
    if stage is not None and not stage.isdecimal() and "world" in given:
        raise UsageError(f"--world {given['world']} and --stage {stage}: one of them is enough")
    if stage is not None:
        given["stages"] = f"{given.get('world', '1')}-{stage}" if stage.isdecimal() else stage
    return [*kept, *([f"--stages={given['stages']}"] if "stages" in given else [])]
