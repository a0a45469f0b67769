"""DreamerV3 as a person runs it: the command, its folder, resuming, what it refuses."""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml

import evaluate_mario
from dreamerv3 import dreamer as dreamer_module
from dreamerv3.dreamer import Trainer, main
from dreamerv3.envs.mario import FinishedEpisode
from dreamerv3.flags import (
    CONFIGS,
    DreamerConfig,
    config_as_dict,
    config_from_dict,
    parse_config,
)
from dreamerv3.optim import LaProp
from dreamerv3.policy import make_agent
from dreamerv3.sight import Look
from mario_checkpoints import load_tensors, read_model_zip, tensor_bytes
from mario_cli import UsageError
from mario_config import in_process
from mario_judge import ModelEvaluation, evaluate
from mario_policies import load_policy
from mario_recipes import describe_changes
from mario_reward import reward_signature
from mario_rollout import PolicyWithValue
from mario_runs import BadModelFile, RunFolder, read_metrics
from scripts import demos_to_episodes

ROOT = Path(__file__).parents[1]

DEMO = ROOT / "demos" / "1-1.npz"
DEBUG = ["--config", "mario_fast", "debug"]
QUIET = ["--eval-freq", "0"]
WITH_ALL = ["--exploration.behaviour", "plan2explore", "--model.imitation-scale", "0.1"]


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def dreamer(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run the trainer's main to its end, in this process: imports are half of a tiny run."""

    def run(logdir: Path, *flags: str | Path) -> Done:
        capsys.readouterr()
        code = main([*DEBUG, "--run-dir", str(logdir), *map(str, flags)])
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clear of 1-1 as episodes."""
    folder = tmp_path_factory.mktemp("episodes")
    assert demos_to_episodes.main([str(DEMO), "--output", str(folder), *DEBUG]) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run by the real command, from inside dreamerv3/, with an evaluation."""
    folder = tmp_path_factory.mktemp("run")
    done = subprocess.run(
        [
            sys.executable,
            "dreamer.py",
            *DEBUG,
            "--run-dir",
            str(folder),
            "--timesteps",
            "4e2",
            *WITH_ALL,
        ],
        cwd=ROOT / "dreamerv3",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "every 8 environment steps, plan2explore" in done.stdout
    return RunFolder(folder)


def assert_same_tensors(one: Path, other: Path) -> None:
    first, second = read_model_zip(one)[1], read_model_zip(other)[1]
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), f"{name} differs"


def test_a_run_writes_its_folder(run: RunFolder) -> None:
    lines = read_metrics(run.metrics_path)
    assert [line["step"] for line in lines] == [100, 200, 300, 400]
    assert lines[-1].keys() >= {
        *("wall_s", "env_steps_per_s", "entropy", "value_loss", "policy_loss", "learning_rate"),
        *("episode_return", "episode_length", "max_x", "clear_rate", "intrinsic_reward"),
        *("explained_variance", "dreamer/image_loss", "dreamer/kl", "dreamer/updates"),
    }
    assert all(line.get("intrinsic_reward", 0) >= 0 for line in lines)
    assert lines[-1]["dreamer/updates"] == pytest.approx((400 - 100) / 8, abs=1)
    assert [p.name for p in run.checkpoints()] == [
        "mario_dreamerv3_400_steps.zip",
        "mario_dreamerv3_300_steps.zip",
    ]
    found = ModelEvaluation.from_json(run.evaluations / "step_300" / "summary.json")
    assert found.step == 300
    assert found.sampled
    assert [one.mode for one in found.summaries] == ["argmax", "sampled"]
    assert [one.episodes for one in found.summaries] == [30, 2], "each no-op start once"
    assert run.best_model.is_file()
    assert (run.previews / "step_300" / "preview.mp4").is_file()
    assert list(run.tensorboard.glob("events.*"))
    content = json.loads(run.config_path.read_text())
    assert (content["agent"], content["run"]["timesteps"]) == ("dreamerv3", 400)


def test_its_policy_plays_like_any_other(run: RunFolder) -> None:
    policy = load_policy(run.path)
    assert isinstance(policy, PolicyWithValue)
    config = in_process(policy.env_config)
    summaries = [
        evaluate(
            policy, config, protocol="noop", episodes=2, deterministic=False, seed=s, max_steps=30
        )[1]
        for s in (5, 5, 6)
    ]
    assert summaries[0] == summaries[1], "an episode is its seed's"
    assert summaries[0][1].actions == summaries[2][0].actions, "whoever plays beside it"
    observations = np.zeros((3, 1, 64, 64), np.uint8)
    logits, state = policy.logits(observations, np.full(3, -1), policy.initial_state(3))
    assert logits.shape == (3, 5)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(np.exp(logits).sum(1), 1, rtol=1e-5)
    assert policy.values(observations, state).shape == (3,)


def test_a_policys_memory_begins_anew_with_an_episode(run: RunFolder) -> None:
    policy = load_policy(run.path)
    observations = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 64), np.uint8)
    first, state = policy.logits(observations, np.array([-1, -1]), policy.initial_state(2))
    later, _ = policy.logits(observations, np.array([2, -1]), state)
    assert not np.allclose(later[0], first[0])
    np.testing.assert_allclose(later[1], first[1], rtol=1e-5)


