"""Put a run's best policy under pretrained/: judged under every protocol, with its model card.

    python scripts/ship_policy.py runs/mine pretrained/ppo_levels/5-1

Writes best_eval.zip, train_config.json and README.md, the card, there; into the study of all
shipped policies goes every episode by which it was judged, with every training behind its weights.
What is shipped is judged again when it is named twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import tyro

from dreamerv3.policy import DreamerPolicy
from mario_checkpoints import (
    OPTIMIZER_MEMBER,
    POLICY_MEMBER,
    find_model,
    load_tensors,
    read_model_zip,
    steps_of_model,
)
from mario_cli import UsageError, exit_code
from mario_config import EmulatorName, EnvConfig, ProtocolName, in_process
from mario_game import parse_stages, stages_text, with_stages_field
from mario_judge import PROTOCOLS, evaluate, summary_lines
from mario_keeping import (
    Origin,
    Provenance,
    keep_run,
    played_rows,
    read_origin,
    told_by,
    told_in,
)
from mario_networks import PPOPolicy
from mario_policies import PRETRAINED, load_policy
from mario_results import ROOT, SHIPPED, Played, RunFacts, Training, is_study, read_study
from mario_reward import reward_signature
from mario_runs import (
    CONFIG_MEMBER,
    BadModelFile,
    RunFolder,
    atomic_write,
    read_metrics,
    write_json,
)
from mario_tables import with_tables
from mario_teacher import teacher_file
from mario_values import Checked, Episodes, Positive, parse_flags

AGENTS = {"ppo": "PPO", "dreamerv3": "DreamerV3", "student": "Student"}
ROUNDED = ("dreamerv3", "student")  # PPO's files stay what PPO.load goes on from


@dataclasses.dataclass(frozen=True)
class ShipFlags(Checked):
    """What to ship, where to, judged how long."""

    run: tyro.conf.Positional[Path]
    """A run folder, or the destination itself: what is shipped there is judged again."""
    destination: tyro.conf.Positional[Path]
    """A folder under pretrained/. If it is called after a stage (1-2), the policy is that stage's;
    else it is of the stage that it was trained on, the first of several."""
    study: Path = SHIPPED
    """The study that keeps its episodes, as the run of its path below pretrained/."""
    episodes: Episodes = 100
    """Episodes of each evaluation; by argmax there is one start under fixed, and 30 under noop."""
    reference_episodes: Episodes = 10
    """Episodes replayed through nes-py, which is slow."""
    sharpen: Positive = 1.0
    """Multiply a taught policy's logits by this, which argmax does not notice: its samples are
    surer than its teacher's were, as with a --student.temperature so many times lower."""
    max_mb: Positive = 3.0
    """The most that best_eval.zip may take."""


def name_in_study(folder: Path) -> str:
    """Return the path of a shipped policy's folder below pretrained/, or its name alone."""
    parts = folder.resolve().parts
    below = parts[parts.index(PRETRAINED.name) + 1 :] if PRETRAINED.name in parts else parts[-1:]
    return "/".join(below)


# --------------------------------------------------------------------------------------------
# Where it comes from
# --------------------------------------------------------------------------------------------


def trainings_behind(model: Path, study: Path) -> tuple[Training, ...]:
    """Return the trainings behind a model, the first one first.

    A run's is in its folder, a shipped policy's in the study; before it come those of its teacher
    and of the model that it was warm-started from.

    Args:
        model: a model file, or a folder that holds one.
        study: of the shipped policies.

    Raises:
        UsageError: a file is no model, or its config is broken; what is missing is no error.
    """
    shipped = read_study(study).about.runs if is_study(study) else {}
    return tuple(dict.fromkeys(_behind(model, shipped, {})))


