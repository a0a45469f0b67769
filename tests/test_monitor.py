"""What runs say of themselves, and the monitor's page in a real browser."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import http.client
import itertools
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import auto_update_mario_monitor
import train_mario
from mario_config import EnvConfig
from mario_doctor import Doctor
from mario_game import STAGES, StageId
from mario_judge import ModelEvaluation, Summary, summarize
from mario_monitor.board import Board
from mario_report import (
    CURVE_POINTS,
    Ending,
    death_counts,
    describe_endings,
    endings,
    level_picture,
    points,
    rounded,
)
from mario_rollout import Episode
from mario_runs import SB3_TAGS, RunFolder
from mario_status import RunReader, find_runs

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


def write_rows(run: Path, rows: list[dict[str, Any]], mode: str = "w") -> None:
    run.mkdir(parents=True, exist_ok=True)
    with (run / "metrics.jsonl").open(mode) as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def healthy(step: int) -> dict[str, Any]:
    return {"step": step, "wall_s": step / 100, "entropy": 1.5, "approx_kl": 0.004, "max_x": 700.0}


def hold(run: Path, pid: int, host: str = "") -> None:
    """Write the trainer.json of a process."""
    started = psutil.Process(pid).create_time() if psutil.pid_exists(pid) else 0.0
    moment = datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds")
    content = {"pid": pid, "host": host or platform.node(), "started": moment}
    (run / "trainer.json").write_text(json.dumps(content))


# --------------------------------------------------------------------------------------------
# Status
# --------------------------------------------------------------------------------------------


def test_a_run_is_training_stalled_dead_or_stopped_by_its_process_and_its_last_line(
    tmp_path: Path,
) -> None:
    reader = RunReader(tmp_path / "run")
    assert reader.status().state == "empty"
    write_rows(tmp_path / "run", [healthy(100), healthy(200)])
    assert reader.status().state == "stopped"

    hold(tmp_path / "run", os.getpid())
    status = reader.status()
    assert (status.state, status.step, status.is_alive) == ("training", 200, True)
    long_ago = time.time() - 3600
    os.utime(tmp_path / "run" / "metrics.jsonl", (long_ago, long_ago))
    status = reader.status()
    assert (status.state, status.why) == ("stalled", "last line 60 min ago")

    gone = subprocess.Popen([sys.executable, "-c", ""])
    hold(tmp_path / "run", gone.pid)
    gone.wait()
    assert reader.status().state == "dead"
    # A pid that another process has by now is not the trainer.
    other = {"pid": os.getpid(), "host": platform.node(), "started": "2020-01-01T00:00:00+00:00"}
    (tmp_path / "run" / "trainer.json").write_text(json.dumps(other))
    os.utime(tmp_path / "run" / "trainer.json", (1, 1))
    assert reader.status().state == "dead"
    hold(tmp_path / "run", 1, host="another machine")
    assert reader.status().is_alive, "what cannot be seen is not declared dead"


def test_a_real_run_is_finished_and_a_collapsed_one_says_why(
    tiny_run: Path, tmp_path: Path
) -> None:
    status = RunReader(tiny_run).status()
    assert (status.state, status.step, status.target) == ("finished", 256, 256)
    assert (status.agent, status.stage) == ("ppo", "1-1")
    assert status.best and status.best.argmax.episodes == 30, "each number of no-ops once"
    write_rows(tmp_path, [healthy(100), {**healthy(200), "entropy": 1e-8}])
    status = RunReader(tmp_path).status()
    assert status.state == "collapsed"
    assert status.why.startswith("entropy_collapse at step 200: ")


def test_a_copy_of_a_finished_run_has_its_steps_and_a_student_its_target(
    tiny_run: Path, tmp_path: Path
) -> None:
    [checkpoint] = RunFolder(tiny_run).checkpoints()[:1]
    arguments = ["--resume-model", str(checkpoint), "--run-dir", str(tmp_path / "copy")]
    assert train_mario.main(arguments) == 0
    status = RunReader(tmp_path / "copy").status()
    assert (status.state, status.step, status.target) == ("finished", 256, 256)
    config = {"agent": "student", "teacher": {"timesteps": 7}, "student": {"timesteps": 9}}
    (tmp_path / "train_config.json").write_text(json.dumps(config))
    assert RunReader(tmp_path).status().target == 9


def test_metrics_are_read_on_torn_and_replaced_as_they_grow(tmp_path: Path) -> None:
    reader = RunReader(tmp_path)
    write_rows(tmp_path, [healthy(100)])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 200, "entr')
    assert [row["step"] for row in reader.read_metrics()] == [100]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('opy": 1.0}\nno json\n[1]\n')
    assert [row["step"] for row in reader.read_metrics()] == [100, 200]
    write_rows(tmp_path / "new", [healthy(50)])
    (tmp_path / "new" / "metrics.jsonl").replace(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in reader.read_metrics()] == [50]
    (tmp_path / "metrics.jsonl").unlink()
    assert reader.read_metrics() == []


@pytest.mark.parametrize(
    "content", ["", "null", "[]", '{"env": 3, "ppo": []}', '{"env": {"world": {}, "stage": 1}}']
)
def test_a_strange_config_is_no_reason_to_fall(tmp_path: Path, content: str) -> None:
    (tmp_path / "train_config.json").write_text(content)
    (tmp_path / "trainer.json").write_text(content)
    status = RunReader(tmp_path).status()
    assert (status.state, status.agent, status.target) == ("empty", "?", None)


def test_two_hundred_runs_are_read_once_and_then_only_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [healthy(100 * i) for i in range(1, 21)]
    for i in range(200):
        write_rows(tmp_path / f"run_{i:03}", rows)
    read: list[int] = []
    add = Doctor.add

    def count_and_add(self: Doctor, row: dict[str, Any]) -> Any:
        read.append(row["step"])
        return add(self, row)

    monkeypatch.setattr(Doctor, "add", count_and_add)
    board = Board(tmp_path)
    board.refresh()
    assert (len(board.statuses), len(read)) == (200, 4000)
    write_rows(tmp_path / "run_007", [healthy(9999)], mode="a")
    board.refresh()
    assert len(read) == 4000, "a page that asks again at once gets what was just read"
    board._next = 0.0
    board.refresh()
    assert read[4000:] == [9999]
    assert board.statuses[0].name == "run_007"


@pytest.mark.parametrize("agent", ["tiny_run", "tiny_dreamer_run"])
def test_tensorboard_shows_the_same_numbers_under_the_same_names(
    agent: str, request: pytest.FixtureRequest
) -> None:
    run: Path = request.getfixturevalue(agent)
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    rows = RunReader(run).read_metrics()
    names = set().union(*rows) - {"step"}
    assert names == set(board.Tags()["scalars"]) - set(SB3_TAGS.values())
    shared = "episode_return max_x clear_rate env_steps_per_s entropy value_loss policy_loss"
    assert set(shared.split()) <= names
    for name in names:
        logged = [(row["step"], pytest.approx(row[name], rel=1e-4)) for row in rows if name in row]
        assert [(event.step, event.value) for event in board.Scalars(name)] == logged


# --------------------------------------------------------------------------------------------
# What is drawn
# --------------------------------------------------------------------------------------------


def test_curves_are_thinned_to_their_last_point() -> None:
    rows = [{"step": i, "max_x": i} for i in range(1, 1001)] + [{"step": 1001}]
    thin = points(rows, "max_x")
    assert len(thin) <= CURVE_POINTS
    assert thin[-1] == (1000, 1000.0)
    assert points(rows, "entropy") == []
    numbers = {0.0: "0", 3161.0: "3,161", 0.00421: "0.0042", -0.5: "-0.50", 123456.0: "123,456"}
    numbers[2.53e-7] = "2.5e-07"
    assert {value: rounded(value, 2) for value in numbers} == numbers


def test_deaths_are_counted_by_place_newest_episodes_first() -> None:
    stage = StageId(1, 1)

    def of(*xs: int) -> Summary:
        episodes = [Episode(0, (0,), 0.0, x, x == 3161, x, False, stage, (stage,)) for x in xs]
        about: Any = {"protocol": "sticky", "deterministic": True, "seed": 0, "model": "m"}
        return summarize(episodes, EnvConfig(), **about)

    old = ModelEvaluation(step=1, argmax=of(*[10] * 150))
    new = ModelEvaluation(step=2, argmax=of(*[3161] * 97), sampled=of(700, 710, 3161))
    ends = endings([old, new], stage)
    assert len(ends) == 200
    assert endings([old, new], StageId(1, 2)) == []
    assert ends[97] == Ending(700, False)
    assert death_counts(ends) == [(0, 100), (672, 1), (704, 1)]
    assert describe_endings(ends) == ("98 of 200 cleared; most of the others ended at x 0-31 (100)")


@pytest.mark.parametrize("stage", [StageId(1, 1), StageId(2, 2), StageId(4, 2)])
def test_the_level_is_drawn_from_end_to_end(stage: StageId) -> None:
    picture = level_picture(stage)
    assert picture.shape == (208, STAGES[stage].start_width, 3)
    # Ground, water, sky or a wall in every screen of it, and never the same one twice in a row.
    screens = [picture[:, x : x + 256] for x in range(0, picture.shape[1] - 255, 256)]
    assert all(len(np.unique(screen.reshape(-1, 3), axis=0)) >= 3 for screen in screens)
    assert all((one != other).any() for one, other in itertools.pairwise(screens))


def test_once_writes_a_page_that_holds_everything(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    flags = ["--runs-root", str(tiny_run.parent), "--once"]
    assert auto_update_mario_monitor.main([*flags, "--html", str(page)]) == 0
    text = page.read_text()
    assert text.count("<polyline") >= 9, "evaluations in both modes, and seven curves"
    assert text.count("<text") > 30, "axes have numbers"
    assert 'poster="data:image/jpeg;base64,' in text
    assert "data:video/mp4;base64," in text
    assert "data:image/png;base64," in text
    assert "http" not in text.replace("http://www.w3.org", ""), "it loads nothing"
    assert auto_update_mario_monitor.main(flags) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "tiny" in line)
    assert "finished" in line
    assert "256" in line
    (tmp_path / "empty").mkdir()
    flags = ["--runs-root", str(tmp_path / "empty"), "--once"]
    assert auto_update_mario_monitor.main(flags) == 0
    assert capsys.readouterr().out == f"no runs in {tmp_path / 'empty'} yet\n"


def test_a_report_shows_hostile_names_as_text(tmp_path: Path) -> None:
    run = tmp_path / "<script>alert(1)<"
    write_rows(run, [healthy(100)])
    (run / "train_config.json").write_text('{"agent": "<b>ppo"}')
    page = tmp_path / "report.html"
    flags = ["--runs-root", str(tmp_path), "--once", "--html", str(page)]
    assert auto_update_mario_monitor.main(flags) == 0
    assert "<script" not in page.read_text()
    assert "<b>ppo" not in page.read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--runs-root nowhere", "there is no folder nowhere"),
        ("--run-dir nowhere", "there is no run folder nowhere"),
        ("--runs-root . --html x.html", "--html belongs to --once"),
        ("--runs-root . --once --runs a", "--runs belongs to --html"),
        ("--runs-root tests --once --html x.html --runs a", "there is no run 'a' in tests"),
        ("--runs-root . --host 203.0.113.7", "cannot listen at 203.0.113.7, port 8080"),
        ("--runs-root . --port 99999999", "--port must be at most 65535"),
    ],
)
def test_what_does_not_fit_is_one_line(
    flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert auto_update_mario_monitor.main(flags.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


# --------------------------------------------------------------------------------------------
# The page
# --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def process(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program of the repository, and end it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    running = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield running
    finally:
        running.send_signal(signal.SIGINT)
        try:
            running.wait(timeout=60)
        except subprocess.TimeoutExpired:
            running.kill()


def free_port() -> int:
    """Return one that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(what: Callable[[], Any], timeout_s: float = 180) -> Any:
    """Return what a function returns, as soon as that is true."""
    deadline = time.monotonic() + timeout_s
    while not (value := what()):
        assert time.monotonic() < deadline, f"{what} stays {value!r}"
        time.sleep(0.2)
    return value


