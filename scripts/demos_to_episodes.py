"""Turn demos into episodes for DreamerV3's replay: `dreamer.py --seed-demos FOLDER`.

    python scripts/demos_to_episodes.py demos/1-1.npz --output episodes/1-1 --config mario_fast

Every flag of dreamer.py may follow: stage, action set and reward are to be those of the run.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from dreamerv3.envs.mario import demo_rows, mario_row, replay_contents
from dreamerv3.flags import parse_config
from dreamerv3.replay import Replay
from mario_cli import UsageError, exit_code
from mario_demos import load_demos
from mario_values import Checked, Share, parse_known_flags


@dataclasses.dataclass(frozen=True)
class DemosFlags(Checked):
    """Which demos, where to."""

    demos: tyro.conf.Positional[tuple[Path, ...]]
    """Demo files, or folders of them; demos of other stages in a folder are left out."""
    output: Path
    """The folder of episodes; what it holds already stays."""
    max_unfit: Share = 0.1
    """Share of steps whose buttons the action set may lack; the nearest action stands for them."""


def convert(flags: DemosFlags, others: Sequence[str]) -> None:
    """Play the demos and append them, one episode after the other."""
    config = parse_config(others)
    env = config.env
    if not flags.demos:
        raise UsageError("name at least one demo")
    demos = [demo for path in flags.demos for demo in load_demos(path, env.stages)]
    episodes = []
    for number, demo in enumerate(demos, 1):
        rows, unfit = demo_rows(demo, env, config.keeps_ram)
        steps = len(rows) - 1
        print(
            f"demo {number} of {len(demos)}: {steps} steps, "
            f"{'cleared' if demo.cleared else 'not cleared'}, return {rows['reward'].sum():.1f}, "
            f"{unfit} steps with buttons that {env.action_set} lacks"
        )
        if unfit > flags.max_unfit * steps:
            raise UsageError(
                f"action set {env.action_set} lacks the buttons of {unfit} of {steps} steps: "
                "choose another --action-set, or raise --max-unfit"
            )
        episodes.append(rows)
    row = mario_row(env, config.keeps_ram)
    replay = Replay(flags.output, row, replay_contents(env), streams=1, length=1)
    for rows in episodes:
        replay.append(0, rows)
    replay.flush()
    print(f"{flags.output}: {len(replay):,} rows")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, convert, and turn every expected failure into one line and an exit code."""
    about = __doc__.split("\n\n")[0]
    return exit_code(lambda: convert(*parse_known_flags(DemosFlags, arguments, about)))


if __name__ == "__main__":
    sys.exit(main())
