"""Range methods: from the statistics of a tensor to the range that its integers cover.

Notation: a range is (lo, hi) with lo <= 0 <= hi; values outside are clipped to it. All methods read the
same TensorStats, so one pass serves all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ..calibrate.calibration import Range, RangeMethod
from ..calibrate.histogram import TensorStats
from ..calibrate.zero_point import scale_zero_point
from ..scheme import IntegerType

_Floats = npt.NDArray[np.float64]

# The share of values that a percentile range keeps.
PERCENTILE = 0.9999
# Thresholds tried at a time by the mean squared error: powers of two, in steps of an eighth, down to 1/1024.
_SHRINK = 2.0 ** (-np.arange(0, 81) / 8)
_REFINE = 2.0 ** (np.arange(-8, 9) / 64)
_NEARBY = 2.0 ** (np.arange(-8, 9) / 8)
# Bins that the entropy method compares (Migacz 2017) and thresholds it tries on each side.
_ENTROPY_BINS = 2048
_ENTROPY_STEPS = 64
_ENTROPY_CLIPS = 0.25


def minmax(stats: TensorStats, scheme: IntegerType) -> Range:
    """Everything that was seen."""
    return min(0.0, stats.lo), max(0.0, stats.hi)


def moving_average(stats: TensorStats, scheme: IntegerType) -> Range:
    """The moving average of each sample's minimum and maximum (Jacob et al. 2018, section 3.1).

    Over samples, not batches, so that the batch size does not matter; without the weight that a first
    value would otherwise keep.
    """
    lo, hi = minmax(stats, scheme)  # the bounds of what an average can be, but for rounding
    return max(lo, min(0.0, stats.mean_lo)), min(hi, max(0.0, stats.mean_hi))


def percentile(stats: TensorStats, scheme: IntegerType, share: float = PERCENTILE) -> Range:
    """Keeps ``share`` of the values: of the magnitudes if symmetric, else cutting both ends alike."""
    total = int(stats.counts.sum()) + stats.zeros
    lo, hi = minmax(stats, scheme)
    if scheme.symmetric:
        bound = _upper(stats.magnitudes(), (1 - share) * total) * stats.width
        return max(lo, -bound), min(hi, bound)
    cut = (1 - share) / 2 * total
    zero = min(max(0, -stats.first), len(stats.counts))
    above, skip_above = stats.counts[zero:], max(0, stats.first)
    below, skip_below = stats.counts[:zero][::-1], max(0, -(stats.first + len(stats.counts)))
    high = _upper(np.concatenate([np.zeros(skip_above, np.int64), above]), cut) * stats.width
    low = _upper(np.concatenate([np.zeros(skip_below, np.int64), below]), cut) * stats.width
    return max(lo, -low), min(hi, high)


def _upper(counts: npt.NDArray[np.int64], cut: float) -> float:
    """The place, in bins from zero, above which ``cut`` of the values lie; linear within a bin."""
    above = np.cumsum(counts[::-1])[::-1]  # values at or above each bin's lower edge
    inside = np.flatnonzero(above > cut)
    if len(inside) == 0:
        return 0.0
    last = int(inside[-1])
    return last + 1 - (cut - float(above[last] - counts[last])) / float(counts[last])


def mse(stats: TensorStats, scheme: IntegerType) -> Range:
    """The range of least mean squared quantization error under ``scheme`` (its bits count).

    Every pair of thresholds on a grid is tried with the usual estimate, step**2 / 12 for what lies inside
    plus the squared distance of what is clipped. Around the best pair, and for the full range, the
    error is then worked out exactly, as if the values of one bin were spread evenly: so a tensor whose
    values sit on the steps of the full range (pixels) keeps it.
    """
    full_lo, full_hi = minmax(stats, scheme)
    if not stats.counts.size:
        return full_lo, full_hi
    estimate = _Estimate(stats, scheme)
    if scheme.symmetric:
        bound = max(-full_lo, full_hi)
        for grid in (_SHRINK, _REFINE):
            bounds = bound * grid
            bound = float(bounds[np.argmin(estimate(-bounds, bounds))])
        lo, hi = -bound, bound
    else:
        lo, hi = full_lo, full_hi
        for grid in (_SHRINK, _REFINE):
            highs, lows = np.meshgrid(hi * grid if hi else np.zeros(1), lo * grid if lo else np.zeros(1))
            best = np.argmin(estimate(lows.ravel(), highs.ravel()))
            lo, hi = float(lows.ravel()[best]), float(highs.ravel()[best])
    # Wide first: with few bits a peak at zero is narrower than a step, which the estimate does not see.
    for grid in (_NEARBY, _REFINE):
        nearby = [(max(full_lo, lo * float(f)), min(full_hi, hi * float(f))) for f in grid]
        candidates = [(full_lo, full_hi), *nearby]
        lo, hi = min(candidates, key=lambda ends: _exact_error(stats, scheme, *ends))
    return lo, hi


class _Estimate:
    """Sums of squared errors of many ranges at once, from running sums over the histogram."""

    def __init__(self, stats: TensorStats, scheme: IntegerType) -> None:
        zero_point = 0 if scheme.signed else 2 ** (scheme.bits - 1)
        self._steps = 2 * (scheme.qmax - zero_point) if scheme.symmetric else scheme.qmax - scheme.qmin
        self._stats = stats
        edges = stats.edges()
        centres = (edges[1:] + edges[:-1]) / 2
        powers = np.stack([stats.counts, stats.counts * centres, stats.counts * centres**2])
        # below[k, i]: sum of x**k over the bins before edge i
        self._below = np.concatenate([np.zeros((3, 1)), np.cumsum(powers, axis=1)], axis=1)

    def __call__(self, lo: _Floats, hi: _Floats) -> _Floats:
        """Errors of ranges [m]; a threshold is taken at the nearest edge of a bin."""
        below = self._below[:, self._edge(lo)]
        above = self._below[:, -1:] - self._below[:, self._edge(hi)]
        step = (hi - lo) / self._steps
        inside = self._below[0, -1] - below[0] - above[0]
        clipped = [tail[2] - 2 * end * tail[1] + end**2 * tail[0] for tail, end in ((below, lo), (above, hi))]
        errors: _Floats = step**2 / 12 * inside + clipped[0] + clipped[1]
        return errors

    def _edge(self, x: _Floats) -> npt.NDArray[np.int64]:
        place = np.rint(np.ldexp(x, -self._stats.exponent)) - self._stats.first
        return np.clip(place, 0, len(self._stats.counts)).astype(np.int64)


def _exact_error(stats: TensorStats, scheme: IntegerType, lo: float, hi: float) -> float:
    """Sum of squared errors under the scale and zero point of a range, bins taken as evenly filled."""
    scale, zero_point = scale_zero_point(lo, hi, scheme)
    step = float(scale)
    low, high = (scheme.qmin - zero_point) * step, (scheme.qmax - zero_point) * step
    area = _error_area(stats.edges() / step, low / step, high / step)
    # Not by @, whose library starts threads for long vectors and waits for them.
    return float((stats.counts * np.diff(area)).sum()) * step**2 / (stats.width / step)


def _error_area(x: _Floats, low: float, high: float) -> _Floats:
    """Antiderivative at ``x`` of the squared error of rounding to whole numbers within [low, high].

    With n the nearest whole number and r = x - n: each whole step holds 1/12, and r**3 / 3 belongs to the
    part of a step; beyond the ends the error is the distance.
    """
    inside = np.clip(x, low, high)
    nearest = np.rint(inside)
    rest, beyond = inside - nearest, x - inside
    area: _Floats = nearest / 12 + (rest * rest * rest + beyond * beyond * beyond) / 3
    return area


def entropy(stats: TensorStats, scheme: IntegerType) -> Range:
    """The range that loses least information (Kullback-Leibler), after Migacz, GTC 2017.

    The distribution clipped to a range, P, is compared with what the integers leave of it, Q; the range
    of least KL(P || Q) wins. Exact zeros are left out, since they lose nothing. No more values are clipped
    than a quarter of one integer's equal share (0.1 % at 8 bits): where values stand apart from each
    other, as with channels that are constant, KL alone would clip most of them. The original knows
    magnitudes alone; for asymmetric schemes both ends are searched in turn, from the full range down to as
    many bins as there are integers.
    """
    lo, hi = minmax(stats, scheme)
    if scheme.symmetric:
        counts, shift = _coarsen(stats.magnitudes(), 0)
        _, stop = _least_divergence(counts, 0, 2 ** (scheme.bits - 1))
        bound = stop * float(np.ldexp(1.0, stats.exponent + shift))
        return max(lo, -bound), min(hi, bound)
    # Zero is an edge of the window, since every range contains it.
    start = min(stats.first, 0)
    padded = np.zeros(max(stats.first + len(stats.counts), 0) - start, np.int64)
    padded[stats.first - start : stats.first - start + len(stats.counts)] = stats.counts
    counts, shift = _coarsen(padded, -start)
    width = float(np.ldexp(1.0, stats.exponent + shift))
    zero = -(start >> shift)
    first, stop = _least_divergence(counts, zero, scheme.qmax - scheme.qmin + 1)
    return max(lo, (first - zero) * width), min(hi, (stop - zero) * width)


def _coarsen(counts: npt.NDArray[np.int64], zero: int) -> tuple[npt.NDArray[np.int64], int]:
    """Merges pairs of bins, zero staying an edge, until the bulk of the values has about 2048 bins or fewer.

    The bulk, all but 0.1 %, and not the whole range, so that one far outlier does not leave too few bins
    for the rest. Returns the counts and by how many powers of two the bins have grown.
    """
    total = np.cumsum(counts)
    if not len(counts) or total[-1] == 0:
        return counts, 0
    a, b = np.searchsorted(total, (0.0005 * total[-1], 0.9995 * total[-1]))
    shift = max(0, int(np.ceil(np.log2(max(1, b - a + 1) / _ENTROPY_BINS))))
    if shift == 0:
        return counts, 0
    bins = np.arange(-zero, len(counts) - zero) >> shift
    merged: npt.NDArray[np.int64] = np.bincount(bins - bins[0], weights=counts).astype(np.int64)
    return merged, shift


def _least_divergence(counts: npt.NDArray[np.int64], zero: int, levels: int) -> tuple[int, int]:
    """The window [first, stop) of bins, around the edge ``zero``, of least divergence."""
    n = len(counts)
    if n <= levels:
        return 0, n
    left = np.concatenate([[0], np.cumsum(counts)])
    most_clipped = _ENTROPY_CLIPS / levels * left[n]
    best, window = np.inf, (0, n)

    def attempt(firsts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> None:
        nonlocal best, window
        for first, stop in zip(firsts.tolist(), stops.tolist(), strict=True):
            below, above = int(left[first]), int(left[n] - left[stop])
            if stop - first >= levels and below + above <= most_clipped:
                found = _divergence(counts[first:stop], below, above, levels)
                if found < best:
                    best, window = found, (first, stop)

    # First both ends at the same magnitude, then each in turn.
    bounds = np.unique(np.linspace(levels / 2, max(zero, n - zero), 2 * _ENTROPY_STEPS).astype(np.int64))
    attempt(np.maximum(0, zero - bounds), np.minimum(n, zero + bounds))
    if 0 < zero < n:
        for _ in range(2):
            before = window
            stops = np.unique(np.linspace(zero, n, _ENTROPY_STEPS).astype(np.int64))
            attempt(np.full_like(stops, window[0]), stops)
            firsts = np.unique(np.linspace(0, zero, _ENTROPY_STEPS).astype(np.int64))
            attempt(firsts, np.full_like(firsts, window[1]))
            if window == before:
                break
    return window


def _divergence(inside: npt.NDArray[np.int64], below: int, above: int, levels: int) -> float:
    """KL(P || Q) of a window: P has the outliers in its end bins, Q is the window at ``levels`` levels."""
    reference = inside.astype(np.float64)
    reference[0] += below
    reference[-1] += above
    present = reference > 0
    starts = np.rint(np.linspace(0, len(inside), levels + 1)).astype(np.int64)
    sums = np.add.reduceat(inside, starts[:-1])
    spread = np.add.reduceat(present.astype(np.int64), starts[:-1])
    shares = np.divide(sums, spread, out=np.zeros(levels), where=spread > 0)
    quantized = np.repeat(shares, np.diff(starts))[present]
    # An end bin that holds outliers alone: Q has seen nothing there, which counts as one value.
    quantized = np.maximum(quantized, 1.0)
    p = reference[present] / reference.sum()
    return float((p * np.log(p * quantized.sum() / quantized)).sum())


RANGES: Mapping[str, RangeMethod] = {
    "minmax": minmax,
    "moving_average": moving_average,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}
