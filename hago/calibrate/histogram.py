"""One histogram per tensor, filled in a single pass while its range still grows.

Bins are [i * w, (i + 1) * w) with w = 2**exponent, so zero is always an edge and doubling w merges whole
bins: the final counts do not depend on how the values were cut into batches. Exact zeros, of which a ReLU
makes a spike, are counted separately: every scale quantizes them without error, and they would otherwise bias the
bin next to zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError

Counts = npt.NDArray[np.int64]

# Bins in use are more than half of this once both ends of the range are known: 32 to 64 per step of 8 bits.
BINS = 1 << 14
# Values at a time: their three buffers fit in a second-level cache.
_CHUNK = 1 << 16
# Powers of two whose reciprocal is a normal float32 too.
_MIN_EXPONENT = -126
# Kingma and Ba 2015, section 3: an average that starts at zero is divided by 1 - decay**t.
EMA_DECAY = 0.99


@dataclass(frozen=True, eq=False)
class TensorStats:
    """The statistics of a tensor from one pass.

    ``lo`` and ``hi`` are the exact smallest and largest finite values (0 if there are none). ``counts[i]``
    are the values in [first + i, first + i + 1) * 2**exponent other than zero, ``zeros`` the exact zeros;
    of a large tensor these count every k-th value. ``mean_lo`` and ``mean_hi`` are the moving averages of the
    samples' smallest and largest values. ``infinite`` counts infinities, which are left out.
    """

    lo: float
    hi: float
    mean_lo: float
    mean_hi: float
    exponent: int
    first: int
    counts: Counts
    zeros: int
    infinite: int

    @property
    def width(self) -> float:
        """The width of one bin."""
        return math.ldexp(1.0, self.exponent)

    def edges(self) -> npt.NDArray[np.float64]:
        """The bins' edges [len(counts) + 1]."""
        return np.ldexp(np.arange(self.first, self.first + len(self.counts) + 1, dtype=np.float64), self.exponent)

    def magnitudes(self) -> Counts:
        """Counts of |x|: bin i holds [i, i + 1) * 2**exponent. Zeros are left out."""
        above, below = self.counts[max(0, -self.first) :], self.counts[: max(0, -self.first)][::-1]
        # If all values are on one side, the bins next to zero are not stored.
        skip_above, skip_below = max(0, self.first), max(0, -(self.first + len(self.counts)))
        folded = np.zeros(max(skip_above + len(above), skip_below + len(below)), np.int64)
        folded[skip_above : skip_above + len(above)] += above
        folded[skip_below : skip_below + len(below)] += below
        return folded


class Workspace:
    """Buffers for one chunk of values, shared by all histograms of a pass."""

    def __init__(self) -> None:
        self.scaled = np.empty(_CHUNK, np.float32)
        self.index = np.empty(_CHUNK, np.intp)


