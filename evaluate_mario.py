"""Judge a policy: clear rate with its interval, max-x, steps to the flag; summary.json and a video.

    python evaluate_mario.py --model pretrained/ppo_mario_1-1 --episodes 100 --protocol noop

Without --model it judges the stage's shipped policy, by default that of 1-1. Protocols:
docs/protocol.md.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pydantic
from tqdm import tqdm

from mario_cli import exit_code, with_stages_flag
from mario_config import EmulatorName, EnvConfig, ProtocolName, StagesFlag, in_process
from mario_files import make_folder
from mario_game import FRAMES_PER_SECOND, stages_label
from mario_judge import JUDGE_SEED, episodes_played, evaluate, protocol_config, summary_lines
from mario_values import Amount, Checked, Episodes, Seed, parse_flags

if TYPE_CHECKING:
    from mario_rollout import Episode


@dataclasses.dataclass(frozen=True)
class EvaluateFlags(Checked):
    """What to judge, and how."""

    model: Path | None = None
    """A model zip, a run folder or a shipped policy's folder. Unset: the stage's shipped policy."""
    episodes: Episodes = 20
    """Episodes of each stage; episode i has the seed --seed + i. Argmax under fixed or noop plays
    all that there are instead: 1 or 30."""
    deterministic: bool = False
    """Argmax of the policy instead of samples from it. The two are reported apart."""
    protocol: ProtocolName = "noop"
    """fixed: one start; noop: 1-30 random no-ops; sticky: noop and sticky buttons at 0.25."""
    emulator: EmulatorName = "fast"
    """fast, or nes-py, the reference: the same figures, thirty times slower."""
    seed: Seed = JUDGE_SEED
    """First episode's seed: its no-ops, its sticky frames, its action samples. Trainings seed
    nothing near it."""
    stages: StagesFlag = ()
    """Judge in these stages, each apart, as 1-1 or 1-1,8-4 (--stage 1-2 says the same of one).
    Unset: where the policy was trained."""
    max_steps: Amount = 0
    """Agent steps after which an episode is cut off. 0: only the game's clock ends it."""
    n_envs: Annotated[int, pydantic.Field(ge=1, le=4096)] = 30
    """Episodes played side by side."""
    output_dir: Path | None = None
    """Unset: judged/ in the model's run, in a folder by its steps, protocol and mode. Of a shipped
    policy: evaluation_<policy>_... in the current folder's runs/."""
    video: bool = True
    """Write evaluation.mp4, the best episode at the game's speed."""
    every_frame: bool = False
    """With all of the game's 60 frames a second, not the 15 at which the policy acts."""
    demos: Path | None = None
    """A folder where every clear is kept as a demo, <seed>.npz, or <stage>_<seed>.npz where several
    stages are judged."""


def write_demo(path: Path, episode: Episode, config: EnvConfig, model: str) -> None:
    """Write an episode as a demo; it is played again for its frames' buttons."""
    from mario_demos import record, save_demo
    from mario_rollout import pressed_buttons

    pressed, noops = pressed_buttons(episode, config)
    source = f"policy:{model}"
    demo = record(*episode.stage, pressed, source=source, seed=episode.seed, noops=noops)
    save_demo(path, demo)


def write_evaluation(flags: EvaluateFlags) -> None:
    """Evaluate, write summary.json and evaluation.mp4, and print the summary."""
    # torch and the machine: help and wrong flags do not wait for them
    from mario_policies import choose_model, judged_folder, judging, load_policy, trained_elsewhere
    from mario_rollout import best_episode, game_fps, in_stages
    from mario_video import film, write_video

    model = choose_model(flags.model, flags.stages)
    policy = load_policy(model)
    print(judging(model), flush=True)
    config = in_stages(policy.env_config, flags.stages)
    config = in_process(dataclasses.replace(config, n_envs=flags.n_envs), flags.emulator)
    if elsewhere := trained_elsewhere(policy, config.stages):
        print(elsewhere)
    how = f"{flags.protocol}_{'argmax' if flags.deterministic else 'sampled'}"
    if config.stages != policy.env_config.stages:
        how += f"_{stages_label(config.stages)}"
    output = flags.output_dir or judged_folder(model, how)
    for folder in filter(None, (output, flags.demos)):
        make_folder(folder)
    episodes_each = episodes_played(flags.protocol, flags.episodes, flags.deterministic)
    total = episodes_each * len(config.stages)
    with tqdm(total=total, unit="episode", disable=None) as bar:
        flags_seen = 0

        def count(episode: Episode) -> None:
            nonlocal flags_seen
            flags_seen += episode.flag
            bar.set_postfix_str(f"{flags_seen} flags")
            bar.update()

        summary, episodes = evaluate(
            policy,
            config,
            protocol=flags.protocol,
            episodes=flags.episodes,
            deterministic=flags.deterministic,
            seed=flags.seed,
            max_steps=flags.max_steps,
            model=model.as_posix(),
            on_episode=count,
        )
    print(*summary_lines(summary), sep="\n", flush=True)  # before anything is written
    summary.write(output / "summary.json")
    played = protocol_config(config, flags.protocol)
    if flags.video:
        frames = film(best_episode(episodes), played, every_frame=flags.every_frame)
        fps = FRAMES_PER_SECOND if flags.every_frame else game_fps(played)
        write_video(output / "evaluation.mp4", frames, fps)
    if flags.demos:
        for episode in filter(lambda episode: episode.flag, episodes):
            stage = f"{episode.stage}_" if len(config.stages) > 1 else ""
            path = flags.demos / f"{stage}{episode.seed}.npz"
            write_demo(path, episode, played, summary.model)
    print(f"  written   {output / 'evaluation.mp4' if flags.video else output}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, judge, and turn every expected failure into one line and an exit code."""
    given = sys.argv[1:] if arguments is None else arguments

    def task() -> None:
        write_evaluation(parse_flags(EvaluateFlags, with_stages_flag(given), __doc__))

    return exit_code(task)


if __name__ == "__main__":
    sys.exit(main())
