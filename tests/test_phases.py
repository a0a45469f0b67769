"""A recipe whose phases follow each other in one run, and files that stand on others."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from mario_callbacks import TemperatureCallback
from mario_checkpoints import read_model_zip
from mario_cli import UsageError
from mario_flags import DEFAULT_RECIPE, TrainConfig, parse_config, phases_of, plain_note
from mario_recipes import recipe_layers
from mario_runs import RunFolder, read_metrics
from mario_status import RunReader
from train_mario import main

CONFIGS = DEFAULT_RECIPE.parent
FIRST = """
base: {base}
timesteps: 192
then: [{then}]
n_envs: 2
n_steps: 32
batch_size: 64
n_epochs: 1
eval_freq: 64
eval_episodes: 1
eval_steps: 10
eval_modes: argmax
"""
SECOND = """
timesteps: 128
n_envs: 4
n_steps: 32
batch_size: 32
gamma: 0.8
learning_rate: 1.0e-4
eval_freq: 64
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Two phases of a rollout or two each."""
    second = tmp_path / "second.yaml"
    second.write_text(SECOND)
    first = tmp_path / "first.yaml"
    first.write_text(FIRST.format(base=DEFAULT_RECIPE, then=second))
    return first


def test_train_alone_is_both_phases_of_the_recipe_with_the_jump_bias() -> None:
    first, finish = phases_of(parse_config([]))
    assert (first.ppo.timesteps, first.ppo.action_bias_jump) == (900_000, 1.0)
    assert (finish.ppo.timesteps, finish.run.after) == (1_300_000, 900_000)
    assert (finish.env.n_envs, finish.env.reward.end_on_stall_steps) == (32, 120)
    assert finish.run.then == ()
    plain = parse_config(["--config", str(CONFIGS / "ppo_1-1.yaml")])
    bias = dataclasses.replace(first.ppo, action_bias_jump=0.0)
    assert (plain.ppo, plain.env) == (bias, first.env)


def test_what_the_command_line_sets_stays_in_every_phase() -> None:
    flags = "--stage 1-2 --seed 7 --n-envs 8 --death-penalty 5 --device cpu".split()
    first, finish = phases_of(parse_config(flags))
    for phase in (first, finish):
        assert (str(phase.env.stages[0]), phase.run.seed, phase.env.n_envs) == ("1-2", 7, 8)
        assert (phase.env.reward.death_penalty, phase.ppo.device) == (5.0, "cpu")
    assert finish.ppo.learning_rate == 1.5e-4, "its own, where nobody set another"


def test_timesteps_alone_are_one_phase_and_what_does_not_fit_is_said_at_once() -> None:
    assert len(phases_of(parse_config(["--timesteps", "1000"]))) == 1
    with pytest.raises(UsageError, match="batch_size 512 does not divide"):
        parse_config(["--n-envs", "3", "--n-steps", "256"])


def test_a_file_stands_on_its_base_and_one_without_is_told_so(tmp_path: Path) -> None:
    alone = tmp_path / "my.yaml"
    alone.write_text("n_envs: 4\n")
    config = parse_config(["--config", str(alone)])
    assert config.ppo.gamma == TrainConfig().ppo.gamma
    note = plain_note(alone, config)
    assert f"{alone} names no `base`" in note and f"`base: {DEFAULT_RECIPE}`" in note
    assert "timesteps 900000 -> 5000000" in note and "reward_scale 0.1 -> 1.0" in note
    alone.write_text(f"base: {DEFAULT_RECIPE}\nn_envs: 4\n")
    config = parse_config(["--config", str(alone)])
    assert (config.env.n_envs, config.env.reward.reward_scale) == (4, 0.1)
    assert plain_note(alone, config) == ""
    assert plain_note(CONFIGS / "p8.yaml", parse_config(["--config", "configs/p8.yaml"])) == ""
    assert (
        plain_note(tmp_path / "run.yaml", parse_config(["--run-dir", str(tmp_path / "run")])) == ""
    )
    alone.write_text("base: my.yaml\n")
    with pytest.raises(UsageError, match="base must name a file"):
        recipe_layers(alone)


def test_the_temperature_falls_within_its_own_phase() -> None:
    second = TemperatureCallback(0.25, 0.5, timesteps=300, rollout=10, after=100)
    assert [second.temperature(step) for step in (100, 200, 250, 300)] == [1.0, 1.0, 0.5, 0.25]


def test_phases_are_one_run_and_a_stop_between_them_goes_on_to_the_same_bits(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    flags = ["--config", str(recipe), "--device", "cpu", "--precision", "float32"]
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    assert main([*flags, "--run-dir", str(whole.path)]) == 0
    said = capsys.readouterr().out
    assert "192/320 steps" in said and "next phase, with 128 steps" in said
    steps = [row["step"] for row in read_metrics(whole.metrics_path)]
    assert steps == [64, 128, 192, 320]
    status = RunReader(whole.path).status()
    assert (status.state, status.step, status.target) == ("finished", 320, 320)
    content = json.loads(whole.config_path.read_text())
    assert (content["run"]["after"], content["ppo"]["gamma"]) == (192, 0.8)
    kept = json.loads((whole.path / "train_config_until_192.json").read_text())
    assert kept["ppo"]["gamma"] == 0.9, "the first phase's flags are not lost"
    best = json.loads(whole.best_summary.read_text())
    assert best["step"] == 320, "the first phase's evaluations do not count in the second"

    # As a kill right after the first phase leaves it: its last checkpoint, and no more.
    one = [*flags, "--run-dir", str(parts.path), "--then"]
    assert main(one) == 0
    assert [row["step"] for row in read_metrics(parts.metrics_path)] == [64, 128, 192]
    again = ["--resume-model", str(parts.path), "--then", str(tmp_path / "second.yaml")]
    assert main(again) == 0
    assert [row["step"] for row in read_metrics(parts.metrics_path)] == steps
    weights, others = (read_model_zip(run.final_model)[1] for run in (whole, parts))
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert main(["--resume-model", str(parts.path)]) == 0, "there is nothing left to do"
