"""scripts/search_route.py: what is kept, said, written and refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import mario_tables
from mario_demos import load_demo, replay
from mario_results import read_study
from scripts import search_route

DEMOS = Path(__file__).resolve().parents[1] / "demos"


@pytest.mark.slow
def test_the_command_writes_what_is_shorter_and_keeps_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(DEMOS / "6-4.npz", tmp_path)
    before = (tmp_path / "6-4.npz").read_bytes()
    results = tmp_path / "routes"
    flags = ["--stages", "1-4,6-4", "--shorten", "0", "--threads", "1"]
    flags += ["--output", str(tmp_path), "--results", str(results)]
    assert search_route.main(flags) == 0
    printed = capsys.readouterr().out
    assert "wrote" in printed and "kept the old" in printed
    assert (tmp_path / "6-4.npz").read_bytes() == before
    demo = load_demo(tmp_path / "1-4.npz")
    assert replay(demo, "nes-py") == (None, True, demo.frames)
    study = read_study(results)
    assert list(study.about.runs) == ["1-4"]
    assert study.about.runs["1-4"].note == (
        "--stages 1-4 --seed 0 --shorten 0 --threads 1 --change-price 0.2"
    )
    assert study.figures("1-4")["agent_steps"] == demo.agent_steps
    lines = list(mario_tables.routes(results))
    assert lines[2].startswith(f"| 1-4 | {demo.agent_steps} | 183 | {demo.frames} | ")
    assert lines[-1].startswith("Machine: ")
    monkeypatch.setattr(mario_tables, "ROUTES", results)
    assert mario_tables.route_steps() == {"1-4": demo.agent_steps}


def test_no_clear_in_time_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--world", "8", "--stage", "4", "--seconds", "0", "--output", str(tmp_path)]
    assert search_route.main(flags) == 1
    assert capsys.readouterr().err.strip() == "error: no clear of 8-4 within 0 s"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name a stage"),
        (["--stages", "9-1"], "no stage '9-1'"),
        (["--stages", "one"], "no stage 'one'"),
        (["--stages", "1-1", "--change-price", "-1"], "--change-price must not be negative"),
    ],
)
def test_wrong_flags_are_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search_route.main(flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_bad_demo_is_refused_before_the_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1-1.npz").write_bytes(b"not a demo")
    assert search_route.main(["--stages", "1-1", "--output", str(tmp_path)]) == 2
    assert "not a whole demo file" in capsys.readouterr().err
    assert (tmp_path / "1-1.npz").read_bytes() == b"not a demo"
