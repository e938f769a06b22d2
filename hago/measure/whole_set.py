"""Metrics of the whole set: called once with all outputs and labels, and with resamples of them for the error.

The outputs of all samples are kept only for that time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MeasureError
from . import stats
from .metrics import FunctionMetric, SetMetric, reads_labels
from .running import collect_outputs

if TYPE_CHECKING:
    from ..data import Samples
    from .runner import Runner

RESAMPLES = 200  # at most, besides the call with everything
RESAMPLES_S = 5.0  # seconds for all of them; a slow metric gets fewer
FEWEST = 20  # with fewer there is no interval
KEPT_BYTES = 2 << 30

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class SetValue:
    """A metric's value on a set, and on resamples of it (NaN: none there)."""

    value: float
    draws: Scores


def measure_set(
    runner: Runner,
    samples: Samples,
    metric: SetMetric,
    float_outputs: Sequence[NDArray[Any]] | None,
    seed: int,
    *,
    may_give_scores: bool = False,
    clock: Callable[[], float] | None = None,
) -> SetValue | Scores:
    """The value on all samples with its resamples; or scores [n], if a function returns those and is allowed to.

    Raises MeasureError if the outputs of all samples take more than `KEPT_BYTES`, or the value is not a number.
    """
    n = len(samples)
    outputs = collect_outputs(runner, samples, most_bytes=KEPT_BYTES)
    labels = samples.labels if reads_labels(metric) else None
    clock = clock or _work_s
    begin = clock()
    whole = [array.copy() for array in outputs]  # writable, as the metric may write to them
    if may_give_scores and isinstance(metric, FunctionMetric):
        found = metric.call(whole, labels)
        if found.shape:
            return found
        value = float(found)
    else:
        value = float(metric.of_set(whole, labels, float_outputs))
    del whole
    spent = clock() - begin
    if np.isnan(value):
        raise MeasureError(f"the metric must give a number, it gave NaN for these {n} samples", where=metric.name)
    count = min(RESAMPLES, int(RESAMPLES_S / max(spent, 1e-9)))
    draws: list[float] = []
    if count >= FEWEST:
        for rows in stats.resamples(n, count, seed):
            draws.append(_of_rows(metric, rows, outputs, labels, float_outputs))
            if clock() - begin > 2 * RESAMPLES_S:
                break
    return SetValue(value, np.array(draws))


def _work_s() -> float:
    """CPU seconds of this thread, so that other work does not cost resamples, and a tenth of those spent waiting."""
    return time.thread_time() + 0.1 * time.perf_counter()


def _of_rows(
    metric: SetMetric,
    rows: NDArray[np.int64],
    outputs: Sequence[NDArray[Any]],
    labels: Any,
    float_outputs: Sequence[NDArray[Any]] | None,
) -> float:
    floats = None if float_outputs is None else [array[rows] for array in float_outputs]
    picked = [labels[i] for i in rows] if isinstance(labels, list) else None if labels is None else labels[rows]
    try:
        return float(metric.of_set([array[rows] for array in outputs], picked, floats))
    except Exception:  # such as the AUC of a resample without positives, which has no value
        return float("nan")
