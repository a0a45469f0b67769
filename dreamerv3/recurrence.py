"""The recurrent part of the RSSM, with its gradient by hand.

A sequence is followed step by step, 64 times a few dozen operations on 16 rows: on a CPU their
number is what costs. Autograd would more than double it again, most of all by adding up every
weight's gradient once a step. Here the backward pass only follows the states back through time
and remembers the gradients before each weight; one product over all steps then gives the weight's.
tests/test_dreamer_networks.py holds it against autograd.

Symbols of shapes: docs/tensor_shapes.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamerv3.row_norm import NORM_EPS

UNIMIX = 0.01  # share of the uniform distribution in every categorical (the paper, Methods)

# --------------------------------------------------------------------------------------------
# Samples
# --------------------------------------------------------------------------------------------


class Noise(NamedTuple):
    """What categoricals are drawn with; drawn itself for a whole sequence at once."""

    gumbel: Tensor  # [..., K]
    informed: Tensor  # [..., 1], 0.0 where the sample is of the uniform distribution, else 1.0

    def at(self, t: int) -> Noise:
        """Return that of step t."""
        return Noise(self.gumbel[t], self.informed[t])


def draw_noise(*shape: int) -> Noise:
    """Return noise for categoricals [shape], whose last dimension is of the classes."""
    # As fast as two logarithms; `exponential_` takes six times as long.
    gumbel = torch.rand(shape).log_().neg_().log_().neg_()
    return Noise(gumbel, (torch.rand(*shape[:-1], 1) >= UNIMIX).float())


def no_noise(*shape: int) -> Noise:
    """Return what makes a sample the mode."""
    return Noise(torch.zeros(shape), torch.ones(*shape[:-1], 1))


def noisy(logits: Tensor, noise: Noise) -> Tensor:
    """Return scores [..., K] whose largest is a sample of the unimix categoricals.

    The Gumbel-max trick, for a mixture: the uniform distribution's logits are zeros. No softmax is
    formed, which over a handful of classes is slow on a CPU.
    """
    return torch.addcmul(noise.gumbel, logits.detach(), noise.informed)


def sample_one_hot(logits: Tensor, noise: Noise) -> Tensor:
    """Return a one-hot sample of unimix categoricals [..., K], without a gradient."""
    scores = noisy(logits, noise)
    return (scores == scores.amax(-1, keepdim=True)).to(scores.dtype)


# --------------------------------------------------------------------------------------------
# A step
# --------------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """All that a step reads, beside its inputs."""

    deter_in: Tensor  # [hidden, D]
    deter_bias: Tensor  # [hidden]
    stoch_in: Tensor  # [hidden, S * K]
    stoch_bias: Tensor  # [hidden]
    embedding_scale: Tensor  # [2, hidden]
    mix_blocks: Tensor  # [G, D / G, D / G]
    mix_bias: Tensor  # [G, 1, D / G]
    mix_embeddings: Tensor  # [D, 2 * hidden]
    mix_scale: Tensor  # [D]
    gates: Tensor  # [G, D / G, 3 * D / G]
    gates_bias: Tensor  # [G, 1, 3 * D / G]
    posterior_in: Tensor  # [hidden, D]
    posterior_scale: Tensor  # [hidden]
    posterior_out: Tensor  # [S * K, hidden]
    posterior_bias: Tensor  # [S * K]

    def products_in(self, dtype: torch.dtype) -> Weights:
        """Return them for products in dtype; what lies between the products stays as it is."""
        return Weights(
            *(
                weight if name.endswith("_scale") else weight.to(dtype)
                for name, weight in self._asdict().items()
            )
        )


class Normed(NamedTuple):
    """RMSNorm and SiLU of something: y = silu(n * scale), n = x * r."""

    y: Tensor
    n: Tensor
    r: Tensor  # [..., 1]
    z: Tensor  # n * scale


def norm_silu(x: Tensor, scale: Tensor) -> Normed:
    """Return [..., N] after RMSNorm, scale [N] and SiLU, and what the gradient needs."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    r = torch.addcmul(norm.new_tensor(NORM_EPS), norm, norm, value=1 / x.shape[-1]).rsqrt_()
    n = x * r
    z = n * scale
    return Normed(F.silu(z), n, r, z)


