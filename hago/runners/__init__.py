"""What can be measured: anything that turns numpy arrays into numpy arrays, behind one protocol.

All runners are given and give plain numpy arrays that the caller owns, so a timing compares the same work:
one call from Python, inputs handed over, outputs handed back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from ..tensor import TensorInfo
from .onnxruntime import OnnxRuntimeRunner
from .openvino import OpenVinoRunner
from .tvm import TvmRunner

__all__ = ["OnnxRuntimeRunner", "OpenVinoRunner", "Runner", "TvmRunner"]


@runtime_checkable
class Runner(Protocol):
    """One compiled or loaded model on one device.

    ``inputs`` are static, the batch is the first axis of the first. ``run`` takes every input by name,
    returns the outputs in the model's order as fresh C-contiguous arrays, does not write to its inputs,
    and raises HagoError or lets the engine's own exception through. After ``close`` it is not called
    again. Where it has an attribute ``size_bytes``, that is what its weights take as deployed.
    """

    @property
    def name(self) -> str: ...

    @property
    def threads(self) -> int: ...

    @property
    def inputs(self) -> tuple[TensorInfo, ...]: ...

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]: ...

    def close(self) -> None: ...
