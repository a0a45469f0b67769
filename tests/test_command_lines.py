"""Every command takes flags by one grammar: what does not fit is one line and exit code 2."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mario_values import parse_flags

ROOT = Path(__file__).parents[1]
# Each command, what it must be given, and one of its paths ("" if it has none).
COMMANDS = {
    "train_mario": ([], "--run-dir"),
    "teach_mario": ([], "--run-dir"),
    "dreamerv3.dreamer": ([], "--run-dir"),
    "train_mario_professional": (["x.yaml"], "--storage"),
    "evaluate_mario": ([], "--output-dir"),
    "render_best_checkpoint": ([], "--output-dir"),
    "watch_mario": ([], "--record"),
    "compare_agents": ([], "--output-dir"),
    "auto_update_mario_monitor": ([], "--runs-root"),
    "quick_mario_smoke": ([], ""),
    "bench_throughput": ([], "--json"),
    "dreamerv3.diagnose": (["x"], ""),
    "dreamerv3.npz_keys": (["x"], ""),
    "dreamerv3.probe": (["--run-dir", "x"], "--output"),
    "dreamerv3.perf_summary": (["x"], ""),
    "dreamerv3.render_best": (["x"], "--output-dir"),
    "scripts.backup_checkpoints": ([], "--to"),
    "scripts.check_parity": ([], "--json"),
    "scripts.demos_to_episodes": (["x", "--output", "y"], "--output"),
    "scripts.diagnose_latest": ([], "--run"),
    "scripts.doc_tables": ([], ""),
    "scripts.eval_summary": (["x"], ""),
    "scripts.imitation_gap": (["x", "--teacher", "y"], "--teacher"),
    "scripts.inspect_checkpoint": (["x"], ""),
    "scripts.launch": (["detached"], "--run-dir"),
    "scripts.learning_curve": (["x"], "--output"),
    "scripts.level_films": (["--output", "x.mp4"], "--output"),
    "scripts.measure_stages": ([], ""),
    "scripts.noop_demos": (["--stages", "1-1", "--output", "y"], "--output"),
    "scripts.run_health": ([], "--run"),
    "scripts.search_route": ([], "--output"),
    "scripts.share": (["push", "x", "--to", "y"], "--film"),
    "scripts.ship_policy": (["x", "y"], "--study"),
    "scripts.side_by_side": (["x", "--output", "y.gif"], "--output"),
    "scripts.stop_run": ([], "--runs-root"),
}
OTHERS = ("scripts.launch",)  # hands on what it does not know


def refused(
    command: str, flags: list[str], capsys: pytest.CaptureFixture[str], folder: Path
) -> str:
    """Return the one line that a command says of flags; it has made nothing."""
    before = sorted(folder.rglob("*"))
    assert importlib.import_module(command).main([*COMMANDS[command][0], *flags]) == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert not out
    assert sorted(folder.rglob("*")) == before
    return error


def without(words: list[str], flag: str) -> list[str]:
    """Return a command line without a flag and its value."""
    at = words.index(flag) if flag in words else len(words)
    return words[:at] + words[at + 2 :]


def test_every_command_is_here() -> None:
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in (ROOT, ROOT / "scripts", ROOT / "dreamerv3")
        for path in folder.glob("*.py")
        if "\nif __name__ == " in path.read_text(encoding="utf-8")
    }
    hand_on = {"scripts.front_door", "scripts.run_tests", "scripts.train_dreamer"}
    assert found - hand_on == set(COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - set(OTHERS)))
def test_a_flag_that_is_none_is_one_line(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--nonesuch" in refused(command, ["--nonesuch", "1"], capsys, tmp_path)


@pytest.mark.parametrize("command", sorted(name for name in COMMANDS if COMMANDS[name][1]))
def test_an_empty_path_is_refused(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    flag = COMMANDS[command][1]
    monkeypatch.setitem(COMMANDS, command, (without(COMMANDS[command][0], flag), flag))
    assert "empty" in refused(command, [flag, ""], capsys, tmp_path)


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("train_mario", "--gama 1", "did you mean --gamma?"),
        ("watch_mario", "--speeed 1", "did you mean --speed?"),
        ("watch_mario", "--speed 1e9", "--speed must be at most 1000"),
        ("watch_mario", "--seed 4294967296", "--seed must be below 4294967296"),
        ("watch_mario", "--protocol stick", "'fixed', 'noop', 'sticky'"),
        ("evaluate_mario", "--episodes 1.5", "--episodes: '1.5' is not a whole number"),
        ("render_best_checkpoint", "--n-envs 0", "--n-envs must be at least 1"),
        ("auto_update_mario_monitor", "--port 0", "--port must be at least 1"),
        ("bench_throughput", "--repeats 0", "--repeats must be at least 1"),
        ("bench_throughput", "--seconds nan", "--seconds is nan"),
        ("bench_throughput", "--parts fast", "invalid choice 'fast'"),
        ("dreamerv3.dreamer", "--run-dir", "--run-dir: expected one argument; see --help"),
        ("dreamerv3.dreamer", "--run_dir", "--run-dir: expected one argument"),
        ("dreamerv3.dreamer", "--resume-model --seed 1", "--resume-model: expected one argument"),
        ("dreamerv3.diagnose", "--length 3", "--length must be at least 9"),
        ("scripts.backup_checkpoints", "--every-s 0", "--every-s must be above 0"),
        ("scripts.check_parity", "--frames -1", "--frames must be at least 1"),
        ("scripts.check_parity", "--stages 9-9", "no stage '9-9'"),
        ("scripts.demos_to_episodes", "--max-unfit 2", "--max-unfit must be at most 1"),
        ("scripts.diagnose_latest", "--seed -1", "--seed must not be negative"),
        ("scripts.noop_demos", "--noops -1", "--noops must not be negative"),
        ("scripts.run_health", "--every-s inf", "--every-s is inf"),
        ("scripts.search_route", "--seconds -1", "--seconds must not be negative"),
        ("scripts.ship_policy", "--max-mb 0", "--max-mb must be above 0"),
        ("scripts.stop_run", "--wait-s -1", "--wait-s must not be negative"),
        ("scripts.launch", "--run-dir", "--run-dir"),
    ],
)
def test_values_have_types_ranges_and_choices(
    command: str, flags: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert message in refused(command, flags.split(), capsys, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="names there are text")
@pytest.mark.parametrize("command", ["train_mario", "teach_mario", "dreamerv3.dreamer"])
def test_a_run_folder_whose_name_is_no_text_is_refused(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9") / "run"
    assert r"caf\xe9" in refused(command, ["--run-dir", str(folder)], capsys, tmp_path)


def test_whole_numbers_are_written_as_people_do() -> None:
    from scripts.check_parity import ParityFlags

    for text in ("900k", "9e5", "900_000", "0.9M"):
        assert parse_flags(ParityFlags, ["--frames", text], "").frames == 900_000


@pytest.mark.parametrize("command", ["scripts/run_health.py", "auto_update_mario_monitor.py"])
@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_name_that_the_terminal_cannot_show_is_no_traceback(
    tmp_path: Path, command: str, locale: dict[str, str]
) -> None:
    run = tmp_path / "läufe" / "größe→"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 5, "max_x": 7.0}\n')
    flags = ["--once"] if "monitor" in command else ["--brief"]
    done = subprocess.run(
        [sys.executable, ROOT / command, "--runs-root", tmp_path / "läufe", *flags],
        env=os.environ | locale | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"gr" in done.stdout and b"stopped" in done.stdout
