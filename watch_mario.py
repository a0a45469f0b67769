"""Watch a policy play in a window, play yourself, record demos and play them again.

    python watch_mario.py --model runs/mine
    python watch_mario.py --human --stage 1-2 --record demos/mine.npz
    python watch_mario.py --replay demos/mine.npz --emulator nes-py --headless

Keys: Space pause, . one frame, - and + speed, Enter next episode, Esc end. Playing yourself: the
arrows, X to jump (A), Z or Y to run (B), or a gamepad; --keys names others.

--scene draws over the picture what the game says of it: tiles, objects, speeds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pydantic

from mario_checkpoints import steps_of_model
from mario_cli import UsageError, exit_code, with_stages_flag
from mario_config import (
    EmulatorName,
    EnvConfig,
    ProtocolName,
    StagesFlag,
    buttons_of_actions,
    in_process,
)
from mario_demos import Demo, load_demo, record, replay, save_demo
from mario_files import make_folder
from mario_game import StageId, facts_of_info, has_cleared, stages_label
from mario_judge import protocol_config
from mario_policies import choose_model, load_policy, trained_elsewhere
from mario_reference import NesPyMarioEnv
from mario_rollout import Policy, button_names, in_stages, watch
from mario_runs import CONFIG_MEMBER
from mario_values import Amount, Checked, Seed, parse_flags
from mario_window import Closed, NextEpisode, Window, parse_keys
from mario_wrappers import FastMarioEnv

ENDING_FRAMES = 90  # how long the end of an episode stays


@dataclasses.dataclass(frozen=True)
class WatchFlags(Checked):
    """Who plays, where, and what is kept of it."""

    model: Path | None = None
    """A model zip, a run folder or a shipped policy's folder. Unset: the shipped one."""
    human: bool = False
    """Play yourself."""
    replay: Path | None = None
    """Play a demo again; exit code 0 only if it ends as it was recorded."""
    record: Path | None = None
    """Write the best episode of those played as a demo: a clear, or the furthest."""
    stages: StagesFlag = ()
    """Other stages than the policy's own, as 1-2 (--stage 1-2 says the same); 1-1 if you play."""
    deterministic: bool = False
    """Argmax of the policy instead of samples from it."""
    protocol: ProtocolName = "noop"
    """fixed: one start; noop: 1-30 random no-ops; sticky: noop and sticky buttons at 0.25."""
    seed: Seed = 0
    """First episode's seed; the next one has the next."""
    episodes: Amount = 0
    """Episodes until the end. 0: until the window is closed; without a window, one."""
    emulator: EmulatorName = "fast"
    """fast, or nes-py, the reference."""
    speed: Annotated[float, pydantic.Field(gt=0, le=1000)] = 1.0
    """Times the game's own 60 frames a second."""
    keys: tuple[str, ...] = ()
    """Other keys to play with, as A=k B=j left=a right=d; X jumps (A) and Z runs (B) else."""
    scene: bool = False
    """Draw what the game itself says over its picture: tiles, objects and their speeds."""
    headless: bool = False
    """No window: record or replay only."""


# --------------------------------------------------------------------------------------------
# Who plays
# --------------------------------------------------------------------------------------------


class Recorder:
    """Keeps the best of the episodes played as a demo: a clear in the fewest frames, or max-x."""

    def __init__(self, path: Path | None) -> None:
        """Record to path, or nowhere; its folder is made.

        Raises:
            UsageError: the file is there already, or its folder cannot be made.
        """
        if path and path.exists():
            raise UsageError(f"{path} is there already: choose another name for --record")
        if path:
            make_folder(path.parent)
        self.path = path
        self.best: tuple[bool, int, int] | None = None

    def add(
        self,
        stage: StageId,
        pressed: Sequence[int],
        source: str,
        seed: int | None = None,
        noops: int = 0,
    ) -> None:
        """Save what was pressed in a stage, a byte a frame, if it is the best so far."""
        if self.path is None or not pressed:
            return
        demo = record(*stage, pressed, source=source, seed=seed, noops=noops)
        rank = (demo.cleared, -demo.frames if demo.cleared else 0, int(demo.x.max()))
        if self.best is None or rank > self.best:
            self.best = rank
            save_demo(self.path, demo)
            ending = "a clear" if demo.cleared else f"x {demo.x[-1]}, no clear"
            print(f"recorded {self.path}: {demo.frames} frames, {ending}")


