"""Play a policy on many seeds and keep the best episode: best.mp4, best.gif, best.json.

    python render_best_checkpoint.py --auto --seeds 64 --policy-modes stochastic

Every seed's episode stands in all_runs.json. Episodes are played side by side; only the best one is
filmed, from its actions, by playing it again.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from tqdm import tqdm

from mario_cli import UsageError, exit_code, with_stages_flag
from mario_config import EmulatorName, ProtocolName, StagesFlag, in_process
from mario_files import make_folder
from mario_judge import Summary, episodes_played, evaluate, protocol_config
from mario_runs import CONFIG_MEMBER, write_json
from mario_values import Amount, Checked, Count, Seed, parse_flags

if TYPE_CHECKING:
    from mario_rollout import Episode

MODES = ("deterministic", "stochastic")


@dataclasses.dataclass(frozen=True)
class RenderFlags(Checked):
    """Whom to film, on which seeds, and how."""

    model: Path | None = None
    """A model zip, a run folder or a shipped policy's folder. Unset: the stage's shipped policy."""
    auto: bool = False
    """Find the model instead: the best evaluated one of all runs."""
    prefer_latest_step: bool = False
    """With --auto: the newest checkpoint of the run that wrote last."""
    runs_root: Path = Path("runs")
    """Where --auto looks."""
    stages: StagesFlag = ()
    """Play in these stages, as 1-1 or 1-1,8-4 (--stage 1-2 says the same of one). Unset: where the
    policy was trained."""
    seeds: Count = 16
    """Episodes of each stage and policy mode; their seeds are --seed-base, --seed-base + 1, ...
    Argmax under fixed or noop plays all that there are instead: 1 or 30."""
    seed_base: Seed = 0
    """First seed: an episode's no-ops, sticky frames and action samples."""
    policy_modes: str = "deterministic,stochastic"
    """deterministic (argmax), stochastic (sampled), or both, joined by a comma."""
    protocol: ProtocolName = "noop"
    """fixed: one start; noop: 1-30 random no-ops; sticky: noop and sticky buttons at 0.25."""
    rank_by: Literal["default", "fastest_clear"] = "default"
    """default: clears, then max-x, then return; fastest_clear: clears in the fewest steps."""
    max_steps: Amount = 0
    """Agent steps after which an episode is cut off. 0: only the game's clock ends it."""
    fps: Annotated[float, pydantic.Field(ge=0, le=1000)] = 0.0
    """Agent steps shown a second. 0: the game's own speed."""
    every_frame: bool = False
    """Film all of the game's 60 frames a second, not the 15 at which the policy acts."""
    gif: bool = True
    """Write best.gif too."""
    captions: bool = False
    """A strip below the picture: step, x, value, buttons."""
    export_max_width: Annotated[int, pydantic.Field(ge=16, le=4096)] = 512
    """Width of the film in px: whole multiples of the screen's 256, or less than that. What plays
    H.264 seldom takes more than 4096."""
    output_dir: Path | None = None
    """Unset: runs/render_<name of the run or of the shipped policy>."""
    emulator: EmulatorName = "fast"
    """fast, or nes-py, the reference: the same film, thirty times slower."""
    n_envs: Annotated[int, pydantic.Field(ge=1, le=4096)] = 16
    """Episodes played side by side."""


def find(flags: RenderFlags) -> Path:
    """Return the model file that the flags name.

    Raises:
        UsageError: they contradict each other, or there is none.
    """
    from mario_checkpoints import find_model
    from mario_policies import choose_model
    from mario_status import best_run, newest_model, newest_run

    if flags.model and flags.auto:
        raise UsageError("--model names a model, --auto finds one: give one of the two")
    if flags.prefer_latest_step and not flags.auto:
        raise UsageError("--prefer-latest-step belongs to --auto")
    if not flags.auto:
        return choose_model(flags.model, flags.stages)
    if flags.prefer_latest_step:
        return newest_model(newest_run(flags.runs_root))
    return find_model(best_run(flags.runs_root))


