"""The networks of DreamerV3: RSSM with block GRU, encoder, decoder, heads, symexp two-hot.

Hafner, Pasukonis, Ba and Lillicrap, "Mastering diverse control tasks through world models",
Nature 640 (2025), called "the paper" below. Symbols of shapes: docs/tensor_shapes.md.

Written for a CPU, where an update is thousands of small operations: what can be done for a whole
sequence is done outside the recurrence, a block-diagonal layer is one `bmm`, the embedding of a
discrete action is a row of a table, and images stay in channels_last.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamerv3.recurrence import (
    UNIMIX,
    Follow,
    Noise,
    Weights,
    advance,
    believe,
    draw_noise,
    sample_one_hot,
)
from dreamerv3.row_norm import NORM_EPS, RowNormSiLU

TWO_HOT_BINS = 255
TWO_HOT_LIMIT = 20.0  # bins reach symexp(20) = 4.85e8
TOP_RESOLUTION = 4  # height and width in px of the deepest feature map
TOP_RESOLUTIONS = (TOP_RESOLUTION, 6)  # what it may be: 6 of a screen of 96 px

# --------------------------------------------------------------------------------------------
# Symexp two-hot, unimix categoricals
# --------------------------------------------------------------------------------------------


def symexp(x: Tensor) -> Tensor:
    """Return sign(x) (exp |x| - 1), the inverse of symlog (the paper, equation 9)."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


