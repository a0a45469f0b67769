"""The trainer as a person runs it: real processes, real files, real kills."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import imageio.v2 as imageio
import numpy as np
import psutil
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from mario_callbacks import TemperatureCallback, capture_state, restore_state, wrappers_of
from mario_checkpoints import load_tensors, read_model_zip
from mario_cli import UsageError
from mario_config import in_process
from mario_curriculum import BackwardStarts
from mario_game import StageId
from mario_judge import protocol_config
from mario_learning import action_bias, make_model, make_training_env
from mario_policies import load_policy
from mario_ppo import MarioPPO
from mario_recipes import describe_changes
from mario_rollout import play
from mario_runs import RunFolder, read_metrics
from mario_video import write_video
from train_mario import TrainConfig, config_as_dict, config_from_dict, main, parse_config

ROOT = Path(__file__).parents[1]
TINY = "--n-envs 2 --n-steps 64 --batch-size 64 --n-epochs 1 --eval-freq 0 --checkpoint-freq 0"
P8 = (  # the earlier project's command (docs/journey.md)
    "--timesteps 5000000 --device auto --action-set simple --n-envs 8 --gamma 0.9 "
    "--gae-lambda 0.95 --learning-rate 2.5e-4 --n-steps 512 --batch-size 256 --ent-coef 0.05 "
    "--n-epochs 4 --clip-range 0.2 --normalize-reward --norm-reward-clip 10 "
    "--forward-reward-scale 0.15 --backward-penalty-scale 0.05 --flag-bonus 200 --stall-steps 120 "
    "--stall-penalty 0 --milestone-step 50 --milestone-bonus 0.5 "
    "--hurdle-x 600 1200 1800 2400 3000 --hurdle-bonus 10 --action-bias-jump 1.0 --rnd-coef 0.3 "
    "--eval-freq 50000 --eval-episodes 3 --preview-freq 100000"
)


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def trainer(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run the trainer's main to its end, in this process: imports are half of a tiny run."""

    def run(*flags: str | Path) -> Done:
        capsys.readouterr()
        code = main([str(flag) for flag in flags])
        return Done(code, *capsys.readouterr())

    return run


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_model_zip(path)[1]


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), f"{name} differs"


def test_a_run_writes_its_folder_and_its_policy_plays(
    tmp_path: Path, trainer: Callable[..., Done]
) -> None:
    run = RunFolder(tmp_path / "run")
    done = trainer(
        *TINY.split(),
        *"--timesteps 256 --eval-freq 128 --eval-episodes 2 --eval-steps 30".split(),
        *"--checkpoint-freq 128 --preview-freq 256 --preview-steps 20 --live-preview".split(),
        *"--normalize-reward --rnd-coef 0.3 --rnd-warmup-steps 8 --run-dir".split(),
        run.path,
    )
    assert done.returncode == 0, done.stderr
    assert "one rollout is 128 steps in 2 minibatches" in done.stdout
    lines = read_metrics(run.metrics_path)
    assert [line["step"] for line in lines] == [128, 256]
    assert lines[-1].keys() >= {"wall_s", "env_steps_per_s", "entropy", "approx_kl", "value_loss"}
    assert lines[-1]["intrinsic_reward"] > 0
    assert len(run.checkpoints()) == 2
    assert [p.name for p in run.evaluations.glob("step_*")] != []
    assert json.loads(run.best_summary.read_text())["episodes"] == 30, "every start once"
    assert len(imageio.mimread(run.previews / "step_256" / "preview.mp4", memtest=False)) > 5
    assert imageio.imread(run.previews / "live.png").shape == (240, 256, 3)
    assert list(run.tensorboard.glob("events.*"))
    assert not list(run.path.glob("**/.*.zip")), "no temporary files are left"

    policy = load_policy(run.final_model)
    config = protocol_config(in_process(policy.env_config), "noop")
    assert play(policy, config, 1, deterministic=True, max_steps=20)[0].length <= 20
    PPO.load(run.final_model, device="cpu")  # plain SB3 reads it too

    again = trainer(*TINY.split(), "--run-dir", run.path)
    assert again.returncode == 2
    assert f"--resume-model {run.path} continues it" in again.stderr