def _behind(
    model: Path, shipped: Mapping[str, RunFacts], is_done: dict[Path, bool]
) -> Iterator[Training]:
    """Yield the trainings behind a model. One that leads back to itself is not recorded there.

    Args:
        model: as of `trainings_behind`.
        shipped: the runs of the study of shipped policies.
        is_done: each model looked at, each once; False while it is looked at what is behind it.
    """
    with contextlib.suppress(BadModelFile):
        model = find_model(model)
    if (name := name_in_study(model.parent if model.suffix == ".zip" else model)) in shipped:
        yield from shipped[name].trainings
        return
    place = model.absolute()
    if not model.is_file() or is_done.get(place) is False:
        yield Training(without_folder(model.as_posix()))
        return
    if place in is_done:
        return
    is_done[place] = False
    config, _ = read_model_zip(model)
    origin = read_origin(config, str(model))
    came_from = provenance_of(origin, model)
    # models/<name>.zip, evaluations/<name>.zip, models/checkpoints/<name>.zip
    above = place.parents[1:3] or place.parents
    run = RunFolder(above[-1 if model.parent.name == "checkpoints" else 0])
    rows = read_metrics(run.metrics_path)  # none of a file that has left its run
    for before in models_before(origin, model, run):
        yield from _behind(before, shipped, is_done)
    is_done[place] = True
    wall_s = rows[-1].get("wall_s") if rows else None
    named = Path(origin.run.run_dir).name or without_folder(model.as_posix())
    yield Training(
        run=run.path.name if rows else named,
        stages=stages_of(origin, model),
        steps=rows[-1]["step"] if rows else steps_of_model(model),
        wall_s=None if wall_s is None else round(wall_s, 1),
        seed=origin.run.seed,
        git_commit=came_from.git_commit,
        command=tuple(map(without_folder, came_from.command)),
        told=told_by(config),
    )


def provenance_of(origin: Origin, model: Path) -> Provenance:
    """Return which command made a model, and where; a UsageError if its config does not say."""
    if origin.provenance is None:
        raise UsageError(f"{model}: its {CONFIG_MEMBER} has no provenance")
    return origin.provenance


def stages_of(origin: Origin, model: Path) -> str:
    """Return the stages that a model was trained on, as text; a UsageError if there are none."""
    text = with_stages_field(origin.env).get("stages")
    try:
        parse_stages(text if isinstance(text, str) else "")
    except (UsageError, ValueError) as error:  # ValueError: numbers of 10,000 digits
        raise UsageError(f"{model}: its {CONFIG_MEMBER}: {error}") from error
    return str(text)


def models_before(origin: Origin, model: Path, run: RunFolder) -> Iterator[Path]:
    """Yield what a run's model came from: who taught it, and whose weights it began with."""
    if named := origin.run.teacher:
        stages = parse_stages(stages_of(origin, model))
        yield from dict.fromkeys(teacher_file(Path(named), one) or Path(named) for one in stages)
    elif origin.agent == "student":
        yield run.path.parent / "teacher"
    if named := origin.run.warm_start:
        yield Path(named)


def judged_env(env: EnvConfig, destination: Path) -> EnvConfig:
    """Return the environment of the one stage that a policy is shipped for."""
    try:
        [stage] = parse_stages(destination.name)
    except (UsageError, ValueError):
        stage = env.stages[0]
    return dataclasses.replace(env, stages=(stage,))


