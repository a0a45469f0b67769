"""PPO's callbacks: what happens between its rollouts, when the state is whole, and that state.

The learner (mario_ppo.py) calls them; what they do without knowing PPO stands in mario_training.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v2 as imageio
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize

from mario_checkpoints import (
    plain,
    refuse_not_finite,
    save_checkpoint,
    write_model_zip,
    write_with_state,
)
from mario_cli import UsageError
from mario_config import EnvConfig, in_process
from mario_files import fill
from mario_judge import ModelEvaluation
from mario_networks import PPOPolicy
from mario_ppo import MarioPPO
from mario_rollout import best_episode, play
from mario_runs import RunFolder, atomic_write
from mario_sb3 import MarioVecEnv, positions
from mario_training import (
    BestModel,
    Exam,
    RunLog,
    StopKind,
    StopRequest,
    examine,
    write_preview,
)

LEAP_PX = 64  # in an agent step; more is a pipe or a maze, no walk
# Metrics of finished episodes, and what VecMonitor calls them.
EPISODE_METRICS = {
    "episode_return": "r",
    "episode_length": "l",
    "max_x": "max_x",
    "clear_rate": "is_success",
}
# Metrics of the updates, and what the learner calls them.
TRAINED_METRICS = {
    "entropy": "entropy",
    "approx_kl": "approx_kl",
    "clip_fraction": "clip_fraction",
    "value_loss": "value_loss",
    "policy_loss": "policy_gradient_loss",
    "explained_variance": "explained_variance",
    "learning_rate": "learning_rate",
    "intrinsic_reward": "intrinsic_reward",
    "ppo/imitation_loss": "imitation_loss",
    "ppo/rnd_loss": "rnd_loss",
    "ppo/intrinsic_value_loss": "intrinsic_value_loss",
}

# --------------------------------------------------------------------------------------------
# State: what a checkpoint holds beside the weights
# --------------------------------------------------------------------------------------------


def capture_state(model: MarioPPO) -> dict[str, Any]:
    """Return all of the trainer's state but the policy's weights, as tensors and plain values.

    Environments outside the batched backend are not captured: a resumed run resets them.
    """
    state: dict[str, Any] = {"learner": model.trainer_state()}
    for venv in wrappers_of(model):
        if isinstance(venv, VecNormalize):
            statistics = venv.ret_rms
            state["reward_normalizer"] = {
                "mean": float(statistics.mean),
                "var": float(statistics.var),
                "count": float(statistics.count),
                "returns": venv.returns,
            }
        elif isinstance(venv, VecMonitor):
            state["monitor"] = {"returns": venv.episode_returns, "lengths": venv.episode_lengths}
        elif isinstance(venv, MarioVecEnv):
            state["environments"] = venv.env.state_dict()
    return plain(state)


def restore_state(model: MarioPPO, state: dict[str, Any]) -> None:
    """Continue from what `capture_state` returned; the weights are loaded before."""
    model.load_trainer_state(state["learner"])
    exact = "environments" in state and len(state["monitor"]["returns"]) == model.n_envs
    for venv in wrappers_of(model):
        if isinstance(venv, VecNormalize) and "reward_normalizer" in state:
            saved: dict[str, Any] = state["reward_normalizer"]
            statistics: Any = venv.ret_rms
            statistics.mean, statistics.var = np.float64(saved["mean"]), np.float64(saved["var"])
            statistics.count = saved["count"]
            if exact:
                fill(venv.returns, saved["returns"], "the returns")
        elif isinstance(venv, VecMonitor) and exact:
            returns, lengths = np.zeros(model.n_envs, np.float32), np.zeros(model.n_envs, np.int32)
            fill(returns, state["monitor"]["returns"], "the episodes' returns")
            fill(lengths, state["monitor"]["lengths"], "the episodes' lengths", 0)
            venv.episode_returns, venv.episode_lengths = returns, lengths
        elif isinstance(venv, MarioVecEnv) and exact:
            venv.env.load_state_dict(state["environments"])
        elif isinstance(venv, MarioVecEnv) and "environments" in state:
            venv.env.starts.load_state_dict(state["environments"]["starts"])
            model._last_obs = None  # learn() resets the environments
            print("with another number of environments each of them begins a new episode")
        elif not hasattr(venv, "venv"):
            model._last_obs = None  # learn() resets the environments
            print(
                "the environments begin new episodes: their state is kept for the batched backend"
            )


def wrappers_of(model: MarioPPO) -> list[VecEnv]:
    """Return the model's vec env and what it wraps, the outermost first."""
    venvs: list[Any] = [model.get_env()]
    while hasattr(venvs[-1], "venv"):
        venvs.append(venvs[-1].venv)
    return venvs


