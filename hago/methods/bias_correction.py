"""Bias correction: the bias cancels the mean shift that rounding the weights causes (Nagel et al. 2019, section 4.2).

Rounding errors of the weights of one channel do not cancel: they shift the mean of its output by
sum_c E[x_c] * sum_k (q_w - w)[o, c, k], which is subtracted.

Notation: w [O, C/groups, k] weights, x_c the input channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..calibrate.statistics import Need
from .task import Correction, CorrectionTask


def correct_bias(task: CorrectionTask) -> npt.NDArray[np.float32]:
    """What to add to the bias, float32 [O], so that rounding the weights does not change the mean output.

    Output channel o sees only the input channels of its group.
    """
    mean, error = task.statistics["input_mean"], _channel_error(task)  # [C], [O, C/groups]
    outputs, per_group = error.shape
    groups = len(mean) // per_group
    of_output = np.repeat(mean.reshape(groups, per_group), outputs // groups, axis=0)
    return -(error * of_output).sum(axis=1, dtype=np.float64).astype(np.float32)


def _channel_error(task: CorrectionTask) -> npt.NDArray[np.float32]:
    """sum over kernel taps of (dequantized - w), float32 [O, C/groups], taps weighted by their coverage."""
    error = task.quantized.dequantize() - task.weight
    moved = np.moveaxis(error, (task.quantized.out_axis, task.quantized.in_axis), (0, 1))
    if task.coverage is not None:
        moved = moved * task.coverage
    return moved.sum(axis=tuple(range(2, moved.ndim)), dtype=np.float64).astype(np.float32)


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


BIAS = Correction(correct_bias, needs=(Need("input_mean"),))
