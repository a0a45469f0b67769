"""Teach a network to play Mario from what the game's memory says, then a student from pixels.

    python teach_mario.py --stages all

Writes a run folder (mario_runs.py); the same command continues it. The teacher learns by PPO on
scenes (mario_scene_ppo.py), under sticky buttons, from the level's start and from places along the
searched clears.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import pydantic
import torch as th
import tyro

from mario_checkpoints import (
    Checkpoint,
    going_on_from,
    newest_checkpoint,
    plain,
    read_model_zip,
    save_checkpoint,
    write_weights,
)
from mario_cli import UsageError, exit_code, with_stages_flag
from mario_config import EnvConfig, RewardConfig
from mario_curriculum import FrontierStarts
from mario_demos import load_demos
from mario_game import StageId, stages_label
from mario_judge import ModelEvaluation
from mario_runs import METRIC_KEYS, RunFolder, write_json
from mario_runtime import MarioVectorEnv, action_space
from mario_scene_ppo import ScenePPO, ScenePPOFlags
from mario_teacher import SceneNetwork, ScenePolicy
from mario_training import (
    BestModel,
    Exam,
    RunLog,
    StopRequest,
    config_content,
    config_of_content,
    describe_changes,
    examine,
    passed,
    refuse_another_game,
    with_file_values,
    with_newer_flags,
)
from mario_values import Amount, Checked, Seed, parse_flags, read_yaml

AGENT = "teacher"

# One unit per step at full speed (12 px), a death costs 3 of them, the goal pays 10.
REWARD = RewardConfig(
    base_reward_scale=0.0,
    forward_reward_scale=0.08333333,
    death_penalty=3.0,
    flag_bonus=10.0,
    end_on_stall_steps=250,  # a round of a castle's maze fits
)


@dataclasses.dataclass(frozen=True)
class RunFlags(Checked):
    """The run: where it writes, how often it looks at itself."""

    run_dir: Path = Path("runs/teacher")
    """The run folder; one that holds a run is continued."""
    config: Path | None = None
    """A YAML file of any of these flags; the command line wins."""
    warm_start: Path | None = None
    """A teacher whose weights alone begin a new run, in any stages."""
    demos: Path = Path("demos")
    """A folder of demos along which episodes begin. scripts/search_route.py finds them."""
    seed: Seed = 0
    """Seeds network, sampling and environments (environment i: seed + i)."""
    checkpoint_freq: Amount = 500_000
    """Agent steps between checkpoints; the newest two are kept. 0: only at the end."""
    eval_freq: Amount = 2_000_000
    """Agent steps between evaluations, of each stage, by argmax and sampled. 0: never."""
    eval_episodes: Annotated[int, pydantic.Field(ge=1, le=10_000)] = 20
    """Episodes of each."""
    threads: Annotated[int, pydantic.Field(ge=1, le=1024)] = 1
    """Threads of torch and of the emulator."""


@dataclasses.dataclass(frozen=True)
class TeachConfig:
    """Everything that a run depends on."""

    run: RunFlags = dataclasses.field(default_factory=RunFlags)
    env: EnvConfig = dataclasses.field(
        default_factory=lambda: EnvConfig(
            stage_sampling="failure",
            n_envs=128,
            observation="scene",
            sticky_prob=0.25,
            action_set="agile",
            reward=REWARD,
        )
    )
    teacher: ScenePPOFlags = dataclasses.field(default_factory=ScenePPOFlags)

    def __post_init__(self) -> None:
        if self.env.observation != "scene" or self.env.vec_backend != "batched":
            raise UsageError("a teacher observes scene, in the batched environment")
        rollout = self.teacher.n_steps * self.env.n_envs
        if rollout % self.teacher.batch_size:
            raise UsageError(
                f"batch_size {self.teacher.batch_size} does not divide a rollout of "
                f"{self.teacher.n_steps} steps x {self.env.n_envs} environments = {rollout}"
            )


def parse_config(arguments: Sequence[str]) -> TeachConfig:
    """Return the flags: defaults, or those of the run in --run-dir; --config; the command line.

    Raises:
        UsageError: a file is missing or holds an unknown key, or values do not fit together.
        SystemExit: --help (0), or the arguments do not parse (2).
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--run-dir", "--run_dir", type=Path, default=RunFlags().run_dir)
    first.add_argument("--config", type=Path)
    arguments = with_stages_flag(with_newer_flags(arguments))
    given, _ = first.parse_known_args(arguments)
    default = TeachConfig()
    if checkpoint := newest_checkpoint(RunFolder(given.run_dir), is_quiet=True):
        default = config_of_content(default, checkpoint.config, AGENT)
    if given.config:
        default = with_file_values(default, read_yaml(given.config), str(given.config))
    description, markers = __doc__.split("\n\n")[0], (tyro.conf.OmitArgPrefixes,)
    config = parse_flags(TeachConfig, arguments, description, default, markers)
    env = dataclasses.replace(config.env, discount=config.teacher.gamma)
    return dataclasses.replace(config, env=env)


class BestOfStages:
    """Keeps the best weights of each stage: with many stages, what one learns another forgets."""

    def __init__(self, run: RunFolder, stages: Sequence[StageId]) -> None:
        """Go on from the best ones that the folder holds."""
        self.folder = run.path / "stages"
        self.best: dict[StageId, float] = {}
        for stage in stages:
            summary = self.folder / f"{stage}.json"
            if summary.exists():
                self.best[stage] = ModelEvaluation.from_json(summary).rank[0]

    def offer(self, found: ModelEvaluation, write_model: Callable[[Path], None]) -> None:
        """Write the weights for each stage that they clear more often than any before."""
        for of_stage in found.of_stages():
            [stage] = of_stage.argmax.stages
            rate = of_stage.rank[0]
            if rate > self.best.get(stage.stage, 0.0):
                write_model(self.folder / f"{stage.stage}.zip")
                of_stage.write(self.folder / f"{stage.stage}.json")
                self.best[stage.stage] = rate


