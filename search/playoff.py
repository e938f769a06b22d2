"""The play-off: the candidates that may be the answer are timed again, side by side.

Each was timed beside float32 only, at a different moment, on a machine that may have had other work, so the fastest may
only look fastest. The fastest as measured and the fastest by the time model take turns in one measurement before one of
them is chosen. If the goal is the most accurate or the smallest, the best of those do.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..deadline import Deadline
from ..errors import HagoError, StorageError
from ..goal import Goal
from ..record import Record
from .objective import Evaluator
from .space import SearchSpace
from .timing import TimeTable

_BY_MEASUREMENT, _BY_MODEL = 5, 5
_NOT_FAR = 1.5  # times the best ratio: noise does not explain a candidate slower than that


def finalists(space: SearchSpace, times: TimeTable, goal: Goal, records: Sequence[Record]) -> list[Record]:
    """The records within the bounds that may be the answer; those that keep the margin, if any do."""
    quantized = [r for r in records if r.strategy is not None and not r.strategy.is_float]
    within = [r for r in quantized if goal.within(r)]
    within = [r for r in within if goal.within(r, goal.margin)] or within
    if not within:
        return []
    if goal.primary.name != "latency":
        return sorted(within, key=lambda r: (goal.cost(r), goal.likely_drop(r), r.id))[:_BY_MEASUREMENT]
    ratios = {r.id: r.latency_ratio for r in within if r.latency_ratio is not None}
    far = _NOT_FAR * min(ratios.values(), default=0.0)
    measured = sorted((r for r in within if r.id in ratios), key=lambda r: (ratios[r.id], r.id))
    near = [r for r in measured if ratios[r.id] <= far][:_BY_MEASUREMENT]

    def predicted(record: Record) -> float:
        assert record.strategy is not None
        return times.ratio(space, space.options(space.params(record.strategy)))

    fast = sorted(within, key=lambda r: (predicted(r), goal.likely_drop(r), r.id))[:_BY_MODEL]
    return list({r.id: r for r in (*near, *fast)}.values())


def noise_of(evaluator: Evaluator, found: Sequence[Record], samples: int, deadline: Deadline) -> dict[int, float]:
    """Noise power of the outputs over signal power, by record, except where it cannot be measured.

    Nothing is measured if there is only one candidate; if the time runs out, nothing counts.
    """
    noise: dict[int, float] = {}
    if len(found) < 2:
        return noise
    for record in found:
        assert record.strategy is not None
        if deadline.over:
            return {}
        try:
            noise[record.id] = evaluator.sensitivity(record.strategy, samples)
        except StorageError:
            raise
        except HagoError:
            continue
    return noise


def play_off(evaluator: Evaluator, found: Sequence[Record], records: Sequence[Record]) -> list[Record]:
    """``records`` with the latencies of ``found`` measured again; unchanged if that fails.

    A single candidate that is faster than float32 needs no play-off.
    """
    if not found or (len(found) == 1 and found[0].is_faster):
        return list(records)
    try:
        again = {record.id: record for record in evaluator.remeasure(found)}
    except StorageError:
        raise
    except HagoError:
        return list(records)
    return [again.get(record.id, record) for record in records]


def remeasured(evaluator: Evaluator, record: Record, test: Record) -> Record:
    """The record that the test contradicts, with its latency measured again, or the test's if that fails."""
    try:
        return evaluator.remeasure([record])[0]
    except StorageError:
        raise
    except HagoError:
        return record.with_latency_of(test)
