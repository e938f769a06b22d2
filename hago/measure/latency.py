"""Latency of runners, each with its error.

Runners take turns, round by round in a new random order, so that any disturbance affects all of them; a ratio compares
times of the same rounds.

A latency is the time of a call with the processor to itself, even on a busy machine (see clocks.py). A runner on one
thread that waits for nothing is timed by the CPU time of that thread. Any other is timed by wall time, and only calls
without preemption of a thread of this process count; if too few rounds have any, there is no result
(``Latency.reliable``). The least call of each turn and the quieter half of the rounds are used, since other work only
adds. A GPU times itself, many calls at once.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MeasureError
from . import stats
from .clocks import CPU, GPU, SYSTEM_CLOCKS, Clocks, device_sample, take_sample
from .runner import Runner, by_cpu_time, device_clock
from .running import call, timed
from .turns import Series, Turn, take_turn

_WARMUP_WINDOW = 5
_WARMUP_TOLERANCE = 0.03
_MAX_CALLS = 10_000
_SAMPLE_S = 50e-6  # shorter calls are timed in batches, because reading the clocks takes some us
_DEVICE_SAMPLE_S, _DEVICE_CALLS = 4e-4, 10  # least time and calls between two events of a device
# Caches do not help a call this long, so a turn need not begin with an untimed call.
_SETTLE_BELOW_S = 0.02
# Idle worker threads of the previous runner (TVM's, OpenVINO's) spin for about 1 ms before they sleep.
_SETTLE_THREADS_S = 0.002
# Rounds that may be made for each one that must count, and how many must count for a result.
_TRIES, _LEAST = 3, 6
_HOPELESS = 6  # rounds without any that counts: no more are made
_QUIETER = 0.5  # share of the counting rounds that make the result
# Errors of a ratio that rounds of one process do not show: from one process to the next (placement of buffers in memory
# and caches); with neighbours on the same processor that no clock sees; with caches that other work had emptied before
# every call. By experiment: see docs/decisions.md.
_ELSEWHERE, _NEIGHBOURS, _COLD = 0.03, 0.05, 0.35
_FEW = 0.5  # over the square of the number of rounds: resampling cannot show the scatter of one or two rounds


@dataclass(frozen=True)
class Pace:
    """Seconds for which a runner is warmed up at most, and for which one turn repeats its call."""

    warmup_s: float = 0.5
    round_s: float = 0.004


_PACE = Pace()


@dataclass(frozen=True)
class Latency:
    """Seconds that one call takes with the processor to itself, from numpy arrays in to numpy arrays out.

    On a GPU, from inputs to outputs in its memory, in a row of calls (``clock`` says so).
    ``low_s`` and ``high_s`` bound the median of the quieter rounds, ``ratio`` is to the first runner of the same
    measurement (below 1: faster). ``times_s`` are the least times of a call in the rounds that count, by ``clock``
    (clocks.py), of ``calls`` calls in a row. ``disturbed`` is the share of calls in which a thread of this process was
    preempted, None if unknown. ``reliable`` is False if the machine was too busy: the numbers are then meaningless, and
    the ratio's interval is (0, infinity).
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
    reliable: bool = True

    @property
    def samples(self) -> int:
        """The number of rounds that count."""
        return len(self.times_s)


def measure_latency(
    runners: Sequence[Runner],
    feeds: Mapping[str, NDArray[Any]],
    *,
    rounds: int = 30,
    budget_s: float | None = None,
    pace: Pace = _PACE,
    spread: float = 0.0,
    seed: int = 0,
    clocks: Clocks = SYSTEM_CLOCKS,
) -> dict[str, Latency]:
    """Times ``runners`` against each other on one batch; the first is what ratios are taken to.

    Each runner is warmed up until its calls are steady, as long as ``pace`` allows. A turn repeats the call, so that a
    call of 50 us is timed as well as one of 50 ms; it begins with an untimed call, because the previous runner has
    taken the caches (and with 2 ms of untimed calls where worker threads must fall asleep first). ``rounds`` must
    count; if some do not, more are made, up to three times as many. ``budget_s`` bounds the whole, in wall time: the
    measurement ends after the round in which it is spent, with at least one round. ``spread`` is a known relative error
    of ratios (from float32 against itself); it widens the intervals.

    Raises MeasureError when a runner fails (``where`` holds its name), names repeat, or inputs are missing.
    """
    if not runners or rounds < 1:
        raise MeasureError(f"timing needs a runner and a round, got {len(runners)} runners, {rounds} rounds")
    names = [runner.name for runner in runners]
    if len(set(names)) != len(names):
        raise MeasureError(f"runners measured together need different names, got {names}")
    begin = clocks.wall_ns()
    warmup_s = pace.warmup_s if budget_s is None else min(pace.warmup_s, 0.25 * budget_s / len(runners))
    typical = [_warm_up(runner, feeds, warmup_s, clocks) for runner in runners]
    calls = [_calls(runner, call_s) for runner, call_s in zip(runners, typical, strict=True)]
    lasting = [max(n * call_s, _SAMPLE_S) for n, call_s in zip(calls, typical, strict=True)]
    samples = [max(1, math.ceil(pace.round_s / sample_s)) for sample_s in lasting]
    turns: list[list[Turn]] = [[] for _ in runners]
    rng = np.random.default_rng(seed)
    settle_s = _SETTLE_THREADS_S if any(runner.threads > 1 for runner in runners) else 0.0
    collecting = gc.isenabled()
    gc.disable()
    try:
        counted = 0
        for _ in range(_TRIES * rounds):
            for i in rng.permutation(len(runners)):
                settle = settle_s if typical[i] < _SETTLE_BELOW_S else None
                turns[i].append(_turn(runners[i], feeds, calls[i], samples[i], clocks, settle))
            counted += all(_may_count(runner, own[-1]) for runner, own in zip(runners, turns, strict=True))
            hopeless = not counted and len(turns[0]) >= _HOPELESS
            spent = budget_s is not None and (clocks.wall_ns() - begin) * 1e-9 >= budget_s
            if counted >= rounds or spent or hopeless:
                break
    finally:
        if collecting:
            gc.enable()
    series = [_series(runner, own, clocks) for runner, own in zip(runners, turns, strict=True)]
    return {
        runner.name: latency_of(runner.name, runner.threads, series[i], series[0], calls[i], spread=spread, seed=seed)
        for i, runner in enumerate(runners)
    }


