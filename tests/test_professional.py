"""Many runs from one plan: real trainings, real kills, a real Ray cluster of two nodes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mario_checkpoints import read_model_zip
from mario_cli import UsageError
from mario_comparison import mean_over_seeds, results_as_markdown
from mario_judge import Summary
from mario_results import read_study
from mario_runs import Holder, RunFolder, read_metrics
from train_mario_professional import main, read_plan, write_recipes

ROOT = Path(__file__).parents[1]
PLAN = """
stages: 1-1
seeds: [0, 1]
timesteps: {steps}
flags: {{n_envs: 2, n_steps: 64, batch_size: 64, n_epochs: 1, eval_freq: 0, checkpoint_freq: 128,
         end_on_stall_steps: 20}}
phases:
  - {{name: explore, share: 0.5, flags: {{ent_coef: 0.05}}}}
  - {{name: finish, share: 0.5, flags: {{ent_coef: 0.0, flag_bonus: 20.0, sticky_prob: 0.25}}}}
"""


def write_plan(folder: Path, steps: int = 512) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(PLAN.format(steps=steps))
    return path


def finals(storage: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of every final model, by its place below the storage."""
    paths = sorted(storage.glob("tiny/*/*/models/mario_final.zip"))
    return {path.relative_to(storage).as_posix(): read_model_zip(path)[1] for path in paths}


def assert_same(one: Path, other: Path) -> None:
    first, second = finals(one), finals(other)
    assert len(first) == 4
    assert first.keys() == second.keys()
    for name, weights in first.items():
        for key, tensor in weights.items():
            assert torch.equal(tensor, second[name][key]), f"{name}: {key} differs"


