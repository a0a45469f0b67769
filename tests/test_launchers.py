"""The tools in scripts/: launchers of both kinds, and what they call, on a real run."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import tree_sitter
import tree_sitter_powershell

import auto_update_mario_monitor
import dreamerv3.flags
import render_best_checkpoint
import watch_mario
from mario_checkpoints import read_model_zip
from mario_game import StageId
from mario_runs import RunFolder
from mario_status import RunReader
from scripts import (
    backup_checkpoints,
    diagnose_latest,
    eval_summary,
    front_door,
    inspect_checkpoint,
    launch,
    run_health,
    stop_run,
)
from train_mario import parse_config

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPTS = REPOSITORY / "scripts"

NAMES = sorted(path.stem for path in SCRIPTS.glob("*.sh") if path.stem != "run_mario")
posix_only = pytest.mark.skipif(os.name == "nt", reason="runs the shell launcher")


TARGETS = {
    **{"health": run_health, "diagnose": diagnose_latest, "backup": backup_checkpoints},
    **{"launch": launch, "monitor": auto_update_mario_monitor},
}


@pytest.fixture(scope="session")
def helps() -> dict[str, str]:
    """The help text of each of the front door's commands that launchers call."""
    texts = {}
    for name, module in TARGETS.items():
        assert module.__file__ == str(REPOSITORY / front_door.COMMANDS[name].target)
        out = io.StringIO()
        with pytest.raises(SystemExit), contextlib.redirect_stdout(out):
            module.main(["--help"])
        texts[name] = out.getvalue()
    return texts


def check_call(call: list[str], helps: dict[str, str]) -> None:
    """Every flag of a call exists in its target, and a launch names a recipe that there is."""
    command, *rest = call
    for word in rest:
        if word.startswith("--"):
            assert re.search(rf"{word}\b", helps[command]), f"{command} has no {word}"
    if command == "launch":
        assert rest[0] in launch.RECIPES


def test_each_launcher_has_a_twin() -> None:
    names = "watch_ppo diagnose_latest auto_diagnose backup_checkpoints launch_detached"
    names += " train_overnight train_mario_1-2_finetune start_plan2explore heartbeat"
    assert sorted(names.split()) == NAMES
    assert NAMES == sorted(p.stem for p in SCRIPTS.glob("*.ps1") if p.stem != "run_mario")


