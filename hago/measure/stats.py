"""Intervals and tests for measurements: medians of times, shares of right answers, paired changes.

Notation: ``n`` observations; an interval is ``(low, high)`` and covers the true value with probability
``confidence``. Everything random takes a seed, so the same measurements give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Interval = tuple[float, float]
Statistic = Callable[[NDArray[np.float64]], float]

CONFIDENCE = 0.95
_RESAMPLES = 4000
# Slow resamples call Python once per draw.
_SLOW_RESAMPLES = 1000
# Rows x columns of one chunk of bootstrap indices: 16 MB of int64.
_CHUNK_ELEMENTS = 1 << 21


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> Interval:
        """Its lower and upper end."""
        return (self.low, self.high)


def _vector(values: ArrayLike, name: str = "values") -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a non-empty vector, not an array of shape {array.shape}")
    return array


def median_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """Median with its distribution-free interval, between two order statistics.

    The number of observations below the median is Binomial(n, 1/2) (Conover 1999, section 3.2), so the
    interval needs no assumption on how times are distributed; it is conservative. Below 6 observations no
    pair of order statistics reaches 95 %: the interval is then the smallest and the largest one seen.
    """
    from scipy import stats  # takes a second to import, and most commands do without

    array = _vector(values)
    found = stats.quantile_test(array, q=0, p=0.5).confidence_interval(confidence)
    low = float(array.min()) if np.isnan(found.low) else float(found.low)
    high = float(array.max()) if np.isnan(found.high) else float(found.high)
    return Estimate(float(np.median(array)), low, high)


def wilson_interval(successes: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """Share of successes with Wilson's score interval (Wilson 1927): sound for small n and near 0 or 1."""
    from scipy import stats

    found = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Estimate(successes / n, float(found.low), float(found.high))


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value of McNemar's exact test that as many samples were gained as were lost.

    Only pairs in which the two models differ count (McNemar 1947); with none, the answer is 1.
    """
    from scipy import stats

    discordant = gained + lost
    return float(stats.binomtest(gained, discordant, 0.5).pvalue) if discordant else 1.0


def paired_share_change(gained: int, lost: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """Change of a share between paired 0/1 scores, with its interval.

    The adjusted Wald interval of Bonett and Price (2012) adds one imagined pair to each kind of
    disagreement. Unlike the bootstrap's, it does not shrink to zero if few or no samples changed.
    """
    p_gained, p_lost = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    centre = p_gained - p_lost
    z = float(special.ndtri(0.5 + confidence / 2))
    half = z * float(np.sqrt((p_gained + p_lost - centre**2) / (n + 2)))
    return Estimate((gained - lost) / n, max(centre - half, -1.0), min(centre + half, 1.0))


def bootstrap_mean(values: ArrayLike, confidence: float = CONFIDENCE, seed: int = 0) -> Estimate:
    """Mean with its percentile bootstrap interval (Efron 1979).

    For paired differences, this is the paired bootstrap. With few distinct values (0/1 scores), a resample is one
    multinomial draw of their counts: the same distribution, at a cost independent of n.
    """
    array = _vector(values)
    mean = float(array.mean())
    if not np.isfinite(mean):
        return Estimate(mean, mean, mean)
    rng = np.random.default_rng(seed)
    distinct, counts = np.unique(array, return_counts=True)
    if distinct.size <= 64:
        draws = rng.multinomial(array.size, counts / array.size, size=_RESAMPLES) @ distinct / array.size
    else:
        draws = np.concatenate([array[drawn].mean(axis=1) for drawn in _draws(rng, array.size)])
    return _percentiles(mean, draws, confidence)


def bootstrap(values: ArrayLike, statistic: Statistic, confidence: float = CONFIDENCE, seed: int = 0) -> Estimate:
    """Any statistic of one vector with its percentile bootstrap interval (Efron 1979)."""
    array = _vector(values)
    rng = np.random.default_rng(seed)
    draws = np.array([statistic(array[rng.integers(0, array.size, size=array.size)]) for _ in range(_SLOW_RESAMPLES)])
    return _percentiles(float(statistic(array)), draws, confidence)


def resamples(n: int, count: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Indices [n] of each of ``count`` resamples; they depend only on ``n`` and ``seed``, not on ``count``."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.integers(0, n, size=n)


def interval_of_draws(value: float, draws: ArrayLike, confidence: float = CONFIDENCE) -> Estimate | None:
    """``value`` of a set with its interval, from its values on resamples (NaN: none).

    Quantiles of the draws; for fewer than 100 draws their standard deviation (the normal bootstrap, Efron and
    Tibshirani 1993, section 12.3), which needs fewer. None below 20.
    """
    known = np.asarray(draws, np.float64)
    known = known[np.isfinite(known)]
    if known.size < 20 or not np.isfinite(value):
        return None
    if known.size >= 100:
        return _percentiles(value, known, confidence)
    half = float(special.ndtri(0.5 + confidence / 2) * known.std(ddof=1))
    return Estimate(value, value - half, value + half)


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    statistic: Statistic = np.mean,  # type: ignore[assignment]
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """``statistic(first) - statistic(second)`` with its interval, each pair drawn together."""
    a, b = _pair(first, second)
    if statistic is np.mean:
        with np.errstate(invalid="ignore"):  # of two infinities
            changes = a - b
        return bootstrap_mean(changes, confidence, seed)
    rng = np.random.default_rng(seed)
    draws = np.empty(_SLOW_RESAMPLES)
    for i in range(_SLOW_RESAMPLES):
        drawn = rng.integers(0, a.size, size=a.size)
        draws[i] = statistic(a[drawn]) - statistic(b[drawn])
    return _percentiles(float(statistic(a) - statistic(b)), draws, confidence)


def paired_median_ratio(
    times: ArrayLike, baseline: ArrayLike, confidence: float = CONFIDENCE, seed: int = 0
) -> Estimate:
    """``median(times) / median(baseline)`` with its paired bootstrap interval.

    Element ``i`` of both was measured in the same round, and rounds are drawn as a whole: anything that slowed both
    down in a round (another program, the clock) cancels instead of widening the interval.
    """
    a, b = _pair(times, baseline)
    ratio = float(np.median(a) / np.median(b))
    rng = np.random.default_rng(seed)
    draws = [np.median(a[drawn], axis=1) / np.median(b[drawn], axis=1) for drawn in _draws(rng, a.size)]
    return _percentiles(ratio, np.concatenate(draws), confidence)


def widened(ratio: Estimate, relative: float) -> Estimate:
    """The ratio with its interval widened by a further relative error on either side."""
    return Estimate(ratio.value, ratio.low / (1 + relative), ratio.high * (1 + relative))


def upper_bound_of_mean(values: ArrayLike, n_total: int, alpha: float) -> float:
    """Upper bound, at error ``alpha``, of the mean over all ``n_total`` values, some of which are seen.

    One-sided Student's t with the finite population correction (Cochran 1977, section 2.8): values are drawn without
    replacement, and once all are seen there is no uncertainty. Infinite below 2 values.
    """
    array = _vector(values)
    n = array.size
    if n < 2:
        return float("inf")
    correction = max(n_total - n, 0) / max(n_total - 1, 1)
    error = float(array.std(ddof=1)) * np.sqrt(correction / n)
    return float(array.mean() + special.stdtrit(n - 1, 1 - alpha) * error)


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = _vector(first, "first"), _vector(second, "second")
    if a.shape != b.shape:
        raise ValueError(f"pairs need two vectors of one length, not {a.size} and {b.size}")
    return a, b


def _draws(rng: np.random.Generator, n: int) -> Iterator[NDArray[np.int64]]:
    """Indices of all resamples, ``[rows, n]`` at a time, so that memory stays bounded for any n."""
    rows = max(1, _CHUNK_ELEMENTS // n)
    for start in range(0, _RESAMPLES, rows):
        yield rng.integers(0, n, size=(min(rows, _RESAMPLES - start), n))


def _percentiles(value: float, draws: NDArray[np.float64], confidence: float) -> Estimate:
    low, high = np.quantile(draws, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(value, float(low), float(high))