def name_of(model: Path) -> str:
    """Return the name of the run or shipped policy that a model file belongs to."""
    for folder in model.resolve().parents:
        if (folder / CONFIG_MEMBER).is_file():
            return folder.name
    return model.stem


def as_dict(episode: Episode, mode: str) -> dict[str, Any]:
    """Return an episode as all_runs.json has it."""
    content = dataclasses.asdict(episode) | {"mode": mode, "length": episode.length}
    content["stage"] = str(episode.stage)
    del content["actions"], content["drawn_from"]
    return content


def render(flags: RenderFlags) -> None:
    """Play, rank, film and write."""
    modes = list(dict.fromkeys(flags.policy_modes.split(",")))
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise UsageError(f"no policy mode {unknown[0]!r}; there are: {', '.join(MODES)}")
    # torch and the machine: help and wrong flags do not wait for them
    from mario_policies import load_policy, trained_elsewhere
    from mario_rollout import fastest_clear, furthest, game_fps, in_stages
    from mario_video import film, film_with_captions, write_video

    model = find(flags)
    output = flags.output_dir or Path("runs") / f"render_{name_of(model)}"
    policy = load_policy(model)
    config = in_process(in_stages(policy.env_config, flags.stages), flags.emulator)
    config = dataclasses.replace(config, n_envs=flags.n_envs)
    if elsewhere := trained_elsewhere(policy, config.stages):
        print(elsewhere)
    make_folder(output)
    rank = fastest_clear if flags.rank_by == "fastest_clear" else furthest
    summaries: list[Summary] = []
    played: list[tuple[str, Episode]] = []
    each = [episodes_played(flags.protocol, flags.seeds, mode == "deterministic") for mode in modes]
    with tqdm(total=sum(each) * len(config.stages), unit="episode", disable=None) as bar:
        for mode in modes:
            summary, episodes = evaluate(
                policy,
                config,
                protocol=flags.protocol,
                episodes=flags.seeds,
                deterministic=mode == "deterministic",
                seed=flags.seed_base,
                max_steps=flags.max_steps,
                model=model.as_posix(),
                on_episode=lambda _: bar.update(),
            )
            summaries.append(summary)
            played += [(mode, episode) for episode in episodes]
    played.sort(key=lambda run: rank(run[1]), reverse=True)
    mode, best = played[0]
    filmed = protocol_config(config, flags.protocol)
    fps = flags.fps or game_fps(filmed)
    fps *= filmed.frame_skip if flags.every_frame else 1
    about = {
        "model": model.as_posix(),
        "protocol": flags.protocol,
        "emulator": flags.emulator,
        "rank_by": flags.rank_by,
        "fps": fps,
    }
    write_json(output / "best.json", as_dict(best, mode) | about | {"actions": best.actions})
    runs = [as_dict(episode, mode) for mode, episode in played]
    write_json(
        output / "all_runs.json",
        about | {"summaries": [one.as_json() for one in summaries], "runs": runs},
    )
    for summary in summaries:
        print(
            f"{MODES[not summary.deterministic]}: {summary.clears} cleared, "
            f"median max-x {summary.median_max_x:.0f}"
        )
    ending = "cleared" if best.flag else "ended"
    print(
        f"best: {best.stage} seed {best.seed} {mode}, {ending} at x {best.end_x} "
        f"in {best.length} agent steps",
        flush=True,  # before it is filmed
    )
    for name in ("best.mp4", "best.gif") if flags.gif else ("best.mp4",):
        frames = (
            film_with_captions(best, filmed, policy, every_frame=flags.every_frame)
            if flags.captions
            else film(best, filmed, every_frame=flags.every_frame)
        )
        write_video(output / name, frames, fps, flags.export_max_width)
    print(f"written: {output}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and render."""
    given = sys.argv[1:] if arguments is None else arguments

    def task() -> None:
        render(parse_flags(RenderFlags, with_stages_flag(given), __doc__))

    return exit_code(task)


if __name__ == "__main__":
    sys.exit(main())
