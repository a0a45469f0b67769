"""Many runs from one plan: phases x seeds x stages over train_mario.py, here or on a Ray cluster.

    python train_mario_professional.py configs/professional.yaml
    python train_mario_professional.py configs/professional.yaml --engine ray --storage /mnt/shared

A plan names stages, seeds and phases. A phase is a cell: one run folder,
<storage>/<plan>/<stage>_seed<n>/<k>_<phase>, warm-started from the phase before it. The phases of a
stage and seed follow each other; different ones run side by side. Starting the same plan again
skips what is finished and resumes what is not. At the end each last phase's best model is judged;
professional_summary.json and report.md say what came out, with medians and intervals over seeds.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.live import Live
from rich.table import Table
from scipy.stats import bootstrap

from mario_doctor import diagnose
from mario_policies import load_policy
from mario_rollout import evaluate
from mario_runs import BadModelFile, RunFolder, provenance, read_metrics, write_json
from mario_runtime import UsageError, in_process, parse_stages, stage_name
from train_mario import parse_config, read_yaml

TRAINER = Path(__file__).with_name("train_mario.py")
ATTEMPTS = 3  # of a cell on Ray, each on from its last checkpoint
REFRESH_S = 2.0


@dataclasses.dataclass(frozen=True)
class ProfessionalFlags:
    """Which plan, where, and on what."""

    plan: tyro.conf.Positional[Path]
    """A YAML file: stages, seeds, timesteps, flags, phases (configs/professional.yaml)."""
    storage: Path = Path("runs")
    """Where the run folders go; for Ray on several machines a folder that all of them share."""
    engine: Literal["local", "ray"] = "local"
    """local: processes here; ray: tasks of a Ray cluster."""
    ray_address: str | None = None
    """The cluster, as ray.init takes it. Unset: RAY_ADDRESS, or one started here."""
    parallel: int = 0
    """Trainings side by side on the local engine. 0: one for every two cores."""
    cpus_per_cell: int = 2
    """Cores of a training: its torch threads, and what Ray sets aside for it."""
    gpus_per_cell: float = 0.0
    """GPUs that Ray sets aside for a training."""
    episodes: int = 100
    """Episodes (noop) that judge each last phase, argmax and sampled."""


# --------------------------------------------------------------------------------------------
# The plan
# --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of every chain."""

    name: str
    flags: dict[str, Any]  # of train_mario.py


@dataclasses.dataclass(frozen=True)
class Chain:
    """The phases of one stage and seed, each after the other."""

    stage: str
    seed: int
    folder: Path
    phases: tuple[Phase, ...]

    def run(self, number: int) -> RunFolder:
        """Return the run folder of a phase by its number, from 0."""
        return RunFolder(self.folder / f"{number + 1}_{self.phases[number].name}")

    def runs(self) -> list[RunFolder]:
        """Return the run folders of all phases."""
        return [self.run(number) for number in range(len(self.phases))]

    def command(self, number: int) -> list[str]:
        """Return the trainer's flags for a phase: to begin it, or to go on with it."""
        run = self.run(number)
        if run.checkpoints():
            return ["--resume-model", str(run.path)]
        flags = ["--config", str(self.write_flags(number)), "--run-dir", str(run.path)]
        if number:
            flags += ["--warm-start", str(self.run(number - 1).final_model)]
        return flags

    def write_flags(self, number: int) -> Path:
        """Write a phase's flags beside its run folder, as the recipe that it follows."""
        world, stage = self.stage.split("-")
        flags = {"world": int(world), "stage": int(stage), "seed": self.seed}
        path = self.run(number).path.with_suffix(".yaml")
        write_json(path, self.phases[number].flags | flags)  # JSON is YAML
        return path