@posix_only
def test_every_shell_launcher_runs_and_hands_on_what_exists(
    tmp_path: Path, helps: dict[str, str]
) -> None:
    folder = tmp_path / "some scripts"
    shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "run_mario.sh").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\nexit 7\n')
    for name in NAMES:
        done = subprocess.run(
            [folder / f"{name}.sh", "--more", "a b"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 7, done.stderr
        *call, more, value = done.stdout.splitlines()
        assert (more, value) == ("--more", "a b")
        check_call(call, helps)


def strings(node: tree_sitter.Node) -> list[str]:
    """The words and quoted strings of a PowerShell tree, in order, without their quotes."""
    kinds = ("verbatim_string_characters", "expandable_string_literal", "generic_token")
    if node.type in kinds or (node.type == "command_parameter" and node.text):
        assert node.text
        return [node.text.decode().strip("'\"")]
    return [text for child in node.children for text in strings(child)]


@pytest.mark.parametrize("name", NAMES)
def test_every_powershell_launcher_passes_flags_that_exist(
    name: str, helps: dict[str, str]
) -> None:
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    source = (SCRIPTS / f"{name}.ps1").read_bytes()
    root = parser.parse(source).root_node
    assert not root.has_error
    assert re.search(rb" @args\r?\n", source), "a user's further flags are handed on"
    words = strings(root)
    target = words[words.index("run_mario.ps1") + 1 :]
    command = next(word for word in target if word in front_door.COMMANDS)
    rest = target[target.index(command) + 1 :]
    flags = [word for word in words if word.startswith("--")]
    assert flags or name in {
        *("diagnose_latest", "launch_detached", "train_overnight", "train_mario_1-2_finetune"),
        *("start_plan2explore", "watch_ppo", "backup_checkpoints"),
    }, f"no flag was seen in {words}"
    check_call([command, *[word for word in rest if word in launch.RECIPES], *flags], helps)


def test_recipes_are_flags_that_the_trainer_takes() -> None:
    for name in ("detached", "overnight", "finetune_1-2"):
        recipe = launch.RECIPES[name]
        command = launch.command_of(recipe, RunFolder(Path("nowhere")), ["--seed", "5"])
        config = parse_config(command[2:])
        assert (config.run.run_dir, config.run.seed) == (Path("nowhere"), 5)
        if name == "finetune_1-2":
            assert config.env.stages == (StageId(1, 2),)
            assert config.env.goal_of(StageId(1, 2)) == 3161
            assert config.run.warm_start
            weights = read_model_zip(REPOSITORY / config.run.warm_start)
            assert weights[0]["env"]["action_set"] == config.env.action_set
    command = launch.command_of(launch.RECIPES["plan2explore"], RunFolder(Path("nowhere")), [])
    dreamer = dreamerv3.flags.parse_config(command[2:])
    assert (dreamer.run.run_dir, dreamer.run.timesteps) == (Path("nowhere"), 700_000)
    assert dreamer.exploration.behaviour == "plan2explore"


# --------------------------------------------------------------------------------------------
# On a run
# --------------------------------------------------------------------------------------------


def test_health_of_a_run(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_health.main(["--run", str(tiny_run)]) == 0
    text = capsys.readouterr().out
    for part in (
        *("ppo on 1-1", "finished", "256/256 steps (100%)", "the folder is free"),
        *("last eval at 256: 0/30 cleared", "best eval at", "healthy"),
    ):
        assert part in text
    assert run_health.main(["--runs-root", str(tiny_run.parent), "--brief"]) == 0
    assert re.fullmatch(r"\S+ tiny: finished, 256/256 .*\n", capsys.readouterr().out)
    for flags, said in (
        (["--run", str(tmp_path / "nowhere")], "no run folder"),
        (["--brief", "--runs-root", str(tmp_path)], "there are no runs in"),
    ):
        assert run_health.main(flags) == 2
        assert said in capsys.readouterr().err


def test_health_of_a_living_trainer_names_process_and_parent(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "mine"
    shutil.copytree(tiny_run, run)
    (run / "metrics.jsonl").touch()  # it may have been written long ago
    with RunFolder(run).locked():
        assert run_health.main(["--run", str(run)]) == 0
    text = capsys.readouterr().out
    assert "training: " in text
    me = psutil.Process()
    parent = me.parent()
    assert parent
    assert f"process   pid {me.pid} for" in text
    assert f"started by {parent.name()} ({parent.pid})" in text
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 300, "entropy": 1e-9, "max_x": 5}\n')
    assert run_health.main(["--run", str(run)]) == 1
    assert "COLLAPSED, entropy_collapse at 300: " in capsys.readouterr().out


def test_diagnosis_once_and_of_every_new_checkpoint(
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "mine"
    shutil.copytree(tiny_run, run)
    monkeypatch.setattr(os, "nice", lambda _: 0)
    flags = ["--run", str(run), "--episodes", "2", "--max-steps", "15"]
    assert diagnose_latest.main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["mario_ppo_256_steps.zip", "sampled"],
        ["mario_ppo_256_steps.zip", "argmax"],
    ]
    assert not (run / "diagnosis").exists()

    looks, sleep = 0, time.sleep

    def look_again(seconds: float) -> None:
        """In the place of the wait: a newer checkpoint appears, then nothing new, then Ctrl-C."""
        nonlocal looks
        if seconds != 17:  # somebody else's: the film writer waits too
            return sleep(seconds)
        looks += 1
        old, new = (RunFolder(run).checkpoint_path(step) for step in (256, 512))
        if looks == 1:
            for suffix in (".state", ".zip"):
                shutil.copy(old.with_suffix(suffix), new.with_suffix(suffix))
        if looks == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", look_again)
    assert (
        diagnose_latest.main([*flags, "--watch", "--every-s", "17", "--render-from-x", "41"]) == 130
    )
    with (run / "diagnosis" / "checkpoints.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["deterministic"]) for row in rows] == [
        *(("256", "False"), ("256", "True"), ("512", "False"), ("512", "True"))
    ]
    assert all(float(row["best_max_x"]) >= 40 for row in rows)
    assert (run / "diagnosis" / "mario_ppo_512_steps.mp4").is_file()


def test_backups_are_run_folders_and_keep_the_newest(tiny_run: Path, tmp_path: Path) -> None:
    run, backups = tmp_path / "runs" / "mine", tmp_path / "backups"
    shutil.copytree(tiny_run, run)
    flags = ["--runs-root", str(run.parent), "--to", str(backups), "--keep", "3"]
    assert backup_checkpoints.main(flags) == 0
    for step in (512, 768):
        for suffix in (".state", ".zip"):
            old, new = (RunFolder(run).checkpoint_path(s) for s in (256, step))
            shutil.copy(old.with_suffix(suffix), new.with_suffix(suffix))
    assert backup_checkpoints.main(flags) == 0
    kept = RunFolder(backups / "mine").checkpoints()
    assert [diagnose_latest.step_of(path) for path in kept] == [768, 512, 256]
    assert kept[-1].read_bytes() == RunFolder(run).checkpoint_path(256).read_bytes()
    assert (backups / "mine" / "train_config.json").is_file()
    assert read_model_zip(backups / "mine" / "evaluations" / "best_eval.zip")
    config = parse_config(["--resume-model", str(backups / "mine")])
    assert config.run.run_dir == backups / "mine"
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert backup_checkpoints.main(flags) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == before, "copied once"
    assert backup_checkpoints.main(["--runs-root", str(tmp_path / "nowhere")]) == 2


def test_the_table_of_evaluations(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert eval_summary.main([str(tiny_run)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"128 .* noop .* argmax .* 0/30", text)
    assert re.search(r"256 .* noop .* argmax .* 0/30", text)
    assert "best_eval.zip is of step" in text
    assert eval_summary.main([str(tmp_path)]) == 2
    assert "holds no evaluations" in capsys.readouterr().err


def test_what_a_checkpoint_is(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = RunFolder(tiny_run).checkpoint_path(256)
    assert inspect_checkpoint.main([str(checkpoint)]) == 0
    text = capsys.readouterr().out
    config, tensors = read_model_zip(checkpoint)
    shared = ("pi_features_extractor", "vf_features_extractor")  # one extractor, named three times
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(shared)}
    for part in (
        *(
            "agent      ppo",
            "steps      256",
            "stage      1-1",
            "yes, with mario_ppo_256_steps.state",
        ),
        f"{sum(tensor.numel() for tensor in own.values()):,} numbers",
        f"signature {config['reward_signature']}",
    ):
        assert part in text
    for shipped in (REPOSITORY / "pretrained").rglob("best_eval.zip"):
        assert inspect_checkpoint.main([str(shipped)]) == 0
    torn = tmp_path / "torn.zip"
    torn.write_bytes(checkpoint.read_bytes()[:3000])
    capsys.readouterr()
    assert inspect_checkpoint.main([str(torn)]) == 2
    assert "is not a whole zip file" in capsys.readouterr().err


def test_every_tool_takes_a_run_of_dreamerv3_as_well(
    tiny_dreamer_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "nice", lambda _: 0)
    run, demo = tiny_dreamer_run, tmp_path / "demo.npz"
    page, film = tmp_path / "page.html", tmp_path / "film"
    short = "--max-steps 12"
    for main, flags, said in (
        (run_health.main, f"--run {run}", r"dreamerv3 on 1-1\n  state     finished"),
        (eval_summary.main, f"{run}", r"200 .* argmax .* 0/30(.|\n)*200 .* sampled .* 0/2"),
        (inspect_checkpoint.main, f"{run}", r"agent      dreamerv3\nsteps      200\n"),
        (
            diagnose_latest.main,
            f"--run {run} --episodes 2 {short}",
            r"mario_dreamerv3_200_steps.zip sampled 0/2",
        ),
        (backup_checkpoints.main, f"--run {run} --to {tmp_path}/backup", "2 new checkpoints"),
        (
            auto_update_mario_monitor.main,
            f"--run-dir {run} --once",
            r"finished .* dreamerv3 .* 0/30",
        ),
        (auto_update_mario_monitor.main, f"--run-dir {run} --once --html {page}", "written"),
        (
            render_best_checkpoint.main,
            f"--model {run} --seeds 2 {short} --captions --no-gif --output-dir {film}",
            r"stochastic: 0/2 cleared(.|\n)*in 12 agent steps",
        ),
        (watch_mario.main, f"--model {run} --record {demo} --headless", f"recorded {demo}"),
        (watch_mario.main, f"--replay {demo} --headless --emulator nes-py", "as recorded"),
    ):
        assert main(flags.split()) == 0
        assert re.search(said, capsys.readouterr().out)
    assert page.read_text().count("<polyline") == 9
    assert "data:video/mp4;base64," in page.read_text(), "its preview"
    assert (film / "best.mp4").is_file()


# --------------------------------------------------------------------------------------------
# Launching
# --------------------------------------------------------------------------------------------

TINY = (
    "--action-set simple --n-envs 2 --n-steps 64 --batch-size 64 --n-epochs 1 --eval-freq 0 "
    "--timesteps 100000000 --device cpu"
)


def test_a_launched_training_lives_on_is_refused_twice_and_stops_as_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = ["detached", "--run-dir", str(run), *TINY.split()]
    assert launch.main(flags) == 0
    text = capsys.readouterr().out
    pid = re.search(r"pid: +(\d+)", text)
    assert pid, text
    trainer = psutil.Process(int(pid[1]))
    try:
        assert f"run_mario.sh stop {run}" in text
        assert f"tail -f {run}/trainer.log" in text
        assert os.getsid(trainer.pid) == trainer.pid, "a session of its own"
        assert launch.main(flags) == 2
        assert f"is held by pid {trainer.pid}" in capsys.readouterr().err
        deadline = time.monotonic() + 300
        while not RunReader(run).status().step and time.monotonic() < deadline:
            time.sleep(0.1)
        assert stop_run.main([str(run)]) == 0
        trainer.wait(300)
    finally:
        if trainer.is_running():
            trainer.kill()
    assert "stopped by a stop file" in (run / "trainer.log").read_text()
    assert RunFolder(run).checkpoints()
    command = launch.command_of(launch.RECIPES["detached"], RunFolder(run), [])
    assert command[-2:] == ["--resume-model", str(run)], "called again, it goes on"


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ("nothing", 2, "error: no recipe 'nothing'; there are: detached, overnight"),
        ("detached --batch-size 7 --run-dir {}", 1, "error: the trainer ended at once"),
    ],
)
def test_a_launch_that_fails_says_so(
    flags: str,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(launch, "START_S", 3600.0)  # a busy machine imports for minutes
    assert launch.main(flags.format(tmp_path / "run").split()) == code
    error = capsys.readouterr().err
    assert message in error
    if code == 1:
        assert "batch_size 7 does not divide" in error, "the trainer's own last line"
