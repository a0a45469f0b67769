"""RMSNorm and SiLU of many rows, most of them short as a picture's channels are, and its gradient.

torch has no kernel for it: its norms loop over a row at a time, here often of just 8 to 64 numbers,
and in separate operations each goes through all of them, up to 32 MB, again. Here a block of rows
at a time passes through all steps in the processor's cache, in loops that become vector
instructions however short a row is. In float32; bfloat16 is widened and rounded on the way.

tests/test_dreamer_networks.py holds it against autograd.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastnes.compiled import compiled_arithmetic
from fastnes.share import Workers

NORM_EPS = 1e-4  # added to a row's mean square
BLOCK = 4096  # numbers that pass through all steps at a time, or a whole row; 16 KB of float32
PART = 32  # blocks that a thread takes at a time: what is summed depends on it, not on threads

# --------------------------------------------------------------------------------------------
# Numbers
# --------------------------------------------------------------------------------------------


@compiled_arithmetic
def _of_bits(bits):
    """Return the float32 that a bfloat16's bits, uint16, are."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@compiled_arithmetic
def _as_bits(number):
    """Return the bits, uint16, of the bfloat16 that is nearest to a float32, ties to even."""
    bits = np.float32(number).view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    nearest = np.uint16((bits + np.uint32(0x7FFF) + even) >> np.uint32(16))
    return np.uint16(0x7FC0) if np.isnan(number) else nearest


def widen(number):
    """Return a float32: a float32 as it is, or a bfloat16 given as its bits, uint16."""
    return _of_bits(number) if isinstance(number, np.uint16) else number


@overload(widen)
def _widen(number):
    if number == types.uint16:
        return lambda number: _of_bits(number)
    return lambda number: number


def narrow(number, like):
    """Return a float32 in like's type: as it is, or rounded to a bfloat16's bits, uint16."""
    return _as_bits(number) if isinstance(like, np.uint16) else number


@overload(narrow)
def _narrow(number, like):
    if like == types.uint16:
        return lambda number, like: _as_bits(number)
    return lambda number, like: number


@compiled_arithmetic
def sigmoid(x):
    """Return the logistic function of a float32, within 2e-7 of it, without a branch.

    exp(-x) is 2^n times 2^f, f in [-0.5, 0.5], whose Taylor series ends after x^6.
    """
    power = min(max(x * np.float32(-1.4426950408889634), np.float32(-126)), np.float32(126))
    n = np.floor(power + np.float32(0.5))
    f = power - n
    p = np.float32(1.5403530393381608e-4)
    p = p * f + np.float32(1.3333558146428443e-3)
    p = p * f + np.float32(9.6181291076284772e-3)
    p = p * f + np.float32(5.5504108664821580e-2)
    p = p * f + np.float32(2.4022650695910072e-1)
    p = p * f + np.float32(6.9314718055994531e-1)
    p = p * f + np.float32(1)
    two_to_n = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(1) / (np.float32(1) + p * two_to_n)


@compiled_arithmetic
def inverse_root(mean_square):
    """Return 1 / RMS of what has this mean square, both float32."""
    return np.float32(1) / np.sqrt(mean_square + np.float32(NORM_EPS))


# --------------------------------------------------------------------------------------------
# Rows
# --------------------------------------------------------------------------------------------


