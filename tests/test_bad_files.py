"""Files and flags that are not what they should be are refused in one line."""

from __future__ import annotations

import io
import os
import resource
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluate_mario
from dreamerv3 import flags as dreamer
from dreamerv3.optim import LaProp
from fastnes import BatchMachine, Machine, SnapshotError, start_snapshot, state
from mario_checkpoints import (
    load_optimizer,
    load_tensors,
    read_model_zip,
    tensor_bytes,
    write_weights,
)
from mario_cli import UsageError
from mario_config import EnvConfig
from mario_files import BadFile, check_seal, parse_json, parse_npy, read_archive, read_file, sealed
from mario_game import StageId
from mario_policies import load_policy
from mario_rollout import watch
from mario_runs import BadModelFile, RunFolder, ScalarBoard, atomic_write, flat_flags
from mario_runtime import MarioVectorEnv
from mario_scene_flat import SCENE_SIZE
from mario_teacher import Teachers, network_of_weights, read_teachers
from mario_values import read_yaml, whole_number, with_values
from teach_mario import parse_config as parse_teacher
from train_mario import TrainConfig, parse_config
from train_mario import main as train

# Each register and a value beyond what it holds.
BEYOND = {
    "SP": 2**40, "PC": 0x7FFF, "LINE": 262, "DOT": 0, "FINE_X": 8, "V": 2**40, "OAM_ADDRESS": 256,
    "SPRITE_COUNT": 9, "CLOCK": 2**62, "DOTS_DONE": -1, "VBLANK": 2, "ERROR": 1, "A": -1, "X": 256,
    "P": 256, "SECOND_WRITE": 2, "SPRITE_LIST": 64,
}  # fmt: skip


@pytest.mark.parametrize(("register", "value"), BEYOND.items(), ids=BEYOND)
def test_a_register_beyond_its_range_is_refused_wherever_a_state_enters(
    register: str, value: int
) -> None:
    row = start_snapshot(1, 1).copy()
    state.registers(row)[getattr(state, register)] = value
    with pytest.raises(SnapshotError):
        Machine().restore(row)
    batch = BatchMachine(2)
    before = batch.states.copy()
    with pytest.raises(SnapshotError):
        batch.restore(1, row)
    with pytest.raises(SnapshotError):
        batch.restore_many([0, 1], np.stack([start_snapshot(1, 1), row]))
    np.testing.assert_array_equal(batch.states, before)
    env = MarioVectorEnv(EnvConfig(n_envs=1), threads=1)
    env.reset(seed=0)
    saved = env.state_dict()
    saved["machines"]["states"][0] = row
    with pytest.raises(UsageError, match="no state of these environments"):
        env.load_state_dict(saved)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("held", np.array([256])), ("steps", np.array([-1])), ("start_numbers", np.array([5])),
        ("sticky", np.zeros(2, np.int64)), ("from_start", np.zeros(1)),
    ],
)  # fmt: skip
def test_what_no_environment_holds_is_refused(name: str, value: np.ndarray) -> None:
    env = MarioVectorEnv(EnvConfig(n_envs=1), threads=1)
    env.reset(seed=0)
    with pytest.raises(UsageError):
        env.load_state_dict(env.state_dict() | {name: value})


@pytest.mark.parametrize("make", [torch.optim.Adam, LaProp], ids=["Adam", "LaProp"])
def test_an_optimizers_state_is_compared_with_its_parameters(
    make: Callable[..., torch.optim.Optimizer],
) -> None:
    parameter = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = make([parameter], 1e-3)
    parameter.grad = torch.ones(3, 2)
    optimizer.step()
    saved = optimizer.state_dict()
    names = set(saved["state"][0])
    load_optimizer(optimizer, saved, names)
    moment = max(names - {"step"})
    for wrong in (torch.ones(3), torch.ones(2, 3), torch.full((3, 2), torch.nan)):
        broken = saved | {"state": {0: saved["state"][0] | {moment: wrong}}}
        with pytest.raises(BadModelFile, match=moment):
            load_optimizer(optimizer, broken, names)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    parameter = torch.nn.Parameter(torch.ones(4))
    optimizer = LaProp([parameter], 1e-2, warmup_steps=0)
    parameter.grad = torch.tensor([1.0, 1.0, torch.nan, 1.0])
    with pytest.raises(FloatingPointError, match="gradient is not finite"):
        optimizer.step()
    assert torch.equal(parameter, torch.ones(4))
    assert not optimizer.state_dict()["state"]


