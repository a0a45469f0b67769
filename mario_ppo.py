"""The PPO learner: Stable-Baselines3's, with precision, RND, imitation, averaging, exact resume.

`MarioPPO` is `stable_baselines3.PPO` (Schulman et al. 2017, arXiv:1707.06347) with Random Network
Distillation (Burda et al. 2018, arXiv:1810.12894) as an option. With `rnd_coef=0` nothing of RND
exists, and `train()` computes what SB3's own does. It knows no game and no files: it gets a
vectorised environment with stacked channel-first uint8 frames and hands out dictionaries. Its
losses stand in mario_losses.py, its network in mario_networks.py, its rollouts in mario_buffer.py.

Symbols: T steps of a rollout, E environments, B minibatch.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import (
    FloatSchedule,
    LinearSchedule,
    explained_variance,
    obs_as_tensor,
)
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from mario_buffer import ImageRolloutBuffer
from mario_checkpoints import check_weights, load_optimizer, plain
from mario_losses import Clipping, imitation_loss, kickstart_loss, ppo_losses, weighted_sum
from mario_networks import SmallCNN, TwoHeadCnnPolicy
from precision import Precision, resolve_precision
from rnd import RND

# Zips written before these classes had rooms of their own look for them here (`PPO.load`).
__all__ = ["ImageRolloutBuffer", "MarioPPO", "NonFiniteLoss", "SmallCNN", "TwoHeadCnnPolicy"]


class NonFiniteLoss(FloatingPointError):
    """A loss or a gradient is NaN or infinite; the weights were left as they were."""


def linear_schedule(initial: float, final: float, until: float = 1.0) -> LinearSchedule:
    """From `initial` at the run's start to `final` at this part of it, linearly in steps done.

    An SB3 class and not a closure, so that a zip that holds it loads without this module.
    """
    return LinearSchedule(initial, final, end_fraction=until)


def as_numbers(scalars: Mapping[str, th.Tensor]) -> dict[str, float]:
    """Return scalar tensors as numbers, by one transfer from their device."""
    stacked = th.stack([scalar.detach() for scalar in scalars.values()])
    return dict(zip(scalars, stacked.tolist(), strict=True))


class MarioPPO(PPO):
    """SB3's PPO with RND, imitation, a moving average, schedules, a precision, and exact resume.

    Takes PPO's arguments, with `policy` `TwoHeadCnnPolicy` (or `"CnnPolicy"`, which means it), an
    environment with uint8 observations [C, H, W] and discrete actions, and what is below. Adam is
    SB3's (eps 1e-5) in its fused form, which takes 1 ms instead of 6 on one core;
    `policy_kwargs["optimizer_kwargs"]` overrides that.

    Args:
        ent_coef: entropy coefficient, a number or a schedule (see `linear_schedule`)
        imitation_coef: weight of the demos' actions, a number or a schedule (see `imitate`)
        critic_steps: of the run's first steps, that teach the value heads alone: a policy that came
            from elsewhere is not led astray by a critic that knows nothing yet
        kickstart_coef: weight of staying near the mentor, a number or a schedule (see `kickstart`)
        ema_decay: of the weights' exponential moving average, a rollout; 0 keeps none
        rnd_coef: weight of the intrinsic advantage; 0 switches RND off altogether
        rnd_lr: learning rate of the predictor's Adam
        rnd_feature_dim: length of RND's feature vectors
        rnd_gamma: discount of the intrinsic return
        rnd_update_proportion: part of each minibatch that trains the predictor
        rnd_warmup_steps: random steps per environment that fill RND's observation normaliser before
            the first rollout. They are not in `num_timesteps`; the environments are reset after.
        begun_at: steps of the counter at which the schedules begin: those of phases before
        precision: `float32`, `bf16` (autocast, in rollout and training alike) or `auto`
        channels_last: memory format; same function, sums in another order
    """

    policy: TwoHeadCnnPolicy
    rollout_buffer: ImageRolloutBuffer
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"CnnPolicy": TwoHeadCnnPolicy}

    def __init__(
        self,
        policy: str | type[TwoHeadCnnPolicy],
        env: Any,
        *,
        ent_coef: float | Schedule = 0.0,
        imitation_coef: float | Schedule = 0.0,
        critic_steps: int = 0,
        kickstart_coef: float | Schedule = 0.0,
        ema_decay: float = 0.0,
        rnd_coef: float = 0.0,
        rnd_lr: float = 1e-4,
        rnd_feature_dim: int = 256,
        rnd_gamma: float = 0.99,
        rnd_update_proportion: float = 0.25,
        rnd_warmup_steps: int = 512,
        begun_at: int = 0,
        precision: Precision = "float32",
        channels_last: bool = True,
        policy_kwargs: dict[str, Any] | None = None,
        _init_setup_model: bool = True,
        **ppo_arguments: Any,
    ) -> None:
        self.ent_coef_schedule = FloatSchedule(ent_coef)
        self.imitation_coef_schedule = FloatSchedule(imitation_coef)
        self._demos: tuple[th.Tensor, th.Tensor] | None = None
        self.critic_steps = critic_steps
        self.kickstart_coef_schedule = FloatSchedule(kickstart_coef)
        self._mentor: TwoHeadCnnPolicy | None = None
        self.is_updating = False  # half of an update fits no state
        self.ema_decay = ema_decay
        self._average: dict[str, th.Tensor] | None = None
        self.rnd_coef = rnd_coef
        self.rnd_lr = rnd_lr
        self.rnd_feature_dim = rnd_feature_dim
        self.rnd_gamma = rnd_gamma
        self.rnd_update_proportion = rnd_update_proportion
        self.rnd_warmup_steps = rnd_warmup_steps
        self.begun_at = begun_at
        self.precision: Precision = precision
        self.channels_last = channels_last
        self.rnd: RND | None = None
        super().__init__(
            policy,
            env,
            ent_coef=self.ent_coef_schedule(1.0),
            policy_kwargs={
                "optimizer_kwargs": {"eps": 1e-5, "fused": True},
                **(policy_kwargs or {}),
                "intrinsic_value": rnd_coef > 0,
                "channels_last": channels_last,
            },
            rollout_buffer_class=ImageRolloutBuffer,
            rollout_buffer_kwargs={"channels_last": channels_last, "intrinsic": rnd_coef > 0},
            _init_setup_model=_init_setup_model,
            **ppo_arguments,
        )

    def _setup_model(self) -> None:
        space = self.observation_space
        if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
            raise ValueError(f"observations must be uint8 [C, H, W] images, not {space}")
        if not isinstance(self.action_space, spaces.Discrete):
            raise ValueError(f"actions must be discrete, not {self.action_space}")
        if self.rnd_coef < 0:
            raise ValueError(f"rnd_coef must not be negative, got {self.rnd_coef}")
        super()._setup_model()
        autocast_dtype = resolve_precision(self.precision, self.device)
        self.policy.autocast_dtype = autocast_dtype
        self._intrinsic_reward = 0.0  # the last rollout's mean, normalised
        self._rnd_rollout: tuple[th.Tensor, th.Tensor] | None = None
        if self.rnd_coef > 0:
            self.rnd = RND(
                (space.shape[1], space.shape[2]),
                self.n_envs,
                feature_dim=self.rnd_feature_dim,
                learning_rate=self.rnd_lr,
                gamma=self.rnd_gamma,
                update_proportion=self.rnd_update_proportion,
                device=self.device,
                channels_last=self.channels_last,
                autocast_dtype=autocast_dtype,
            )

    def _excluded_save_params(self) -> list[str]:
        # The zip stays SB3's; what RND needs to go on is in `trainer_state`.
        return [
            *super()._excluded_save_params(),
            "rnd",
            "_rnd_rollout",
            "_demos",
            "_mentor",
            "_average",
        ]

    def imitate(self, observations: np.ndarray, actions: np.ndarray) -> None:
        """Learn from demos beside the rollouts, with the weight of `imitation_coef`.

        Each gradient pass adds `imitation_coef * -log pi(a | s)` of random pairs, an eighth of the
        minibatch: the term of DAPG (Rajeswaran et al. 2018, arXiv:1709.10087, section IV.B) whose
        weight a schedule takes back as the policy outgrows the demos.

        Args:
            observations: uint8 [n, C, H, W]
            actions: int64 [n]
        """
        memory = th.channels_last if self.channels_last else th.contiguous_format
        self._demos = (
            th.from_numpy(observations).to(self.device).contiguous(memory_format=memory),
            th.from_numpy(actions).to(self.device),
        )

    def kickstart(self, weights: Mapping[str, th.Tensor] | None = None) -> None:
        """Stay near a mentor, with the weight of `kickstart_coef`.

        Each gradient pass adds `kickstart_coef` times the KL divergence from the mentor's policy
        (Schmitt et al. 2018, arXiv:1803.03835), whose weight a schedule takes back as the policy
        outgrows its mentor.

        Args:
            weights: the mentor's, as `policy.state_dict()`; None: the policy as it is now
        """
        self._mentor = copy.deepcopy(self.policy).requires_grad_(False)
        if weights is not None:
            self._mentor.load_state_dict(weights)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the policy's weights are their moving average (Polyak and Juditsky 1992).

        What one rollout taught too much and the next took back cancels out. Without `ema_decay`, or
        before the first update, they are what they are.
        """
        if self._average is None:
            yield
            return
        own = {name: value.clone() for name, value in self.policy.state_dict().items()}
        self.policy.load_state_dict(self._average)
        try:
            yield
        finally:
            self.policy.load_state_dict(own)

    def _update_average(self) -> None:
        weights = self.policy.state_dict()
        if self._average is None:
            self._average = {name: value.clone() for name, value in weights.items()}
        for name, value in self._average.items():
            value.lerp_(weights[name], 1 - self.ema_decay)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        done, target = num_timesteps - self.begun_at, total_timesteps - self.begun_at
        super()._update_current_progress_remaining(done, target)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        """Learn, but unlike SB3's to `total_timesteps` on the run's own counter.

        SB3 adds it to the steps already done when `reset_num_timesteps=False`, so that a resumed
        run would get other schedules than the uninterrupted one.
        """
        if not reset_num_timesteps:
            total_timesteps -= self.num_timesteps  # SB3 adds it again
        target_and_callback = super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        if self.rnd is not None and not self.rnd.is_warm:
            self._warm_up_normalizer(self.rnd)
        return target_and_callback

    def _warm_up_normalizer(self, rnd: RND) -> None:
        """Random steps that fill RND's observation normaliser (arXiv:1810.12894, section 2.4)."""
        assert self.env is not None
        assert isinstance(self.action_space, spaces.Discrete)
        generator = np.random.default_rng(self.seed)
        normalizer = self._vec_normalize_env
        was_training = normalizer is not None and normalizer.training
        if normalizer is not None:
            normalizer.training = False  # a random policy's rewards are not the run's
        frames = []
        for _ in range(self.rnd_warmup_steps):
            observations, _, _, _ = self.env.step(
                generator.integers(self.action_space.n, size=self.n_envs)
            )
            frames.append(np.asarray(observations)[:, -1].copy())
        if frames:
            rnd.warm_up_normalizer(np.concatenate(frames))
        if normalizer is not None:
            normalizer.training = was_training
        self._last_obs = self.env.reset()  # type: ignore[assignment]
        self._last_episode_starts = np.ones(self.n_envs, dtype=bool)

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """Play a rollout as SB3 does; RND's rewards are computed once, when it is complete.

        Returns:
            False if a callback stopped the training
        """
        assert isinstance(rollout_buffer, ImageRolloutBuffer)
        assert self._last_episode_starts is not None
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        n_steps = 0
        while n_steps < n_rollout_steps:
            assert isinstance(self._last_obs, np.ndarray), "learn() resets the environments first"
            with th.no_grad():
                obs_tensor = rollout_buffer.put_observations(self._last_obs)
                action_tensor, values, log_probs = self.policy.sample(obs_tensor)
            actions = action_tensor.cpu().numpy()
            new_obs, rewards, dones, infos = env.step(actions)
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            rewards = self._end_episodes(rollout_buffer, rewards, dones, infos)
            if self.rnd is not None:
                rollout_buffer.intrinsic_values[n_steps] = values[:, 1].cpu().numpy()
            rollout_buffer.add(
                None, actions, rewards, self._last_episode_starts, values[:, 0], log_probs
            )
            n_steps += 1
            self._last_obs = new_obs  # type: ignore[assignment]
            self._last_episode_starts = np.array(dones)  # the environment may reuse its array

        with th.no_grad():
            last_values = self.policy.predict_all_values(
                obs_as_tensor(new_obs, self.device)  # type: ignore[arg-type]
            )
        rollout_buffer.compute_returns_and_advantage(last_values[:, 0], dones)
        if self.rnd is not None:
            self._add_intrinsic(self.rnd, rollout_buffer, np.asarray(new_obs), last_values[:, 1])
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _end_episodes(
        self,
        rollout_buffer: ImageRolloutBuffer,
        rewards: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> np.ndarray:
        """Keep dying frames for RND, bootstrap time limits with the value function, as SB3 does.

        Returns:
            float [E], the rewards with the bootstrapped values
        """
        if not dones.any():
            return rewards
        rewards = rewards.copy()  # the environment may own the array
        for env in np.flatnonzero(dones):
            terminal_obs = infos[env].get("terminal_observation")
            if self.rnd is not None:
                if terminal_obs is None:
                    raise KeyError(
                        "RND needs infos[i]['terminal_observation'] when an episode ends"
                    )
                rollout_buffer.add_terminal_frame(int(env), terminal_obs[-1])
            if terminal_obs is not None and infos[env].get("TimeLimit.truncated", False):
                with th.no_grad():
                    observation = self.policy.obs_to_tensor(terminal_obs)[0]
                    terminal_value = self.policy.predict_values(observation)[0]
                rewards[env] += (self.gamma * terminal_value).item()
        return rewards

    def _add_intrinsic(
        self, rnd: RND, buffer: ImageRolloutBuffer, last_obs: np.ndarray, last_values: th.Tensor
    ) -> None:
        """Score a complete rollout with RND and fold the second stream into its advantages."""
        frames = buffer.next_frames(last_obs).to(self.device)
        errors, targets = rnd.prediction_error(frames)
        by_step = errors.cpu().numpy().reshape(buffer.n_envs, buffer.buffer_size).T  # [T, E]
        rewards = rnd.normalize_rewards(by_step)
        buffer.add_intrinsic(rewards, last_values.cpu().numpy(), self.rnd_gamma, self.rnd_coef)
        self._rnd_rollout = (frames, targets)
        self._intrinsic_reward = float(rewards.mean())

    def train(self) -> None:
        """Update policy, value heads and RND's predictor on the rollout.

        With `rnd_coef=0` the arithmetic is SB3's. With it, both value losses have the weight
        `vf_coef`, and the first `rnd_update_proportion` of every minibatch also trains the
        predictor: minibatches are random permutations, so that part is a random one too. RND's
        normaliser takes in the rollout's frames at the end, for the next rollout (the paper's
        algorithm 1 does so before the optimisation; after it, the target's features, computed once
        for the rewards, serve all epochs).

        Raises:
            NonFiniteLoss: before the step that would have spoilt the weights
        """
        self.is_updating = True
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        progress = self._current_progress_remaining
        clip_range = self.clip_range(progress)  # type: ignore[operator]
        clip_range_vf = self.clip_range_vf(progress) if callable(self.clip_range_vf) else None
        clipping = Clipping(clip_range, clip_range_vf, self.normalize_advantage)
        self.ent_coef = self.ent_coef_schedule(progress)
        imitation_coef = self.imitation_coef_schedule(progress)
        kickstart_coef = self.kickstart_coef_schedule(progress)
        is_critic_alone = self.num_timesteps <= self.critic_steps
        is_held = bool(kickstart_coef) and not is_critic_alone
        mentor = self._mentor_log_probs() if is_held else None
        statistics: dict[str, list[float]] = {}
        keep_training = True
        for epoch in range(self.n_epochs):
            statistics["approx_kl"] = []  # SB3 logs the last epoch's
            for batch in self.rollout_buffer.get(self.batch_size):
                found = self.policy.evaluate_all(batch.observations, batch.actions)
                losses, metrics = ppo_losses(
                    found.values, found.log_prob, found.entropy, batch.targets, clipping
                )
                weights = {"entropy": self.ent_coef, "value": self.vf_coef}
                if "intrinsic_value" in losses:
                    weights["intrinsic_value"] = self.vf_coef
                if self._demos is not None and imitation_coef:
                    weights["imitation"] = imitation_coef
                    losses["imitation"] = self._imitation_loss(*self._demos)
                if mentor is not None:
                    weights["kickstart"] = kickstart_coef
                    losses["kickstart"] = kickstart_loss(found.log_probs, mentor[batch.indices])
                losses["loss"] = weighted_sum(losses, weights)
                if self.rnd is not None:
                    losses["rnd"] = self._rnd_loss(self.rnd, batch.indices)
                numbers = as_numbers(losses | metrics)
                for name, number in numbers.items():
                    statistics.setdefault(name, []).append(number)
                if self.target_kl is not None and numbers["approx_kl"] > 1.5 * self.target_kl:
                    keep_training = False
                    if self.verbose >= 1:
                        print(f"Early stop at epoch {epoch}: KL {numbers['approx_kl']:.3f}")
                    break
                self._step(losses, numbers, is_critic_alone)
            self._n_updates += 1
            if not keep_training:
                break
        if self.rnd is not None and self._rnd_rollout is not None:
            self.rnd.update_normalizer(self._rnd_rollout[0])
        if self.ema_decay:
            self._update_average()
        if is_critic_alone:  # the policy stands still on purpose: how far it moved says nothing
            del statistics["approx_kl"], statistics["clip_fraction"]
        self._record(statistics, clip_range, clip_range_vf)
        self.is_updating = False

    def _imitation_loss(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Mean negative log-probability of the actions of random pairs of the demos."""
        chosen = th.randint(len(actions), (max(1, self.batch_size // 8),)).to(self.device)
        found = self.policy.evaluate_all(observations[chosen], actions[chosen])
        return imitation_loss(found.log_prob)

    def _mentor_log_probs(self) -> th.Tensor | None:
        """What the mentor would do in each sample of the rollout, float32 [N, n_actions]."""
        if self._mentor is None:
            return None
        pieces = self.rollout_buffer.observations_in_order(self.batch_size)
        with th.no_grad():
            logits = [self._mentor.logits_and_values(piece)[0] for piece in pieces]
        return th.cat(logits).log_softmax(1)

    def _rnd_loss(self, rnd: RND, indices: th.Tensor) -> th.Tensor:
        """The predictor's loss on its part of a minibatch with these sample numbers."""
        assert self._rnd_rollout is not None, "train() follows collect_rollouts()"
        frames, targets = self._rnd_rollout
        chosen = indices[: rnd.n_trained(len(indices))]
        return rnd.loss(frames[chosen], targets[chosen])

    def _step(
        self, losses: dict[str, th.Tensor], numbers: dict[str, float], is_critic_alone: bool
    ) -> None:
        """One step of each optimiser, once every loss and gradient is known to be finite."""
        self.policy.optimizer.zero_grad()
        if is_critic_alone:
            of_values = [losses[name] for name in ("value", "intrinsic_value") if name in losses]
            (self.vf_coef * th.stack(of_values).sum()).backward(inputs=self._value_heads())
        else:
            losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        checked = {**numbers, "gradient norm": norm.item()}
        if self.rnd is not None:
            self.rnd.optimizer.zero_grad()
            losses["rnd"].backward()
        if not all(np.isfinite(number) for number in checked.values()):
            bad = ", ".join(f"{k} {v}" for k, v in checked.items() if not np.isfinite(v))
            raise NonFiniteLoss(
                f"not finite at step {self.num_timesteps}: {bad}; the weights were not updated"
            )
        self.policy.optimizer.step()
        if self.rnd is not None:
            self.rnd.optimizer.step()

    def _value_heads(self) -> list[nn.Parameter]:
        """The parameters that nothing but the values depends on."""
        heads = [self.policy.value_net]
        if self.rnd is not None:
            heads.append(self.policy.intrinsic_value_net)
        return [parameter for head in heads for parameter in head.parameters()]

    def _record(
        self, statistics: dict[str, list[float]], clip_range: float, clip_range_vf: float | None
    ) -> None:
        """SB3's `train/*` scalars, and RND's."""
        names = {
            "entropy": "entropy_loss",
            "policy": "policy_gradient_loss",
            "value": "value_loss",
            "approx_kl": "approx_kl",
            "clip_fraction": "clip_fraction",
            "imitation": "imitation_loss",
            "kickstart": "kickstart_loss",
            "intrinsic_value": "intrinsic_value_loss",
            "rnd": "rnd_loss",
        }
        for key, name in names.items():
            if key in statistics:
                self.logger.record(f"train/{name}", float(np.mean(statistics[key])))
        if self.rnd is not None:
            self.logger.record("train/intrinsic_reward", self._intrinsic_reward)
        buffer = self.rollout_buffer
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        self.logger.record("train/entropy", -float(np.mean(statistics["entropy"])))
        self.logger.record("train/loss", statistics["loss"][-1])
        self.logger.record("train/explained_variance", float(explained))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)
        self.logger.record("train/ent_coef", self.ent_coef)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)

    def trainer_state(self) -> dict[str, Any]:
        """All that the learner needs to go on bit-identically, beyond the policy's weights.

        Take it between rollouts (after `train()`, before `collect_rollouts()`: a callback's
        `on_rollout_start` is there). A snapshot of tensors, numbers, strings, lists and dicts:
        `torch.load(..., weights_only=True)` reads it back. The environments' state is not in it.
        """
        kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
        version, words, next_gauss = random.getstate()
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return copy.deepcopy(
            plain(
                {
                    "counters": counters,
                    "optimizer": self.policy.optimizer.state_dict(),
                    "average": self._average,
                    "mentor": None if self._mentor is None else self._mentor.state_dict(),
                    "rnd": None if self.rnd is None else self.rnd.state_dict(),
                    "torch_rng": th.get_rng_state(),
                    "cuda_rng": th.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
                    "numpy_rng": [kind, keys.astype(np.int64), position, has_gauss, gauss],
                    "python_rng": [version, list(words), next_gauss],
                    "last_obs": self._last_obs,
                    "last_episode_starts": self._last_episode_starts,
                    "ep_info_buffer": list(self.ep_info_buffer or []),
                    "ep_success_buffer": list(self.ep_success_buffer or []),
                }
            )
        )

    def load_trainer_state(self, state: dict[str, Any]) -> None:
        """Go on from `trainer_state()`, with the policy's weights loaded already.

        Call it last, after the environments are built and restored: it sets the global generators.
        Continue with `learn(target, reset_num_timesteps=False)`. With another number of
        environments the last observations are dropped, so that `learn` resets the environments.

        Raises:
            ValueError: when the optimiser's state belongs to other weights
        """
        state = copy.deepcopy(state)
        for name in _COUNTERS:
            setattr(self, name, state["counters"][name])
        load_optimizer(self.policy.optimizer, state["optimizer"])
        self._average = state["average"]
        if self._average is not None:
            check_weights(self._average, self.policy.state_dict())
        if (mentor := state.get("mentor")) is not None:
            check_weights(mentor, self.policy.state_dict())
            self.kickstart(mentor)
        if self.rnd is not None and state["rnd"] is not None:
            self.rnd.load_state_dict(state["rnd"])
        self._last_obs = None
        if state["last_obs"] is not None and len(state["last_obs"]) == self.n_envs:
            self._last_obs = state["last_obs"].numpy()
            self._last_episode_starts = state["last_episode_starts"].numpy()
        window = self._stats_window_size
        self.ep_info_buffer = deque(state["ep_info_buffer"], maxlen=window)
        self.ep_success_buffer = deque(state["ep_success_buffer"], maxlen=window)
        th.set_rng_state(state["torch_rng"])
        if self.device.type == "cuda" and state["cuda_rng"]:
            th.cuda.set_rng_state_all(state["cuda_rng"])
        kind, keys, position, has_gauss, gauss = state["numpy_rng"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
        version, words, next_gauss = state["python_rng"]
        random.setstate((version, tuple(words), next_gauss))


_COUNTERS = (
    "num_timesteps",
    "_n_updates",
    "_episode_num",
    "_total_timesteps",
    "_num_timesteps_at_start",
    "_current_progress_remaining",
)