def test_evaluate_judges_it(run: RunFolder, tmp_path: Path) -> None:
    flags = f"--model {run.path} --episodes 2 --max-steps 30 --no-video --output-dir {tmp_path}"
    assert evaluate_mario.main(flags.split()) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["episodes"] == 2


def rewrite(source: Path, target: Path, change: Callable[[dict], None]) -> Path:
    """Copy a model file with another train_config.json."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "train_config.json":
                content = json.loads(data)
                change(content)
                data = json.dumps(content).encode()
            new.writestr(name, data)
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].update(deter=64), "disagree, first at"),
        (lambda c: c["model"].update(deter=2**40), "disagree|incomplete"),
        (lambda c: c["model"].update(strides=[2, 2]), "incomplete"),
        (lambda c: c["model"].update(payload="x"), "incomplete"),
        (lambda c: c["exploration"].update(behaviour="greedy"), "disagree"),
        (lambda c: c.pop("env"), "incomplete"),
        (lambda c: c.update(agent="dreamerv4"), "known: ppo, dreamerv3"),
    ],
)
def test_a_model_file_that_lies_is_refused(
    run: RunFolder, tmp_path: Path, change: Callable[[dict], None], message: str
) -> None:
    path = rewrite(run.final_model, tmp_path / "model.zip", change)
    with pytest.raises(BadModelFile, match=message):
        load_policy(path)


@pytest.mark.slow
def test_a_run_cut_off_at_any_moment_goes_on_to_the_same_bits(
    tmp_path: Path, dreamer: Callable[..., Done], episodes: Path
) -> None:
    """What a kill leaves: rows and log lines after the newest whole checkpoint."""
    flags = [
        *QUIET,
        *WITH_ALL,
        *("--checkpoint-freq", "160", "--seed-demos", episodes),
        *("--curriculum.backward-demos", DEMO),
    ]
    whole, broken = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken")
    assert dreamer(whole.path, *flags, "--timesteps", 400).returncode == 0
    assert dreamer(broken.path, *flags, "--timesteps", 250).returncode == 0
    newest = broken.checkpoints()[0]
    newest.unlink()
    newest.with_suffix(".state").unlink()
    for stream in (0, 1):
        rows = max((broken.path / "replay" / "0" / str(stream)).glob("*.rows"))
        with rows.open("ab") as file:
            file.write(b"half of a row")
    again = dreamer(broken.path, *flags, "--timesteps", 400)
    assert again.returncode == 0, again.stderr
    assert "at 160 steps" in again.stdout
    assert_same_tensors(whole.final_model, broken.final_model)
    timing = {"wall_s", "env_steps_per_s"}
    lines = [
        [
            {k: v for k, v in line.items() if k not in timing}
            for line in read_metrics(r.metrics_path)
        ]
        for r in (whole, broken)
    ]
    assert lines[0] == lines[1]
    assert lines[0][-1]["dreamer/demo_fraction"] == 0.25
    assert lines[0][-1]["stage/1-1/steps_to_goal"] == 8


@pytest.mark.slow
def test_a_best_model_is_resumed_in_another_folder_to_the_same_bits(
    tmp_path: Path, dreamer: Callable[..., Done], capsys: pytest.CaptureFixture[str]
) -> None:
    run, fork = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "fork")
    done = dreamer(run.path, "--timesteps", "300", "--eval-freq", "200", *WITH_ALL)
    assert done.returncode == 0, done.stderr
    best = run.best_model
    assert ModelEvaluation.from_json(run.best_summary).step == 200
    assert main(["--resume-model", str(best), "--run-dir", str(fork.path)]) == 0
    assert "at 200 steps" in capsys.readouterr().out
    assert_same_tensors(run.final_model, fork.final_model)
    newest, again = (one.checkpoints()[0].with_suffix(".state") for one in (run, fork))
    optimizers = [load_tensors(path, path.name)["optimizer"]["state"] for path in (newest, again)]
    for moments, others in zip(*(one.values() for one in optimizers), strict=True):
        assert all(torch.equal(moments[name], others[name]) for name in moments)
    elsewhere = tmp_path / "copy" / "best.zip"
    elsewhere.parent.mkdir()
    for suffix in (".zip", ".state"):
        shutil.copy(best.with_suffix(suffix), elsewhere.with_suffix(suffix))
    refused = dreamer(tmp_path / "other", "--resume-model", elsewhere)
    assert refused.returncode == 2
    assert "lies in no run folder" in refused.stderr


def test_a_run_goes_on_with_changed_flags(tmp_path: Path, dreamer: Callable[..., Done]) -> None:
    flags = ["--log-every", "50", "--model.warmup-steps", "0", *QUIET]
    assert dreamer(tmp_path, "--timesteps", "150", *flags).returncode == 0
    more = dreamer(tmp_path, "--timesteps", "200", *flags, "--model.learning-rate", "1e-3")
    assert "resuming with model.learning_rate 4e-05 -> 0.001" in more.stdout
    rates = [line["learning_rate"] for line in read_metrics(RunFolder(tmp_path).metrics_path)]
    assert rates[-2:] == [4e-5, 1e-3]


def test_the_learning_rate_falls_over_the_run_or_stays(tmp_path: Path) -> None:
    flags = [*DEBUG, "--run-dir", str(tmp_path / "run"), "--timesteps", "200"]
    flags += ["--model.warmup-steps", "0", "--model.learning-rate", "1e-3", "--exploration.prefill"]
    for final, at_half in (([], 1e-3), (["--model.learning-rate-final", "1e-4"], 5.5e-4)):
        trainer = Trainer(parse_config([*flags, "0", *final]))
        trainer.replay.clear()
        trainer.begin()
        while trainer.step < 100:
            trainer.collect()
            trainer.learn()
        assert trainer.updates > 0
        assert trainer.optimizer.learning_rate() == pytest.approx(at_half)
        trainer.step = 1000  # a target that was lowered
        assert trainer.learning_rate() == pytest.approx(1e-4 if final else 1e-3)


def test_another_reward_is_refused_or_paid_anew(
    tmp_path: Path, dreamer: Callable[..., Done]
) -> None:
    run = RunFolder(tmp_path)
    assert dreamer(tmp_path, *QUIET, "--timesteps", 200).returncode == 0
    before = {p: p.read_bytes() for p in tmp_path.glob("replay/**/*") if p.is_file()}
    other = [*QUIET, "--env.reward.death-penalty", "9", "--timesteps", "300"]
    refused = dreamer(tmp_path, *other)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert "--relabel" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert before == {p: p.read_bytes() for p in tmp_path.glob("replay/**/*") if p.is_file()}
    relabelled = dreamer(tmp_path, *other, "--relabel")
    assert relabelled.returncode == 0, relabelled.stderr
    assert "death_penalty 3.0 -> 9.0" in relabelled.stdout
    index = json.loads((tmp_path / "replay" / "replay.json").read_text())
    config = config_from_dict(json.loads(run.config_path.read_text()))
    assert index["reward_signature"] == reward_signature(config.env)
    assert dreamer(tmp_path, *other[:-1], "320").returncode == 0


def test_a_folder_that_is_held_or_of_another_game_is_refused(
    tmp_path: Path, dreamer: Callable[..., Done]
) -> None:
    assert dreamer(tmp_path, *QUIET, "--timesteps", 20).returncode == 0
    with RunFolder(tmp_path).locked():
        held = dreamer(tmp_path, *QUIET)
    assert held.returncode == 2
    assert "is held by" in held.stderr
    for flags, message in (
        (["--env.stage", "2"], "made with stage 1-1, not 1-2"),
        (["--env.action-set", "simple"], "made with action_set fast, not simple"),
        (["--model.deter", "64"], "holds another model"),
    ):
        done = dreamer(tmp_path, *QUIET, *flags)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


# What a state of a stranger may hold instead, and what is said of it.
BAD_STATES: dict[str, tuple[str, Any, str]] = {
    "no counters": ("counters", None, "of another version, its state lacks 'counters'"),
    "text": ("counters", ["x", 1, 0.5, 1], "counters.step is 'x', no count"),
    "empty": ("counters", [], "missing 4 required"),
    "too few": ("counters", [1, 1], "missing 2 required"),
    "endless": ("counters", [float("inf"), 1, 0.5, 1], "counters.step is inf"),
    "negative": ("counters", [-1, 1, 0.5, 1], "counters.step is -1"),
    "endless updates": ("counters", [20, 1, 1e300, 1], "counters.owed is 1e+300"),
    "a list's": ("counters", [20, [1], 0.5, 1], "counters.updates is [1]"),
    "a sum of text": ("sums", {"loss": "x"}, "could not convert"),
    "a sum of none": ("sums", {"nonesuch": 1.0}, "METRIC_KEYS"),
    "sums of nothing": ("sums", {"dreamer/x": 1.0}, "sums of no update"),
    "no sums": ("sums", 5, "has no attribute"),
    "an episode of text": ("episodes", [["x", 1, 2, True, True]], "episodes is"),
    "half an episode": ("episodes", [[1.0, 2]], "episodes is"),
    "an endless episode": ("episodes", [[float("nan"), 1, 2, True, True]], "not finite"),
    "another belief": ("state", [torch.zeros(1), torch.zeros(2)], "first deter"),
    "no belief": ("state", [1, 2], "no attribute"),
}


@pytest.fixture(scope="module")
def barely_begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 20 steps, without an update."""
    folder = tmp_path_factory.mktemp("begun")
    assert main([*DEBUG, *QUIET, "--run-dir", str(folder), "--timesteps", "20"]) == 0
    return folder


