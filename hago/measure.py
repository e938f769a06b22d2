"""Latency and accuracy of runners, each with its error.

Latency: runners take turns, round by round in a new random order, so that whatever disturbs the machine
disturbs all of them; a ratio is taken between times of the same rounds. Accuracy: every sample is scored by
the compiled artifact itself, and the change against float32 is paired, sample by sample.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import stats
from .errors import HagoError, MeasureError

if TYPE_CHECKING:
    from .data import Samples
    from .metrics import Metric
    from .runners import Runner

Scores = NDArray[np.float64]
# (scores [n_total], NaN where not yet measured; n_total) -> whether to stop
StopRule = Callable[[Scores, int], bool]
# The clock gives integer nanoseconds, as time.perf_counter_ns does.
Clock = Callable[[], int]

BLOCK = 32
_WARMUP_WINDOW = 5
_WARMUP_TOLERANCE = 0.03
_MAX_CALLS = 10_000
# Caches hold nothing of use to a call this long, so a turn need not begin with an untimed call.
_SETTLE_BELOW_S = 0.02


@dataclass(frozen=True)
class Latency:
    """Seconds that one call takes, from numpy arrays in to numpy arrays out.

    ``low_s`` and ``high_s`` bound the median, ``ratio`` is to the first runner of the same measurement
    (below 1: faster). ``times_s[i]`` is the mean call of round ``i``, of ``calls`` calls; rounds are the
    same ones for all runners measured together.
    """

    name: str
    threads: int
    median_s: float
    low_s: float
    high_s: float
    ratio: float
    ratio_low: float
    ratio_high: float
    times_s: tuple[float, ...]
    calls: int

    @property
    def samples(self) -> int:
        return len(self.times_s)


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


def measure_latency(
    runners: Sequence[Runner],
    feeds: Mapping[str, NDArray[Any]],
    *,
    rounds: int = 30,
    budget_s: float | None = None,
    warmup_s: float = 0.5,
    round_s: float = 0.003,
    confidence: float = stats.CONFIDENCE,
    seed: int = 0,
    clock: Clock = time.perf_counter_ns,
) -> dict[str, Latency]:
    """Times ``runners`` against each other on one batch; the first is what ratios are taken to.

    Each runner is warmed up until its calls are steady (for ``warmup_s`` at most). A turn repeats the
    call until about ``round_s`` has passed, so that a call of 50 us is timed as well as one of 50 ms; it
    begins with one untimed call, since the runner before it has taken the caches. ``budget_s`` bounds the
    whole: the measurement then ends after the round in which it is spent, with at least one round.

    Raises MeasureError when a runner fails (``where`` holds its name), names repeat, or inputs are missing.
    """
    if not runners or rounds < 1:
        raise MeasureError(f"timing needs a runner and a round, got {len(runners)} runners, {rounds} rounds")
    names = [runner.name for runner in runners]
    if len(set(names)) != len(names):
        raise MeasureError(f"runners measured together need different names, got {names}")
    begin = clock()
    if budget_s is not None:
        warmup_s = min(warmup_s, 0.25 * budget_s / len(runners))
    typical = [_warm_up(runner, feeds, warmup_s, clock) for runner in runners]
    calls = [max(1, min(_MAX_CALLS, math.ceil(round_s / max(call_s, 1e-9)))) for call_s in typical]
    times: list[list[float]] = [[] for _ in runners]
    rng = np.random.default_rng(seed)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for i in rng.permutation(len(runners)):
                if typical[i] < _SETTLE_BELOW_S:
                    _call(runners[i], feeds)
                times[i].append(_time_calls(runners[i], feeds, calls[i], clock))
            if budget_s is not None and (clock() - begin) * 1e-9 >= budget_s:
                break
    finally:
        if collecting:
            gc.enable()
    return {
        runner.name: _latency(runner, times[i], times[0], calls[i], confidence, seed)
        for i, runner in enumerate(runners)
    }


def measure_accuracy(
    runner: Runner,
    samples: Samples,
    metric: Metric,
    *,
    float_scores: ArrayLike | None = None,
    float_outputs: Sequence[NDArray[Any]] | None = None,
    stop: StopRule | None = None,
    block: int = BLOCK,
    confidence: float = stats.CONFIDENCE,
    seed: int = 0,
) -> Accuracy:
    """Scores every sample with ``metric``, at the batch the runner was built for; the last batch is padded.

    ``float_scores`` (per sample, in order) gives the paired change; ``float_outputs`` (one array
    ``[n, ...]`` per output) is for metrics that compare with them. With ``stop``, samples are visited in an order drawn
    from ``seed``, so that those seen so far stand for all, and ``stop`` is asked after each block of
    samples.

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
    batch, asked = batch_of(runner), 0
    for start in range(0, n_total, batch):
        end = min(start + batch, n_total)
        where = order[start:end]
        outputs = run_batch(runner, samples.batch(start, end), end - start)
        floats = None if float_outputs is None else [np.asarray(array[where]) for array in float_outputs]
        found_scores = metric.per_sample(outputs, None if labels is None else labels[start:end], floats)
        scores[where] = _checked_scores(found_scores, end - start, metric.name)
        if stop is not None and end < n_total and end - asked >= block:
            asked = end
            if stop(scores, n_total):
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


