"""Shrinking a picture that does not come from a machine's step."""

import numpy as np

from fastnes.resize import area_plan, resize_max
from fastnes.warm import warm_up


def area_resize(gray: np.ndarray, out: np.ndarray) -> None:
    """Shrink uint8[h, w] `gray` into uint8[out_h, out_w] `out`, as cv2.INTER_AREA does.

    Raises:
        ValueError: wrong types, or `out` is larger than `gray`.
    """
    if gray.dtype != np.uint8 or gray.ndim != 2 or out.dtype != np.uint8 or out.ndim != 2:
        raise ValueError("area_resize takes two-dimensional uint8 arrays")
    warm_up()
    gray = np.require(gray, requirements=["C", "W"])
    plan = area_plan(*gray.shape, *out.shape)
    target = out if out.flags.c_contiguous else np.empty(out.shape, np.uint8)
    resize_max(gray, gray, plan, target.reshape(-1))
    if target is not out:
        out[...] = target
