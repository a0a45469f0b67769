"""PPO's flags: the dataclasses are the parser, the keys of configs/*.yaml and of train_config.json.

How they are read, what phases a run has, and what of it is written. No torch here: `--help` and a
wrong flag are answered at once.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import tyro

from mario_cli import UsageError, with_stages_flag
from mario_config import EnvConfig, FeaturesName, ProtocolName, StagesFlag
from mario_game import stages_label
from mario_help import FirstPage, answer_help
from mario_recipes import (
    config_content,
    config_of_content,
    describe_changes,
    recipe_layers,
    with_file_values,
    with_newer_flags,
)
from mario_runs import run_of_checkpoint
from mario_values import (
    Amount,
    Checked,
    Count,
    FirstLook,
    Positive,
    Seed,
    Share,
    StepSize,
    Temperature,
    Weight,
    parse_flags,
    with_changes,
)

AGENT = "ppo"
PAGE = FirstPage(
    "train",
    "Train PPO on stages of Super Mario Bros. Without --config or --timesteps it follows the "
    "recipe of 1-1 (configs/recipe.yaml), both phases: 1.3 million steps, which took 33 to 52 "
    "minutes on 2 cores of an AMD EPYC (results/ppo_1-1). Ctrl-C saves and stops.",
    (
        *("run.run_dir", "env.stages", "ppo.timesteps", "run.seed", "run.resume_model"),
        *("run.config", "run.warm_start", "env.n_envs", "ppo.device", "run.preview_freq"),
    ),
    (
        "--run-dir runs/mine",
        "--resume-model runs/mine",
        "--config configs/ppo_level.yaml --stage 1-2 --run-dir runs/level_2",
        "--run-dir runs/careful --death-penalty 6 --timesteps 500k",
    ),
)
EntropyWeight = Annotated[float, pydantic.Field(ge=-1, le=1e6)]  # below 0 it makes the policy surer
PLAN_ALONE = {"seeds", "phases", "variants", "group"}  # keys of a plan, none of them a flag
ROOT = Path(__file__).parent
DEFAULT_RECIPE = ROOT / "configs" / "recipe.yaml"
# What hurts first where the recipe is left without knowing it.
DECISIVE = ("timesteps", "reward_scale", "death_penalty", "flag_bonus")
LEAST_SCREEN = 36  # px, what the three convolutions leave something of
Bias = Annotated[float, pydantic.Field(ge=-50, le=50)]  # of a logit
# --------------------------------------------------------------------------------------------
# Flags: these dataclasses are the parser, the keys of configs/*.yaml and of train_config.json
# --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PPOFlags(Checked):
    """PPO (Schulman et al. 2017) on Stable-Baselines3."""

    timesteps: Count = 5_000_000
    """The run's target in agent steps, all environments together; resuming goes on to the same."""
    device: str = "auto"
    """auto (CUDA if there, else CPU), cpu, cuda or cuda:N."""
    features: FeaturesName = "small"
    """CNN 16-32-32-256, Nature's 32-64-64-512, or fine, which looks at smaller things; the others
    take twice small's time per gradient pass."""
    learning_rate: StepSize = 2.5e-4
    """Adam's step size: 2.5e-4 is the Atari standard."""
    learning_rate_final: StepSize | None = None
    """Falls linearly to this over the run. Unset: constant."""
    n_steps: Annotated[int, pydantic.Field(ge=1, le=10**6)] = 512
    """Agent steps per environment in a rollout; long enough to see a jump pay."""
    batch_size: Annotated[int, pydantic.Field(ge=2, le=10**8)] = 256
    """Samples in a minibatch; must divide n_steps * n_envs."""
    n_epochs: Annotated[int, pydantic.Field(ge=1, le=1000)] = 4
    """Passes over each rollout. With 10, a run collapsed (docs/journey.md, P4)."""
    gamma: Share = 0.9
    """Discount. With 0.99 and lambda 1 none of three seeds cleared (results/ablations)."""
    gae_lambda: Share = 0.95
    """GAE's lambda (Schulman et al. 2016): bias against variance."""
    clip_range: Annotated[float, pydantic.Field(gt=0, le=10)] = 0.2
    """PPO's epsilon."""
    ent_coef: EntropyWeight = 0.01
    """Entropy bonus: keeps the policy trying."""
    ent_coef_final: EntropyWeight | None = None
    """Falls linearly to this over the run. Unset: constant. Low at the end: clears every time."""
    imitation_coef: Weight = 0.0
    """Weight of doing what --backward-demos did (DAPG, Rajeswaran et al. 2018), 0 in the end."""
    imitation_until: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.5
    """Part of the run over which that weight falls linearly to 0."""
    critic_steps: Amount = 0
    """Agent steps at the beginning that teach the value alone: --warm-start brings no critic."""
    kickstart_coef: Weight = 0.0
    """Weight of doing what --warm-start does (kickstarting, Schmitt et al. 2018), 0 in the end."""
    kickstart_until: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.5
    """Part of the run over which that weight falls linearly to 0."""
    ema_decay: Share = 0.0
    """Judge and keep a moving average of the weights, with this decay a rollout. 0: the weights."""
    temperature_final: Temperature = 1.0
    """The policy ends sharpened to this sampling temperature: below 1, samples near its argmax."""
    temperature_from: Share = 0.7
    """Part of the run after which the temperature begins to fall, geometrically."""
    vf_coef: Weight = 0.5
    """Weight of the value loss."""
    max_grad_norm: Positive = 0.5
    """Gradients are scaled down to this norm."""
    target_kl: Positive | None = None
    """Stop a rollout's updates beyond 1.5 times this KL divergence. Unset: never."""
    normalize_reward: bool = False
    """Divide rewards by the running std of their discounted return (gamma as above)."""
    norm_reward_clip: Positive = 10.0
    """Normalised rewards are clipped to this, so that one flag cannot shake the value."""
    action_bias_jump: Bias = 0.0
    """Added to the initial logits of actions that press A: e^1 = 2.7 times as likely at first."""
    action_bias_long_jump: Bias = 0.0
    """Added to the initial logit of the long jump."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Of the network's arithmetic; auto is bf16 where the CPU or GPU multiplies it natively."""
    channels_last: bool = True
    """Memory order of the convolutions; the same function, about twice as fast on a CPU."""


