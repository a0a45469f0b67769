"""Put a run's best policy under pretrained/: judged under every protocol, with its model card.

    python scripts/ship_policy.py runs/mine pretrained/ppo_mario_1-1

Writes best_eval.zip, train_config.json, evaluation_<protocol>_<argmax|sampled>.json (and
the argmax `noop` one of nes-py) and README.md, the card, whose figures are those of the JSON files.
"""

from __future__ import annotations

import dataclasses
import io
import sys
import zipfile
from pathlib import Path

import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluate_mario import print_summary
from mario_policies import find_model, load_policy
from mario_rollout import PROTOCOLS, ProtocolName, Summary, evaluate
from mario_runs import (
    OPTIMIZER_MEMBER,
    BadModelFile,
    RunFolder,
    atomic_write,
    load_tensors,
    read_metrics,
    read_model_zip,
    write_json,
)
from mario_runtime import EmulatorName, UsageError, in_process


@dataclasses.dataclass(frozen=True)
class ShipFlags:
    """What to ship, where to, judged how long."""

    run: tyro.conf.Positional[Path]
    """A run folder."""
    destination: tyro.conf.Positional[Path]
    """A folder under pretrained/."""
    episodes: int = 100
    """Episodes of each evaluation."""
    reference_episodes: int = 10
    """Episodes replayed through nes-py, which is slow."""


def card(name: str, config: dict, summaries: list[Summary], steps: int, wall_s: float) -> str:
    """Return the model card as Markdown."""
    env, came_from = config["env"], config["provenance"]
    rows = "\n".join(
        f"| {s.protocol} | {'argmax' if s.deterministic else 'sampled'} | {s.emulator} "
        f"| {s.flags_cleared}/{s.episodes} | {100 * s.clear_rate_ci95[0]:.0f}-"
        f"{100 * s.clear_rate_ci95[1]:.0f} % | {s.median_max_x:.0f} "
        f"| {'-' if s.median_clear_steps is None else f'{s.median_clear_steps:.0f}'} "
        f"| {s.best_clear_steps or '-'} |"
        for s in summaries
    )
    machine = came_from["machine"]
    warm_start = config["run"]["warm_start"]
    begun = f", after the steps of {warm_start}" if warm_start else ""
    judge = f"python evaluate_mario.py --model pretrained/{name}"
    return f"""# {name}

PPO on {env["world"]}-{env["stage"]}, action set `{env["action_set"]}`:
{steps:,} agent steps{begun}, in
{wall_s / 60:.0f} minutes (other work ran beside it) on {machine["cpus"]} cores, {machine["cpu"]},
no GPU; seed {config["run"]["seed"]}, commit {came_from["git_commit"]}.

    python {" ".join(came_from["command"])}

| protocol | policy | emulator | cleared | 95 % interval | median max-x | median steps | best |
|---|---|---|---|---|---|---|---|
{rows}

Steps are agent steps (4 frames) to the goal; episode i of an evaluation has seed i
([protocol](../../docs/protocol.md)). Judge it again:

    {judge} --episodes {max(s.episodes for s in summaries)}
"""


def copy_without_optimizer(source: Path, target: Path) -> None:
    """Copy a model zip without its optimiser's moments, two thirds of it; PPO.load still works."""

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(temporary, "w") as new:
            for name in old.namelist():
                data = old.read(name)
                if name == OPTIMIZER_MEMBER:
                    optimizer = load_tensors(io.BytesIO(data), name)
                    buffer = io.BytesIO()
                    torch.save({**optimizer, "state": {}}, buffer)
                    data = buffer.getvalue()
                new.writestr(name, data, zipfile.ZIP_DEFLATED)

    atomic_write(target, write)


def ship(flags: ShipFlags) -> None:
    """Judge and write."""
    model = find_model(flags.run)
    config, _ = read_model_zip(model)
    policy = load_policy(model)
    flags.destination.mkdir(parents=True, exist_ok=True)
    emulators: list[tuple[EmulatorName, int]] = [("fast", flags.episodes)]
    emulators.append(("nes-py", flags.reference_episodes))
    summaries = []
    for emulator, episodes in emulators:
        env = in_process(dataclasses.replace(policy.env_config, n_envs=20), emulator)
        protocols: list[ProtocolName] = list(PROTOCOLS) if emulator == "fast" else ["noop"]
        for protocol in protocols:
            for deterministic in (True, False) if emulator == "fast" else (True,):
                summary, _ = evaluate(
                    policy,
                    env,
                    protocol=protocol,
                    episodes=episodes,
                    deterministic=deterministic,
                    model=f"{flags.destination.name}/best_eval.zip",
                )
                kind = "argmax" if deterministic else "sampled"
                mark = "" if emulator == "fast" else f"_{emulator}"
                target = flags.destination / f"evaluation_{protocol}_{kind}{mark}.json"
                write_json(target, dataclasses.asdict(summary))
                print_summary(summary)
                summaries.append(summary)
    copy_without_optimizer(model, flags.destination / "best_eval.zip")
    write_json(flags.destination / "train_config.json", config)
    last = read_metrics(RunFolder(flags.run).metrics_path)[-1]
    name = flags.destination.name
    text = card(name, config, summaries, last["step"], last["wall_s"])
    (flags.destination / "README.md").write_text(text, encoding="utf-8")


def main() -> int:
    """Parse, ship, and turn every expected failure into one line and an exit code."""
    try:
        ship(tyro.cli(ShipFlags, description=(__doc__ or "").split("\n\n")[0]))
    except (UsageError, BadModelFile) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
