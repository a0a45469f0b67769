"""How a command ends: expected failures in one line with their code, others with a traceback."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mario_cli import UsageError, exit_code
from mario_runs import BadModelFile, RunLocked
from mario_sb3 import WorkerDied


def failing(error: BaseException) -> Callable[[], None]:
    def task() -> None:
        raise error

    return task


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *((kind("why"), 2) for kind in (UsageError, BadModelFile, RunLocked)),
        *((kind("why"), 1) for kind in (WorkerDied, FloatingPointError, OSError)),
    ],
)
def test_an_expected_failure_is_one_line(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(failing(error)) == code
    assert capsys.readouterr() == ("", "error: why\n")


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(KeyError):
        exit_code(failing(KeyError("bug")))


def test_a_task_ends_with_its_own_code_and_ctrl_c_with_130(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: 1) == 1
    assert exit_code(failing(KeyboardInterrupt()), stopped="stopped") == 130
    assert capsys.readouterr().err == "stopped\n"
