"""Random Network Distillation: the two networks, the normalisers, the loss.

Burda, Edwards, Storkey and Klimov, "Exploration by Random Network Distillation" (2018),
arXiv:1810.12894. A predictor network learns to imitate a fixed, randomly initialised target
network on the frames that the agent reaches; where it has seldom been, its error is large, and
that error is the intrinsic reward. Section numbers below are the paper's.

Symbols: N frames, H x W their size, F features, T steps of a rollout, E environments. A frame is
one grey uint8 image [H, W], the newest of the stacked observation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.running_mean_std import RunningMeanStd
from torch import nn

from mario_checkpoints import check_weights, load_optimizer
from mario_files import fill

OBSERVATION_CLIP = 5.0  # section 2.4: normalised pixels are clipped to [-5, 5]
# Frames handled at once: with 256, a sum of squared uint8 pixels stays below 2**24, so that the
# float32 sums in `pixel_moments` are exact integers and do not depend on the summation order.
CHUNK = 256


class RewardForwardFilter:
    """Discounted running sum of the rewards of E environments, never reset (section 2.3, 2.4).

    `rewards_i <- gamma * rewards_i + r_t`: a causal stand-in for the intrinsic return, whose
    standard deviation scales the intrinsic reward. Episode ends are ignored, as the intrinsic
    return is non-episodic.

    Args:
        n_envs: E
        gamma: the intrinsic discount, 0 <= gamma < 1
    """

    def __init__(self, n_envs: int, gamma: float) -> None:
        self.gamma = gamma
        self.running = np.zeros(n_envs, dtype=np.float64)

    def __call__(self, rewards: np.ndarray) -> np.ndarray:
        """Filter a rollout in time order.

        Args:
            rewards: float [T, E]

        Returns:
            float64 [T, E], the filter's value after each step
        """
        filtered = np.empty(rewards.shape, dtype=np.float64)
        for t, reward in enumerate(rewards):
            self.running = self.running * self.gamma + reward
            filtered[t] = self.running
        return filtered


def pixel_moments(frames: th.Tensor) -> tuple[np.ndarray, np.ndarray, int]:
    """Mean and variance of each pixel over N frames, exact up to float64 rounding.

    Args:
        frames: uint8 [N, H, W]

    Returns:
        mean float64 [H, W], population variance float64 [H, W], N
    """
    total = th.zeros(frames.shape[1:], dtype=th.float64)
    squares = th.zeros(frames.shape[1:], dtype=th.float64)
    for chunk in frames.split(CHUNK):
        pixels = chunk.float()
        total += pixels.sum(dim=0).double().cpu()
        squares += pixels.square_().sum(dim=0).double().cpu()
    n = frames.shape[0]
    mean = total / n
    variance = (squares / n - mean.square()).clamp_(min=0.0)
    return mean.numpy(), variance.numpy(), n


def _convolutions(frame_shape: tuple[int, int]) -> tuple[nn.Sequential, int]:
    """The trunk that both networks share in shape: 16-32-32 convolutions, flattened."""
    trunk = nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=8, stride=4),
        nn.LeakyReLU(),
        nn.Conv2d(16, 32, kernel_size=4, stride=2),
        nn.LeakyReLU(),
        nn.Conv2d(32, 32, kernel_size=3, stride=1),
        nn.LeakyReLU(),
        nn.Flatten(),
    )
    with th.no_grad():
        n_flatten = trunk(th.zeros(1, 1, *frame_shape)).shape[1]
    return trunk, n_flatten


class RNDNetworks(nn.Module):
    """The fixed random target and the predictor that learns to imitate it (section 2.2).

    The predictor has two more layers than the target, as in the paper's appendix A.3, so that it
    is able to represent the target. Widths are a half of the paper's (16-32-32 instead of
    32-64-64), a third of the arithmetic: on a CPU the paper's would double the cost of PPO.

    Args:
        frame_shape: (H, W) of one frame
        feature_dim: F, the length of the feature vectors
    """

    def __init__(self, frame_shape: tuple[int, int], feature_dim: int) -> None:
        super().__init__()
        trunk, n_flatten = _convolutions(frame_shape)
        self.target = nn.Sequential(trunk, nn.Linear(n_flatten, feature_dim))
        trunk, n_flatten = _convolutions(frame_shape)
        self.predictor = nn.Sequential(
            trunk,
            nn.Linear(n_flatten, feature_dim),
            nn.ReLU(),
            nn.Linear(feature_dim, feature_dim),
            nn.ReLU(),
            nn.Linear(feature_dim, feature_dim),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.orthogonal_(module.weight, gain=2**0.5)
                nn.init.constant_(th.as_tensor(module.bias), 0.0)
        self.target.requires_grad_(False)


class RND:
    """The networks with their normalisers and optimiser: frames in, intrinsic rewards out.

    Args:
        frame_shape: (H, W) of one frame
        n_envs: E, the environments whose rewards are filtered side by side
        feature_dim: F, the length of the feature vectors
        learning_rate: of the predictor's Adam (the paper's is 1e-4)
        gamma: discount of the intrinsic return (the paper's is 0.99)
        update_proportion: part of each minibatch on which the predictor is trained. The paper's
            0.25 keeps the predictor from learning too fast when there are many environments.
        device: where the networks live
        channels_last: memory format of the convolutions; same numbers, faster on a CPU
        autocast_dtype: compute the networks in this type (None: float32)
    """

    def __init__(
        self,
        frame_shape: tuple[int, int],
        n_envs: int,
        *,
        feature_dim: int = 256,
        learning_rate: float = 1e-4,
        gamma: float = 0.99,
        update_proportion: float = 0.25,
        device: th.device | str = "cpu",
        channels_last: bool = False,
        autocast_dtype: th.dtype | None = None,
    ) -> None:
        if not 0.0 < update_proportion <= 1.0:
            raise ValueError(f"update_proportion must be in (0, 1], got {update_proportion}")
        if not 0.0 <= gamma < 1.0:
            raise ValueError(f"the intrinsic gamma must be in [0, 1), got {gamma}")
        self.device = th.device(device)
        self.gamma = gamma
        self.update_proportion = update_proportion
        self.autocast_dtype = autocast_dtype
        self.networks = RNDNetworks(frame_shape, feature_dim).to(self.device)
        if channels_last:
            self.networks.to(memory_format=th.channels_last)  # type: ignore[call-overload]
        self.optimizer = th.optim.Adam(
            self.networks.predictor.parameters(), lr=learning_rate, fused=True
        )
        self.observation_rms = RunningMeanStd(shape=frame_shape)
        self.return_rms = RunningMeanStd()
        self.return_filter = RewardForwardFilter(n_envs, gamma)
        self._refresh_pixel_scale()

    @property
    def is_warm(self) -> bool:
        """Whether the observation normaliser has seen any frame."""
        return self.observation_rms.count >= 1.0

    def _refresh_pixel_scale(self) -> None:
        """Copy the normaliser's float64 statistics to float32 tensors on the networks' device."""
        self._mean = th.as_tensor(self.observation_rms.mean, dtype=th.float32, device=self.device)
        std = np.sqrt(self.observation_rms.var) + 1e-8  # a pixel that never changed has std 0
        self._inverse_std = th.as_tensor(1.0 / std, dtype=th.float32, device=self.device)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.autocast_dtype is None:
            return nullcontext()
        return th.autocast(self.device.type, dtype=self.autocast_dtype)

    def update_normalizer(self, frames: th.Tensor) -> None:
        """Add frames to the per-pixel running mean and variance (section 2.4).

        Args:
            frames: uint8 [N, H, W]
        """
        mean, variance, n = pixel_moments(frames)
        self.observation_rms.update_from_moments(mean, variance, n)
        self._refresh_pixel_scale()

    def warm_up_normalizer(self, frames: np.ndarray) -> None:
        """Fill the observation normaliser from random play, before the first rollout.

        Args:
            frames: uint8 [N, H, W]
        """
        self.update_normalizer(th.from_numpy(frames))

    def normalize(self, frames: th.Tensor) -> th.Tensor:
        """Whiten each pixel by the running statistics and clip to +-5 (section 2.4).

        Args:
            frames: uint8 [N, H, W] on the networks' device

        Returns:
            float32 [N, 1, H, W]
        """
        whitened = (frames.float() - self._mean).mul_(self._inverse_std)
        return whitened.clamp_(-OBSERVATION_CLIP, OBSERVATION_CLIP).unsqueeze(1)

    def _chunks(self, frames: th.Tensor) -> Iterator[th.Tensor]:
        for chunk in frames.split(CHUNK):
            yield self.normalize(chunk.to(self.device, non_blocking=True))

    @th.no_grad()
    def prediction_error(self, frames: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """The raw intrinsic reward: mean squared error between predictor and target features.

        Args:
            frames: uint8 [N, H, W]

        Returns:
            errors float32 [N]; the target's features float32 [N, F], for `loss`
        """
        errors, targets = [], []
        with self._autocast():
            for chunk in self._chunks(frames):
                target = self.networks.target(chunk).float()
                prediction = self.networks.predictor(chunk).float()
                errors.append((prediction - target).square().mean(dim=1))
                targets.append(target)
        return th.cat(errors), th.cat(targets)

    def normalize_rewards(self, errors: np.ndarray) -> np.ndarray:
        """Divide a rollout's errors by the running std of their discounted return (section 2.4).

        Args:
            errors: float [T, E], in time order

        Returns:
            float32 [T, E]
        """
        self.return_rms.update(self.return_filter(errors).reshape(-1))
        return (errors / (np.sqrt(self.return_rms.var) + 1e-8)).astype(np.float32)

    def n_trained(self, batch_size: int) -> int:
        """How many samples of a minibatch train the predictor, at least one."""
        return max(1, round(batch_size * self.update_proportion))

    def loss(self, frames: th.Tensor, target: th.Tensor) -> th.Tensor:
        """The distillation loss, a scalar: mean squared error to the target's features.

        Args:
            frames: uint8 [N, H, W] on the networks' device
            target: float32 [N, F], the target's features of those frames
        """
        with self._autocast():
            prediction = self.networks.predictor(self.normalize(frames))
        return nn.functional.mse_loss(prediction.float(), target)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue: tensors, numbers, dicts and lists only."""
        return {
            "networks": dict(self.networks.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "observation_mean": th.as_tensor(self.observation_rms.mean),
            "observation_var": th.as_tensor(self.observation_rms.var),
            "observation_count": float(self.observation_rms.count),
            "return_mean": float(self.return_rms.mean),
            "return_var": float(self.return_rms.var),
            "return_count": float(self.return_rms.count),
            "return_filter": th.as_tensor(self.return_filter.running),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`. The learning rate stays this object's own.

        Raises:
            RuntimeError: when the networks' shapes differ
        """
        check_weights(state["networks"], self.networks.state_dict())
        self.networks.load_state_dict(state["networks"])
        rates = [group["lr"] for group in self.optimizer.param_groups]
        load_optimizer(self.optimizer, state["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        mean, var = map(np.zeros_like, (self.observation_rms.mean, self.observation_rms.var))
        fill(mean, state["observation_mean"], "the observations' mean")
        fill(var, state["observation_var"], "the observations' variance", 0)
        self.observation_rms.mean, self.observation_rms.var = mean, var
        self.observation_rms.count = state["observation_count"]
        self.return_rms.mean = np.asarray(state["return_mean"])
        self.return_rms.var = np.asarray(state["return_var"])
        self.return_rms.count = state["return_count"]
        running = state["return_filter"].numpy()
        if running.shape == self.return_filter.running.shape:
            self.return_filter.running = running.copy()
        else:  # another number of environments: the filter starts anew, its statistics stay
            self.return_filter.running = np.zeros_like(self.return_filter.running)
        self._refresh_pixel_scale()
