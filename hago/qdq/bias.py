"""Biases as int32 on the scale of the accumulator, and their correction.

Notation: s_x scale of the input activations, s_w [] or [O] of the weights; the accumulator of channel o
counts in steps of s_x * s_w[o].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .weights import QuantizedWeight

BIAS_LIMIT = 2**29
"""Largest |bias| in accumulator steps: a quarter of int32. The sum of products may take a half."""

PRODUCT_LIMIT = 2**30
"""Largest |sum of products|, at its worst."""


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
    """The weight scales [O] that keep every bias within +-2**29 steps, or None where ``s_w`` does.

    A channel whose weights are tiny beside its bias (batch normalization folds such channels) has so
    fine a step that its bias leaves int32. Its weights hardly matter, so their scale is raised, just
    enough, instead of clipping the bias.
    """
    needed = np.abs(bias.astype(np.float64)) / (float(s_x) * BIAS_LIMIT)
    if np.all(needed <= s_w):
        return None
    # One float32 step up, so that the division that follows cannot round to more than the limit.
    return np.nextafter(needed.astype(np.float32), np.float32(np.inf))


def correction(
    weight: npt.NDArray[np.float32],
    quantized: QuantizedWeight,
    input_mean: npt.NDArray[np.float32],
    groups: int = 1,
    coverage: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float32]:
    """What to add to the bias, float32 [O], so that rounding the weights leaves the mean output as it was.

    Rounding errors of the weights of one channel do not cancel: they shift the mean of its output by
    sum_c E[x_c] * sum_k (q_w - w)[o, c, k], which is subtracted (Nagel et al. 2019, section 4.2).
    ``input_mean`` [C] holds E[x_c] over calibration samples; with ``groups`` > 1 output channel o sees the
    input channels of its own group. ``coverage`` (see :func:`tap_coverage`) accounts for padding.
    """
    return apply_correction(channel_error(weight, quantized, coverage), input_mean, groups)


def tap_coverage(
    inputs: Sequence[int],
    outputs: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> npt.NDArray[np.float64]:
    """For each tap of a kernel, shaped as the kernel, the part of output positions where it reads no padding.

    All arguments are over the spatial axes; ``pads`` are those before each axis.
    """
    result = np.ones((), np.float64)
    for size, count, taps, stride, pad, dilation in zip(inputs, outputs, kernel, strides, pads, dilations, strict=True):
        position = np.arange(count)[:, None] * stride - pad + np.arange(taps) * dilation
        inside = ((position >= 0) & (position < size)).mean(axis=0)
        result = np.multiply.outer(result, inside)
    return result


def channel_error(
    weight: npt.NDArray[np.float32],
    quantized: QuantizedWeight,
    coverage: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float32]:
    """sum over kernel taps of (dequantized - w), float32 [O, C/groups], taps weighted by ``coverage``."""
    error = quantized.dequantize() - weight
    moved = np.moveaxis(error, (quantized.out_axis, quantized.in_axis), (0, 1))
    if coverage is not None:
        moved = moved * coverage
    return moved.sum(axis=tuple(range(2, moved.ndim)), dtype=np.float64).astype(np.float32)


def apply_correction(
    error: npt.NDArray[np.float32], input_mean: npt.NDArray[np.float32], groups: int = 1
) -> npt.NDArray[np.float32]:
    """-sum_c error[o, c] * E[x_c], float32 [O]."""
    outputs, per_group = error.shape
    means = input_mean.reshape(groups, per_group)
    of_output = np.repeat(means, outputs // groups, axis=0)
    return -(error * of_output).sum(axis=1, dtype=np.float64).astype(np.float32)
