"""DreamerV3's flags: the command line, the overlays of configs.yaml, train_config.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import tyro

from dreamerv3.exploration import ExplorationConfig
from dreamerv3.models import ModelConfig
from mario_checkpoints import find_checkpoint, newest_checkpoint, read_model_zip
from mario_cli import UsageError, with_stages_flag
from mario_config import EnvConfig
from mario_curriculum import STEPS, BackwardPace, starts_along
from mario_demos import load_demos
from mario_help import FirstPage, answer_help
from mario_recipes import (
    config_content,
    config_of_content,
    layers_of,
    with_file_values,
    with_newer_flags,
)
from mario_runs import RunFolder
from mario_starts import Starts
from mario_values import (
    Amount,
    Checked,
    Count,
    FirstLook,
    Positive,
    Seed,
    Share,
    Threads,
    parse_flags,
    read_yaml,
)

PAGE = FirstPage(
    "dreamer",
    "Train DreamerV3. Without --config and --seed-demos it plays 48 clears of the shipped PPO "
    "policy first and learns from them too, which is how it reached the flag of 1-1 on three seeds "
    "of three: after 27 to 39 minutes on one core of an AMD EPYC; 150,000 steps take about 50 "
    "(results/dreamer_1-1). The same command goes on with a run that was stopped.",
    (
        *("run.run_dir", "env.stages", "run.timesteps", "run.seed", "run.config"),
        *("run.seed_demos", "curriculum.backward_demos", "exploration.behaviour"),
        *("replay.train_ratio", "run.threads"),
    ),
    (
        "--run-dir runs/dreamer",
        "--config scratch --run-dir runs/scratch",
        "--config taught --teacher pretrained/teachers --run-dir runs/taught",
    ),
    prefixes=("curriculum", "exploration", "replay"),
)
AGENT = "dreamerv3"
CONFIGS = Path(__file__).with_name("configs.yaml")


@dataclasses.dataclass(frozen=True)
class RunConfig(Checked):
    """The run: where it writes, how often it looks at itself."""

    run_dir: Path = Path("runs/dreamer")
    """The run folder; one that holds a run is continued. A new run needs one."""
    config: tuple[str, ...] = ()
    """Overlays of dreamerv3/configs.yaml by name, or YAML files of any of these flags, in order."""
    resume_model: Path | None = None
    """Begin a new run folder where this checkpoint or best_eval.zip was, replay included."""
    timesteps: Count = 1_000_000
    """Agent steps, all environments together. The way without --config takes 150,000, configs their
    own."""
    seed: Seed = 0
    """Seeds networks, sampling, replay and environments (environment i: seed + i)."""
    relabel: bool = False
    """Recompute the replay's rewards if they were made under other reward flags."""
    warm_start: Path | None = None
    """A run folder or a model file whose weights a new run begins with; replay, optimiser and
    counts are its own. What the model of these flags has besides begins anew."""
    seed_demos: Path | None = None
    """A folder of episodes (scripts/demos_to_episodes.py) that every batch holds some of."""
    teacher: Path | None = None
    """Who says what to do in every played state, for the actor to learn (model.label_scale): a
    teacher's model file or run folder, or a folder of <stage>.zip (`teach_mario.py`)."""
    log_every: Count = 1000
    """Agent steps between lines of metrics.jsonl."""
    checkpoint_freq: Count = 10_000
    """Agent steps between checkpoints; the newest two are kept."""
    eval_freq: Amount = 25_000
    """Agent steps between evaluations (sticky if --sticky-prob is above 0, else noop; argmax and
    sampled) and the preview, the
    best of the sampled episodes. 0: never."""
    eval_episodes: Annotated[int, pydantic.Field(ge=1, le=10_000)] = 16
    """Episodes of each."""
    eval_steps: Amount = 1_000
    """Agent steps after which an evaluation episode is cut off. 0: by the clock."""
    wandb: str = ""
    """Log to this project of Weights & Biases, too. Unset: nothing leaves this machine."""
    eval_probe: bool = False
    """Look with every evaluation, too, at what the model's state tells of the things on the screen
    (dreamerv3/probe.py, with half of its play)."""
    stop_on_collapse: bool = False
    """Stop, with exit code 1 and a checkpoint, when the doctor sees that learning is over."""
    threads: Threads = 0
    """Threads of torch. 0: one a core."""


@dataclasses.dataclass(frozen=True)
class ReplayConfig(Checked):
    """The replay, and how much is learnt from it."""

    batch: Annotated[int, pydantic.Field(ge=1, le=65_536)] = 16
    """Sequences in a batch."""
    length: Annotated[int, pydantic.Field(ge=2, le=65_536)] = 64
    """Steps in a sequence."""
    train_ratio: Positive = 32.0
    """Replayed steps for every environment step."""
    capacity: Count = 1_000_000
    """Steps kept on disk, about 4 KB each; the oldest go."""
    demo_fraction: Share = 0.25
    """Share of a batch that is taken from --seed-demos."""
    demo_until: Share = 0.8
    """Clear rate of the last 100 episodes from which demos are left out: they help no more."""


