"""DreamerV3's networks and optimiser: small enough to check by hand, and against TorchRL."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from dreamerv3 import networks, row_norm
from dreamerv3.networks import (
    RSSM,
    BlockLinear,
    Decoder,
    Encoder,
    ImageNormSiLU,
    NormSiLU,
    UpConv2d,
    centered,
    init_weights,
    products_in,
    symexp,
    two_hot_bins,
    two_hot_cross_entropy,
    two_hot_mean,
    unimix_probs,
)
from dreamerv3.optim import LaProp, clip_adaptively
from dreamerv3.recurrence import (
    Follow,
    Noise,
    Weights,
    advance,
    believe,
    draw_noise,
    no_noise,
    noisy,
    sample_one_hot,
)
from dreamerv3.row_norm import NORM_EPS, RowNormSiLU

SIZES = {"deter": 16, "hidden": 6, "stoch": 3, "classes": 4, "blocks": 4}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stochastic state is its mode."""
    monkeypatch.setattr(networks, "draw_noise", no_noise)


def two_hot(x: Tensor, bins: Tensor) -> Tensor:
    """The target vector that `two_hot_cross_entropy` never builds, entry by entry."""
    target = torch.zeros(*x.shape, len(bins))
    for i, value in enumerate(x):
        above = int((bins < value).sum().clamp(1, len(bins) - 1))
        share = (value - bins[above - 1]) / (bins[above] - bins[above - 1])
        target[i, above - 1], target[i, above] = 1 - share, share
    return target


def test_symexp_is_the_inverse_of_symlog() -> None:
    x = torch.tensor([-1e4, -3.0, -0.1, 0.0, 0.5, 7.0, 1e5])
    torch.testing.assert_close(symexp(x.sign() * x.abs().log1p()), x)


def test_two_hot_bins_are_symmetric_around_an_exact_zero() -> None:
    bins = two_hot_bins()
    assert len(bins) == 255
    assert bins[127] == 0.0
    torch.testing.assert_close(bins, -bins.flip(0), rtol=0, atol=0)
    assert bins[-1].item() == pytest.approx(math.expm1(20))


def test_two_hot_survives_the_round_trip() -> None:
    bins = two_hot_bins()
    x = torch.tensor([-1500.0, -3.0, -0.01, 0.0, 0.3, 1.0, 15.0, 250.0])
    torch.testing.assert_close(two_hot_mean(two_hot(x, bins), bins), x, rtol=1e-4, atol=1e-4)


def test_uniform_probabilities_mean_exactly_zero() -> None:
    with products_in(torch.bfloat16):
        assert (two_hot_mean(torch.full((5, 255), 1 / 255), two_hot_bins()) == 0).all()


def test_two_hot_cross_entropy_is_that_of_the_target_vector() -> None:
    bins = two_hot_bins()
    x = torch.tensor([-1e12, -20.0, -0.5, 0.0, float(bins[130]), 3.3, 1e12])
    log_probs = torch.log_softmax(torch.randn(len(x), 255), -1)
    dense = -(two_hot(x.clamp(bins[0], bins[-1]), bins) * log_probs).sum(-1)
    torch.testing.assert_close(two_hot_cross_entropy(log_probs, x, bins), dense)


def test_two_hot_is_torchrls() -> None:
    oracle = pytest.importorskip("torchrl.objectives")
    modules = pytest.importorskip("torchrl.modules")
    bins = two_hot_bins()
    torch.testing.assert_close(bins, modules.SymExpTwoHot(255).bins, rtol=1e-5, atol=1e-5)
    x, logits = torch.randn(200) * 30, torch.randn(200, 255)
    torch.testing.assert_close(
        two_hot_cross_entropy(torch.log_softmax(logits, -1), x, bins),
        oracle.two_hot_cross_entropy(logits, x, bins),
    )
    torch.testing.assert_close(
        two_hot_mean(torch.softmax(logits, -1), bins),
        oracle.two_hot_decode(logits, bins),
        rtol=1e-4,
        atol=1.0,
    )