def norm_silu_backward(grad: Tensor, normed: Normed, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and z, [..., N] each; the scale's is the sum of z's times n."""
    grad_z = torch.ops.aten.silu_backward(grad, normed.z)
    grad_n = grad_z * scale
    inner = (grad_n * normed.n).mean(-1, keepdim=True)
    return torch.addcmul(grad_n, normed.n, inner, value=-1).mul_(normed.r), grad_z


def tanh(x: Tensor) -> Tensor:
    """Return the hyperbolic tangent, in a third of `torch.tanh`'s time."""
    return 2 * torch.sigmoid(2 * x) - 1


def blocks_of(x: Tensor, blocks: int) -> Tensor:
    """[N, size] -> [G, N, size / G]."""
    return x.view(len(x), blocks, -1).transpose(0, 1)


class Advanced(NamedTuple):
    """A step of the sequence model, and what its gradient needs."""

    deter: Tensor  # [N, D], the result
    embedded: Normed  # [N, 2, hidden]
    mixed: Normed  # [N, D]
    reset: Tensor  # [N, G, D / G], after the sigmoid
    raw: Tensor  # [N, G, D / G], the candidate before it is reset
    candidate: Tensor  # [N, G, D / G]
    update: Tensor  # [N, G, D / G], after the sigmoid


def advance(w: Weights, deter: Tensor, stoch: Tensor, action_input: Tensor) -> Advanced:
    """Return the next deter: a GRU whose gates are block-diagonal (the paper, Methods).

    Of the first layer's input every block sees its own part of deter, and all of three embeddings
    (deter, stoch, action). It is taken apart: the blocks' part is one `bmm`, the embeddings' part
    a dense layer, and of that the action's share comes ready as `action_input`.

    Products are of the weights' type, all else of deter's.

    Args:
        w: weights.
        deter: [N, D].
        stoch: [N, S * K].
        action_input: [N, D], of the weights' type.
    """
    n, blocks = len(deter), len(w.mix_blocks)
    exact, fast = deter.dtype, w.mix_blocks.dtype
    factor = deter.to(fast)
    embeddings = torch.cat(
        [
            torch.addmm(w.deter_bias, factor, w.deter_in.t()),
            torch.addmm(w.stoch_bias, stoch.to(fast), w.stoch_in.t()),
        ],
        -1,
    )
    embedded = norm_silu(embeddings.view(n, 2, -1).to(exact), w.embedding_scale)
    dense = torch.addmm(action_input, embedded.y.view(n, -1).to(fast), w.mix_embeddings.t())
    own = torch.baddbmm(w.mix_bias, blocks_of(factor, blocks), w.mix_blocks)  # [G, N, D / G]
    mixed = norm_silu((dense + own.transpose(0, 1).reshape(n, -1)).to(exact), w.mix_scale)
    gates = torch.baddbmm(w.gates_bias, blocks_of(mixed.y.to(fast), blocks), w.gates)
    reset, raw, update = gates.transpose(0, 1).to(exact).chunk(3, -1)
    reset = torch.sigmoid(reset)
    candidate = tanh(reset * raw)
    update = torch.sigmoid(update - 1)  # the bias keeps the old state at first
    after = torch.lerp(deter.view(n, blocks, -1), candidate, update)  # [N, G, D / G]
    return Advanced(after.reshape(n, -1), embedded, mixed, reset, raw, candidate, update)


class Believed(NamedTuple):
    """The posterior, and what its gradient needs."""

    logits: Tensor  # [N, S * K], the result
    hidden: Normed  # [N, hidden]


def believe(w: Weights, deter: Tensor, token_input: Tensor) -> Believed:
    """Return the posterior's logits.

    Args:
        w: weights.
        deter: [N, D].
        token_input: [N, hidden], the observation's share of the hidden layer, bias included.
    """
    hidden = norm_silu(torch.addmm(token_input, deter, w.posterior_in.t()), w.posterior_scale)
    return Believed(torch.addmm(w.posterior_bias, hidden.y, w.posterior_out.t()), hidden)


class Follow(torch.autograd.Function):
    """Follow B sequences for T steps; `Follow.apply` takes and returns what `forward` does.

    In float32 also under autocast: products of 16 rows gain nothing in bf16.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(
        ctx: Any,
        action_inputs: Tensor,
        token_inputs: Tensor,
        keep: Tensor,
        gumbel: Tensor,
        informed: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run through time.

        Args:
            ctx: autograd's.
            action_inputs: [T, B, D].
            token_inputs: [T, B, hidden].
            keep: [T, B, 1], 0.0 where the state before is to be forgotten, else 1.0.
            gumbel, informed: [T, B, S, K] and [T, B, S, 1], see `Noise`.
            weights: `Weights`.

        Returns:
            deter [T, B, D]; stoch [T, B, S * K], one-hot, with the gradient of the probabilities
            (straight-through, Bengio et al. 2013); the posterior's logits [T, B, S * K].
        """
        w = Weights(*weights)
        steps, batch, stoch_size, classes = gumbel.shape
        noise, forgets = Noise(gumbel, informed), (keep == 0).flatten(1).any(1).tolist()
        deter = action_inputs.new_zeros(batch, action_inputs.shape[-1])
        stoch = action_inputs.new_zeros(batch, stoch_size * classes)
        saved, stochs = [], []
        for t in range(steps):
            before = (deter * keep[t], stoch * keep[t]) if forgets[t] else (deter, stoch)
            advanced = advance(w, *before, action_inputs[t])
            believed = believe(w, advanced.deter, token_inputs[t])
            logits = believed.logits.view(batch, stoch_size, classes)
            deter, stoch = advanced.deter, sample_one_hot(logits, noise.at(t)).flatten(1)
            saved.append((before, advanced, believed))
            stochs.append(stoch)
        deters = torch.stack([advanced.deter for _, advanced, _ in saved])
        logits = torch.stack([believed.logits for _, _, believed in saved])
        ctx.saved, ctx.keep, ctx.forgets, ctx.w = saved, keep, forgets, w
        ctx.softmax = torch.softmax(logits.view(gumbel.shape), -1)
        return deters, torch.stack(stochs), logits

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(
        ctx: Any, grad_deters: Tensor, grad_stochs: Tensor, grad_logits: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Run back through time, then form the weights' gradients of all steps at once."""
        w, keep, saved, softmax = ctx.w, ctx.keep, ctx.saved, ctx.softmax
        ctx.saved = None  # the memory is free as soon as it is read
        blocks, hidden = len(w.mix_blocks), len(w.deter_in)
        mix_blocks, gates = w.mix_blocks.transpose(1, 2), w.gates.transpose(1, 2)
        deter_grad, stoch_grad = torch.zeros_like(grad_deters[0]), torch.zeros_like(grad_stochs[0])
        steps = []
        for t in range(len(saved) - 1, -1, -1):
            (deter, _), advanced, believed = saved[t]
            n = len(deter)
            # the sample, straight through to the logits
            to_probs = (grad_stochs[t] + stoch_grad).view(softmax[t].shape)
            to_softmax = torch.ops.aten._softmax_backward_data(
                to_probs, softmax[t], -1, softmax.dtype
            )
            to_logits = torch.add(grad_logits[t], to_softmax.flatten(1), alpha=1 - UNIMIX)
            # the posterior
            to_hidden, hidden_z = norm_silu_backward(
                to_logits @ w.posterior_out, believed.hidden, w.posterior_scale
            )
            to_deter = torch.addmm(grad_deters[t] + deter_grad, to_hidden, w.posterior_in)
            # the gates
            grad = to_deter.view(advanced.update.shape)  # [N, G, D / G]
            reset, update, candidate = advanced.reset, advanced.update, advanced.candidate
            moved = grad * update
            to_before = (grad - moved).view(n, -1)
            to_update = (candidate - deter.view(candidate.shape)) * moved * (1 - update)
            to_product = torch.ops.aten.tanh_backward(moved, candidate)
            to_raw = to_product * reset
            to_reset = to_raw * advanced.raw * (1 - reset)
            to_gates = torch.cat([to_reset, to_raw, to_update], -1).transpose(0, 1)
            # the layer before them
            to_mixed = torch.bmm(to_gates, gates).transpose(0, 1).reshape(n, -1)
            to_mix, mixed_z = norm_silu_backward(to_mixed, advanced.mixed, w.mix_scale)
            own = torch.bmm(blocks_of(to_mix, blocks), mix_blocks)
            to_before = to_before + own.transpose(0, 1).reshape(n, -1)
            # the embeddings
            to_embedded, embedded_z = norm_silu_backward(
                (to_mix @ w.mix_embeddings).view(n, 2, hidden), advanced.embedded, w.embedding_scale
            )
            deter_grad = torch.addmm(to_before, to_embedded[:, 0], w.deter_in)
            stoch_grad = to_embedded[:, 1] @ w.stoch_in
            if ctx.forgets[t]:
                deter_grad, stoch_grad = deter_grad * keep[t], stoch_grad * keep[t]
            steps.append(
                (to_logits, to_hidden, hidden_z, to_gates, to_mix, mixed_z, to_embedded, embedded_z)
            )
        return _gradients(w, saved, steps[::-1])


def _gradients(w: Weights, saved: list, steps: list) -> tuple[Tensor | None, ...]:
    """Return the gradients of `Follow.forward`'s inputs from those before each weight.

    Args:
        w: weights.
        saved: of the forward pass, for every step.
        steps: of the backward pass, for every step, in the order of time.
    """
    n_steps, blocks = len(saved), len(w.mix_blocks)

    def joined(tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors)  # [T * B, ...]

    deter = joined([before[0] for before, _, _ in saved])
    stoch = joined([before[1] for before, _, _ in saved])
    advanced: list[Advanced] = [step[1] for step in saved]
    believed: list[Believed] = [step[2] for step in saved]
    to_logits, to_hidden, hidden_z, to_mix, mixed_z, to_embedded, embedded_z = (
        joined([step[i] for step in steps]) for i in (0, 1, 2, 4, 5, 6, 7)
    )
    to_gates = torch.cat([step[3] for step in steps], 1)  # [G, T * B, 3 * D / G]
    embeddings = joined([a.embedded.y for a in advanced]).flatten(1)
    mixed = joined([a.mixed.y for a in advanced])
    to_mix_blocks = blocks_of(to_mix, blocks)
    weights = Weights(
        deter_in=to_embedded[:, 0].t() @ deter,
        deter_bias=to_embedded[:, 0].sum(0),
        stoch_in=to_embedded[:, 1].t() @ stoch,
        stoch_bias=to_embedded[:, 1].sum(0),
        embedding_scale=(embedded_z * joined([a.embedded.n for a in advanced])).sum(0),
        mix_blocks=torch.bmm(blocks_of(deter, blocks).transpose(1, 2), to_mix_blocks),
        mix_bias=to_mix_blocks.sum(1, keepdim=True),
        mix_embeddings=to_mix.t() @ embeddings,
        mix_scale=(mixed_z * joined([a.mixed.n for a in advanced])).sum(0),
        gates=torch.bmm(blocks_of(mixed, blocks).transpose(1, 2), to_gates),
        gates_bias=to_gates.sum(1, keepdim=True),
        posterior_in=to_hidden.t() @ joined([a.deter for a in advanced]),
        posterior_scale=(hidden_z * joined([b.hidden.n for b in believed])).sum(0),
        posterior_out=to_logits.t() @ joined([b.hidden.y for b in believed]),
        posterior_bias=to_logits.sum(0),
    )
    to_actions, to_tokens = (x.unflatten(0, (n_steps, -1)) for x in (to_mix, to_hidden))
    return to_actions, to_tokens, None, None, None, *weights