class Teaching:
    """Runs a teacher's learner to its target and keeps the run folder."""

    def __init__(self, config: TeachConfig, run: RunFolder, learner: ScenePPO) -> None:
        self.config, self.run, self.learner = config, run, learner
        self.content = config_content(config, AGENT, config.env)
        self.best = BestModel(run)
        self.best_of_stages = BestOfStages(run, config.env.stages)

    def train(self) -> None:
        """Learn to the target, or to a signal."""
        learner, flags, stop = self.learner, self.config.run, StopRequest()
        target = self.config.teacher.timesteps
        log = RunLog(self.run, learner.steps, target)
        with stop.on_signals():
            while learner.steps < target and stop.reason is None:
                before = learner.steps
                metrics = learner.update()
                shared = {name: value for name, value in metrics.items() if name in METRIC_KEYS}
                own = {f"ppo/{name}": metrics[name] for name in metrics if name not in METRIC_KEYS}
                note = (
                    f"clears {100 * metrics.get('clear_rate', 0):.0f} %, "
                    f"entropy {metrics['entropy']:.2f}"
                )
                log.write(learner.steps, shared | own | learner.env.starts.scalars(), note)
                if passed(before, learner.steps, flags.eval_freq):
                    self.evaluate()
                if passed(before, learner.steps, flags.checkpoint_freq):
                    self.save_checkpoint()
        log.close()
        self.save_checkpoint()
        if stop.reason:
            print(f"stopped by {stop.reason.name}; the same command goes on")
        else:
            self.save_model(self.run.final_model)
            print(f"finished at {learner.steps:,} steps: {self.run.final_model}")

    def evaluate(self) -> None:
        """Judge every stage, sticky, by argmax and sampled, and keep what is best."""
        flags, env = self.config.run, self.config.env
        exam = Exam(
            config=env,
            stages=env.stages,
            protocol="auto",
            with_samples=True,
            episodes=flags.eval_episodes,
            max_steps=0,
            seed=flags.seed,
        )
        step, started = self.learner.steps, time.monotonic()
        policy = ScenePolicy(self.learner.network, env)
        found = examine(policy, exam, f"{self.run.path.name} at {step} steps", step).evaluation
        self.best.offer(found, self.save_model)
        self.best_of_stages.offer(found, self.save_model)
        print(f"evaluated in {time.monotonic() - started:.0f} s", flush=True)

    def save_model(self, path: Path) -> None:
        """Write the weights, with the run's config, as a model file."""
        write_weights(path, self.learner.network.state_dict(), self.learner.steps, self.content)

    def save_checkpoint(self) -> None:
        """Write weights and state; a full disk is said, and training goes on."""
        try:
            state = plain(self.learner.state_dict())
            save_checkpoint(self.run, self.learner.steps, self.save_model, state)
        except OSError as error:
            print(f"warning: no checkpoint at {self.learner.steps}: {error}", file=sys.stderr)


def load_weights(network: SceneNetwork, weights: dict[str, th.Tensor], path: Path) -> None:
    """Load a teacher's weights.

    Raises:
        UsageError: they are of another network or action set.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} holds another network: {reason}") from error


def resume(learner: ScenePPO, config: TeachConfig, checkpoint: Checkpoint) -> None:
    """Go on from a checkpoint, or refuse it.

    Raises:
        UsageError: other stages, another action set or network.
    """
    before = config_of_content(TeachConfig(), checkpoint.config, AGENT)
    folder, advice = config.run.run_dir, "choose another --run-dir"
    refuse_another_game(before.env, config.env, folder, advice)
    for name, change in describe_changes(before, config, {"run.run_dir", "run.config"}).items():
        print(f"resuming with {name} {change}")
    load_weights(learner.network, checkpoint.weights, folder)
    with going_on_from(checkpoint.path, advice):
        learner.load_state_dict(checkpoint.state)
    print(f"resumed {folder} at {learner.steps:,} steps")


def make_learner(config: TeachConfig) -> ScenePPO:
    """Return the learner that the flags describe, before its first step.

    Raises:
        UsageError: a stage has no demo.
    """
    th.manual_seed(config.run.seed)
    starts = FrontierStarts(config.env, load_demos(config.run.demos, config.env.stages))
    env = MarioVectorEnv(config.env, threads=config.run.threads, starts=starts)
    network = SceneNetwork(int(action_space(config.env).n))
    return ScenePPO(network, env, config.teacher, config.run.seed)


def train(config: TeachConfig) -> None:
    """Run the training that the flags describe."""
    run = RunFolder(config.run.run_dir, AGENT)
    th.set_num_threads(config.run.threads)
    with run.locked():
        learner = make_learner(config)
        if checkpoint := newest_checkpoint(run):
            resume(learner, config, checkpoint)
        elif config.run.warm_start:
            weights = read_model_zip(config.run.warm_start)[1]
            load_weights(learner.network, weights, config.run.warm_start)
        teaching = Teaching(config, run, learner)
        write_json(run.config_path, teaching.content)
        print(f"{run.path}: a teacher of {stages_label(config.env.stages)}", flush=True)
        teaching.train()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, and turn every expected failure into one line and an exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: train(parse_config(given)))


if __name__ == "__main__":
    sys.exit(main())
