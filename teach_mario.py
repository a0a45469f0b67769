"""Teach a network to play Mario from what the game's memory says, then a student from pixels.

    python teach_mario.py --stages 1-1
    python teach_mario.py --stages 3-2 --phase student --teacher runs/teach/teacher

Writes two run folders (mario_runs.py) below --run-dir, teacher/ and student/; the same command
continues them. The teacher learns by PPO on scenes (mario_scene_ppo.py), the student what the
teacher does (mario_student.py); both under sticky buttons, from the level's start and from places
along the searched clears.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import torch as th
import tyro
from torch import nn

from mario_checkpoints import (
    Checkpoint,
    find_checkpoint,
    find_model,
    going_on_from,
    newest_checkpoint,
    plain,
    read_checkpoint,
    read_model_zip,
    refuse_broken,
    save_checkpoint,
    saved_count,
    write_weights,
    write_with_state,
)
from mario_cli import UsageError, exit_code, with_stages_flag
from mario_config import EnvConfig, RewardConfig, env_config_from_dict
from mario_curriculum import AnywhereStarts, FrontierStarts
from mario_demos import load_demos
from mario_flags import LEAST_SCREEN
from mario_game import StageId, stages_label
from mario_help import FirstPage, answer_help
from mario_judge import ModelEvaluation
from mario_learner import Learner
from mario_networks import PPOPolicy
from mario_recipes import (
    config_content,
    config_of_content,
    describe_changes,
    refuse_another_game,
    refuse_fewer_steps,
    with_file_values,
    with_newer_flags,
)
from mario_rollout import Policy
from mario_runs import RunFolder, run_of_checkpoint, write_json
from mario_runtime import MarioVectorEnv
from mario_scene_ppo import ScenePPO, ScenePPOFlags
from mario_student import Student, StudentFlags, student_network
from mario_teacher import SceneNetwork, ScenePolicy, read_teachers
from mario_training import (
    BestModel,
    Exam,
    RunLog,
    StopKind,
    StopRequest,
    best_until,
    examine,
    passed,
)
from mario_values import Amount, Checked, FirstLook, Seed, Share, parse_flags, read_yaml
from precision import keep_freed_memory, resolve_device

PAGE = FirstPage(
    "teach",
    "A teacher learns to play from what the game's memory says, then a student from pixels what "
    "the teacher does. The same command goes on with a run that was stopped.",
    (
        *("run.run_dir", "env.stages", "run.phase", "teacher.timesteps", "student.timesteps"),
        *("run.seed", "run.teacher", "run.warm_start", "run.config", "run.device"),
    ),
    (
        "--stages 1-1 --run-dir runs/taught",
        "--stages 3-2 --phase student --teacher runs/taught/teacher --run-dir runs/student",
    ),
    prefixes=("teacher", "student"),
)
DEFAULT_RECIPE = Path(__file__).parent / "configs" / "taught_color.yaml"
PhaseName = Literal["teacher", "student"]
PHASES: tuple[PhaseName, ...] = ("teacher", "student")
FIRST_PHASE = {"both": "teacher", "teacher": "teacher", "student": "student"}

# One unit per step at full speed (12 px), a death costs 3 of them, the goal pays 10.
REWARD = RewardConfig(
    base_reward_scale=0.0,
    forward_reward_scale=0.08333333,
    death_penalty=3.0,
    flag_bonus=10.0,
    end_on_stall_steps=250,  # a round of a castle's maze fits
)
TEACHERS_GAME = "teachers_game"  # what a student's train_config.json keeps of it


@dataclasses.dataclass(frozen=True)
class RunFlags(Checked):
    """The run: where it writes, how often it looks at itself."""

    run_dir: Path = Path("runs/teach")
    """The folder of the two runs; those that it holds are continued."""
    phase: Literal["both", "teacher", "student"] = "both"
    """What to do: the teacher, then the student, or one of them alone."""
    teacher: Path | None = None
    """Who teaches the student: a teacher's model file or run folder, or a folder of <stage>.zip.
    Unset: the best of this run."""
    warm_start: Path | None = None
    """A model, or a folder with one, whose weights alone begin the (first) phase, in any stages."""
    resume_model: Path | None = None
    """Begin a new run folder where this checkpoint or best_eval.zip of a phase was."""
    config: Path | None = None
    """A YAML file of any of these flags; the command line wins. Unset in a new run:
    configs/taught_color.yaml, made for one level."""
    demos: Path = Path("demos")
    """A folder of demos along which episodes begin. scripts/search_route.py finds them."""
    game_starts: Share = 0.1
    """Of the episodes, that begin as only a whole game does: tall, with fire, or halfway."""
    seed: Seed = 0
    """Seeds networks, sampling and environments (environment i: seed + i)."""
    checkpoint_freq: Amount = 500_000
    """Agent steps between checkpoints; the newest two are kept. 0: only at the end."""
    eval_freq: Amount = 200_000
    """Agent steps between evaluations, of each stage, by argmax and sampled. 0: never."""
    eval_episodes: Annotated[int, pydantic.Field(ge=1, le=10_000)] = 50
    """Episodes of each."""
    eval_enough: Share = 0.0
    """End a phase, as finished, once an evaluation clears this share in both modes. 0: never."""
    wandb: str = ""
    """Log to this project of Weights & Biases, too. Unset: nothing leaves this machine."""
    stop_on_collapse: bool = False
    """Stop, with exit code 1 and a checkpoint, when the doctor sees that learning is over."""
    device: str = "auto"
    """Where networks compute: auto (CUDA if there, else CPU), cpu, cuda or cuda:N."""
    threads: Annotated[int, pydantic.Field(ge=1, le=1024)] = 1
    """Threads of torch and of the emulator."""


@dataclasses.dataclass(frozen=True)
class TeachConfig:
    """Everything that a run depends on."""

    run: tyro.conf.OmitArgPrefixes[RunFlags] = dataclasses.field(default_factory=RunFlags)
    env: tyro.conf.OmitArgPrefixes[EnvConfig] = dataclasses.field(
        default_factory=lambda: EnvConfig(
            stage_sampling="failure",
            n_envs=128,
            sticky_prob=0.25,
            action_set="agile",
            show_buttons=True,
            reward=REWARD,
        )
    )
    """The game of both; --n-envs is the teacher's."""
    teacher: ScenePPOFlags = dataclasses.field(default_factory=ScenePPOFlags)
    student: StudentFlags = dataclasses.field(default_factory=StudentFlags)

    def __post_init__(self) -> None:
        if self.env.vec_backend != "batched":
            raise UsageError("teacher and student play the batched environment")
        if self.env.screen_size < LEAST_SCREEN:
            raise UsageError(f"screen_size must be at least {LEAST_SCREEN} for the convolutions")
        rollouts = {
            "teacher": (self.teacher.n_steps, self.env.n_envs, self.teacher.batch_size),
            "student": (self.student.n_steps, self.student.n_envs, self.student.batch_size),
        }
        for name, (n_steps, n_envs, batch_size) in rollouts.items():
            if n_steps * n_envs % batch_size:
                raise UsageError(
                    f"{name}.batch_size {batch_size} does not divide a rollout of {n_steps} steps "
                    f"x {n_envs} environments = {n_steps * n_envs}"
                )

    def env_of(self, phase: PhaseName) -> EnvConfig:
        """Return what is played in a phase, and how it is seen."""
        env = dataclasses.replace(self.env, discount=self.teacher.gamma)
        if phase == "teacher":
            return dataclasses.replace(env, observation="scene")
        reward = dataclasses.replace(env.reward, end_on_stall_steps=self.student.end_on_stall_steps)
        seen = self.student.observation
        return dataclasses.replace(env, observation=seen, n_envs=self.student.n_envs, reward=reward)

    def content(self, phase: PhaseName) -> dict[str, Any]:
        """Return train_config.json's content of a phase; `env` is what that phase plays."""
        env = self.env_of(phase)
        content = config_content(dataclasses.replace(self, env=env), phase, env)
        return content | {TEACHERS_GAME: teachers_game(self.env)}


