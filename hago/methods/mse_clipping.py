"""Clips weights where the squared rounding error is least. Per tensor only, since finer scales clip little."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .nearest import nearest
from .quantized_weight import MIN_SCALE, QuantizedWeight
from .task import Rounding, WeightTask


def clip_and_round(task: WeightTask) -> QuantizedWeight:
    """Rounds to nearest; a per-tensor scale is clipped at the threshold of least squared error."""
    return nearest(task, mse_threshold if task.granularity.kind == "per_tensor" else None)


def mse_threshold(magnitude: npt.NDArray[np.float32], qmax: int, bins: int = 2048) -> np.float32:
    """The clipping threshold t <= max|w| with the least squared error of symmetric rounding.

    Candidates t = max * i/100, i from 30 to 100, are compared over a histogram of |w|; the winner is then
    compared with max|w| on the weights themselves, so that it is never worse.
    """
    peak = np.float32(magnitude.max(initial=0.0))
    if peak <= MIN_SCALE:
        return peak
    counts, edges = np.histogram(magnitude, bins=bins, range=(0.0, float(peak)))
    centres = (edges[:-1] + edges[1:]) / 2
    candidates = float(peak) * np.arange(30, 101) / 100
    steps = candidates[:, None] / qmax
    rounded = np.minimum(np.rint(centres / steps), qmax) * steps
    errors = ((rounded - centres) ** 2 * counts).sum(axis=1)
    best = np.float32(candidates[int(np.argmin(errors))])

    def error(threshold: np.float32) -> float:
        step = threshold / np.float32(qmax)
        return float(np.square(np.minimum(np.rint(magnitude / step), qmax) * step - magnitude).sum(dtype=np.float64))

    return best if error(best) < error(peak) else peak


MSE = Rounding(clip_and_round, acts_on=("per_tensor",))