@compiled_arithmetic
def _row_means(x, y, columns, means):
    """Write the mean of each row of x * y, flat [rows * columns], into each of its columns."""
    for row in range(len(x) // columns):
        inner = np.float32(0)
        for column in range(columns):
            inner += x[row * columns + column] * y[row * columns + column]
        mean = inner * np.float32(1 / columns)
        for column in range(columns):
            means[row * columns + column] = mean


@compiled_arithmetic
def _normed_silu(x, scale, columns, out, work):
    """Write silu(x / RMS(x) * scale) into out.

    Args:
        x: flat rows of C numbers, float32 or a bfloat16's bits.
        scale: float32[rows of a block * C], that of each number.
        columns: C.
        out: as x.
        work: float32[2, rows of a block * C], overwritten.
    """
    size = len(scale)
    for first in range(0, len(x), size):
        source, to = x[first : first + size], out[first : first + size]
        n = len(source)
        block, squares = work[0, :n], work[1, :n]
        for i in range(n):
            block[i] = widen(source[i])
        _row_means(block, block, columns, squares)
        for i in range(n):
            z = block[i] * inverse_root(squares[i]) * scale[i]
            to[i] = narrow(z * sigmoid(z), to[i])


@compiled_arithmetic
def _normed_silu_backward(x, scale, columns, gradient, to_x, to_scale, work):
    """Write the gradient of x into to_x, and add that of the scale to to_scale.

    Args:
        x, scale, columns: as in `_normed_silu`.
        gradient: of its result, as x.
        to_x: as x.
        to_scale: as scale.
        work: float32[4, rows of a block * C], overwritten.
    """
    size = len(scale)
    for first in range(0, len(x), size):
        source, due = x[first : first + size], gradient[first : first + size]
        to = to_x[first : first + size]
        n = len(source)
        normed, inverse, to_normed, means = work[0, :n], work[1, :n], work[2, :n], work[3, :n]
        for i in range(n):
            normed[i] = widen(source[i])
        _row_means(normed, normed, columns, means)
        for i in range(n):
            inverse[i] = inverse_root(means[i])
            normed[i] *= inverse[i]
            z = normed[i] * scale[i]
            s = sigmoid(z)
            to_z = widen(due[i]) * s * (np.float32(1) + z * (np.float32(1) - s))
            to_scale[i] += to_z * normed[i]
            to_normed[i] = to_z * scale[i]
        _row_means(to_normed, normed, columns, means)
        for i in range(n):
            to[i] = narrow((to_normed[i] - normed[i] * means[i]) * inverse[i], to[i])


# --------------------------------------------------------------------------------------------
# Tensors
# --------------------------------------------------------------------------------------------


def numbers(rows: Tensor) -> np.ndarray:
    """Return contiguous numbers, flat, a bfloat16 as its bits: the same memory."""
    rows = rows.detach()
    bits = rows.view(torch.uint16) if rows.dtype == torch.bfloat16 else rows
    return bits.view(-1).numpy()


@functools.cache
def _workers(threads: int) -> Workers:
    return Workers(threads)


def in_parts(size: int, job: Callable[..., None], *rows: np.ndarray) -> None:
    """Call job(i, part i of each of `rows`) for all parts, on as many threads as torch uses.

    Args:
        size: numbers of a part.
        job: what to call, on any of the threads.
        rows: flat rows [N * C].
    """
    parts, most = -(-len(rows[0]) // size), torch.get_num_threads()
    threads = max(1, min(most, parts))

    def share(thread: int) -> None:
        for i in range(thread, parts, threads):
            job(i, *(each[i * size : (i + 1) * size] for each in rows))

    _workers(most).run(share, threads)


def in_block(scale: Tensor) -> np.ndarray:
    """Return the scale of each number of a block, float32[rows of a block * C]."""
    return np.tile(numbers(scale), max(1, BLOCK // scale.numel()))


class RowNormSiLU(torch.autograd.Function):
    """silu(x / RMS(x) * scale) of contiguous rows [..., C], float32 or bfloat16, in that type.

    The scale is [C], or [A, C] for rows of A kinds in turn. For the gradient the input is kept.

    Raises:
        ValueError: x does not end in the scale's shape, or a type is another.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        types_fit = x.dtype in (torch.float32, torch.bfloat16) and scale.dtype == torch.float32
        if x.shape[-scale.ndim :] != scale.shape or not types_fit:
            raise ValueError(
                f"rows {x.dtype}{list(x.shape)} do not fit a scale {scale.dtype}{list(scale.shape)}"
            )
        ctx.save_for_backward(x, scale)
        out, scales = torch.empty_like(x), in_block(scale)

        def job(_: int, x: np.ndarray, out: np.ndarray) -> None:
            work = np.empty((2, len(scales)), np.float32)
            _normed_silu(x, scales, scale.shape[-1], out, work)

        in_parts(PART * len(scales), job, numbers(x), numbers(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, scale = ctx.saved_tensors
        to_x, scales = torch.empty_like(x), in_block(scale)
        columns, size = scale.shape[-1], PART * len(scales)
        to_scale = np.zeros((-(-x.numel() // size), len(scales)), np.float32)

        def job(i: int, x: np.ndarray, gradient: np.ndarray, to_x: np.ndarray) -> None:
            work = np.empty((4, len(scales)), np.float32)
            _normed_silu_backward(x, scales, columns, gradient, to_x, to_scale[i], work)

        in_parts(size, job, numbers(x), numbers(gradients[0].contiguous()), numbers(to_x))
        return to_x, torch.from_numpy(to_scale.reshape(-1, *scale.shape).sum(0))
