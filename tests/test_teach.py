"""Teacher and student as a person runs them, and their arithmetic on toys."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

import train_mario
from mario_checkpoints import find_model, load_tensors, plain, read_model_zip
from mario_config import EnvConfig
from mario_curriculum import FrontierStarts
from mario_demos import load_demos
from mario_game import StageId, parse_stages
from mario_judge import ModelEvaluation, evaluate
from mario_policies import load_policy
from mario_runs import RunFolder, read_metrics
from mario_runtime import MarioVectorEnv
from mario_scene import read_scene
from mario_scene_flat import VISIBLE, flatten_scene, split_scene
from mario_scene_ppo import LEAST_OF_STAGE, ReturnScale, normalized_by_group
from mario_student import Replay, imitation_losses
from mario_teacher import SceneNetwork, ScenePolicy, Teachers, place_of
from teach_mario import main, parse_config

ROOT = Path(__file__).parents[1]
TINY = (
    "--n-envs 8 --teacher.n-steps 8 --teacher.batch-size 32 --teacher.timesteps 384 "
    "--student.n-envs 4 --student.n-steps 8 --student.batch-size 16 --student.timesteps 192 "
    "--student.drive-until 96 --student.replay-size 100 --checkpoint-freq 64 --eval-freq 0 "
    "--student.features small"
)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The folder of a finished run of both phases in two stages."""
    folder = tmp_path_factory.mktemp("runs") / "taught"
    assert main([*TINY.split(), "--stages", "1-1,5-3", "--run-dir", str(folder)]) == 0
    return folder


def test_what_a_screen_tells_is_split_from_what_the_machine_knows() -> None:
    env = MarioVectorEnv(
        EnvConfig(stages=parse_stages("all"), n_envs=32, observation="scene"), threads=1
    )
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(12):
        for _ in range(5):
            env.step(rng.integers(0, 7, 32))
        seen, hidden = split_scene(env.observations)
        only = flatten_scene(read_scene(env.machines.ram_before), seen_only=True)
        np.testing.assert_array_equal(seen, only[:, VISIBLE])
        np.testing.assert_array_equal(hidden, env.observations[:, ~VISIBLE])


def test_the_actor_does_not_see_what_no_screen_tells() -> None:
    network = SceneNetwork(7)
    env = MarioVectorEnv(EnvConfig(n_envs=2, observation="scene"), threads=1)
    policy = ScenePolicy(network, env.config)
    scenes, _ = env.reset(seed=0)
    other = scenes.copy()
    other[:, ~VISIBLE] += 1.0
    logits, _ = policy.logits(scenes, np.zeros(2, np.int64), None)
    np.testing.assert_array_equal(logits, policy.logits(other, np.zeros(2, np.int64), None)[0])
    assert not np.array_equal(policy.values(scenes, None), policy.values(other, None))


def test_the_critic_knows_the_place() -> None:
    stages = parse_stages("1-1,1-2,8-4")
    env = MarioVectorEnv(EnvConfig(stages=stages, n_envs=16, observation="scene"), threads=1)
    env.reset(seed=0)
    places = place_of(th.from_numpy(split_scene(env.observations)[1]))
    for place, (world, stage) in zip(places.tolist(), env.shaper.began.tolist(), strict=True):
        assert place // 32 == (world - 1) * 4 + stage - 1


def test_advantages_are_normalized_stage_by_stage() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([5, 9, 7], [500, 500, LEAST_OF_STAGE - 1])
    values = rng.normal(size=len(groups)) * np.where(groups == 5, 1, 100) + groups
    result = normalized_by_group(values, groups)
    for group in (5, 9):
        assert abs(result[groups == group].mean()) < 1e-5
        assert abs(result[groups == group].std() - 1) < 1e-5
    few = groups == 7
    expected = (values[few] - values.mean()) / values.std()
    np.testing.assert_allclose(result[few], expected, rtol=1e-4)


def test_rewards_are_divided_by_the_deviation_of_their_discounted_return() -> None:
    rng = np.random.default_rng(0)
    scale = ReturnScale(64, gamma=0.9)
    never = np.zeros(64, bool)
    for _ in range(3000):
        scaled = scale.scaled(rng.normal(size=64) * 0.05, never)
    # Var of a discounted sum of independent rewards: var / (1 - gamma^2).
    assert scaled.std() == pytest.approx(np.sqrt(1 - 0.9**2), rel=0.3)
    again = ReturnScale(64, gamma=0.9)
    again.load_state_dict(scale.state_dict())
    rewards = rng.normal(size=64)
    np.testing.assert_array_equal(scale.scaled(rewards, never), again.scaled(rewards, never))