@dataclasses.dataclass(frozen=True)
class RNDFlags(Checked):
    """Random Network Distillation (Burda et al. 2018): pay for screens not seen before."""

    rnd_coef: Weight = 0.0
    """Weight of the intrinsic advantage. 0 is off and costs nothing."""
    rnd_lr: StepSize = 1e-4
    """Adam's step size of the predictor."""
    rnd_feature_dim: Annotated[int, pydantic.Field(ge=1, le=65_536)] = 512
    """Outputs of target and predictor."""
    rnd_warmup_steps: Annotated[int, pydantic.Field(ge=1, le=10**6)] = 512
    """Random agent steps per environment that fill the observation normaliser before training."""


@dataclasses.dataclass(frozen=True)
class RunFlags(Checked):
    """The run: where it writes, how often it looks at itself."""

    config: Path | None = None
    """A YAML file of any of these flags; the command line wins. Its key `base` names the file that
    it stands on, else that is the plain defaults. Unset: configs/recipe.yaml."""
    then: tuple[Path, ...] = ()
    """Recipes of the phases that follow in the same run, each from the weights before it and over
    its flags. What the command line sets stays. With --timesteps alone there are none."""
    after: tyro.conf.Suppress[Amount] = 0
    """Steps of the phases before this one."""
    run_dir: Path | None = None
    """The run folder. Unset: runs/ppo_<world>-<stage>_<date>-<time>, or the resumed run's own."""
    resume_model: Path | None = None
    """A checkpoint (.zip) or a run folder to continue, with its own flags unless given here."""
    warm_start: Path | None = None
    """A model or its folder: the weights alone begin a new run, under any stage or reward."""
    warm_temperature: Temperature = 1.0
    """Sampling temperature of a warm start's policy. 4 makes one that was sharpened try again."""
    seed: Seed = 0
    """Seeds networks, sampling and environments (environment i: seed + i)."""
    checkpoint_freq: Amount = 50_000
    """Agent steps between checkpoints; the newest two are kept. 0: only at the end."""
    eval_freq: Amount = 50_000
    """Agent steps between evaluations that keep best_eval.zip. 0: never."""
    eval_protocol: ProtocolName | Literal["auto"] = "auto"
    """fixed, noop or sticky: docs/protocol.md. auto: sticky if --sticky-prob is above 0, else
    noop."""
    eval_episodes: Annotated[int, pydantic.Field(ge=1, le=10_000)] = 3
    """Sampled or sticky episodes of an evaluation and stage. Argmax from no-ops has just 30: each
    is played once."""
    eval_modes: Literal["argmax", "both"] = "argmax"
    """Play argmax only, or argmax and sampled episodes: the worse of the two ranks the model."""
    eval_enough: Share = 0.0
    """End the run, as finished, once an evaluation clears this share in every mode. 0: never."""
    eval_stages: StagesFlag = ()
    """Stages to evaluate, as --stages; more than are trained shows what is forgotten. Unset: those
    that are trained."""
    backward_demos: Path | None = None
    """A folder of demos (<world>-<stage>.npz) along which episodes begin."""
    demo_starts: Literal["backward", "anywhere"] = "backward"
    """Where along --backward-demos: first near the goal and moving back, or anywhere with half of
    the episodes at the level's start."""
    eval_steps: Amount = 1_000
    """Agent steps after which an evaluation episode is cut off; 1-1 takes 260. 0: by the clock."""
    preview_freq: Amount = 0
    """Agent steps between preview videos. 0: never."""
    preview_episodes: Annotated[int, pydantic.Field(ge=1, le=1000)] = 1
    """Sampled episodes played for a preview; the best is filmed."""
    preview_steps: Amount = 1_000
    """Agent steps after which a preview episode is cut off. 0: the clock only."""
    preview_fps: Annotated[float, pydantic.Field(ge=0, le=1000)] = 0.0
    """Frames a second of the preview. 0: the game's own speed."""
    stop_on_collapse: bool = False
    """Stop, with exit code 1 and a checkpoint, when the doctor sees that learning is over."""
    wandb: str = ""
    """Log to this project of Weights & Biases, too. Unset: nothing leaves this machine."""
    live_preview: bool = False
    """Also keep previews/live.png, the first environment's screen, fresh every rollout."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that a run depends on."""

    run: RunFlags = dataclasses.field(default_factory=RunFlags)
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    ppo: PPOFlags = dataclasses.field(default_factory=PPOFlags)
    rnd: RNDFlags = dataclasses.field(default_factory=RNDFlags)

    def __post_init__(self) -> None:
        rollout = self.ppo.n_steps * self.env.n_envs
        if rollout % self.ppo.batch_size:
            raise UsageError(
                f"batch_size {self.ppo.batch_size} does not divide a rollout of "
                f"{self.ppo.n_steps} steps x {self.env.n_envs} environments = {rollout}"
            )
        if not self.env.planes:
            raise UsageError(f"PPO sees pixels: it cannot learn from {self.env.observation}")
        if self.env.planes > 1 and self.rnd.rnd_coef:
            raise UsageError("RND sees gray: --rnd-coef 0 learns in color")
        if self.env.screen_size < LEAST_SCREEN:
            raise UsageError(f"screen_size must be at least {LEAST_SCREEN} for the convolutions")
        if self.ppo.ema_decay == 1:
            raise UsageError("ema_decay 1 would keep the first weights for good; below 1 it moves")
        if self.ppo.imitation_coef and not self.run.backward_demos:
            raise UsageError("--imitation-coef needs the demos of --backward-demos")