def save_model(path: Path, model: MarioPPO, content: dict[str, Any]) -> None:
    """Write a model file; content is train_config.json's.

    Raises:
        FloatingPointError: the weights are not finite; nothing is written.
    """
    refuse_not_finite(model.policy.state_dict())
    write_model_zip(path, model.save, content)


def save_state(
    run: RunFolder, model: MarioPPO, state: dict[str, Any], content: dict[str, Any]
) -> Path:
    """Write a checkpoint of the model's weights and a captured state, and return its zip.

    Raises:
        OSError: it could not be written; earlier checkpoints are untouched.
    """
    # The steps of a rollout that was given up are in no state.
    step = model.num_timesteps = int(state["learner"]["counters"]["num_timesteps"])
    return save_checkpoint(run, step, lambda path: save_model(path, model, content), state)


# --------------------------------------------------------------------------------------------
# Callbacks
# --------------------------------------------------------------------------------------------


class BetweenRollouts(BaseCallback):
    """Calls `tick` after each rollout has been trained on, before the next one is collected."""

    def __init__(self, every: int = 0) -> None:
        super().__init__()
        self.every = every  # agent steps; 0 is never
        self._done = 0  # multiples of `every` that have been acted on
        self._has_rollout = False

    def _on_training_start(self) -> None:
        self._done = self.num_timesteps // self.every if self.every else 0

    def _on_rollout_end(self) -> None:
        self._has_rollout = True

    def _on_rollout_start(self) -> None:
        if self._has_rollout:
            self.tick()
        self._has_rollout = False  # until it is complete: a stop may give it up

    def _on_training_end(self) -> None:
        if self._has_rollout:
            self.tick()

    def tick(self) -> None:
        """Act, if a multiple of `every` steps has been passed since the last time."""
        if self.every and self.num_timesteps // self.every > self._done:
            self._done = self.num_timesteps // self.every
            self.act()

    def act(self) -> None:
        """What the callback is for."""

    @property
    def learner(self) -> MarioPPO:
        """The learner that calls."""
        assert isinstance(self.model, MarioPPO)
        return self.model

    def _on_step(self) -> bool:
        return True


class KeepWholeState(BaseCallback):
    """Ends training at the step after a stop is asked for; the state before the rollout is kept.

    The rollout under way is given up: its weights are still those that the kept state belongs to,
    so a resumed run collects the same rollout again. A complete one is not given up: its update
    follows, and no state from before it fits the weights any more.
    """

    def __init__(self, stop: StopRequest) -> None:
        super().__init__()
        self.stop = stop
        self.kept: dict[str, Any] | None = None

    def _on_rollout_start(self) -> None:
        assert isinstance(self.model, MarioPPO)
        self.kept = capture_state(self.model)

    def _on_step(self) -> bool:
        return not self.stop.is_asked()

    def _on_rollout_end(self) -> None:
        self.kept = None


class RolloutStatistics:
    """What the doctor wants to know of the episodes' steps, summed over a rollout."""

    def __init__(self, reward_clip: float | None) -> None:
        self.reward_clip = reward_clip
        self.x: np.ndarray | None = None  # px, of each environment, and the furthest of its episode
        self.max_x = np.zeros(0)
        self.begin()

    def go_on(self, x: np.ndarray, max_x: np.ndarray, begin: np.ndarray) -> None:
        """Go on from where the environments are; `begin` says which begin an episode."""
        self.x, self.max_x = np.where(begin, np.nan, x), np.where(begin, np.nan, max_x)

    def begin(self) -> None:
        """Start counting anew."""
        self.walked_px = self.ground_px = 0.0
        self.clipped = self.rewards = self.episodes = 0

    def add(self, x: np.ndarray, max_x: np.ndarray, rewards: np.ndarray, dones: np.ndarray) -> None:
        """Count one step of all environments; x and max_x are in px, all arrays of [n]."""
        if self.x is not None:
            walked = np.abs(x - self.x)  # NaN in an episode's first step
            self.walked_px += float(walked[walked < LEAP_PX].sum())
            self.ground_px += float(np.nansum(np.maximum(max_x - self.max_x, 0)))
        self.go_on(x, max_x, dones)
        self.episodes += int(dones.sum())
        if self.reward_clip is not None:
            self.clipped += int((np.abs(rewards) >= self.reward_clip).sum())
            self.rewards += len(rewards)

    def scalars(self) -> dict[str, float | None]:
        """Return the metrics of the steps since `begin`."""
        return {
            "ppo/walked_per_ground": self.walked_px / self.ground_px if self.ground_px else None,
            "ppo/reward_clipped": self.clipped / self.rewards if self.rewards else None,
        }