def test_unimix_keeps_one_percent_uniform() -> None:
    probs = unimix_probs(torch.tensor([100.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(probs, torch.tensor([0.9925, 0.0025, 0.0025, 0.0025]))


def test_samples_follow_their_probabilities() -> None:
    """A mixture of 1 % uniform, that is: the last class has nothing else."""
    logits = torch.tensor([0.5, 0.3, 0.2, 1e-9]).log().expand(400_000, 4)
    noise = draw_noise(400_000, 4)
    sample = sample_one_hot(logits, noise)
    assert (sample.sum(-1) == 1).all()
    assert torch.equal(sample.argmax(-1), noisy(logits, noise).argmax(-1))
    torch.testing.assert_close(sample.mean(0), unimix_probs(logits[0]), rtol=0, atol=0.003)
    assert sample[:, 3].mean().item() == pytest.approx(0.0025, rel=0.15)
    mode = sample_one_hot(logits[:2], no_noise(2, 4))
    assert mode.tolist() == [[1, 0, 0, 0]] * 2


def test_initial_weights_have_the_wanted_spread() -> None:
    weight = torch.empty(200, 400)
    init_weights(weight, 400)
    assert weight.std().item() == pytest.approx(1 / 20, rel=0.02)
    init_weights(weight, 400, scale=0.0)
    assert (weight == 0).all()


def test_a_block_sees_its_own_part_of_the_input_only() -> None:
    layer = BlockLinear(8, 12, blocks=4)
    x = torch.randn(5, 8)
    changed = x.clone()
    changed[:, 2:4] += 1  # the second block's part
    difference = (layer(changed) - layer(x)).abs().sum((0, 2))
    assert (difference > 0).tolist() == [False, True, False, False]
    dense = torch.block_diag(*layer.weight)  # [inputs, outputs]
    torch.testing.assert_close(layer(x).flatten(1), x @ dense + layer.bias.flatten())


def test_a_step_is_the_gru_of_the_paper() -> None:
    """Against the plain form: every block reads its part of deter and all three embeddings."""
    rssm = RSSM(5, 7, **SIZES)
    n, blocks, size = 6, SIZES["blocks"], SIZES["deter"] // SIZES["blocks"]
    deter, stoch = torch.randn(n, 16), torch.randn(n, 12)
    actions = torch.tensor([0, 1, 2, 3, 4, 5])  # 5: none
    one_hot = torch.eye(6, 5)[actions]
    inputs = torch.stack([rssm.deter_in(deter), rssm.stoch_in(stoch)], 1)
    embeddings = torch.cat([rssm.embedding_norm(inputs).flatten(1), rssm.action_in(one_hot)], -1)
    mixed = []
    for g in range(blocks):
        rows = slice(g * size, (g + 1) * size)
        weight = torch.cat([rssm.mix_blocks.weight[g], rssm.mix_embeddings[rows].t()])
        inputs = torch.cat([deter[:, rows], embeddings], -1)
        mixed.append(inputs @ weight + rssm.mix_blocks.bias[g])
    hidden = rssm.mix_norm(torch.cat(mixed, -1))
    new = []
    for g in range(blocks):
        rows = slice(g * size, (g + 1) * size)
        gates = hidden[:, rows] @ rssm.gates.weight[g] + rssm.gates.bias[g]
        reset, candidate, update = gates.split(size, -1)
        update = torch.sigmoid(update - 1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        new.append(update * candidate + (1 - update) * deter[:, rows])
    stepped = advance(rssm.weights(), deter, stoch, rssm.action_table()[actions]).deter
    torch.testing.assert_close(stepped, torch.cat(new, -1), rtol=1e-5, atol=1e-6)


def follow_by_autograd(
    action_inputs: Tensor,
    token_inputs: Tensor,
    keep: Tensor,
    gumbel: Tensor,
    informed: Tensor,
    *weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """`Follow.forward` in operations that autograd differentiates."""
    w = Weights(*weights)
    steps, batch, size, classes = gumbel.shape
    deter = torch.zeros_like(action_inputs[0])
    stoch = action_inputs.new_zeros(batch, size * classes)
    outputs = []
    for t in range(steps):
        deter = advance(w, deter * keep[t], stoch * keep[t], action_inputs[t]).deter
        logits = believe(w, deter, token_inputs[t]).logits
        by_class = logits.view(batch, size, classes)
        sample = sample_one_hot(by_class, Noise(gumbel[t], informed[t]))
        probs = unimix_probs(by_class)
        stoch = (sample + probs - probs.detach()).flatten(1)
        outputs.append((deter, stoch, logits))
    return tuple(torch.stack(x) for x in zip(*outputs, strict=True))  # type: ignore[return-value]


def test_the_gradient_by_hand_is_autograds() -> None:
    """Every input's and every weight's, through episodes that end inside of the sequences."""
    rssm = RSSM(5, 7, **SIZES).double()
    for norm in (rssm.embedding_norm, rssm.mix_norm, rssm.posterior_norm):
        torch.nn.init.normal_(norm.scale)
    for bias in (rssm.mix_blocks.bias, rssm.gates.bias, rssm.posterior_out.bias):
        torch.nn.init.normal_(bias)
    steps, batch = 7, 3
    keep = torch.ones(steps, batch, 1, dtype=torch.float64)
    keep[0], keep[3, 1], keep[5, 2] = 0, 0, 0
    given = [torch.randn(steps, batch, 16), torch.randn(steps, batch, 6)]
    inputs = [x.double().requires_grad_() for x in given]
    noise = [x.double() for x in draw_noise(steps, batch, 3, 4)]
    weights = [weight.detach().clone().requires_grad_() for weight in rssm.weights()]
    push = [torch.randn(steps, batch, size).double() for size in (16, 12, 12)]

    def gradients(follow: object) -> list[Tensor]:
        outputs = follow(*inputs, keep, *noise, *weights)  # type: ignore[operator]
        loss = sum((out * p).sum() for out, p in zip(outputs, push, strict=True))
        return [*outputs, *torch.autograd.grad(loss, [*inputs, *weights])]

    by_hand, by_autograd = gradients(Follow.apply), gradients(follow_by_autograd)
    names = ["deter", "stoch", "logits", "action_inputs", "token_inputs", *Weights._fields]
    for name, one, other in zip(names, by_hand, by_autograd, strict=True):
        torch.testing.assert_close(one, other, msg=partial("{}: {}".format, name))
        assert one.abs().max() > 1e-3, f"{name} is not tested by zeros"


@pytest.mark.usefixtures("without_noise")
def test_is_first_forgets_what_came_before() -> None:
    """Two episodes in one sequence are followed as if each stood alone."""
    rssm = RSSM(5, 7, **SIZES)
    tokens, actions = torch.randn(9, 2, 7), torch.randint(0, 5, (9, 2))
    is_first = torch.zeros(9, 2, dtype=torch.bool)
    is_first[0] = is_first[4, 0] = True
    together = rssm.observe(tokens, actions, is_first)
    alone = rssm.observe(tokens[4:, :1], actions[4:, :1], is_first[4:, :1])
    for whole, part in zip(together, alone, strict=True):
        torch.testing.assert_close(whole[4:, :1], part)
    is_first[4, 0] = False
    unbroken = rssm.observe(tokens, actions, is_first)
    assert not torch.allclose(unbroken[0][4, 0], together[0][4, 0])
    torch.testing.assert_close(
        unbroken[0][:, 1], together[0][:, 1]
    )  # the other one's does not mind


@pytest.mark.usefixtures("without_noise")
def test_the_action_at_a_first_step_is_not_read() -> None:
    rssm = RSSM(5, 7, **SIZES)
    tokens, is_first = torch.randn(3, 1, 7), torch.tensor([[True], [False], [False]])
    one, other = (
        rssm.observe(tokens, torch.tensor([[first], [2], [3]]), is_first) for first in (0, 4)
    )
    torch.testing.assert_close(one[0], other[0])


@pytest.mark.parametrize(
    ("size", "depths", "strides"),
    [
        (64, (4, 6, 8, 8), (2, 2, 2, 2)),
        (64, (4, 8, 8), (4, 2, 2)),
        (96, (4, 8, 8), (4, 2, 2)),
        (96, (4, 6, 8, 8), (2, 2, 2, 2)),
    ],
)
@pytest.mark.parametrize("norm", [True, False])
def test_images_go_in_and_come_out(
    size: int, depths: tuple[int, ...], strides: tuple[int, ...], norm: bool
) -> None:
    encoder = Encoder(3, size, depths, strides, norm)
    decoder = Decoder(20, 3, depths, strides, norm, encoder.top)
    images = centered(torch.randint(0, 256, (5, 3, size, size), dtype=torch.uint8))
    assert encoder(images).shape == (5, encoder.tokens)
    patches = decoder(torch.randn(5, 20))
    assert patches.shape == decoder.to_patches(images).shape
    assert decoder.to_images(patches).shape == images.shape
    torch.testing.assert_close(decoder.to_images(decoder.to_patches(images)), images + 0.5)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_an_up_convolution_is_torchs_transposed_one(stride: int) -> None:
    torch.manual_seed(0)
    ours = UpConv2d(5, 3, stride)
    torchs = torch.nn.ConvTranspose2d(5, 3, 2 * stride, stride, padding=stride // 2)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter)
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 3, 4).to(memory_format=torch.channels_last).requires_grad_()
    expected = torchs(x)
    weights = torch.randn(expected.shape)
    wanted = torch.autograd.grad((expected * weights).sum(), [x, *torchs.parameters()])
    found = ours(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    gradients = torch.autograd.grad((found * weights).sum(), [x, *ours.parameters()])
    torch.testing.assert_close(gradients, wanted, rtol=1e-4, atol=1e-3)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows fill several blocks and parts, and a part of one."""
    monkeypatch.setattr(row_norm, "BLOCK", 24)
    monkeypatch.setattr(row_norm, "PART", 2)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "kinds"), [((48, 5), 1), ((21, 8), 1), ((1, 1), 1), ((9, 2, 3), 2), ((4, 50), 1)]
)
def test_a_norm_in_blocks_is_the_norm(
    shape: tuple[int, ...], kinds: int, dtype: torch.dtype
) -> None:
    """Output and gradients are those of the formula by autograd, also far from zero."""
    layer = NormSiLU(*shape[-kinds:])
    torch.nn.init.normal_(layer.scale, std=10)
    x = torch.randn(shape).to(dtype).requires_grad_()
    weights = torch.randn(shape).to(dtype)
    wide = x.detach().float().requires_grad_()
    rms = (wide.square().mean(-1, keepdim=True) + NORM_EPS).sqrt()
    expected = torch.nn.functional.silu(wide / rms * layer.scale)
    wanted = torch.autograd.grad((expected * weights).sum(), [wide, layer.scale])
    found = layer(x)
    assert found.dtype == dtype
    gradients = torch.autograd.grad((found * weights).sum(), [x, layer.scale])
    torch.testing.assert_close(found, expected.to(dtype))
    torch.testing.assert_close(gradients[0], wanted[0].to(dtype), rtol=0.01, atol=1e-4)
    torch.testing.assert_close(gradients[1], wanted[1], rtol=1e-5, atol=1e-4)


def test_a_norm_over_channels_is_that_of_each_place() -> None:
    layer = ImageNormSiLU(3)
    torch.nn.init.normal_(layer.scale)
    images = torch.randn(2, 3, 4, 5)
    expected = NormSiLU.forward(layer, images.movedim(1, -1)).movedim(-1, 1)
    for memory_format in (torch.channels_last, torch.contiguous_format):
        torch.testing.assert_close(layer(images.contiguous(memory_format=memory_format)), expected)


@pytest.mark.usefixtures("small_blocks")
def test_a_norm_is_the_same_on_any_number_of_threads() -> None:
    x, scale = torch.randn(500, 12, requires_grad=True), torch.randn(12, requires_grad=True)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = RowNormSiLU.apply(x, scale)
            found.append((out, *torch.autograd.grad(out.square().sum(), [x, scale])))
    finally:
        torch.set_num_threads(before)
    assert all(
        torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so_through_a_norm(bad: float, dtype: torch.dtype) -> None:
    """An update that is not finite is refused; a norm that hid it would train on it."""
    x = torch.ones(40, 8, dtype=dtype)
    x[17, 3] = bad
    out = NormSiLU(8)(x)
    assert not out[17].isfinite().all()
    assert out[torch.arange(40) != 17].isfinite().all()


@pytest.mark.parametrize(
    ("x", "scale"),
    [
        (torch.zeros(5, 12), torch.ones(8)),
        (torch.zeros(5, 8), torch.ones(2, 8)),
        (torch.zeros(5, 8, dtype=torch.float64), torch.ones(8)),
        (torch.zeros(5, 8), torch.ones(8, dtype=torch.bfloat16)),
    ],
)
def test_a_norm_of_other_rows_is_refused(x: Tensor, scale: Tensor) -> None:
    with pytest.raises(ValueError, match="do not fit a scale"):
        RowNormSiLU.apply(x, scale)


def test_patches_are_cut_as_pixel_unshuffle_does() -> None:
    for patch in (2, 4, 8):
        images = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
        decoder = Decoder(20, 3, (4, 8), (patch, 16 // patch), norm=False)
        expected = torch.nn.functional.pixel_unshuffle(images, patch)
        torch.testing.assert_close(decoder.to_patches(images), expected, rtol=0, atol=0)


def test_products_in_bf16_are_near_those_in_float32() -> None:
    """And the recurrence that learns does not take part."""
    rssm = RSSM(5, 7, **SIZES)
    n = 64
    state = networks.State(
        torch.randn(n, 16), sample_one_hot(torch.randn(n, 3, 4), no_noise(3, 4)).flatten(1)
    )
    table, weights = rssm.action_table(), rssm.weights()
    bf16 = torch.bfloat16
    one = advance(weights, *state, table[:1].expand(n, -1)).deter
    other = advance(weights.products_in(bf16), *state, table[:1].expand(n, -1).to(bf16)).deter
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, rtol=0, atol=0.03)
    tokens, actions = torch.randn(4, 2, 7), torch.randint(0, 5, (4, 2))
    with products_in(bf16):
        followed = rssm.observe(tokens, actions, torch.zeros(4, 2, dtype=torch.bool))
    assert {x.dtype for x in followed} == {torch.float32}


def test_strides_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not take 84 px to 4 px"):
        Encoder(1, 84, (4, 4, 4, 4), (2, 2, 2, 2), True)
    with pytest.raises(ValueError, match="not all even"):
        Encoder(3, 36, (4, 8), (3, 3), True)


def test_laprop_by_hand() -> None:
    """One weight, gradients 3 and -1: momentum of normalised gradients, both bias-corrected."""
    weight = torch.nn.Parameter(torch.tensor([10.0]))
    optimizer = LaProp([weight], lr=0.1, agc=100.0, warmup_steps=0)
    weight.grad = torch.tensor([3.0])
    optimizer.step()
    assert weight.item() == pytest.approx(10 - 0.1)  # whatever the gradient's size
    weight.grad = torch.tensor([-1.0])
    optimizer.step()
    square = (0.999 * 0.001 * 9 + 0.001 * 1) / (1 - 0.999**2)
    momentum = (0.9 * 0.1 * 1.0 + 0.1 * (-1 / math.sqrt(square))) / (1 - 0.9**2)
    assert weight.item() == pytest.approx(9.9 - 0.1 * momentum)


def test_a_gradient_is_clipped_to_a_share_of_its_weights() -> None:
    params = [torch.ones(4) * 5, torch.ones(4) * 5, torch.zeros(4)]
    grads = [torch.ones(4) * 100, torch.ones(4) * 0.01, torch.ones(4)]
    norm = clip_adaptively(params, grads, clip=0.3)
    assert [g.norm().item() for g in grads] == pytest.approx([0.3 * 10, 0.02, 0.3 * 1e-3])
    assert norm.item() == pytest.approx(200, rel=1e-3)


def test_the_warm_up_begins_at_zero() -> None:
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = LaProp([weight], lr=0.1, warmup_steps=2)
    rates = []
    for _ in range(4):
        rates.append(optimizer.learning_rate())
        weight.grad = torch.ones(4)
        optimizer.step()
        if not rates[-1]:
            torch.testing.assert_close(weight.detach(), torch.ones(4))
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.1])


def test_the_optimizer_is_torchrls() -> None:
    oracle = pytest.importorskip("torchrl.trainers.algorithms")
    start = [torch.randn(7, 5), torch.zeros(5), torch.randn(3, 2, 4) * 1e-2]
    ours, theirs = ([torch.nn.Parameter(t.clone()) for t in start] for _ in range(2))
    one = LaProp(ours, lr=1e-2, warmup_steps=4)
    other = oracle.DreamerV3Optimizer(theirs, lr=1e-2, warmup_steps=4)
    for step in range(10):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a) * 10 ** (step % 4 - 2)
            b.grad = a.grad.clone()
        one.step()
        other.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
