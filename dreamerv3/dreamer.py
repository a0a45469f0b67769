"""Train DreamerV3, with Plan2Explore or without, on stages of Super Mario Bros.

    python dreamerv3/dreamer.py --config mario_fast --run-dir runs/dreamer --timesteps 7e5

Overlays of configs.yaml come first, then any flag: `--model.deter 1024 --stages 1-2`. The same
command again goes on where the run stopped. Writes the run folder of mario_runs.py, and replay/.
From top to bottom: the trainer, its loop, main. The flags stand in flags.py.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils._pytree import tree_map

from dreamerv3.envs.mario import (
    FinishedEpisode,
    MarioStreams,
    mario_row,
    recompute_rewards,
    replay_contents,
)
from dreamerv3.flags import AGENT, DreamerConfig, config_as_dict, config_from_dict, parse_config
from dreamerv3.models import Batch
from dreamerv3.optim import LaProp
from dreamerv3.policy import DreamerPolicy, make_agent
from dreamerv3.recurrence import draw_noise, noisy
from dreamerv3.replay import Replay, read_index, relabel
from dreamerv3.sight import DEMOS, Look, look_at, shares
from fastnes.state import RAM_SIZE
from mario_checkpoints import (
    Checkpoint,
    check_weights,
    find_checkpoint,
    find_model,
    going_on_from,
    load_optimizer,
    newest_checkpoint,
    read_checkpoint,
    read_model_zip,
    refuse_broken,
    save_checkpoint,
    saved_count,
    write_weights,
    write_with_state,
)
from mario_cli import UsageError, exit_code
from mario_files import fill
from mario_game import read_facts, stages_label
from mario_recipes import describe_changes, refuse_another_game, refuse_fewer_steps
from mario_reward import reward_signature
from mario_rollout import best_episode
from mario_runs import BadModelFile, RunFolder, row_of, run_of_checkpoint, write_json
from mario_runtime import MarioVectorEnv
from mario_scene import read_scene
from mario_scene_flat import flatten_scene
from mario_scene_grid import scene_grid, sprite_mask
from mario_teacher import read_teachers
from mario_training import BestModel, Exam, RunLog, StopRequest, examine, passed, write_preview
from precision import keep_freed_memory

EPISODES_AVERAGED = 100  # as SB3's stats_window_size

# --------------------------------------------------------------------------------------------
# Trainer: collects, learns, remembers
# --------------------------------------------------------------------------------------------


class Counters(NamedTuple):
    """What a trainer has counted, as its state holds it."""

    step: int  # agent steps of all environments
    updates: int
    owed: float  # updates due; what is whole of it was done before the state was taken
    summed: int  # updates whose metrics are summed since the last log

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> Counters:
        """Return the counters in a trainer's state.

        Raises:
            BadModelFile: they are none.
        """
        found = cls(*state["counters"])
        for name in ("step", "updates", "summed"):
            saved_count(getattr(found, name), f"counters.{name}")
        if not isinstance(found.owed, float) or not 0 <= found.owed < 1:
            raise BadModelFile(f"counters.owed is {found.owed!r:.40}, no part of an update")
        return found


class Trainer:
    """Environments, replay, agent and optimiser, and all counters between them."""

    def __init__(self, config: DreamerConfig) -> None:
        """Make them all; the replay is opened, or made, in the run folder.

        Raises:
            UsageError: model, demos or replay do not fit the flags.
        """
        self.config = config
        env, replay = config.env, config.replay
        torch.manual_seed(config.run.seed)
        self.generator = np.random.default_rng([config.run.seed, 2])
        self.teachers = read_teachers(config.run.teacher, env) if config.run.teacher else None
        self.agent = make_agent(config.model, config.exploration, env)
        self.optimizer = self.agent.make_optimizer()
        venv = MarioVectorEnv(env, starts=config.curriculum.starts(env))
        self.streams = MarioStreams(venv, config.run.seed, config.keeps_ram)
        row, contents = mario_row(env, config.keeps_ram), replay_contents(env)
        self.demos: Replay | None = None
        if config.run.seed_demos:
            if not (config.run.seed_demos / "replay.json").is_file():
                raise UsageError(
                    f"{config.run.seed_demos} holds no episodes: scripts/demos_to_episodes.py "
                    "makes them of demos"
                )
            self.demos = Replay(
                config.run.seed_demos,
                row,
                contents,
                streams=0,
                length=replay.length,
                seed=config.run.seed,
                circular=True,
                read_only=True,
            )
            if not self.demos.can_sample():
                raise UsageError(f"{config.run.seed_demos} holds no whole sequence of steps")
        self.replay = Replay(
            config.run.run_dir / "replay",
            row,
            contents,
            streams=env.n_envs,
            length=replay.length,
            capacity=replay.capacity,
            seed=config.run.seed,
        )
        self.state = self.agent.world.rssm.initial_state(env.n_envs)
        self.step = 0  # agent steps of all environments
        self.updates = 0
        self.owed = 0.0  # updates due
        self.episodes: deque[FinishedEpisode] = deque(maxlen=EPISODES_AVERAGED)
        self.sums: dict[str, torch.Tensor] = {}  # of metrics since the last log
        self.summed = 0

    def begin(self) -> None:
        """Begin the first episodes, after the rows that the replay holds."""
        self.replay.load_state_dict(
            self.replay.state_dict() | {"online": list(self.replay.end), "queue": []}
        )
        for stream, rows in enumerate(self.streams.reset()):
            self.replay.append(stream, rows)

    @property
    def helped_by_demos(self) -> bool:
        """Whether demos are still part of the batches."""
        return self.demos is not None and self.clear_rate() < self.config.replay.demo_until

    def clear_rate(self) -> float:
        """Return the share of the last episodes from the level's start that reached the goal."""
        flags = [episode.flag for episode in self.episodes]
        return float(np.mean(flags)) if flags else 0.0

    def collect(self) -> None:
        """Do one action in every environment and store what came of it."""
        streams, config = self.streams, self.config.exploration
        logits, self.state = self.agent.act(
            torch.from_numpy(streams.images),
            torch.from_numpy(streams.actions),
            torch.from_numpy(streams.is_first),
            self.state,
            sample=True,
        )
        if self.teachers and self.step < config.drive_until:
            is_driven = self.generator.random(len(logits)) >= self.step / config.drive_until
            said = self.labels(streams.venv.machines.ram_before)
            logits = torch.where(torch.from_numpy(is_driven)[:, None], said, logits)
        actions = noisy(logits, draw_noise(*logits.shape)).argmax(-1).numpy()
        prefills = self.step < config.prefill and not self.teachers
        if config.behaviour == "random" or prefills:
            actions = self.generator.integers(0, logits.shape[1], len(actions))
        for stream, rows in enumerate(streams.step(actions)):
            self.replay.append(stream, rows)
        self.episodes.extend(e for e in streams.take_episodes() if e.from_start)
        self.step += len(actions)
        if self.step >= config.prefill and self.replay.can_sample():
            replay = self.config.replay
            self.owed += len(actions) * replay.train_ratio / (replay.batch * replay.length)

    def learn(self) -> None:
        """Do the updates that are due."""
        self.optimizer.param_groups[0]["lr"] = self.learning_rate()
        while self.owed >= 1:
            metrics = self.agent.update(self.make_batch(), self.optimizer)
            for name, value in metrics.items():
                self.sums[name] = self.sums.get(name, torch.zeros(())) + value.detach()
            self.summed += 1
            self.updates += 1
            self.owed -= 1

    def learning_rate(self) -> float:
        """Return the optimiser's step size after its warm-up: it falls over the run, or stays."""
        first, final = self.config.model.learning_rate, self.config.model.learning_rate_final
        done = min(1.0, self.step / self.config.run.timesteps)
        return first if final is None else first + done * (final - first)

    def make_batch(self) -> Batch:
        """Return sequences of the replay and, while they help, of the demos."""
        n, from_demos = self.config.replay.batch, 0
        if self.demos is not None and self.helped_by_demos:
            from_demos = round(self.config.replay.demo_fraction * n)
        parts = [self.replay.sample(n - from_demos)] if from_demos < n else []
        if self.demos is not None and from_demos:
            parts.append(self.demos.sample(from_demos))
        rows = np.concatenate(parts, axis=1)  # [T, B]
        if rows["action"].max() >= self.agent.n_actions or not np.isfinite(rows["reward"]).all():
            raise UsageError(f"{self.replay.folder} holds an action or a reward that none is")

        def column(name: str) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(rows[name]))

        is_demo = torch.zeros(rows.shape, dtype=torch.bool)
        is_demo[:, n - from_demos :] = True
        return Batch(
            image=column("image"),
            action=column("action").long(),
            reward=column("reward"),
            is_first=column("is_first"),
            is_last=column("is_last"),
            is_terminal=column("is_terminal"),
            is_demo=is_demo,
            **self.targets_in(rows),
        )

    def labels(self, ram: np.ndarray) -> torch.Tensor:
        """Return the teachers' log probabilities float32[n, A] in states of RAM uint8[n, 2048]."""
        assert self.teachers is not None
        facts = read_facts(ram)
        stages = np.stack([facts.world, facts.stage], axis=1)
        taught = self.config.env.stages
        # An episode's last state may be of the stage that came after.
        is_taught = (stages[:, None] == np.array(taught)).all(2).any(1)
        stages[~is_taught] = taught[0]
        return self.teachers.label(flatten_scene(read_scene(ram)), stages)[0]

    def targets_in(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Return what losses need of the game's own state in rows [T, B]: `Batch`'s last fields."""
        model, env = self.config.model, self.config.env
        targets: dict[str, np.ndarray | torch.Tensor] = {}
        if self.config.keeps_ram:
            ram = np.ascontiguousarray(rows["ram"]).reshape(-1, RAM_SIZE)
            if model.scene_head != "none":
                targets["scene"] = scene_grid(read_scene(ram))
            if model.sprite_share:
                targets["sprites"] = sprite_mask(ram, env.screen_size, env.picture_rows)
            if self.teachers:
                targets["labels"] = self.labels(ram)
        return {
            name: torch.as_tensor(target).unflatten(0, rows.shape)
            for name, target in targets.items()
        }

    def take_metrics(self) -> dict[str, float | None]:
        """Return the mean of what was measured since the last call, and of the last episodes."""
        means: dict[str, float | None] = {
            name: float(value) / self.summed for name, value in self.sums.items()
        }
        self.sums, self.summed = {}, 0
        for name in ("episode_return", "length", "max_x", "flag") if self.episodes else ():
            values = [getattr(episode, name) for episode in self.episodes]
            key = {"length": "episode_length", "flag": "clear_rate"}.get(name, name)
            means[key] = float(np.mean(values))
        means |= {
            "learning_rate": self.optimizer.learning_rate(),
            "dreamer/updates": self.updates,
            "dreamer/replay_steps": len(self.replay),
            "dreamer/demo_fraction": self.config.replay.demo_fraction * self.helped_by_demos,
        }
        return means | self.streams.venv.starts.scalars()

    # -- checkpoints ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return all but the weights and the rows on disk, as tensors and plain values."""
        state = {
            "optimizer": self.optimizer.state_dict(),
            "streams": self.streams.state_dict(),
            "replay": self.replay.state_dict(),
            "demos": self.demos.state_dict() if self.demos else None,
            "teachers": self.teachers.state_dict() if self.teachers else {},
            "state": list(self.state),
            "counters": list(Counters(self.step, self.updates, self.owed, self.summed)),
            "sums": self.sums,
            "episodes": [list(episode) for episode in self.episodes],
            "generator": json.dumps(self.generator.bit_generator.state),
            "torch_rng": torch.get_rng_state(),
            "reward_signature": reward_signature(self.config.env),
        }
        return tree_map(
            lambda x: torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) else x, state
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned; the weights are loaded before.

        Raises:
            UsageError: it is of other environments, or rows of its replay are gone.
        """
        load_optimizer(self.optimizer, state["optimizer"], LaProp.STATE)
        self.optimizer.param_groups[0].update(self.optimizer.defaults)  # flags may have changed
        if self.teachers:
            self.teachers.load_state_dict(state["teachers"])
        self.step, self.updates, self.owed, self.summed = Counters.of_state(state)
        sums = {name: float(value) for name, value in state["sums"].items()}
        row_of(self.step, {**sums})  # refuses a name that no metric has
        if sums and not self.summed:
            raise BadModelFile("it has sums of no update")
        self.sums = {name: torch.tensor(value) for name, value in sums.items()}
        for values in state["episodes"]:  # an older version's last value is -1 for the start
            fill(np.zeros(len(FinishedEpisode._fields)), values, "episodes")
            episode = FinishedEpisode(*values)
            self.episodes.append(episode._replace(from_start=bool(episode.from_start)))
        self.generator.bit_generator.state = json.loads(state["generator"])
        torch.set_rng_state(state["torch_rng"])
        if state["reward_signature"] != reward_signature(self.config.env):
            self.forget_reward()
            return
        self.streams.load_state_dict(state["streams"])
        self.replay.load_state_dict(state["replay"])
        before = type(self.state)(*state["state"])
        check_weights(before._asdict(), self.state._asdict())
        self.state = before
        if self.demos and state["demos"]:
            self.demos.load_state_dict(state["demos"])

    def forget_reward(self) -> None:
        """After a relabelling: reward head and critics begin anew, and so do the episodes."""
        heads = [self.agent.world.reward, self.agent.critic.net, self.agent.critic.slow]
        for head in heads:
            for parameter in head[-1].parameters():
                torch.nn.init.zeros_(parameter)
        for buffer in self.agent.critic.range.buffers():
            buffer.zero_()
        self.episodes.clear()
        self.begin()


# --------------------------------------------------------------------------------------------
# The loop
# --------------------------------------------------------------------------------------------


class Loop:
    """Runs a trainer to its target and keeps the run folder."""

    def __init__(self, config: DreamerConfig, run: RunFolder, trainer: Trainer) -> None:
        self.config, self.run, self.trainer = config, run, trainer
        self.content = config_as_dict(config)
        self.best = BestModel(run, trainer.step)

    def train(self) -> int:
        """Collect and learn to the target, or to a request to stop; return the exit code."""
        trainer, flags, stop = self.trainer, self.config.run, StopRequest(self.run)
        ends = stop if flags.stop_on_collapse else None
        log = RunLog(self.run, trainer.step, flags.timesteps, ends, flags.wandb)
        with stop.on_signals():  # while it saves, too
            try:
                while trainer.step < flags.timesteps and not stop.is_asked():
                    before = trainer.step
                    trainer.collect()
                    trainer.learn()
                    is_judged = passed(before, trainer.step, flags.eval_freq)
                    told = self.evaluate() if is_judged else {}
                    if told or passed(before, trainer.step, flags.log_every):
                        metrics = trainer.take_metrics() | told
                        log.write(trainer.step, metrics, self._note(metrics))
                    # After all that is due at its step: what a kill takes with it is done again.
                    if passed(before, trainer.step, flags.checkpoint_freq):
                        self.save_checkpoint()
            finally:
                log.close()
            self.save_checkpoint()
            if not stop.reason:
                self.save_model(self.run.final_model)
        if stop.reason:
            print(f"stopped by {stop.reason.name}; the same command goes on")
        else:
            print(f"finished at {trainer.step:,} steps: {self.run.final_model}")
        return int(stop.is_collapse)

    def _note(self, metrics: dict[str, float | None]) -> str:
        """Return what a person wants to know between two lines."""
        notes = []
        if metrics.get("max_x") is not None:
            notes.append(f"max-x {metrics['max_x']:.0f}")
            notes.append(f"clears {100 * self.trainer.clear_rate():.0f} %")
        notes += [
            f"{name.split('/')[1]} from {value:.0f} steps before the goal"
            for name, value in metrics.items()
            if name.endswith("/steps_to_goal")
        ]
        return ", ".join(notes)

    def evaluate(self) -> dict[str, float]:
        """Play argmax and sampled episodes and keep the model whose worse half is the best.

        Samples are the actor's own, without the uniform actions that training explores with. The
        best sampled episode is the preview. Return what a probe found, if it is asked for.
        """
        flags, env, step = self.config.run, self.config.env, self.trainer.step
        exam = Exam(
            config=env,
            stages=env.stages,
            protocol="auto",
            with_samples=True,
            episodes=flags.eval_episodes,
            max_steps=flags.eval_steps,
            seed=flags.seed,
        )
        policy = DreamerPolicy(self.trainer.agent, env)
        found = examine(policy, exam, f"{self.run.path.name} at {step} steps", step)
        self.best.offer(found.evaluation, self._write_best)
        write_preview(self.run, step, best_episode(found.episodes), found.config)
        if not flags.eval_probe:
            return {}
        return self.probe(self.run.evaluations / f"step_{step}" / "probe.json")

    def probe(self, path: Path) -> dict[str, float]:
        """Look at what the model's state tells of the things on the screen, and write it down."""
        stages = self.config.env.stages
        look = Look(stages, stages, DEMOS if DEMOS.is_dir() else None, fit_rounds=6, judge_rounds=3)
        found = look_at(self.trainer.agent, self.config.env, look)
        write_json(path, found)
        return shares(found)

    def _write_best(self, path: Path) -> None:
        """Write the weights that were judged, and the state with which they can be resumed."""
        write_with_state(path, self.save_model, self.trainer.state_dict())

    def save_model(self, path: Path) -> None:
        """Write the weights, with the run's config, as a model file."""
        write_weights(path, self.trainer.agent.state_dict(), self.trainer.step, self.content)

    def save_checkpoint(self) -> None:
        """Write weights and state; a full disk is said, and training goes on."""
        try:
            trainer = self.trainer
            save_checkpoint(self.run, trainer.step, self.save_model, trainer.state_dict())
            self.trainer.replay.flush()
        except OSError as error:
            print(f"warning: no checkpoint at {self.trainer.step}: {error}", file=sys.stderr)


# --------------------------------------------------------------------------------------------
# Main
# --------------------------------------------------------------------------------------------


def resume(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Load a checkpoint, or refuse it.

    Raises:
        UsageError: another stage, action set or model.
    """
    before, now = config_from_dict(checkpoint.config), trainer.config
    folder, advice = now.run.run_dir, "choose another --run-dir"
    refuse_another_game(before.env, now.env, folder, advice)
    unimportant = {"run.run_dir", "run.config", "run.relabel", "run.resume_model"}
    for name, change in describe_changes(before, now, unimportant).items():
        print(f"resuming with {name} {change}")
    with going_on_from(checkpoint.path, advice):
        done = Counters.of_state(checkpoint.state).step
    refuse_fewer_steps(before.run.timesteps, now.run.timesteps, done)
    try:
        trainer.agent.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{folder} holds another model: {reason}") from error
    with going_on_from(checkpoint.path, advice):
        trainer.load_state_dict(checkpoint.state)
    print(f"resumed {folder} at {trainer.step:,} steps, {trainer.updates:,} updates")


def warm_start(trainer: Trainer, path: Path) -> None:
    """Give a new run's agent the weights of another run's model, where it has the same.

    Raises:
        UsageError: the model plays with other actions or sees other pictures, or nothing fits.
        BadModelFile: it is none.
    """
    model = find_model(path)
    content, weights = read_model_zip(model)
    before, now = config_from_dict(content), trainer.config
    stages = now.env.stages  # may be others
    refuse_another_game(
        dataclasses.replace(before.env, stages=stages, goal_line_x=None),
        now.env,
        model,
        "a warm start plays the same game",
    )
    own = trainer.agent.state_dict()
    taken = {
        name: tensor
        for name, tensor in weights.items()
        if name in own and own[name].shape == tensor.shape
    }
    kept = "world.rssm."  # but for what reads the encoder: that may see other pictures
    unfit = [name for name in own.keys() - taken.keys() if name.startswith(kept)]
    if any("posterior_tokens" not in name for name in unfit):
        raise UsageError(f"{model} holds a model of other sizes: {', '.join(sorted(unfit)[:3])}")
    trainer.agent.load_state_dict(own | taken)
    anew = sorted({".".join(name.split(".")[:2]) for name in own.keys() - taken.keys()})
    print(
        f"warm start from {model}: {len(taken)} of {len(own)} tensors"
        + (f"; anew: {', '.join(anew)}" if anew else "")
    )


def copy_replay(model: Path, run: RunFolder) -> None:
    """Copy the replay of a model's run into another run that goes on from it.

    Raises:
        UsageError: the model lies in no run folder with a replay.
    """
    source = (run_of_checkpoint(model) or model.absolute().parent.parent) / "replay"
    if not (source / "replay.json").is_file():
        raise UsageError(
            f"{model} lies in no run folder whose replay its learning could go on with"
        )
    target = run.path / "replay"
    shutil.rmtree(target, ignore_errors=True)  # of a start that was killed
    shutil.copytree(source, target, symlinks=True)  # links are refused when it is opened


def relabel_if_asked(config: DreamerConfig) -> None:
    """Recompute the replay's rewards, if --relabel is given and they were another reward's."""
    folder = config.run.run_dir / "replay"
    signature = reward_signature(config.env)
    if not config.run.relabel or not (folder / "replay.json").is_file():
        return
    if read_index(folder / "replay.json")["reward_signature"] != signature:
        relabel(
            folder,
            mario_row(config.env, config.keeps_ram),
            signature,
            lambda rows: recompute_rewards(rows, config.env),
        )


def train(config: DreamerConfig) -> int:
    """Run the training that the flags describe; return the exit code."""
    run = RunFolder(config.run.run_dir, AGENT)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    keep_freed_memory()
    with run.locked():
        checkpoint = newest_checkpoint(run)
        refuse_broken(run, checkpoint)
        if checkpoint is None and config.run.resume_model:
            checkpoint = read_checkpoint(find_checkpoint(config.run.resume_model))
            copy_replay(checkpoint.path, run)
        relabel_if_asked(config)
        trainer = Trainer(config)
        if checkpoint:
            resume(trainer, checkpoint)
        else:
            trainer.replay.clear()  # rows of an attempt that was killed before its first checkpoint
            if config.run.warm_start:
                warm_start(trainer, config.run.warm_start)
            trainer.begin()
        loop = Loop(config, run, trainer)
        write_json(run.config_path, loop.content)
        parameters = sum(p.numel() for p in trainer.agent.parameters() if p.requires_grad)
        replay = config.replay
        per_update = replay.batch * replay.length / replay.train_ratio
        print(
            f"{run.path}: {stages_label(config.env.stages)}, {parameters / 1e6:.2f}M "
            f"parameters, an update of {replay.batch} x {replay.length} steps every "
            f"{math.ceil(per_update)} environment steps, {config.exploration.behaviour}",
            flush=True,
        )
        return loop.train()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, and turn every expected failure into one line and an exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: train(parse_config(given)))


if __name__ == "__main__":
    sys.exit(main())