def collect_outputs(runner: Runner, samples: Samples) -> list[NDArray[Any]]:
    """Every output of ``runner`` on all samples, each ``[n, ...]``, in the order of the samples."""
    batch = batch_of(runner)
    parts: list[list[NDArray[Any]]] = []
    for start in range(0, len(samples), batch):
        end = min(start + batch, len(samples))
        parts.append(run_batch(runner, samples.batch(start, end), end - start))
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def batch_of(runner: Runner) -> int:
    """How many samples one call of the runner takes."""
    shape = runner.inputs[0].shape if runner.inputs else ()
    return int(shape[0]) if shape else 1


def run_batch(runner: Runner, feeds: Mapping[str, NDArray[Any]], n: int) -> list[NDArray[Any]]:
    """Outputs for ``n`` samples, at most the runner's batch; what is missing is padded with the last sample.

    Raises MeasureError when the run fails or the outputs are not ``n`` samples of numbers.
    """
    batch = batch_of(runner)
    if n < batch:
        feeds = {name: np.concatenate([x, np.repeat(x[-1:], batch - n, axis=0)]) for name, x in feeds.items()}
    outputs = []
    for i, output in enumerate(_call(runner, feeds)):
        if output.ndim == 0 or output.shape[0] != batch:
            raise MeasureError(
                f"output {i} must hold {batch} samples along its first axis, its shape is {output.shape}",
                where=runner.name,
            )
        kept = output[:n]
        if np.issubdtype(kept.dtype, np.floating) and np.isnan(kept).any():
            raise MeasureError(f"output {i} holds NaN", where=runner.name)
        outputs.append(kept)
    return outputs


def _call(runner: Runner, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    try:
        return runner.run(feeds)
    except HagoError as error:
        if isinstance(error, MeasureError) and error.where == runner.name:
            raise
        raise MeasureError(error.what, where=runner.name, hint=error.hint) from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        raise MeasureError(f"the run failed: {type(error).__name__}: {reason}", where=runner.name) from error


def _time_calls(runner: Runner, feeds: Mapping[str, NDArray[Any]], calls: int, clock: Clock) -> float:
    """Mean seconds of ``calls`` calls."""
    begin = clock()
    for _ in range(calls):
        _call(runner, feeds)
    return (clock() - begin) * 1e-9 / calls


def _warm_up(runner: Runner, feeds: Mapping[str, NDArray[Any]], warmup_s: float, clock: Clock) -> float:
    """Calls until the last few calls take as long as the few before; returns seconds of a typical call."""
    missing = sorted({info.name for info in runner.inputs} - set(feeds))
    if missing:
        raise MeasureError(f"no value for the inputs {missing}, got {sorted(feeds)}", where=runner.name)
    begin, times = clock(), []
    while True:
        times.append(_time_calls(runner, feeds, 1, clock))
        last = float(np.median(times[-_WARMUP_WINDOW:]))
        if (clock() - begin) * 1e-9 >= warmup_s:
            return last
        if len(times) >= 2 * _WARMUP_WINDOW:
            before = float(np.median(times[-2 * _WARMUP_WINDOW : -_WARMUP_WINDOW]))
            if abs(last - before) <= _WARMUP_TOLERANCE * before:
                return last


def _latency(
    runner: Runner, times: list[float], baseline: list[float], calls: int, confidence: float, seed: int
) -> Latency:
    if min(times) <= 0 or min(baseline) <= 0:
        raise MeasureError("the clock did not move during a round of calls", where=runner.name)
    median = stats.median_interval(times, confidence)
    ratio = stats.paired_median_ratio(times, baseline, confidence, seed)
    return Latency(
        name=runner.name,
        threads=runner.threads,
        median_s=median.value,
        low_s=median.low,
        high_s=median.high,
        ratio=ratio.value,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        times_s=tuple(times),
        calls=calls,
    )


def _checked_scores(scores: ArrayLike, n: int, metric: str) -> Scores:
    array = np.asarray(scores, dtype=np.float64)
    if array.shape != (n,) or np.isnan(array).any():
        raise MeasureError(
            f"the metric must give one number for each of {n} samples, it gave shape {array.shape}"
            + (" with NaN" if np.isnan(array).any() else ""),
            where=metric,
        )
    return array
