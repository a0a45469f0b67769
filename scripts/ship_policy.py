"""Put a run's best policy under pretrained/: judged under every protocol, with its model card.

    python scripts/ship_policy.py runs/mine pretrained/ppo_levels/1-2

Writes best_eval.zip, train_config.json, evaluation_<protocol>_<argmax|sampled>.json (and the argmax
`noop` one of nes-py), evaluation_noop.json (the mode that clears more often under `noop`, argmax if
they are alike), training.json (every training behind the weights, warm start by warm start) and
README.md, the card, whose figures are those of the JSON files.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluate_mario import print_summary
from mario_checkpoints import OPTIMIZER_MEMBER, load_tensors, read_model_zip
from mario_cli import UsageError, exit_code
from mario_config import EmulatorName, EnvConfig, in_process
from mario_game import parse_stages, stages_text, with_stages_field
from mario_policies import find_model, load_policy
from mario_rollout import PROTOCOLS, ProtocolName, Summary, evaluate
from mario_runs import CONFIG_MEMBER, RunFolder, atomic_write, read_metrics, write_json

ROOT = Path(__file__).resolve().parents[1]
TRAINING = "training.json"
AGENTS = {"ppo": "PPO", "dreamerv3": "DreamerV3"}


@dataclasses.dataclass(frozen=True)
class ShipFlags:
    """What to ship, where to, judged how long."""

    run: tyro.conf.Positional[Path]
    """A run folder."""
    destination: tyro.conf.Positional[Path]
    """A folder under pretrained/. If it is called after a stage (1-2), the policy is that stage's;
    else it is of the stage that it was trained on, the first of several."""
    episodes: int = 100
    """Episodes of each evaluation."""
    reference_episodes: int = 10
    """Episodes replayed through nes-py, which is slow."""
    max_mb: float = 3.0
    """The most that best_eval.zip may take."""


@dataclasses.dataclass(frozen=True)
class Training:
    """One run on the way to a policy. Of one whose files are gone only the name is known."""

    run: str
    stages: str = ""  # "1-1,1-2"
    steps: int | None = None  # agent steps of the whole run, what came after the best model too
    wall_s: float | None = None
    seed: int | None = None
    git_commit: str | None = None
    command: tuple[str, ...] = ()


def trainings_behind(model: Path) -> list[Training]:
    """Return the trainings behind a model, the first one first.

    A run's is in its folder, a shipped policy's in the training.json beside it; before it come
    those of the model that it was warm-started from.
    """
    shipped = model.parent / TRAINING
    if shipped.is_file():
        return [Training(**one) for one in json.loads(shipped.read_text())]
    run = RunFolder(model.parents[2 if model.parent.name == "checkpoints" else 1])
    rows = read_metrics(run.metrics_path)
    if not (model.is_file() and rows):
        return [Training(model.as_posix())]
    config, _ = read_model_zip(model)
    env, came_from = config["env"], config["provenance"]
    before = config["run"].get("warm_start")  # of PPO alone
    own = Training(
        run=run.path.name,
        stages=with_stages_field(env)["stages"],
        steps=rows[-1]["step"],
        wall_s=round(rows[-1]["wall_s"], 1),
        seed=config["run"]["seed"],
        git_commit=came_from["git_commit"],
        command=tuple(came_from["command"]),
    )
    return [*(trainings_behind(Path(before)) if before else []), own]


def judged_env(env: EnvConfig, destination: Path) -> EnvConfig:
    """Return the environment of the one stage that a policy is shipped for."""
    try:
        [stage] = parse_stages(destination.name)
    except (UsageError, ValueError):
        stage = env.stages[0]
    return dataclasses.replace(env, stages=(stage,))


def card(
    folder: Path, config: dict[str, Any], summaries: list[Summary], trainings: list[Training]
) -> str:
    """Return the model card as Markdown; folder is where it will stand."""
    env, machine = config["env"], config["provenance"]["machine"]
    rows = "\n".join(
        f"| {s.protocol} | {'argmax' if s.deterministic else 'sampled'} | {s.emulator} "
        f"| {s.flags_cleared}/{s.episodes} | {100 * s.clear_rate_ci95[0]:.0f}-"
        f"{100 * s.clear_rate_ci95[1]:.0f} % | {s.median_max_x:.0f} "
        f"| {'-' if s.median_clear_steps is None else f'{s.median_clear_steps:.0f}'} "
        f"| {s.best_clear_steps or '-'} |"
        for s in summaries
    )
    known = [one for one in trainings if one.steps is not None]
    steps = f"{sum(one.steps or 0 for one in known):,} agent steps"
    minutes = f"{sum(one.wall_s or 0 for one in known) / 60:.0f} minutes"
    unknown = " and more that were not recorded" if len(known) < len(trainings) else ""
    phases = "\n".join(
        f"| {one.run} | {one.stages} | {one.steps:,} | {(one.wall_s or 0) / 60:.0f} | {one.seed} "
        f"| {(one.git_commit or '')[:7]} | `{' '.join(['python', *one.command])}` |"
        if one.steps is not None
        else f"| {one.run} | | not recorded | | | | |"
        for one in trainings
    )
    place = Path(os.path.relpath(folder.resolve(), ROOT)).as_posix()
    protocol = Path(os.path.relpath(ROOT / "docs" / "protocol.md", folder.resolve())).as_posix()
    return f"""# {folder.name}

