"""The rollout buffer of image observations: what PPO and RND learn from, sample by sample.

Symbols: T steps of a rollout, E environments, N = T * E samples, B minibatch, C stacked frames,
H x W their size. Samples are numbered environment by environment: sample = e * T + t, as in SB3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer

from mario_losses import Targets, gae


class Minibatch(NamedTuple):
    """B samples of a rollout, on the learner's device."""

    observations: th.Tensor  # uint8 [B, C, H, W]
    actions: th.Tensor  # int64 [B]
    targets: Targets
    indices: th.Tensor  # int64 [B], sample numbers


class ImageRolloutBuffer(RolloutBuffer):
    """SB3's rollout buffer without its copies of the observations.

    SB3 stores [T, E, ...] and copies all of it to environment-major order once per rollout. Here
    the storage is environment-major (and, with channels_last, [.., H, W, C]) from the start, and
    `observations` is a view of it in SB3's shape. Storage is reused, uint8, and pinned for CUDA.

    Args:
        channels_last: store pixels as [H, W, C]
        intrinsic: keep what RND needs: intrinsic values, returns and the terminal frames
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
        """Store a step, SB3's arguments; obs is None if `put_observations` has stored it."""
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

        Args:
            last_obs: uint8 [E, C, H, W], the observations after the rollout's last step
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

        Args:
            rewards: float [T, E], normalised intrinsic rewards
            last_values: float [E], intrinsic values after the last step
            gamma: intrinsic discount
            coefficient: weight of the intrinsic advantage
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
            observations, actions = picked.pop("observations"), picked.pop("actions")
            yield Minibatch(self._as_seen(observations), actions, Targets(**picked), indices)

    def observations_in_order(self, size: int) -> Iterator[th.Tensor]:
        """The rollout's observations, sample by sample, in pieces of a size: uint8 [., C, H, W]."""
        assert self.full, "the rollout is not complete"
        if not self._flat:
            self._flatten()
        yield from map(self._as_seen, self._flat["observations"].split(size))

    def _as_seen(self, stored: th.Tensor) -> th.Tensor:
        """Return stored observations as [., C, H, W]."""
        return stored.permute(0, 3, 1, 2) if self._channels_last else stored
