"""Train recipes on several seeds, judge each, and keep what counts: curves, configs, evaluations.

    python scripts/run_seeds.py configs/ppo_1-1.yaml configs/ppo_1-1_finish.yaml \\
        --output docs/results/ppo_1-1

One seed after the other; a recipe after the first is warm-started from the one before. A run is in
runs/<recipe>_seed<n>. What is finished is not done again and what was interrupted is resumed, so
that the same command goes on after a stop. Each seed's best model plays 100 episodes from random
no-op starts, as argmax and sampled; summary.json has a row a seed.
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

    recipes: tyro.conf.Positional[tuple[Path, ...]]
    """Recipes under configs/, in their order."""
    output: Path
    """Where the results go: a folder of docs/results/."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The seeds."""
    runs: Path = Path("runs")
    """Where the run folders are."""
    episodes: int = 100
    """Episodes of each evaluation."""


def train(recipe: Path, seed: int, run: RunFolder, before: RunFolder | None) -> int:
    """Begin or go on with one seed's training by a recipe; return its exit code."""
    if run.final_model.is_file():
        return 0
    flags = ["--config", str(recipe), "--seed", str(seed), "--run-dir", str(run.path)]
    if run.checkpoints():
        flags = ["--resume-model", str(run.path)]
    elif before:
        flags += ["--warm-start", str(before.final_model)]
    return subprocess.run([sys.executable, str(ROOT / "train_mario.py"), *flags]).returncode


def judge(runs: list[RunFolder], episodes: int, output: Path) -> dict[str, object]:
    """Judge the last run's best model, copy the runs' small files, and return the seed's row."""
    run = runs[-1]
    model = find_model(run.path)
    policy = load_policy(model)
    content = read_model_zip(model)[0]
    ends = [read_metrics(one.metrics_path)[-1] for one in runs]
    kept = json.loads(run.best_summary.read_text())
    row: dict[str, object] = {
        "seed": content["run"]["seed"],
        "kept_at_step": sum(end["step"] for end in ends[:-1]) + kept["step"],
        "trained_steps": sum(end["step"] for end in ends),
        "wall_minutes": round(sum(end["wall_s"] for end in ends) / 60, 1),
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
    curve = [sys.executable, str(ROOT / "scripts" / "learning_curve.py")]
    for number, one in enumerate(runs, 1):
        shutil.copy(one.config_path, output / f"phase{number}_train_config.json")
        table = output / f"phase{number}_curve.csv"
        subprocess.run([*curve, str(one.path), "--output", str(table)], check=True)
    return row


def main() -> int:
    """Train and judge seed by seed; exit 1 if a training failed, after the others."""
    flags = tyro.cli(SeedFlags, description=__doc__)
    missing = [recipe for recipe in flags.recipes if not recipe.is_file()]
    if missing or not flags.recipes:
        print(f"error: there is no recipe {missing[0] if missing else 'named'}", file=sys.stderr)
        return 2
    rows, failed = [], []
    for seed in flags.seeds:
        runs: list[RunFolder] = []
        for recipe in flags.recipes:
            run = RunFolder(flags.runs / f"{recipe.stem}_seed{seed}")
            if train(recipe, seed, run, runs[-1] if runs else None):
                failed.append(seed)
                break
            runs.append(run)
        else:
            rows.append(judge(runs, flags.episodes, flags.output / f"seed{seed}"))
            write_json(flags.output / "summary.json", rows)
            said = ", ".join(f"{mode} {rows[-1][mode]}" for mode in ("argmax", "sampled"))
            print(f"seed {seed}: {said}", flush=True)
    if failed:
        print(f"error: no result for seeds {failed}; run it again to go on", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
