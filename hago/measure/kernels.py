"""The time of one kernel by itself, and how quiet the machine was when it was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .clocks import SYSTEM_CLOCKS, Clocks, take_sample

_QUIET = 0.2  # of the repeats may be disturbed: the least of the others is as good as any
_LONGER = 1.1  # times the least, on a machine that tells nothing but times: disturbed
_REPEAT_S = 1e-3
_MOST_CALLS = 100_000

KernelTypes = Sequence[tuple[str, tuple[int, ...]]]
"""Element type and shape of each argument of a kernel, inputs before outputs."""


@dataclass(frozen=True)
class KernelTime:
    """``seconds`` of one call; ``disturbed`` is the share of repeats that other work interrupted.

    None where nobody knows (times that an older version remembered).
    """

    seconds: float
    disturbed: float | None = None

    @property
    def is_possible(self) -> bool:
        """Whether it can have been measured at all."""
        return 0 < self.seconds < math.inf and (self.disturbed is None or 0 <= self.disturbed <= 1)

    @property
    def is_quiet(self) -> bool:
        """Whether measuring it once more could not make it better."""
        return self.disturbed is not None and self.disturbed <= _QUIET

    def better(self, other: KernelTime | None) -> KernelTime:
        """Of this time and an earlier one, what to remember: other work only ever adds, so the least of the two,
        but no time of which nobody knows how it was measured."""
        if other is None or other.disturbed is None:
            return self
        if self.disturbed is None:
            return other
        return KernelTime(min(self.seconds, other.seconds), min(self.disturbed, other.disturbed))


def least_of(repeats: Sequence[float]) -> KernelTime:
    """The least of times that another machine took, which tells nothing but them."""
    least = min(repeats)
    return KernelTime(least, sum(t > _LONGER * least for t in repeats) / len(repeats))


def time_kernel(run: Callable[[int], int], repeats: int, *, by_cpu: bool, clocks: Clocks = SYSTEM_CLOCKS) -> KernelTime:
    """Times ``run(n)``, which calls a kernel about ``n`` times and tells how often: by the caller's CPU time (right
    for calls on one thread of a processor), or by wall time.

    The least of ``repeats``, of those that nothing interrupted where there are any.
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
