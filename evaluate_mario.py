"""Judge a policy: clear rate with its interval, max-x, steps to the flag; summary.json and a video.

    python evaluate_mario.py --model pretrained/ppo_mario_1-1 --episodes 100 --protocol noop

Without --model it judges the shipped policy of 1-1. Protocols: docs/protocol.md.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro
from tqdm import tqdm

from mario_cli import UsageError, exit_code, with_stages_flag
from mario_config import EmulatorName, EnvConfig, StagesFlag, in_process
from mario_demos import record, save_demo
from mario_game import StageId
from mario_policies import find_model, load_policy, shipped_model
from mario_rollout import (
    Episode,
    Policy,
    ProtocolName,
    Summary,
    best_episode,
    evaluate,
    film,
    game_fps,
    protocol_config,
    watch,
    write_video,
)
from mario_runs import write_json


@dataclasses.dataclass(frozen=True)
class EvaluateFlags:
    """What to judge, and how."""

    model: Path | None = None
    """A model zip, a run folder or a shipped policy's folder. Unset: the shipped policy of 1-1."""
    episodes: int = 20
    """Episodes; episode i has the seed --seed + i."""
    deterministic: bool = False
    """Argmax of the policy instead of samples from it. The two are reported apart."""
    protocol: ProtocolName = "noop"
    """fixed: one start; noop: 1-30 random no-ops; sticky: noop and sticky buttons at 0.25."""
    emulator: EmulatorName = "fast"
    """fast, or nes-py, the reference: the same figures, thirty times slower."""
    seed: int = 0
    """First episode's seed: its no-ops, its sticky frames, its action samples."""
    stages: StagesFlag = ()
    """Judge in these stages, as 1-1 or 1-1,8-4 (--stage 1-2 says the same of one). Unset: where the
    policy was trained."""
    max_steps: int = 0
    """Agent steps after which an episode is cut off. 0: only the game's clock ends it."""
    n_envs: int = 20
    """Episodes played side by side."""
    output_dir: Path | None = None
    """Unset: evaluation_<protocol>_<argmax|sampled> in the current folder's runs/."""
    video: bool = True
    """Write evaluation.mp4, the best episode at the game's speed."""
    demos: Path | None = None
    """A folder where every clear is kept as a demo, <seed>.npz."""


def print_summary(summary: Summary) -> None:
    """Print what a person wants to know first."""
    low, high = summary.clear_rate_ci95
    kind = "argmax" if summary.deterministic else "sampled"
    print(
        f"{summary.world}-{summary.stage} {kind}, protocol {summary.protocol} on "
        f"{summary.emulator}, {summary.episodes} episodes from seed {summary.seed}\n"
        f"  cleared   {summary.flags_cleared}/{summary.episodes} "
        f"({100 * summary.clear_rate:.0f} %, 95 % interval {100 * low:.0f}-{100 * high:.0f} %)\n"
        f"  max-x     median {summary.median_max_x:.0f}, best {summary.best_max_x} "
        f"of {summary.goal_line_x}"
    )
    if summary.best_clear_steps is not None:
        print(
            f"  clear in  median {summary.median_clear_steps:.0f}, "
            f"best {summary.best_clear_steps} agent steps"
        )
    if summary.note:
        print(f"  note      {summary.note}")


def keep_demo(path: Path, episode: Episode, policy: Policy, config: EnvConfig, model: str) -> None:
    """Write an episode as a demo; it is played again for its frames' buttons."""
    pressed: list[int] = []
    noops = 0
    for moment in watch(policy, config, episode.seed, actions=episode.actions, every_frame=True):
        noops = noops if moment.step else len(moment.frames)
        pressed += [frame.buttons for frame in moment.frames]
    [stage] = config.stages
    source = f"policy:{model}"
    save_demo(path, record(*stage, pressed, source=source, seed=episode.seed, noops=noops))


def judge(flags: EvaluateFlags) -> None:
    """Evaluate, write summary.json and evaluation.mp4, and print the summary."""
    model = flags.model or shipped_model(StageId(1, 1))
    if model is None:
        raise UsageError("no policy of 1-1 is shipped under pretrained/; name one with --model")
    policy = load_policy(model)
    trained = policy.env_config
    config = dataclasses.replace(
        trained,
        stages=flags.stages or trained.stages,
        goal_line_x=None if flags.stages else trained.goal_line_x,
        n_envs=flags.n_envs,
    )
    config = in_process(config, flags.emulator)
    with tqdm(total=flags.episodes, unit="episode", disable=None) as bar:
        flags_seen = 0

        def show(episode: Episode) -> None:
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
            model=find_model(model).as_posix(),
            on_episode=show,
        )
    kind = "argmax" if flags.deterministic else "sampled"
    output = flags.output_dir or Path("runs") / f"evaluation_{flags.protocol}_{kind}"
    write_json(output / "summary.json", dataclasses.asdict(summary))
    played = protocol_config(config, flags.protocol)
    if flags.video:
        frames = film(best_episode(episodes), played)
        write_video(output / "evaluation.mp4", frames, game_fps(played))
    if flags.demos:
        for episode in episodes:
            if episode.flag:
                keep_demo(
                    flags.demos / f"{episode.seed}.npz", episode, policy, played, summary.model
                )
    print_summary(summary)
    print(f"  written   {output}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, judge, and turn every expected failure into one line and an exit code."""
    given = sys.argv[1:] if arguments is None else arguments

    def task() -> None:
        judge(tyro.cli(EvaluateFlags, args=with_stages_flag(given), description=__doc__))

    return exit_code(task)


if __name__ == "__main__":
    sys.exit(main())
