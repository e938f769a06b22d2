"""Clips weights where the squared rounding error is least, scale by scale.

Thresholds are t = max|w| * i/100, i from 30 to 100. With one scale for the whole tensor, which may have millions of
weights, they are compared over a histogram; with a scale per channel or group, on the weights themselves.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .nearest import nearest
from .quantized_weight import MIN_SCALE, QuantizedWeight
from .task import Rounding, WeightTask

_PERCENT = range(30, 101)
_BINS = 2048
_BLOCK = 1 << 17


def clip_and_round(task: WeightTask) -> QuantizedWeight:
    """Rounds to nearest, clipped at the thresholds of least squared error."""
    if task.granularity.kind == "per_tensor":
        return nearest(task, threshold_of_tensor)
    clipped = nearest(task, thresholds_of_rows)
    # Group scales are rounded up to multiples of their channel's scale, so clipping may also lose.
    return clipped if task.granularity.kind == "per_channel" else _closer(nearest(task), clipped, task.weight)


def threshold_of_tensor(rows: npt.NDArray[np.float32], qmax: int) -> npt.NDArray[np.float32]:
    """Magnitudes [1, n] -> threshold [1].

    The best over a histogram is compared with max|w| on the weights themselves, so that it is never worse.
    """
    peak = np.float32(rows.max(initial=0.0))
    if peak <= MIN_SCALE:
        return np.array([peak])
    counts, edges = np.histogram(rows, bins=_BINS, range=(0.0, float(peak)))
    centres = (edges[:-1] + edges[1:]) / 2
    candidates = float(peak) * np.array(_PERCENT) / 100
    steps = candidates[:, None] / qmax
    rounded = np.minimum(np.rint(centres / steps), qmax) * steps
    errors = ((rounded - centres) ** 2 * counts).sum(axis=1)
    best = np.float32(candidates[int(np.argmin(errors))])
    error = _errors(rows, np.array([best]), qmax), _errors(rows, np.array([peak]), qmax)
    return np.array([best if error[0] < error[1] else peak])


def thresholds_of_rows(rows: npt.NDArray[np.float32], qmax: int) -> npt.NDArray[np.float32]:
    """Magnitudes [R, n] -> thresholds [R], each by the exact error of its row; of equally good ones the largest."""
    blocks = np.array_split(rows, max(1, min(len(rows), rows.size // _BLOCK)))  # what fits into caches
    return np.concatenate([_thresholds_of_block(block, qmax) for block in blocks])


def _thresholds_of_block(rows: npt.NDArray[np.float32], qmax: int) -> npt.NDArray[np.float32]:
    peaks = rows.max(axis=1, initial=0.0)
    best, least = peaks, np.full(len(rows), np.inf)
    for percent in reversed(_PERCENT):
        thresholds = peaks * np.float32(percent / 100)
        errors = _errors(rows, thresholds, qmax)
        better = errors < least
        best, least = np.where(better, thresholds, best), np.where(better, errors, least)
    return best


def _errors(rows: npt.NDArray[np.float32], thresholds: npt.NDArray[np.float32], qmax: int) -> npt.NDArray[np.float64]:
    """The squared error of each row [R, n], rounded and clipped at its threshold [R]."""
    steps = np.maximum(thresholds / np.float32(qmax), MIN_SCALE)[:, None]
    lost = np.minimum(np.rint(rows / steps), np.float32(qmax)) * steps - rows
    return np.square(lost).sum(axis=1, dtype=np.float64)


def _closer(one: QuantizedWeight, other: QuantizedWeight, weight: npt.NDArray[np.float32]) -> QuantizedWeight:
    """Each channel as in whichever of two quantizations loses less of it; ``one`` where they lose the same."""
    axes = tuple(axis for axis in range(weight.ndim) if axis != one.out_axis)
    lost = [np.square(each.dequantize() - weight).sum(axis=axes, dtype=np.float64) for each in (one, other)]
    taken = lost[1] < lost[0]  # [O]
    on_axis = taken.reshape([-1 if axis == one.out_axis else 1 for axis in range(weight.ndim)])
    assert one.multipliers is not None and other.multipliers is not None
    return replace(
        one,
        values=np.where(on_axis, other.values, one.values),
        scale=np.where(taken, other.scale, one.scale),
        multipliers=np.where(taken[:, None], other.multipliers, one.multipliers),
    )


MSE = Rounding(clip_and_round)