def test_imitation_is_the_cross_entropy_to_the_teacher() -> None:
    teacher = th.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    losses, metrics = imitation_losses(teacher.clone(), th.zeros(2), teacher, th.ones(2))
    entropy = -(0.5 * np.log(0.5) + (0.9 * np.log(0.9) + 0.1 * np.log(0.1)) / 2)
    assert losses["policy"].item() == pytest.approx(entropy, rel=1e-5)
    assert losses["value"].item() == 1.0
    assert metrics["gap"].item() == pytest.approx(0, abs=1e-6)
    assert metrics["agreement"].item() == 1.0
    worse, _ = imitation_losses(th.zeros(2, 2), th.zeros(2), teacher, th.ones(2))
    assert worse["policy"].item() == pytest.approx(np.log(2), rel=1e-5)


def test_each_stage_is_labelled_by_its_own_teacher() -> None:
    th.manual_seed(0)
    first, second = SceneNetwork(7), SceneNetwork(7)
    env = MarioVectorEnv(
        EnvConfig(stages=parse_stages("1-1,1-2"), n_envs=8, observation="scene"), threads=1
    )
    scenes, _ = env.reset(seed=0)
    teachers = Teachers({StageId(1, 1): first, StageId(1, 2): second})
    log_probs, values = teachers.label(scenes, env.shaper.began)
    both = [ScenePolicy(network, env.config) for network in (first, second)]
    for i, stage in enumerate((env.shaper.began[:, 1] - 1).tolist()):
        alone, _ = both[stage].logits(scenes[i : i + 1], np.zeros(1, np.int64), None)
        np.testing.assert_allclose(log_probs[i].numpy(), alone[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            values[i].item(), both[stage].values(scenes[i : i + 1], None)[0], rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("observation", ["pixels", "color"])
def test_the_replay_gives_back_the_stacks_that_were_seen(
    observation: Literal["pixels", "color"],
) -> None:
    config = EnvConfig(
        n_envs=4,
        action_set="agile",
        show_buttons=True,
        max_episode_steps=9,
        observation=observation,
    )
    env = MarioVectorEnv(config, threads=1)
    env.reset(seed=0)
    space = env.single_observation_space
    assert isinstance(space, spaces.Box)
    replay, seen = Replay(80, space, config.planes, 4, 7), {}
    rng = np.random.default_rng(0)
    for step in range(50):  # 20 of them fit
        for i in range(4):
            seen[float(4 * step + i)] = env.observations[i].copy()
        numbers = th.arange(4 * step, 4 * step + 4, dtype=th.float32)
        replay.add(env.observations, env.steps, th.zeros(4, 7), numbers)
        env.step(rng.integers(0, 7, 4))
        again = Replay(80, space, config.planes, 4, 7)
        again.load_state_dict(plain(replay.state_dict()))
        for kept in (replay, again):
            lessons = kept.draw(32, th.Generator().manual_seed(step))
            for stack, number in zip(lessons.observations, lessons.values.tolist(), strict=True):
                np.testing.assert_array_equal(stack.numpy(), seen[number])
    assert lessons.values.min() >= 4 * (50 - 20 + 3)


def test_practice_goes_where_the_outcome_is_uncertain() -> None:
    config = EnvConfig(observation="scene")
    starts = FrontierStarts(config, load_demos(ROOT / "demos", config.stages))
    places = starts.places[0]
    for _ in range(60):
        for place in range(places):
            reached = place < 3 or (place == 3 and random.Random(place).random() < 0.5)
            starts.count_place(0, place, reached)
    starts.rates[0, 3] = 0.5
    rng = np.random.default_rng(0)
    drawn = np.array([starts.draw_place(0, rng) for _ in range(4000)])
    assert np.mean(drawn == places) == pytest.approx(starts.LEVEL_SHARE, abs=0.03)
    counts = np.bincount(drawn, minlength=places + 1)[:places]
    assert counts.argmax() == 3
    assert counts.min() > 0, "what always or never succeeds is still tried"


def test_practice_is_cut_off_where_it_takes_far_longer_than_the_demo() -> None:
    config = EnvConfig(observation="scene", action_set="agile", stages=(StageId(4, 4),), n_envs=8)
    demos = load_demos(ROOT / "demos", config.stages)
    envs = [MarioVectorEnv(config, starts=FrontierStarts(config, demos)) for _ in range(2)]
    env, other = envs
    env.reset(seed=0)
    other.reset(seed=1)
    stand = np.full(8, 1)
    steps = 0
    limits = env.most_steps.copy()
    for _ in range(limits.min() - 1):
        env.step(stand)
        steps += 1
        assert not env.truncations.any()
    other.load_state_dict(env.state_dict())
    for one in envs:
        limits = one.most_steps.copy()
        one.step(stand)
        np.testing.assert_array_equal(one.truncations, limits == steps + 1)
        assert one.truncations.any()

    starts = FrontierStarts(config, demos)
    along = [starts.most_steps(place) for place in range(starts.places[0] + 1)]
    assert along == sorted(along)
    assert along[0] >= starts.SLACK
    assert along[-1] > 2 * len(demos[0].buttons) / config.frame_skip, "twice the whole way"
    entry = starts.places[0] + 1
    assert starts.has(entry) and starts.most_steps(entry) == along[-1]

    env.reset(seed=0)
    env.restore(3, env.snapshot(0))
    assert env.most_steps[3] == 0, "what a caller restores began nowhere"
    plain = MarioVectorEnv(config)
    plain.reset(seed=0)
    assert not plain.most_steps.any(), "a judge cuts nothing off"


def test_only_whole_clears_say_how_long_an_episode_may_take() -> None:
    config = EnvConfig(observation="scene", stages=(StageId(1, 1), StageId(1, 2)))
    clears = load_demos(ROOT / "demos", config.stages)
    part = dataclasses.replace(
        clears[0], buttons=clears[0].buttons[:120], ram_crc=clears[0].ram_crc[:120],
        x=clears[0].x[:120], cleared=False,
    )  # fmt: skip
    starts = FrontierStarts(config, [clears[1], clears[0], part])
    first, second = (
        [number for number in range(2 * max(starts.places)) if number % 2 == stage]
        for stage in (0, 1)
    )
    assert not any(starts.most_steps(number) for number in first)
    assert all(starts.most_steps(number) > starts.SLACK for number in second)


def test_both_phases_write_their_folders_and_their_policies_play(taught: Path) -> None:
    for phase in ("teacher", "student"):
        run = RunFolder(taught / phase)
        assert run.final_model.is_file() and run.checkpoints()
        lines = read_metrics(run.metrics_path)
        assert lines[-1]["step"] == {"teacher": 384, "student": 192}[phase]
        assert "stage/5-3/clear_rate" in lines[-1]
        policy = load_policy(run.final_model)
        summary, _ = evaluate(
            policy, policy.env_config, protocol="sticky", episodes=2, deterministic=False,
            max_steps=20,
        )  # fmt: skip
        assert [str(one.stage) for one in summary.stages] == ["1-1", "5-3"]
    assert policy.env_config.observation == "color"


def test_a_student_in_color_goes_on_and_stays_one(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        *TINY.split(), "--phase", "student", "--teacher", str(taught / "teacher"),
        "--stages", "1-1,5-3", "--run-dir", str(tmp_path),
    ]  # fmt: skip
    in_color = [*flags, "--student.observation", "color"]
    assert main([*in_color, "--student.timesteps", "96"]) == 0
    assert main([*flags, "--student.observation", "pixels"]) == 2, "it has seen color"
    assert "observation" in capsys.readouterr().err
    assert main(flags) == 0
    policy = load_policy(RunFolder(tmp_path / "student").final_model)
    assert policy.env_config.observation == "color"
    summary, _ = evaluate(
        policy, policy.env_config, protocol="sticky", episodes=2, deterministic=False, max_steps=20
    )
    assert summary.episodes == 4


def test_the_same_command_says_that_nothing_is_left(
    taught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_model_zip(RunFolder(taught / "student").final_model)[1]
    assert main(["--run-dir", str(taught)]) == 0
    assert capsys.readouterr().out.count("resumed") == 2, "teacher and student play differently"
    after = read_model_zip(RunFolder(taught / "student").final_model)[1]
    assert all(th.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_phase_that_cleared_enough_is_not_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelEvaluation, "rank", property(lambda found: (1.0, 0.0, 0.0)))
    flags = [
        *TINY.split(), "--eval-freq", "64", "--eval-episodes", "1", "--eval-enough", "1",
        "--phase", "teacher", "--run-dir", str(tmp_path), "--end-on-stall-steps", "5",
    ]  # fmt: skip
    for _ in range(2):
        assert main(flags) == 0
        run = RunFolder(tmp_path / "teacher")
        assert [line["step"] for line in read_metrics(run.metrics_path)] == [64]
        assert run.final_model.is_file()


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["teacher", "student"])
def test_killed_phases_resume_to_the_same_bits(taught: Path, tmp_path: Path, phase: str) -> None:
    folder = tmp_path / "parts"
    flags = [
        *TINY.split(), "--stages", "1-1,5-3", "--run-dir", str(folder), "--phase", phase,
        "--teacher", str(taught / "teacher"),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = RunFolder(folder / phase)
    process = subprocess.Popen(
        [sys.executable, "teach_mario.py", *flags],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    while not run.checkpoints() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(random.random() / 10)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(flags) == 0
    whole, parts = (
        read_model_zip(RunFolder(one / phase).final_model)[1] for one in (taught, folder)
    )
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        assert th.equal(tensor, parts[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["teacher", "student"])
def test_a_best_model_is_resumed_in_another_folder_to_the_same_bits(
    taught: Path, tmp_path: Path, phase: str
) -> None:
    steps = {"teacher": "--teacher.timesteps 192", "student": "--student.timesteps 96"}[phase]
    every = {"teacher": 128, "student": 64}[phase]
    flags = [
        *TINY.split(), *steps.split(), "--stages", "1-1,5-3", "--phase", phase, "--eval-freq",
        str(every), "--eval-episodes", "1", "--run-dir", str(tmp_path / "whole"),
        "--teacher", str(taught / "teacher"),
    ]  # fmt: skip
    assert main(flags) == 0
    whole, fork = (RunFolder(tmp_path / name / phase) for name in ("whole", "fork"))
    best = ModelEvaluation.from_json(whole.best_summary).step
    assert best == every
    flags = ["--resume-model", str(whole.best_model), "--run-dir", str(tmp_path / "fork")]
    assert main([*flags, "--phase", phase]) == 0
    assert read_metrics(fork.metrics_path)[0]["step"] > best
    first, second = (read_model_zip(run.final_model)[1] for run in (whole, fork))
    assert all(th.equal(tensor, second[name]) for name, tensor in first.items())
    states = [load_tensors(run.checkpoints()[0].with_suffix(".state"), "") for run in (whole, fork)]
    assert_equal(*states)


def assert_equal(one: Any, other: Any) -> None:
    """Two trainer states are the same to the bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    elif isinstance(one, th.Tensor):
        assert th.equal(one, other)
    else:
        assert one == other


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--resume-model pretrained/ppo_mario_1-1/best_eval.zip", "has no best_eval.state"),
        ("--phase student --teacher pretrained/ppo_mario_1-1/best_eval.zip", "not a teacher"),
        ("--phase student --stages 1-2", "has no teacher of 1-2"),
        ("--demos configs", "no other demo of 1-1"),
        ("--teacher.batch-size 48", "does not divide"),
        ("--device abacus", "no device 'abacus'"),
        ("--observation color", "what --student.observation says"),
        ("--config observation.yaml", "what --student.observation says"),
        ("--screen-size 35", "at least 36"),
        ("--action-set simple --phase teacher --warm-start TAUGHT", "with action_set agile"),
        ("--run-dir TAUGHT", "is one phase's folder"),
        ("--resume-model /none.zip", "/none.zip"),
        ("--action-set simple --phase student --teacher TAUGHT", "plays with action set agile"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str, said: str
) -> None:
    (tmp_path / "observation.yaml").write_text("env: {observation: color}")
    flags = flags.replace("observation.yaml", str(tmp_path / "observation.yaml"))
    words = flags.replace("TAUGHT", str(taught / "teacher")).split()
    code = main([*TINY.split(), "--run-dir", str(tmp_path / "run"), *words])
    assert code in (1, 2)
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_student_leaves_the_teachers_game_as_it_is(taught: Path) -> None:
    config = parse_config(["--run-dir", str(taught)])
    assert (config.env.n_envs, config.student.n_envs) == (8, 4)
    assert config.env.reward.end_on_stall_steps == 250 != config.student.end_on_stall_steps
    student = read_model_zip(find_model(taught / "student"))[0]
    assert student["env"]["n_envs"] == 4, "what it plays itself"
    assert student["env"]["reward"]["end_on_stall_steps"] == config.student.end_on_stall_steps


@pytest.mark.parametrize("steps", [None, "x", []])
def test_a_state_without_its_steps_is_said_in_one_line(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: Any
) -> None:
    shutil.copytree(taught, tmp_path / "run")
    for path in RunFolder(tmp_path / "run" / "student").path.rglob("*.state"):
        state = {k: v for k, v in load_tensors(path, "").items() if k != "steps"}
        th.save(state if steps is None else state | {"steps": steps}, path)
    assert main(["--run-dir", str(tmp_path / "run"), "--phase", "student"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_teachers_first_weights_are_not_its_students(taught: Path, tmp_path: Path) -> None:
    teacher = find_model(taught / "teacher")
    run = [*TINY.split(), "--stages", "1-1", "--run-dir", str(tmp_path / "run")]
    assert main([*run, "--phase", "teacher", "--warm-start", str(teacher)]) == 0
    assert main([*run, "--phase", "student"]) == 0, "and it is no network for pixels"


def test_the_first_student_of_a_lone_teacher_follows_the_recipe(tmp_path: Path) -> None:
    """Where its teacher's run was told nothing of one; and the teacher can go on after that."""
    run = ["--stages", "1-1", "--run-dir", str(tmp_path / "run")]
    tiny = TINY.split()[:8]  # of the teacher
    alone = ["--config", str(ROOT / "configs" / "teacher_level.yaml"), *tiny, "--eval-freq", "0"]
    assert main([*run, *alone, "--phase", "teacher"]) == 0
    recipe = parse_config(["--run-dir", str(tmp_path / "new")])
    first = parse_config([*run, "--phase", "student"])
    assert (first.student, first.env.crop) == (recipe.student, recipe.env.crop)
    assert (first.run.eval_freq, first.teacher.timesteps) == (recipe.run.eval_freq, 384)
    away = ["--resume-model", str(tmp_path / "run" / "teacher"), "--run-dir", str(tmp_path / "b")]
    assert parse_config([*away, "--phase", "both"]).student == recipe.student
    gray = ["--config", str(ROOT / "configs" / "taught.yaml"), "--phase", "student"]
    told = parse_config([*gray, "--run-dir", str(tmp_path / "new")])
    assert parse_config([*run, *gray]).student == told.student
    student = ["--student.timesteps", "32", "--student.n-steps", "8", "--student.n-envs", "16"]
    assert main([*run, *student, "--phase", "both", "--eval-freq", "0"]) == 0
    assert main([*run, "--phase", "teacher", "--teacher.timesteps", "448"]) == 0


def test_a_students_flags_that_its_teachers_run_was_told_stay(tmp_path: Path) -> None:
    run = ["--stages", "1-1", "--run-dir", str(tmp_path)]
    assert main([*run, *TINY.split(), "--phase", "teacher"]) == 0
    student = parse_config([*run, "--phase", "student"]).student
    assert (student.features, student.timesteps) == ("small", 192)


def test_a_run_of_other_stages_is_not_continued(
    taught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--run-dir", str(taught), "--stages", "1-2"]) == 2
    assert "was trained with stages" in capsys.readouterr().err


def test_a_student_does_not_change_its_teacher(
    taught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest, older = RunFolder(taught / "teacher").checkpoints()
    run = ["--run-dir", str(taught), "--phase", "student", "--teacher"]
    assert main([*run, str(newest)]) == 0, "it lies elsewhere, and is the same"
    assert main([*run, str(older)]) == 2
    assert "another teacher taught it 1-1" in capsys.readouterr().err


def test_reward_finishes_a_student_once_its_critic_knows_the_reward(
    taught: Path, tmp_path: Path
) -> None:
    flags = (
        "--config configs/taught_finish.yaml --stages 1-1 --n-envs 4 --n-steps 16 --batch-size 32 "
        "--timesteps 256 --critic-steps 128 --eval-freq 0 --checkpoint-freq 128 --features small"
    )
    student, run = taught / "student", RunFolder(tmp_path / "finished")
    arguments = [*flags.split(), "--run-dir", str(run.path)]
    assert train_mario.main([*arguments, "--warm-start", str(student)]) == 0
    before = read_model_zip(find_model(student))[1]
    [at_256, at_128] = [read_model_zip(path)[1] for path in run.checkpoints()]
    changed = {name for name in before if not th.equal(before[name], at_128[name])}
    assert changed == {"value_net.weight", "value_net.bias"}
    assert not any(th.equal(before[name], at_256[name]) for name in before)
    assert train_mario.main(arguments) == 2  # nobody to stay near
