"""The time of a single kernel, and how quiet the machine was during the measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .clocks import SYSTEM_CLOCKS, Clocks, take_sample

_QUIET = 0.2  # of the repeats may be disturbed: the least of the others is good enough
_LONGER = 1.1  # times the least: counts as disturbed, on a machine that only reports times
_REPEAT_S = 1e-3
_MOST_CALLS = 100_000

KernelTypes = Sequence[tuple[str, tuple[int, ...]]]
"""Element type and shape of each argument of a kernel, inputs before outputs."""


@dataclass(frozen=True)
class KernelTime:
    """``seconds`` of one call; ``disturbed`` is the share of repeats that other work interrupted.

    None if unknown (times stored by an older version).
    """

    seconds: float
    disturbed: float | None = None

    @property
    def is_possible(self) -> bool:
        """Whether it is a possible measurement."""
        return 0 < self.seconds < math.inf and (self.disturbed is None or 0 <= self.disturbed <= 1)

    @property
    def is_quiet(self) -> bool:
        """Whether another measurement could not improve it."""
        return self.disturbed is not None and self.disturbed <= _QUIET

    def better(self, other: KernelTime | None) -> KernelTime:
        """The better of this time and an earlier one: the smaller, since other work only adds, but none of unknown
        origin."""
        if other is None or other.disturbed is None:
            return self
        if self.disturbed is None:
            return other
        return KernelTime(min(self.seconds, other.seconds), min(self.disturbed, other.disturbed))


def least_of(repeats: Sequence[float]) -> KernelTime:
    """The least of another machine's times, about which nothing else is known."""
    least = min(repeats)
    return KernelTime(least, sum(t > _LONGER * least for t in repeats) / len(repeats))


def time_kernel(run: Callable[[int], int], repeats: int, *, by_cpu: bool, clocks: Clocks = SYSTEM_CLOCKS) -> KernelTime:
    """Times ``run(n)``, which calls a kernel about ``n`` times and returns how often, by the caller's CPU time (right
    for calls on one thread of a processor) or by wall time.

    The least of ``repeats``, of the uninterrupted ones if there are any.
    """

    def once(calls: int) -> tuple[float, bool]:
        made: list[int] = []
        sample = take_sample(lambda: made.append(run(calls)), 1, clocks)
        return (sample.cpu_s if by_cpu else sample.wall_s) / made[0], sample.preempted > 0

    typical = min(once(1)[0] for _ in range(3))
    calls = max(1, min(_MOST_CALLS, math.ceil(_REPEAT_S / max(typical, 1e-9))))
    found = [once(calls) for _ in range(repeats)]
    clean = [seconds for seconds, disturbed in found if not disturbed]
    share = 1 - len(clean) / len(found)
    return KernelTime(min(clean or [seconds for seconds, _ in found]), share)
