"""Judge a run's newest checkpoint beside the training: sampled and argmax, on one CPU thread.

    python scripts/diagnose_latest.py --run runs/mine            # once
    python scripts/diagnose_latest.py --run runs/mine --watch    # every new checkpoint, into a CSV

With --watch each checkpoint adds a line per mode to <run>/diagnosis/checkpoints.csv, and a film of
its best episode where that clears or comes far.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from mario_cli import UsageError, exit_code
from mario_config import EmulatorName, ProtocolName, in_process
from mario_judge import JUDGE_SEED, NOOP_MAX, Summary, evaluate, protocol_config
from mario_policies import load_policy
from mario_rollout import Episode, best_episode, game_fps
from mario_runs import BadModelFile
from mario_status import newest_model, newest_run
from mario_values import Amount, Checked, Episodes, Pause, Seed, parse_flags
from mario_video import film_with_captions, write_video

COLUMNS = (
    *("time", "checkpoint", "step", "deterministic", "protocol", "episodes", "flags_cleared"),
    *("median_max_x", "best_max_x", "median_clear_steps", "best_clear_steps", "mean_return"),
)


@dataclasses.dataclass(frozen=True)
class DiagnoseFlags(Checked):
    """Which run, how thoroughly, once or for as long as it trains."""

    run: Path | None = None
    """The run folder. Unset: the one that wrote last."""
    runs_root: Path = Path("runs")
    """Where to look for it."""
    episodes: Annotated[Episodes, tyro.conf.arg(aliases=["--seeds"])] = 8
    """Episodes of each mode and stage; argmax from no-ops has just 30, each of which is played."""
    protocol: ProtocolName = "noop"
    """fixed, noop or sticky: docs/protocol.md."""
    max_steps: Amount = 1_000
    """Agent steps after which an episode is cut off. 0: only the game's clock ends it."""
    emulator: EmulatorName = "fast"
    """fast, or nes-py, the reference."""
    seed: Seed = JUDGE_SEED
    """First episode's seed: starts that neither training nor its evaluations begin with."""
    watch: bool = False
    """Wait for the next checkpoint, and the next, until Ctrl-C."""
    every_s: Pause = 60.0
    """Seconds between two looks for a new checkpoint."""
    render_from_x: Amount = 2_500
    """With --watch: film the best episode if it clears or comes this far, in px."""


def step_of(checkpoint: Path) -> int | None:
    """Return the agent steps in a checkpoint's name."""
    match = re.search(r"(\d+)_steps", checkpoint.stem)
    return int(match[1]) if match else None


def play_both_modes(flags: DiagnoseFlags, checkpoint: Path) -> list[tuple[Summary, Episode]]:
    """Play a checkpoint in both modes; return each one's summary and best episode, and print."""
    policy = load_policy(checkpoint)
    config = dataclasses.replace(in_process(policy.env_config, flags.emulator), n_envs=NOOP_MAX)
    judged = []
    for deterministic in (False, True):
        summary, episodes = evaluate(
            policy,
            config,
            protocol=flags.protocol,
            episodes=flags.episodes,
            deterministic=deterministic,
            seed=flags.seed,
            max_steps=flags.max_steps,
            model=checkpoint.name,
        )
        judged.append((summary, best_episode(episodes)))
        print(
            f"{checkpoint.name} {summary.mode:<7} {summary.clears} cleared, max-x median "
            f"{summary.median_max_x:.0f}, best {summary.best_max_x}",
            flush=True,
        )
    return judged


def row(summary: Summary, checkpoint: Path) -> dict[str, Any]:
    """Return a line of the CSV."""
    content = summary.as_json() | {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "checkpoint": checkpoint.name,
        "step": step_of(checkpoint),
    }
    return {column: content[column] for column in COLUMNS}


def keep(flags: DiagnoseFlags, run: Path, checkpoint: Path) -> None:
    """Judge a checkpoint, append to the CSV, and film what is worth it."""
    judged = play_both_modes(flags, checkpoint)
    path = run / "diagnosis" / "checkpoints.csv"
    path.parent.mkdir(exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(row(summary, checkpoint) for summary, _ in judged)
    best = best_episode([episode for _, episode in judged])
    if best.flag or best.max_x >= flags.render_from_x:
        policy = load_policy(checkpoint)
        config = protocol_config(in_process(policy.env_config, flags.emulator), flags.protocol)
        video = path.parent / f"{checkpoint.stem}.mp4"
        write_video(video, film_with_captions(best, config, policy), game_fps(config))
        print(f"filmed {video}")


def diagnosed(run: Path) -> set[str]:
    """Return the names of the checkpoints in a run's CSV."""
    path = run / "diagnosis" / "checkpoints.csv"
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {line["checkpoint"] for line in csv.DictReader(file)}


def follow_checkpoints(flags: DiagnoseFlags) -> None:
    """Do what the flags ask for."""
    if flags.run and not flags.run.is_dir():
        raise UsageError(f"there is no run folder {flags.run}")
    # Beside a training: one thread, and behind it in the queue.
    torch.set_num_threads(1)
    if hasattr(os, "nice"):
        os.nice(10)
    if not flags.watch:
        play_both_modes(flags, newest_model(flags.run or newest_run(flags.runs_root)))
        return
    while True:
        run = flags.run or newest_run(flags.runs_root)
        try:
            checkpoint = newest_model(run)
            if checkpoint.name not in diagnosed(run):
                keep(flags, run, checkpoint)
        except BadModelFile as error:  # none yet, or the trainer dropped it in this moment
            print(f"waiting: {error}", flush=True)
        time.sleep(flags.every_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and diagnose."""
    return exit_code(lambda: follow_checkpoints(parse_flags(DiagnoseFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
