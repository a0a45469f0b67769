"""Every speed figure of this project: ratios, measured in one run.

    python bench_throughput.py                       # the emulator
    python bench_throughput.py --parts emulator ppo --keep results/speed/mine
    python bench_throughput.py --parts dreamer       # beside TorchRL and sheeprl

The two sides of a ratio take turns, `--repeats` times; a figure is the median of its turns. Run it
on a machine that does nothing else. The usual stack is gym-super-mario-bros with SB3's wrappers.
The part `gym` takes Stable Retro along if it is importable (docs/environment.md, "Speed").
TorchRL is in requirements-dev.txt; sheeprl needs an environment of its own (docs/dreamer.md,
"Speed"). A peer that is not installed is left out.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import hashlib
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import gymnasium as gym
import numpy as np
import pydantic
import torch
from gym_super_mario_bros._roms import smb1_rom_path
from gym_super_mario_bros.actions import SIMPLE_MOVEMENT
from gym_super_mario_bros.smb_env import SuperMarioBrosEnv
from gymnasium.vector import AsyncVectorEnv, VectorEnv
from nes_py.wrappers import JoypadSpace
from stable_baselines3 import PPO
from stable_baselines3.common.atari_wrappers import MaxAndSkipEnv, WarpFrame
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecFrameStack, VecTransposeImage

import mario_gym  # noqa: F401 (registers the ids)
from dreamerv3.dreamer import Trainer
from dreamerv3.flags import DreamerConfig, with_overlay
from dreamerv3.models import Batch
from dreamerv3.peers import PEERS
from dreamerv3.policy import make_agent
from fastnes import BatchMachine, Machine, start_snapshot
from fastnes.rom import HEADER_SIZE
from mario_cli import exit_code
from mario_config import EnvConfig, RewardConfig, buttons_of_actions
from mario_files import make_folder
from mario_flags import PPOFlags, RNDFlags, TrainConfig
from mario_keeping import keep_run, study_to_keep_in, turn_rows
from mario_learning import make_model, make_training_env
from mario_results import PhaseRecord, RunFacts
from mario_runs import provenance, write_json
from mario_runtime import MarioVectorEnv, action_space
from mario_sb3 import MarioVecEnv, make_vec_env
from mario_tables import reached, with_unit
from mario_values import Checked, parse_flags
from precision import keep_freed_memory
from teach_mario import TeachConfig, make_teacher

try:  # its pyglet is not nes-py's: pip install --no-deps --target DIR, and PYTHONPATH=DIR
    import stable_retro
except ImportError:
    stable_retro = None

Part = Literal["emulator", "gym", "ppo", "dreamer", "teacher"]
SUBPROCESSES = 8
BATCH = 16
GYM_BATCHES = (1, 8, 64, 1024)
THREADS_BATCHES = (32, 64)  # the fewer machines, the more of the loss is the waking of a thread
REWARD = RewardConfig(forward_reward_scale=0.15, flag_bonus=200.0)


@dataclasses.dataclass(frozen=True)
class BenchFlags(Checked):
    """What to measure."""

    parts: tuple[Part, ...] = ("emulator",)
    """emulator: half a minute a repeat; gym: a minute a repeat; ppo: end-to-end training, minutes
    a repeat; dreamer: up to half a minute a repeat; teacher: ten seconds a repeat."""
    repeats: Annotated[int, pydantic.Field(ge=1, le=1000)] = 5
    """Turns of each side; the median counts."""
    seconds: Annotated[float, pydantic.Field(gt=0, le=3600)] = 2.0
    """Length of an emulator turn."""
    json: Path | None = None
    """Also write the figures here."""
    keep: Path | None = None
    """Also keep them as a run of a study, such as results/speed/emulator."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """Ours over theirs, or ours alone."""

    name: str
    unit: str
    ours: Callable[[], float]
    theirs: Callable[[], float] | None = None


def usual_env() -> gym.Env:
    """gym-super-mario-bros with SB3's wrappers: skip 4, max of 2, gray, 84x84."""
    env = JoypadSpace(SuperMarioBrosEnv(target=(1, 1)), SIMPLE_MOVEMENT)
    return WarpFrame(MaxAndSkipEnv(env, skip=4), width=84, height=84)


def rate(step: Callable[[], int], seconds: float) -> float:
    """Return how many a second: step says how many it did."""
    step()
    gc.collect()
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        count += step()
    return count / elapsed


