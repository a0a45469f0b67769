"""scripts/search_route.py and scripts/route_table.py: what is kept, said, written and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mario_demos import load_demo, replay
from scripts import route_table, search_route

DEMOS = Path(__file__).resolve().parents[1] / "demos"


def test_the_command_writes_what_is_shorter_and_keeps_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(DEMOS / "6-4.npz", tmp_path)
    before = (tmp_path / "6-4.npz").read_bytes()
    results = tmp_path / "routes.json"
    flags = ["--stages", "1-4,6-4", "--shorten", "0", "--threads", "1"]
    flags += ["--output", str(tmp_path), "--results", str(results)]
    assert search_route.main(flags) == 0
    printed = capsys.readouterr().out
    assert "wrote" in printed and "kept the old" in printed
    assert (tmp_path / "6-4.npz").read_bytes() == before
    demo = load_demo(tmp_path / "1-4.npz")
    assert replay(demo, "nes-py") == (None, True, demo.frames)
    figures = json.loads(results.read_text())
    assert list(figures) == ["1-4"]
    assert figures["1-4"]["agent_steps"] == demo.agent_steps
    page = route_table.with_table("Before.\n<!-- routes -->\n<!-- end -->\nAfter.\n", figures)
    assert "| 1-4 | " in page and page.startswith("Before.") and page.endswith("After.\n")


def test_no_clear_in_time_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--world", "8", "--stage", "4", "--seconds", "0", "--output", str(tmp_path)]
    assert search_route.main(flags) == 1
    assert capsys.readouterr().err.strip() == "error: no clear of 8-4 within 0 s"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name a stage"),
        (["--world", "1"], "name a stage"),
        (["--stages", "9-1"], "no stage '9-1'"),
        (["--stages", "one"], "no stage 'one'"),
        (["--stages", "1-1", "--change-price", "-1"], "not negative: --change-price -1"),
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


def test_the_page_of_routes_is_the_results() -> None:
    assert route_table.main(["--check"]) == 0