def teachers_game(env: EnvConfig) -> dict[str, int]:
    """Return what a teacher plays otherwise than its student, of the flags of the game."""
    return {"n_envs": env.n_envs, "end_on_stall_steps": env.reward.end_on_stall_steps}


def flags_of_content(default: TeachConfig, content: dict[str, Any], phase: str) -> TeachConfig:
    """Return the flags in a phase's train_config.json.

    A student plays in other environments than its teacher; the flags of the game are the teacher's.

    Args:
        default: what an older version's does not say.
        content: of the file.
        phase: whose it has to be.

    Raises:
        UsageError: it is another agent's, or not this version's.
    """
    env, kept = content.get("env"), content.get(TEACHERS_GAME)
    if phase == "student" and isinstance(env, dict) and isinstance(env.get("reward"), dict):
        game = teachers_game(default.env) | (kept if isinstance(kept, dict) else {})
        reward = env["reward"] | {"end_on_stall_steps": game["end_on_stall_steps"]}
        content = content | {"env": env | {"n_envs": game["n_envs"], "reward": reward}}
    return config_of_content(default, content, phase)


def parse_config(arguments: Sequence[str]) -> TeachConfig:
    """Return the flags: defaults, or those of the run in --run-dir; --config; the command line.

    Without --config a new run follows `DEFAULT_RECIPE`, as does the first student of a teacher
    whose run was told nothing of one.

    Raises:
        UsageError: a file is missing or holds an unknown key, or values do not fit together.
        SystemExit: --help.
    """
    arguments = answer_help(arguments, PAGE, lambda: with_recipe(TeachConfig(), DEFAULT_RECIPE))
    first = FirstLook()
    first.add_argument("--run-dir", type=Path, default=RunFlags().run_dir)
    first.add_argument("--config", type=Path)
    first.add_argument("--resume-model", type=Path)
    first.add_argument("--phase")
    arguments = with_stages_flag(with_newer_flags(arguments))
    given, _ = first.parse_known_args(arguments)
    if RunFolder(given.run_dir).config_path.is_file():
        raise UsageError(f"{given.run_dir} is one phase's folder: --run-dir is the one above it")
    default = fresh = TeachConfig()
    for phase in PHASES:  # the student's folder knows all that the teacher's does
        if checkpoint := newest_checkpoint(RunFolder(given.run_dir / phase), is_quiet=True):
            default = flags_of_content(default, checkpoint.config, phase)
            if phase == "teacher" and given.phase == "student":  # not the student's first weights
                default = dataclasses.replace(
                    default, run=dataclasses.replace(default.run, warm_start=None)
                )
    if given.resume_model and default is fresh:
        default = config_to_go_on_with(given.resume_model, given.run_dir)
    is_first_student = default.run.phase == "teacher" and checkpoint is None
    is_untold = default.student == fresh.student and not given.config
    if is_first_student and is_untold and given.phase in ("student", "both"):
        default = with_recipes_student(default)
    seen = default.env.observation
    if recipe := given.config or (DEFAULT_RECIPE if default is fresh else None):
        default = with_recipe(default, recipe)
    config = parse_flags(TeachConfig, arguments, PAGE.about, default)
    if config.env.observation != seen:
        raise UsageError(
            "a teacher sees the game's state, a student what --student.observation says; "
            "--observation is neither's"
        )
    return config


