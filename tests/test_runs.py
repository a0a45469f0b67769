"""The run folder: atomic files, one trainer, metrics that resume, model files that run no code."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mario_checkpoints import load_tensors, read_model_zip, tensor_bytes, write_model_zip
from mario_cli import UsageError
from mario_runs import (
    BadModelFile,
    MetricsLog,
    RunFolder,
    RunLocked,
    atomic_write,
    read_metrics,
    write_json,
)

ROOT = Path(__file__).parents[1]


def make_model(path: Path) -> None:
    """A model zip with one tensor."""

    def save(target: io.BytesIO) -> None:
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr("policy.pth", tensor_bytes({"weight": torch.ones(3)}))

    write_model_zip(path, save, {"agent": "ppo"})


def rewrite(path: Path, **members: bytes) -> None:
    """Replace or add members of a zip; a name's double underscore stands for its dot."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content |= {name.replace("__", "."): data for name, data in members.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    atomic_write(path, b"old")

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half of the ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        atomic_write(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def fill_the_disk(_: Path) -> None:
    Path("/dev/full").write_bytes(b"x" * 10_000)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_an_oserror(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(OSError, match="space"):
        atomic_write(path, fill_the_disk)
    assert not path.exists()


HOLDER = """
import sys, time
from mario_runs import RunFolder
with RunFolder(sys.argv[1]).locked():
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_trainer_per_folder_and_a_dead_ones_lock_is_taken_over(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        message = f"pid {holder.pid} on .*started 20"
        with pytest.raises(RunLocked, match=message) as refused, run.locked():
            pass
        assert "\n" not in str(refused.value)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with run.locked():
        assert json.loads((run.path / "trainer.json").read_text())["pid"] == os.getpid()


def test_only_the_newest_two_whole_checkpoints_stay(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (900, 1000, 10_000):
        run.save_checkpoint(step, lambda path: atomic_write(path, b"zip"), b"state")
    run.checkpoint_path(20_000).write_bytes(b"a zip whose state was never written")
    assert run.checkpoints() == [run.checkpoint_path(10_000), run.checkpoint_path(1000)]
    assert not run.checkpoint_path(900).exists()


def test_metrics_leave_out_what_is_missing_and_forget_what_a_kill_undid(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    log = MetricsLog(run)
    for step in (100, 200, 300):
        log.write(step, {"wall_s": step / 10, "max_x": None, "entropy": float("nan")})
    log.close()
    with run.metrics_path.open("a") as file:
        file.write('{"step": 400, "wal')
    MetricsLog(run, resume_step=200).close()
    lines = read_metrics(run.metrics_path)
    assert lines == [{"step": 100, "wall_s": 10.0}, {"step": 200, "wall_s": 20.0}]
    with pytest.raises(ValueError, match="metric 'speed'"):
        MetricsLog(run, resume_step=200).write(300, {"speed": 1.0})


def test_a_model_file_comes_back_as_it_was(tmp_path: Path) -> None:
    make_model(tmp_path / "m.zip")
    config, tensors = read_model_zip(tmp_path / "m.zip")
    assert config == {"agent": "ppo"}
    assert torch.equal(tensors["weight"], torch.ones(3))


class Bomb:
    """Runs a command when unpickled."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.flag}",)


def test_a_hostile_model_file_runs_nothing(tmp_path: Path) -> None:
    flag, path = tmp_path / "executed", tmp_path / "m.zip"
    make_model(path)
    torch.save({"weight": Bomb(flag)}, tmp_path / "bomb.pth")
    rewrite(path, policy__pth=(tmp_path / "bomb.pth").read_bytes())
    with pytest.raises(BadModelFile, match="plain tensors"):
        read_model_zip(path)
    make_model(path)
    rewrite(path, data=b'{"policy_class": {":serialized:": "..."}}')
    read_model_zip(path)  # SB3's pickles are left alone
    rewrite(path, evil__py=b"import os")
    with pytest.raises(BadModelFile, match=r"holds 'evil.py'"):
        read_model_zip(path)
    with pytest.raises(BadModelFile, match="plain tensors"):
        load_tensors(tmp_path / "bomb.pth", "state")
    assert not flag.exists()
    pickle.loads(pickle.dumps(Bomb(flag)))
    assert flag.exists(), "the bomb was live"


def test_torn_missing_and_foreign_files_are_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.zip"
    make_model(path)
    whole = path.read_bytes()
    cases = {"there is no model file": None, "not a whole zip": whole[: len(whole) // 2]}
    for message, content in cases.items():
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(BadModelFile, match=message) as caught:
            read_model_zip(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    rewrite(path, train_config__json=b"{torn")
    with pytest.raises(BadModelFile, match="is not JSON"):
        read_model_zip(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")
    with pytest.raises(BadModelFile, match=r"has no policy\.pth"):
        read_model_zip(path)


def test_tensorboard_reads_the_same_scalars(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    log = MetricsLog(run)
    for step in (100, 200, 300):
        log.write(step, {"max_x": step / 3, "ppo/rnd_loss": 0.25})
    log.close()
    log = MetricsLog(run, resume_step=200)
    log.write(400, {"max_x": 7.0})
    log.close()
    board = EventAccumulator(str(run.tensorboard))
    board.Reload()
    scalars: dict[str, list[Any]] = {
        tag: [(event.step, pytest.approx(event.value, rel=1e-5)) for event in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
    }
    lines = read_metrics(run.metrics_path)
    assert scalars["max_x"][-1] == (400, 7.0)
    assert scalars["max_x"][0][1] == lines[0]["max_x"]
    assert scalars.keys() == {"max_x", "ppo/rnd_loss"}
    assert 300 not in [step for step, _ in scalars["max_x"]], "what was undone is purged"


def test_tensorboard_has_sb3s_names_and_the_flags_too(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_json(run.config_path, {"ppo": {"gamma": 0.9, "target_kl": None}, "agent": "ppo"})
    log = MetricsLog(run)
    log.write(100, {"episode_return": 7.0, "entropy": 0.5, "max_x": 300.0})
    log.close()
    board = EventAccumulator(str(run.tensorboard))
    board.Reload()
    last = {tag: board.Scalars(tag)[-1].value for tag in board.Tags()["scalars"]}
    assert last == {
        "episode_return": 7.0,
        "rollout/ep_rew_mean": 7.0,
        "entropy": 0.5,
        "train/entropy_loss": -0.5,
        "max_x": 300.0,
    }
    flags = board.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"ppo.gamma" in flags and b"target_kl" not in flags


def test_tensorboard_has_a_runs_evaluations_and_films(tiny_run: Path) -> None:
    board = EventAccumulator(str(tiny_run / "tensorboard" / "evaluations"))
    board.Reload()
    names = set(board.Tags()["scalars"])
    assert {"eval/argmax/clear_rate", "eval/mean_reward", "eval/mean_ep_length"} <= names
    assert [event.step for event in board.Scalars("eval/argmax/clear_rate")] == [128, 256]
    films = EventAccumulator(str(tiny_run / "tensorboard" / "films"))
    films.Reload()
    shown = films.Images("preview")
    assert [image.step for image in shown] == [128, 256]
    assert shown[-1].encoded_image_string[:4] == b"GIF8"
    assert (shown[-1].width, shown[-1].height) == (128, 120)


STUB_OF_WANDB = """
import json, os
def init(**given):
    class Run:
        def log(self, row, step): said.append(["log", step, row])
        def finish(self): json.dump(said, open(os.environ["SAID"], "w"))
    said = [["init", given["project"], given["name"], given["config"], given["resume"]]]
    return Run()
"""


def test_weights_and_biases_is_imported_only_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "mine")
    write_json(run.config_path, {"ppo": {"gamma": 0.9}})
    (tmp_path / "wandb.py").write_text(STUB_OF_WANDB)
    monkeypatch.setenv("SAID", str(tmp_path / "said.json"))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    MetricsLog(run).close()
    assert "wandb" not in sys.modules
    log = MetricsLog(run, wandb_project="mario")
    log.write(100, {"max_x": 7.0})
    log.close()
    assert json.loads((tmp_path / "said.json").read_text()) == [
        ["init", "mario", "mine", {"ppo.gamma": 0.9}, "allow"],
        ["log", 100, {"step": 100, "max_x": 7.0}],
    ]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match="pip install wandb"):
        MetricsLog(run, wandb_project="mario")


@pytest.mark.parametrize("module", ["mario_runs", "mario_cli"])
def test_the_run_folder_needs_no_torch(module: str) -> None:
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