@pytest.mark.parametrize("case", BAD_STATES)
def test_a_state_of_a_stranger_is_one_line(
    case: str, tmp_path: Path, barely_begun: Path, dreamer: Callable[..., Done]
) -> None:
    folder = shutil.copytree(barely_begun, tmp_path / "run")
    [path, *_] = folder.glob("models/checkpoints/*.state")
    name, value, message = BAD_STATES[case]
    state = load_tensors(path, path.name)
    changed = {key: state[key] for key in state if key != name}
    path.write_bytes(tensor_bytes(changed if value is None else state | {name: value}))
    done = dreamer(folder, *QUIET, "--timesteps", "30")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_model_directly_below_the_root_has_no_replay(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lies in no run folder"):
        dreamer_module.copy_replay(Path(Path.cwd().anchor, "x.zip"), RunFolder(tmp_path))


def test_a_loss_that_is_not_finite_ends_the_run(
    tmp_path: Path, dreamer: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    def step_too_far(optimizer: LaProp) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.data.fill_(torch.nan)

    monkeypatch.setattr(LaProp, "step", step_too_far)
    done = dreamer(tmp_path, *QUIET)
    assert done.returncode == 1
    assert "loss is not finite" in done.stderr
    assert not RunFolder(tmp_path).final_model.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config", "nothing"], "no config 'nothing'; there are: defaults, size1m"),
        (["--replay.batch", "0"], "batch must be at least 1"),
        (["--model.imagined-starts", "5"], "imagined_starts must be at least replay.batch"),
        (["--model.burn-in", "63"], "burn_in must leave two steps of replay.length"),
        (["--model.learning-rate", "nan"], "learning-rate is nan"),
        (["--model.blocks", "7"], "not a multiple of model.blocks"),
        (["--env.world", "9"], "no stage '9-1'"),
        (["--env.screen-size", "84"], "do not take 84 px to 4 px"),
        (["--env.observation", "ram"], "DreamerV3 sees pictures"),
        (["--env.crop", "playfield", "--env.screen-size", "200"], "is more than the 192 rows"),
        (["--seed-demos", "nowhere"], "holds no episodes"),
        (["--curriculum.backward-demos", "nowhere.npz"], "cannot read nowhere.npz"),
    ],
)
def test_wrong_flags_are_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_any_key_can_be_set_and_the_command_line_wins() -> None:
    config = parse_config(
        "--config mario_plan2explore size12m --timesteps 7e5 --env.reward.flag-bonus 42 "
        "--model.hidden 128 --exploration.members 4 --replay.train_ratio 16".split()
    )
    assert config.run.timesteps == 700_000
    assert (config.model.deter, config.model.hidden, config.model.classes) == (2048, 128, 16)
    reward = config.env.reward
    assert (reward.flag_bonus, reward.death_penalty, reward.milestone_bonus) == (42, 50, 5)
    assert reward.hurdle_x == (600, 1200, 1800, 2400, 3000)
    assert (config.exploration.behaviour, config.exploration.members) == ("plan2explore", 4)
    assert config.replay.train_ratio == 16
    assert config.env.discount == pytest.approx(1 - 1 / 333)


