"""PPO from flags to a finished run: environment, learner, resuming, one phase after the other.

What happens between rollouts stands in mario_callbacks.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch as th
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize

from fastnes import BUTTON_BITS
from mario_callbacks import (
    CheckpointCallback,
    EvalCallback,
    Film,
    Finish,
    KeepWholeState,
    MetricsCallback,
    PreviewCallback,
    TemperatureCallback,
    capture_state,
    restore_state,
    save_model,
    save_state,
)
from mario_checkpoints import (
    find_checkpoint,
    find_model,
    going_on_from,
    read_checkpoint,
    read_model_zip,
)
from mario_cli import UsageError
from mario_config import buttons_of_actions, env_config_from_dict
from mario_curriculum import starts_along
from mario_demos import demo_samples, load_demos
from mario_flags import AGENT, TrainConfig, config_as_dict, config_from_dict, phases_of, plain_note
from mario_game import stages_label
from mario_networks import EXTRACTORS, TwoHeadCnnPolicy
from mario_ppo import MarioPPO, linear_schedule
from mario_recipes import describe_changes, refuse_another_game, refuse_fewer_steps
from mario_reward import reward_signature
from mario_runs import RunFolder, write_json
from mario_runtime import observation_space
from mario_sb3 import make_vec_env
from mario_starts import Starts
from mario_training import Exam, RunLog, StopRequest
from mario_values import flag_name
from precision import resolve_device

WEIGHTS_ALONE = "--warm-start takes its weights alone"

# --------------------------------------------------------------------------------------------
# What the flags make
# --------------------------------------------------------------------------------------------


def action_bias(config: TrainConfig) -> list[float] | None:
    """Return the initial logit of every action, or None if all are 0."""
    buttons = buttons_of_actions(config.env)
    bias = [config.ppo.action_bias_jump * bool(b & BUTTON_BITS["A"]) for b in buttons]
    if config.env.long_jump_action:
        bias[-1] = config.ppo.action_bias_long_jump
    return bias if any(bias) else None


def make_training_env(config: TrainConfig) -> VecEnv:
    """Return the vec env with episode statistics and, if asked for, normalised rewards."""
    starts: Starts | None = None
    if config.run.backward_demos:
        demos = load_demos(config.run.backward_demos, config.env.stages)
        starts = starts_along(demos, config.env, config.run.demo_starts)
    venv: VecEnv = VecMonitor(
        make_vec_env(config.env, config.run.seed, starts),
        info_keywords=("max_x", "is_success", "from_start"),
    )
    if config.ppo.normalize_reward:
        venv = VecNormalize(
            venv, norm_obs=False, gamma=config.ppo.gamma, clip_reward=config.ppo.norm_reward_clip
        )
    return venv


def make_model(config: TrainConfig, venv: VecEnv) -> MarioPPO:
    """Return the learner that the flags describe."""
    ppo, rnd = config.ppo, config.rnd

    def schedule(initial: float, final: float | None) -> Any:
        return initial if final is None else linear_schedule(initial, final)

    model = MarioPPO(
        TwoHeadCnnPolicy,
        venv,
        learning_rate=schedule(ppo.learning_rate, ppo.learning_rate_final),
        ent_coef=schedule(ppo.ent_coef, ppo.ent_coef_final),
        ema_decay=ppo.ema_decay,
        imitation_coef=linear_schedule(ppo.imitation_coef, 0.0, ppo.imitation_until),
        critic_steps=ppo.critic_steps,
        kickstart_coef=linear_schedule(ppo.kickstart_coef, 0.0, ppo.kickstart_until),
        n_steps=ppo.n_steps,
        batch_size=ppo.batch_size,
        n_epochs=ppo.n_epochs,
        gamma=ppo.gamma,
        gae_lambda=ppo.gae_lambda,
        clip_range=ppo.clip_range,
        vf_coef=ppo.vf_coef,
        max_grad_norm=ppo.max_grad_norm,
        target_kl=ppo.target_kl,
        rnd_coef=rnd.rnd_coef,
        rnd_lr=rnd.rnd_lr,
        rnd_feature_dim=rnd.rnd_feature_dim,
        rnd_warmup_steps=rnd.rnd_warmup_steps,
        begun_at=config.run.after,
        precision=ppo.precision,
        channels_last=ppo.channels_last,
        seed=config.run.seed,
        device=resolve_device(ppo.device),
        policy_kwargs={
            "features_extractor_class": EXTRACTORS[ppo.features],
            "action_bias": action_bias(config),
        },
    )
    if ppo.imitation_coef and config.run.backward_demos:
        demos = load_demos(config.run.backward_demos, config.env.stages)
        samples = [demo_samples(demo, config.env) for demo in demos]
        model.imitate(*(np.concatenate(part) for part in zip(*samples, strict=True)))
    return model


# --------------------------------------------------------------------------------------------
# Resuming, training
# --------------------------------------------------------------------------------------------


def resume(model: MarioPPO, config: TrainConfig) -> None:
    """Load the checkpoint that the flags name, or refuse it.

    Raises:
        UsageError: another stage, action set, picture or reward.
        BadModelFile: it is torn or hostile.
    """
    assert config.run.resume_model
    checkpoint = find_checkpoint(config.run.resume_model)
    path, content, weights, state = read_checkpoint(checkpoint)
    before = config_from_dict(content)
    if before.ppo.features != config.ppo.features:
        raise UsageError(
            f"{path} was trained with --features {before.ppo.features}, not {config.ppo.features}"
        )
    refuse_another_game(before.env, config.env, path, WEIGHTS_ALONE)
    if content.get("reward_signature") != reward_signature(config.env):
        raise UsageError(f"{path} was trained under another reward: {WEIGHTS_ALONE}")
    if (before.rnd.rnd_coef > 0) != (config.rnd.rnd_coef > 0):
        raise UsageError(
            f"{path} was trained with rnd_coef {before.rnd.rnd_coef}: to switch RND on or off, "
            f"{WEIGHTS_ALONE}"
        )
    changes = describe_changes(before, config, {"run"})
    if before.run.seed != config.run.seed:
        changes["run.seed"] = f"{before.run.seed} -> {config.run.seed}"
    for name, change in changes.items():
        print(f"resuming with {name.rpartition('.')[2]} {change}")
    with going_on_from(path, WEIGHTS_ALONE):
        done = state["learner"]["counters"]["num_timesteps"]
    refuse_fewer_steps(before.ppo.timesteps, config.ppo.timesteps, done)
    load_weights(model, weights, path)
    with going_on_from(path, WEIGHTS_ALONE):
        restore_state(model, state)
    print(f"resumed {path} at {model.num_timesteps:,} steps")


def refuse_other_network(content: dict[str, Any], config: TrainConfig, path: Path) -> None:
    """Raise a UsageError if a model's config is of weights that do not fit a config's network."""
    if (agent := content.get("agent")) not in (AGENT, "student"):
        raise UsageError(f"{path} is of agent {agent!r:.40}, whose weights PPO cannot take")
    features = content.get("ppo" if agent == AGENT else "student", {}).get("features")
    before = env_config_from_dict(content.get("env", {}))
    if features != config.ppo.features:
        raise UsageError(
            f"{path} was made with --features {features}, not {config.ppo.features}: give the same"
        )
    for name in ("action_set", "long_jump_action", "screen_size", "frame_stack"):
        there, here = getattr(before, name), getattr(config.env, name)
        if there == here:
            continue
        actions = [len(buttons_of_actions(env)) for env in (before, config.env)]
        counts = [f" ({n} actions)" if "action" in name else "" for n in actions]
        raise UsageError(
            f"{path} was made with {flag_name(name)} {there}{counts[0]}, not {here}{counts[1]}: "
            "give the same"
        )


def load_weights(model: MarioPPO, weights: dict[str, th.Tensor], path: Path) -> None:
    """Load the policy's tensors, or say how they do not fit.

    The intrinsic value head may be missing or too much: RND can begin or end with a warm start.
    """
    try:
        keys = model.policy.load_state_dict(weights, strict=False)
        wrong = [*keys.missing_keys, *keys.unexpected_keys]
        if not all(key.startswith("intrinsic_value_net.") for key in wrong):
            raise RuntimeError(f"missing or too many: {', '.join(wrong)}")
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} does not fit these flags: {reason}") from error


def refuse_too_large(config: TrainConfig) -> None:
    """Raise a UsageError if a rollout's observations do not fit into this machine's memory."""
    screens = int(np.prod(observation_space(config.env).shape))
    needed, there = rollout_steps(config) * screens, psutil.virtual_memory().total
    if needed > there:
        raise UsageError(
            f"a rollout of {config.ppo.n_steps} steps x {config.env.n_envs} environments takes "
            f"{needed / 2**30:.0f} GiB, this machine has {there / 2**30:.0f}: lower one of them"
        )


class Ended(NamedTuple):
    """How a phase ended."""

    code: int
    steps: int  # of the run
    weights: dict[str, th.Tensor]  # the policy's, if the phase is finished
    is_finished: bool


def rollout_steps(config: TrainConfig) -> int:
    """Return the agent steps of a rollout, all environments together."""
    return config.ppo.n_steps * config.env.n_envs


def train(config: TrainConfig) -> int:
    """Run the training that the flags describe, all of its phases, and return the exit code."""
    assert config.run.run_dir
    run = RunFolder(config.run.run_dir)
    if (
        config.run.config
        and not config.run.resume_model
        and (note := plain_note(config.run.config, config))
    ):
        print(note, file=sys.stderr)
    phases = phases_of(config)
    for phase in phases:
        refuse_too_large(phase)
    resolve_device(config.ppo.device)  # a wrong device is said before anything is written
    if config.run.warm_start and not config.run.resume_model:
        path = find_model(config.run.warm_start)
        refuse_other_network(read_model_zip(path)[0], config, path)
    with run.locked():
        if run.checkpoints() and not config.run.resume_model:
            raise UsageError(
                f"{run.path} holds a run already: --resume-model {run.path} continues it"
            )
        weights, ended = None, Ended(0, 0, {}, False)
        for phase in phases:
            if weights:
                phase = after_steps(phase, ended.steps)
                print(f"next phase, with {phase.ppo.timesteps - ended.steps:,} steps", flush=True)
            ended = train_phase(run, phase, phases[-1].ppo.timesteps, weights)
            if not ended.is_finished:
                break
            weights = ended.weights
            if phase.run.then:  # train_config.json becomes the next phase's
                kept = run.path / f"train_config_until_{ended.steps}.json"
                write_json(kept, config_as_dict(phase))
    return ended.code


def after_steps(phase: TrainConfig, steps: int) -> TrainConfig:
    """Return a phase that begins after so many steps; a rollout more or less than was planned."""
    run = dataclasses.replace(phase.run, after=steps)
    target = phase.ppo.timesteps - phase.run.after + steps
    ppo = dataclasses.replace(phase.ppo, timesteps=target)
    return dataclasses.replace(phase, run=run, ppo=ppo)


def train_phase(
    run: RunFolder, config: TrainConfig, target: int, weights: dict[str, th.Tensor] | None
) -> Ended:
    """Train one phase.

    Args:
        run: its folder, locked.
        config: its flags.
        target: the steps of all phases.
        weights: the policy's of the phase before; None if there was none in this process.
    """
    content = config_as_dict(config)
    venv = make_training_env(config)
    try:
        model = make_model(config, venv)
        if weights:
            load_weights(model, weights, run.final_model)
            model.num_timesteps = config.run.after
        elif config.run.resume_model:
            resume(model, config)
        elif config.run.warm_start:
            path = find_model(config.run.warm_start)
            load_weights(model, read_model_zip(path)[1], path)
            model.policy.sharpen(1 / config.run.warm_temperature)
            if config.ppo.kickstart_coef:
                model.kickstart()
        write_json(run.config_path, content)
        rollout = config.ppo.n_steps * config.env.n_envs
        print(
            f"{run.path}: {stages_label(config.env.stages)} on {config.env.emulator} "
            f"({config.env.vec_backend}), one rollout is {rollout:,} steps in "
            f"{rollout // config.ppo.batch_size} minibatches, device {model.device}",
            flush=True,
        )
        return run_training(run, model, config, content, target)
    finally:
        with contextlib.suppress(OSError, EOFError):
            venv.close()


def run_training(
    run: RunFolder, model: MarioPPO, config: TrainConfig, content: dict[str, Any], target: int
) -> Ended:
    """Train to the phase's target, or to a signal or a failure; what can be saved is."""
    stop = StopRequest(run)
    flags = config.run
    keep = KeepWholeState(stop)
    on_collapse = stop if flags.stop_on_collapse else None
    log = RunLog(run, model.num_timesteps, target, on_collapse, flags.wandb)
    with stop.on_signals():  # while it saves, too
        try:
            model.learn(
                config.ppo.timesteps,
                callback=make_callbacks(run, config, content, stop, log, keep),
                reset_num_timesteps=False,
                log_interval=None,  # type: ignore[arg-type]
            )
        except Exception:  # whatever it is: it is raised again
            keep_what_is_whole(run, model, keep, content)
            raise
        finally:
            log.close()
        code = 1 if stop.is_collapse else 0
        if keep.kept and stop.reason and not stop.is_finished:
            path = save_state(run, model, keep.kept, content)
            print(f"stopped by {stop.reason.name}; go on with --resume-model {path}")
            return Ended(code, model.num_timesteps, {}, is_finished=False)
        state = keep.kept or capture_state(model)
        save_state(run, model, state, content)
        save_model(run.final_model, model, content)
    steps = state["learner"]["counters"]["num_timesteps"]
    print(f"finished at {steps:,} steps: {run.final_model}")
    return Ended(code, steps, model.policy.state_dict(), is_finished=not code)