def read_plan(path: Path, storage: Path) -> list[Chain]:
    """Return the chains of a plan, every flag of which is checked.

    Raises:
        UsageError: a key or a flag that does not exist, or shares that are not 1 together.
    """
    content = read_yaml(path)
    known = {"stages", "seeds", "timesteps", "flags", "phases"}
    if unknown := sorted(content.keys() - known):
        raise UsageError(f"{path}: no key {unknown[0]!r}; there are: {', '.join(sorted(known))}")
    try:
        stages = [stage_name(*stage) for stage in parse_stages(str(content["stages"]))]
        seeds = [int(seed) for seed in content["seeds"]]
        parts = [
            (str(p["name"]), float(p["share"]), p.get("flags") or {}) for p in content["phases"]
        ]
        timesteps = int(content["timesteps"])
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path}: stages, seeds, timesteps and phases must be there: {error}"
        ) from error
    if not (stages and seeds and parts) or abs(sum(share for _, share, _ in parts) - 1) > 1e-6:
        raise UsageError(f"{path}: needs a stage, a seed, and phases whose shares are 1 together")
    base = content.get("flags") or {}
    phases = tuple(
        Phase(name, {**base, **flags, "timesteps": round(share * timesteps)})
        for name, share, flags in parts
    )
    home = storage / path.stem
    chains = [
        Chain(stage, seed, home / f"{stage}_seed{seed}", phases)
        for stage in stages
        for seed in seeds
    ]
    for number in range(len(phases)):
        parse_config(["--config", str(chains[0].write_flags(number))])
    return chains


# --------------------------------------------------------------------------------------------
# Engines
# --------------------------------------------------------------------------------------------


def cell_environment(cpus: int) -> dict[str, str]:
    """Return the environment of a training that has some cores to itself."""
    return {**os.environ, "OMP_NUM_THREADS": str(cpus), "OMP_WAIT_POLICY": "passive"}


class LocalEngine:
    """A process a training on this machine; ended with SIGTERM, so that each keeps its state."""

    def __init__(self, cpus: int) -> None:
        self.cpus = cpus
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.is_stopping = threading.Event()

    def run_chain(self, chain: Chain) -> str:
        """Run a chain's unfinished phases; return "", or in one line what went wrong."""
        for number, run in enumerate(chain.runs()):
            if run.final_model.is_file():
                continue
            if self.is_stopping.is_set():
                return "stopped"
            flags = chain.command(number)
            run.path.mkdir(parents=True, exist_ok=True)
            with (run.path / "trainer.log").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, str(TRAINER), *flags],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=cell_environment(self.cpus),
                    start_new_session=True,  # Ctrl-C is ours to hand on
                )
                self.processes.add(process)
                code = process.wait()
                self.processes.discard(process)
            if code or not run.final_model.is_file():
                return f"{run.path} ended with exit code {code}: see its trainer.log"
        return ""

    def stop(self) -> None:
        """Ask every training to save and end."""
        self.is_stopping.set()
        for process in list(self.processes):
            process.send_signal(signal.SIGTERM)