def test_every_overlay_is_a_config() -> None:
    for name in yaml.safe_load(CONFIGS.read_text()):
        assert isinstance(parse_config(["--config", name]), DreamerConfig), name


def test_a_rung_changes_one_thing_and_makes_a_model() -> None:
    base = parse_config(["--config", "scratch_base"])
    for name in (name for name in yaml.safe_load(CONFIGS.read_text()) if name.startswith("rung")):
        config = parse_config(["--config", "scratch_base", name])
        changes = describe_changes(base, config, {"run.config", "model.mults"})
        most = 8 if name == "rung1_large" else 3  # an update of another size, and what goes with it
        assert 1 <= len(changes) <= most, (name, changes)
        with torch.device("meta"):
            make_agent(config.model, config.exploration, config.env)


def test_the_earlier_projects_steps_follow_one_another() -> None:
    steps = [parse_config(["--config", f"mario_d{number}"]) for number in range(9)]
    for before, after in itertools.pairwise(steps):
        assert describe_changes(before, after, {"run.config"})
    last = steps[-1].env.reward
    assert (last.time_left_bonus, last.milestone_bonus, last.death_penalty) == (1, 5, 50)
    assert last.hurdle_x == ()
    assert steps[-1].exploration.behaviour == "plan2explore"
    assert parse_config(["--config", "mario"]).env.reward.time_left_bonus == 0