class Finish(NamedTuple):
    """When a run is finished before its target."""

    stop: StopRequest
    clear_rate: float  # that an evaluation has to show in every mode; 0 is never
    timesteps: int  # the target
    after: int = 0  # the steps of the phases before, whose evaluations do not count


class MetricsCallback(BetweenRollouts):
    """One line of metrics.jsonl and TensorBoard a rollout, and the progress bar."""

    def __init__(self, log: RunLog, reward_clip: float | None) -> None:
        super().__init__()
        self.log = log
        self.statistics = RolloutStatistics(reward_clip)

    def _on_training_start(self) -> None:
        super()._on_training_start()
        learner = self.learner
        self.innermost = wrappers_of(learner)[-1]
        self.episodes = self.log.metrics.last.get("ppo/episodes", 0)
        starts = learner._last_episode_starts
        if isinstance(self.innermost, MarioVecEnv) and starts is not None:
            self.statistics.go_on(*positions(self.innermost, []), np.asarray(starts, bool))

    def _on_step(self) -> bool:
        infos, rewards, dones = (self.locals[name] for name in ("infos", "rewards", "dones"))
        self.statistics.add(*positions(self.innermost, infos), rewards, dones)
        return True

    def tick(self) -> None:
        trained = dict(self.logger.name_to_value)
        self.logger.name_to_value.clear()  # what is not measured in the next update is not there
        scalars: dict[str, float | None] = {
            key: trained.get(f"train/{name}") for key, name in TRAINED_METRICS.items()
        }
        model = self.learner
        if model.n_epochs == 1 and model.batch_size == model.n_steps * model.n_envs:
            # Measured before the rollout's only step, these are 0 whatever the policy does.
            scalars["approx_kl"] = scalars["clip_fraction"] = None
        scalars |= self.statistics.scalars()
        self.episodes += self.statistics.episodes
        scalars["ppo/episodes"] = self.episodes
        self.statistics.begin()
        if isinstance(self.innermost, MarioVecEnv):
            scalars |= self.innermost.env.starts.scalars()
        note = ""
        recent: Any = model.ep_info_buffer or []  # the last 100, SB3's stats_window_size
        if episodes := [episode for episode in recent if episode["from_start"]]:
            means = {
                key: float(np.mean([episode[name] for episode in episodes]))
                for key, name in EPISODE_METRICS.items()
            }
            scalars |= means
            quartiles = np.percentile([episode["max_x"] for episode in episodes], (25, 50, 75))
            for name, quartile in zip(("p25", "median", "p75"), quartiles, strict=True):
                scalars[f"ppo/max_x_{name}"] = float(quartile)
            note = f"max-x {means['max_x']:.0f}, clears {100 * means['clear_rate']:.0f} %"
        self.log.write(self.num_timesteps, scalars, note)


