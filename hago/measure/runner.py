"""Anything that turns numpy arrays into numpy arrays can be measured, through one protocol.

All runners take and return plain numpy arrays that the caller owns, so timings compare the same work: one call from
Python, from inputs to outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from ..tensor import TensorInfo


@runtime_checkable
class Runner(Protocol):
    """One compiled or loaded model on one device.

    ``inputs`` are static, the batch is the first axis of the first. ``run`` takes every input by name,
    returns the outputs in the model's order as fresh C-contiguous arrays, does not write to its inputs,
    and raises HagoError or lets the engine's own exception through. After ``close`` it is not called
    again. The optional attribute ``size_bytes`` is the deployed size of its weights; an optional ``timed_by_cpu`` of
    False means that the work is not done on the calling thread (see `by_cpu_time`). An optional ``time_calls(feeds,
    count)`` returns the seconds of ``count`` calls in a row by the clock of the device that computes them, inputs and
    outputs in its memory; None means that there is no such clock.
    """

    @property
    def name(self) -> str:
        """Its name in results, unique in a measurement."""
        ...

    @property
    def threads(self) -> int:
        """CPU threads that one call uses."""
        ...

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The model's inputs, in its order."""
        ...

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for inputs by name."""
        ...

    def close(self) -> None:
        """Releases the model."""
        ...


class Threaded(Protocol):
    """Something that computes on some number of threads: a runner, or a compiled network."""

    @property
    def threads(self) -> int:
        """CPU threads that one call uses."""
        ...


def device_clock(runner: Any) -> Callable[[Mapping[str, NDArray[Any]], int], float] | None:
    """The runner's ``time_calls``; None if the clocks of this process time it."""
    found: Callable[[Mapping[str, NDArray[Any]], int], float] | None = getattr(runner, "time_calls", None)
    return found


def by_cpu_time(runner: Threaded) -> bool:
    """Whether the CPU time of the calling thread measures a call: one thread, and no other device."""
    return runner.threads == 1 and bool(getattr(runner, "timed_by_cpu", True))