def parse_config(arguments: Sequence[str]) -> TrainConfig:
    """Return the flags: defaults, under a resumed run's own, under --config's, under arguments.

    A new run without --config follows `DEFAULT_RECIPE`.

    Raises:
        UsageError: a file is missing or holds an unknown key, or values do not fit together.
        SystemExit: --help.
    """
    arguments = answer_help(arguments, PAGE, lambda: with_recipe(TrainConfig(), DEFAULT_RECIPE))
    files = FirstLook()
    files.add_argument("--config", type=Path)
    files.add_argument("--resume-model", type=Path)
    arguments = with_stages_flag(with_newer_flags(arguments))
    files.add_argument("--timesteps")
    given, _ = files.parse_known_args(arguments)
    default = TrainConfig()
    if given.resume_model:
        from mario_checkpoints import find_checkpoint, read_model_zip

        default = config_from_dict(read_model_zip(find_checkpoint(given.resume_model, True))[0])
    config_path = given.config or (None if given.resume_model else DEFAULT_RECIPE)
    if config_path:
        default = with_recipe(default, config_path)
    if given.timesteps and not given.resume_model:
        default = dataclasses.replace(default, run=dataclasses.replace(default.run, then=()))
    config = parse_flags(TrainConfig, arguments, PAGE.about, default, (tyro.conf.OmitArgPrefixes,))
    env = dataclasses.replace(config.env, discount=config.ppo.gamma)
    run = config.run
    if config.ppo.kickstart_coef and not run.warm_start:  # a recipe leaves it to the command line
        raise UsageError("--kickstart-coef needs the policy of --warm-start")
    if run.run_dir is None:
        if run.resume_model:
            run_dir = run_to_go_on_in(run.resume_model)
        else:
            now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
            run_dir = Path("runs") / f"ppo_{stages_label(env.stages)}_{now}"
        run = dataclasses.replace(run, run_dir=run_dir)
    config = dataclasses.replace(config, env=env, run=run)
    phases_of(config)  # that they fit is seen now, and not half an hour later
    return config


