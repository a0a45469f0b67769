"""Shrinking a gray screen as OpenCV's INTER_AREA does, bit for bit.

Each output pixel is the mean of the rectangle it covers. OpenCV adds float32 products and rounds
half to even. Here the sum is made of integers, which is exact and vectorizes; only where the
exact mean lies so near to a half that float32's rounding decides, that one pixel is computed
again in OpenCV's order. Integer ratios (for example 240x256 to 120x128) have their own code in
OpenCV; `area_plan` knows them.
"""

import functools
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from fastnes.compiled import compiled, compiled_with_arrays

# float32 sums of at most 255 err by less than this (about 12 roundings of 2**-24 of 255)
HALF_TOLERANCE = 4e-4
HALF = np.float32(0.5)
# the quick float32 estimate, which errs by under 1e-4, is this near to a half: look exactly
DOUBT = np.float32(0.5 - HALF_TOLERANCE - 1e-4)
TAPS = 4  # source pixels of a row added at a time; more at a time cost fewer passes
MIN_CELL = 1e-3  # OpenCV leaves out slivers of a source pixel up to this size


class AxisPlan(NamedTuple):
    """How one axis shrinks; arrays of length `out`, or [out, most sources of an output]."""

    first: np.ndarray  # int64, first source pixel with a weight
    weight: np.ndarray  # int64, exact overlap in units of 1/denominator of a source pixel
    total: int  # sum of an output's weights
    cv_first: np.ndarray  # int64, first source pixel in OpenCV's table
    cv_count: np.ndarray  # int64, sources in OpenCV's table
    cv_weight: np.ndarray  # float32, OpenCV's weights


class AreaPlan(NamedTuple):
    """Plans for rows and columns, and OpenCV's rule for exact halves.

    The columns' weights lie as they are read: int32[sources, out], their number a multiple of TAPS.
    """

    first_y: np.ndarray
    weight_y: np.ndarray
    first_x: np.ndarray  # uint64: signed indices would be checked for wrapping
    weight_x: np.ndarray
    total: int
    cv_first_y: np.ndarray
    cv_count_y: np.ndarray
    cv_weight_y: np.ndarray
    cv_first_x: np.ndarray
    cv_count_x: np.ndarray
    cv_weight_x: np.ndarray
    rule: int  # RULE_


RULE_FLOAT = 0  # general: float32 sums
RULE_HALF_EVEN = 1  # both ratios are integers: an exact sum, rounded half to even
RULE_HALF_UP = 2  # both ratios are two: (a + b + c + d + 2) >> 2


