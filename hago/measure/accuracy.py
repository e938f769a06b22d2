"""Accuracy of a runner, with its error and the paired change against float32.

The compiled artifact runs every sample. The change is computed sample by sample, or over the same resamples for a
metric of the whole set (whole_set.py), which needs far fewer samples than two separate intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import MeasureError
from . import stats
from .against_float import AgainstFloat
from .metrics import Metric, SampleMetric, SetMetric, reads_labels
from .running import batch_of, run_batch
from .whole_set import SetValue, measure_set

if TYPE_CHECKING:
    from ..data import Samples
    from .runner import Runner

Scores = NDArray[np.float64]
# (scores [n_total], NaN where not yet measured; n_total) -> whether to stop
StopRule = Callable[[Scores, int], bool]

BLOCK = 32


@dataclass(frozen=True)
class Accuracy:
    """Value of a metric on samples, with its interval and the paired change against float32.

    ``scores`` has one entry per sample, in the order of the samples, NaN where a stopped (``partial``) measurement did
    not get to; ``n`` counts the others. A metric of the whole set has ``draws`` instead, its values on resamples of the
    samples; the interval is None if they are too few. ``change`` and the fields after it are None without float32's
    scores; ``p_value`` is McNemar's, and None unless ``is_share``: all scores are 0 or 1. ``parts`` are the values of
    each quantity among the outputs, if a metric judges several.
    """

    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    partial: bool
    scores: Scores | None
    change: float | None = None
    change_low: float | None = None
    change_high: float | None = None
    p_value: float | None = None
    is_share: bool = False
    draws: Scores | None = None
    parts: Mapping[str, float] = field(default_factory=dict)


def measure_accuracy(
    runner: Runner,
    samples: Samples,
    metric: Metric,
    *,
    reference: Accuracy | ArrayLike | None = None,
    float_outputs: Sequence[NDArray[Any]] | None = None,
    stop: StopRule | None = None,
    seen: Callable[[Sequence[NDArray[Any]], NDArray[np.intp]], None] | None = None,
    seed: int = 0,
) -> Accuracy:
    """The metric on all samples, at the batch the runner was built for; the last batch is padded.

    ``reference`` is float32 on the same samples (its accuracy, or its scores [n]), which gives the paired change;
    ``float_outputs`` (one array ``[n, ...]`` per output) is for metrics that compare with them. With ``stop``, samples
    are visited in an order drawn from ``seed``, so that those seen so far represent all, and ``stop`` is called after
    each block of samples. ``seen`` receives the outputs of each block and the indices of its samples. A metric of the
    whole set is called once with everything, and once per resample; it is never stopped.

    Raises MeasureError when the runner fails, or returns NaN or a batch of another size.
    """
    n_total = len(samples)
    known = reference if isinstance(reference, Accuracy) else None
    float_scores = known.scores if known is not None else cast("ArrayLike | None", reference)
    floats = None if float_scores is None else np.asarray(float_scores, dtype=np.float64)
    if n_total == 0 or (floats is not None and floats.shape != (n_total,)):
        found = "none" if floats is None else str(floats.shape)
        raise MeasureError(f"accuracy needs samples and as many float scores, got {n_total} samples, {found}")
    if isinstance(metric, SetMetric) and not _gives_scores(metric, known):
        unknown = known is None and getattr(metric, "whole_set", None) is None
        whole = measure_set(runner, samples, metric, float_outputs, seed, may_give_scores=unknown)
        if isinstance(whole, SetValue):
            return _summarize_set(metric, whole, n_total, known)
        assert isinstance(metric, SampleMetric)  # a function with scores is a metric of both kinds
        return summarize(metric, checked_scores(whole, samples.indices, metric.name), floats, seed)
    scored = cast(SampleMetric, metric)
    order = np.arange(n_total)
    if stop is not None:
        order = np.random.default_rng(seed).permutation(n_total)
        samples = samples.subset(order)
    labels = samples.labels if reads_labels(metric) else None
    scores: Scores = np.full(n_total, np.nan)
    sums: dict[str, float] = {}
    batch = batch_of(runner)
    block = math.ceil(BLOCK / batch) * batch
    for start in range(0, n_total, block):
        end = min(start + block, n_total)
        where = order[start:end]
        outputs = _run_block(runner, samples.batch(start, end), end - start, batch)
        aims = None if float_outputs is None else [np.asarray(array[where]) for array in float_outputs]
        given, parts = _block_scores(scored, outputs, None if labels is None else labels[start:end], aims)
        scores[where] = checked_scores(given, samples.indices[start:end], metric.name)
        sums = {name: sums.get(name, 0.0) + float(part.sum()) for name, part in parts.items()}
        if seen is not None:
            seen(outputs, where)
        if stop is not None and end < n_total and stop(scores, n_total):
            break
    scores.setflags(write=False)
    summary = summarize(scored, scores, floats, seed)
    return replace(summary, parts={name: total / summary.n for name, total in sums.items()} if len(sums) > 1 else {})


def _block_scores(
    metric: SampleMetric, outputs: Sequence[NDArray[Any]], labels: Any, float_outputs: Sequence[NDArray[Any]] | None
) -> tuple[ArrayLike, Mapping[str, Scores]]:
    """Scores of a block of samples, and those of each part if the metric judges several."""
    parts = metric.per_part(outputs, float_outputs) if isinstance(metric, AgainstFloat) else {}
    if isinstance(metric, AgainstFloat) and parts:
        return metric.worst(parts), parts
    return metric.per_sample(outputs, labels, float_outputs), {}


def _gives_scores(metric: SetMetric, reference: Accuracy | None) -> bool:
    """Whether a metric of unknown kind is known to score samples one by one."""
    if not isinstance(metric, SampleMetric):
        return False
    return reference.scores is not None if reference is not None else getattr(metric, "whole_set", None) is False


def summarize(metric: SampleMetric, scores: Scores, float_scores: Scores | None = None, seed: int = 0) -> Accuracy:
    """Value, interval and paired change of per-sample ``scores`` (NaN: not measured).

    0/1 scores get Wilson's interval, McNemar's p-value and the paired interval of Bonett and Price;
    others get the (paired) percentile bootstrap, of the mean or of ``metric.value``.
    """
    seen = ~np.isnan(scores)
    values = scores[seen]
    value = float(metric.value(values))
    is_mean = _is_mean(metric, values) and (float_scores is None or _is_mean(metric, float_scores[seen]))
    # For a distance to float32, 0 and 1 are ordinary values.
    is_share = is_mean and not metric.needs_float and bool(np.isin(values, (0.0, 1.0)).all())
    if is_share:
        whole = stats.wilson_interval(int(values.sum()), values.size)
    elif is_mean:
        whole = stats.bootstrap_mean(values, seed=seed)
    else:
        whole = stats.bootstrap(values, metric.value, seed=seed)
    change: stats.Estimate | None = None
    p_value = None
    if float_scores is not None:
        floats = float_scores[seen]
        if is_share and np.isin(floats, (0.0, 1.0)).all():
            gained, lost = int(np.sum(values > floats)), int(np.sum(values < floats))
            change = stats.paired_share_change(gained, lost, values.size)
            p_value = stats.mcnemar(gained, lost)
        else:
            statistic = np.mean if is_mean else metric.value
            change = stats.paired_bootstrap(values, floats, statistic, seed=seed)
            if np.isnan(change.value):  # both infinite: their difference is unknown
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
        is_share=is_share,
    )


def _is_mean(metric: SampleMetric, scores: Scores) -> bool:
    """Whether the metric's value is the mean of these scores."""
    return bool(np.isclose(metric.value(scores), scores.mean(), rtol=1e-9, atol=0, equal_nan=True))


