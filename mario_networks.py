"""The network that plays from pixels: its convolutions, its heads, and it as a `Policy`.

Symbols: B observations, C stacked frames, H x W their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from mario_config import FeaturesName


class SmallCNN(BaseFeaturesExtractor):
    """Convolutions 16 (8x8/4), 32 (4x4/2), 32 (3x3/1) and a linear layer, beside SB3's NatureCNN.

    A half of NatureCNN's widths (Mnih et al. 2015). A gradient pass on 256 samples took 67 ms
    instead of 153 ms (float32, channels_last, 2 cores of a Cascade Lake at 2.5 GHz).

    Args:
        observation_space: uint8 Box [C, H, W], at least 36 x 36
        features_dim: length of the feature vector
    """

    CONVOLUTIONS = ((16, 8, 4), (32, 4, 2), (32, 3, 1))  # channels, kernel, stride

    def __init__(self, observation_space: spaces.Box, features_dim: int = 256) -> None:
        super().__init__(observation_space, features_dim)
        channels, height, width = observation_space.shape
        layers: list[nn.Module] = []
        inputs = channels
        for outputs, kernel, stride in self.CONVOLUTIONS:
            layers += [nn.Conv2d(inputs, outputs, kernel, stride), nn.ReLU()]
            inputs = outputs
        self.cnn = nn.Sequential(*layers, nn.Flatten())
        with th.no_grad():
            n_flatten = self.cnn(th.zeros(1, channels, height, width)).shape[1]
        self.linear = nn.Sequential(nn.Linear(n_flatten, features_dim), nn.ReLU())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Float [B, C, H, W] in [0, 1] to [B, features_dim]."""
        return self.linear(self.cnn(observations))


class FineCNN(SmallCNN):
    """Convolutions 16 (4x4/2), 32 (4x4/2), 32 (3x3/2): a goomba is five px wide in 84.

    Twice SmallCNN's time for a gradient pass.
    """

    CONVOLUTIONS = ((16, 4, 2), (32, 4, 2), (32, 3, 2))


EXTRACTORS: dict[FeaturesName, type[BaseFeaturesExtractor]] = {
    "small": SmallCNN,
    "nature": NatureCNN,
    "fine": FineCNN,
}


class Evaluation(NamedTuple):
    """What policy and critic say of B observations and the actions taken there."""

    values: th.Tensor  # float32 [B, heads]: extrinsic, then intrinsic
    log_prob: th.Tensor  # float32 [B], of the actions
    entropy: th.Tensor  # float32 [B]
    log_probs: th.Tensor  # float32 [B, n_actions], of all actions


class TwoHeadCnnPolicy(ActorCriticCnnPolicy):
    """SB3's CNN policy with an optional second (intrinsic) value head.

    Its zips and state dicts are SB3's; with the options off it is SB3's `CnnPolicy` to the bit.

    Args:
        net_arch: layers between the features and the heads; None means none, for every features
            extractor (SB3 would put 64-64 behind any but NatureCNN)
        intrinsic_value: add `intrinsic_value_net`, the value head of the intrinsic return
        action_bias: one number per action, in logits: the initial bias of `action_net`. Logits are
            W h + b, and SB3 starts at b = 0, so that starting at b = c is the same function with
            the same gradients as adding the constant c to the logits. It needs no code at
            inference, and training can unlearn it. As W starts near 0, the initial policy is
            softmax(c).
        channels_last: memory format of the convolutions; the same function, 2.4 times faster for
            SmallCNN and 1.6 times for NatureCNN on the CPU named above
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
            kind = self.autocast_dtype or th.float32  # bf16 holds whole numbers up to 256
            pixels = obs.contiguous(memory_format=th.channels_last).to(kind)
            if self.normalize_images:
                pixels.mul_(1.0 / 255.0)
            return self.features_extractor(pixels)
        return super().extract_features(obs, features_extractor)  # type: ignore[return-value]

    def logits_and_values(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """Logits float32 [B, n_actions] and values float32 [B, 1], or [B, 2] with two heads."""
        with self._autocast():
            latent_pi, latent_vf = self.mlp_extractor(self.extract_features(obs))
            logits = self.action_net(latent_pi)
            values = self.value_net(latent_vf)
            if self.intrinsic_value:
                values = th.cat([values, self.intrinsic_value_net(latent_vf)], dim=1)
        return logits.float(), values.float()

    def _actor_critic(self, obs: PyTorchObs) -> tuple[Distribution, th.Tensor]:
        logits, values = self.logits_and_values(obs)
        return self.action_dist.proba_distribution(action_logits=logits), values

    def sample(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Sampled actions [B], values [B, heads] (extrinsic, intrinsic), log-probabilities [B].

        The rollout's one call per step: `torch.distributions`' arithmetic and random numbers
        without its argument checks, which took as long as a tenth of the forward pass.
        """
        logits, values = self.logits_and_values(obs)
        log_probs = logits - logits.logsumexp(dim=-1, keepdim=True)
        actions = th.multinomial(th.softmax(log_probs, dim=-1), 1, replacement=True)
        return actions.squeeze(1), values, log_probs.gather(1, actions).squeeze(1)

    def forward(
        self, obs: th.Tensor, deterministic: bool = False
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Return actions [B], extrinsic values [B, 1] and log-probabilities [B]."""
        distribution, values = self._actor_critic(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, values[:, :1], distribution.log_prob(actions)

    def evaluate_all(self, obs: PyTorchObs, actions: th.Tensor) -> Evaluation:
        """What policy and critic say of B observations and actions, with gradients."""
        distribution, values = self._actor_critic(obs)
        log_prob = distribution.log_prob(actions)
        entropy = distribution.entropy()
        assert entropy is not None  # a categorical distribution has one
        log_probs = distribution.distribution.logits  # type: ignore[union-attr]
        return Evaluation(values, log_prob, entropy, log_probs)

    def evaluate_actions(
        self, obs: PyTorchObs, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Return extrinsic values [B, 1], log-probabilities [B] and entropies [B]."""
        found = self.evaluate_all(obs, actions)
        return found.values[:, :1], found.log_prob, found.entropy

    def sharpen(self, factor: float) -> None:
        """Multiply the logits: a sampling temperature of 1 / factor, kept in the weights."""
        with th.no_grad():
            for parameter in self.action_net.parameters():
                parameter.mul_(factor)

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """Return the action distribution of each observation."""
        return self._actor_critic(obs)[0]

    def predict_all_values(self, obs: PyTorchObs) -> th.Tensor:
        """Values [B, heads]: extrinsic, then intrinsic."""
        return self.logits_and_values(obs)[1]

    def predict_values(self, obs: PyTorchObs) -> th.Tensor:
        """Return extrinsic values [B, 1]."""
        return self.predict_all_values(obs)[:, :1]


class PPOPolicy:
    """A `TwoHeadCnnPolicy` as the rollout loop's `Policy`: logits from observations, no memory.

    Args:
        policy: the network, on any device
        env_config: what it was trained in; handed on, never read here
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
