"""Accuracy of a runner, with its error and the paired change against float32.

Every sample is scored by the compiled artifact itself; the change is taken sample by sample, which needs far
fewer samples than two separate intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import MeasureError
from . import stats
from .running import batch_of, run_batch

if TYPE_CHECKING:
    from ..data import Samples
    from ..runners import Runner
    from .metrics import Metric

Scores = NDArray[np.float64]
# (scores [n_total], NaN where not yet measured; n_total) -> whether to stop
StopRule = Callable[[Scores, int], bool]

BLOCK = 32


@dataclass(frozen=True)
class Accuracy:
    """Value of a metric on samples, with its interval and the paired change against float scores.

    ``scores`` has one entry per sample, in the order of the samples, NaN where a stopped (``partial``)
    measurement did not get to; ``n`` counts the others. ``change`` and what follows are None without
    float scores; ``p_value`` is McNemar's and None unless all scores are 0 or 1.
    """

    metric: str
    value: float
    low: float
    high: float
    n: int
    partial: bool
    scores: Scores
    change: float | None = None
    change_low: float | None = None
    change_high: float | None = None
    p_value: float | None = None


def measure_accuracy(
    runner: Runner,
    samples: Samples,
    metric: Metric,
    *,
    float_scores: ArrayLike | None = None,
    float_outputs: Sequence[NDArray[Any]] | None = None,
    stop: StopRule | None = None,
    seen: Callable[[Sequence[NDArray[Any]], NDArray[np.intp]], None] | None = None,
    block: int = BLOCK,
    confidence: float = stats.CONFIDENCE,
    seed: int = 0,
) -> Accuracy:
    """Scores every sample with ``metric``, at the batch the runner was built for; the last batch is padded.

    ``float_scores`` (per sample, in order) gives the paired change; ``float_outputs`` (one array ``[n,
    ...]`` per output) is for metrics that compare with them. With ``stop``, samples are visited in an
    order drawn from ``seed``, so that those seen so far stand for all, and ``stop`` is asked after each
    block of samples. ``seen`` hears the outputs of each block and the indices of its samples.

    Raises MeasureError when the runner fails, gives NaN, or a batch of another size.
    """
    n_total = len(samples)
    reference = None if float_scores is None else np.asarray(float_scores, dtype=np.float64)
    if n_total == 0 or (reference is not None and reference.shape != (n_total,)):
        found = "none" if reference is None else str(reference.shape)
        raise MeasureError(f"accuracy needs samples and as many float scores, got {n_total} samples, {found}")
    order = np.arange(n_total)
    if stop is not None:
        order = np.random.default_rng(seed).permutation(n_total)
        samples = samples.subset(order)
    labels = None if samples.labels is None else np.asarray(samples.labels)
    scores: Scores = np.full(n_total, np.nan)
    batch = batch_of(runner)
    block = math.ceil(block / batch) * batch
    for start in range(0, n_total, block):
        end = min(start + block, n_total)
        where = order[start:end]
        outputs = _run_block(runner, samples.batch(start, end), end - start, batch)
        floats = None if float_outputs is None else [np.asarray(array[where]) for array in float_outputs]
        found_scores = metric.per_sample(outputs, None if labels is None else labels[start:end], floats)
        scores[where] = _checked_scores(found_scores, end - start, metric.name)
        if seen is not None:
            seen(outputs, where)
        if stop is not None and end < n_total and stop(scores, n_total):
            break
    scores.setflags(write=False)
    return summarize(metric, scores, reference, confidence, seed)


def summarize(
    metric: Metric,
    scores: Scores,
    float_scores: Scores | None = None,
    confidence: float = stats.CONFIDENCE,
    seed: int = 0,
) -> Accuracy:
    """Value, interval and paired change of per-sample ``scores`` (NaN: not measured).

    0/1 scores get Wilson's interval, McNemar's p-value and the paired interval of Bonett and Price;
    others get the (paired) percentile bootstrap, of the mean or of whatever ``metric.value`` makes of the
    scores.
    """
    seen = ~np.isnan(scores)
    values = scores[seen]
    value = float(metric.value(values))
    is_mean = bool(np.isclose(value, values.mean(), rtol=1e-9, atol=0, equal_nan=True))
    is_share = is_mean and bool(np.isin(values, (0.0, 1.0)).all())
    if is_share:
        whole = stats.wilson_interval(int(values.sum()), values.size, confidence)
    elif is_mean:
        whole = stats.bootstrap_mean(values, confidence, seed)
    else:
        whole = stats.bootstrap(values, metric.value, confidence, seed)
    change: stats.Estimate | None = None
    p_value = None
    if float_scores is not None:
        floats = float_scores[seen]
        if is_share and np.isin(floats, (0.0, 1.0)).all():
            gained, lost = int(np.sum(values > floats)), int(np.sum(values < floats))
            change = stats.paired_share_change(gained, lost, values.size, confidence)
            p_value = stats.mcnemar(gained, lost)
        else:
            statistic = np.mean if is_mean else metric.value
            change = stats.paired_bootstrap(values, floats, statistic, confidence, seed)
            if np.isnan(change.value):  # both infinite: nobody knows by how much they differ
                change = None
    return Accuracy(
        metric=metric.name,
        value=value,
        low=whole.low,
        high=whole.high,
        n=int(values.size),
        partial=values.size < scores.size,
        scores=scores,
        change=None if change is None else change.value,
        change_low=None if change is None else change.low,
        change_high=None if change is None else change.high,
        p_value=p_value,
    )


def hopeless(
    float_scores: ArrayLike,
    max_drop: float,
    confidence: float = stats.CONFIDENCE,
    *,
    higher_is_better: bool = True,
    min_samples: int = BLOCK,
    block: int = BLOCK,
) -> StopRule:
    """A stop rule for candidates that will not keep within ``max_drop`` of the float scores' mean.

    It stops once the upper confidence bound of the paired change over *all* samples lies below
    ``-max_drop`` (a Hoeffding race, Maron and Moore 1994, with Student's t in place of Hoeffding's
    bound). The error ``1 - confidence`` is shared out among all looks at the scores, one per ``block``
    samples, so that a candidate within the bound is stopped wrongly with at most about that probability
    however often it is looked at.
    """
    reference = np.asarray(float_scores, dtype=np.float64)
    sign = 1.0 if higher_is_better else -1.0

    def stop(scores: Scores, n_total: int) -> bool:
        seen = ~np.isnan(scores)
        if np.count_nonzero(seen) < max(min_samples, 2):
            return False
        changes = sign * (scores[seen] - reference[seen])
        if not np.isfinite(changes).all():
            return False
        alpha = (1 - confidence) / max(1, n_total // block)
        return stats.upper_bound_of_mean(changes, n_total, alpha) < -max_drop

    return stop


def _run_block(runner: Runner, feeds: Mapping[str, NDArray[Any]], n: int, batch: int) -> list[NDArray[Any]]:
    """Outputs for ``n`` samples, ``batch`` at a time: reading and scoring a whole block costs less."""
    parts = []
    for start in range(0, n, batch):
        end = min(start + batch, n)
        parts.append(run_batch(runner, {name: x[start:end] for name, x in feeds.items()}, end - start))
    return parts[0] if len(parts) == 1 else [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _checked_scores(scores: ArrayLike, n: int, metric: str) -> Scores:
    array = np.asarray(scores, dtype=np.float64)
    if array.shape != (n,) or np.isnan(array).any():
        raise MeasureError(
            f"the metric must give one number for each of {n} samples, it gave shape {array.shape}"
            + (" with NaN" if np.isnan(array).any() else ""),
            where=metric,
        )
    return array
