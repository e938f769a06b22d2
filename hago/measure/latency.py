"""Latency of runners, each with its error.

Runners take turns, round by round in a new random order, so that whatever disturbs the machine disturbs all
of them; a ratio is taken between times of the same rounds.

A latency is how long a call takes with the processor to itself, also on a machine with other work (see clocks.py).
A runner on one thread that waits for nothing is timed by the CPU time of that thread. Any other is timed by wall
time, and only rounds count in which no thread of this process had to leave its CPU; where too few are left, nothing is
told (``Latency.told``).
"""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MeasureError
from . import stats
from .clocks import CPU, SYSTEM_CLOCKS, WALL, Clocks, Turn, take_turn
from .running import call

if TYPE_CHECKING:
    from ..runners import Runner

_WARMUP_WINDOW = 5
_WARMUP_TOLERANCE = 0.03
_MAX_CALLS = 10_000
# Caches hold nothing of use to a call this long, so a turn need not begin with an untimed call.
_SETTLE_BELOW_S = 0.02
# Idle worker threads of the runner before (TVM's, OpenVINO's) spin for about 1 ms before they sleep.
_SETTLE_THREADS_S = 0.002
# Rounds that may be made for each that is to count, and how many must count for anything to be told.
_TRIES, _LEAST = 3, 6
_HOPELESS = 12  # rounds of which none counts: no more are made
# What rounds of one process do not show: relative changes of a ratio from one process to the next (where buffers
# lie in memory and in the caches), and those that other work makes by its use of the caches. See docs/decisions.md.
_ELSEWHERE, _CROWDED = 0.02, 0.08
_FEW = 0.5  # over the square of the number of rounds: of one round or two, no resampling shows how they scatter


