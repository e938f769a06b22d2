"""The time of a call: wall time, CPU time of the calling thread, and whether anything interrupted it.

On a busy machine wall time includes other work, in a way that no average repairs: a call shorter than the scheduler's
slice often fits into one, a longer one never does. CPU time covers only the thread's own work, but not what it waits
for. `measure_latency` uses whichever shows how long a call takes with the processor to itself. A GPU tells the time
itself: of many calls in a row, because that between two events around one call is mostly that of the events.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..runtime.processor import is_virtual

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]

CPU, WALL = "CPU time of the calling thread", "wall time of undisturbed calls"
REMOTE, GPU = "wall time of the device", "time of the GPU between two events"
BUSY_SHARE = 0.2  # of calls interrupted: a machine counts as busy from here on


class Clocks(Protocol):
    """The clocks of this process, in nanoseconds, and its count of context switches."""

    @property
    def shared(self) -> bool:
        """Whether other virtual machines, which no clock here sees, share the processor."""
        ...

    def wall_ns(self) -> int:
        """A monotonic clock."""
        ...

    def cpu_ns(self) -> int:
        """CPU time of the calling thread."""
        ...

    def switches(self) -> tuple[int, int]:
        """How often a thread of this process was preempted, and how often the calling thread yielded its CPU (to wait
        for another thread, a device, a file)."""
        ...


class SystemClocks:
    """The clocks of the system, without switches if it does not count them (Windows)."""

    @property
    def shared(self) -> bool:
        return is_virtual()

    def wall_ns(self) -> int:
        return time.perf_counter_ns()

    def cpu_ns(self) -> int:
        return time.thread_time_ns()

    def switches(self) -> tuple[int, int]:
        if resource is None:
            return 0, 0
        process = resource.getrusage(resource.RUSAGE_SELF)
        thread = resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF))
        return process.ru_nivcsw, thread.ru_nvcsw


SYSTEM_CLOCKS = SystemClocks()


@dataclass(frozen=True)
class Sample:
    """A few calls in a row: mean seconds of one, how often the process was preempted and the thread waited."""

    calls: int
    wall_s: float
    cpu_s: float
    preempted: int
    waits: int

    @property
    def waits_in_calls(self) -> bool:
        """Whether calls usually wait for something, so that CPU time is not their whole time."""
        return self.waits > _WAITS_PER_CALL * self.calls


_WAITS_PER_CALL = 0.1  # an occasional wait for Python's interpreter lock does not belong to the call


def device_sample(seconds: Callable[[int], float], calls: int) -> Sample:
    """``calls`` calls as the device times them: ``seconds(calls)``. Other work of this machine cannot interrupt it."""
    mean_s = seconds(calls) / calls
    return Sample(calls, mean_s, mean_s, 0, 0)


def take_sample(work: Callable[[], object], calls: int, clocks: Clocks) -> Sample:
    """Times ``calls`` calls of ``work``; the CPU time hardly includes reading the clocks."""
    preempted, waits = clocks.switches()
    wall, cpu = clocks.wall_ns(), clocks.cpu_ns()
    for _ in range(calls):
        work()
    cpu, wall = clocks.cpu_ns() - cpu, clocks.wall_ns() - wall
    preempted_after, waits_after = clocks.switches()
    return Sample(calls, wall * 1e-9 / calls, cpu * 1e-9 / calls, preempted_after - preempted, waits_after - waits)