def with_recipe(config: TeachConfig, path: Path) -> TeachConfig:
    """Return a config under the values of a recipe; a UsageError if the file does not fit."""
    return with_file_values(config, read_yaml(path), str(path))


def with_recipes_student(config: TeachConfig) -> TeachConfig:
    """Return a teacher's flags with what `DEFAULT_RECIPE` says of its student and how to judge."""
    recipe = with_recipe(TeachConfig(), DEFAULT_RECIPE)
    judged = {name: getattr(recipe.run, name) for name in ("eval_freq", "eval_episodes")}
    return dataclasses.replace(
        config,
        student=recipe.student,
        env=dataclasses.replace(config.env, crop=recipe.env.crop),
        run=dataclasses.replace(config.run, **judged),
    )


def config_to_go_on_with(model: Path, run_dir: Path) -> TeachConfig:
    """Return the flags of a checkpoint or a best model, to go on in another folder.

    A student's teachers stay those of its run.

    Raises:
        UsageError: it is of another agent, or the folder is its own.
    """
    path = find_checkpoint(model, True)
    content = read_model_zip(path)[0]
    if (agent := content.get("agent")) not in PHASES:
        raise UsageError(f"{path} is of agent {agent!r}, no teacher and no student")
    config = flags_of_content(TeachConfig(), content, agent)
    home = (run_of_checkpoint(path) or path.absolute().parent.parent).parent
    if run_dir.absolute() == home:
        raise UsageError(f"{model} lies in {run_dir}: --run-dir names another folder")
    run = dataclasses.replace(config.run, run_dir=run_dir, config=None)
    if agent == "student":
        run = dataclasses.replace(run, phase=agent, teacher=run.teacher or home / "teacher")
    return dataclasses.replace(config, run=run)