def answer(port: int, path: str, host: str = "127.0.0.1") -> int:
    """Ask for a path exactly as it is written, and return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.slow
def test_ctrl_c_ends_a_game_that_is_watched_without_a_word(tiny_run: Path) -> None:
    port = free_port()
    flags = ("--run-dir", tiny_run, "--port", str(port))
    with process("auto_update_mario_monitor.py", *flags) as server:
        assert server.stdout
        assert f":{port} shows" in server.stdout.readline()
        watching = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        watching.request("GET", f"/live/{tiny_run.name}")
        game = watching.getresponse()
        wait_for(lambda: b'"screen"' in game.readline())
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) == 0
        assert server.stdout.read() == ""


# The picture of a film or a stream in the page, as numbers.
PIXELS = """element => {
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 64;
    const context = canvas.getContext('2d');
    context.drawImage(element, 0, 0, 64, 64);
    return Array.from(context.getImageData(0, 0, 64, 64).data);
}"""


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium here (Debian: apt-get install chromium)")
def test_the_page_of_a_training_in_a_browser(tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    root = tmp_path / "runs"
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    port = free_port()
    training = (
        "--action-set fast --n-envs 2 --n-steps 64 --batch-size 32 --ent-coef 0.05 --device cpu "
        "--timesteps 10000000 --checkpoint-freq 512 --eval-freq 512 --eval-episodes 2 "
        "--eval-steps 40 --preview-freq 1024 --preview-steps 60"
    )
    trainer: list[str | Path] = ["train_mario.py", *training.split(), "--run-dir", root / "live"]
    monitor: list[str | Path] = ["auto_update_mario_monitor.py", "--runs-root", root]
    monitor += ["--port", str(port)]
    with process(*trainer):
        wait_for(lambda: list(root.glob("live/previews/*/preview.mp4")))
        with (
            process(*monitor) as server,
            sync_api.sync_playwright() as playwright,
            contextlib.closing(
                playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            ) as browser,
        ):
            assert server.stdout
            assert f"127.0.0.1:{port}" in server.stdout.readline()
            page = browser.new_page(viewport={"width": 1600, "height": 1250})
            page.set_default_timeout(120_000)
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))

            def opened() -> bool:
                with contextlib.suppress(sync_api.Error):
                    page.goto(f"http://127.0.0.1:{port}/", wait_until="domcontentloaded")
                    return True
                return False

            wait_for(opened)
            assert find_runs(root) == {"live": root / "live"}
            page.get_by_text("1 training").wait_for()
            page.locator("#head-state").wait_for()
            assert page.locator("#head-state").inner_text() == "training"

            def curve() -> str | None:
                chart = page.locator('[data-metric="max_x"] canvas')
                chart.wait_for(state="attached")
                picture: str = chart.evaluate("canvas => canvas.toDataURL()")
                return picture

            entropy = page.locator('[data-metric="entropy"] .values b')
            before, value = curve(), entropy.inner_text()
            wait_for(lambda: curve() != before)
            wait_for(lambda: entropy.inner_text() != value)
            page.locator("#evaluations .values b").first.wait_for(state="attached")

            page.locator("#tab-levels").click()
            level = page.locator(".level img")
            wait_for(lambda: level.evaluate("i => i.naturalWidth") == 3328)
            page.locator("#tab-live").click()
            video = page.locator("#preview-video")
            assert wait_for(lambda: video.evaluate("v => v.videoWidth")) == 512
            first = video.evaluate("v => v.currentTime")
            wait_for(lambda: video.evaluate("v => v.currentTime") != first)

            live = page.locator("#live-screen")
            wait_for(lambda: live.evaluate("i => i.naturalWidth") == 512)
            assert page.locator("#live-seen img").count() == 4, "what it sees: four screens"
            assert page.locator("#live-actions .action").count() == 5
            seen: set[str] = set()

            def pictures() -> bool:
                seen.add(hashlib.sha256(bytes(live.evaluate(PIXELS))).hexdigest())
                return len(seen) > 5  # more than a first picture

            wait_for(pictures)
            page.screenshot(path=tmp_path / "page.png")
            page.locator("#tab-curves").click()

            # Two hundred runs more, a way out of the root, and a film that is none of its run's.
            for i in range(200):
                write_rows(root / f"run_{i:03}", [healthy(100 * j) for j in range(1, 301)])
            (root / "out").symlink_to(tmp_path)
            film = root / "run_000" / "previews" / "step_9" / "preview.mp4"
            film.parent.mkdir(parents=True)
            film.symlink_to(secret)
            page.get_by_text("1 training, 200 stopped").wait_for()

            def has_moved(before: str | None) -> bool:
                return curve() != before

            for _ in range(2):
                wait_for(partial(has_moved, curve()))
            assert errors == []

            hostile = [
                "/preview/out/runs/live",
                "/preview/run_000",
                "/preview/../../secret.txt",
                "/preview/%2e%2e/%2e%2e/secret.txt",
                "/preview/..%2f..%2fsecret.txt",
                f"/preview/{tmp_path}/secret.txt",
                "/live/..",
                "/live/../secret.txt",
                "/level/..%2f1-1.png",
                "/page/../server.py",
                "/page/%2e%2e/server.py",
                "/page/..%2fserver.py",
                "/level/9-9.png",
            ]
            assert {path: answer(port, path) for path in hostile} == dict.fromkeys(hostile, 404)
            assert answer(port, "/preview/live") == 200
            assert answer(port, "/preview/live", host="elsewhere.example") == 400
            page.goto(f"http://127.0.0.1:{port}/?run=../secret", wait_until="domcontentloaded")
            page.get_by_text("1 training").wait_for()
            assert "secret" not in page.content()
            page.locator("#tab-live").click()
            listening = psutil.Process(server.pid).net_connections("tcp")
            addresses = {c.laddr.ip for c in listening if c.status == psutil.CONN_LISTEN}
            assert addresses == {"127.0.0.1"}

            wait_for(lambda: live.evaluate("i => i.naturalWidth") == 512)
            server.send_signal(signal.SIGINT)
            server.wait(timeout=120)  # a game that is being watched does not hold it