def _axis_plan(size: int, out: int) -> AxisPlan:
    ratio = Fraction(size, out)
    total, unit = ratio.numerator, ratio.denominator
    most = -(-total // unit) + 1
    first = np.array([cell * total // unit for cell in range(out)])
    weight = np.zeros((out, most), np.int64)
    for cell in range(out):
        for k in range(most):
            left = max(cell * total, (first[cell] + k) * unit)
            right = min((cell + 1) * total, (first[cell] + k + 1) * unit)
            weight[cell, k] = max(0, right - left)
    scale = 1.0 / (out / size)
    cv_first = np.zeros(out, np.int64)
    cv_count = np.zeros(out, np.int64)
    cv_weight = np.zeros((out, most + 1), np.float32)
    for cell in range(out):
        begin, end = cell * scale, cell * scale + scale
        width = min(scale, size - begin)
        last_whole = min(int(np.floor(end)), size - 1)
        first_whole = min(int(np.ceil(begin)), last_whole)
        weights = [1.0 / width] * (last_whole - first_whole)
        cv_first[cell] = first_whole
        if first_whole - begin > MIN_CELL:
            weights.insert(0, (first_whole - begin) / width)
            cv_first[cell] -= 1
        if end - last_whole > MIN_CELL:
            weights.append(min(min(end - last_whole, 1.0), width) / width)
        cv_count[cell] = len(weights)
        cv_weight[cell, : len(weights)] = weights
    return AxisPlan(first, weight, total, cv_first, cv_count, cv_weight)


@functools.cache
def area_plan(height: int, width: int, out_height: int, out_width: int, top: int = 0) -> AreaPlan:
    """Plan shrinking [height, width] to [out_height, out_width].

    The height rows begin at row `top` of the picture; what is above and below them is left out.

    Raises:
        ValueError: an output of no pixels, or larger than the input.
    """
    if not (0 < out_height <= height and 0 < out_width <= width):
        raise ValueError(
            f"cannot shrink {height}x{width} to {out_height}x{out_width}: the new size must be"
            " between 1x1 and the old one"
        )
    y, x = _axis_plan(height, out_height), _axis_plan(width, out_width)
    rule = RULE_FLOAT
    if height % out_height == 0 and width % out_width == 0:
        is_half = height == 2 * out_height and width == 2 * out_width
        rule = RULE_HALF_UP if is_half else RULE_HALF_EVEN
    sources = int(np.flatnonzero(x.weight.any(axis=0)).max()) + 1
    weight_x = np.zeros((-(-sources // TAPS) * TAPS, out_width), np.int32)
    weight_x[:sources] = x.weight.T[:sources]
    return AreaPlan(
        y.first + top,
        y.weight,
        x.first.astype(np.uint64),
        weight_x,
        y.total * x.total,
        y.cv_first + top,
        y.cv_count,
        y.cv_weight,
        x.cv_first,
        x.cv_count,
        x.cv_weight,
        rule,
    )


class ResizeSpace(NamedTuple):
    """Working space of `resize_max`."""

    sums: np.ndarray  # uint16[w + most sources of an output], zeros from w on; at most 240 * 255
    totals: np.ndarray  # int32[out_w]
    is_doubtful: np.ndarray  # int32[out_w]
    doubtful: np.ndarray  # int32[out_h * out_w]
    doubtful_totals: np.ndarray  # int32[out_h * out_w]


@compiled
def _resize_pixel_as_opencv(first, second, plan, row, column):
    """Return one output pixel by OpenCV's float32 arithmetic, in its order."""
    total = np.float32(0)
    for j in range(plan.cv_count_y[row]):
        y = plan.cv_first_y[row] + j
        line = np.float32(0)
        for k in range(plan.cv_count_x[column]):
            x = plan.cv_first_x[column] + k
            pixel = np.float32(max(first[y, x], second[y, x]))
            line = np.float32(line + np.float32(pixel * plan.cv_weight_x[column, k]))
        product = np.float32(plan.cv_weight_y[row, j] * line)
        total = np.float32(total + product) if j else product
    return np.uint8(np.rint(total))


@compiled
def _settle_halves(first, second, plan, doubtful, totals, out):
    """Compute the pixels whose mean, totals / plan.total, is a half or nearly so.

    `doubtful` holds row * out_w + column of each.
    """
    columns = plan.weight_x.shape[1]
    for i in range(len(doubtful)):
        if plan.rule == RULE_FLOAT:
            row, column = doubtful[i] // columns, doubtful[i] % columns
            out[doubtful[i]] = _resize_pixel_as_opencv(first, second, plan, row, column)
        else:
            whole = totals[i] // plan.total
            twice = 2 * (totals[i] % plan.total)
            is_up = twice > plan.total or (twice == plan.total and whole & 1 == 1)
            out[doubtful[i]] = whole + is_up


@compiled
def _add_rows(first, second, y, weights, sums):
    """Set uint16[w] `sums` to the weighted sum of the brighter of some rows, from `y` on."""
    for x in range(len(sums)):
        sums[x] = 0
    for j in range(len(weights)):
        weight = np.uint16(weights[j])
        if weight:
            a, b = first[y + j], second[y + j]
            for x in range(len(sums)):
                sums[x] += weight * np.uint16(max(a[x], b[x]))


@compiled
def _add_columns(sums, first_x, weights, totals):
    """Set int32[out_w] `totals` to the weighted sums of `sums`, which has room at its end."""
    for column in range(len(totals)):
        totals[column] = 0
    for k in range(0, len(weights), TAPS):
        weight_0, weight_1 = weights[k], weights[k + 1]
        weight_2, weight_3 = weights[k + 2], weights[k + 3]
        sums_0, sums_1, sums_2, sums_3 = sums[k:], sums[k + 1 :], sums[k + 2 :], sums[k + 3 :]
        for column in range(len(totals)):
            x = first_x[column]
            totals[column] += (
                weight_0[column] * np.int32(sums_0[x])
                + weight_1[column] * np.int32(sums_1[x])
                + weight_2[column] * np.int32(sums_2[x])
                + weight_3[column] * np.int32(sums_3[x])
            )


@compiled
def _round(totals, scale, out, is_doubtful):
    """Round int32[out_w] totals times `scale` into a row; return how many are near to a half."""
    count = np.int32(0)
    for column in range(len(totals)):
        mean = np.float32(totals[column]) * scale + HALF
        whole = np.int32(mean)
        out[column] = whole
        doubt = np.int32(abs(mean - np.float32(whole) - HALF) > DOUBT)
        is_doubtful[column] = doubt
        count += doubt
    return count


@compiled_with_arrays
def resize_max(first, second, plan, out):
    """Shrink the brighter of two screens, pixel by pixel, into `out`.

    Args:
        first, second: uint8[at least h, w].
        plan: area_plan(h, w, out_h, out_w).
        out: uint8[out_h * out_w], row after row, overwritten.
    """
    sources, columns = plan.weight_x.shape
    space = ResizeSpace(
        np.zeros(first.shape[1] + sources, np.uint16),
        np.empty(columns, np.int32),
        np.empty(columns, np.int32),
        np.empty(len(out), np.int32),
        np.empty(len(out), np.int32),
    )
    _resize_rows(first, second, plan, out, space)


@compiled
def _resize_rows(first, second, plan, out, space):
    """Do what `resize_max` says, in a ResizeSpace."""
    sums, totals, is_doubtful, doubtful, doubtful_totals = space
    columns = len(totals)
    scale = np.float32(1.0 / plan.total)
    count = 0
    for row in range(len(plan.first_y)):
        begin = row * columns
        _add_rows(first, second, plan.first_y[row], plan.weight_y[row], sums[: first.shape[1]])
        _add_columns(sums, plan.first_x, plan.weight_x, totals)
        if _round(totals, scale, out[begin : begin + columns], is_doubtful):
            for column in range(columns):
                doubtful[count] = begin + column
                doubtful_totals[count] = totals[column]
                count += is_doubtful[column]
    if plan.rule != RULE_HALF_UP:  # the estimate is exact for that one
        _settle_halves(first, second, plan, doubtful[:count], doubtful_totals, out)