def keep_what_is_whole(
    run: RunFolder, model: MarioPPO, keep: KeepWholeState, content: dict[str, Any]
) -> None:
    """Save where training failed, unless it was within an update: half of one is worth nothing."""
    if model.is_updating:
        return
    try:
        path = save_state(run, model, keep.kept or capture_state(model), content)
    except OSError as error:  # the disk that is full may be the failure
        print(f"nothing more could be kept: {error}", file=sys.stderr)
    else:
        print(f"kept {path}", file=sys.stderr)


def make_callbacks(
    run: RunFolder,
    config: TrainConfig,
    content: dict[str, Any],
    stop: StopRequest,
    log: RunLog,
    keep: KeepWholeState,
) -> CallbackList:
    """Return what happens between rollouts, in this order."""
    flags, ppo = config.run, config.ppo
    exam = Exam(
        config=config.env,
        stages=flags.eval_stages or config.env.stages,
        protocol=flags.eval_protocol,
        with_samples=flags.eval_modes == "both",
        episodes=flags.eval_episodes,
        max_steps=flags.eval_steps,
        seed=flags.seed,
    )
    film = Film(flags.preview_episodes, flags.preview_steps, flags.preview_fps, flags.live_preview)
    finish = Finish(stop, flags.eval_enough, ppo.timesteps, flags.after)
    return CallbackList(
        [
            # First: the others see the weights that the next rollout has.
            TemperatureCallback(
                ppo.temperature_final,
                ppo.temperature_from,
                ppo.timesteps,
                ppo.n_steps * config.env.n_envs,
                flags.after,
            ),
            MetricsCallback(log, ppo.norm_reward_clip if ppo.normalize_reward else None),
            EvalCallback(flags.eval_freq, run, exam, content, finish),
            PreviewCallback(flags.preview_freq, run, config.env, film, flags.seed),
            # After all that is due at its step: what a kill takes with it is done again.
            CheckpointCallback(flags.checkpoint_freq, run, content),
            keep,
        ]
    )
