"""Train a recipe on several seeds, judge each, and keep what counts: curves, configs, evaluations.

    python scripts/run_seeds.py configs/ppo_1-1.yaml --output docs/results/ppo_1-1

One seed after the other, each in runs/<recipe>_seed<n>. What is finished is not done again and what
was interrupted is resumed, so that the same command goes on after a stop. Each seed's best model
plays 100 episodes from random no-op starts, as argmax and sampled; summary.json has a row a seed.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mario_policies import find_model, load_policy
from mario_rollout import evaluate
from mario_runs import RunFolder, read_metrics, read_model_zip, write_json
from mario_runtime import in_process

ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class SeedFlags:
    """Which recipe, which seeds, where to."""

    config: tyro.conf.Positional[Path]
    """A recipe under configs/."""
    output: Path
    """Where the results go: a folder of docs/results/."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The seeds."""
    runs: Path = Path("runs")
    """Where the run folders are."""
    episodes: int = 100
    """Episodes of each evaluation."""


def train(config: Path, seed: int, run: RunFolder) -> int:
    """Begin or go on with one seed's training; return its exit code."""
    if run.final_model.is_file():
        return 0
    if run.checkpoints():
        flags = ["--resume-model", str(run.path)]
    else:
        flags = ["--config", str(config), "--seed", str(seed), "--run-dir", str(run.path)]
    return subprocess.run([sys.executable, str(ROOT / "train_mario.py"), *flags]).returncode


def judge(run: RunFolder, episodes: int, output: Path) -> dict[str, object]:
    """Judge a run's best model, copy its small files, and return its row."""
    model = find_model(run.path)
    policy = load_policy(model)
    content = read_model_zip(model)[0]
    metrics = read_metrics(run.metrics_path)
    kept = json.loads(run.best_summary.read_text())
    row: dict[str, object] = {
        "seed": content["run"]["seed"],
        "kept_at_step": kept["step"],
        "trained_steps": metrics[-1]["step"],
        "wall_minutes": round(metrics[-1]["wall_s"] / 60, 1),
        "commit": content["provenance"]["git_commit"],
        "cpu": content["provenance"]["machine"]["cpu"],
        "cpus": content["provenance"]["machine"]["cpus"],
    }
    for name, deterministic in (("argmax", True), ("sampled", False)):
        summary, _ = evaluate(
            policy,
            dataclasses.replace(in_process(policy.env_config), n_envs=50),
            protocol="noop",
            episodes=episodes,
            deterministic=deterministic,
            model=f"{run.path.name}/{model.name}",
        )
        write_json(output / f"noop_{name}.json", dataclasses.asdict(summary))
        row[name] = f"{summary.flags_cleared}/{summary.episodes}"
        row[f"{name}_ci95"] = [round(bound, 3) for bound in summary.clear_rate_ci95]
        row[f"{name}_median_steps"] = summary.median_clear_steps
        row[f"{name}_best_steps"] = summary.best_clear_steps
    shutil.copy(run.config_path, output / "train_config.json")
    subprocess.run(
        [
            *(sys.executable, str(ROOT / "scripts" / "learning_curve.py"), str(run.path)),
            *("--output", str(output / "curve.csv")),
        ],
        check=True,
    )
    return row


def main() -> int:
    """Train and judge seed by seed; exit 1 if a training failed, after the others."""
    flags = tyro.cli(SeedFlags, description=__doc__)
    if not flags.config.is_file():
        print(f"error: there is no recipe {flags.config}", file=sys.stderr)
        return 2
    rows, failed = [], []
    for seed in flags.seeds:
        run = RunFolder(flags.runs / f"{flags.config.stem}_seed{seed}")
        if train(flags.config, seed, run):
            failed.append(seed)
            continue
        rows.append(judge(run, flags.episodes, flags.output / f"seed{seed}"))
        write_json(flags.output / "summary.json", rows)
        print(
            f"seed {seed}: argmax {rows[-1]['argmax']}, sampled {rows[-1]['sampled']}", flush=True
        )
    if failed:
        print(f"error: no result for seeds {failed}; run it again to go on", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
