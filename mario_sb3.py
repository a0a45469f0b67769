"""Stable-Baselines3's socket: the environment as its `VecEnv`, batched or in worker processes."""

from __future__ import annotations

import functools
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from mario_cli import Failure, UsageError
from mario_config import EnvConfig
from mario_inputs import checked_seed
from mario_runtime import MarioVectorEnv, make_single_env
from mario_snapshots import EnvSnapshot
from mario_starts import Starts


class MarioVecEnv(VecEnv):
    """`MarioVectorEnv` behind SB3's interface.

    Observations and rewards are copies, as SB3 holds on to the last ones while it steps. An info
    is an empty dictionary but where an episode ended: what SB3 and `VecMonitor` read of that
    episode.

    Attributes:
        env: the environment, whose arrays hold what each step led to.
    """

    def __init__(self, env: MarioVectorEnv) -> None:
        self.env = env
        self.render_mode = "rgb_array"
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata = env.metadata | self.metadata  # render_fps, for VecVideoRecorder

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Set the seeds of the next `reset()`: environment i's is seed + i.

        Raises:
            UsageError: it is no whole number from 0 on.
        """
        return super().seed(checked_seed(seed))

    def reset(self) -> np.ndarray:
        """Begin an episode everywhere, with what `seed()` and `set_options()` said before."""
        observations, infos = self.env.reset(seed=self._seeds, options=_together(self._options))
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = _rows(infos, range(self.num_envs))
        return observations.copy()

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> Any:
        observations, rewards, terminations, truncations, step = self.env.step(self._actions)
        dones = terminations | truncations
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if dones.any():
            ended = np.flatnonzero(dones).tolist()
            for i, info in zip(ended, _rows(step["final_info"], ended), strict=True):
                info["TimeLimit.truncated"] = bool(truncations[i] and not terminations[i])
                info["terminal_observation"] = step["final_obs"][i]
                infos[i] = info
            for i, info in zip(ended, _rows(step, ended), strict=True):
                self.reset_infos[i] = info
        return observations.copy(), rewards.copy(), dones, infos

    def close(self) -> None:
        """Close the environment: no processes, no windows."""
        self.env.close()

    def get_images(self) -> list[np.ndarray]:
        """Return every environment's full screen, uint8[240, 256, 3]."""
        return list(self.env.render())

    def views(self, indices: Any = None) -> list[EnvView]:
        """Return single environments by index, for `env_method` and its kin."""
        return [EnvView(self.env, i) for i in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [view.get_wrapper_attr(attr_name) for view in self.views(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"{attr_name!r} of one environment cannot be set in a batch")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        views = self.views(indices)
        return [view.get_wrapper_attr(method_name)(*args, **kwargs) for view in views]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))


