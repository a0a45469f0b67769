"""Help: a first page of ten flags, all of them on demand, and neither waits for torch."""

from __future__ import annotations

import dataclasses
import operator
import subprocess
import sys
from pathlib import Path

import pytest

import mario_flags
import teach_mario
from dreamerv3 import flags as dreamer_flags
from mario_help import FirstPage, first_page, flag_docs
from mario_runs import RunFolder

ROOT = Path(__file__).resolve().parents[1]
RUN_EACH = """
import contextlib, io, runpy, sys

for line in sys.stdin.read().splitlines():
    script, *sys.argv[1:] = line.split()
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            code = end.code
    if slow := {"torch", "numba", "cv2"} & sys.modules.keys():
        sys.exit(f"{line}: imports {slow}")
    print(code, len(said.getvalue().splitlines()), line)
"""


def answers(*lines: str) -> dict[str, tuple[int, int]]:
    """Return exit code and lines said of commands, run in one process that must not need torch."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_EACH],
        cwd=ROOT,
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [line.split(" ", 2) for line in done.stdout.splitlines()]
    return {line: (int(code), int(said)) for code, said, line in found}


def test_help_wrong_flags_and_heartbeats_do_not_wait_for_torch(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "runs" / "mine")
    run.path.mkdir(parents=True)
    run.metrics_path.write_text('{"step": 100, "time": 1.0, "wall_s": 1.0}\n')
    heartbeat = f"scripts/run_health.py --brief --runs-root {tmp_path / 'runs'}"
    found = answers(
        "train_mario.py --help",
        "train_mario.py --help-all",
        "train_mario.py --stage 9-9",
        "train_mario.py --timesteps x",
        "evaluate_mario.py --help",
        "evaluate_mario.py --episodes 0",
        "render_best_checkpoint.py --help",
        "scripts/stop_run.py --help",
        "scripts/train_dreamer.py",
        "scripts/run_health.py --help",
        heartbeat,
    )
    codes = {line: code for line, (code, _) in found.items()}
    assert {code for line, code in codes.items() if "--help" in line} == {0}
    wrong = ("train_mario.py --stage 9-9", "evaluate_mario.py --episodes 0")
    assert {codes[line] for line in (*wrong, "scripts/train_dreamer.py")} == {2}
    assert found[heartbeat][1] == 1
    first, everything = found["train_mario.py --help"][1], found["train_mario.py --help-all"][1]
    assert first < 30 < 150 < everything


@pytest.mark.parametrize(
    ("page", "kind"),
    [
        (mario_flags.PAGE, mario_flags.TrainConfig),
        (teach_mario.PAGE, teach_mario.TeachConfig),
        (dreamer_flags.PAGE, dreamer_flags.DreamerConfig),
    ],
)
def test_the_first_page_has_ten_flags_that_the_trainer_takes(page: FirstPage, kind: type) -> None:
    assert len(page.flags) == 10
    config = kind()
    text = first_page(page, config)
    for place in page.flags:
        operator.attrgetter(place)(config)
    for example in page.examples:
        assert f"run_mario.sh {page.command} {example}" in text
    assert "--help-all" in text


def test_every_field_has_the_string_below_it() -> None:
    for kind in (mario_flags.PPOFlags, mario_flags.RunFlags, dreamer_flags.RunConfig):
        docs = flag_docs(kind)
        assert list(docs) == [field.name for field in dataclasses.fields(kind)]
        assert docs["timesteps" if "timesteps" in docs else "seed"]