def vec_stepper(venv: VecEnv) -> Callable[[], int]:
    """Step a vec env with random actions."""
    rng = np.random.default_rng(0)
    n_actions = int(venv.action_space.n)  # type: ignore[attr-defined]
    venv.reset()

    def step() -> int:
        venv.step(rng.integers(0, n_actions, venv.num_envs))
        return venv.num_envs

    return step


def retro_stepper() -> Callable[[], int]:
    """Stable Retro's low-level loop: skip 4, max of 2, gray, 84x84; no reward, no done."""
    emulator = stable_retro.RetroEmulator(smb1_rom_path())
    names = stable_retro.get_system_info("Nes")["buttons"]

    def hold(*buttons: str, frames: int) -> None:
        emulator.set_button_mask(np.array([name in buttons for name in names], np.uint8), 0)
        for _ in range(frames):
            emulator.step()

    hold(frames=60)
    hold("START", frames=5)
    hold(frames=250)  # the screen before 1-1
    start, steps = emulator.get_state(), 0

    def step() -> int:
        nonlocal steps
        if steps % 100 == 0:  # before the first Goomba has led to the title screen
            emulator.set_state(start)
        steps += 1
        hold("RIGHT", "B", frames=3)
        first = emulator.get_screen()
        emulator.step()
        gray = cv2.cvtColor(np.maximum(first, emulator.get_screen()), cv2.COLOR_RGB2GRAY)
        cv2.resize(gray, (84, 84), interpolation=cv2.INTER_AREA)
        return 1

    return step


def emulator_measures(seconds: float) -> list[Measure]:
    """The emulator alone and in a stack, beside nes-py and SB3's wrappers."""
    single = usual_env()
    single.reset()
    rng = np.random.default_rng(0)

    def usual_step() -> int:
        _, _, terminated, truncated, _ = single.step(int(rng.integers(7)))
        if terminated or truncated:
            single.reset()
        return 1

    raw = SuperMarioBrosEnv(target=(1, 1))
    raw.reset()

    def nes_py_frames() -> int:
        for _ in range(60):
            raw._frame_advance(0x80)
        return 60

    machine = Machine()
    machine.restore(start_snapshot(1, 1))

    def fast_frames() -> int:
        machine.step(0x80, frames=600, draw=False)
        return 600

    def batch(size: int, threads: int) -> Callable[[], int]:
        machines = BatchMachine(size, threads=threads)
        for i in range(size):
            machines.restore(i, start_snapshot(1, 1))
        screens = np.zeros((size, 84, 84), dtype=np.uint8)
        rightward = np.array([0x80, 0x82, 0x83], dtype=np.uint8)
        buttons = itertools.cycle(rng.choice(rightward, (1000, size)))

        def step() -> int:
            machines.step(next(buttons), observation=screens)
            for i in np.flatnonzero(machines.terminated):
                machines.restore(int(i), start_snapshot(1, 1))
            return size

        return step

    config = EnvConfig(n_envs=BATCH, reward=REWARD)
    one_core = vec_stepper(MarioVecEnv(MarioVectorEnv(config, threads=1)))
    both_cores = vec_stepper(make_vec_env(config, seed=0))
    subproc = vec_stepper(SubprocVecEnv([usual_env] * SUBPROCESSES))

    def measured(step: Callable[[], int]) -> Callable[[], float]:
        return lambda: rate(step, seconds)

    over_retro = []
    if stable_retro is not None:
        over_retro.append(
            Measure(
                "the same over Stable Retro's low-level loop",
                "agent steps/s",
                *(measured(one_core), measured(retro_stepper())),
            )
        )
    return [
        Measure(
            "agent steps/s/core over gym-super-mario-bros + SB3's wrappers",
            "agent steps/s",
            *(measured(one_core), measured(usual_step)),
        ),
        *over_retro,
        Measure(
            "frames/s undrawn over nes-py",
            "frames/s",
            *(measured(fast_frames), measured(nes_py_frames)),
        ),
        *(
            Measure(
                f"two threads over one, {size} machines",
                "agent steps/s",
                *(measured(batch(size, threads=2)), measured(batch(size, threads=1))),
            )
            for size in THREADS_BATCHES
        ),
        Measure(
            f"make_vec_env(n_envs={BATCH}) over the {SUBPROCESSES}-process SubprocVecEnv",
            "agent steps/s",
            *(measured(both_cores), measured(subproc)),
        ),
    ]


