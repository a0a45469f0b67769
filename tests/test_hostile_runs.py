"""Run folders of a stranger: one that is broken or lies hides no other and leads nowhere."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from starlette.requests import Request

import auto_update_mario_monitor
from dreamerv3.replay import Replay, row_type
from mario_cli import UsageError
from mario_monitor.board import Board
from mario_monitor.facts import (
    RunList,
    about_content,
    curves_content,
    evaluations_content,
    levels_content,
)
from mario_monitor.server import host_of, is_from_here
from mario_report import rounded
from mario_runs import RunLocked, printable, read_row
from mario_status import RunReader, find_runs
from scripts import run_health
from tests.test_monitor import healthy, process, write_rows
from train_mario_professional import only_plan, read_plan

DIGITS = "9" * 400
BRACKETS = "[" * 100_000

# What a run's metrics may hold beside good lines, and what is said of it.
BAD_LINES = {
    '{"step": 1, "entropy": "x"}': "'entropy' is no finite number",
    '{"step": 1, "entropy": NaN}': "'entropy' is no finite number",
    '{"step": 1, "entropy": "NaN"}': "'entropy' is no finite number",
    '{"step": 1, "value_loss": 1e999}': "'value_loss' is no finite number",
    '{"step": 1, "max_x": %s}' % DIGITS: "'max_x' is no finite number",  # noqa: UP031
    '{"step": 1, "wall_s": null, "clear_rate": [1]}': "is no finite number",
    '{"step": %s}' % DIGITS: "no step",  # noqa: UP031
    '{"step": "1"}': "no step",
    '{"step": -1}': "no step",
    '{"step": true}': "no step",
    "[]": "no step",
    "null": "no step",
    '{"step": %s' % BRACKETS: "no JSON",  # noqa: UP031
    BRACKETS: "no JSON",
    "\x00\x01": "no JSON",
    '{"step": 1': "no JSON",
}


def looks_fine(root: Path, names: set[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Every reader shows every run; return all that they print."""
    capsys.readouterr()
    page = root.parent / "report.html"
    flags = ["--runs-root", str(root), "--once"]
    assert auto_update_mario_monitor.main(flags) == 0
    assert auto_update_mario_monitor.main([*flags, "--html", str(page)]) == 0
    assert run_health.main(["--runs-root", str(root), "--brief"]) in (0, 1)
    text = capsys.readouterr().out + page.read_text(encoding="utf-8")
    board = Board(root)
    board.refresh()
    assert {status.name for status in board.statuses} == names
    told: list[Any] = [RunList(board).content()]
    for status in board.statuses:
        reader = board.readers[status.name]
        told += [curves_content(reader, ["entropy", "max_x"]), evaluations_content(reader)]
        told += [levels_content(reader), about_content(reader, status)]
    return text + json.dumps(told, allow_nan=False, ensure_ascii=False)


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: line[:40])
def test_a_bad_line_is_named_and_takes_nothing_down(
    tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    for name in ("bad", "good"):
        write_rows(root / name, [healthy(100), healthy(200)])
    with (root / "bad" / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n{json.dumps(healthy(300))}\n")
    looks_fine(root, {"bad", "good"}, capsys)
    reader = RunReader(root / "bad")
    for _ in range(2):
        status = reader.status()
        assert status.step == 300, "what comes after it is read"
        assert status.trouble.startswith("metrics.jsonl: line 3: ")
        assert BAD_LINES[line] in status.remark
    assert RunReader(root / "good").status().trouble == ""


@pytest.mark.parametrize(
    "name", ["train_config.json", "trainer.json", "evaluations/best_eval_summary.json"]
)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", BRACKETS.encode(), b'{"a": ' + b"[" * 99999])
def test_a_bad_file_is_named_and_takes_nothing_down(
    tmp_path: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    write_rows(root / "bad", [healthy(100)])
    write_rows(root / "good", [healthy(100)])
    (root / "bad" / name).parent.mkdir(exist_ok=True)
    (root / "bad" / name).write_bytes(content)
    looks_fine(root, {"bad", "good"}, capsys)
    assert Path(name).name in RunReader(root / "bad").status().trouble


@pytest.mark.parametrize(
    "config",
    [
        {"ppo": {"timesteps": float("nan")}},
        {"ppo": {"timesteps": 1e999}},
        {"ppo": {"timesteps": int(DIGITS)}},
        {"agent": ["[red]"], "env": {"stages": {"a": 1}}},
        {"agent": "[/b]" * 99, "env": {"stages": "[link=x]"}},
        {"agent": "\x1b[2J\n", "env": {"world": "\ud800", "stage": []}},
    ],
)
def test_a_config_of_strange_values_is_shown_as_text(
    tmp_path: Path, config: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    write_rows(root / "bad", [healthy(100)])
    (root / "bad" / "train_config.json").write_text(json.dumps(config))
    text = looks_fine(root, {"bad"}, capsys)
    assert "\x1b[2J" not in text


# Chromium's own refusal to let a page elsewhere ask this machine: without it ours is tested.
LOCAL_IS_REACHED = "--disable-features=LocalNetworkAccessChecks"

NAMES = [
    'x" onerror="alert(1)',
    "x' onload='alert(1)",
    "<img src=x onerror=alert(1)>",
    "a#b",
    "a%2e%2e",
    "a?b=c",
    "a&b",
    "exp[lr=1e-4]",
    "a[/b]",
    "[red]x",
    "{{ 7 * 7 }}",
    "a\\b",
    "a\nb",
    "\x1b[2J",
    os.fsdecode(b"caf\xe9"),
    "ünï ☃",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_is_shown_as_text_everywhere(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    try:
        write_rows(root / name, [healthy(100)])
    except OSError:
        pytest.skip("no such name on this file system")
    text = looks_fine(root, {printable(name)}, capsys)
    shown = printable(name)
    shown.encode()
    page = text.partition("<!doctype html>")[2].partition("</html>")[0]
    assert "<img" not in page
    assert "<script" not in page
    if len(shown) < 20:
        assert shown in text, "in the table as it is called"
    board = Board(root)
    assert board.reader(shown).folder.path == root / name


def test_a_pipe_and_a_private_folder_hide_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    write_rows(root / "good", [healthy(100)])
    (root / "pipe").mkdir()
    os.mkfifo(root / "pipe" / "metrics.jsonl")
    (root / "private").mkdir()
    (root / "loop").symlink_to(root / "loop")
    listdir = os.listdir

    def without_private(folder: Path) -> list[str]:
        if Path(folder).name == "private":
            raise PermissionError(13, "Permission denied")
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", without_private)  # the tests may be run by root
    monkeypatch.setattr(os, "access", lambda folder, mode: Path(folder).name != "private")
    text = looks_fine(root, {"good", "pipe", "private"}, capsys)
    assert "its folder may not be read" in text
    assert "metrics.jsonl: no file of this run" in RunReader(root / "pipe").status().trouble


@pytest.mark.parametrize(
    "place",
    [
        "metrics.jsonl",
        "train_config.json",
        "trainer.json",
        "evaluations/best_eval_summary.json",
        "evaluations/step_5/summary.json",
        "evaluations",
        "previews/step_5/preview.mp4",
        "previews/step_5",
        "previews",
        "models/mario_final.zip",
        "models",
    ],
)
def test_a_link_out_of_a_run_is_not_followed(
    tmp_path: Path, tiny_run: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The private files are those of a real run, so that each would be shown if it were read."""
    private, root = tmp_path / "private", tmp_path / "runs"
    shutil.copytree(tiny_run, private)
    (private / "metrics.jsonl").write_text('{"step": 77777}\n')
    (private / "train_config.json").write_text('{"agent": "secret"}')
    (private / "previews" / "step_5").mkdir()
    (private / "previews" / "step_5" / "preview.mp4").write_bytes(b"secret")
    shutil.copytree(private / "evaluations" / "step_128", private / "evaluations" / "step_5")
    write_rows(root / "bad", [healthy(100)])
    (root / "bad" / "train_config.json").write_text("{}")
    link = root / "bad" / place
    link.unlink(missing_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(private / place)
    text = looks_fine(root, {"bad"}, capsys)
    reader = RunReader(root / "bad")
    status = reader.status()
    assert (status.best, reader.readable_evaluations(), reader.newest_preview()) == (None, [], None)
    assert status.holder is None
    assert status.state != "finished"
    for secret in ("secret", "77,777", "c2VjcmV0"):
        assert secret not in text


def test_numbers_are_rounded_whatever_their_size() -> None:
    assert rounded(1e300, 3) == "1e+300"
    assert rounded(-1e-300, 3) == "-1e-300"
    assert read_row(b'{"step": 1, "a": 1e308}').row == {"step": 1, "a": 1e308}


# --------------------------------------------------------------------------------------------
# The page
# --------------------------------------------------------------------------------------------


def request_of(headers: dict[str, str]) -> Request:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "GET", "path": "/live/x", "headers": raw})


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"origin": "http://127.0.0.1:8080"}, True),
        ({"origin": "http://elsewhere.example"}, False),
        ({"origin": "null"}, False),
        ({"referer": "http://127.0.0.1:8080/?run=x"}, True),
        ({"referer": "http://elsewhere.example/"}, False),
    ],
)
def test_another_site_starts_no_games(headers: dict[str, str], allowed: bool) -> None:
    assert is_from_here(request_of({"host": "127.0.0.1:8080"} | headers)) == allowed


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("127.0.0.1:8080", "127.0.0.1"),
        ("localhost", "localhost"),
        ("[::1]:8080", "::1"),
        ("[::1]", "::1"),
        ("elsewhere.example", "elsewhere.example"),
        ("[::1", ""),
        ("", ""),
        ("127.0.0.1@elsewhere.example", "elsewhere.example"),
    ],
)
def test_the_host_that_is_asked_for_is_told_from_its_port(host: str, name: str) -> None:
    assert host_of({"type": "http", "headers": [(b"host", host.encode())]}) == name


def asked(port: int, path: str, **headers: str) -> tuple[int, str, str]:
    """Return the status of an answer, its X-Frame-Options and the beginning of its text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in ({"Host": f"127.0.0.1:{port}"} | headers).items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    response = connection.getresponse()
    found = response.status, response.getheader("X-Frame-Options", ""), response.read(100_000)
    connection.close()
    return *found[:2], found[2].decode(errors="replace")


@pytest.mark.slow
def test_the_server_shows_hostile_runs_and_answers_no_other_site(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for name in NAMES:
        with contextlib.suppress(OSError):
            write_rows(root / name, [healthy(100)])
    for number, line in enumerate(BAD_LINES):
        write_rows(root / f"bad_{number}", [healthy(100)])
        with (root / f"bad_{number}" / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monitor: list[str | Path] = ["auto_update_mario_monitor.py", "--runs-root", root]
    with process(*monitor, "--port", str(port)) as server:
        assert server.stdout
        assert f"http://127.0.0.1:{port} shows" in server.stdout.readline()

        def page(name: str) -> tuple[int, str, str]:
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    return asked(port, f"/?run={quote(name)}")
                time.sleep(0.1)

        for name in map(printable, find_runs(root)):
            status, framing, text = page(name)
            assert (status, framing) == (200, "DENY"), name
            assert "<img src=x" not in text
            for kind in ("curves", "evaluations", "levels", "about"):
                status, _, text = asked(port, f"/api/{kind}?run={quote(name, safe='')}&key=max_x")
                assert (status, list(json.loads(text))) == (200, [name]), kind
        for headers, wanted in (
            ({"Sec_Fetch_Site": "cross-site"}, 403),
            ({"Referer": "http://elsewhere.example/"}, 403),
            ({"Host": "elsewhere.example"}, 400),
        ):
            assert asked(port, "/live/bad_0", **headers)[0] == wanted
        for host in (f"[::1]:{port}", f"localhost:{port}"):
            assert asked(port, "/level/9-9.png", Host=host)[0] == 404, "it is answered"


# --------------------------------------------------------------------------------------------
# Replays and plans
# --------------------------------------------------------------------------------------------

ROW = row_type((1, 4, 4), 2)
CONTENTS = {"reward_signature": "r"}


def open_replay(folder: Path) -> Replay:
    return Replay(folder, ROW, CONTENTS, streams=1, length=2)


@pytest.mark.parametrize(
    "generation", ["../../x", "/tmp/x", "..", "0/../../x", "", "a", "0\n", ["0"], None, 10**400]
)
def test_a_replays_generation_leads_nowhere_else(tmp_path: Path, generation: object) -> None:
    folder = tmp_path / "a" / "replay"
    open_replay(folder)
    index = json.loads((folder / "replay.json").read_text())
    index["generation"] = str(generation) if generation == 10**400 else generation
    (folder / "replay.json").write_text(json.dumps(index))
    victim = tmp_path / "x" / "0" / "000000000000.rows"
    victim.parent.mkdir(parents=True)
    victim.write_bytes(b"not a row")
    with pytest.raises(UsageError, match="its generation is"):
        open_replay(folder)
    assert victim.read_bytes() == b"not a row"


@pytest.mark.parametrize("place", ["0", "0/0", "0/0/000000000000.rows"])
def test_a_replay_follows_no_link(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "replay"
    open_replay(folder)
    shutil.rmtree(folder / "0")
    victim = tmp_path / "x"
    inner = Path(*Path("0/0/000000000000.rows").parts[len(Path(place).parts) :])
    target = victim / inner if inner.parts else victim
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"not a row")
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).symlink_to(victim)
    with pytest.raises(UsageError, match="is a link"):
        open_replay(folder)
    assert target.read_bytes() == b"not a row"


def test_a_replay_that_is_cleared_begins_as_a_new_one(tmp_path: Path) -> None:
    replay = open_replay(tmp_path)
    replay.append(0, np.zeros(1500, ROW))
    replay = open_replay(tmp_path)
    assert len(replay) == 1500
    replay.clear()
    assert (len(replay), list(tmp_path.rglob("*.rows"))) == (0, [])
    replay.append(0, np.zeros(3, ROW))
    assert (len(replay), len(replay.sample(2))) == (3, 2)


def test_rows_that_the_checkpoint_before_counts_on_stay(tmp_path: Path) -> None:
    replay = Replay(tmp_path, ROW, CONTENTS, streams=1, length=2, capacity=1000)
    states = []
    for _ in range(4):
        replay.append(0, np.zeros(1100, ROW))
        replay.flush()
        states.append(replay.state_dict())
    again = Replay(tmp_path, ROW, CONTENTS, streams=1, length=2, capacity=1000)
    again.load_state_dict(states[-2])
    assert again.end == states[-2]["end"]
    with pytest.raises(UsageError, match="lacks rows"):
        Replay(tmp_path, ROW, CONTENTS, streams=1, length=2).load_state_dict(states[0])


PLAN = "stages: 1-1\nseeds: [0]\nflags: {n_envs: 2, n_steps: 64, batch_size: 64}\n"


@pytest.mark.parametrize(
    "change",
    [
        "group: ../../x",
        "group: /tmp/x",
        "group: a/b",
        "group: ..",
        'group: "a\\\\b"',
        'group: "a\\nb"',
        "variants: {/tmp/x/y: {}}",
        "variants: {../x: {}}",
        "phases: [{name: ../../../x}]",
        "phases: [{name: .}]",
        'phases: [{name: ""}]',
        'phases: [{name: "x."}]',
    ],
)
def test_no_name_in_a_plan_leads_out_of_the_storage(tmp_path: Path, change: str) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN + change + "\n")
    with pytest.raises(UsageError, match="cannot be a folder's name"):
        read_plan(plan, tmp_path / "runs")


def test_a_second_plan_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with (
        only_plan(tmp_path / "group"),
        pytest.raises(RunLocked, match="another plan trains in"),
        only_plan(tmp_path / "group"),
    ):
        pass
    with only_plan(tmp_path / "group"), only_plan(tmp_path / "other"):
        pass