class Histogram:
    """Gathers TensorStats batch by batch.

    Every ``stride``-th value goes into the histogram, counted over all batches (``stride`` should be
    coprime with the tensor's dimensions, so that it covers all of them); minimum, maximum and moving
    averages always come from all values.
    """

    def __init__(self, stride: int = 1, workspace: Workspace | None = None) -> None:
        self._stride = stride
        self._seen = 0
        self._lo, self._hi = math.inf, -math.inf
        self._mean_lo, self._mean_hi, self._weight = 0.0, 0.0, 0.0
        self._exponent, self._first = _MIN_EXPONENT, 0
        self._counts: Counts = np.zeros(BINS, np.int64)
        self._zeros = self._infinite = 0
        self._workspace = workspace or Workspace()

    def update(self, values: npt.NDArray[Any], samples: int = 1) -> None:
        """Adds one batch of a tensor, whose first axis has ``samples`` samples.

        Raises DataError if a value is NaN.
        """
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        if flat.size == 0:
            return
        rows = flat.reshape(samples, -1)
        lows, highs = rows.min(axis=1), rows.max(axis=1)
        lo, hi = float(lows.min()), float(highs.max())
        if math.isnan(lo):
            raise DataError("a value is NaN")
        if math.isinf(lo) or math.isinf(hi):
            finite = np.isfinite(rows)
            self._infinite += int(rows.size - np.count_nonzero(finite))
            lows = np.where(finite, rows, np.float32(np.inf)).min(axis=1)
            highs = np.where(finite, rows, np.float32(-np.inf)).max(axis=1)
            some = finite.any(axis=1)
            lows, highs, flat = lows[some], highs[some], flat[finite.reshape(-1)]
            if flat.size == 0:
                return
            lo, hi = float(lows.min()), float(highs.max())
        self._average(lows, highs)
        self._lo, self._hi = min(self._lo, lo), max(self._hi, hi)
        self._cover()
        self._count(flat[-self._seen % self._stride :: self._stride])
        self._seen += flat.size

    def stats(self) -> TensorStats:
        """The statistics so far."""
        used = np.flatnonzero(self._counts)
        start, stop = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        empty = self._seen == 0
        weight = self._weight or 1.0
        return TensorStats(
            lo=0.0 if empty else self._lo,
            hi=0.0 if empty else self._hi,
            mean_lo=self._mean_lo / weight,
            mean_hi=self._mean_hi / weight,
            exponent=self._exponent,
            first=self._first + start if len(used) else 0,
            counts=self._counts[start:stop].copy(),
            zeros=self._zeros,
            infinite=self._infinite,
        )

    def _average(self, lows: npt.NDArray[np.float32], highs: npt.NDArray[np.float32]) -> None:
        weights = (1.0 - EMA_DECAY) * EMA_DECAY ** np.arange(len(lows) - 1, -1, -1, dtype=np.float64)
        keep = EMA_DECAY ** len(lows)
        self._mean_lo = keep * self._mean_lo + float(weights @ lows.astype(np.float64))
        self._mean_hi = keep * self._mean_hi + float(weights @ highs.astype(np.float64))
        self._weight = keep * self._weight + float(weights.sum())

    def _cover(self) -> None:
        """Widens the bins by powers of two, and moves their window, until it contains zero and the range."""
        lo, hi = min(0.0, self._lo), max(0.0, self._hi)
        exponent = self._exponent
        if max(-lo, hi) > 0:
            # A first guess: the span is at most BINS bins of this width. The loop makes it exact.
            exponent = max(exponent, math.frexp(hi - lo)[1] - BINS.bit_length())
        while _bin(hi, exponent) - _bin(lo, exponent) >= BINS:
            exponent += 1
        first, last = _bin(lo, exponent), _bin(hi, exponent)
        if exponent == self._exponent and self._first <= first and last < self._first + BINS:
            return
        used = np.flatnonzero(self._counts)
        # Floors of floors are floors: all of [i, i + 1) goes into [i >> d, (i >> d) + 1).
        bins = (used + self._first) >> (exponent - self._exponent)
        start = first - (BINS - 1 - (last - first)) // 2
        counts = np.zeros(BINS, np.int64)
        np.add.at(counts, bins - start, self._counts[used])
        self._exponent, self._first, self._counts = exponent, start, counts

    def _count(self, values: npt.NDArray[np.float32]) -> None:
        inverse, shift = np.float32(math.ldexp(1.0, -self._exponent)), np.float32(-self._first)
        zero_bin = -self._first
        for start in range(0, len(values), _CHUNK):
            chunk = values[start : start + _CHUNK]
            scaled, index = self._workspace.scaled[: len(chunk)], self._workspace.index[: len(chunk)]
            # A product with a power of two and a floor are exact in float32, and so is the shift.
            np.multiply(chunk, inverse, out=scaled)
            zeros = int(np.count_nonzero(chunk == 0))
            np.floor(scaled, out=scaled)
            np.add(scaled, shift, out=index, casting="unsafe")
            counts = np.bincount(index)
            self._counts[: len(counts)] += counts
            self._counts[zero_bin] -= zeros
            self._zeros += zeros


def _bin(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))
