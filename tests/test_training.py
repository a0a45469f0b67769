"""What both trainers share: files and flags of today and of yesterday, reasons to stop."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import teach_mario
from dreamerv3 import flags as dreamer
from mario_checkpoints import going_on_from
from mario_cli import UsageError
from mario_game import StageId
from mario_recipes import MOST_LAYERS, config_of_content, recipe_layers, with_newer_flags
from mario_training import EpisodeMeans, StopKind, StopRequest
from mario_values import read_yaml
from train_mario import config_as_dict, config_from_dict, parse_config

ROOT = Path(__file__).parents[1]
# train_config.json as commit 5b2e452 wrote it, where its values are not today's defaults.
REWARD = """{
  "base_reward_scale": 0.0, "forward_reward_scale": 0.08333333, "forward_mode": "new_max",
  "death_penalty": 3.0, "flag_bonus": 10.0, "hurdle_x": [600], "reward_scale": 0.1
}"""
PPO_RUN = """{
  "run": {
    "config": "configs/ppo_level.yaml", "run_dir": "runs/ppo_4-3", "resume_model": null,
    "warm_start": "runs/1-3.zip", "warm_temperature": 8.0, "seed": 3, "eval_stages": "",
    "backward_demos": "demos", "demo_starts": "anywhere", "eval_modes": "both"
  },
  "env": {
    "world": 4, "stage": 3, "stages": "", "stage_sampling": "uniform", "goal_line_x": null,
    "emulator": "fast", "vec_backend": "batched", "n_envs": 32, "show_buttons": true,
    "sticky_prob": 0.25, "action_set": "fast", "discount": 0.95, "reward": REWARD
  },
  "ppo": {
    "timesteps": 700000, "learning_rate": 0.00025, "learning_rate_final": 2.5e-05,
    "gamma": 0.95, "target_kl": null, "precision": "auto", "compile_policy": false
  },
  "rnd": {"rnd_coef": 0.0, "rnd_lr": 0.0001, "rnd_feature_dim": 512, "rnd_warmup_steps": 512},
  "agent": "ppo",
  "reward_signature": "db773b62c4cf863f",
  "provenance": {"git_commit": "5b2e452"}
}"""
DREAMER_RUN = """{
  "run": {
    "logdir": "runs/dream", "configs": ["mario_fast"], "steps": 565000, "seed": 2,
    "relabel": true, "seed_demos": "runs/episodes", "log_every": 1000,
    "checkpoint_every": 5000, "eval_every": 20000, "eval_episodes": 8, "threads": 1
  },
  "env": {
    "world": 1, "stage": 1, "stages": "", "n_envs": 8, "frame_stack": 1, "screen_size": 64,
    "sticky_prob": 0.25, "action_set": "fast", "discount": 0.98, "reward": REWARD
  },
  "model": {"deter": 512, "mults": [4, 8, 8], "strides": [4, 2, 2], "horizon": 50},
  "exploration": {"behaviour": "greedy", "prefill": 1000, "units": 128},
  "replay": {"batch": 16, "length": 64, "train_ratio": 32.0, "capacity": 1000000},
  "curriculum": {"backward_demos": "runs/demos_1-1", "backward_episodes": 8},
  "agent": "dreamerv3",
  "steps": 565000,
  "reward_signature": "b7dd8bb25139e595",
  "provenance": {"git_commit": "5b2e452"}
}"""


def content_of(run: str) -> dict[str, Any]:
    return json.loads(run.replace("REWARD", REWARD))


def test_a_ppo_run_of_an_earlier_version_is_read() -> None:
    config = config_from_dict(content_of(PPO_RUN))
    assert config.env.stages == (StageId(4, 3),)
    assert (config.env.show_buttons, config.env.reward.hurdle_x) == (True, (600,))
    assert (config.run.warm_start, config.run.backward_demos) == (
        Path("runs/1-3.zip"),
        Path("demos"),
    )
    assert config.run.config == Path("configs/ppo_level.yaml"), (
        "a phase to follow asks what it said"
    )
    assert (config.run.run_dir, config.run.eval_stages) == (None, ())
    assert (config.ppo.timesteps, config.ppo.learning_rate_final) == (700_000, 2.5e-5)
    assert config_from_dict(json.loads(json.dumps(config_as_dict(config)))) == config


def test_a_dreamer_run_of_an_earlier_version_is_read() -> None:
    config = dreamer.config_from_dict(content_of(DREAMER_RUN))
    run = config.run
    assert (run.run_dir, run.config, run.timesteps) == (Path("runs/dream"), ("mario_fast",), 565000)
    assert (run.checkpoint_freq, run.eval_freq, run.relabel) == (5000, 20000, False)
    assert (config.env.stages, config.env.sticky_prob) == ((StageId(1, 1),), 0.25)
    assert (config.model.mults, config.model.horizon) == ((4, 8, 8), 50)
    assert config.curriculum.backward_demos == Path("runs/demos_1-1")
    content = json.loads(json.dumps(dreamer.config_as_dict(config)))
    assert dreamer.config_from_dict(content) == config


@pytest.mark.parametrize("path", sorted(ROOT.glob("pretrained/**/train_config.json")), ids=str)
def test_the_config_of_every_shipped_policy_is_read(path: Path) -> None:
    content = json.loads(path.read_text())
    readers: dict[str, Callable[[dict[str, Any]], object]] = {
        "ppo": config_from_dict,
        "dreamerv3": dreamer.config_from_dict,
        "student": lambda found: config_of_content(teach_mario.TeachConfig(), found, "student"),
    }
    assert readers[content["agent"]](content)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gama: 0.9", "no flag --gama; did you mean --gamma?"),
        ("features: huge", "features is 'huge': input should be 'small', 'nature' or 'fine'"),
        ("gamma: abc", "gamma is 'abc': input should be a valid number"),
        ("normalize_reward: 'false'", "normalize_reward is 'false': input should be a valid bool"),
        ("n_envs: 2.5", "n_envs is 2.5: input should be a valid integer"),
        ("n_envs: true", "n_envs is True: input should be a valid integer"),
        ("ppo: 3", "ppo must be a mapping"),
        ("ppo: {gama: 1}", "no flag --ppo.gama; did you mean --gamma?"),
        ("hurdle_x: [a]", "hurdle_x is ['a']"),
        ("stages: 1-9", "stages: no stage '1-9'"),
        ("- a", "must hold a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_recipe_is_one_line_that_names_file_and_key(
    line: str, message: str, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(line + "\n")
    with pytest.raises(UsageError) as caught:
        parse_config(["--config", str(recipe)])
    assert message in str(caught.value)
    assert "recipe.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flat_and_nested_keys_say_the_same_and_numbers_may_have_exponents(tmp_path: Path) -> None:
    flat, nested = tmp_path / "flat.yaml", tmp_path / "nested.yaml"
    flat.write_text("gamma: 1\nent-coef: 5e-2\ntimesteps: 1e6\nflag_bonus: 7\nstages: 1-1,8-4\n")
    nested.write_text(
        "ppo: {gamma: 1.0, ent_coef: 0.05, timesteps: 1000000}\n"
        "env: {reward: {flag_bonus: 7.0}, stages: [1-1, 8-4]}\n"
    )
    one, other = (parse_config(["--config", str(path)]) for path in (flat, nested))
    assert (one.ppo, one.env) == (other.ppo, other.env)
    assert (one.ppo.timesteps, one.ppo.ent_coef) == (1_000_000, 0.05)
    assert read_yaml(flat)["ent-coef"] == 0.05


def test_dreamer_takes_a_file_as_ppo_does_and_says_which_flag_is_meant(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("horizon: 50\nflag_bonus: 7\nmodel: {units: 32}\nworld: 2\n")
    config = dreamer.parse_config(["--config", "mario_fast", str(recipe)])
    assert (config.model.horizon, config.model.units) == (50, 32)
    assert (config.env.reward.flag_bonus, config.env.reward.death_penalty) == (7, 3)
    assert config.env.stages == (StageId(2, 1),)
    recipe.write_text("units: 32\n")
    with pytest.raises(UsageError, match="units is a flag of model and exploration"):
        dreamer.parse_config(["--config", str(recipe)])


def test_flags_of_an_earlier_version_are_still_taken() -> None:
    old = "--logdir a --steps=7e2 --configs mario_fast debug --checkpoint_every 5 --eval-every 6"
    new = "--run-dir a --timesteps=7e2 --config mario_fast debug --checkpoint-freq 5 --eval-freq 6"
    assert with_newer_flags(old.split()) == new.split()
    one, other = (dreamer.parse_config(flags.split()) for flags in (old, new))
    assert one == other
    stages = [
        dreamer.parse_config(flags.split()).env.stages
        for flags in (
            "--env.world 1 --env.stage 2",
            "--env.stages=1-2",
            "--stages 1-2",
            "--stage 1-2",
        )
    ]
    assert stages == [(StageId(1, 2),)] * 4


def test_the_first_reason_to_stop_stays_but_a_finished_run_is_finished() -> None:
    stop = StopRequest()
    with stop.on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.reason == (StopKind.SIGNAL, "SIGTERM")
    stop.ask(StopKind.COLLAPSE, "entropy_collapse")
    assert stop.reason.name == "SIGTERM"
    assert not stop.is_collapse
    stop.ask(StopKind.ENOUGH, "enough clears")
    assert stop.is_finished


def test_one_name_for_a_flag_of_the_environment_in_every_trainer(tmp_path: Path) -> None:
    newer = ["--n-envs", "64", "--flag-bonus", "7"]
    older = ["--env.n-envs", "64", "--env.reward.flag-bonus=7"]
    for parse in (parse_config, dreamer.parse_config, teach_mario.parse_config):
        for flags in (newer, older):
            env = parse([*flags, "--run-dir", str(tmp_path / "none")]).env
            assert (env.n_envs, env.reward.flag_bonus) == (64, 7.0)


@pytest.mark.parametrize("saved", [["x"], [math.nan], [[1.0]], [None], 5, "x", {"a": 1.0}])
def test_means_of_episodes_are_of_numbers(saved: Any) -> None:
    means = EpisodeMeans(2)
    state = means.state_dict()
    means.load_state_dict(state | {"kept": {name: [1.0, 2.0] for name in means.kept}})
    assert means.means()["max_x"] == 1.5
    with pytest.raises((UsageError, TypeError, ValueError)):
        means.load_state_dict(state | {"kept": state["kept"] | {"max_x": saved}})
    assert means.means()["max_x"] == 1.5


def test_a_state_of_another_kind_is_one_line_that_names_the_checkpoint() -> None:
    broken: list[Callable[[], Any]] = [
        lambda: int(math.inf),
        lambda: int(math.nan),
        lambda: dict[str, int]()["steps"],
        lambda: [][0],
        lambda: int("x"),
        lambda: np.zeros(2).reshape(3),
    ]
    for load in broken:
        with (
            pytest.raises(UsageError, match=r"^a.zip .*its state.*: begin anew$"),
            going_on_from(Path("a.zip"), "begin anew"),
        ):
            load()


def test_recipes_that_name_each_other_in_a_circle_are_one_line(tmp_path: Path) -> None:
    loop, chain = tmp_path / "loop.yaml", [tmp_path / f"{i}.yaml" for i in range(MOST_LAYERS)]
    loop.write_text(f"base: {loop}\n")
    for path, base in itertools.pairwise(chain):
        path.write_text(f"base: {base}\n")
    chain[-1].write_text("gamma: 0.5\n")
    assert len(recipe_layers(chain[0])) == MOST_LAYERS
    for parse in (parse_config, dreamer.parse_config):
        for wrong in (str(loop), ["a"], 1):
            (tmp_path / "a.yaml").write_text(f"base: {json.dumps(wrong)}\n")
            with pytest.raises(
                UsageError, match="base must name a file without a circle"
            ) as raised:
                parse(["--config", str(tmp_path / "a.yaml")])
            assert "\n" not in str(raised.value)
