"""What every command makes of an expected failure: one line and an exit code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from mario_runs import BadModelFile, RunLocked
from mario_runtime import UsageError, WorkerDied

WRONG_USAGE = (UsageError, BadModelFile, RunLocked)
FAILURES = (WorkerDied, FloatingPointError, OSError, subprocess.CalledProcessError)


def exit_code(task: Callable[[], int | None], stopped: str = "") -> int:
    """Run a command's task and return how it ended.

    Args:
        task: returns its exit code, or None for 0.
        stopped: what to say of Ctrl-C.

    Returns:
        2 after wrong usage, 1 after a failure, each said in one line on stderr; 130 after Ctrl-C.
    """
    try:
        return task() or 0
    except WRONG_USAGE as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if stopped:
            print(stopped, file=sys.stderr)
        return 130
