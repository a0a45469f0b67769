"""Stable-Baselines3's PPO and policy, extended: precision, RND, imitation, averaging, exact resume.

`PPOWithRND` is `stable_baselines3.PPO` (Schulman et al. 2017, arXiv:1707.06347) with Random Network
Distillation (Burda et al. 2018, arXiv:1810.12894) as an option. With `rnd_coef=0` nothing of RND
exists, and `train()` computes what SB3's own does. It knows no game and no files: it gets a
vectorised environment with stacked channel-first uint8 frames and hands out dictionaries.

Symbols: T steps of a rollout, E environments, N = T * E samples, B minibatch, C stacked frames,
H x W their size. Samples are numbered environment by environment: sample = e * T + t, as in SB3.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticCnnPolicy, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import MaybeCallback, PyTorchObs, Schedule
from stable_baselines3.common.utils import (
    FloatSchedule,
    LinearSchedule,
    explained_variance,
    obs_as_tensor,
)
from stable_baselines3.common.vec_env import VecEnv
from torch import nn
from torch.nn import functional as F

from precision import Precision, resolve_precision
from rnd import RND


class NonFiniteLoss(FloatingPointError):
    """A loss or a gradient is NaN or infinite; the weights were left as they were."""


def linear_schedule(initial: float, final: float, until: float = 1.0) -> LinearSchedule:
    """From `initial` at the run's start to `final` at this part of it, linearly in steps done.

    An SB3 class and not a closure, so that a zip that holds it loads without this module.
    """
    return LinearSchedule(initial, final, end_fraction=until)


def gae(
    rewards: np.ndarray,
    values: np.ndarray,
    last_values: np.ndarray,
    next_non_terminal: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438, equation 16).

    :param rewards: float [T, E]
    :param values: float [T, E], V(s_t)
    :param last_values: float [E], V(s_T)
    :param next_non_terminal: float [T, E], 0 where s_{t+1} begins a new episode, else 1; all ones
        for a non-episodic stream, whose return runs on through death (RND, section 2.3)
    :return: float32 [T, E], advantages
    """
    advantages = np.zeros_like(values, dtype=np.float32)
    running = np.zeros_like(last_values, dtype=np.float32)
    next_values = last_values
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * next_values * next_non_terminal[t] - values[t]
        running = delta + gamma * gae_lambda * next_non_terminal[t] * running
        advantages[t] = running
        next_values = values[t]
    return advantages


class SmallCNN(BaseFeaturesExtractor):
    """Convolutions 16 (8x8/4), 32 (4x4/2), 32 (3x3/1) and a linear layer, beside SB3's NatureCNN.

    A half of NatureCNN's widths (Mnih et al. 2015). A gradient pass on 256 samples took 67 ms
    instead of 153 ms (float32, channels_last, 2 cores of a Cascade Lake at 2.5 GHz).

    :param observation_space: uint8 Box [C, H, W], at least 36 x 36
    :param features_dim: length of the feature vector
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 256) -> None:
        super().__init__(observation_space, features_dim)
        channels, height, width = observation_space.shape
        self.cnn = nn.Sequential(
            nn.Conv2d(channels, 16, kernel_size=8, stride=4),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=4, stride=2),
            nn.ReLU(),
            nn.Conv2d(32, 32, kernel_size=3, stride=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        with th.no_grad():
            n_flatten = self.cnn(th.zeros(1, channels, height, width)).shape[1]
        self.linear = nn.Sequential(nn.Linear(n_flatten, features_dim), nn.ReLU())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Float [B, C, H, W] in [0, 1] to [B, features_dim]."""
        return self.linear(self.cnn(observations))