@dataclasses.dataclass(frozen=True)
class CurriculumConfig(Checked):
    """Starts along demos (`mario_curriculum`)."""

    backward_demos: Path | None = None
    """A demo file or a folder of them. Unset: every episode begins at the level's start."""
    demo_starts: Literal["backward", "anywhere"] = "backward"
    """Where along them: first near the goal and moving back, or anywhere with half of the episodes.
    The other flags are for backward."""
    backward_share: Share = 0.5
    """Share of episodes that begin along a demo, until its start is reached."""
    backward_steps: Annotated[int, pydantic.Field(ge=1, le=10**6)] = STEPS
    """Agent steps between two places of a demo."""
    backward_window: Annotated[int, pydantic.Field(ge=1, le=10**6)] = 3
    """Places, from the furthest back toward the goal, that episodes begin at."""
    backward_episodes: Annotated[int, pydantic.Field(ge=1, le=10**6)] = 20
    """Episodes, begun in the window, that the clear rate is taken of."""
    backward_threshold: Share = 0.5
    """Clear rate from which the window moves back by one place."""

    def starts(self, env: EnvConfig) -> Starts | None:
        """Return where episodes begin, None for the level's start.

        Raises:
            UsageError: a demo is missing, of another stage, or does not clear it.
        """
        if self.backward_demos is None:
            return None
        pace = BackwardPace(
            share=self.backward_share,
            steps=self.backward_steps,
            window=self.backward_window,
            episodes=self.backward_episodes,
            threshold=self.backward_threshold,
        )
        demos = load_demos(self.backward_demos, env.stages)
        return starts_along(demos, env, self.demo_starts, pace)


@dataclasses.dataclass(frozen=True)
class DreamerConfig:
    """Everything that a run depends on."""

    run: tyro.conf.OmitArgPrefixes[RunConfig] = dataclasses.field(default_factory=RunConfig)
    env: tyro.conf.OmitArgPrefixes[EnvConfig] = dataclasses.field(
        default_factory=lambda: EnvConfig(frame_stack=1, screen_size=64)
    )
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    exploration: ExplorationConfig = dataclasses.field(default_factory=ExplorationConfig)
    replay: ReplayConfig = dataclasses.field(default_factory=ReplayConfig)
    curriculum: CurriculumConfig = dataclasses.field(default_factory=CurriculumConfig)

    def __post_init__(self) -> None:
        if self.env.vec_backend != "batched":
            raise UsageError("DreamerV3 plays the batched environment: --vec-backend batched")
        if not self.env.planes:
            raise UsageError(
                f"DreamerV3 sees pictures: --env.observation pixels or color, not "
                f"{self.env.observation}"
            )
        if 0 < self.model.imagined_starts < self.replay.batch:
            raise UsageError("model.imagined_starts must be at least replay.batch, or 0 for all")
        if self.model.burn_in > self.replay.length - 2:
            raise UsageError("model.burn_in must leave two steps of replay.length")
        if self.model.deter % self.model.blocks:
            raise UsageError(
                f"model.deter {self.model.deter} is not a multiple of model.blocks "
                f"{self.model.blocks}"
            )

    @property
    def keeps_ram(self) -> bool:
        """Whether rows of the replay hold the machine's RAM: a loss is made of it."""
        of_model = self.model.scene_head != "none" or self.model.sprite_share > 0
        return of_model or self.run.teacher is not None


def parse_config(arguments: Sequence[str]) -> DreamerConfig:
    """Return the flags: defaults, or those of the run in --run-dir; --config; the command line.

    Raises:
        UsageError: the arguments do not parse, an overlay or a file does not exist, or values do
            not fit together.
        SystemExit: --help.
    """
    arguments = answer_help(arguments, PAGE, DreamerConfig)
    first = FirstLook()
    first.add_argument("--run-dir", type=Path)
    first.add_argument("--resume-model", type=Path)
    first.add_argument("--config", nargs="*", default=[])
    arguments = with_stages_flag(with_newer_flags(arguments))
    given, _ = first.parse_known_args(arguments)
    default = DreamerConfig()
    run = RunFolder(given.run_dir) if given.run_dir else None
    if run and (checkpoint := newest_checkpoint(run, is_quiet=True)):
        default = config_from_dict(checkpoint.config)
    elif given.resume_model:
        if not run:
            raise UsageError("--resume-model begins another run: --run-dir names its folder")
        default = config_from_dict(read_model_zip(find_checkpoint(given.resume_model, True))[0])
    for name in given.config:
        default = with_overlay(default, name)
    config = parse_flags(DreamerConfig, arguments, PAGE.about, default)
    env = dataclasses.replace(config.env, discount=config.model.discount)
    return dataclasses.replace(config, env=env)


def with_overlay(config: DreamerConfig, name: str) -> DreamerConfig:
    """Return config with the values of an overlay of `CONFIGS`, or of a YAML file.

    Raises:
        UsageError: there is no such overlay or file, it holds what is no flag, or its bases go in
            a circle.
    """
    overlays = read_yaml(CONFIGS)

    def read(layer: str) -> dict[str, Any]:
        if layer in overlays:
            return overlays[layer]
        if Path(layer).suffix in (".yaml", ".yml"):
            return read_yaml(Path(layer))
        raise UsageError(f"no config {layer!r}; there are: {', '.join(overlays)}, or a YAML file")

    for layer, values in layers_of(name, read, lambda _, base: base):
        where = f"{CONFIGS.name}: {layer}" if layer in overlays else layer
        config = with_file_values(config, values, where)
    return config


def config_as_dict(config: DreamerConfig) -> dict[str, Any]:
    """Return train_config.json's content."""
    return config_content(config, AGENT, config.env)


def config_from_dict(content: dict[str, Any]) -> DreamerConfig:
    """Return the flags of a train_config.json, --relabel apart.

    Raises:
        UsageError: it is another agent's or another version's.
    """
    config = config_of_content(DreamerConfig(), content, AGENT)
    return dataclasses.replace(config, run=dataclasses.replace(config.run, relabel=False))
