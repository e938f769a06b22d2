"""Biases as int32 on the scale of the accumulator.

Notation: s_x scale of the input activations, s_w [] or [O] of the weights; the accumulator of channel o
counts in steps of s_x * s_w[o].
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BIAS_LIMIT = 2**29
"""Largest |bias| in accumulator steps: a quarter of int32. The sum of products may take half."""

PRODUCT_LIMIT = 2**30
"""Largest possible |sum of products|."""


def bias_scale(s_x: np.float32, s_w: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The scale of the int32 bias, float32(s_x * s_w), [] or [O]."""
    return (np.float32(s_x) * s_w).astype(np.float32)


def quantize_bias(bias: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """int32 [O]: rint(bias / scale), clamped to +-2**29 (see :func:`required_scale`)."""
    steps = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    return np.clip(steps, -BIAS_LIMIT, BIAS_LIMIT).astype(np.int32)


def required_scale(
    bias: npt.NDArray[np.float32], s_x: np.float32, s_w: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32] | None:
    """The weight scales [O] that keep every bias within +-2**29 steps, or None if ``s_w`` does.

    A channel whose weights are tiny compared with its bias (folding batch normalization makes such channels) has
    such a fine step that its bias does not fit in int32. Its weights hardly matter, so their scale is raised just
    enough, instead of clipping the bias.
    """
    needed = np.abs(bias.astype(np.float64)) / (float(s_x) * BIAS_LIMIT)
    if np.all(needed <= s_w):
        return None
    # One float32 step up, so that the division that follows cannot round to more than the limit.
    return np.nextafter(needed.astype(np.float32), np.float32(np.inf))