class BestOfStages:
    """Keeps the best weights of each stage: with many stages, what one learns another forgets."""

    def __init__(self, run: RunFolder, stages: Sequence[StageId], step: int) -> None:
        """Go on from the best ones that the folder held at a step."""
        self.folder = run.path / "stages"
        self.best: dict[StageId, float] = {}
        for stage in stages:
            if found := best_until(self.folder / f"{stage}.json", step):
                self.best[stage] = found.rank[0]

    def offer(self, found: ModelEvaluation, write_model: Callable[[Path], None]) -> None:
        """Write the weights for each stage that they clear more often than any before."""
        for of_stage in found.of_stages():
            [stage] = of_stage.argmax.stages
            rate = of_stage.rank[0]
            if rate > self.best.get(stage.stage, 0.0):
                write_model(self.folder / f"{stage.stage}.zip")
                of_stage.write(self.folder / f"{stage.stage}.json")
                self.best[stage.stage] = rate


class Phase:
    """Runs one phase's learner to its target and keeps its run folder."""

    def __init__(self, config: TeachConfig, name: PhaseName, run: RunFolder) -> None:
        """Make the learner and go on from the folder's newest checkpoint, if there is one."""
        self.config, self.name, self.run = config, name, run
        self.stop = StopRequest(run)
        self.env = config.env_of(name)
        self.content = config.content(name)
        make: Callable[[TeachConfig], Learner] = make_teacher
        if name == "student":
            make = make_student
        self.learner = make(config)
        self.target = getattr(config, name).timesteps
        checkpoint = newest_checkpoint(run)
        refuse_broken(run, checkpoint)
        if checkpoint is None and config.run.resume_model:
            found = read_checkpoint(find_checkpoint(config.run.resume_model))
            checkpoint = found if found.config.get("agent") == name else None
        if checkpoint:
            resume(self.learner, config, checkpoint, self)
        elif config.run.warm_start and name == FIRST_PHASE[config.run.phase]:
            warm_start(self.learner.network, self.env, find_model(config.run.warm_start))
        self.best = BestModel(run, self.learner.steps)
        self.best_of_stages = BestOfStages(run, self.env.stages, self.learner.steps)
        write_json(run.config_path, self.content)

    def train(self) -> bool:
        """Learn to the target, to enough clears, or to a stop; return whether it is finished."""
        learner, flags, stop = self.learner, self.config.run, self.stop
        if (found := self.evaluation_here()) is not None:  # it may have ended the phase before
            self.end_if_enough(found, stop)
        ends = stop if flags.stop_on_collapse else None
        log = RunLog(self.run, learner.steps, self.target, ends, flags.wandb)
        with stop.on_signals():  # while it saves, too
            try:
                while learner.steps < self.target and not stop.is_asked():
                    before = learner.steps
                    metrics = learner.update()
                    note = f"clears {100 * metrics.get('clear_rate', 0):.0f} %"
                    log.write(learner.steps, metrics | learner.env.starts.scalars(), note)
                    if passed(before, learner.steps, flags.eval_freq):
                        self.end_if_enough(self.evaluate(), stop)
                    # After all that is due at its step: what a kill takes with it is done again.
                    if passed(before, learner.steps, flags.checkpoint_freq):
                        self.save_checkpoint()
            finally:
                log.close()
            self.save_checkpoint()
            if stop.reason and not stop.is_finished:
                print(f"stopped by {stop.reason.name}; the same command goes on")
                return False
            self.save_model(self.run.final_model)
        print(f"{self.name} finished at {learner.steps:,} steps: {self.run.final_model}")
        return True

    def evaluation_here(self) -> ModelEvaluation | None:
        """Return the evaluation of the step that the phase goes on from, if there was one."""
        path = self.run.evaluations / f"step_{self.learner.steps}" / "summary.json"
        return ModelEvaluation.from_json(path) if path.is_file() else None

    def end_if_enough(self, found: ModelEvaluation, stop: StopRequest) -> None:
        """Ask for the phase's end if an evaluation cleared enough."""
        if 0 < self.config.run.eval_enough <= found.rank[0]:
            stop.ask(StopKind.ENOUGH, "enough clears")

    def policy(self) -> Policy:
        """Return what the learner has learnt so far."""
        wrap = ScenePolicy if self.name == "teacher" else PPOPolicy
        return wrap(self.learner.network, self.env)

    def evaluate(self) -> ModelEvaluation:
        """Judge every stage, by argmax and sampled, and keep what is best."""
        flags = self.config.run
        exam = Exam(
            config=self.env,
            stages=self.env.stages,
            protocol="auto",
            with_samples=True,
            episodes=flags.eval_episodes,
            max_steps=0,
            seed=flags.seed,
        )
        step = self.learner.steps
        model = f"{self.run.path.name} at {step} steps"
        found = examine(self.policy(), exam, model, step).evaluation
        self.best.offer(found, self._write_best)
        self.best_of_stages.offer(found, self.save_model)
        return found

    def _write_best(self, path: Path) -> None:
        """Write the weights that were judged, and the state with which they can be resumed."""
        write_with_state(path, self.save_model, plain(self.learner.state_dict()))

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