class TemperatureCallback(BetweenRollouts):
    """Sharpens the policy toward the run's end, a little after each rollout's updates.

    A sampled policy keeps some percent of wrong actions for long: the rarer they are, the less
    the gradient sees of them. Lowering the temperature while training goes on removes them, and
    what is sampled stays what is trained.
    """

    def __init__(
        self, final: float, begins: float, timesteps: int, rollout: int, after: int = 0
    ) -> None:
        """Fall to a sampling temperature geometrically.

        Args:
            final: the temperature at the run's end.
            begins: part of the run after which it begins to fall.
            timesteps: of the run.
            rollout: agent steps of a rollout.
            after: how many of the timesteps lie in phases before.
        """
        super().__init__()
        self.final, self.rollout = final, rollout
        self.timesteps, self.begins = timesteps, after + begins * (timesteps - after)

    def temperature(self, step: int) -> float:
        """Return the temperature due at a step."""
        part = (step - self.begins) / max(self.timesteps - self.begins, 1)
        return self.final ** min(max(part, 0.0), 1.0)

    def tick(self) -> None:
        now = self.temperature(self.num_timesteps)
        before = self.temperature(self.num_timesteps - self.rollout)
        if now != before:
            self.learner.policy.sharpen(before / now)


class CheckpointCallback(BetweenRollouts):
    """Keeps the newest checkpoints; a full disk is said, and training goes on."""

    def __init__(self, every: int, run: RunFolder, content: dict[str, Any]) -> None:
        super().__init__(every)
        self.run, self.content = run, content

    def act(self) -> None:
        try:
            save_state(self.run, self.learner, capture_state(self.learner), self.content)
        except OSError as error:
            print(f"warning: no checkpoint at {self.num_timesteps}: {error}", file=sys.stderr)


class EvalCallback(BetweenRollouts):
    """Examines the policy and keeps the best model as best_eval.zip."""

    def __init__(
        self, every: int, run: RunFolder, exam: Exam, content: dict[str, Any], until: Finish
    ) -> None:
        super().__init__(every)
        self.run, self.exam, self.content, self.until = run, exam, content, until

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self.best = BestModel(self.run, self.num_timesteps, self.until.after)
        if (found := self._found_before()) and found.step > self.until.after:
            self._end_if_enough(found)

    def _found_before(self) -> ModelEvaluation | None:
        """Return the evaluation of the step that the run goes on from, if there was one."""
        path = self.run.evaluations / f"step_{self.num_timesteps}" / "summary.json"
        with contextlib.suppress(UsageError, OSError):
            return ModelEvaluation.from_json(path) if path.exists() else None
        return None

    def _end_if_enough(self, found: ModelEvaluation) -> None:
        if 0 < self.until.clear_rate <= found.rank[0] and found.step < self.until.timesteps:
            self.until.stop.ask(StopKind.ENOUGH, "enough clears")

    def act(self) -> None:
        step, learner = self.num_timesteps, self.learner
        with learner.averaged():
            policy = PPOPolicy(learner.policy, self.exam.config)
            model = f"{self.run.path.name} at {step} steps"
            found = examine(policy, self.exam, model, step).evaluation
            self._end_if_enough(found)
            self.best.offer(found, self._write_best)

    def _write_best(self, path: Path) -> None:
        """Write the weights that were judged, and the state with which they can be resumed."""
        learner = self.learner
        write_with_state(
            path, lambda path: save_model(path, learner, self.content), capture_state(learner)
        )


class Film(NamedTuple):
    """How previews are made."""

    episodes: int  # sampled ones, the best of which is filmed
    max_steps: int  # agent steps of an episode; 0 is by the clock
    fps: float  # 0 is the game's own
    live: bool  # keep live.png too


class PreviewCallback(BetweenRollouts):
    """Films the best of a few sampled episodes; optionally keeps live.png fresh."""

    def __init__(
        self, every: int, run: RunFolder, config: EnvConfig, film: Film, seed: int
    ) -> None:
        super().__init__(every)
        self.run, self.config, self.film, self.seed = run, config, film, seed

    def tick(self) -> None:
        super().tick()
        if self.film.live:
            screen = np.asarray(self.training_env.get_images()[0])
            try:
                atomic_write(
                    self.run.previews / "live.png", imageio.imwrite("<bytes>", screen, "png")
                )
            except OSError as error:
                print(f"warning: no live.png: {error}", file=sys.stderr)

    def act(self) -> None:
        config = dataclasses.replace(in_process(self.config), n_envs=self.film.episodes)
        episodes = play(
            PPOPolicy(self.learner.policy, config),
            config,
            self.film.episodes,
            deterministic=False,
            seed=self.seed + self.num_timesteps,
            max_steps=self.film.max_steps,
        )
        best = best_episode(episodes)
        write_preview(self.run, self.num_timesteps, best, config, self.film.fps)