def without_folder(content: Any) -> Any:
    """Return JSON content whose paths are relative to the checkout, or the working directory."""
    if isinstance(content, dict):
        return {key: without_folder(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_folder(value) for value in content]
    if isinstance(content, str):
        for folder in (ROOT, Path.cwd()):
            if folder.name:  # else it is the root
                begins = rf"(?<![^\s=:,]){re.escape(folder.as_posix())}/+"
                content = re.sub(begins, "", content)
    return content


def rounded_weights(source: Path, sharpen: float) -> dict[str, torch.Tensor]:
    """Return the float32 weights of a student or a DreamerV3, its logits times a factor.

    They are rounded to what float16 can say and compress to two thirds. Names that share a tensor
    share it still.

    Raises:
        UsageError: a weight is more than float16 can say.
    """
    policy = load_policy(source)
    assert isinstance(policy, PPOPolicy | DreamerPolicy)
    network = policy.agent if isinstance(policy, DreamerPolicy) else policy.policy
    network.sharpen(sharpen)
    weights = network.state_dict()
    rounded = {one.data_ptr(): one.half().float() for one in weights.values()}
    if not all(one.isfinite().all() for one in rounded.values()):
        raise UsageError(f"{source}: weights sharpened by {sharpen:g} overflow half precision")
    return {name: rounded[one.data_ptr()] for name, one in weights.items()}


def copy_small(source: Path, target: Path, config: dict[str, Any], sharpen: float = 1.0) -> None:
    """Copy a model zip with another config, without what only training needs.

    That is PPO's optimiser's moments, two thirds of it (PPO.load still works), and the last bits of
    another's weights, whose logits are sharpened by a factor.
    """

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(temporary, "w") as new:
            for name in old.namelist():
                data = old.read(name)
                if name == CONFIG_MEMBER:
                    data = json.dumps(config, indent=2).encode()
                if name == POLICY_MEMBER and config["agent"] in ROUNDED:
                    buffer = io.BytesIO()
                    torch.save(rounded_weights(source, sharpen), buffer)
                    data = buffer.getvalue()
                if name == OPTIMIZER_MEMBER:
                    optimizer = load_tensors(io.BytesIO(data), name)
                    buffer = io.BytesIO()
                    torch.save({**optimizer, "state": {}}, buffer)
                    data = buffer.getvalue()
                new.writestr(name, data, zipfile.ZIP_DEFLATED)

    atomic_write(target, write)


# --------------------------------------------------------------------------------------------
# What it does
# --------------------------------------------------------------------------------------------


def judge_everywhere(flags: ShipFlags, env: EnvConfig, judged: Path) -> list[Played]:
    """Play every protocol in both modes, and noop by argmax on nes-py; print and return it all.

    Args:
        flags: how long, and as what.
        env: of the one stage.
        judged: the model file.
    """
    policy = load_policy(judged)
    name = name_in_study(flags.destination)
    model = f"{flags.destination.name}/best_eval.zip"
    emulators: list[tuple[EmulatorName, int]] = [("fast", flags.episodes)]
    emulators.append(("nes-py", flags.reference_episodes))
    rows = []
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
                    model=model,
                )
                rows += played_rows(name, summary)
                print(*summary_lines(summary), sep="\n")
    return rows


def card(flags: ShipFlags, env: EnvConfig, config: dict[str, Any], facts: RunFacts) -> str:
    """Return the model card as Markdown, its tables still empty."""
    folder, name = flags.destination.resolve(), name_in_study(flags.destination)
    origin = read_origin(config, CONFIG_MEMBER)
    machine = provenance_of(origin, flags.run).machine
    known = [one for one in facts.trainings if one.steps is not None]
    steps = f"{sum(one.steps or 0 for one in known):,} agent steps"
    minutes = f"{sum(one.wall_s or 0 for one in known) / 60:.0f} minutes"
    last = "the last training " if len(known) > 1 else ""
    unknown = " and more that were not recorded" if len(known) < len(facts.trainings) else ""
    run = Path(os.path.relpath(flags.study.resolve(), ROOT), name).as_posix()
    recipe = f"configs/shipped/{name}.yaml"
    if config["agent"] == "student":
        recipe = "configs/taught.yaml"
        if env.observation == "color":
            # One for a student's first training, one for those that went on, without a driver.
            on = "" if config["student"]["drive_until"] else "_on"
            recipe = f"configs/taught_color{on}.yaml"
    place = Path(os.path.relpath(folder, ROOT)).as_posix()

    judged = ""
    if config["agent"] in ROUNDED:
        judged += "- Its weights are rounded to half precision, and judged so.\n"
    if config["agent"] == "dreamerv3":
        judged += "- Samples are the actor's own, without the uniform actions of training.\n"
    if factor := config.get("sharpened"):
        judged += (
            f"- Its logits are {factor:g} times those that were trained, and judged so: samples "
            "are surer, argmax is the same.\n"
        )

    def link(path: str) -> str:
        return Path(os.path.relpath(ROOT / path, folder)).as_posix()

    return f"""# {folder.name}

{AGENTS[config["agent"]]} on {stages_text(env.stages)}, action set `{env.action_set}`:
{steps}{unknown} in {minutes}, {last}on {machine.cpus} cores,
{machine.cpu}, {machine.gpu or "no GPU"}; other work ran beside it.

- Told in training: {facts.told or "not recorded"}.
- Recipe: [{recipe}]({link(recipe)}).
- Config of the last training: `train_config.json`, here and in `best_eval.zip`.
- Every episode: [the study of shipped policies]({link("results/shipped/README.md")}).
{judged}
<!-- table: trainings {run} -->
<!-- end -->

<!-- table: evaluations {run} -->
<!-- end -->

Steps are agent steps (4 frames) to the goal ([protocol]({link("docs/protocol.md")})). Judge it:

    scripts/run_mario.sh eval --model {place} --episodes {flags.episodes}
"""