def _calls(runner: Runner, call_s: float) -> int:
    """How many calls a sample takes, so that reading the clock hardly counts."""
    if device_clock(runner) is not None:
        return max(_DEVICE_CALLS, math.ceil(_DEVICE_SAMPLE_S / max(call_s, _DEVICE_SAMPLE_S / _MAX_CALLS)))
    return math.ceil(_SAMPLE_S / max(call_s, _SAMPLE_S / _MAX_CALLS))


def _turn(
    runner: Runner,
    feeds: Mapping[str, NDArray[Any]],
    calls: int,
    samples: int,
    clocks: Clocks,
    settle_s: float | None,
) -> Turn:
    if device_clock(runner) is None:
        return take_turn(partial(call, runner, feeds), calls, samples, clocks, settle_s=settle_s)
    seconds = partial(timed, runner, feeds)
    seconds(1)  # the previous runner has taken the caches
    return Turn((), tuple(device_sample(seconds, calls) for _ in range(samples)))


def _series(runner: Runner, turns: Sequence[Turn], clocks: Clocks) -> Series:
    if device_clock(runner) is None:
        return Series.of_turns(turns, by_cpu_time(runner), clocks.shared)
    return Series.of_times([turn.least_wall[0] for turn in turns], GPU)


def _may_count(runner: Runner, turn: Turn) -> bool:
    by_cpu = by_cpu_time(runner) and not any(sample.waits_in_calls for sample in turn.samples)
    return by_cpu or not turn.least_wall[1]


def _warm_up(runner: Runner, feeds: Mapping[str, NDArray[Any]], warmup_s: float, clocks: Clocks) -> float:
    """Calls until the last few calls take as long as those before; returns the seconds of a typical call."""
    missing = sorted({info.name for info in runner.inputs} - set(feeds))
    if missing:
        raise MeasureError(f"no value for the inputs {missing}, got {sorted(feeds)}", where=runner.name)
    begin, times = clocks.wall_ns(), []
    while True:
        if device_clock(runner) is not None:
            times.append(device_sample(partial(timed, runner, feeds), _DEVICE_CALLS).wall_s)
        else:
            sample = take_sample(partial(call, runner, feeds), 1, clocks)
            times.append(sample.cpu_s if by_cpu_time(runner) and not sample.waits_in_calls else sample.wall_s)
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
    seed: int = 0,
) -> Latency:
    """The latency from the times of a runner, and of the baseline in the same rounds."""
    moved = (series.times_s > 0) & (baseline.times_s > 0)
    if not moved.any():
        raise MeasureError("the clock did not move during any round of calls", where=name)
    both = series.counts & baseline.counts & moved
    reliable = int(both.sum()) >= min(_LEAST, len(both))
    used = _quieter(series, baseline, both if reliable else moved)
    median = stats.median_interval(series.times_s[used])
    ratio = stats.paired_median_ratio(series.times_s[used], baseline.times_s[used], seed=seed)
    if series is not baseline:
        cold = max(float(s.unsettled[used].mean()) for s in (series, baseline))
        neighbours = _NEIGHBOURS if series.shared else 0.0
        few = _FEW / len(used) ** 2
        ratio = stats.widened(ratio, _ELSEWHERE + neighbours + _COLD * cold + few + spread)
    return Latency(
        name=name,
        threads=threads,
        median_s=median.value,
        low_s=median.low,
        high_s=median.high,
        ratio=ratio.value,
        ratio_low=ratio.low if reliable or series is baseline else 0.0,
        ratio_high=ratio.high if reliable or series is baseline else math.inf,
        times_s=tuple(series.times_s[series.counts if reliable else ...].tolist()),
        calls=calls,
        clock=series.clock,
        disturbed=series.disturbed,
        reliable=reliable,
    )


def _quieter(series: Series, baseline: Series, counts: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The quieter half of the rounds that count, and at least six: those in which both took the least."""
    rounds = np.flatnonzero(counts)
    both = series.times_s[rounds] * baseline.times_s[rounds]
    return rounds[np.argsort(both, kind="stable")[: max(_LEAST, math.ceil(_QUIETER * len(rounds)))]]