def show_policy(
    flags: WatchFlags, window: Window | None, policy: Policy, model: Path, recorder: Recorder
) -> None:
    """Play episode after episode, each with the next seed."""
    played_by = model_facts(model)
    config = watched_config(flags, policy.env_config)
    actions = [button_names(int(buttons)) for buttons in buttons_of_actions(config)]
    limit = flags.episodes or (1 if window is None else None)
    seeds = itertools.count(flags.seed) if limit is None else range(flags.seed, flags.seed + limit)
    for seed in seeds:
        pressed: list[int] = []
        stage, noops = config.stages[0], 0
        if window:
            window.begin_episode()
        try:
            for moment in watch(
                policy, config, seed, deterministic=flags.deterministic, every_frame=True
            ):
                stage, noops = moment.stage, noops if moment.step else len(moment.frames)
                for frame in moment.frames:
                    pressed.append(frame.buttons)
                    if window:
                        facts = {"seed": str(seed), "step": str(moment.step), "x": str(moment.x)}
                        facts |= played_by
                        window.show(frame.screen, frame.buttons, facts, moment, actions, frame.ram)
            ending = f"{'cleared' if moment.flag else 'died'} at x {moment.x}, step {moment.step}"
            print(f"seed {seed}: {ending}")
            if window:
                window.ending = ending
                for _ in range(ENDING_FRAMES):
                    window.show(moment.screen, 0, facts, moment, actions)
        except NextEpisode:
            pass
        finally:
            recorder.add(stage, pressed, f"policy:{model.stem}", seed, noops)


def model_facts(model: Path) -> dict[str, str]:
    """Return a model's name and how long it was trained, as the window's panel says them."""
    absolute = model.absolute()
    run = next((one for one in absolute.parents if (one / CONFIG_MEMBER).is_file()), None)
    name = model.stem if run is None else f"{run.name}: {model.stem}"
    steps = steps_of_model(model)
    trained = {} if steps is None else {"trained": f"{steps:,} steps"}
    return {"model": name if len(name) <= 24 else f"...{name[-21:]}"} | trained


def watched_config(flags: WatchFlags, trained: EnvConfig) -> EnvConfig:
    """Return where a policy is watched: its own environment, but for what the flags change."""
    config = in_stages(in_process(trained, flags.emulator), flags.stages)
    return protocol_config(config, flags.protocol)


def play_human(flags: WatchFlags, window: Window, recorder: Recorder) -> None:
    """Play by keyboard, episode after episode, frame by frame."""
    stage = flags.stages[0] if flags.stages else StageId(1, 1)
    game = FastMarioEnv if flags.emulator == "fast" else NesPyMarioEnv
    env = game(*stage)
    for _ in range(flags.episodes) if flags.episodes else itertools.count():
        pressed: list[int] = []
        window.begin_episode()
        try:
            _, info = env.reset()
            facts = human_facts(info, 0)
            window.show(env.render(), 0, facts, ram=env.ram)
            window.wait_for_key(env.render(), facts, "press any key")
            terminated = False
            while not terminated:
                buttons = window.held_buttons()
                _, _, terminated, _, info = env.step(buttons)
                pressed.append(buttons)
                facts = human_facts(info, len(pressed))
                window.show(env.render(), buttons, facts, ram=env.ram)
            cleared = has_cleared(facts_of_info(info), *stage)[0]
            window.ending = "cleared!" if cleared else f"ended at x {info['x_pos']}"
            print(f"{window.ending} after {len(pressed)} frames")
            for _ in range(ENDING_FRAMES):
                window.show(env.render(), 0, human_facts(info, len(pressed)), ram=env.ram)
        except NextEpisode:
            pass
        finally:
            recorder.add(stage, pressed, "human")


