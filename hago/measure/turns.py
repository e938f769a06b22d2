"""Turns of runners: finds the calls that had a warm processor to themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .clocks import CPU, WALL, Clocks, Sample, take_sample

# A preempted thread finds its data gone from the caches; after this much of its own time, most of it is back.
_WARM_AFTER_S = 1e-3
# The share of its wall time that an uninterrupted call must have as CPU time. On a virtual machine, Linux subtracts
# time stolen by the hypervisor from the CPU time of whatever runs next: too little, or nothing, may be left.
_OWN_SHARE = 0.8


@dataclass(frozen=True)
class Turn:
    """Calls of one runner in a row: first those that settle it, then those that count."""

    settling: tuple[Sample, ...]
    samples: tuple[Sample, ...]

    @cached_property
    def least_cpu(self) -> tuple[float, bool]:
        """The least CPU time of a call, and whether even that call was interrupted, or came soon after."""
        found, since_s = [], np.inf
        for sample in self.settling + self.samples:
            interrupted = bool(sample.preempted)
            in_part = interrupted or sample.cpu_s < _OWN_SHARE * sample.wall_s
            found.append((in_part, sample.cpu_s, interrupted or since_s < _WARM_AFTER_S))
            since_s = 0.0 if interrupted else since_s + sample.cpu_s * sample.calls
        _, cpu_s, soon = min(found[len(self.settling) :])  # those that are whole before those that are not
        return cpu_s, soon

    @cached_property
    def least_wall(self) -> tuple[float, bool]:
        """The least wall time of an uninterrupted call, and False; with True if all were interrupted."""
        interrupted, wall_s = min((bool(sample.preempted), sample.wall_s) for sample in self.samples)
        return wall_s, interrupted


def take_turn(
    work: Callable[[], object], calls: int, samples: int, clocks: Clocks, *, settle_s: float | None = 0.0
) -> Turn:
    """A turn of ``samples`` samples, each of ``calls`` calls.

    Preceded by at least one untimed call, and calls until ``settle_s`` have passed (None: no call).
    """
    settling: list[Sample] = []
    begin = clocks.wall_ns()
    while settle_s is not None and len(settling) < _MOST_SETTLING:
        settling.append(take_sample(work, 1, clocks))
        if (clocks.wall_ns() - begin) * 1e-9 >= settle_s:
            break
    return Turn(tuple(settling), tuple(take_sample(work, calls, clocks) for _ in range(samples)))


_MOST_SETTLING = 10_000  # should the clock not advance


@dataclass(frozen=True)
class Series:
    """Seconds of a call, round by round: the least of each turn.

    ``counts[i]`` says whether round ``i`` is usable; ``unsettled[i]`` whether its call was interrupted, or came soon
    after an interruption, and may have found cold caches. ``disturbed`` is the share of calls that other work
    interrupted, None if unknown; ``shared`` is that of `Clocks`.
    """

    times_s: NDArray[np.float64]
    counts: NDArray[np.bool_]
    unsettled: NDArray[np.bool_]
    clock: str
    disturbed: float | None = None
    shared: bool = False

    @classmethod
    def of_turns(cls, turns: Sequence[Turn], by_cpu: bool, shared: bool = False) -> Series:
        """By the clock that shows undisturbed calls: that of the thread if ``by_cpu``."""
        samples = [sample for turn in turns for sample in turn.samples]
        share = float(np.mean([sample.preempted > 0 for sample in samples]))
        if by_cpu and float(np.mean([sample.waits_in_calls for sample in samples])) < 0.5:
            times, unsettled = zip(*(turn.least_cpu for turn in turns), strict=True)
            return cls(np.array(times), np.array(times) > 0, np.array(unsettled), CPU, share, shared)
        times, interrupted = zip(*(turn.least_wall for turn in turns), strict=True)
        return cls(np.array(times), ~np.array(interrupted), np.zeros(len(turns), bool), WALL, share, shared)

    @classmethod
    def of_times(cls, times_s: Sequence[float], clock: str) -> Series:
        """From times measured elsewhere: all count."""
        times = np.asarray(times_s, np.float64)
        return cls(times, np.ones(len(times), bool), np.zeros(len(times), bool), clock)