def run_local(
    chains: list[Chain], flags: ProfessionalFlags, show: Callable[[], None]
) -> dict[str, str]:
    """Run all chains here; return what went wrong by chain folder."""
    parallel = flags.parallel or max(1, (os.cpu_count() or 1) // flags.cpus_per_cell)
    engine = LocalEngine(flags.cpus_per_cell)
    with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        futures = {pool.submit(engine.run_chain, chain): chain for chain in chains}
        waiting = set(futures)
        try:
            while waiting:
                waiting = concurrent.futures.wait(waiting, timeout=REFRESH_S)[1]
                show()
        except KeyboardInterrupt:
            engine.stop()
            raise
        return {str(futures[f].folder): f.result() for f in futures if f.result()}


def train_chain(chain: Chain) -> str:
    """Train a chain within a Ray worker, whose death ends the training; return its last folder."""
    from train_mario import main

    for number, run in enumerate(chain.runs()):
        if not run.final_model.is_file() and (code := main(chain.command(number))):
            raise RuntimeError(f"{run.path} ended with exit code {code}")
    return str(chain.folder)


def run_ray(
    chains: list[Chain], flags: ProfessionalFlags, show: Callable[[], None]
) -> dict[str, str]:
    """Run all chains as tasks of a Ray cluster; a lost node's are retried on another."""
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray needs Ray: pip install -r requirements-ray.txt") from error
    here = str(TRAINER.parent)
    if not ray.is_initialized():
        environment = {"PYTHONPATH": here, **cell_environment(flags.cpus_per_cell)}
        ray.init(
            address=flags.ray_address,
            runtime_env={"env_vars": {k: environment[k] for k in ("PYTHONPATH", *THREAD_KEYS)}},
            log_to_driver=False,
        )
    task = ray.remote(
        num_cpus=flags.cpus_per_cell,
        num_gpus=flags.gpus_per_cell,
        max_retries=ATTEMPTS,
        max_calls=1,  # a fresh process a chain: torch's state and our signal handlers end with it
    )(train_chain)
    chains = [dataclasses.replace(chain, folder=chain.folder.resolve()) for chain in chains]
    waiting = {task.remote(chain): chain for chain in chains}
    failed = {}
    while waiting:
        done, _ = ray.wait(list(waiting), timeout=REFRESH_S)
        for reference in done:
            chain = waiting.pop(reference)
            try:
                ray.get(reference)
            except ray.exceptions.RayError as error:
                failed[str(chain.folder)] = str(error).strip().splitlines()[-1]
        show()
    return failed


THREAD_KEYS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")


# --------------------------------------------------------------------------------------------
# What came out
# --------------------------------------------------------------------------------------------


def live_table(chains: list[Chain]) -> Table:
    """Return where every chain is."""
    table = Table("stage", "seed", "phase", "steps", "max-x", "clears", "doctor")
    for chain in chains:
        finished = [run.final_model.is_file() for run in chain.runs()]
        number = finished.index(False) if not all(finished) else len(finished) - 1
        rows = read_metrics(chain.run(number).metrics_path)
        last = rows[-1] if rows else {}
        table.add_row(
            chain.stage,
            str(chain.seed),
            "finished" if all(finished) else f"{number + 1} {chain.phases[number].name}",
            f"{last.get('step', 0):,}",
            f"{last['max_x']:.0f}" if "max_x" in last else "",
            f"{last['clear_rate']:.0%}" if "clear_rate" in last else "",
            ", ".join(finding.rule for finding in diagnose(rows)),
        )
    return table


def judge(chain: Chain, episodes: int) -> dict[str, Any]:
    """Return a finished chain's row of professional_summary.json; judged once, then kept.

    Raises:
        BadModelFile: the last phase kept no model.
    """
    runs = chain.runs()
    kept = chain.folder / "judged.json"
    if kept.is_file():
        row = json.loads(kept.read_text())
        if row["episodes"] == episodes:
            return row
    rows = [read_metrics(run.metrics_path) for run in runs]
    model = runs[-1].best_model if runs[-1].best_model.is_file() else runs[-1].final_model
    policy = load_policy(model)
    row = {
        "stage": chain.stage,
        "seed": chain.seed,
        "episodes": episodes,
        "steps": sum(part[-1]["step"] for part in rows),
        "wall_s": round(sum(part[-1]["wall_s"] for part in rows), 1),
        "findings": [f"{f.rule} at {f.step}" for part in rows for f in diagnose(part)],
        "folder": chain.folder.name,
    }
    for mode in ("argmax", "sampled"):
        summary, _ = evaluate(
            policy,
            dataclasses.replace(in_process(policy.env_config), n_envs=min(50, episodes)),
            protocol="noop",
            episodes=episodes,
            deterministic=mode == "argmax",
            model=model.relative_to(chain.folder).as_posix(),
        )
        write_json(chain.folder / f"evaluation_noop_{mode}.json", dataclasses.asdict(summary))
        row[mode] = {
            "clear_rate": summary.clear_rate,
            "clear_rate_ci95": list(summary.clear_rate_ci95),
            "median_max_x": summary.median_max_x,
            "median_clear_steps": summary.median_clear_steps,
            "best_clear_steps": summary.best_clear_steps,
        }
    write_json(kept, row)
    return row


def over_seeds(values: Sequence[float]) -> dict[str, float]:
    """Return median and 95 % bootstrap interval of the mean (BCa, SciPy) over seeds."""
    low = high = float(values[0])
    if len(set(values)) > 1:
        interval = bootstrap(
            (np.array(values),), np.mean, rng=np.random.default_rng(0)
        ).confidence_interval
        low, high = (
            float(bound) if np.isfinite(bound) else float(edge)
            for bound, edge in zip(interval, (min(values), max(values)), strict=True)
        )
    mean = statistics.fmean(values)
    return {"median": statistics.median(values), "mean": mean, "low": low, "high": high}


def report(name: str, rows: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: a row a chain, and medians and intervals over seeds."""
    lines = [
        f"# {name}\n\nnoop protocol, emulator fast, {rows[0]['episodes']} episodes each.\n",
        "| stage | seed | argmax | sampled | median steps (sampled) | steps | minutes | doctor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        steps = row["sampled"]["median_clear_steps"]
        lines.append(
            f"| {row['stage']} | {row['seed']} | {row['argmax']['clear_rate']:.0%} "
            f"| {row['sampled']['clear_rate']:.0%} | {'-' if steps is None else f'{steps:.0f}'} "
            f"| {row['steps']:,} | {row['wall_s'] / 60:.0f} | {', '.join(row['findings']) or '-'} |"
        )
    lines += [
        "\n| stage | policy | seeds | median clear rate | mean, 95 % bootstrap interval |",
        "|---|---|---|---|---|",
    ]
    for stage in dict.fromkeys(row["stage"] for row in rows):
        for mode in ("argmax", "sampled"):
            rates = [row[mode]["clear_rate"] for row in rows if row["stage"] == stage]
            found = over_seeds(rates)
            lines.append(
                f"| {stage} | {mode} | {len(rates)} | {found['median']:.0%} "
                f"| {found['mean']:.0%} ({found['low']:.0%}-{found['high']:.0%}) |"
            )
    return "\n".join(lines) + "\n"


def run_plan(flags: ProfessionalFlags) -> int:
    """Run a plan, judge it, write what came out; 1 if a chain failed."""
    chains = read_plan(flags.plan, flags.storage)
    home = chains[0].folder.parent
    print(f"{home}: {len(chains)} chains of {len(chains[0].phases)} phases", flush=True)
    console = Console()
    with Live(live_table(chains), console=console, auto_refresh=False) as live:

        def show() -> None:
            if console.is_terminal:
                live.update(live_table(chains), refresh=True)

        engine = run_ray if flags.engine == "ray" else run_local
        failed = engine(chains, flags, show)
        live.update(live_table(chains))
    for folder, why in failed.items():
        print(f"error: {folder}: {why}", file=sys.stderr)
    rows = [
        judge(chain, flags.episodes)
        for chain in chains
        if all(run.final_model.is_file() for run in chain.runs())
    ]
    if rows:
        summary = {
            "plan": flags.plan.name,
            "engine": flags.engine,
            "chains": rows,
            "failed": failed,
        }
        write_json(home / "professional_summary.json", summary | provenance())
        (home / "report.md").write_text(report(flags.plan.stem, rows))
        print(report(flags.plan.stem, rows))
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; an expected failure is one line and exit code 2, Ctrl-C 130."""
    flags = tyro.cli(ProfessionalFlags, args=arguments, description=__doc__)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):  # in the background, SIGINT may be ignored
            signal.signal(number, signal.default_int_handler)
    try:
        return run_plan(flags)
    except (UsageError, BadModelFile) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