def _summarize_set(metric: SetMetric, found: SetValue, n: int, reference: Accuracy | None) -> Accuracy:
    """Value, interval and paired change, over the same resamples as float32's."""
    whole = stats.interval_of_draws(found.value, found.draws)
    change = paired = None
    if reference is not None and reference.draws is not None and np.isfinite(found.value - reference.value):
        change = found.value - reference.value
        count = min(len(found.draws), len(reference.draws))
        paired = stats.interval_of_draws(change, found.draws[:count] - reference.draws[:count])
    return Accuracy(
        metric=metric.name,
        value=found.value,
        low=None if whole is None else whole.low,
        high=None if whole is None else whole.high,
        n=n,
        partial=False,
        scores=None,
        change=change,
        change_low=None if paired is None else paired.low,
        change_high=None if paired is None else paired.high,
        draws=found.draws,
    )


def hopeless(
    float_scores: ArrayLike,
    max_drop: float,
    confidence: float = stats.CONFIDENCE,
    *,
    higher_is_better: bool = True,
    value: Callable[[Scores], float] = np.mean,  # type: ignore[assignment]
    min_samples: int = BLOCK,
    block: int = BLOCK,
) -> StopRule:
    """A stop rule for candidates that will not keep within ``max_drop`` of the float scores' mean.

    It stops once the upper confidence bound of the paired change over *all* samples lies below ``-max_drop`` (a
    Hoeffding race, Maron and Moore 1994, with Student's t in place of Hoeffding's bound). The error ``1 - confidence``
    is divided among all looks at the scores, one per ``block`` samples, so that a candidate within the bound is wrongly
    stopped with at most about that probability, regardless of the number of looks. It never stops if ``value``, the
    metric's, is not the mean of the scores: its value over all samples cannot be bounded this way.
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
        for part in (scores[seen], reference[seen]):
            if not np.isclose(value(part), part.mean(), rtol=1e-9, atol=0):
                return False
        alpha = (1 - confidence) / max(1, n_total // block)
        return stats.upper_bound_of_mean(changes, n_total, alpha) < -max_drop

    return stop


def _run_block(runner: Runner, feeds: Mapping[str, NDArray[Any]], n: int, batch: int) -> list[NDArray[Any]]:
    """Outputs for ``n`` samples, ``batch`` at a time; reading and scoring a whole block is cheaper."""
    parts = []
    for start in range(0, n, batch):
        end = min(start + batch, n)
        parts.append(run_batch(runner, {name: x[start:end] for name, x in feeds.items()}, end - start))
    return parts[0] if len(parts) == 1 else [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def checked_scores(scores: ArrayLike, samples: NDArray[np.integer], metric: str) -> Scores:
    """The scores of these samples [n]. Raises MeasureError naming a sample whose score is not a number."""
    array = np.asarray(scores, dtype=np.float64)
    if array.shape != samples.shape:
        raise MeasureError(
            f"the metric must give one number for each of {samples.size} samples, it gave shape {array.shape}",
            where=metric,
        )
    unknown = samples[np.isnan(array)]
    if unknown.size:
        more = f" and {unknown.size - 1} more of {samples.size}" if unknown.size > 1 else ""
        raise MeasureError(
            f"the metric must give one number for each sample, it gave NaN for sample {unknown[0]}{more}",
            where=metric,
            hint="is its label NaN, or is something divided by a count of zero?",
        )
    return array