def gym_stepper(envs: VectorEnv) -> Callable[[], int]:
    """Step a vector environment with random actions, drawn before."""
    rng = np.random.default_rng(0)
    shape = (500, envs.num_envs)
    actions = itertools.cycle(rng.integers(0, int(envs.single_action_space.n), shape))  # type: ignore[attr-defined]
    envs.reset(seed=0)

    def step() -> int:
        envs.step(next(actions))
        return envs.num_envs

    return step


def machines_stepper(size: int, draw: bool = True, threads: int | None = None) -> Callable[[], int]:
    """Step machines with the buttons of random actions: no reward, no stack, no info."""
    machines = BatchMachine(size, threads=threads)
    for i in range(size):
        machines.restore(i, start_snapshot(1, 1))
    screens = np.zeros((size, 84, 84), dtype=np.uint8)
    rng = np.random.default_rng(0)
    buttons = itertools.cycle(rng.choice(buttons_of_actions(EnvConfig()), (500, size)))

    def step() -> int:
        machines.step(next(buttons), observation=screens, draw=draw)
        for i in np.flatnonzero(machines.terminated):
            machines.restore(int(i), start_snapshot(1, 1))
        return size

    return step


def retro_game(folder: Path) -> Path:
    """Return Stable Retro's integration of the game, made anew for the ROM that we play.

    Its own takes the ROM whose SHA-1 is facee9c5..., which ours is not: `make` would refuse it.
    """
    game = folder / "SuperMarioBros-Nes-v0"
    shutil.copytree(stable_retro.data.path() + "/stable/" + game.name, game)
    content = Path(smb1_rom_path()).read_bytes()[HEADER_SIZE:]
    (game / "rom.sha").write_text(hashlib.sha1(content).hexdigest(), encoding="utf-8")
    shutil.copy(smb1_rom_path(), game / "rom.nes")
    return game


class SevenActions(gym.ActionWrapper):
    """The action set `simple` on Stable Retro's buttons."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.action_space = gym.spaces.Discrete(len(SIMPLE_MOVEMENT))
        names = env.unwrapped.buttons  # type: ignore[attr-defined]
        self.masks = [
            np.array([bool(name) and name.lower() in held for name in names], np.int8)
            for held in ([name.lower() for name in buttons] for buttons in SIMPLE_MOVEMENT)
        ]

    def action(self, action: int) -> np.ndarray:
        return self.masks[action]


def retro_env(game: Path) -> gym.Env:
    """Stable Retro with SB3's wrappers, as `usual_env`."""
    places = stable_retro.data.Integrations
    places.add_custom_path(str(game.parent))
    env = stable_retro.make(
        game.name, state="Level1-1", inttype=places.CUSTOM_ONLY, render_mode="rgb_array"
    )
    return WarpFrame(MaxAndSkipEnv(SevenActions(env), skip=4), width=84, height=84)


def gym_measures(seconds: float, folder: Path) -> list[Measure]:
    """gym.make_vec beside the batch inside of it, the machines inside of that, and peers."""
    makers: dict[str, Callable[[], gym.Env]] = {"gym-super-mario-bros": usual_env}
    if stable_retro is not None:
        makers["Stable Retro"] = functools.partial(retro_env, retro_game(folder))
    # Processes first: they are forked, and threads come with the first batch.
    many = {name: AsyncVectorEnv([make] * SUBPROCESSES) for name, make in makers.items()}
    one = {name: AsyncVectorEnv([make]) for name, make in makers.items()}
    make_vec = functools.partial(
        gym.make_vec, "FastMario-1-1-v0", vectorization_mode="vector_entry_point"
    )
    sizes = {n: make_vec(num_envs=n) for n in GYM_BATCHES}
    ours = {n: gym_stepper(envs) for n, envs in sizes.items()}

    def measure(name: str, step: Callable[[], int], peer: Callable[[], int]) -> Measure:
        turns = (functools.partial(rate, each, seconds) for each in (step, peer))
        return Measure(name, "agent steps/s", *turns)

    measures = []
    for n, step in ours.items():
        inner = gym_stepper(MarioVectorEnv(EnvConfig(n_envs=n)))
        measures += [
            measure(f"gym.make_vec of {n:,} over the batch inside of it", step, inner),
            measure(f"gym.make_vec of {n:,} over its bare machines", step, machines_stepper(n)),
        ]
    largest = max(GYM_BATCHES)
    in_color = gym_stepper(make_vec(num_envs=64, observation="color"))
    measures += [
        measure(f"gym.make_vec of {largest:,} over of 64", ours[largest], ours[64]),
        measure("gym.make_vec of 64 in color over in gray", in_color, ours[64]),
    ]
    for name in makers:
        alone, eight = gym_stepper(one[name]), gym_stepper(many[name])
        measures += [
            measure(f"gym.make_vec of 1 over {name}", ours[1], alone),
            measure(f"gym.make_vec of 8 over 8 processes of {name}", ours[8], eight),
            measure(f"gym.make_vec of 64 over 8 processes of {name}", ours[64], eight),
        ]
    return measures


