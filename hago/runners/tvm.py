"""An artifact compiled by TVM on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..measure.running import call, kept_affinity
from ..tensor import TensorInfo


class _Runnable(Protocol):
    """The part of an Artifact that this runner uses."""

    @property
    def input_info(self) -> Sequence[TensorInfo]: ...

    @property
    def threads(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]: ...


class TvmRunner:
    """A compiled artifact (:class:`hago.Artifact`) as a runner.

    It runs once on zeros when it is opened: TVM then starts its threads, and the effect on the calling thread is
    undone, so that engines opened later are not slowed down. Raises MeasureError if that run fails.
    """

    def __init__(self, artifact: _Runnable, *, name: str = "TVM") -> None:
        self.name = name
        self.threads = int(artifact.threads)
        self.inputs: tuple[TensorInfo, ...] = tuple(artifact.input_info)
        self.size_bytes = int(artifact.size_bytes)
        self.timed_by_cpu = bool(getattr(artifact, "timed_by_cpu", True))
        self.time_calls = getattr(artifact, "time_calls", None) if getattr(artifact, "has_clock", False) else None
        self._run = artifact.run
        with kept_affinity():
            call(self, {info.name: np.zeros(info.shape, info.dtype) for info in self.inputs})

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return self._run(feeds)

    def close(self) -> None:
        del self._run, self.time_calls