def make_teacher(config: TeachConfig) -> ScenePPO:
    """Return the teacher's learner before its first step.

    Raises:
        UsageError: a stage has no demo.
    """
    th.manual_seed(config.run.seed)
    env_config = config.env_of("teacher")
    demos = load_demos(config.run.demos, env_config.stages)
    starts = FrontierStarts(env_config, demos, game_share=config.run.game_starts)
    env = MarioVectorEnv(env_config, threads=config.run.threads, starts=starts)
    network = SceneNetwork(len(env.buttons)).to(resolve_device(config.run.device))
    return ScenePPO(network, env, config.teacher, config.run.seed)


def make_student(config: TeachConfig) -> Student:
    """Return the student's learner before its first step.

    Raises:
        UsageError: a stage has no demo, or no teacher.
    """
    th.manual_seed(config.run.seed)
    env_config = config.env_of("student")
    where = config.run.teacher or config.run.run_dir / "teacher"
    teachers = read_teachers(where, env_config, resolve_device(config.run.device))
    demos = load_demos(config.run.demos, env_config.stages)
    starts = AnywhereStarts(env_config, demos, game_share=config.run.game_starts)
    env = MarioVectorEnv(env_config, threads=config.run.threads, starts=starts)
    network = student_network(config.student, env_config, resolve_device(config.run.device))
    return Student(network, env, teachers, config.student, config.run.seed)


def load_weights(network: nn.Module, weights: dict[str, th.Tensor], path: Path) -> None:
    """Load a model's weights.

    Raises:
        UsageError: they are of another network or action set.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} holds another network: {reason}") from error


def warm_start(network: nn.Module, env: EnvConfig, model: Path) -> None:
    """Begin with a model's weights.

    Raises:
        UsageError: it plays with other actions, sees something else, or is of another network.
        BadModelFile: it is none.
    """
    content, weights = read_model_zip(model)
    before = dataclasses.replace(env_config_from_dict(content.get("env", {})), stages=env.stages)
    refuse_another_game(before, env, model, "a warm start plays the same game")
    load_weights(network, weights, model)


def resume(learner: Learner, config: TeachConfig, checkpoint: Checkpoint, phase: Phase) -> None:
    """Go on from a checkpoint, or refuse it.

    Raises:
        UsageError: other stages, another action set or network.
    """
    before = flags_of_content(TeachConfig(), checkpoint.config, phase.name)
    folder, advice = phase.run.path, "choose another --run-dir"
    refuse_another_game(before.env, phase.env, folder, advice)
    unimportant = {
        "run.run_dir",
        "run.config",
        "run.phase",
        "run.resume_model",
        "run.teacher",
        "run.device",
        "env",
    }
    for name, change in describe_changes(before, config, unimportant).items():
        print(f"resuming with {name} {change}")
    targets = [getattr(one, phase.name).timesteps for one in (before, config)]
    with going_on_from(checkpoint.path, advice):
        done = saved_count(checkpoint.state["steps"], "steps")
    refuse_fewer_steps(targets[0], targets[1], done)
    load_weights(learner.network, checkpoint.weights, folder)
    with going_on_from(checkpoint.path, advice):
        learner.load_state_dict(checkpoint.state)
    print(f"resumed {folder} at {learner.steps:,} steps")


def train(config: TeachConfig) -> int:
    """Run the phases that the flags name; return the exit code."""
    th.set_num_threads(config.run.threads)
    keep_freed_memory()
    for name in PHASES if config.run.phase == "both" else (config.run.phase,):
        run = RunFolder(config.run.run_dir / name, name)
        with run.locked():
            phase = Phase(config, name, run)
            print(f"{run.path}: a {name} of {stages_label(config.env.stages)}", flush=True)
            if not phase.train():
                return int(phase.stop.is_collapse)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, and turn every expected failure into one line and an exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: train(parse_config(given)))


if __name__ == "__main__":
    sys.exit(main())
