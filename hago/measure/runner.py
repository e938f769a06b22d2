"""What can be measured: anything that turns numpy arrays into numpy arrays, behind one protocol.

All runners are given and give plain numpy arrays that the caller owns, so a timing compares the same work:
one call from Python, inputs handed over, outputs handed back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from ..tensor import TensorInfo


@runtime_checkable
class Runner(Protocol):
    """One compiled or loaded model on one device.

    ``inputs`` are static, the batch is the first axis of the first. ``run`` takes every input by name,
    returns the outputs in the model's order as fresh C-contiguous arrays, does not write to its inputs,
    and raises HagoError or lets the engine's own exception through. After ``close`` it is not called
    again. Where it has an attribute ``size_bytes``, that is what its weights take as deployed; where it has
    ``timed_by_cpu`` and that is False, the work is done elsewhere than on the calling thread (see `by_cpu_time`).
    """

    @property
    def name(self) -> str:
        """What it is called in results; each of a measurement has its own."""
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
        """Lets go of the model."""
        ...


class Threaded(Protocol):
    """What computes on some number of threads: a runner, or a compiled network."""

    @property
    def threads(self) -> int:
        """CPU threads that one call uses."""
        ...


def by_cpu_time(runner: Threaded) -> bool:
    """Whether the CPU time of the calling thread says how long a call takes: one thread, and no other device."""
    return runner.threads == 1 and bool(getattr(runner, "timed_by_cpu", True))