STRANGE: dict[str, Callable[[], Any]] = {
    "meta": lambda: torch.ones(2, device="meta"),
    "sparse": lambda: torch.ones(2, 2).to_sparse(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "complex": lambda: torch.ones(2, dtype=torch.complex64),
    "expanded": lambda: torch.ones(1).expand(1000),
    "bytes": lambda: bytearray(8),
    "a large number": lambda: 10**5000,
}


@pytest.mark.parametrize("kind", STRANGE)
def test_only_plain_tensors_are_loaded(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.state"
    torch.save({"x": STRANGE[kind]()}, path)
    with pytest.raises(BadModelFile, match="plain tensors"):
        load_tensors(path, "m")


def test_a_packed_bomb_a_pipe_and_a_folder_are_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "m.state"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.writestr("archive/data/0", bytes(50 * 2**20))
    with pytest.raises(BadModelFile, match="unpacks to over"):
        load_tensors(bomb, "m")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(BadFile, match="not a regular file"):
            read_file(path, 10)
    (tmp_path / "long").write_bytes(bytes(11))
    with pytest.raises(BadFile, match="has over"):
        read_file(tmp_path / "long", 10)


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_are_stored_or_deflated(kind: int) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", kind) as archive:
        archive.writestr("a", bytes(1000))
    with pytest.raises(BadFile, match="packed in a way"):
        read_archive(target.getvalue(), "m", lambda _: True, lambda _: True)


def test_any_flipped_bit_of_a_sealed_state_is_seen(tmp_path: Path) -> None:
    content = tensor_bytes({"x": torch.arange(100)})
    path = tmp_path / "m.state"
    path.write_bytes(content)
    assert load_tensors(path, "m")["x"][7] == 7
    unseen = 0
    for at in range(0, len(content) - 80, 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        try:
            load_tensors(path, "m")
            unseen += 1
        except BadModelFile:
            continue
    assert not unseen
    torch.save({"x": torch.arange(3)}, path)
    assert load_tensors(path, "m")["x"][2] == 2, "an older version's has no checksum"
    check_seal(sealed(path.read_bytes()), "m")


@pytest.mark.parametrize("damage", ["empty", "torn", "rotten", "none"])
@pytest.mark.parametrize("part", [".zip", ".state"])
def test_a_broken_newest_checkpoint_falls_back_with_one_line(
    tmp_path: Path, part: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from mario_checkpoints import find_checkpoint, newest_checkpoint, save_checkpoint, write_weights

    run = RunFolder(tmp_path)
    for step in (10, 20):
        save_checkpoint(
            run,
            step,
            lambda path: write_weights(path, {"w": torch.ones(9)}, 1, {"agent": "ppo"}),
            {"x": torch.ones(9)},
        )
    path = run.checkpoint_path(20).with_suffix(part)
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "empty": b"",
            "torn": whole[:middle],
            "rotten": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "none": whole,
        }[damage]
    )
    found = newest_checkpoint(run)
    assert found and found.path == run.checkpoint_path(20 if damage == "none" else 10)
    assert capsys.readouterr().err.count("\n") == (damage != "none")
    assert find_checkpoint(tmp_path, is_quiet=True) == found.path


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_what_umask_allows(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        atomic_write(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


def test_weights_that_are_not_finite_are_neither_written_nor_read(tmp_path: Path) -> None:
    from mario_checkpoints import write_model_zip

    weights = {"w": torch.tensor([1.0, torch.inf])}
    with pytest.raises(FloatingPointError, match="not finite"):
        write_weights(tmp_path / "m.zip", weights, 1, {})
    assert not (tmp_path / "m.zip").exists()

    def save(file: Any) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("policy.pth", tensor_bytes(weights))

    write_model_zip(tmp_path / "m.zip", save, {})
    with pytest.raises(BadModelFile, match="not finite"):
        read_model_zip(tmp_path / "m.zip")


def with_tensor(source: Path, target: Path, name: str, tensor: torch.Tensor) -> Path:
    """Write a model file with another tensor in it."""
    content, weights = read_model_zip(source)
    assert name in weights
    write_weights(target, weights | {name: tensor}, 1, content)
    return target


PRETRAINED = Path(__file__).parents[1] / "pretrained"
TEACHER = PRETRAINED / "teachers" / "1-1.zip"


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("action_net.weight", torch.zeros(7, 12_000)),
        ("action_net.weight", torch.zeros(7, 0)),
        ("action_net.weight", torch.zeros(0)),
        ("action_net.bias", torch.zeros(10**6)),
        ("action_net.bias", torch.zeros(())),
        ("tiles.bias", torch.zeros(200_000)),
        ("enemy.2.bias", torch.zeros(200_000)),
        ("hidden.bias", torch.zeros(200_000)),
        ("value_net.weight", torch.zeros(1, 200_000)),
        ("place.weight", torch.zeros(1)),
        ("tiles.bias", torch.zeros(192, dtype=torch.float64)),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_teacher_that_lies_about_its_sizes_takes_no_memory(
    name: str, tensor: torch.Tensor, tmp_path: Path
) -> None:
    path = with_tensor(TEACHER, tmp_path / "1-1.zip", name, tensor)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (load_policy, lambda path: read_teachers(path, load_policy(TEACHER).env_config)):
        with pytest.raises(BadModelFile, match=r"1-1\.zip is no teacher's network: ") as raised:
            read(path)
        assert "\n" not in str(raised.value)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 100 * 1024


HUGE = {
    "teachers": "action_net.weight",
    "taught/1-2": "action_net.weight",
    "ppo_mario_1-1": "action_net.weight",
    "dreamerv3_mario_1-1": "actor.6.weight",
}


@pytest.mark.parametrize("shipped", HUGE)
def test_weights_too_large_to_play_with_are_one_line(
    shipped: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = TEACHER if shipped == "teachers" else PRETRAINED / shipped / "best_eval.zip"
    shape = read_model_zip(source)[1][HUGE[shipped]].shape
    path = with_tensor(source, tmp_path / "m.zip", HUGE[shipped], torch.full(shape, 3e38))
    flags = ["--model", path, "--max-steps", "4", "--n-envs", "2", "--episodes", "2"]
    assert evaluate_mario.main([*map(str, flags), "--output-dir", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: the policy's answers are not finite")
    policy = load_policy(path)
    with pytest.raises(FloatingPointError, match="not finite"):
        list(watch(policy, policy.env_config, seed=0))


@pytest.mark.parametrize("name", ["action_net.weight", "value_net.weight"])
def test_a_teacher_whose_weights_are_too_large_teaches_nobody(name: str) -> None:
    weights = read_model_zip(TEACHER)[1]
    weights[name].fill_(3e38)
    teachers = Teachers({StageId(1, 1): network_of_weights(weights, TEACHER.name)})
    with pytest.raises(FloatingPointError, match="the teacher's answers are not finite"):
        teachers.label(np.ones((2, SCENE_SIZE), np.float32), np.ones((2, 2), np.int64))


def test_flags_that_are_no_text_are_shown_in_tensorboard(tmp_path: Path) -> None:
    config = parse_config(["--warm-start", os.fsdecode(b"caf\xe9.zip"), "--run-dir", str(tmp_path)])
    flags = flat_flags({"run": {"warm_start": str(config.run.warm_start)}})
    assert flags == {"run.warm_start": "caf\\xe9.zip"}
    board = ScalarBoard(tmp_path)
    board.write_flags(flags)
    board.close()


@pytest.mark.parametrize("text", ["1e6", "1000k", "1_000_000", "1M", "1000000"])
def test_a_million_is_written_in_many_ways(text: str, tmp_path: Path) -> None:
    assert whole_number(text) == 1_000_000
    assert parse_config(["--timesteps", text]).ppo.timesteps == 1_000_000
    assert dreamer.parse_config(["--timesteps", text]).run.timesteps == 1_000_000
    run = ["--run-dir", str(tmp_path / "none")]
    assert parse_teacher([*run, "--teacher.timesteps", text]).teacher.timesteps == 1_000_000
    (tmp_path / "a.yaml").write_text(f"timesteps: {text}\n")
    assert parse_config(["--config", str(tmp_path / "a.yaml")]).ppo.timesteps == 1_000_000


WRONG = (
    "--seed -1|--seed 4294967296|--screen-size 32|--screen-size 5|--learning-rate -1|"
    "--learning-rate nan|--learning-rate 1e30|--n-steps 0|--rnd-coef -1|--ent-coef nan|"
    "--ent-coef inf|--n-envs 100000|--n-envs 0|--eval-episodes 0|--preview-episodes 0|"
    "--eval-freq -5|--checkpoint-freq -1|--clip-range -1|--vf-coef -1|--max-grad-norm 0|"
    "--reward-scale 0|--goal-line-x -4|--eval-steps -1|--preview-steps -1|--preview-fps -1|"
    "--temperature-final 1e-300|--frame-stack 1000000|--gamma 2|--target-kl 0|--sticky-prob 1|"
    "--hurdle-x -1|--timesteps 0|--run-dir "
).split("|")


@pytest.mark.parametrize("flag", WRONG)
def test_a_flag_out_of_its_range_is_refused_before_anything_is_made(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from train_mario import main

    monkeypatch.chdir(tmp_path)
    assert main(flag.split(" ")) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--run.threads -1", "--threads -1", "--seed -1", "--log-every 0",
    "--model.deter 1000000", "--model.learning-rate nan", "--replay.length 1",
])  # fmt: skip
def test_dreamers_flags_have_ranges(flag: str) -> None:
    with pytest.raises((UsageError, SystemExit)):
        dreamer.parse_config(flag.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("größe: 1\n".encode("latin-1"), "save it as UTF-8"),
        ("gamma: 1\n".encode("utf-16"), "UTF-16"),
        (b"[" * 100_000, "not YAML"),
        (b"a: " + b"9" * 5000, "not YAML"),
        (b"a: 2020-99-99", "not YAML"),
        (b"a: &a [*a]", "not YAML"),
        (b"a: &a [1,1]\nb: &b [*a,*a]\n" + b"\n".join(
            b"%c: &%c [*%c,*%c]" % (n + 1, n + 1, n, n) for n in range(98, 122)), "not YAML"),
    ],
    ids=["latin-1", "utf-16", "deep", "digits", "date", "circle", "laughs"],
)  # fmt: skip
def test_yaml_that_is_none_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as raised:
        read_yaml(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"features": "smal"}, "did you mean small"),
        ({"gamma": float("inf")}, "gamma is inf"),
        ({"timesteps": 10**5000}, "too many digits"),
        ({"run_dir": ""}, "is empty"),
        ({"clip_range": [1]}, "clip_range"),
        ({True: 1}, "no flag"),
        ({"seed": -1}, "seed must not be negative"),
        ({"stages": []}, "at least one stage"),
        ({"n_envs": 3, "n_steps": 5, "batch_size": 64}, "batch_size"),
    ],
)
def test_values_of_a_file_are_checked_and_named(values: dict[Any, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        with_values(TrainConfig(), values, "a.yaml")
    assert str(raised.value).startswith("a.yaml: ")


def test_arrays_and_json_are_as_large_as_their_file() -> None:
    target = io.BytesIO()
    np.save(target, np.arange(5))
    content = target.getvalue()
    np.testing.assert_array_equal(parse_npy(content, "a"), np.arange(5))
    for wrong in (content[:-1], content + b"x", content.replace(b"(5,)", b"(9,)"), b"", b"x" * 99):
        with pytest.raises(BadFile, match="plain array"):
            parse_npy(wrong, "a")
    for wrong in (b"[" * 100_000, b"9" * 5000, b"[]", b"\xff", b""):
        with pytest.raises(BadFile):
            parse_json(wrong, "a")


def test_a_state_that_no_play_leads_to_is_one_line_when_it_breaks_the_game(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(shutil.copytree(tiny_run, tmp_path / "run"))
    path = run.checkpoints()[0].with_suffix(".state")
    found = load_tensors(path, path.name)
    found["environments"]["machines"]["states"][:, :0x800] = 2  # the stack too: it returns nowhere
    path.write_bytes(tensor_bytes(found))
    capsys.readouterr()
    assert train(["--resume-model", str(run.path), "--timesteps", "512"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the game is broken, its state is of no play: machine 0: ")
