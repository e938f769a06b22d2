"""Latency of runners, each with its error.

Runners take turns, round by round in a new random order, so that whatever disturbs the machine disturbs all
of them; a ratio is taken between times of the same rounds.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MeasureError
from . import stats
from .running import call

if TYPE_CHECKING:
    from ..runners import Runner

# The clock gives integer nanoseconds, as time.perf_counter_ns does.
Clock = Callable[[], int]

_WARMUP_WINDOW = 5
_WARMUP_TOLERANCE = 0.03
_MAX_CALLS = 10_000
# Caches hold nothing of use to a call this long, so a turn need not begin with an untimed call.
_SETTLE_BELOW_S = 0.02
# Idle worker threads of the runner before (TVM's, OpenVINO's) spin for about 1 ms before they sleep.
_SETTLE_THREADS_S = 0.002


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
    begins with an untimed call, since the runner before it has taken the caches (and with 2 ms of them
    where worker threads are to fall asleep). ``budget_s`` bounds the whole: the measurement then ends
    after the round in which it is spent, with at least one round.

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
    settle_s = _SETTLE_THREADS_S if any(runner.threads > 1 for runner in runners) else 0.0
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for i in rng.permutation(len(runners)):
                if typical[i] < _SETTLE_BELOW_S:
                    _settle(runners[i], feeds, settle_s, clock)
                times[i].append(_time_calls(runners[i], feeds, calls[i], clock))
            if budget_s is not None and (clock() - begin) * 1e-9 >= budget_s:
                break
    finally:
        if collecting:
            gc.enable()
    return {
        runner.name: latency_of(runner.name, runner.threads, times[i], times[0], calls[i], confidence, seed)
        for i, runner in enumerate(runners)
    }


def _time_calls(runner: Runner, feeds: Mapping[str, NDArray[Any]], calls: int, clock: Clock) -> float:
    """Mean seconds of ``calls`` calls."""
    begin = clock()
    for _ in range(calls):
        call(runner, feeds)
    return (clock() - begin) * 1e-9 / calls


def _settle(runner: Runner, feeds: Mapping[str, NDArray[Any]], seconds: float, clock: Clock) -> None:
    """One call at least, and calls until ``seconds`` have passed (bounded, should the clock stand still)."""
    begin = clock()
    for _ in range(_MAX_CALLS):
        call(runner, feeds)
        if (clock() - begin) * 1e-9 >= seconds:
            return


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


def latency_of(
    name: str,
    threads: int,
    times: Sequence[float],
    baseline: Sequence[float],
    calls: int,
    confidence: float = stats.CONFIDENCE,
    seed: int = 0,
) -> Latency:
    """What ``times`` (seconds of a call, round by round) say, beside those of ``baseline`` in the same rounds."""
    if min(times) <= 0 or min(baseline) <= 0:
        raise MeasureError("the clock did not move during a round of calls", where=name)
    median = stats.median_interval(times, confidence)
    ratio = stats.paired_median_ratio(times, baseline, confidence, seed)
    return Latency(
        name=name,
        threads=threads,
        median_s=median.value,
        low_s=median.low,
        high_s=median.high,
        ratio=ratio.value,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        times_s=tuple(times),
        calls=calls,
    )