def two_hot_bins(n: int = TWO_HOT_BINS) -> Tensor:
    """Return the values float32[n] of the bins: symexp-spaced, exactly symmetric around 0.

    n is odd, so that one bin is 0.
    """
    negative = symexp(torch.linspace(-TWO_HOT_LIMIT, 0.0, n // 2 + 1))
    return torch.cat([negative, -negative[:-1].flip(0)])


def two_hot_mean(probs: Tensor, bins: Tensor) -> Tensor:
    """Return the value that the bins' probabilities [..., bins] predict, [...].

    Bins reach 4.85e8: mirrored bins are taken together first, so that they cancel exactly and
    uniform probabilities mean 0.
    """
    half = len(bins) // 2
    surplus = probs[..., half + 1 :] - probs[..., :half].flip(-1)  # [..., bins // 2]
    with products_in(torch.float32):
        return surplus @ bins[half + 1 :]


def two_hot_cross_entropy(log_probs: Tensor, target: Tensor, bins: Tensor) -> Tensor:
    """Return the cross entropy of predictions against two-hot targets.

    A target lies between two bins and weighs each by its nearness to the other (the paper,
    equation 10). Only those two of the log probabilities are read; no target vector is built.

    Args:
        log_probs: [..., bins], after `log_softmax`.
        target: [...], values; beyond the last bin they count as on it.
        bins: [bins], ascending.

    Returns:
        the loss [...].
    """
    target = target.clamp(bins[0], bins[-1])
    above = torch.searchsorted(bins, target.contiguous()).clamp(1, len(bins) - 1)
    low, high = bins[above - 1], bins[above]
    weight = (target - low) / (high - low)
    indices = torch.stack([above - 1, above], -1)  # [..., 2]
    chosen = log_probs.gather(-1, indices)
    return -((1 - weight) * chosen[..., 0] + weight * chosen[..., 1])


def unimix_probs(logits: Tensor, unimix: float = UNIMIX) -> Tensor:
    """Return softmax(logits), [..., K] -> [..., K], with a share of the uniform distribution."""
    return torch.softmax(logits, -1) * (1 - unimix) + unimix / logits.shape[-1]


def products_in(dtype: torch.dtype) -> torch.autocast:
    """Return a context in which layers and convolutions multiply in dtype."""
    # Without autocast's cache: a copy made under no_grad would be reused where gradients are due.
    return torch.autocast("cpu", dtype, enabled=dtype != torch.float32, cache_enabled=False)


# --------------------------------------------------------------------------------------------
# Layers
# --------------------------------------------------------------------------------------------


def init_weights(weight: Tensor, fan_in: int, scale: float = 1.0) -> None:
    """Fill with a normal distribution of variance scale^2 / fan_in, cut off at two deviations."""
    if scale == 0.0:
        nn.init.zeros_(weight)
        return
    cut_std = 0.87962566  # of a unit normal cut off at two deviations
    std = scale / math.sqrt(fan_in) / cut_std
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def init_conv(conv: nn.Conv2d | nn.ConvTranspose2d, fan_in: int) -> None:
    """Set a convolution to its initial weights."""
    init_weights(conv.weight, fan_in)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)


class Linear(nn.Linear):
    """A linear layer in the paper's initialisation."""

    def __init__(self, inputs: int, outputs: int, scale: float = 1.0) -> None:
        super().__init__(inputs, outputs)
        init_weights(self.weight, inputs, scale)
        nn.init.zeros_(self.bias)


class BlockLinear(nn.Module):
    """A linear layer with a block-diagonal weight: block i of the output sees that of the input."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(blocks, 1, outputs // blocks))
        init_weights(self.weight, inputs // blocks)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs] -> [N, blocks, outputs / blocks]."""
        blocks = x.view(len(x), self.blocks, -1).transpose(0, 1)  # [G, N, inputs / G]
        return torch.baddbmm(self.bias, blocks, self.weight).transpose(0, 1)


class NormSiLU(nn.Module):
    """RMSNorm (Zhang and Sennrich 2019) over the last of the dimensions `shape`, then SiLU.

    What comes out is of the type that came in.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # it makes one loop of all steps itself
            normed = F.rms_norm(x.float(), x.shape[-1:], eps=NORM_EPS)
            return F.silu(normed * self.scale).to(x.dtype)
        return RowNormSiLU.apply(x.contiguous(), self.scale)


class ImageNormSiLU(NormSiLU):
    """`NormSiLU` over the channels of [N, C, H, W] in channels_last, which makes C the last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MLP(nn.Sequential):
    """Hidden layers of linear, norm, SiLU; then a linear output, float32."""

    def __init__(
        self, inputs: int, units: int, layers: int, outputs: int, output_scale: float = 1.0
    ) -> None:
        sizes = [inputs] + [units] * layers
        hidden: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            hidden += [Linear(before, after), NormSiLU(after)]
        super().__init__(*hidden, Linear(sizes[-1], outputs, output_scale))

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return super().forward(x).float()


# --------------------------------------------------------------------------------------------
# Images
# --------------------------------------------------------------------------------------------


def centered(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [-0.5, 0.5], what encoder and decoder speak."""
    return images.float().div_(255).sub_(0.5)


class Encoder(nn.Sequential):
    """Image to tokens: convolutions, each of twice its stride in kernel, norm, SiLU."""

    def __init__(
        self, channels: int, size: int, depths: Sequence[int], strides: Sequence[int], norm: bool
    ) -> None:
        top = size // math.prod(strides)
        if (
            len(depths) != len(strides)
            or top not in TOP_RESOLUTIONS
            or top * math.prod(strides) != size
        ):
            tops = " px or ".join(map(str, TOP_RESOLUTIONS))
            raise ValueError(
                f"strides {tuple(strides)} with depths {tuple(depths)} do not take {size} px to "
                f"{tops} px"
            )
        if any(stride % 2 for stride in strides):
            raise ValueError(f"strides {tuple(strides)} are not all even")
        layers: list[nn.Module] = []
        for before, after, stride in zip([channels, *depths[:-1]], depths, strides, strict=True):
            conv = nn.Conv2d(before, after, 2 * stride, stride, padding=stride // 2)
            init_conv(conv, before * (2 * stride) ** 2)
            layers += [conv, ImageNormSiLU(after) if norm else nn.SiLU()]
        super().__init__(*layers, nn.Flatten())
        self.top = top  # height and width in px of the deepest feature map
        self.tokens = depths[-1] * top**2
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W], centered -> [N, tokens]."""
        return super().forward(images.contiguous(memory_format=torch.channels_last)).float()


class UpConv2d(nn.ConvTranspose2d):
    """A transposed convolution of twice its even stride in kernel, as one without stride.

    An output pixel sees 2 x 2 places of the input, and which of the weights depends on its place
    in a patch of stride x stride: so a 2 x 2 convolution gives each patch as channels. With few
    channels the gradient takes half of the time that torch's own takes (bf16, EPYC).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, 2 * stride, stride, padding=stride // 2)
        init_conv(self, inputs * 4)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H * stride, W * stride], in channels_last."""
        stride = self.stride[0]
        cut = stride // 2  # the padding
        taps = self.weight.unflatten(3, (2, stride)).unflatten(2, (2, stride)).flip(2, 4)
        weight = taps.permute(3, 5, 1, 0, 2, 4).flatten(0, 2)  # [stride^2 * outputs, inputs, 2, 2]
        weight = weight.contiguous(memory_format=torch.channels_last)
        assert self.bias is not None
        y = F.conv2d(x, weight, self.bias.repeat(stride**2), padding=1).permute(0, 2, 3, 1)
        patches = y.unflatten(3, (stride, stride, self.out_channels)).transpose(2, 3)
        n, rows, _, columns, *_ = patches.shape
        whole = patches.reshape(n, rows * stride, columns * stride, self.out_channels)
        # Cut by padding with less than nothing: its gradient is one copy, two slices' are four.
        return F.pad(whole, (0, 0, -cut, -cut, -cut, -cut)).permute(0, 3, 1, 2)


class Decoder(nn.Module):
    """State to image: the encoder's mirror, but for the last layer.

    That one is a sub-pixel convolution (Shi et al. 2016): from each place of the last map it
    predicts the patch of stride x stride pixels there. The loss is taken of patches, so that no
    full-size map is ever normalised, activated or rearranged.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        depths: Sequence[int],
        strides: Sequence[int],
        norm: bool,
        resolution: int = TOP_RESOLUTION,
    ) -> None:
        super().__init__()
        self.depth, self.patch, self.resolution = depths[-1], strides[0], resolution
        self.top = Linear(inputs, self.depth * resolution**2)
        layers: list[nn.Module] = [ImageNormSiLU(self.depth)]
        stages = zip(depths[:0:-1], depths[-2::-1], strides[:0:-1], strict=True)
        for before, after, stride in stages:
            conv = UpConv2d(before, after, stride)
            layers += [conv, ImageNormSiLU(after) if norm else nn.SiLU()]
        last = nn.Conv2d(depths[0], channels * self.patch**2, 3, padding=1)
        init_conv(last, depths[0] * 9)
        self.layers = nn.Sequential(*layers, last)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, features: Tensor) -> Tensor:
        """[N, F] -> patches [N, C * patch^2, H / patch, W / patch], centered."""
        top = self.top(features).view(-1, self.resolution, self.resolution, self.depth)
        return self.layers(top.permute(0, 3, 1, 2))

    def to_patches(self, images: Tensor) -> Tensor:
        """Return images [N, C, H, W] as `forward` lays them out, in channels_last."""
        n, channels, height, width = images.shape
        patch = self.patch
        if patch < 4:  # a permuted copy moves as many numbers at a time as a patch is wide
            patches = F.pixel_unshuffle(images, patch)
            return patches.contiguous(memory_format=torch.channels_last)
        cut = images.view(n, channels, height // patch, patch, width // patch, patch)
        return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).permute(0, 3, 1, 2)

    def to_images(self, patches: Tensor) -> Tensor:
        """Return what `forward` gave as images [N, C, H, W] in [0, 1]."""
        return (F.pixel_shuffle(patches, self.patch) + 0.5).clamp(0, 1)


# --------------------------------------------------------------------------------------------
# RSSM
# --------------------------------------------------------------------------------------------


class State(NamedTuple):
    """What the model believes: a deterministic and a stochastic part."""

    deter: Tensor  # [N, D]
    stoch: Tensor  # [N, S * K], S one-hot vectors

    @property
    def features(self) -> Tensor:
        """[N, F = D + S * K], what every head reads."""
        return torch.cat(self, -1)


class RSSM(nn.Module):
    """Recurrent state-space model with a block GRU (the paper, Methods).

    The weights' owner; what is done with them at each step stands in recurrence.py.
    """

    def __init__(
        self,
        n_actions: int,
        tokens: int,
        *,
        deter: int,
        hidden: int,
        stoch: int,
        classes: int,
        blocks: int,
    ) -> None:
        super().__init__()
        self.n_actions, self.deter, self.stoch, self.classes = n_actions, deter, stoch, classes
        flat = stoch * classes
        self.deter_in, self.stoch_in = Linear(deter, hidden), Linear(flat, hidden)
        self.embedding_norm = NormSiLU(2, hidden)
        self.action_in = nn.Sequential(Linear(n_actions, hidden), NormSiLU(hidden))
        self.mix_blocks = BlockLinear(deter, deter, blocks)
        self.mix_embeddings = nn.Parameter(torch.empty(deter, 3 * hidden))
        fan_in = deter // blocks + 3 * hidden
        init_weights(self.mix_blocks.weight, fan_in)
        init_weights(self.mix_embeddings, fan_in)
        self.mix_norm = NormSiLU(deter)
        self.gates = BlockLinear(deter, 3 * deter, blocks)
        self.posterior_deter = nn.Parameter(torch.empty(hidden, deter))
        self.posterior_tokens = Linear(tokens, hidden)
        init_weights(self.posterior_deter, deter + tokens)
        init_weights(self.posterior_tokens.weight, deter + tokens)
        self.posterior_norm = NormSiLU(hidden)
        self.posterior_out = Linear(hidden, flat)
        self.prior = MLP(deter, hidden, 2, flat)

    @property
    def features(self) -> int:
        """F, the size of a state's features."""
        return self.deter + self.stoch * self.classes

    def initial_state(self, n: int) -> State:
        """Return n states of zeros: what is believed before an episode's first observation."""
        return State(torch.zeros(n, self.deter), torch.zeros(n, self.stoch * self.classes))

    def weights(self) -> Weights:
        """Return what a step reads."""
        hidden = len(self.deter_in.weight)
        return Weights(
            deter_in=self.deter_in.weight,
            deter_bias=self.deter_in.bias,
            stoch_in=self.stoch_in.weight,
            stoch_bias=self.stoch_in.bias,
            embedding_scale=self.embedding_norm.scale,
            mix_blocks=self.mix_blocks.weight,
            mix_bias=self.mix_blocks.bias,
            mix_embeddings=self.mix_embeddings[:, : 2 * hidden],
            mix_scale=self.mix_norm.scale,
            gates=self.gates.weight,
            gates_bias=self.gates.bias,
            posterior_in=self.posterior_deter,
            posterior_scale=self.posterior_norm.scale,
            posterior_out=self.posterior_out.weight,
            posterior_bias=self.posterior_out.bias,
        )

    def action_table(self) -> Tensor:
        """Return what each action adds to the GRU's input, [A + 1, D].

        The last row is for "no action", at an episode's first step.
        """
        one_hot = torch.eye(self.n_actions + 1, self.n_actions)  # the last row is zeros
        hidden = self.action_in(one_hot)
        return F.linear(hidden, self.mix_embeddings[:, -hidden.shape[-1] :])

    def observe(
        self, tokens: Tensor, actions: Tensor, is_first: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Follow B sequences from before their first step.

        Args:
            tokens: [T, B, tokens], of the observations.
            actions: int64[T, B], the actions that led to them; not read where is_first.
            is_first: bool[T, B], where an episode begins: the state is zeros before, whatever
                stands earlier in the sequence.

        Returns:
            deter [T, B, D], stoch [T, B, S * K] (straight-through), posterior logits [T, B, S, K].
        """
        noise = draw_noise(*is_first.shape, self.stoch, self.classes)
        deter, stoch, logits = Follow.apply(
            self.action_table()[torch.where(is_first, self.n_actions, actions)],  # [T, B, D]
            self.posterior_tokens(tokens),  # [T, B, hidden]
            (~is_first).float().unsqueeze(-1),  # [T, B, 1]
            *noise,
            *self.weights(),
        )
        return deter, stoch, logits.unflatten(-1, (self.stoch, self.classes))

    def observe_step(
        self, state: State, tokens: Tensor, action_input: Tensor, noise: Noise
    ) -> State:
        """Return the state after an action and an observation.

        Args:
            state: of N.
            tokens: [N, tokens].
            action_input: [N, D], rows of `action_table`.
            noise: [N, S, K].
        """
        w = self.weights()
        deter = advance(w, *state, action_input).deter
        logits = believe(w, deter, self.posterior_tokens(tokens)).logits
        return State(deter, sample_one_hot(logits.view(noise.gumbel.shape), noise).flatten(1))

    def prior_logits(self, deter: Tensor) -> Tensor:
        """Return logits [..., S, K] of the stochastic state, not having seen the observation."""
        return self.prior(deter).unflatten(-1, (self.stoch, self.classes))

    def imagine_step(self, w: Weights, state: State, action_input: Tensor, noise: Noise) -> State:
        """Return the state after an action, the stochastic part sampled from the prior.

        Args:
            w: `weights`, in the type of the products.
            state: of N.
            action_input: [N, D], rows of `action_table`, of that type.
            noise: [N, S, K].
        """
        deter = advance(w, *state, action_input).deter
        return State(deter, sample_one_hot(self.prior_logits(deter), noise).flatten(1))