def human_facts(info: dict[str, Any], frames: int) -> dict[str, str]:
    """Return what is said of a frame that a person played."""
    return {"frame": str(frames), "x": str(info["x_pos"]), "time": str(info["time"])}


def replay_demo(flags: WatchFlags, demo: Demo, window: Window | None) -> int:
    """Play a demo again; 0 if it ends as it was recorded."""

    def show(frame: int, env: FastMarioEnv | NesPyMarioEnv) -> None:
        if window:
            facts = {"frame": f"{frame + 1} of {demo.frames}", "x": str(demo.x[frame])}
            facts["by"] = demo.source[:18]
            window.show(env.render(), int(demo.buttons[frame]), facts, ram=env.ram)

    played = replay(demo, flags.emulator, show)
    if played.parted_at is not None:
        print(
            f"error: on {flags.emulator} it parts from what was recorded at frame "
            f"{played.parted_at} of {demo.frames}",
            file=sys.stderr,
        )
        return 1
    ending = "cleared" if demo.cleared else f"ended at x {demo.x[-1]}"
    print(f"{demo.frames} frames on {flags.emulator}: {ending}, as recorded")
    return 0


# --------------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------------


def run(flags: WatchFlags) -> int:
    """Do what the flags ask for."""
    if sum((flags.human, flags.replay is not None, flags.model is not None)) > 1:
        raise UsageError("--model, --human and --replay exclude each other")
    if flags.replay and flags.record:
        raise UsageError("--replay plays a demo that is there, --record makes one: not both")
    if flags.human and len(flags.stages) > 1:
        raise UsageError("--human plays one stage: name one with --stage")
    if flags.keys and not flags.human:
        raise UsageError("--keys belongs to --human")
    parse_keys(flags.keys)
    if flags.headless and flags.human:
        raise UsageError("--human needs the window")
    if flags.headless and not (flags.record or flags.replay):
        raise UsageError("--headless needs --record or --replay; `run_mario.sh eval` films")
    if flags.replay:
        demo = load_demo(flags.replay)
        code = 1  # closed before its end, it has shown nothing
        with opened(flags, f"{demo.world}-{demo.stage}, recorded") as window:
            code = replay_demo(flags, demo, window)
        return code
    if flags.human:
        recorder = Recorder(flags.record)
        stages = flags.stages or (StageId(1, 1),)
        with opened(flags, f"{stages_label(stages)} by you", parse_keys(flags.keys)) as window:
            assert window
            play_human(flags, window, recorder)
        return 0
    model = choose_model(flags.model, flags.stages)
    policy = load_policy(model)
    config = watched_config(flags, policy.env_config)
    if elsewhere := trained_elsewhere(policy, config.stages):
        print(elsewhere)
    recorder = Recorder(flags.record)  # what is wrong with it is said before anything is played
    kind = "argmax" if flags.deterministic else "sampled"
    with opened(flags, f"{stages_label(config.stages)}, {kind}") as window:
        show_policy(flags, window, policy, model, recorder)
    return 0


@contextlib.contextmanager
def opened(
    flags: WatchFlags, title: str, keys: dict[str, str] | None = None
) -> Iterator[Window | None]:
    """Open the window, if one is wanted; that it is closed ends what goes on in it."""
    window = None if flags.headless else Window(title, flags.speed, flags.scene, keys)
    try:
        with contextlib.suppress(Closed):
            yield window
    finally:
        if window:
            window.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and watch."""
    given = sys.argv[1:] if arguments is None else arguments

    def task() -> int:
        return run(parse_flags(WatchFlags, with_stages_flag(given), __doc__))

    return exit_code(task)


if __name__ == "__main__":
    sys.exit(main())