def ship(flags: ShipFlags) -> None:
    """Copy, judge, and write the card; what is shipped there stays until the new one is judged.

    Raises:
        UsageError: the model takes more than flags.max_mb, its config is broken, or it is to be
            sharpened and learnt from no labels, or too much; nothing is judged.
    """
    model = find_model(flags.run)
    config, _ = read_model_zip(model)
    origin = read_origin(config, str(model))
    env = judged_env(load_policy(model).env_config, flags.destination)
    if origin.agent not in AGENTS:
        raise UsageError(f"{model} is a {origin.agent}'s, which does not play by pixels")
    trainings = trainings_behind(model, flags.study)
    target, page = flags.destination / "best_eval.zip", flags.destination / "README.md"
    is_new = model.resolve() != target.resolve()
    taught = origin.agent == "student" or bool(origin.run.teacher)
    if flags.sharpen != 1 and not (is_new and taught):
        raise UsageError("--sharpen is for a taught run that is shipped for the first time")
    facts = RunFacts(
        told=told_in(trainings),
        stage=str(env.stages[0]),
        seed=origin.run.seed,
        trainings=trainings,
    )
    with tempfile.TemporaryDirectory() as folder:
        judged = model
        if is_new:
            judged, config = Path(folder, target.name), shipped_config(config, env, flags.sharpen)
            copy_small(model, judged, config, flags.sharpen)
            if (size := judged.stat().st_size) > flags.max_mb * 1e6:
                raise UsageError(
                    f"{model} takes {size / 1e6:.1f} MB; --max-mb {flags.max_mb:g} allows no more"
                )
        text = card(flags, env, config, facts) if is_new else page.read_text(encoding="utf-8")
        rows = judge_everywhere(flags, env, judged)
        if is_new:
            atomic_write(target, judged.read_bytes())
            write_json(flags.destination / CONFIG_MEMBER, config)
    keep_run(flags.study, name_in_study(flags.destination), facts, rows)
    atomic_write(page, with_tables(page.resolve(), text).encode())


def shipped_config(config: dict[str, Any], env: EnvConfig, sharpen: float) -> dict[str, Any]:
    """Return a model's config as it is shipped: of one stage, sharpened, and without our folders.

    Args:
        config: its train_config.json.
        env: of the one stage.
        sharpen: what its logits are multiplied by; what they were before counts, too.
    """
    of_stage = with_stages_field(config["env"]) | {"stages": stages_text(env.stages)}
    signature = reward_signature(env)  # of this stage's goal alone
    config = without_folder(config | {"env": of_stage, "reward_signature": signature})
    return config if sharpen == 1 else config | {"sharpened": sharpen * config.get("sharpened", 1)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, ship, and turn every expected failure into one line and an exit code."""
    return exit_code(
        lambda: ship(parse_flags(ShipFlags, arguments, (__doc__ or "").split("\n\n")[0]))
    )


if __name__ == "__main__":
    sys.exit(main())