def ppo_measures() -> list[Measure]:
    """PPO beside SB3's: 8 environments, 512 steps, batch 256, 4 epochs, a rollout a turn."""
    steps, batch, epochs = 512, 256, 4
    per_turn = steps * SUBPROCESSES
    baseline_env = VecTransposeImage(VecFrameStack(SubprocVecEnv([usual_env] * SUBPROCESSES), 4))
    baseline = PPO(
        "CnnPolicy", baseline_env, n_steps=steps, batch_size=batch, n_epochs=epochs, device="cpu"
    )

    def ours(rnd_coef: float) -> Any:
        config = TrainConfig(
            env=EnvConfig(n_envs=SUBPROCESSES, reward=REWARD),
            ppo=PPOFlags(n_steps=steps, batch_size=batch, n_epochs=epochs, device="cpu"),
            rnd=RNDFlags(rnd_coef=rnd_coef),
        )
        return make_model(config, make_training_env(config))

    def learner(model: Any, total: bool) -> Callable[[], float]:
        def turn() -> float:
            before, started = model.num_timesteps, time.perf_counter()
            # Ours takes the target on the run's counter, SB3's the steps to add.
            model.learn(before + per_turn if total else per_turn, reset_num_timesteps=False)
            return (model.num_timesteps - before) / (time.perf_counter() - started)

        turn()  # warm-up: RND's random steps, first allocations
        return turn

    theirs = learner(baseline, total=False)
    return [
        Measure(name, "env steps/s", learner(ours(rnd_coef), total=True), theirs)
        for name, rnd_coef in (
            ("train_mario.py over SB3 PPO on gym-super-mario-bros, 8 subprocesses", 0.0),
            ("the same with RND", 0.3),
        )
    ]


def dreamer_measures(folder: Path) -> list[Measure]:
    """DreamerV3 beside its peers: size1m, batch 16 x 64, horizon 15, gray; updates and training."""
    paper = DreamerConfig()
    fast = with_overlay(paper, "mario_fast")
    env = fast.env
    n_actions = int(action_space(env).n)
    shape = paper.replay.length, paper.replay.batch
    is_first = torch.zeros(shape, dtype=torch.bool)
    is_first[0] = True
    never = torch.zeros(shape, dtype=torch.bool)
    batch = Batch(
        image=torch.randint(0, 256, (*shape, 1, 64, 64), dtype=torch.uint8),
        action=torch.randint(0, n_actions, shape),
        reward=torch.rand(shape),
        is_first=is_first,
        is_last=never,
        is_terminal=never,
        is_demo=never,
    )

    def updates(update: Callable[[], Any]) -> Callable[[], float]:
        def turn() -> float:
            started = time.perf_counter()
            update()
            return 1 / (time.perf_counter() - started)

        for _ in range(2):  # first allocations
            turn()
        return turn

    def ours(config: DreamerConfig) -> Callable[[], float]:
        agent = make_agent(config.model, config.exploration, env)
        optimizer = agent.make_optimizer()
        return updates(lambda: agent.update(batch, optimizer))

    def training(config: DreamerConfig, name: str) -> Callable[[], float]:
        run = dataclasses.replace(config.run, run_dir=folder / name)
        # Enough to sample from in every stream.
        exploration = dataclasses.replace(config.exploration, prefill=80 * env.n_envs)
        trainer = Trainer(dataclasses.replace(config, run=run, env=env, exploration=exploration))
        trainer.begin()

        def turn() -> float:
            before, target = trainer.step, trainer.updates + 4
            started = time.perf_counter()
            while trainer.updates < target:
                trainer.collect()
                trainer.learn()
            return (trainer.step - before) / (time.perf_counter() - started)

        turn()  # and the prefill
        return turn

    def steps(config: DreamerConfig, name: str) -> Measure:
        label = f"training, {name} layout, {env.n_envs} environments, train ratio 32"
        return Measure(label, "env steps/s", training(config, name))

    measures = [steps(fast, "fast"), steps(paper, "paper")]
    turns = {"fast": ours(fast), "paper": ours(paper)}
    for peer, make_update in PEERS.items():
        try:
            theirs = updates(make_update(paper.model, batch, n_actions))
        except ImportError as error:
            print(f"no {peer} to compare with: {error}")
            continue
        measures += [
            Measure(f"updates, {name} layout, over {peer}'s", "updates/s", turn, theirs)
            for name, turn in turns.items()
        ]
    return measures