def test_a_config_survives_the_file() -> None:
    config = parse_config([*DEBUG, "--seed-demos", "a", "--curriculum.backward-demos", "b"])
    assert config_from_dict(json.loads(json.dumps(config_as_dict(config)))) == config
    with pytest.raises(UsageError, match="agent 'ppo'"):
        config_from_dict(config_as_dict(config) | {"agent": "ppo"})


def test_demos_leave_the_batches_when_they_help_no_more(tmp_path: Path, episodes: Path) -> None:
    config = parse_config([*DEBUG, "--run-dir", str(tmp_path), "--seed-demos", str(episodes)])
    trainer = Trainer(config)
    trainer.begin()
    while not trainer.replay.can_sample():
        trainer.collect()
    batch = trainer.make_batch()
    assert batch.is_demo.float().mean().item() == 0.25
    assert batch.image.dtype == torch.uint8
    assert batch.image.shape == (16, 4, 1, 64, 64)
    trainer.episodes.extend([trainer_episode(flag=True)] * 9 + [trainer_episode(flag=False)])
    assert not trainer.make_batch().is_demo.any()


def trainer_episode(flag: bool) -> FinishedEpisode:
    return FinishedEpisode(1.0, 10, 100, flag, from_start=True)


def test_demos_that_the_action_set_lacks_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [str(DEMO), "--output", str(tmp_path), *DEBUG, "--max-unfit", "0.001"]
    assert demos_to_episodes.main(flags) == 2
    assert "lacks the buttons of" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


