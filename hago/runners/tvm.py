"""An artifact compiled by TVM on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from ..tensor import TensorInfo


class _Runnable(Protocol):
    """What this runner needs of an Artifact."""

    @property
    def input_info(self) -> Sequence[TensorInfo]: ...

    @property
    def threads(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]: ...


class TvmRunner:
    """A compiled artifact (:class:`hago.artifact.Artifact`) as a runner."""

    def __init__(self, artifact: _Runnable, *, name: str = "TVM") -> None:
        self.name = name
        self.threads = int(artifact.threads)
        self.inputs: tuple[TensorInfo, ...] = tuple(artifact.input_info)
        self.size_bytes = int(artifact.size_bytes)
        self._run = artifact.run

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return self._run(feeds)

    def close(self) -> None:
        del self._run