def teacher_measures(seconds: float) -> list[Measure]:
    """A teacher's whole training, a rollout and its updates a turn, over its emulators alone."""
    config = TeachConfig()
    n_envs, threads = config.env_of("teacher").n_envs, config.run.threads
    torch.set_num_threads(threads)  # as teach_mario.py does; nothing is measured after it
    learner = make_teacher(config)
    step = machines_stepper(n_envs, draw=False, threads=threads)

    def turn() -> float:
        before, started = learner.steps, time.perf_counter()
        learner.update()
        return (learner.steps - before) / (time.perf_counter() - started)

    turn()  # first allocations
    name = f"a teacher's training over its {n_envs} undrawn emulators alone, threads: {threads}"
    return [Measure(name, "agent steps/s", turn, lambda: rate(step, seconds))]


def run(measures: Sequence[Measure], repeats: int) -> list[dict[str, Any]]:
    """Take turns, print a line a measure, return the figures."""
    results = []
    for measure in measures:
        ours, theirs = [], []
        for _ in range(repeats):
            if measure.theirs:
                theirs.append(measure.theirs())
            ours.append(measure.ours())
        result: dict[str, Any] = {
            "name": measure.name,
            "unit": measure.unit,
            "ours": float(f"{statistics.median(ours):.4g}"),
        }
        line = with_unit(result["ours"], measure.unit)
        if theirs:
            ratios = [round(a / b, 3) for a, b in zip(ours, theirs, strict=True)]
            result["theirs"] = float(f"{statistics.median(theirs):.4g}")
            result["ratio"] = round(statistics.median(ratios), 3)
            result["ratios"] = ratios
            line += f" to the peer's {with_unit(result['theirs'], measure.unit)}"
            line = f"{reached(result['ratio'], ratios)}, {line}"
        print(f"{measure.name}: {line}", flush=True)
        results.append(result)
    return results


def bench(flags: BenchFlags) -> None:
    """Measure and print what the flags ask for."""
    keep = study_to_keep_in(flags.keep) if flags.keep else None
    if flags.json:
        make_folder(flags.json.parent)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5:
        print(f"warning: load is {load:.1f}: something else is running, figures will be low")
    facts = {"repeats": flags.repeats, "load_before": load, "threads": torch.get_num_threads()}
    results = []
    if "emulator" in flags.parts:
        results += run(emulator_measures(flags.seconds), flags.repeats)
    if "gym" in flags.parts:
        with tempfile.TemporaryDirectory() as folder:
            results += run(gym_measures(flags.seconds, Path(folder)), flags.repeats)
    if "ppo" in flags.parts:
        results += run(ppo_measures(), flags.repeats)
    if "dreamer" in flags.parts:
        keep_freed_memory()  # as dreamer.py does; the peer profits too
        with tempfile.TemporaryDirectory() as folder:
            results += run(dreamer_measures(Path(folder)), flags.repeats)
    if "teacher" in flags.parts:
        results += run(teacher_measures(flags.seconds), flags.repeats)
    if flags.json:
        write_json(flags.json, {"measures": results, **facts, **provenance()})
    if keep:
        study, name = keep
        made = PhaseRecord({**facts, "provenance": provenance()}, [], [])
        keep_run(study, name, RunFacts(), turn_rows(name, results), {"": made})


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and measure; exit 0 whatever the figures are: they are reported, not judged here."""
    return exit_code(lambda: bench(parse_flags(BenchFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main())