{AGENTS[config["agent"]]} on {with_stages_field(env)["stages"]}, action set `{env["action_set"]}`:
{steps}{unknown} in {minutes} on {machine["cpus"]} cores,
{machine["cpu"]}, no GPU; other work ran beside it.

| training | stages | agent steps | minutes | seed | commit | command |
|---|---|---|---|---|---|---|
{phases}

| protocol | policy | emulator | cleared | 95 % interval | median max-x | median steps | best |
|---|---|---|---|---|---|---|---|
{rows}

Steps are agent steps (4 frames) to the goal; episode i of an evaluation has seed i
([protocol]({protocol})). Judge it again:

    python evaluate_mario.py --model {place} --episodes {max(s.episodes for s in summaries)}
"""


def copy_without_optimizer(source: Path, target: Path, config: dict[str, Any]) -> None:
    """Copy a model zip with another config and without its optimiser's moments.

    They are two thirds of it; PPO.load still works.
    """

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(temporary, "w") as new:
            for name in old.namelist():
                data = old.read(name)
                if name == CONFIG_MEMBER:
                    data = json.dumps(config, indent=2).encode()
                if name == OPTIMIZER_MEMBER:
                    optimizer = load_tensors(io.BytesIO(data), name)
                    buffer = io.BytesIO()
                    torch.save({**optimizer, "state": {}}, buffer)
                    data = buffer.getvalue()
                new.writestr(name, data, zipfile.ZIP_DEFLATED)

    atomic_write(target, write)


def without_folder(content: Any) -> Any:
    """Return JSON content whose paths are relative to the working directory."""
    return json.loads(json.dumps(content).replace(f"{Path.cwd().as_posix()}/", ""))


def judge(flags: ShipFlags, env: EnvConfig) -> list[Summary]:
    """Play every protocol, write an evaluation_*.json of each, and return them."""
    model = flags.destination / "best_eval.zip"
    policy = load_policy(model)
    emulators: list[tuple[EmulatorName, int]] = [("fast", flags.episodes)]
    emulators.append(("nes-py", flags.reference_episodes))
    summaries = []
    for emulator, episodes in emulators:
        playing = in_process(dataclasses.replace(env, n_envs=20), emulator)
        protocols: list[ProtocolName] = list(PROTOCOLS) if emulator == "fast" else ["noop"]
        for protocol in protocols:
            for deterministic in (True, False) if emulator == "fast" else (True,):
                summary, _ = evaluate(
                    policy,
                    playing,
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
    argmax, sampled = (s for s in summaries if (s.protocol, s.emulator) == ("noop", "fast"))
    better = sampled if sampled.clear_rate > argmax.clear_rate else argmax
    write_json(flags.destination / "evaluation_noop.json", dataclasses.asdict(better))
    return summaries


def ship(flags: ShipFlags) -> None:
    """Copy, judge, and write the card.

    Raises:
        UsageError: the model takes more than flags.max_mb; nothing is judged.
    """
    model = find_model(flags.run)
    config, _ = read_model_zip(model)
    env = judged_env(load_policy(model).env_config, flags.destination)
    of_stage = with_stages_field(config["env"]) | {"stages": stages_text(env.stages)}
    config = without_folder(config | {"env": of_stage})
    trainings = trainings_behind(model)
    target = flags.destination / "best_eval.zip"
    copy_without_optimizer(model, target, config)
    if target.stat().st_size > flags.max_mb * 1e6:
        size = target.stat().st_size / 1e6
        target.unlink()
        raise UsageError(f"{model} takes {size:.1f} MB; --max-mb {flags.max_mb:g} allows no more")
    write_json(flags.destination / "train_config.json", config)
    trained = without_folder([dataclasses.asdict(one) for one in trainings])
    write_json(flags.destination / TRAINING, trained)
    text = card(flags.destination, config, judge(flags, env), [Training(**one) for one in trained])
    (flags.destination / "README.md").write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, ship, and turn every expected failure into one line and an exit code."""
    flags = tyro.cli(ShipFlags, args=arguments, description=(__doc__ or "").split("\n\n")[0])
    return exit_code(lambda: ship(flags))


if __name__ == "__main__":
    sys.exit(main())