def assert_trained_once(storage: Path, steps: int) -> None:
    """Every rollout of every cell is in its metrics exactly once."""
    for folder in storage.glob("tiny/*/*/metrics.jsonl"):
        done = [row["step"] for row in read_metrics(folder)]
        assert done == list(range(128, steps // 2 + 1, 128)), folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("phasen: []", "no flag --phasen; did you mean --phases?"),
        ("stages: 1-9", "no stage '1-9'"),
        ("phases: [{name: a, share: 0.4}]", "shares are 1 together"),
        ("seeds: 3", "seeds is 3"),
        ("seeds: [-1]", "must not be negative"),
        ("seeds: []", "needs stages, seeds"),
        ("stages: all\nseeds: [" + ",".join(map(str, range(500))) + "]", "over 10,000 trainings"),
        ("timesteps: .inf", "timesteps"),
        ("phases: [{name: a, share: .nan}]", "share"),
        ("phases: [{nam: a, share: 1}]", "nam"),
        ("variants: {a: 5}", "variants"),
        ("flags: [1]", "flags"),
        ("flags: {gama: 1}", "no flag --gama"),
    ],
)
def test_a_wrong_plan_is_one_line(
    tmp_path: Path, change: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_plan(tmp_path)
    path.write_text(path.read_text() + change + "\n")
    with pytest.raises(UsageError, match=message):
        read_plan(path, tmp_path / "runs")
    assert not (tmp_path / "runs").exists(), "reading writes nothing"
    assert main([str(path), "--storage", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


ABLATIONS = """
group: shared
stages: 1-1
seeds: [0]
timesteps: 256
flags: {{n_envs: 2, n_steps: 64, batch_size: 64, n_epochs: 1, eval_freq: 0, end_on_stall_steps: 20}}
variants:
  base: {{}}
  {name}: {{flags: {flags}}}
"""


@pytest.mark.slow
def test_plans_of_a_group_train_what_they_share_once(tmp_path: Path) -> None:
    flags = ["--storage", str(tmp_path), "--episodes", "2", "--cpus-per-cell", "1"]
    shared = tmp_path / "shared" / "base_1-1_seed0" / "1_train" / "models" / "mario_final.zip"
    made = []
    for name, changed in (("high", "{gamma: 0.99}"), ("right", "{action_set: right_only}")):
        plan = tmp_path / f"{name}.yaml"
        plan.write_text(ABLATIONS.format(name=name, flags=changed))
        assert main([str(plan), *flags, "--output", str(tmp_path / "kept")]) == 0
        made.append(shared.stat().st_mtime_ns)
    assert made[0] == made[1]
    summary = json.loads((tmp_path / "right" / "professional_summary.json").read_text())
    assert [row["variant"] for row in summary["chains"]] == ["base", "right"]
    assert summary["chains"][0]["git_commit"]
    assert "| right | 1-1 | argmax | 1 |" in (tmp_path / "right" / "report.md").read_text()
    high = read_model_zip(tmp_path / "shared/high_1-1_seed0/1_train/models/mario_final.zip")[0]
    assert (high["ppo"]["gamma"], high["env"]["action_set"]) == (0.99, "simple")
    study = read_study(tmp_path / "kept")
    assert list(study.about.runs) == ["base_1-1_seed0", "high_1-1_seed0", "right_1-1_seed0"]
    assert len(study.judgement("right_1-1_seed0", "noop", "sampled").played) == 2
    [phase] = study.phases("right_1-1_seed0")
    assert phase.config["env"]["action_set"] == "right_only"
    assert phase.points[-1].step == 256
    plan.write_text(plan.read_text().replace("timesteps: 256", "timesteps: 512"))
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.yaml")}
    with pytest.raises(UsageError, match="begun with other flags"):
        write_recipes(read_plan(plan, tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.yaml")} == kept


def test_the_ablations_share_their_base(tmp_path: Path) -> None:
    paths = sorted((ROOT / "configs" / "ablations").glob("*.yaml"))
    names = ["actions", "gamma", "jump_bias", "lambda", "p4", "rnd"]
    assert [path.stem for path in paths] == names
    cells: dict[Path, dict[str, object]] = {}
    for path in paths:
        for chain in read_plan(path, tmp_path):
            [phase] = chain.phases
            assert cells.setdefault(chain.folder, phase.flags) == phase.flags
            assert phase.flags["timesteps"] == 500_000
    variants = 8  # base, simple, jump bias, RND, P4, two gammas, and 0.99 with another lambda
    more_seeds = 3  # of base and the jump bias
    assert len(cells) == 3 * variants + 2 * more_seeds


def test_the_recipe_of_1_1_is_a_plan(tmp_path: Path) -> None:
    chains = read_plan(ROOT / "configs" / "professional_1-1.yaml", tmp_path)
    assert [phase.flags["timesteps"] for phase in chains[0].phases] == [900_000, 400_000]
    assert [chain.folder.name for chain in chains] == ["1-1_seed0", "1-1_seed1", "1-1_seed2"]


@pytest.mark.parametrize("plan", ["professional", "professional_p4"])
def test_the_plans_in_configs_read(tmp_path: Path, plan: str) -> None:
    chains = read_plan(ROOT / "configs" / f"{plan}.yaml", tmp_path)
    assert [phase.name for phase in chains[0].phases] == ["explore", "progress", "finish"]
    total = sum(phase.flags["timesteps"] for phase in chains[0].phases)
    assert [round(phase.flags["timesteps"] / total, 2) for phase in chains[0].phases] == [
        *(0.3, 0.4, 0.3)
    ]
    assert {chain.seed for chain in chains} == {0, 1, 2}


def test_intervals_hold_the_mean_and_one_value_is_itself() -> None:
    found = mean_over_seeds([0.2, 0.5, 0.9])
    assert found["low"] < found["mean"] < found["high"]
    assert found["median"] == 0.5
    assert mean_over_seeds([1.0, 1.0, 1.0]) == {"median": 1.0, "mean": 1.0, "low": 1.0, "high": 1.0}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of the plan, run in one go."""
    folder = tmp_path_factory.mktemp("whole")
    flags = ["--storage", str(folder), "--episodes", "2", "--cpus-per-cell", "1"]
    assert main([str(write_plan(folder)), *flags]) == 0
    return folder


def test_a_plan_is_run_judged_and_not_run_twice(undisturbed: Path) -> None:
    assert_trained_once(undisturbed, 512)
    summary = json.loads((undisturbed / "tiny" / "professional_summary.json").read_text())
    assert [(row["stage"], row["seed"]) for row in summary["chains"]] == [("1-1", 0), ("1-1", 1)]
    # The last phase trains under sticky buttons, and is judged under them.
    for path in undisturbed.glob("tiny/*/evaluation_sticky_argmax.json"):
        assert Summary.from_json(path).episodes == 2
    assert {row["protocol"] for row in summary["chains"]} == {"sticky"}
    assert "| 1-1 | sampled | 2 |" in results_as_markdown("tiny", summary["chains"])
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.zip")}
    flags = ["--storage", str(undisturbed), "--episodes", "2", "--cpus-per-cell", "1"]
    assert main([str(undisturbed / "tiny.yaml"), *flags]) == 0
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.zip")} == before


@pytest.mark.slow
def test_a_stopped_plan_goes_on_to_the_same_weights(tmp_path: Path, undisturbed: Path) -> None:
    command = [
        *(sys.executable, "train_mario_professional.py", str(write_plan(tmp_path))),
        *("--storage", str(tmp_path), "--episodes", "2", "--cpus-per-cell", "1"),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    first = RunFolder(tmp_path / "tiny" / "1-1_seed0" / "1_explore")
    while not first.checkpoints() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130, error
    assert "the same command goes on" in error
    assert len(finals(tmp_path)) < 4
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    assert_same(tmp_path, undisturbed)
    assert_trained_once(tmp_path, 512)


@pytest.mark.slow
def test_a_plan_that_is_killed_takes_its_trainers_with_it(tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    plan = write_plan(tmp_path, steps=10_000_000)
    process = subprocess.Popen(
        [sys.executable, "train_mario_professional.py", str(plan), "--storage", str(storage),
         "--parallel", "2", "--cpus-per-cell", "1"],
        cwd=ROOT,
    )  # fmt: skip
    runs = [RunFolder(storage / "tiny" / f"1-1_seed{seed}" / "1_explore") for seed in (0, 1)]
    try:
        while not all(read_metrics(run.metrics_path) for run in runs):
            assert process.poll() is None
            time.sleep(0.1)
        second = subprocess.run(
            [sys.executable, "train_mario_professional.py", str(plan), "--storage", str(storage)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert second.returncode == 2
        assert "another plan trains in" in second.stderr
        trainers = [Holder.of_folder(run.path) for run in runs]
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 120
    while any(holder and holder.is_alive for holder in trainers):
        assert time.monotonic() < deadline, "the trainers end with their plan"
        time.sleep(0.1)
    for run in runs:
        assert run.checkpoints(), "and save"
        log = (run.path / "trainer.log").read_text()
        assert "stopped by the end of its plan; go on with" in log


@pytest.mark.slow
def test_a_ray_node_lost_in_the_middle_costs_nothing(tmp_path: Path, undisturbed: Path) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()
        command = [
            *(sys.executable, "train_mario_professional.py", str(write_plan(tmp_path))),
            *("--storage", str(tmp_path), "--episodes", "2", "--cpus-per-cell", "1"),
            *("--engine", "ray", "--ray-address", cluster.address),
        ]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        runs = [RunFolder(tmp_path / "tiny" / f"1-1_seed{n}" / "1_explore") for n in (0, 1)]
        while not all(run.checkpoints() for run in runs) and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None
        cluster.remove_node(nodes[0], allow_graceful=False)  # the other one trains both chains
        _, error = process.communicate(timeout=1500)
        assert process.returncode == 0, error
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert_same(tmp_path, undisturbed)
    assert_trained_once(tmp_path, 512)