def start_and_signal(flags: list[str], run: RunFolder, number: signal.Signals) -> tuple[int, str]:
    """Start a training, signal it some way into the rollout after its first checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "train_mario.py", *flags, "--run-dir", str(run.path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not run.checkpoints() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(random.random() / 2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


@pytest.mark.parametrize(
    ("flags", "number"),
    [
        pytest.param("", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(
            "--rnd-coef 0.3 --rnd-warmup-steps 8 --normalize-reward",
            signal.SIGKILL,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "--backward-demos demos --demo-starts anywhere --imitation-coef 0.5",
            signal.SIGKILL,
            marks=pytest.mark.slow,
        ),
        pytest.param("--long-jump-action", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("--normalize-reward", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("--rnd-coef 0.3 --rnd-warmup-steps 8", signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(
    tmp_path: Path, trainer: Callable[..., Done], flags: str, number: signal.Signals
) -> None:
    common = f"{TINY} {flags} --timesteps 1280 --sticky-prob 0.25 --ent-coef-final 0".split()
    common += "--temperature-final 0.5 --temperature-from 0.1".split()
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    assert trainer(*common, "--run-dir", whole.path).returncode == 0
    code, output = start_and_signal([*common, "--checkpoint-freq", "256"], parts, number)
    if number != signal.SIGKILL:
        assert code == 0, output
        assert f"stopped by {number.name}; go on with --resume-model" in output
    assert not parts.final_model.exists(), "it was signalled before its end"
    resumed = trainer("--resume-model", parts.path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_weights(whole.final_model, parts.final_model)
    steps = [line["step"] for line in read_metrics(parts.metrics_path)]
    assert steps == list(range(128, 1281, 128)), "no tick is missing or there twice"


def test_a_signal_in_the_last_update_costs_nothing(
    tmp_path: Path, trainer: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    update = MarioPPO.train

    def signalled_update(model: MarioPPO) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        update(model)

    runs = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "signalled")
    for run, train in zip(runs, (update, signalled_update), strict=True):
        monkeypatch.setattr(MarioPPO, "train", train)
        flags = [*TINY.split(), "--timesteps", "128", "--run-dir", str(run.path)]
        assert main(flags) == 0
        resumed = trainer("--resume-model", run.path, "--timesteps", "256")
        assert resumed.returncode == 0, resumed.stderr
        assert "at 128 steps" in resumed.stdout
    assert_same_weights(*(run.final_model for run in runs))


def test_with_other_environments_the_curriculum_goes_on(capsys: pytest.CaptureFixture) -> None:
    def model_of(n_envs: int) -> tuple[MarioPPO, BackwardStarts]:
        flags = f"{TINY} --stages 1-1,1-2 --backward-demos demos --n-envs {n_envs}"
        config = parse_config(flags.split())
        model = make_model(config, make_training_env(config))
        return model, wrappers_of(model)[-1].env.starts  # type: ignore[attr-defined]

    before, starts = model_of(2)
    starts.front[:], starts.levels.clear_rates[:] = (17, 3), (0.75, 0.25)
    after, others = model_of(4)
    restore_state(after, capture_state(before))
    assert others.front.tolist() == [17, 3]
    assert others.levels.clear_rates.tolist() == [0.75, 0.25]
    assert capsys.readouterr().out.startswith("with another number of environments")


def test_resume_says_what_changed_and_refuses_what_must_not(
    tmp_path: Path, trainer: Callable[..., Done]
) -> None:
    run = tmp_path / "run"
    assert trainer(*TINY.split(), "--timesteps", "128", "--run-dir", run).returncode == 0
    more = trainer("--resume-model", run, "--timesteps", "256", "--gae-lambda", "0.8")
    assert more.returncode == 0, more.stderr
    assert "resuming with gae_lambda 1.0 -> 0.8" in more.stdout
    assert "resuming with timesteps 128 -> 256" in more.stdout
    again = trainer("--resume-model", run)
    assert again.returncode == 0, again.stderr
    assert [line["step"] for line in read_metrics(RunFolder(run).metrics_path)] == [128, 256]
    newest = RunFolder(run).checkpoints()[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    torn = trainer("--resume-model", run, "--timesteps", "256")
    assert torn.returncode == 0, torn.stderr
    assert "is not a whole zip file" in torn.stderr
    assert "mario_ppo_128_steps.zip at 128 steps" in torn.stdout
    for flag, value in (("--flag-bonus", "7"), ("--action-set", "simple"), ("--stage", "2"),
        ("--rnd-coef", "0.3"),
    ):  # fmt: skip
        refused = trainer("--resume-model", run, flag, value)
        assert refused.returncode == 2
        assert "--warm-start takes its weights alone" in refused.stderr
        assert "Traceback" not in refused.stderr
    warm = trainer(
        *TINY.split(), "--warm-start", newest.with_name("mario_ppo_128_steps.zip"),
        *"--flag-bonus 7 --rnd-coef 0.3 --rnd-warmup-steps 8".split(),
        *"--warm-temperature 4 --temperature-final 1".split(),
        *"--learning-rate 0 --learning-rate-final 0".split(),
        *("--timesteps", "128", "--run-dir", tmp_path / "warm"),
    )  # fmt: skip
    assert warm.returncode == 0, warm.stderr
    before, after = (
        read_model_zip(path)[1]["action_net.weight"]
        for path in (
            newest.with_name("mario_ppo_128_steps.zip"),
            RunFolder(tmp_path / "warm").final_model,
        )
    )
    assert torch.equal(after, before / 4)


def test_a_state_of_another_version_is_refused_in_one_line(
    tmp_path: Path, trainer: Callable[..., Done]
) -> None:
    run = RunFolder(tmp_path / "run")
    assert trainer(*TINY.split(), "--timesteps", "128", "--run-dir", run.path).returncode == 0
    state = run.checkpoints()[0].with_suffix(".state")
    content = torch.load(state, weights_only=True)
    del content["environments"]
    content["learner"].pop("counters")
    torch.save(content, state)
    refused = trainer("--resume-model", run.path)
    assert refused.returncode == 2
    assert "is of another version, its state lacks 'counters'" in refused.stderr
    assert refused.stderr.count("error:") == 1


@pytest.mark.slow
def test_a_run_that_clears_enough_is_finished(tmp_path: Path, trainer: Callable[..., Done]) -> None:
    run = RunFolder(tmp_path / "run")
    shipped = ROOT / "pretrained" / "ppo_mario_1-1" / "best_eval.zip"
    flags = [
        *TINY.split(), "--warm-start", shipped, "--learning-rate", "1e-9",
        *"--learning-rate-final 1e-9 --timesteps 1024 --eval-freq 128 --eval-episodes 2".split(),
        *("--checkpoint-freq", "128", "--eval-enough", "1"),
    ]  # fmt: skip
    done = trainer(*flags, "--run-dir", run.path)
    assert done.returncode == 0, done.stderr
    assert "finished at 128 steps" in done.stdout
    assert [line["step"] for line in read_metrics(run.metrics_path)] == [128]
    assert [path.stem for path in run.checkpoints()] == ["mario_ppo_128_steps"]
    assert run.final_model.is_file()
    run.final_model.unlink()  # as if it had been killed before its end
    again = trainer("--resume-model", run.path)
    assert "finished at 128 steps" in again.stdout, again.stderr
    assert run.final_model.is_file()
    for path in (run.final_model, *run.checkpoint_dir.iterdir()):
        path.unlink()  # as if it had been killed between evaluation and checkpoint
    assert trainer(*flags, "--run-dir", run.path).returncode == 0
    assert [path.stem for path in run.checkpoints()] == ["mario_ppo_128_steps"]
    more = trainer("--resume-model", run.path, "--eval-enough", "0")
    assert "finished at 1,024 steps" in more.stdout, more.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--world 9", "no stage '9-1'"),
        ("--batch-size 100", "does not divide a rollout"),
        ("--observation color --rnd-coef 0.3", "RND sees gray"),
        ("--observation ram", "cannot learn from ram"),
        ("--temperature-final 0", "--temperature-final must be at least 0.001, not 0.0"),
        ("--warm-temperature 0", "--warm-temperature must be at least 0.001"),
        ("--imitation-until 0", "--imitation-until must be above 0"),
        ("--imitation-coef -1", "--imitation-coef must not be negative"),
        ("--ema-decay 1", "ema_decay 1 would keep the first weights"),
        ("--imitation-coef 0.1", "needs the demos of --backward-demos"),
        ("--config nowhere.yaml", "cannot read nowhere.yaml"),
        ("--resume-model nowhere", "there is no checkpoint nowhere"),
        ("--warm-start nowhere.zip", "there is no model file nowhere.zip"),
        ("--device cuda", "no CUDA GPU"),
        ("--device toaster", "no device 'toaster'"),
        ("--emulator nes-py", "batched backend needs --emulator fast"),
    ],
)
def test_wrong_flags_are_one_line_and_exit_code_2(
    flags: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if "cuda" in flags and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert main([*flags.split(), "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run" / "train_config.json").exists(), "nothing was begun"


def test_the_earlier_projects_command_parses_and_nothing_is_lost(tmp_path: Path) -> None:
    config = parse_config(P8.split())
    assert config.ppo.gamma == config.env.discount == 0.9
    assert config.env.reward.hurdle_x == (600, 1200, 1800, 2400, 3000)
    assert config.ppo.normalize_reward
    content = json.loads(json.dumps(config_as_dict(config)))
    back = config_from_dict(content)
    assert (back.env, back.ppo, back.rnd) == (config.env, config.ppo, config.rnd)


def test_a_resumed_run_still_says_what_it_was_warm_started_from() -> None:
    config = parse_config(["--warm-start", "runs/before.zip", "--backward-demos", "demos"])
    back = config_from_dict(json.loads(json.dumps(config_as_dict(config))))
    assert back.run.warm_start == Path("runs/before.zip")
    assert back.run.backward_demos == Path("demos")


def test_every_flag_of_the_foundation_exists(capsys: pytest.CaptureFixture[str]) -> None:
    names = (
        "world stage goal-line-x timesteps resume-model n-envs vec-backend emulator frame-skip "
        "frame-stack screen-size noop-max sticky-prob action-set seed run-dir checkpoint-freq "
        "learning-rate learning-rate-final n-steps batch-size ent-coef ent-coef-final n-epochs "
        "clip-range vf-coef max-grad-norm gamma gae-lambda target-kl device forward-reward-scale "
        "forward-mode backward-penalty-scale flag-bonus death-penalty stall-steps stall-penalty "
        "end-on-stall-steps end-on-stall-penalty milestone-step milestone-bonus hurdle-x "
        "hurdle-bonus time-penalty-per-step goal-potential-scale base-reward-scale reward-scale "
        "action-bias-jump long-jump-action long-jump-hold-steps long-jump-base-action "
        "action-bias-long-jump normalize-reward norm-reward-clip rnd-coef rnd-lr rnd-feature-dim "
        "eval-freq eval-steps eval-episodes preview-freq preview-steps preview-episodes "
        "preview-fps live-preview config"
    ).split()
    with pytest.raises(SystemExit) as ended:
        parse_config(["--help-all"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert [name for name in names if f"--{name}" not in text] == []
    assert "--discount" not in text, "derived from gamma, not a flag"


def test_reward_normalisation_discounts_with_ppos_gamma() -> None:
    flags = "--timesteps 1000 --n-envs 1 --gamma 0.73 --normalize-reward --norm-reward-clip 4"
    config = parse_config(flags.split())
    venv = make_training_env(config)
    assert isinstance(venv, VecNormalize)
    assert (venv.gamma, venv.clip_reward, venv.norm_obs) == (0.73, 4, False)
    venv.close()


def test_a_yaml_recipe_sets_flags_and_the_command_line_wins(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("gamma: 0.95\nent-coef: 5e-2\nhurdle_x: [600, 1200]\nworld: 4\n")
    assert parse_config(["--config", str(recipe)]).env.stages == (StageId(4, 1),)
    config = parse_config(["--config", str(recipe), "--world", "2"])
    assert (config.ppo.gamma, config.ppo.ent_coef) == (0.95, 0.05)
    assert config.env.stages == (StageId(2, 1),)
    assert config.env.reward.hurdle_x == (600, 1200)
    recipe.write_text("gama: 0.95\n")
    with pytest.raises(UsageError, match="no flag --gama"):
        parse_config(["--config", str(recipe)])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 3 MB: room for less than one checkpoint."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs Linux and the right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_training_outlives_a_full_disk_and_nothing_is_lost(
    small_disk: Path, trainer: Callable[..., Done]
) -> None:
    flags = f"{TINY} --timesteps 768 --checkpoint-freq 128 --eval-freq 256 --eval-episodes 1"
    flags += " --eval-steps 8 --live-preview"
    filler = small_disk / "filler"
    run = RunFolder(small_disk / "run")
    filler.write_bytes(bytes(3_000_000 - 200_000))
    done = trainer(*flags.split(), "--run-dir", run.path)
    assert done.returncode == 1, "the final model could not be written"
    assert "768/768 steps" in done.stdout, "training went on to its end"
    assert "warning: no checkpoint at 128" in done.stderr
    assert "warning: evaluation not written" in done.stderr
    assert "error: [Errno 28] No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert not run.checkpoints() and not run.best_model.exists(), "no half of one"
    assert [line["step"] for line in read_metrics(run.metrics_path)] == list(range(128, 769, 128))


def test_a_film_for_which_there_is_no_room_is_one_error_and_ffmpeg_says_nothing(
    small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (small_disk / "filler").write_bytes(bytes(3_000_000 - 40_000))
    noise = np.random.default_rng(0).integers(0, 256, (60, 240, 256, 3), np.uint8)
    with pytest.raises(OSError, match=r".+"):
        write_video(small_disk / "film" / "preview.mp4", list(noise), 60)
    assert capfd.readouterr() == ("", "")
    assert list((small_disk / "film").iterdir()) == []


def test_without_a_flag_the_recipe_of_1_1_is_trained(tmp_path: Path) -> None:
    assert parse_config([]).ppo == parse_config(["--config", "configs/recipe.yaml"]).ppo
    assert parse_config([]).env.action_set == "fast"
    nothing = tmp_path / "nothing.yaml"
    nothing.write_text("{}\n")
    assert parse_config(["--config", str(nothing)]).ppo == TrainConfig().ppo


def test_the_recipe_p8_is_the_earlier_projects_command(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.yaml"
    nothing.write_text("{}\n")
    command = parse_config([*P8.split(), "--config", str(nothing)])
    recipe = parse_config(["--config", "configs/p8.yaml"])
    assert (recipe.env, recipe.ppo, recipe.rnd) == (command.env, command.ppo, command.rnd)


RECIPES = sorted(path.name for path in (ROOT / "configs").glob("p[0-9p]*.yaml"))  # no plans


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_parses(recipe: str) -> None:
    flags = ["--config", f"configs/{recipe}"]
    run = parse_config(flags).run
    assert run.config == Path(flags[1])
    for path in (run.warm_start, run.backward_demos):
        assert path is None or path.exists()


def test_the_temperature_falls_to_its_end_and_only_the_policy_knows(tmp_path: Path) -> None:
    common = f"{TINY} --timesteps 256 --learning-rate 1e-12 --learning-rate-final 1e-12".split()
    plain, sharp = RunFolder(tmp_path / "plain"), RunFolder(tmp_path / "sharp")
    assert main([*common, "--temperature-final", "1", "--run-dir", str(plain.path)]) == 0
    flags = ["--temperature-final", "0.25", "--temperature-from", "0.3"]
    assert main([*common, *flags, "--run-dir", str(sharp.path)]) == 0
    before, after = weights(plain.final_model), weights(sharp.final_model)
    for name in before:
        factor = 4.0 if name.startswith("action_net") else 1.0
        torch.testing.assert_close(after[name], factor * before[name], atol=1e-6, rtol=1e-5)
    callback = TemperatureCallback(final=0.25, begins=0.3, timesteps=256, rollout=128)
    assert [callback.temperature(step) for step in (0, 76, 256, 300)] == [1, 1, 0.25, 0.25]
    assert 0.25 < callback.temperature(200) < callback.temperature(100) < 1


def test_the_moving_average_is_judged_and_kept_and_the_run_goes_on_from_its_own_weights(
    tmp_path: Path,
) -> None:
    run = RunFolder(tmp_path / "run")
    flags = f"{TINY} --timesteps 256 --ema-decay 0.5 --eval-freq 256 --eval-episodes 1"
    assert main([*flags.split(), "--eval-steps", "20", "--run-dir", str(run.path)]) == 0
    [checkpoint] = run.checkpoints()
    state = load_tensors(checkpoint.with_suffix(".state"), "state")
    kept, average = weights(run.best_model), state["learner"]["average"]
    assert kept.keys() == average.keys()
    for name, tensor in kept.items():
        assert torch.equal(tensor, average[name]), name
    assert_same_weights(checkpoint, run.final_model)
    assert not torch.equal(weights(checkpoint)["action_net.weight"], kept["action_net.weight"])


def test_changes_are_described_by_flag() -> None:
    old = TrainConfig()
    new = dataclasses.replace(old, ppo=dataclasses.replace(old.ppo, gamma=0.95))
    assert describe_changes(old, new) == {"ppo.gamma": "0.9 -> 0.95"}
    assert describe_changes(old, new, {"ppo"}) == describe_changes(old, old) == {}


def test_the_jump_bias_is_on_the_jumps() -> None:
    config = parse_config(["--action-bias-jump", "1", "--action-set", "simple"])
    assert action_bias(config) == [0, 0, 1, 0, 1, 1, 0]
    config = parse_config(
        "--action-bias-jump 0 --action-bias-long-jump 2 --long-jump-action".split()
    )
    assert action_bias(config) == [0, 0, 0, 0, 0, 2]
    assert action_bias(TrainConfig()) is None


@pytest.mark.slow
def test_a_dead_worker_stops_the_run_cleanly_and_keeps_a_checkpoint(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    flags = f"{TINY} --emulator nes-py --vec-backend subproc --timesteps 100000".split()
    process = subprocess.Popen(
        [sys.executable, "train_mario.py", *flags, "--run-dir", str(run.path)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not read_metrics(run.metrics_path):
        assert process.poll() is None
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in family if child.ppid() != process.pid]  # the fork server's
    assert len(workers) == 2
    workers[-1].kill()
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "died: exit code -9" in error
    assert "Traceback" not in error
    assert len(run.checkpoints()) == 1
    read_model_zip(run.checkpoints()[0])