LADDER = (
    *("--model.scene-head", "informed", "--model.sprite-share", "0.4", "--model.harmony"),
    *("--env.observation", "color", "--env.crop", "playfield", "--env.screen-size", "96"),
)


@pytest.mark.slow
def test_a_run_with_every_rung_goes_on_to_the_same_bits(
    tmp_path: Path, dreamer: Callable[..., Done]
) -> None:
    whole, broken = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken")
    flags = [*QUIET, *LADDER, "--checkpoint-freq", "100"]
    assert dreamer(whole.path, *flags, "--timesteps", 200).returncode == 0
    assert dreamer(broken.path, *flags, "--timesteps", 120).returncode == 0
    again = dreamer(broken.path, *flags, "--timesteps", 200)
    assert again.returncode == 0, again.stderr
    assert_same_tensors(whole.final_model, broken.final_model)
    last = read_metrics(whole.metrics_path)[-1]
    assert last.keys() >= {
        *("dreamer/scene_things_loss", "dreamer/things_named", "dreamer/sigma_picture"),
    }
    policy = load_policy(whole.path)
    assert policy.initial_state(1) is not None
    other = dreamer(whole.path, *QUIET, "--timesteps", 300, "--env.crop", "none")
    assert other.returncode == 2
    assert "crop" in other.stderr


def test_a_warm_start_takes_weights_and_nothing_else(
    run: RunFolder, tmp_path: Path, dreamer: Callable[..., Done]
) -> None:
    flags = [*QUIET, "--timesteps", "40", "--warm-start", run.path]
    done = dreamer(tmp_path / "same", *flags, "--exploration.behaviour", "plan2explore")
    assert done.returncode == 0, done.stderr
    assert "anew" not in done.stdout
    assert_same_tensors(run.best_model, RunFolder(tmp_path / "same").final_model)
    assert read_metrics(RunFolder(tmp_path / "same").metrics_path) == []
    informed = dreamer(tmp_path / "informed", *flags, "--model.scene-head", "informed")
    assert informed.returncode == 0, informed.stderr
    assert "anew: world.scene" in informed.stdout
    for wrong, message in (
        (["--model.deter", "64", "--model.hidden", "8"], "of other sizes"),
        (["--env.action-set", "simple"], "action_set fast, not simple"),
    ):
        refused = dreamer(tmp_path / "wrong", *flags, *wrong)
        assert refused.returncode == 2, refused.stdout
        assert message in refused.stderr


def test_an_evaluation_looks_at_what_the_model_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = functools.partial(Look, envs=2, length=32)
    monkeypatch.setattr(dreamer_module, "Look", short)
    flags = "--eval-probe --env.n-envs 2 --eval-freq 100 --timesteps 150 --log-every 50"
    assert main([*DEBUG, "--run-dir", str(tmp_path), *flags.split()]) == 0
    found = json.loads((tmp_path / "evaluations" / "step_100" / "probe.json").read_text())
    assert found["latent"]["mario"]["things"] > 0
    lines = read_metrics(RunFolder(tmp_path).metrics_path)
    assert ["dreamer/latent_recall" in line for line in lines] == [False, True, False]


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_begins_afresh(
    tmp_path: Path, dreamer: Callable[..., Done]
) -> None:
    whole, broken = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken")
    flags = [*QUIET, "--timesteps", 250]
    assert dreamer(whole.path, *flags).returncode == 0
    assert dreamer(broken.path, *flags, "--seed", 5).returncode == 0
    for path in (broken.final_model, *broken.checkpoint_dir.iterdir()):
        path.unlink()
    assert list(broken.path.glob("replay/0/*/*.rows")), "rows that no checkpoint covers"
    assert dreamer(broken.path, *flags).returncode == 0
    assert_same_tensors(whole.final_model, broken.final_model)
