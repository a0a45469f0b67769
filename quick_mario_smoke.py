"""Say in under 30 seconds what works on this machine: ROM, emulators, step rate, torch, PPO, video.

Exits 0 only if everything does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from gym_super_mario_bros._roms import smb1_rom_path

from mario_cli import exit_code
from mario_config import EnvConfig
from mario_flags import PPOFlags, TrainConfig
from mario_learning import make_model, make_training_env
from mario_rollout import Episode, RandomPolicy, game_fps, play
from mario_runtime import make_single_env
from mario_sb3 import make_vec_env
from mario_values import Checked, parse_flags
from mario_video import film, write_video

ROM_SHA256 = "ec299b990e8bfee8ba46e3f61d63b2e1ae5b8a2e431de84e2e4bbd692dc53586"
ENV = EnvConfig(n_envs=2)


def check_rom() -> str:
    """The packaged ROM is the one that every figure here was measured on."""
    digest = hashlib.sha256(Path(smb1_rom_path()).read_bytes()).hexdigest()
    if digest != ROM_SHA256:
        raise RuntimeError(f"another ROM than ours: SHA-256 {digest}")
    return f"SHA-256 {digest[:8]}..."


def check_emulator() -> str:
    """Mario runs right."""
    env = make_single_env(ENV, seed=0)
    env.reset()
    for _ in range(20):
        _, _, _, _, info = env.step(3)
    env.close()
    if info["x_pos"] <= 40:
        raise RuntimeError(f"Mario stands at {info['x_pos']} after running right")
    return f"{ENV.emulator}: ran from x 40 to {info['x_pos']} in 20 steps"


def check_rate() -> str:
    """Agent steps a second through the whole stack, one process."""
    venv = make_vec_env(ENV, seed=0)
    venv.reset()
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < 2.0:
        venv.step(np.full(ENV.n_envs, 3))
        steps += ENV.n_envs
    rate = steps / (time.perf_counter() - started)
    venv.close()
    return f"{rate:.0f} agent steps/s"


def check_torch() -> str:
    """Which device a training would use."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = (
        torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    )
    unused = device == "cpu" and shutil.which("nvidia-smi")
    advice = "; an NVIDIA card is here: run_mario.sh install --torch cuda" if unused else ""
    return f"torch {torch.__version__} on {device} ({name}){advice}"


def check_ppo() -> str:
    """One PPO update on 512 steps changes the weights."""
    config = TrainConfig(env=ENV, ppo=PPOFlags(n_steps=256, batch_size=256, timesteps=512))
    venv = make_training_env(config)
    model = make_model(config, venv)
    weights = list(model.policy.parameters())
    before = [tensor.detach().clone() for tensor in weights]
    model.learn(512)
    venv.close()
    change = max(float((w.detach() - b).abs().max()) for w, b in zip(weights, before, strict=True))
    if not change > 0:
        raise RuntimeError("the weights did not move")
    return f"512 steps, weights moved by up to {change:.1e}"


def check_video() -> str:
    """An episode is filmed and written as mp4."""
    episodes: list[Episode] = play(RandomPolicy(ENV, 7), ENV, 1, deterministic=False, max_steps=30)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "smoke.mp4"
        frames = write_video(path, film(episodes[0], ENV), game_fps(ENV))
        return f"{frames} frames, {path.stat().st_size} bytes"


CHECKS: dict[str, Callable[[], str]] = {
    "ROM": check_rom,
    "emulator": check_emulator,
    "step rate": check_rate,
    "torch": check_torch,
    "PPO update": check_ppo,
    "video": check_video,
}


@dataclasses.dataclass(frozen=True)
class SmokeFlags(Checked):
    """None: it looks at everything."""


def check_all(flags: SmokeFlags) -> int:
    """Run every check, print a line for each, and return 0 only if none failed."""
    started = time.perf_counter()
    failed = 0
    for name, check in CHECKS.items():
        try:
            print(f"ok      {name:<11} {check()}", flush=True)
        except Exception as error:  # noqa: BLE001  a check's failure of any kind is its result
            failed += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"FAILED  {name:<11} {error} ({Path(where.filename).name}:{where.lineno})")
    print(f"{len(CHECKS) - failed}/{len(CHECKS)} work, {time.perf_counter() - started:.0f} s")
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and check."""
    return exit_code(lambda: check_all(parse_flags(SmokeFlags, arguments, __doc__)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
