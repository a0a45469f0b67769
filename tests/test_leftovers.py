"""What a kill, a full disk or a copy leaves in a run folder, and how a run is asked to stop."""

from __future__ import annotations

import datetime
import errno
import importlib
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import TINY_RUN
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mario_callbacks
import mario_learning
import train_mario
from mario_checkpoints import find_checkpoint, read_model_zip
from mario_cli import UsageError
from mario_doctor import Doctor, Finding
from mario_ppo import MarioPPO
from mario_recipes import refuse_fewer_steps
from mario_runs import (
    Appended,
    BadModelFile,
    Holder,
    MetricsLog,
    RunFolder,
    atomic_write,
    read_metrics,
    run_of_checkpoint,
)
from mario_training import RunLog, StopKind, StopRequest, as_variable
from scripts import stop_run

ROOT = Path(__file__).parents[1]
TINY = "--n-envs 2 --n-steps 64 --batch-size 64 --n-epochs 1 --eval-freq 0 --checkpoint-freq 0"
TINY += " --device cpu"


def dead_pid() -> int:
    """The pid of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("name", "stays"),
    [
        ("models/checkpoints/.mario_ppo_5_steps.{dead}_abcd1234.zip", False),
        ("models/checkpoints/.mario_ppo_5_steps.abcd1234.zip", False),  # an earlier version's
        ("previews/step_5/.preview.{dead}_abcd_234.mp4", False),
        (".metrics.{dead}_abcd1234.jsonl", False),
        (".metrics.{own}_abcd1234.jsonl", False),  # of one with the same pid, before a reboot
        ("replay/1/0/.000000000000.{dead}_abcd1234.rows", False),
        ("previews/step_5/.preview.{living}_abcd1234.mp4", True),
        ("models/checkpoints/mario_ppo_5_steps.state", False),  # without its zip
        ("evaluations/best_eval.state", False),
        ("models/checkpoints/mario_ppo_6_steps.zip", True),
        (".notes.settings.json", True),
        ("my.state", True),
    ],
)
def test_what_killed_writers_left_is_gone_once_the_run_is_held_again(
    tmp_path: Path, name: str, stays: bool
) -> None:
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    path = tmp_path / name.format(dead=dead_pid(), own=os.getpid(), living=living.pid)
    try:
        time.sleep(0.1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        outside = tmp_path.parent / f"{tmp_path.name}_outside"
        outside.mkdir()
        (outside / ".metrics.abcd1234.jsonl").touch()
        (tmp_path / "link").symlink_to(outside)
        with RunFolder(tmp_path).locked():
            assert path.exists() == stays
        assert (outside / ".metrics.abcd1234.jsonl").exists(), "no link is followed"
    finally:
        living.communicate()


def test_a_checkpoint_that_fails_leaves_no_state_without_its_zip(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)

    def fail(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space"):
        run.save_checkpoint(5, fail, b"state")
    assert list(run.checkpoint_dir.iterdir()) == []
    run.save_checkpoint(5, lambda path: atomic_write(path, b"zip"), b"state")
    with pytest.raises(OSError, match="No space"):
        run.save_checkpoint(5, fail, b"state")
    assert run.checkpoints() == [run.checkpoint_path(5)], "the whole one of that step stays"


def test_tensorboard_goes_on_when_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = MetricsLog(RunFolder(tmp_path))
    log.write(1, {"entropy": 1.0})
    write = Appended.write

    def full(file: Appended, piece: bytes) -> None:
        file._pending += piece
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Appended, "write", full)
    log.write(2, {"entropy": 2.0})
    assert capsys.readouterr().err.count("wait for room") == 2
    monkeypatch.setattr(Appended, "write", write)
    log.write(3, {"entropy": 3.0})
    log.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("entropy")] == [1, 2, 3]
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_tensorboard_keeps_the_point_at_which_a_run_was_resumed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    first = MetricsLog(run)
    for step in (100, 200, 300):
        first.write(step, {"entropy": step})
    first.close()
    again = MetricsLog(run, resume_step=200)
    again.write(300, {"entropy": 1.0})
    again.close()
    board = EventAccumulator(str(run.tensorboard))
    board.Reload()
    scalars = [(event.step, event.value) for event in board.Scalars("entropy")]
    assert scalars == [(100, 100), (200, 200), (300, 1)]


# --------------------------------------------------------------------------------------------
# Copies
# --------------------------------------------------------------------------------------------


def test_the_run_of_a_checkpoint_is_known_only_where_it_was_written(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = RunFolder(tiny_run).checkpoints()[0]
    assert run_of_checkpoint(newest) == tiny_run
    monkeypatch.chdir(newest.parent)
    assert run_of_checkpoint(Path(newest.name)) == tiny_run
    monkeypatch.chdir(tiny_run.parent)
    assert run_of_checkpoint(newest.relative_to(tiny_run.parent)) == Path(tiny_run.name)
    for name in ("x.zip", "b/x.zip", "a/b/x.zip", "models/checkpoints/x.zip"):
        assert run_of_checkpoint(tmp_path / name) is None
        monkeypatch.chdir(tmp_path)
        assert run_of_checkpoint(Path(name)) is None


@pytest.mark.parametrize("place", ["x.zip", "a/b/x.zip", "models/checkpoints/x.zip"])
def test_a_copied_checkpoint_and_a_best_model_need_a_run_dir(
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
) -> None:
    newest = RunFolder(tiny_run).checkpoints()[0]
    for suffix in (".zip", ".state"):
        copy = (tmp_path / place).with_suffix(suffix)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(newest.with_suffix(suffix).read_bytes())
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    for model in (Path(place), RunFolder(tiny_run).best_model):
        assert train_mario.main(["--resume-model", str(model)]) == 2
        error = capsys.readouterr().err
        assert "--run-dir names a new one" in error
        assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_a_best_model_is_resumed_with_its_reward_statistics_and_its_optimizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, fork = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "fork")
    flags = f"{TINY} --normalize-reward --timesteps 384 --eval-freq 256 --eval-episodes 1"
    flags += " --eval-steps 8"
    assert train_mario.main([*flags.split(), "--run-dir", str(run.path)]) == 0
    assert run.best_model.with_suffix(".state").is_file()
    assert find_checkpoint(run.best_model) == run.best_model
    capsys.readouterr()
    flags = f"--resume-model {run.best_model} --run-dir {fork.path}"
    assert train_mario.main(flags.split()) == 0, capsys.readouterr().err
    assert "at 256 steps" in capsys.readouterr().out
    first, second = (read_model_zip(one.final_model)[1] for one in (run, fork))
    assert all(tensor.equal(second[name]) for name, tensor in first.items())


def test_a_target_below_what_is_done_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "run")
    flags = [*TINY.split(), "--timesteps", "200", "--run-dir", str(run.path)]
    assert train_mario.main(flags) == 0
    config = run.config_path.read_bytes()
    capsys.readouterr()
    assert train_mario.main(["--resume-model", str(run.path), "--timesteps", "100"]) == 2
    error = capsys.readouterr().err
    assert "it has 256 of 200 steps, and --timesteps is the total" in error
    assert error.count("\n") == 1
    assert run.config_path.read_bytes() == config
    assert train_mario.main(["--resume-model", str(run.path)]) == 0, "its own target is none"
    refuse_fewer_steps(200, 256, 256)


def test_a_living_trainer_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no checkpoint to resume"):
        find_checkpoint(tmp_path)
    with (
        RunFolder(tmp_path).locked(),
        pytest.raises(UsageError, match=f"the trainer with pid {os.getpid()} is at work"),
    ):
        find_checkpoint(tmp_path)


# --------------------------------------------------------------------------------------------
# Stopping
# --------------------------------------------------------------------------------------------


def test_a_second_signal_while_it_saves_does_not_kill_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[str] = []
    save = mario_callbacks.save_state

    def signalled_save(*given: Any) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        path = save(*given)
        saved.append(path.name)
        return path

    update = MarioPPO.train

    def signalled_update(model: MarioPPO) -> None:
        update(model)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(mario_learning, "save_state", signalled_save)
    monkeypatch.setattr(MarioPPO, "train", signalled_update)
    flags = [*TINY.split(), "--timesteps", "100000", "--run-dir", str(tmp_path / "run")]
    assert train_mario.main(flags) == 0
    assert saved == ["mario_ppo_128_steps.zip"]


def test_a_trainer_stops_when_its_run_or_its_plan_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    stop = StopRequest(run)
    assert not stop.is_asked()
    run.stop_file.touch()
    stop._next_look = 0.0
    assert stop.is_asked()
    assert stop.reason == (StopKind.SIGNAL, "a stop file")
    with run.locked():
        assert not run.stop_file.exists(), "what was asked of the one before is not asked of this"
    plan = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = datetime.datetime.fromtimestamp(psutil.Process(plan.pid).create_time(), datetime.UTC)
    holder = Holder(plan.pid, platform.node(), began.isoformat())
    for name, value in as_variable(holder).items():
        monkeypatch.setenv(name, value)
    stop = StopRequest(run)
    assert not stop.is_asked()
    plan.kill()
    plan.wait()
    stop._next_look = 0.0
    assert stop.is_asked()
    assert stop.reason == (StopKind.SIGNAL, "the end of its plan")


@pytest.mark.slow
def test_stop_lists_what_trains_and_stops_it_so_that_it_saves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "mine")
    flags = [*TINY.split(), "--timesteps", "100000000", "--run-dir", str(run.path)]
    trainer = subprocess.Popen([sys.executable, "train_mario.py", *flags], cwd=ROOT)
    try:
        while not read_metrics(run.metrics_path):
            assert trainer.poll() is None
            time.sleep(0.1)
        root = ["--runs-root", str(tmp_path)]
        assert stop_run.main(root) == 0
        assert f"mine: pid {trainer.pid}, since " in capsys.readouterr().out
        ended = threading.Thread(target=trainer.wait)
        ended.start()  # a zombie is no trainer, but it is not gone either
        assert stop_run.main(["mine", *root]) == 0
        ended.join(60)
        assert trainer.returncode == 0
    finally:
        trainer.kill()
    assert run.checkpoints()
    assert not run.stop_file.exists()
    assert stop_run.main(root) == 0
    assert "nothing trains in" in capsys.readouterr().out
    for wrong, message in (("mine", "nobody trains in"), ("yours", "there is no run folder")):
        assert stop_run.main([wrong, *root]) == 2
        assert message in capsys.readouterr().err


# --------------------------------------------------------------------------------------------
# Metrics
# --------------------------------------------------------------------------------------------


def test_a_failure_between_updates_keeps_what_was_learnt(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    arguments = [*TINY_RUN.split(), "--run-dir", str(tmp_path / "run"), "--checkpoint-freq", "0"]
    with monkeypatch.context() as patched:
        patched.setattr("mario_callbacks.examine", fail)
        assert train_mario.main(arguments) == 1
    assert "mario_ppo_128_steps.zip" in capsys.readouterr().err
    assert train_mario.main(["--resume-model", str(tmp_path / "run")]) == 0
    whole, parts = (
        read_model_zip(RunFolder(one).final_model)[1] for one in (tiny_run, tmp_path / "run")
    )
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_the_doctor_of_a_resumed_run_knows_its_past(tmp_path: Path) -> None:
    def logged(run: RunFolder, breaks: tuple[int, ...]) -> list[dict[str, Any]]:
        log = RunLog(run, 0, 3000)
        for step in range(100, 3001, 100):
            if step in breaks:
                log.close()
                log = RunLog(run, step - 100, 3000)
            log.write(step, {"value_loss": 0.04 if step < 2000 else 60.0, "entropy": 1.0})
        log.close()
        rows = read_metrics(run.metrics_path)
        return [{k: v for k, v in row.items() if "_s" not in k[-2:]} for row in rows]

    whole = logged(RunFolder(tmp_path / "whole"), ())
    assert [row["step"] for row in whole if "doctor/value_explosion" in row] == [2000]
    assert logged(RunFolder(tmp_path / "parts"), (1500, 2000, 2100)) == whole


@pytest.mark.slow
def test_every_trainer_hears_the_doctor(
    tiny_dreamer_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[set[str]] = []
    add: Callable[..., Any] = Doctor.add

    def hear(doctor: Doctor, row: dict[str, Any]) -> Any:
        heard.append(set(row))
        return add(doctor, row)

    monkeypatch.setattr(Doctor, "add", hear)
    from dreamerv3.dreamer import main

    assert main(["--config", "debug", "--run-dir", str(tiny_dreamer_run)]) == 0
    assert any("value_loss" in row for row in heard)


@pytest.mark.parametrize("name", ["dreamerv3.dreamer", "teach_mario"])
def test_a_collapse_stops_every_trainer_that_is_asked_to(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(name)
    flags, run = ["--run-dir", str(tmp_path / "run")], RunFolder(tmp_path / "run")
    if name == "teach_mario":
        run = RunFolder(tmp_path / "run" / "teacher")
        flags += "--n-envs 4 --teacher.n-steps 16 --teacher.batch-size 32".split()
        flags += "--teacher.timesteps 640 --eval-freq 0".split()
    else:
        flags += "--config debug --timesteps 600 --eval-freq 0 --threads 1".split()

    def collapsed(doctor: Doctor, row: dict[str, Any]) -> list[Finding]:
        return [Finding("value_explosion", row["step"], "for this test", is_collapse=True)]

    with monkeypatch.context() as patch:
        patch.setattr(Doctor, "add", collapsed)
        assert module.main([*flags, "--stop-on-collapse"]) == 1
    assert "stopped by value_explosion" in capsys.readouterr().out
    assert len(read_metrics(run.metrics_path)) == 1
    assert run.checkpoints() and not run.final_model.exists()


def test_what_no_update_measures_is_not_logged_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    flags = f"{TINY} --timesteps 512 --backward-demos demos --demo-starts anywhere"
    flags += " --imitation-coef 0.5 --imitation-until 0.5"
    assert train_mario.main([*flags.split(), "--run-dir", str(run.path)]) == 0
    with_it = ["ppo/imitation_loss" in row for row in read_metrics(run.metrics_path)]
    assert with_it[0]
    assert not with_it[-1], "imitation had ended"


def test_checkpoints_none_of_which_is_whole_are_not_begun_over(
    tiny_dreamer_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dreamerv3.dreamer import main

    run = RunFolder(tmp_path, "dreamerv3")
    run.save_checkpoint(5, lambda path: atomic_write(path, b"torn"), b"torn")
    rows = tmp_path / "replay" / "0" / "0" / "000000000000.rows"
    rows.parent.mkdir(parents=True)
    rows.write_bytes(b"rows")
    with pytest.raises(BadModelFile):
        read_model_zip(run.checkpoints()[0])
    assert main(["--config", "debug", "--run-dir", str(tmp_path)]) == 2
    assert rows.read_bytes() == b"rows"


def test_a_folder_of_broken_checkpoints_says_so(tmp_path: Path) -> None:
    RunFolder(tmp_path).save_checkpoint(5, lambda path: atomic_write(path, b"torn"), b"torn")
    with pytest.raises(UsageError, match="is whole: move them away"):
        find_checkpoint(tmp_path)