def _together(options: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the options of single environments as a batch's reset takes them.

    Raises:
        UsageError: no-ops are chosen for some environments, and not for all.
    """
    names = {name for own in options for name in own}
    together = {name: [own.get(name) for own in options] for name in names}
    if None in together.get("noops", ()):
        raise UsageError("choose the no-ops of all environments, or of none")
    return together or None


def _rows(infos: dict[str, Any], envs: Sequence[int]) -> list[dict[str, Any]]:
    """Return the infos of some environments, a dictionary of plain numbers each.

    Args:
        infos: arrays of [n] with their masks, as a vector environment returns them.
        envs: which environments.
    """
    rows: list[dict[str, Any]] = [{} for _ in envs]
    for name, values in infos.items():
        mask = infos.get(f"_{name}")
        if mask is None or name.startswith("final_"):
            continue  # a mask itself, or the episode before
        columns = _rows(values, envs) if isinstance(values, dict) else values[list(envs)].tolist()
        for row, i, value in zip(rows, envs, columns, strict=True):
            if mask[i]:
                row[name] = value
    return rows


class EnvView:
    """One environment of a batch, with what SB3 and its users ask a single one for."""

    render_mode = "rgb_array"

    def __init__(self, env: MarioVectorEnv, index: int) -> None:
        self.env, self.index = env, index
        self.config = env.config
        self.action_space = env.single_action_space
        self.observation_space = env.single_observation_space
        self.metadata = env.metadata
        self.spec = env.spec

    @property
    def unwrapped(self) -> EnvView:
        """The environment itself: a batch's have no wrappers."""
        return self

    @property
    def np_random(self) -> np.random.Generator:
        """The environment's own generator."""
        return self.env.generators[self.index]

    def render(self) -> np.ndarray:
        """Return the full screen, uint8[240, 256, 3]."""
        return self.env.machines.rgb(self.index)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin this environment's next episode now, the others going on."""
        where = np.arange(self.env.num_envs) == self.index
        seeds: list[int | None] = [None] * self.env.num_envs
        seeds[self.index] = seed
        observations, infos = self.env.reset(
            seed=seeds, options={**(options or {}), "reset_mask": where}
        )
        return observations[self.index].copy(), _rows(infos, [self.index])[0]

    def snapshot(self) -> EnvSnapshot:
        """Return this environment, as `MarioVectorEnv.snapshot`."""
        return self.env.snapshot(self.index)

    def restore(self, snapshot: EnvSnapshot) -> None:
        """Put this environment where it was at a snapshot."""
        self.env.restore(self.index, snapshot)

    def has_wrapper_attr(self, name: str) -> bool:
        """Return whether there is an attribute of that name."""
        return hasattr(self, name)

    def get_wrapper_attr(self, name: str) -> Any:
        """Return an attribute, as gymnasium's wrappers do.

        Raises:
            AttributeError: there is none of that name.
        """
        if not hasattr(self, name):
            raise AttributeError(f"an environment of a batch has no attribute {name!r}")
        return getattr(self, name)


def positions(venv: VecEnv, infos: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return x and the episode's furthest x after a step, int64[n] px each.

    Args:
        venv: the innermost `VecEnv`.
        infos: what its step returned.
    """
    if isinstance(venv, MarioVecEnv):
        return venv.env.facts.x_pos, venv.env.max_x
    x, max_x = ([info[name] for info in infos] for name in ("x_pos", "max_x"))
    return np.array(x), np.array(max_x)


class WorkerDied(Failure):
    """A worker process of a subproc vec env is gone; the message holds its traceback."""


class ReportingSubprocVecEnv(SubprocVecEnv):
    """SB3's SubprocVecEnv; a worker that dies is named, with its traceback or its exit code."""

    def __init__(self, makers: Sequence[Callable[[], gym.Env]]) -> None:
        self._reports = tempfile.TemporaryDirectory(prefix="mario_workers_")
        reports = Path(self._reports.name)
        super().__init__(
            [_ReportingMaker(make, reports / f"{i}.txt") for i, make in enumerate(makers)],
            start_method="forkserver"
            if "forkserver" in multiprocessing.get_all_start_methods()
            else "spawn",
        )

    def reset(self) -> Any:
        try:
            return super().reset()
        except (EOFError, ConnectionResetError, BrokenPipeError) as error:
            raise self._worker_died() from error

    def step_async(self, actions: np.ndarray) -> None:
        try:
            super().step_async(actions)
        except (ConnectionResetError, BrokenPipeError) as error:
            raise self._worker_died() from error

    def step_wait(self) -> Any:
        try:
            return super().step_wait()
        except (EOFError, ConnectionResetError, BrokenPipeError) as error:
            raise self._worker_died() from error

    def _worker_died(self) -> WorkerDied:
        """Return the error that names the dead worker, and end the others."""
        dead = []
        for i, process in enumerate(self.processes):
            process.join(timeout=0.5)
            if process.exitcode is not None:
                report = Path(self._reports.name) / f"{i}.txt"
                cause = report.read_text() if report.exists() else f"exit code {process.exitcode}\n"
                dead.append(f"worker {i} of {len(self.processes)} died: {cause}")
        for process in self.processes:
            process.terminate()
        self.closed = True
        return WorkerDied("".join(dead) or "a worker closed its pipe and still runs")


class _ReportingMaker:
    """Makes an environment whose failure leaves its traceback in a file; picklable."""

    def __init__(self, make: Callable[[], gym.Env], report: Path) -> None:
        self.make, self.report = make, report

    def __call__(self) -> gym.Env:
        try:
            return _ReportingEnv(self.make(), self.report)
        except Exception:
            self.report.write_text(traceback.format_exc())
            raise


class _ReportingEnv(gym.Wrapper):
    """Writes the traceback of whatever an environment raises to a file, and raises it again."""

    def __init__(self, env: gym.Env, report: Path) -> None:
        super().__init__(env)
        self.report = report

    def reset(self, **kwargs: Any) -> Any:
        try:
            return self.env.reset(**kwargs)
        except Exception:
            self.report.write_text(traceback.format_exc())
            raise

    def step(self, action: Any) -> Any:
        try:
            return self.env.step(action)
        except Exception:
            self.report.write_text(traceback.format_exc())
            raise


def make_vec_env(
    config: EnvConfig, seed: int | None = None, starts: Starts | None = None
) -> VecEnv:
    """Return `config.n_envs` environments behind SB3's `VecEnv`; number i is seeded with seed + i.

    The seeds take effect at the first `reset()`; `seed(s)` followed by `reset()` begins anew.

    Raises:
        UsageError: starts of one's own, which only the batched backend has.
    """
    if starts is not None and config.vec_backend != "batched":
        raise UsageError("episodes that begin at snapshots need --vec-backend batched")
    makers: list[Callable[[], gym.Env]] = [functools.partial(make_single_env, config)]
    makers *= config.n_envs
    venv: VecEnv
    if config.vec_backend == "batched":
        venv = MarioVecEnv(MarioVectorEnv(config, starts=starts))
    elif config.vec_backend == "subproc":
        venv = ReportingSubprocVecEnv(makers)
    else:
        venv = DummyVecEnv(makers)
    if seed is not None:
        venv.seed(seed)
    return venv