def with_recipe(config: TrainConfig, path: Path) -> TrainConfig:
    """Return a config under the values of a recipe and of those that it stands on.

    Raises:
        UsageError: a file is missing or holds an unknown key, or a value does not fit.
    """
    for file, values in recipe_layers(path):
        if not PLAN_ALONE.isdisjoint(values):
            raise UsageError(f"{file} is a plan of several runs: run_mario.sh plan {file}")
        config = with_file_values(config, values, str(file))
    return config


def plain_note(path: Path, config: TrainConfig) -> str:
    """Return one line for somebody whose file stands on the plain defaults; "" if it does not."""
    run = config.run.run_dir
    is_of_a_plan = run is not None and run.with_suffix(".yaml").resolve() == path.resolve()
    if is_of_a_plan or path.resolve().is_relative_to(ROOT / "configs"):
        return ""
    if len(recipe_layers(path)) > 1:
        return ""
    recipe = with_recipe(TrainConfig(), DEFAULT_RECIPE)
    changes = describe_changes(recipe, config, {"run"})
    if not changes:
        return ""
    short_names = {name.rpartition(".")[2]: change for name, change in changes.items()}
    decisive = [name for name in DECISIVE if name in short_names]
    named = (decisive or list(short_names))[:3]
    examples = ", ".join(f"{name} {short_names[name]}" for name in named)
    return (
        f"note: {path} names no `base`: {len(changes)} flags differ from the recipe, as "
        f"{examples}; "
        f"`base: {DEFAULT_RECIPE}` in it begins from that"
    )


def phases_of(config: TrainConfig) -> list[TrainConfig]:
    """Return the phases of a run from the one that a config is of, each with its own target.

    Raises:
        UsageError: a recipe does not fit what the command line set.
    """
    phases = [config]
    while phases[-1].run.then:
        phases.append(next_phase(phases[-1]))
    return phases


def next_phase(config: TrainConfig) -> TrainConfig:
    """Return the phase that follows: its recipe over the flags of the one before.

    What differs in that one from its own recipe, a person has set: it stays.
    """
    before, path = config.run, config.run.then[0]
    recipe = with_recipe(config, path if path.is_file() else ROOT / path)
    places = (before.config, ROOT / before.config) if before.config else ()
    followed = next(filter(Path.is_file, places), DEFAULT_RECIPE)
    own = with_recipe(TrainConfig(), followed)
    found = with_changes(recipe, own, config)
    run = dataclasses.replace(
        found.run,
        then=before.then[1:],
        after=config.ppo.timesteps,
        resume_model=None,
        warm_start=None,
    )
    target = config.ppo.timesteps + recipe.ppo.timesteps
    return dataclasses.replace(
        found,
        run=run,
        env=dataclasses.replace(found.env, discount=found.ppo.gamma),
        ppo=dataclasses.replace(found.ppo, timesteps=target),
    )


def run_to_go_on_in(model: Path) -> Path:
    """Return the run folder of a checkpoint, or the folder itself that was named.

    Raises:
        UsageError: the checkpoint lies in no run folder, or is a best model: its run has gone on.
    """
    if model.is_dir():
        return model
    from mario_checkpoints import find_checkpoint

    if (run := run_of_checkpoint(find_checkpoint(model, True))) is None:
        raise UsageError(f"{model} is no checkpoint in its run folder: --run-dir names a new one")
    return run


def config_as_dict(config: TrainConfig) -> dict[str, Any]:
    """Return train_config.json's content."""
    return config_content(config, AGENT, config.env)


def config_from_dict(content: dict[str, Any]) -> TrainConfig:
    """Return the flags of a train_config.json; where it ran and what it resumed are left out.

    What it was warm-started from stays: a resumed run's weights come from there, too. So does its
    recipe: in a phase that follows, what differs from it was set by a person.

    Raises:
        UsageError: it is another agent's, or holds what this version does not know.
    """
    config = config_of_content(TrainConfig(), content, AGENT)
    run = dataclasses.replace(config.run, run_dir=None, resume_model=None)
    return dataclasses.replace(config, run=run)