class TwoHeadCnnPolicy(ActorCriticCnnPolicy):
    """SB3's CNN policy with an optional second (intrinsic) value head.

    Its zips and state dicts are SB3's; with the options off it is SB3's `CnnPolicy` to the bit.

    :param net_arch: layers between the features and the heads; None means none, for every features
        extractor (SB3 would put 64-64 behind any but NatureCNN)
    :param intrinsic_value: add `intrinsic_value_net`, the value head of the intrinsic return
    :param action_bias: one number per action, in logits: the initial bias of `action_net`. Logits
        are W h + b, and SB3 starts at b = 0, so that starting at b = c is the same function with
        the same gradients as adding the constant c to the logits. It needs no code at inference,
        and training can unlearn it. As W starts near 0, the initial policy is softmax(c).
    :param channels_last: memory format of the convolutions; the same function, 2.4 times faster
        for SmallCNN and 1.6 times for NatureCNN on the CPU named above
    """

    autocast_dtype: th.dtype | None = None
    """Compute features and heads in this type. The learner sets it; a loaded policy is float32."""

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        *args: Any,
        intrinsic_value: bool = False,
        action_bias: Sequence[float] | None = None,
        channels_last: bool = False,
        **kwargs: Any,
    ) -> None:
        self.intrinsic_value = intrinsic_value
        self.action_bias = None if action_bias is None else [float(b) for b in action_bias]
        self.channels_last = channels_last
        net_arch = [] if net_arch is None else net_arch
        super().__init__(observation_space, action_space, lr_schedule, net_arch, *args, **kwargs)
        if not self.share_features_extractor:
            raise ValueError("TwoHeadCnnPolicy shares one features extractor between its heads")

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        if self.action_bias is not None:
            bias = th.as_tensor(self.action_net.bias)
            if len(self.action_bias) != len(bias):
                raise ValueError(
                    f"action_bias has {len(self.action_bias)} entries for {len(bias)} actions"
                )
            with th.no_grad():
                bias.copy_(th.tensor(self.action_bias))
        if self.intrinsic_value:  # after SB3's own layers: they keep the random numbers they had
            self.intrinsic_value_net = nn.Linear(self.mlp_extractor.latent_dim_vf, 1)
            if self.ortho_init:
                self.init_weights(self.intrinsic_value_net, gain=1)
            self.optimizer = self.optimizer_class(
                self.parameters(),
                lr=lr_schedule(1),  # type: ignore[call-arg]
                **self.optimizer_kwargs,
            )
        if self.channels_last:
            self.to(memory_format=th.channels_last)  # type: ignore[call-overload]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            intrinsic_value=self.intrinsic_value,
            action_bias=self.action_bias,
            channels_last=self.channels_last,
        )
        return data

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.autocast_dtype is None:
            return nullcontext()
        return th.autocast(self.device.type, dtype=self.autocast_dtype)

    def extract_features(
        self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor | None = None
    ) -> th.Tensor:
        """Uint8 [B, C, H, W] to features [B, features_dim].

        In channels_last the bytes are re-ordered before they become four times as large, and
        the float tensor is scaled in place: 4 ms instead of 12 ms for 256 observations.
        """
        if self.channels_last and isinstance(obs, th.Tensor) and obs.dtype == th.uint8:
            pixels = obs.contiguous(memory_format=th.channels_last).float()
            if self.normalize_images:
                pixels.mul_(1.0 / 255.0)
            return self.features_extractor(pixels)
        return super().extract_features(obs, features_extractor)  # type: ignore[return-value]

    def _logits_and_values(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """Logits float32 [B, n_actions] and values float32 [B, 1], or [B, 2] with two heads."""
        with self._autocast():
            latent_pi, latent_vf = self.mlp_extractor(self.extract_features(obs))
            logits = self.action_net(latent_pi)
            values = self.value_net(latent_vf)
            if self.intrinsic_value:
                values = th.cat([values, self.intrinsic_value_net(latent_vf)], dim=1)
        return logits.float(), values.float()

    def _actor_critic(self, obs: PyTorchObs) -> tuple[Distribution, th.Tensor]:
        logits, values = self._logits_and_values(obs)
        return self.action_dist.proba_distribution(action_logits=logits), values

    def sample(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Sampled actions [B], values [B, heads] (extrinsic, intrinsic), log-probabilities [B].

        The rollout's one call per step: `torch.distributions`' arithmetic and random numbers
        without its argument checks, which took as long as a tenth of the forward pass.
        """
        logits, values = self._logits_and_values(obs)
        log_probs = logits - logits.logsumexp(dim=-1, keepdim=True)
        actions = th.multinomial(th.softmax(log_probs, dim=-1), 1, replacement=True)
        return actions.squeeze(1), values, log_probs.gather(1, actions).squeeze(1)

    def forward(
        self, obs: th.Tensor, deterministic: bool = False
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """As SB3: actions [B], extrinsic values [B, 1] and log-probabilities [B]."""
        distribution, values = self._actor_critic(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, values[:, :1], distribution.log_prob(actions)

    def evaluate_all(
        self, obs: PyTorchObs, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Values [B, heads], log-probabilities [B] and entropies [B], with gradients."""
        distribution, values = self._actor_critic(obs)
        log_prob = distribution.log_prob(actions)
        entropy = distribution.entropy()
        assert entropy is not None  # a categorical distribution has one
        return values, log_prob, entropy

    def evaluate_actions(
        self, obs: PyTorchObs, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """As SB3: extrinsic values [B, 1], log-probabilities [B], entropies [B]."""
        values, log_prob, entropy = self.evaluate_all(obs, actions)
        return values[:, :1], log_prob, entropy

    def sharpen(self, factor: float) -> None:
        """Multiply the logits: a sampling temperature of 1 / factor, kept in the weights."""
        with th.no_grad():
            for parameter in self.action_net.parameters():
                parameter.mul_(factor)

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """As SB3: the action distribution of each observation."""
        return self._actor_critic(obs)[0]

    def predict_all_values(self, obs: PyTorchObs) -> th.Tensor:
        """Values [B, heads]: extrinsic, then intrinsic."""
        return self._logits_and_values(obs)[1]

    def predict_values(self, obs: PyTorchObs) -> th.Tensor:
        """As SB3: extrinsic values [B, 1]."""
        return self.predict_all_values(obs)[:, :1]


class Minibatch(NamedTuple):
    """B samples of a rollout, on the learner's device. The first six are SB3's."""

    observations: th.Tensor  # uint8 [B, C, H, W]
    actions: th.Tensor  # int64 [B]
    old_values: th.Tensor  # float32 [B]
    old_log_prob: th.Tensor  # float32 [B]
    advantages: th.Tensor  # float32 [B], both streams combined
    returns: th.Tensor  # float32 [B], extrinsic
    intrinsic_returns: th.Tensor | None  # float32 [B]
    indices: th.Tensor  # int64 [B], sample numbers


class ImageRolloutBuffer(RolloutBuffer):
    """SB3's rollout buffer without its copies of the observations.

    SB3 stores [T, E, ...] and copies all of it to environment-major order once per rollout. Here
    the storage is environment-major (and, with channels_last, [.., H, W, C]) from the start, and
    `observations` is a view of it in SB3's shape. Storage is reused, uint8, and pinned for CUDA.

    :param channels_last: store pixels as [H, W, C]
    :param intrinsic: keep what RND needs: intrinsic values, returns and the terminal frames
    """

    def __init__(
        self, *args: Any, channels_last: bool = False, intrinsic: bool = False, **kwargs: Any
    ) -> None:
        self._channels_last = channels_last
        self._intrinsic = intrinsic
        self._storage: th.Tensor | None = None
        super().__init__(*args, **kwargs)

    def _allocate(self) -> th.Tensor:
        """The pixels' storage, and `self.observations` [T, E, C, H, W] as a view of it."""
        channels, height, width = self.obs_shape
        image = (height, width, channels) if self._channels_last else (channels, height, width)
        zeros = np.zeros((self.n_envs, self.buffer_size, *image), self.observation_space.dtype)
        storage = th.from_numpy(zeros)
        if self.device.type == "cuda":
            storage = storage.pin_memory()
        view = storage.numpy()
        axes = (1, 0, 4, 2, 3) if self._channels_last else (1, 0, 2, 3, 4)
        self.observations = view.transpose(axes)
        return storage

    def reset(self) -> None:
        """Begin a new rollout. The pixels' storage is reused: each cell is written again."""
        if self._storage is None:
            self._storage = self._allocate()
        shape = (self.buffer_size, self.n_envs)
        self.actions = np.zeros((*shape, self.action_dim), dtype=self.action_space.dtype)
        self.rewards = np.zeros(shape, dtype=np.float32)
        self.returns = np.zeros(shape, dtype=np.float32)
        self.episode_starts = np.zeros(shape, dtype=np.float32)
        self.values = np.zeros(shape, dtype=np.float32)
        self.log_probs = np.zeros(shape, dtype=np.float32)
        self.advantages = np.zeros(shape, dtype=np.float32)
        self.intrinsic_values = np.zeros(shape, dtype=np.float32)
        self.intrinsic_returns = np.zeros(shape, dtype=np.float32)
        self._terminal_frames: list[tuple[int, int, np.ndarray]] = []
        self._flat: dict[str, th.Tensor] = {}
        self.pos = 0
        self.full = False

    def put_observations(self, obs: np.ndarray) -> th.Tensor:
        """Store the coming step's observations, uint8 [E, C, H, W], and return them on the device.

        The policy then reads what was stored, already in its memory format. Channel by channel,
        as NumPy's loop over a whole transposed image is 7 times slower (0.66 and 0.10 ms for 8).
        """
        cell = self.observations[self.pos]
        for channel in range(cell.shape[1]):
            cell[:, channel] = obs[:, channel]
        return th.from_numpy(cell).to(self.device, non_blocking=True)

    def add(
        self,
        obs: np.ndarray | None,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: th.Tensor,
        log_prob: th.Tensor,
    ) -> None:
        """As SB3's; `obs` is None when `put_observations` has stored it already."""
        if obs is not None:
            self.put_observations(obs)
        self.actions[self.pos] = action.reshape(self.n_envs, self.action_dim)
        self.rewards[self.pos] = reward
        self.episode_starts[self.pos] = episode_start
        self.values[self.pos] = value.cpu().numpy().flatten()
        self.log_probs[self.pos] = log_prob.cpu().numpy()
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def add_terminal_frame(self, env: int, frame: np.ndarray) -> None:
        """Keep the last frame, uint8 [H, W], of the episode that the coming `add` ends."""
        self._terminal_frames.append((self.pos, env, frame.copy()))

    def next_frames(self, last_obs: np.ndarray) -> th.Tensor:
        """The frame that each action led to: uint8 [N, H, W], sample by sample.

        That is the newest frame of the following observation, but the episode's own last frame
        where the episode ended there: the next observation belongs to the next episode.

        :param last_obs: uint8 [E, C, H, W], the observations after the rollout's last step
        """
        newest = self.observations[:, :, -1].swapaxes(0, 1)  # [E, T, H, W]
        frames = np.empty_like(newest, order="C")
        frames[:, :-1] = newest[:, 1:]
        frames[:, -1] = last_obs[:, -1]
        for step, env, frame in self._terminal_frames:
            frames[env, step] = frame
        return th.from_numpy(frames).flatten(0, 1)

    def add_intrinsic(
        self, rewards: np.ndarray, last_values: np.ndarray, gamma: float, coefficient: float
    ) -> None:
        """Fold the intrinsic stream in, after `compute_returns_and_advantage`.

        `advantages = extrinsic + coefficient * intrinsic` (the paper's section 2.3, where the
        extrinsic advantage has the coefficient 2 and the intrinsic one 1); PPO then normalises
        the sum per minibatch. `returns` stays the extrinsic head's target.

        :param rewards: float [T, E], normalised intrinsic rewards
        :param last_values: float [E], intrinsic values after the last step
        :param gamma: intrinsic discount
        :param coefficient: weight of the intrinsic advantage
        """
        ones = np.ones_like(self.rewards)
        advantages = gae(rewards, self.intrinsic_values, last_values, ones, gamma, self.gae_lambda)
        self.intrinsic_returns = advantages + self.intrinsic_values
        self.advantages = self.advantages + coefficient * advantages

    def _flatten(self) -> None:
        """Environment-major tensors [N, ...] on the device, once per rollout."""
        assert self._storage is not None

        def flat(array: np.ndarray) -> th.Tensor:
            tensor = th.from_numpy(np.ascontiguousarray(array.swapaxes(0, 1)))
            return tensor.flatten().to(self.device)

        self._flat = {
            "observations": self._storage.flatten(0, 1).to(self.device, non_blocking=True),
            "actions": flat(self.actions),
            "old_values": flat(self.values),
            "old_log_prob": flat(self.log_probs),
            "advantages": flat(self.advantages),
            "returns": flat(self.returns),
        }
        if self._intrinsic:
            self._flat["intrinsic_returns"] = flat(self.intrinsic_returns)

    def get(self, batch_size: int | None = None) -> Iterator[Minibatch]:  # type: ignore[override]
        """One epoch of minibatches, in the order that SB3's buffer would give."""
        assert self.full, "the rollout is not complete"
        if not self._flat:
            self._flatten()
        n = self.buffer_size * self.n_envs
        order = th.from_numpy(np.random.permutation(n)).to(self.device)
        for indices in order.split(batch_size or n):
            picked = {name: t.index_select(0, indices) for name, t in self._flat.items()}
            if self._channels_last:
                picked["observations"] = picked["observations"].permute(0, 3, 1, 2)
            picked.setdefault("intrinsic_returns", None)  # type: ignore[arg-type]
            yield Minibatch(**picked, indices=indices)


def ppo_losses(
    values: th.Tensor,
    log_prob: th.Tensor,
    entropy: th.Tensor,
    batch: Minibatch,
    clip_range: float,
    clip_range_vf: float | None,
    normalize_advantage: bool,
) -> dict[str, th.Tensor]:
    """PPO's losses and diagnostics of one minibatch, as scalars (arXiv:1707.06347, equation 9).

    :param values: float32 [B, heads], extrinsic, then intrinsic
    :param log_prob: float32 [B], of the batch's actions under the current policy
    :param entropy: float32 [B]
    :param clip_range: epsilon of the clipped ratio
    :param clip_range_vf: bound on the extrinsic value's change; None leaves it free
    :param normalize_advantage: to mean 0 and std 1 within the minibatch, as SB3
    :return: `policy`, `value`, `entropy` (the negative mean entropy) and, with two heads,
        `intrinsic_value` carry gradients; `approx_kl` (SB3's estimator) and `clip_fraction` do not
    """
    advantages = batch.advantages
    if normalize_advantage and len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_ratio = log_prob - batch.old_log_prob
    ratio = th.exp(log_ratio)
    clipped = th.clamp(ratio, 1 - clip_range, 1 + clip_range)
    extrinsic = values[:, 0]
    if clip_range_vf is not None:
        change = th.clamp(extrinsic - batch.old_values, -clip_range_vf, clip_range_vf)
        extrinsic = batch.old_values + change
    losses = {
        "policy": -th.min(advantages * ratio, advantages * clipped).mean(),
        "value": F.mse_loss(batch.returns, extrinsic),
        "entropy": -th.mean(entropy),
    }
    if batch.intrinsic_returns is not None:
        losses["intrinsic_value"] = F.mse_loss(batch.intrinsic_returns, values[:, 1])
    with th.no_grad():
        losses["approx_kl"] = th.mean((ratio - 1) - log_ratio)
        losses["clip_fraction"] = th.mean((th.abs(ratio - 1) > clip_range).float())
    return losses


class PPOWithRND(PPO):
    """SB3's PPO with RND, imitation, a moving average, schedules, a precision, and exact resume.

    Takes PPO's arguments, with `policy` `TwoHeadCnnPolicy` (or `"CnnPolicy"`, which means it), an
    environment with uint8 observations [C, H, W] and discrete actions, and what is below. Adam is
    SB3's (eps 1e-5) in its fused form, which takes 1 ms instead of 6 on one core;
    `policy_kwargs["optimizer_kwargs"]` overrides that.

    :param ent_coef: entropy coefficient, a number or a schedule (see `linear_schedule`)
    :param imitation_coef: weight of the demos' actions, a number or a schedule (see `imitate`)
    :param ema_decay: of the weights' exponential moving average, a rollout; 0 keeps none
    :param rnd_coef: weight of the intrinsic advantage; 0 switches RND off altogether
    :param rnd_lr: learning rate of the predictor's Adam
    :param rnd_feature_dim: length of RND's feature vectors
    :param rnd_gamma: discount of the intrinsic return
    :param rnd_update_proportion: part of each minibatch that trains the predictor
    :param rnd_warmup_steps: random steps per environment that fill RND's observation normaliser
        before the first rollout. They are not in `num_timesteps`; the environments are reset after.
    :param precision: `float32`, `bf16` (autocast, in rollout and training alike) or `auto`
    :param channels_last: memory format; same function, sums in another order
    :param compile_policy: `torch.compile` the training forward pass (minutes of warm-up on a CPU)
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
        ema_decay: float = 0.0,
        rnd_coef: float = 0.0,
        rnd_lr: float = 1e-4,
        rnd_feature_dim: int = 256,
        rnd_gamma: float = 0.99,
        rnd_update_proportion: float = 0.25,
        rnd_warmup_steps: int = 512,
        precision: Precision = "float32",
        channels_last: bool = True,
        compile_policy: bool = False,
        policy_kwargs: dict[str, Any] | None = None,
        _init_setup_model: bool = True,
        **ppo_arguments: Any,
    ) -> None:
        self.ent_coef_schedule = FloatSchedule(ent_coef)
        self.imitation_coef_schedule = FloatSchedule(imitation_coef)
        self._demos: tuple[th.Tensor, th.Tensor] | None = None
        self.ema_decay = ema_decay
        self._average: dict[str, th.Tensor] | None = None
        self.rnd_coef = rnd_coef
        self.rnd_lr = rnd_lr
        self.rnd_feature_dim = rnd_feature_dim
        self.rnd_gamma = rnd_gamma
        self.rnd_update_proportion = rnd_update_proportion
        self.rnd_warmup_steps = rnd_warmup_steps
        self.precision: Precision = precision
        self.channels_last = channels_last
        self.compile_policy = compile_policy
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
        self._evaluate: Callable[..., Any] = self.policy.evaluate_all
        if self.compile_policy:
            self._evaluate = th.compile(self.policy.evaluate_all)
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
            "_evaluate",
            "_demos",
            "_average",
        ]

    def imitate(self, observations: np.ndarray, actions: np.ndarray) -> None:
        """Learn from demos beside the rollouts, with the weight of `imitation_coef`.

        Each gradient pass adds `imitation_coef * -log pi(a | s)` of random pairs, an eighth of the
        minibatch: the term of DAPG (Rajeswaran et al. 2018, arXiv:1709.10087, section IV.B) whose
        weight a schedule takes back as the policy outgrows the demos.

        :param observations: uint8 [n, C, H, W]
        :param actions: int64 [n]
        """
        memory = th.channels_last if self.channels_last else th.contiguous_format
        self._demos = (
            th.from_numpy(observations).to(self.device).contiguous(memory_format=memory),
            th.from_numpy(actions).to(self.device),
        )

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

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        """As SB3, but `total_timesteps` is always the target on the run's own counter.

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
        """As SB3's, step for step; RND's rewards are computed once, when the rollout is complete.

        :return: False if a callback stopped the training
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

        :return: float [E], the rewards with the bootstrapped values
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

        :raises NonFiniteLoss: before the step that would have spoilt the weights
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        progress = self._current_progress_remaining
        clip_range = self.clip_range(progress)  # type: ignore[operator]
        clip_range_vf = self.clip_range_vf(progress) if callable(self.clip_range_vf) else None
        self.ent_coef = self.ent_coef_schedule(progress)
        imitation_coef = self.imitation_coef_schedule(progress)
        statistics: dict[str, list[float]] = {}
        keep_training = True
        for epoch in range(self.n_epochs):
            statistics["approx_kl"] = []  # SB3 logs the last epoch's
            for batch in self.rollout_buffer.get(self.batch_size):
                values, log_prob, entropy = self._evaluate(batch.observations, batch.actions)
                losses = ppo_losses(
                    values,
                    log_prob,
                    entropy,
                    batch,
                    clip_range,
                    clip_range_vf,
                    self.normalize_advantage,
                )
                loss = losses["policy"] + self.ent_coef * losses["entropy"]
                loss = loss + self.vf_coef * losses["value"]
                if "intrinsic_value" in losses:
                    loss = loss + self.vf_coef * losses["intrinsic_value"]
                if self._demos is not None and imitation_coef:
                    losses["imitation"] = self._imitation_loss(*self._demos)
                    loss = loss + imitation_coef * losses["imitation"]
                losses["loss"] = loss
                if self.rnd is not None:
                    losses["rnd"] = self._rnd_loss(self.rnd, batch.indices)
                numbers = dict(
                    zip(
                        losses,
                        th.stack([x.detach() for x in losses.values()]).tolist(),
                        strict=True,
                    )
                )
                for name, number in numbers.items():
                    statistics.setdefault(name, []).append(number)
                if self.target_kl is not None and numbers["approx_kl"] > 1.5 * self.target_kl:
                    keep_training = False
                    if self.verbose >= 1:
                        print(f"Early stop at epoch {epoch}: KL {numbers['approx_kl']:.3f}")
                    break
                self._step(losses, numbers)
            self._n_updates += 1
            if not keep_training:
                break
        if self.rnd is not None and self._rnd_rollout is not None:
            self.rnd.update_normalizer(self._rnd_rollout[0])
        if self.ema_decay:
            self._update_average()
        self._record(statistics, clip_range, clip_range_vf)

    def _imitation_loss(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Mean negative log-probability of the actions of random pairs of the demos."""
        chosen = th.randint(len(actions), (max(1, self.batch_size // 8),)).to(self.device)
        _, log_prob, _ = self._evaluate(observations[chosen], actions[chosen])
        return -log_prob.mean()

    def _rnd_loss(self, rnd: RND, indices: th.Tensor) -> th.Tensor:
        """The predictor's loss on its part of a minibatch with these sample numbers."""
        assert self._rnd_rollout is not None, "train() follows collect_rollouts()"
        frames, targets = self._rnd_rollout
        chosen = indices[: rnd.n_trained(len(indices))]
        return rnd.loss(frames[chosen], targets[chosen])

    def _step(self, losses: dict[str, th.Tensor], numbers: dict[str, float]) -> None:
        """One step of each optimiser, once every loss and gradient is known to be finite."""
        self.policy.optimizer.zero_grad()
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

        :raises ValueError: when the optimiser's state belongs to other weights
        """
        state = copy.deepcopy(state)
        for name in _COUNTERS:
            setattr(self, name, state["counters"][name])
        self.policy.optimizer.load_state_dict(state["optimizer"])
        self._average = state["average"]
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


def plain(value: Any) -> Any:
    """NumPy to tensors and numbers, so that `torch.load(weights_only=True)` reads it."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return th.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str | th.Tensor):
        return value
    raise TypeError(f"a {type(value).__name__} has no place in the trainer's state")


class PPOPolicy:
    """A `TwoHeadCnnPolicy` as the rollout loop's `Policy`: logits from observations, no memory.

    :param policy: the network, on any device
    :param env_config: what it was trained in; handed on, never read here
    """

    def __init__(self, policy: TwoHeadCnnPolicy, env_config: Any) -> None:
        self.policy = policy
        self.env_config = env_config

    def initial_state(self, n: int) -> None:
        """None: there is no memory."""

    def logits(
        self, observations: np.ndarray, previous_actions: np.ndarray, state: None
    ) -> tuple[np.ndarray, None]:
        """Return log-probabilities float32 [n, n_actions] of uint8 [n, C, H, W], and None."""
        with th.no_grad():
            batch = th.as_tensor(observations, device=self.policy.device)
            distribution = self.policy.get_distribution(batch).distribution
        return distribution.logits.cpu().numpy(), None  # type: ignore[union-attr]

    def values(self, observations: np.ndarray, state: None) -> np.ndarray:
        """Return the extrinsic values float32 [n] of uint8 [n, C, H, W]."""
        with th.no_grad():
            batch = th.as_tensor(observations, device=self.policy.device)
            return self.policy.predict_values(batch).squeeze(1).cpu().numpy()
