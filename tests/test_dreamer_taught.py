"""DreamerV3 with a teacher: who drives, what its actor is told, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamerv3.dreamer import Trainer, main
from dreamerv3.flags import parse_config
from mario_checkpoints import read_model_zip, write_weights
from mario_config import EnvConfig
from mario_game import parse_stages
from mario_recipes import config_content
from mario_runs import RunFolder, read_metrics
from mario_runtime import MarioVectorEnv, action_space
from mario_scene import read_scene
from mario_scene_flat import flatten_scene
from mario_teacher import SceneNetwork, read_teachers
from teach_mario import TeachConfig

DEBUG = ["--config", "taught", "debug", "--eval-freq", "0"]
RIGHT = 3  # of the action set agile: right and B


@pytest.fixture(scope="module")
def write_teacher() -> Callable[..., Path]:
    """Write a teacher that nearly always does one action."""

    def write(path: Path, action: int = RIGHT, action_set: str = "agile", actions: int = 7) -> Path:
        torch.manual_seed(0)
        env = EnvConfig(observation="scene", action_set=action_set, n_envs=64)  # type: ignore[arg-type]
        network = SceneNetwork(actions)
        with torch.no_grad():
            network.action_net.bias[action] = 8
        path.parent.mkdir(parents=True, exist_ok=True)
        content = config_content(TeachConfig(env=env), "teacher", env)
        write_weights(path, network.state_dict(), 0, content)
        return path

    return write


@pytest.fixture
def teacher(tmp_path: Path, write_teacher: Callable[..., Path]) -> Path:
    return write_teacher(tmp_path / "teacher.zip")


def make_trainer(tmp_path: Path, teacher: Path, *flags: str) -> Trainer:
    given = [*DEBUG, "--run-dir", str(tmp_path / "run"), "--teacher", str(teacher), *flags]
    trainer = Trainer(parse_config(given))
    trainer.begin()
    return trainer


def test_the_teacher_drives_at_first_and_then_it_does_not(tmp_path: Path, teacher: Path) -> None:
    trainer = make_trainer(tmp_path, teacher, "--n-envs", "16", "--exploration.drive-until", "320")
    done = []
    while trainer.step < 480:
        trainer.collect()
        done.append(float((trainer.streams.actions == RIGHT).mean()))
    assert np.mean(done[:3]) > 0.85, "from the first step on, prefill or not"
    assert 0.3 < np.mean(done[8:12]) < 0.8, "half way"
    assert np.mean(done[21:]) < 0.4, "an untaught actor"


def test_a_batch_holds_what_the_teacher_says_of_its_states(tmp_path: Path, teacher: Path) -> None:
    trainer = make_trainer(tmp_path, teacher, "--stages", "1-1,1-2")
    while trainer.step < 200:
        trainer.collect()
    rows = trainer.replay.sample(4)
    found = trainer.targets_in(rows)["labels"]
    ram = np.ascontiguousarray(rows["ram"]).reshape(-1, 2048)
    teachers = read_teachers(teacher, trainer.config.env)
    stages = np.tile([1, 1], (len(ram), 1))
    said, _ = teachers.label(flatten_scene(read_scene(ram)), stages)
    torch.testing.assert_close(found.flatten(0, 1), said)
    assert found.exp().sum(-1).allclose(torch.ones(()))
    assert found.std(1).max() > 0, "not one answer to all"


def test_labels_are_of_the_state_that_the_actor_sees(tmp_path: Path, teacher: Path) -> None:
    """What a row's label is made of is the machine as it stood when its picture was drawn."""
    trainer = make_trainer(tmp_path, teacher)
    env: MarioVectorEnv = trainer.streams.venv
    seen = []
    for _ in range(30):
        seen.append((trainer.streams.images.copy(), trainer.labels(env.machines.ram_before)))
        trainer.collect()
    images, said = np.stack([one for one, _ in seen]), torch.stack([one for _, one in seen])
    assert said.shape == (30, 2, int(action_space(trainer.config.env).n))
    assert np.any(images[1:] != images[:-1], axis=(2, 3, 4)).mean() > 0.5, "it moves"
    rows = np.stack([trainer.replay.read(stream, 0, 30) for stream in range(2)], axis=1)
    assert np.array_equal(rows["image"], images)
    torch.testing.assert_close(trainer.targets_in(rows)["labels"], said)


def test_it_learns_what_the_teacher_says_and_goes_on_to_the_same_bits(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    rate = ["--model.learning-rate", "1e-2", "--model.learning-rate-final", "1e-2"]
    quick = [*rate, "--model.warmup-steps", "2"]
    flags = [*DEBUG, *quick, "--teacher", str(teacher), "--checkpoint-freq", "100"]
    whole, broken = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken")
    for run, steps in ((whole, "300"), (broken, "150"), (broken, "300")):
        assert main([*flags, "--run-dir", str(run.path), "--timesteps", steps]) == 0
    one, other = (read_model_zip(run.final_model)[1] for run in (whole, broken))
    assert all(torch.equal(one[name], other[name]) for name in one)
    gaps = [line["dreamer/label_gap"] for line in read_metrics(whole.metrics_path)[1:]]
    assert gaps[-1] < 0.7 * gaps[0]
    capsys.readouterr()


def test_another_teacher_does_not_go_on_with_it(
    tmp_path: Path,
    teacher: Path,
    write_teacher: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = [*DEBUG, "--run-dir", str(tmp_path / "run"), "--timesteps"]
    assert main([*run, "100", "--teacher", str(teacher)]) == 0
    moved = teacher.rename(tmp_path / "moved.zip")
    assert main([*run, "120", "--teacher", str(moved)]) == 0, "it lies elsewhere, and is the same"
    other = write_teacher(tmp_path / "other.zip", action=1)
    assert main([*run, "140", "--teacher", str(other)]) == 2
    assert "another teacher taught it 1-1" in capsys.readouterr().err


def test_no_teacher_or_one_of_other_actions_is_one_line(
    tmp_path: Path, write_teacher: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_teacher(tmp_path / "fast.zip", action_set="fast", actions=5)
    liar = write_teacher(tmp_path / "liar.zip", actions=5)
    content, weights = read_model_zip(liar)
    del content["env"]
    write_weights(tmp_path / "bare.zip", weights, 0, content)
    policy = Path(__file__).parents[1] / "pretrained" / "ppo_mario_1-1_speedrun"
    for given, message in (
        (tmp_path / "nobody", "has no teacher of 1-1"),
        (other, "plays with action set fast, not agile"),
        (liar, "weights and config disagree on the actions"),
        (tmp_path / "bare.zip", "its config is incomplete: 'env'"),
        (next(policy.glob("*.zip")), "is of agent 'ppo', not a teacher"),
    ):
        assert main([*DEBUG, "--run-dir", str(tmp_path / "run"), "--teacher", str(given)]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line


def test_teachers_of_a_folder_are_found_by_stage(
    tmp_path: Path, write_teacher: Callable[..., Path]
) -> None:
    write_teacher(tmp_path / "1-1.zip", action=1)
    write_teacher(tmp_path / "stages" / "1-2.zip", action=2)
    env = EnvConfig(stages=parse_stages("1-1,1-2"), observation="scene", action_set="agile")
    teachers = read_teachers(tmp_path, env)
    scenes, _ = MarioVectorEnv(env, threads=1).reset(seed=0)
    said, _ = teachers.label(np.repeat(scenes[:1], 2, axis=0), np.array([[1, 1], [1, 2]]))
    assert said.argmax(1).tolist() == [1, 2]