@dataclass(frozen=True)
class Latency:
    """Seconds that one call takes with the processor to itself, from numpy arrays in to numpy arrays out.

    ``low_s`` and ``high_s`` bound the median, ``ratio`` is to the first runner of the same measurement
    (below 1: faster). ``times_s`` are mean calls of the rounds that count, of ``calls`` calls each, by ``clock``
    (clocks.py). ``disturbed`` is the share of turns in which a thread of this process was preempted, None where that
    is not known. ``told`` is False where the machine was too busy for that: the numbers are then good for nothing,
    and the ratio's interval is (0, infinity).
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
    clock: str = CPU
    disturbed: float | None = None
    told: bool = True

    @property
    def samples(self) -> int:
        return len(self.times_s)


@dataclass(frozen=True)
class Series:
    """Seconds of a call, round by round; ``counts[i]`` says whether round ``i`` was undisturbed enough to count."""

    times_s: NDArray[np.float64]
    counts: NDArray[np.bool_]
    clock: str
    disturbed: float | None = None

    @classmethod
    def of_turns(cls, turns: Sequence[Turn], threads: int) -> Series:
        """By the clock that tells how long these calls take undisturbed."""
        disturbed = np.array([turn.preempted > 0 for turn in turns])
        share = float(disturbed.mean())
        if threads == 1 and float(np.mean([turn.waits_in_calls for turn in turns])) < 0.5:
            return cls(np.array([turn.cpu_s for turn in turns]), np.ones(len(turns), bool), CPU, share)
        return cls(np.array([turn.wall_s for turn in turns]), ~disturbed, WALL, share)

    @classmethod
    def of_times(cls, times_s: Sequence[float], clock: str) -> Series:
        """Of times that somebody else took: all count."""
        return cls(np.asarray(times_s, np.float64), np.ones(len(times_s), bool), clock)


def measure_latency(
    runners: Sequence[Runner],
    feeds: Mapping[str, NDArray[Any]],
    *,
    rounds: int = 30,
    budget_s: float | None = None,
    warmup_s: float = 0.5,
    round_s: float = 0.003,
    spread: float = 0.0,
    confidence: float = stats.CONFIDENCE,
    seed: int = 0,
    clocks: Clocks = SYSTEM_CLOCKS,
) -> dict[str, Latency]:
    """Times ``runners`` against each other on one batch; the first is what ratios are taken to.

    Each runner is warmed up until its calls are steady (for ``warmup_s`` at most). A turn repeats the
    call until about ``round_s`` has passed, so that a call of 50 us is timed as well as one of 50 ms; it
    begins with an untimed call, since the runner before it has taken the caches (and with 2 ms of them
    where worker threads are to fall asleep). ``rounds`` are to count; where some do not, more are made, at most three
    times as many. ``budget_s`` bounds the whole, in wall time: the measurement then ends after the round in which it
    is spent, with at least one round. ``spread`` is a relative error of ratios known from elsewhere (of float32 to
    itself): intervals are made wider by it.

    Raises MeasureError when a runner fails (``where`` holds its name), names repeat, or inputs are missing.
    """
    if not runners or rounds < 1:
        raise MeasureError(f"timing needs a runner and a round, got {len(runners)} runners, {rounds} rounds")
    names = [runner.name for runner in runners]
    if len(set(names)) != len(names):
        raise MeasureError(f"runners measured together need different names, got {names}")
    begin = clocks.wall_ns()
    if budget_s is not None:
        warmup_s = min(warmup_s, 0.25 * budget_s / len(runners))
    typical = [_warm_up(runner, feeds, warmup_s, clocks) for runner in runners]
    calls = [max(1, min(_MAX_CALLS, math.ceil(round_s / max(call_s, 1e-9)))) for call_s in typical]
    turns: list[list[Turn]] = [[] for _ in runners]
    rng = np.random.default_rng(seed)
    settle_s = _SETTLE_THREADS_S if any(runner.threads > 1 for runner in runners) else 0.0
    collecting = gc.isenabled()
    gc.disable()
    try:
        counted = 0
        for _ in range(_TRIES * rounds):
            for i in rng.permutation(len(runners)):
                if typical[i] < _SETTLE_BELOW_S:
                    _settle(runners[i], feeds, settle_s, clocks)
                turns[i].append(take_turn(partial(call, runners[i], feeds), calls[i], clocks))
            counted += all(_may_count(runner, own[-1]) for runner, own in zip(runners, turns, strict=True))
            hopeless = not counted and len(turns[0]) >= _HOPELESS
            spent = budget_s is not None and (clocks.wall_ns() - begin) * 1e-9 >= budget_s
            if counted >= rounds or spent or hopeless:
                break
    finally:
        if collecting:
            gc.enable()
    series = [Series.of_turns(own, runner.threads) for runner, own in zip(runners, turns, strict=True)]
    return {
        runner.name: latency_of(
            runner.name, runner.threads, series[i], series[0], calls[i], spread=spread, confidence=confidence, seed=seed
        )
        for i, runner in enumerate(runners)
    }


def _may_count(runner: Runner, turn: Turn) -> bool:
    return (runner.threads == 1 and not turn.waits_in_calls) or not turn.preempted


def _settle(runner: Runner, feeds: Mapping[str, NDArray[Any]], seconds: float, clocks: Clocks) -> None:
    """One call at least, and calls until ``seconds`` have passed (bounded, should the clock stand still)."""
    begin = clocks.wall_ns()
    for _ in range(_MAX_CALLS):
        call(runner, feeds)
        if (clocks.wall_ns() - begin) * 1e-9 >= seconds:
            return


def _warm_up(runner: Runner, feeds: Mapping[str, NDArray[Any]], warmup_s: float, clocks: Clocks) -> float:
    """Calls until the last few calls take as long as the few before; returns seconds of a typical call."""
    missing = sorted({info.name for info in runner.inputs} - set(feeds))
    if missing:
        raise MeasureError(f"no value for the inputs {missing}, got {sorted(feeds)}", where=runner.name)
    begin, times = clocks.wall_ns(), []
    while True:
        turn = take_turn(partial(call, runner, feeds), 1, clocks)
        times.append(turn.cpu_s if runner.threads == 1 and not turn.waits_in_calls else turn.wall_s)
        last = float(np.median(times[-_WARMUP_WINDOW:]))
        if (clocks.wall_ns() - begin) * 1e-9 >= warmup_s:
            return last
        if len(times) >= 2 * _WARMUP_WINDOW:
            before = float(np.median(times[-2 * _WARMUP_WINDOW : -_WARMUP_WINDOW]))
            if abs(last - before) <= _WARMUP_TOLERANCE * before:
                return last


def latency_of(
    name: str,
    threads: int,
    series: Series,
    baseline: Series,
    calls: int,
    *,
    spread: float = 0.0,
    confidence: float = stats.CONFIDENCE,
    seed: int = 0,
) -> Latency:
    """What the times of a runner say, beside those of the baseline in the same rounds."""
    if series.times_s.min() <= 0 or baseline.times_s.min() <= 0:
        raise MeasureError("the clock did not move during a round of calls", where=name)
    both = series.counts & baseline.counts
    told = int(both.sum()) >= min(_LEAST, len(both))
    own, pairs = (series.counts, both) if told else (np.ones_like(both), np.ones_like(both))
    median = stats.median_interval(series.times_s[own], confidence)
    ratio = stats.paired_median_ratio(series.times_s[pairs], baseline.times_s[pairs], confidence, seed)
    if series is not baseline:
        shares = [s.disturbed for s in (series, baseline) if s.disturbed is not None]
        few = _FEW / int(pairs.sum()) ** 2
        ratio = stats.widened(ratio, _ELSEWHERE + _CROWDED * max(shares, default=0.0) + few + spread)
    return Latency(
        name=name,
        threads=threads,
        median_s=median.value,
        low_s=median.low,
        high_s=median.high,
        ratio=ratio.value,
        ratio_low=ratio.low if told or series is baseline else 0.0,
        ratio_high=ratio.high if told or series is baseline else math.inf,
        times_s=tuple(series.times_s[own].tolist()),
        calls=calls,
        clock=series.clock,
        disturbed=series.disturbed,
        told=told,
    )
