"""Many runs from one plan: phases x seeds x stages over train_mario.py, here or on a Ray cluster.

    python train_mario_professional.py configs/professional.yaml
    python train_mario_professional.py configs/professional.yaml --engine ray --storage /mnt/shared

A plan (read_plan says what it holds) names stages, seeds and phases, and perhaps variants of the
flags. A phase is a cell: one run folder, <storage>/<plan>/<stage>_seed<n>/<k>_<phase>, warm-started
from the phase before it. The phases of a stage and seed follow each other; different ones run side
by side. Starting the same plan again skips what is finished and resumes what is not. When its last
phase is done, a chain's best model is judged (judged.json, evaluation_*.json); in the end
professional_summary.json and report.md say what came out, with medians and intervals over seeds.
Ablations and several machines: docs/scaling.md.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import filelock
import pydantic
import torch
import tyro
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from mario_checkpoints import read_model_zip
from mario_cli import UsageError, exit_code
from mario_comparison import results_as_markdown
from mario_config import in_process
from mario_doctor import diagnose
from mario_files import MAX_JSON_BYTES, parse_json, read_file
from mario_flags import TrainConfig
from mario_game import parse_stages
from mario_judge import NOOP_MAX, Summary, default_protocol, evaluate
from mario_keeping import KEPT_EVERY, keep_run, phase_of_run, played_rows, told_by
from mario_policies import load_policy
from mario_recipes import recipe_layers, with_file_values
from mario_results import RunFacts
from mario_runs import Holder, RunFolder, RunLocked, provenance, read_metrics, write_json
from mario_training import as_variable
from mario_values import (
    Amount,
    Checked,
    Count,
    Seed,
    Share,
    Weight,
    parse_flags,
    read_yaml,
    with_values,
)

ROOT = Path(__file__).parent
TRAINER = ROOT / "train_mario.py"
DEFAULT_PLAN = ROOT / "configs" / "professional.yaml"
RETRIES = 3  # of a chain whose node is lost, each on from its last checkpoint
LOST_TRAINER_S = 60  # a lost node's trainer may live on for so long and hold its run folder
# What plan, variants and phases are called: folders below --storage, on any system.
FOLDER_NAME = re.compile(r"\w[\w .,=+-]*(?<![ .])")
MOST_TRAININGS = 10_000  # of a plan
REFRESH_S = 2.0


@dataclasses.dataclass(frozen=True)
class ProfessionalFlags(Checked):
    """Which plan, where, and on what."""

    plan: tyro.conf.Positional[Path] = DEFAULT_PLAN
    """A YAML file: configs/professional*.yaml, configs/ablations/*.yaml. Unset: the three phases
    of configs/professional.yaml for 1-1, on three seeds."""
    storage: Path = Path("runs")
    """Where the run folders go; for Ray on several machines a folder that all of them share."""
    engine: Literal["local", "ray"] = "local"
    """local: processes here; ray: tasks of a Ray cluster."""
    ray_address: str | None = None
    """The cluster, as ray.init takes it. Unset: RAY_ADDRESS, or one started here."""
    parallel: Amount = 0
    """Trainings side by side on the local engine. 0: one for every two cores."""
    cpus_per_cell: Count = 2
    """Cores of a training: its torch threads, and what Ray sets aside for it."""
    gpus_per_cell: Weight = 0.0
    """GPUs that Ray sets aside for a training."""
    episodes: Count = 100
    """Episodes that judge each last phase, argmax and sampled: under sticky buttons if it trained
    under them, else noop."""
    output: Path | None = None
    """Also keep what counts of every chain in this study, such as results/mine, beside its other
    runs: episodes, learning curves, configs (mario_results.py)."""


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
    """The phases of one variant, stage and seed, each after the other."""

    variant: str  # "" if the plan has none
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

    def is_finished(self) -> bool:
        """Return whether every phase is."""
        return all(run.final_model.is_file() for run in self.runs())

    def command(self, number: int) -> list[str]:
        """Return the trainer's flags for a phase: to begin it, or to go on with it."""
        run = self.run(number)
        if run.checkpoints():
            return ["--resume-model", str(run.path)]
        flags = ["--config", str(self.recipe_path(number)), "--run-dir", str(run.path)]
        if number:
            flags += ["--warm-start", str(self.run(number - 1).final_model)]
        return flags

    def recipe(self, number: int) -> dict[str, Any]:
        """Return the trainer's flags that a phase follows."""
        return self.phases[number].flags | {"stages": self.stage, "seed": self.seed}

    def recipe_path(self, number: int) -> Path:
        """Return where `write_recipes` keeps a phase's flags: beside its run folder."""
        return self.run(number).path.with_suffix(".yaml")

    def was_begun_otherwise(self, number: int) -> bool:
        """Return whether a phase was begun with other flags than the plan's now."""
        path = self.recipe_path(number)
        if not (self.run(number).config_path.is_file() and path.is_file()):
            return False
        return parse_json(read_file(path, MAX_JSON_BYTES), str(path)) != self.recipe(number)


@pydantic.with_config(extra="forbid")
@dataclasses.dataclass(frozen=True)
class PlannedPart:
    """A phase or a variant as a plan has it."""

    name: str = ""
    share: Share | None = None
    """A phase's, of the plan's timesteps."""
    config: str | None = None
    flags: dict[str, Any] | None = None

    def recipe(self) -> dict[str, Any]:
        """Return the flags of `config` under those of `flags`."""
        recipe: dict[str, Any] = {}
        for _, values in recipe_layers(ROOT / self.config) if self.config else ():
            recipe |= values
        return recipe | (self.flags or {})


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a plan's file holds, as `read_plan` says."""

    stages: str = ""
    seeds: tuple[Seed, ...] = ()
    timesteps: Count | None = None
    config: str | None = None
    flags: dict[str, Any] | None = None
    phases: tuple[PlannedPart, ...] | None = None
    variants: dict[str, PlannedPart | None] | None = None
    group: str | None = None

    def phase(self, part: PlannedPart, variant: PlannedPart) -> Phase:
        """Return a phase: the plan's flags, under the phase's, under the variant's."""
        flags = PlannedPart(config=variant.config or self.config, flags=self.flags).recipe()
        flags |= part.recipe() | (variant.flags or {})
        if self.timesteps:
            flags["timesteps"] = round((part.share or 0) * self.timesteps)
        return Phase(part.name, flags)


def read_plan(path: Path, storage: Path) -> list[Chain]:
    """Return the chains of a plan, every flag of which is checked.

    A plan is a YAML file of

    - stages: "1-1,1-2" or all; seeds: a list
    - config, flags: of every phase; a recipe (a path from the repository), and single flags over it
    - phases: a list, each with a name and perhaps its own config and flags over the plan's. Unset:
      one phase, `train`
    - timesteps: of a chain; each phase has its `share`. Unset: what each phase's flags say
    - variants: names, each with flags over all others; its config stands in for the plan's. One
      more dimension, as stages and seeds
    - group: the folder of the chains, so that plans can have some in common. Unset: the plan's name

    Raises:
        UsageError: a key or a flag that does not exist, shares that are not 1 together, a name
            that is no folder's, or too many chains.
    """
    plan = with_values(Plan(), read_yaml(path), str(path))
    parts = plan.phases or (PlannedPart(name="train", share=1.0),)
    shares = sum(part.share or 0.0 for part in parts) if plan.timesteps else 1.0
    if not (plan.stages and plan.seeds) or abs(shares - 1) > 1e-6:
        raise UsageError(f"{path}: needs stages, seeds, and phases whose shares are 1 together")
    try:
        stages = [str(stage) for stage in parse_stages(plan.stages)]
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    variants = plan.variants or {"": None}
    group = plan.group or path.stem
    names = [path.stem, group, *filter(None, variants), *(part.name for part in parts)]
    if wrong := [name for name in names if not FOLDER_NAME.fullmatch(name)]:
        raise UsageError(
            f"{path}: {wrong[0]!r:.60} cannot be a folder's name: letters, digits and _ . , = + -"
        )
    if len({part.name for part in parts}) != len(parts):
        raise UsageError(f"{path}: two phases have one name")
    seeds = tuple(dict.fromkeys(plan.seeds))
    if len(variants) * len(stages) * len(seeds) * len(parts) > MOST_TRAININGS:
        raise UsageError(f"{path}: over {MOST_TRAININGS:,} trainings")
    chains = []
    for name, variant in variants.items():
        phases = tuple(plan.phase(part, variant or PlannedPart()) for part in parts)
        for stage, seed in itertools.product(stages, seeds):
            folder = "_".join(filter(None, (name, stage, f"seed{seed}")))
            chains.append(Chain(name, stage, seed, storage / group / folder, phases))
        for number, phase in enumerate(phases):  # stages and seeds are right already
            with_file_values(TrainConfig(), chains[-1].recipe(number), f"{path}: {phase.name}")
    return chains


def write_recipes(chains: Sequence[Chain]) -> None:
    """Write every phase's flags beside its run folder, as the recipe that it follows.

    Raises:
        UsageError: a phase was begun with other flags; nothing has been written then.
    """
    phases = [(chain, number) for chain in chains for number in range(len(chain.phases))]
    for chain, number in phases:
        if chain.was_begun_otherwise(number):
            raise UsageError(
                f"{chain.run(number).path} was begun with other flags than the plan's now: "
                "remove it, or choose another --storage"
            )
    for chain, number in phases:
        write_json(chain.recipe_path(number), chain.recipe(number))  # JSON is YAML


# --------------------------------------------------------------------------------------------
# Engines
# --------------------------------------------------------------------------------------------


def cell_environment(cpus: int) -> dict[str, str]:
    """Return the environment of a training that has some cores to itself."""
    return {**os.environ, "OMP_NUM_THREADS": str(cpus), "OMP_WAIT_POLICY": "passive"}


@contextlib.contextmanager
def only_plan(folder: Path) -> Iterator[None]:
    """Hold the folder of a plan's chains.

    Raises:
        RunLocked: another plan trains there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / "plan.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunLocked(
            f"another plan trains in {folder}: wait for it, stop it, or choose another --storage"
        ) from None
    try:
        yield
    finally:
        lock.release()


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
                    # a plan that is killed takes its trainers with it
                    env=cell_environment(self.cpus) | as_variable(Holder.of_this_process()),
                    start_new_session=True,  # Ctrl-C is ours to hand on
                )
                self.processes.add(process)
                if self.is_stopping.is_set():  # since it was asked above
                    process.terminate()
                code = process.wait()
                self.processes.discard(process)
            if code or not run.final_model.is_file():
                return f"{run.path} ended with exit code {code}: see its trainer.log"
        return ""

    def stop(self) -> None:
        """Ask every training to save and end."""
        self.is_stopping.set()
        for process in list(self.processes):
            process.terminate()


def run_local(
    chains: list[Chain], flags: ProfessionalFlags, look_after: Callable[[], None]
) -> dict[str, str]:
    """Run all chains here; return what went wrong by the name of the chain's folder."""
    parallel = flags.parallel or max(1, (os.cpu_count() or 1) // flags.cpus_per_cell)
    engine = LocalEngine(flags.cpus_per_cell)
    with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        futures = {pool.submit(engine.run_chain, chain): chain for chain in chains}
        waiting = set(futures)
        try:
            while waiting:
                waiting = concurrent.futures.wait(waiting, timeout=REFRESH_S)[1]
                look_after()
        except KeyboardInterrupt:
            engine.stop()
            raise
        return {futures[f].folder.name: f.result() for f in futures if f.result()}


def wait_until_free(run: RunFolder) -> None:
    """Wait until no trainer holds a run folder, or for LOST_TRAINER_S."""
    for _ in range(LOST_TRAINER_S):
        try:
            with run.locked():
                return
        except RunLocked:
            time.sleep(1)


def train_chain(chain: Chain) -> None:
    """Train a chain within a Ray worker, whose death ends the training.

    Raises:
        RuntimeError: a training failed.
    """
    from train_mario import main

    for number, run in enumerate(chain.runs()):
        if run.final_model.is_file():
            continue
        wait_until_free(run)
        flags = chain.command(number)
        sys.argv = [TRAINER.name, *flags]  # what train_config.json says it was made by
        with (
            (run.path / "trainer.log").open("a") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            code = main(flags)
        if code or not run.final_model.is_file():
            raise RuntimeError(f"{run.path} ended with exit code {code}: see its trainer.log")


def run_ray(
    chains: list[Chain], flags: ProfessionalFlags, look_after: Callable[[], None]
) -> dict[str, str]:
    """Run all chains as tasks of a Ray cluster; a lost node's are retried on another."""
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray needs Ray: pip install -r requirements-ray.txt") from error
    if not ray.is_initialized():
        environment = {"PYTHONPATH": str(ROOT), **cell_environment(flags.cpus_per_cell)}
        try:
            ray.init(
                address=flags.ray_address,
                runtime_env={"env_vars": {k: environment[k] for k in ("PYTHONPATH", *THREAD_KEYS)}},
                log_to_driver=False,
            )
        except (ConnectionError, ValueError) as error:
            raise UsageError(f"no Ray cluster at {flags.ray_address}: {error}") from error
    task = ray.remote(
        num_cpus=flags.cpus_per_cell,
        num_gpus=flags.gpus_per_cell,
        max_retries=RETRIES,
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
                failed[chain.folder.name] = str(error).strip().splitlines()[-1]
        look_after()
    return failed


THREAD_KEYS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")


# --------------------------------------------------------------------------------------------
# What came out
# --------------------------------------------------------------------------------------------


def live_table(chains: list[Chain]) -> Table:
    """Return where every chain is."""
    table = Table("chain", "phase", "steps", "max-x", "clears", "doctor")
    for chain in chains:
        finished = [run.final_model.is_file() for run in chain.runs()]
        number = finished.index(False) if not all(finished) else len(finished) - 1
        rows = read_metrics(chain.run(number).metrics_path)
        last = rows[-1] if rows else {}
        table.add_row(
            escape(chain.folder.name),
            "finished" if all(finished) else escape(f"{number + 1} {chain.phases[number].name}"),
            f"{last.get('step', 0):,}",
            f"{last['max_x']:.0f}" if "max_x" in last else "",
            f"{last['clear_rate']:.0%}" if "clear_rate" in last else "",
            ", ".join(finding.rule for finding in diagnose(rows)),
        )
    return table


LAST_METRICS = ("clear_rate", "max_x", "entropy", "value_loss", "approx_kl")


def judge_chain(chain: Chain, episodes: int) -> dict[str, Any]:
    """Return a finished chain's row of professional_summary.json; judged once, then kept.

    Raises:
        BadModelFile: the last phase kept no model.
    """
    runs = chain.runs()
    kept = chain.folder / "judged.json"
    if kept.is_file():
        row = parse_json(read_file(kept, MAX_JSON_BYTES), str(kept))
        if row.get("episodes") == episodes and "protocol" in row:  # an older version had noop alone
            return row
    rows = [read_metrics(run.metrics_path) for run in runs]
    model = runs[-1].best_model if runs[-1].best_model.is_file() else runs[-1].final_model
    policy = load_policy(model)
    content = read_model_zip(model)[0]
    protocol = default_protocol(policy.env_config)
    row = {
        "variant": chain.variant,
        "stage": chain.stage,
        "seed": chain.seed,
        "episodes": episodes,
        "protocol": protocol,
        "steps": sum(part[-1]["step"] for part in rows),
        "git_commit": content["provenance"]["git_commit"],
        "machine": content["provenance"]["machine"],
        "wall_s": round(sum(part[-1]["wall_s"] for part in rows), 1),
        "findings": [f"{f.rule} at {f.step}" for part in rows for f in diagnose(part)],
        "folder": chain.folder.name,
        # how it trained at the end: samples of the last model, where the kept one is judged below
        "last": {key: rows[-1][-1][key] for key in LAST_METRICS if key in rows[-1][-1]},
    }
    for mode in ("argmax", "sampled"):
        summary, _ = evaluate(
            policy,
            dataclasses.replace(
                in_process(policy.env_config), n_envs=min(50, max(episodes, NOOP_MAX))
            ),
            protocol=protocol,
            episodes=episodes,
            deterministic=mode == "argmax",
            model=model.relative_to(chain.folder).as_posix(),
        )
        summary.write(chain.folder / f"evaluation_{protocol}_{mode}.json")
        row[mode] = {
            "clear_rate": summary.clear_rate,
            "clear_rate_ci95": summary.clear_rate_ci95,
            "median_max_x": summary.median_max_x,
            "median_clear_steps": summary.median_clear_steps,
            "best_clear_steps": summary.best_clear_steps,
        }
    write_json(kept, row)
    return row


def keep(chain: Chain, row: dict[str, Any], output: Path) -> None:
    """Put a judged chain into the study in a folder, where other runs stay."""
    name, rows = chain.folder.name, []
    phases = {
        run.path.name: phase_of_run(run.path, name, run.path.name, KEPT_EVERY)
        for run in chain.runs()
    }
    for mode in ("argmax", "sampled"):
        path = chain.folder / f"evaluation_{row['protocol']}_{mode}.json"
        rows += played_rows(name, Summary.from_json(path))
    facts = RunFacts(
        told=told_by(*(phase.config for phase in phases.values())),
        variant=chain.variant,
        stage=chain.stage,
        seed=chain.seed,
        findings=tuple(row["findings"]),
    )
    keep_run(output, name, facts, rows, phases)


def run_plan(flags: ProfessionalFlags) -> int:
    """Run a plan, judge it, write what came out; 1 if a chain failed."""
    chains = read_plan(flags.plan, flags.storage)
    with only_plan(chains[0].folder.parent):
        return run_chains(flags, chains)


def run_chains(flags: ProfessionalFlags, chains: list[Chain]) -> int:
    """Run a plan's chains, judge them, write what came out; 1 if one failed."""
    write_recipes(chains)
    home = flags.storage / flags.plan.stem
    torch.set_num_threads(1)  # judging goes on beside the trainings
    folder = chains[0].folder.parent
    print(f"{folder}: {len(chains)} chains of {len(chains[0].phases)} phases", flush=True)
    console = Console()
    with Live(live_table(chains), console=console, auto_refresh=False) as live:

        def look_after() -> None:
            """Judge the chains that have finished since, and show where the others are."""
            for chain in filter(Chain.is_finished, chains):
                judge_chain(chain, flags.episodes)
            if console.is_terminal:
                live.update(live_table(chains), refresh=True)

        engine = run_ray if flags.engine == "ray" else run_local
        failed = engine(chains, flags, look_after)
        live.update(live_table(chains))
    for name, why in failed.items():
        print(f"error: {name}: {why}", file=sys.stderr)
    finished = [chain for chain in chains if chain.is_finished()]
    if finished:
        rows = [judge_chain(chain, flags.episodes) for chain in finished]
        text = results_as_markdown(flags.plan.stem, rows)
        summary = {
            "plan": flags.plan.name,
            "engine": flags.engine,
            "chains": rows,
            "failed": failed,
        }
        write_json(home / "professional_summary.json", summary | provenance())
        (home / "report.md").write_text(text)
        if flags.output:
            for chain, row in zip(finished, rows, strict=True):
                keep(chain, row, flags.output)
        print(text)
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; an expected failure is one line and exit code 1 or 2, Ctrl-C 130."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):  # in the background, SIGINT may be ignored
            signal.signal(number, signal.default_int_handler)

    def task() -> int:
        return run_plan(parse_flags(ProfessionalFlags, arguments, __doc__))

    return exit_code(task, stopped="stopped; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
