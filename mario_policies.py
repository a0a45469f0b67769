"""Load a policy, of either agent, from a path: the only place that knows both.

A file from a stranger runs no code here: JSON and tensors are read, pickles are not (SB3's own
`PPO.load` on the same file would execute them).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dreamerv3.policy import policy_from_tensors
from mario_checkpoints import find_model, read_model_zip, steps_of_model
from mario_cli import UsageError
from mario_config import env_config_from_dict
from mario_game import STAGES, StageId, stages_label
from mario_networks import EXTRACTORS, PPOPolicy, TwoHeadCnnPolicy
from mario_rollout import Policy
from mario_runs import CONFIG_MEMBER, BadModelFile
from mario_runtime import action_space, observation_space
from mario_teacher import ScenePolicy, network_of_weights

PRETRAINED = Path(__file__).parent / "pretrained"


def load_policy(path: Path) -> Policy:
    """Return the policy in a model zip, or in a folder that holds one (a run, a shipped policy).

    Raises:
        BadModelFile: missing, torn, hostile, or in disagreement with its own config.
    """
    config, tensors = read_model_zip(find_model(path))
    readers = {
        "ppo": ppo_policy,
        "dreamerv3": policy_from_tensors,
        "teacher": teacher_policy,
        "student": student_policy,
    }
    agent = config.get("agent")
    if not isinstance(agent, str) or agent not in readers:
        raise BadModelFile(f"{path} is of agent {agent!r:.40}; known: {', '.join(readers)}")
    return readers[agent](config, tensors, str(path))


def ppo_policy(config: dict[str, Any], tensors: dict[str, torch.Tensor], name: str) -> Policy:
    """Return the PPO policy of a model file's config and weights; name is for errors."""
    try:
        env_config = env_config_from_dict(config["env"])
        policy = TwoHeadCnnPolicy(
            observation_space(env_config),
            action_space(env_config),
            lambda _: 0.0,
            features_extractor_class=EXTRACTORS[config["ppo"]["features"]],
            intrinsic_value=config["rnd"]["rnd_coef"] > 0,
            channels_last=True,
        )
        policy.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise BadModelFile(f"{name}: its {CONFIG_MEMBER} is incomplete: {error}") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise BadModelFile(f"{name}: weights and {CONFIG_MEMBER} disagree: {reason}") from error
    return PPOPolicy(policy, env_config)


def teacher_policy(config: dict[str, Any], tensors: dict[str, torch.Tensor], name: str) -> Policy:
    """Return the policy on scenes of a model file's config and weights; name is for errors."""
    try:
        env_config = env_config_from_dict(config["env"])
    except (KeyError, TypeError, UsageError) as error:
        raise BadModelFile(f"{name}: its {CONFIG_MEMBER} is incomplete: {error}") from error
    network = network_of_weights(tensors, name)
    if env_config.observation != "scene" or network.n_actions != action_space(env_config).n:
        raise BadModelFile(f"{name}: weights and {CONFIG_MEMBER} disagree")
    return ScenePolicy(network, env_config)


def student_policy(config: dict[str, Any], tensors: dict[str, torch.Tensor], name: str) -> Policy:
    """Return the policy of a student's config and weights, a network as PPO's."""
    try:
        as_ppo = {"ppo": {"features": config["student"]["features"]}, "rnd": {"rnd_coef": 0.0}}
    except (KeyError, TypeError) as error:
        raise BadModelFile(f"{name}: its {CONFIG_MEMBER} is incomplete: {error}") from error
    return ppo_policy(config | as_ppo, tensors, name)


def choose_model(named: Path | None, stages: Sequence[StageId]) -> Path:
    """Return the model file that a person means: the one named, else the stage's shipped one.

    Args:
        named: a model file or a folder with one.
        stages: where it is to play; 1-1 if none are named.

    Raises:
        UsageError: none is named, and none is shipped for just these stages.
    """
    if named:
        return find_model(named)
    label = stages_label(stages or (StageId(1, 1),))
    shipped = shipped_model(stages[0] if stages else StageId(1, 1)) if len(stages) < 2 else None
    if shipped is None:
        there = [stage for stage in STAGES if shipped_model(stage)]
        raise UsageError(
            f"no policy of {label} is shipped, only of {', '.join(map(str, there))}: "
            "name a model with --model"
        )
    return shipped


def judged_folder(model: Path, how: str) -> Path:
    """Return where an evaluation of a model goes: below its run, and never over another model's.

    Args:
        model: the file.
        how: protocol, mode and what else tells two evaluations of one model apart.
    """
    path = model.resolve()
    if path.is_relative_to(PRETRAINED.resolve()):
        name = "_".join(path.relative_to(PRETRAINED.resolve()).parent.parts)
        return Path("runs") / f"evaluation_{name}_{how}"
    steps = steps_of_model(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    run = next((one for one in model.absolute().parents if (one / CONFIG_MEMBER).is_file()), None)
    if run is None:
        return Path("runs") / f"evaluation_{model.stem}_{digest}_{how}"
    return run / "judged" / f"step_{digest if steps is None else steps}_{how}"


def judging(model: Path) -> str:
    """Return which model is judged, in words: its path and how long it was trained."""
    steps = steps_of_model(model)
    return f"judging {model}" + ("" if steps is None else f", trained for {steps:,} steps")


def trained_elsewhere(policy: Policy, stages: Sequence[StageId]) -> str:
    """Return one line if a policy is to play in stages that it was not trained in, else nothing."""
    trained = policy.env_config.stages
    if set(stages) <= set(trained):
        return ""
    return f"note: trained on {stages_label(trained)}, plays {stages_label(stages)}"


def shipped_models(stage: StageId) -> list[Path]:
    """Return the shipped policies of a stage, the one that is its policy first."""
    folders = (f"ppo_mario_{stage}", f"taught/{stage}", f"ppo_levels/{stage}")
    models = [PRETRAINED / folder / "best_eval.zip" for folder in folders]
    return [model for model in models if model.is_file()]


def shipped_model(stage: StageId) -> Path | None:
    """Return the shipped policy of a stage, None if there is none (yet)."""
    return next(iter(shipped_models(stage)), None)
