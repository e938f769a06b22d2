"""The usual rows of a comparison, on the float and the QDQ model.

On a processor TVM, ONNX Runtime and OpenVINO; on a GPU TVM, ONNX Runtime, PyTorch and TensorRT.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import onnx

from ..runners import (
    OnnxRuntimeCudaRunner,
    OnnxRuntimeRunner,
    OpenVinoRunner,
    Runner,
    TensorRtRunner,
    TorchCudaRunner,
    TvmRunner,
)
from ..runners.onnx_io import ModelLike
from ..spec import resolve_hw
from .rows import Engine

# The signature of hago.compile that engines need.
Compile = Callable[..., Any]


def usual_engines(
    model: ModelLike,
    qdq: onnx.ModelProto,
    *,
    compile: Compile,
    hw: Any = "auto",
    batch: int = 1,
    threads: int = 1,
) -> list[Engine]:
    """TVM float32 and quantized, then other engines of the same kind of hardware, float32 and int8 (float16 on a GPU).

    All engines get the same float model, as in the user's file, and the same QDQ model.
    ``compile`` is ``hago.compile``.
    """

    def tvm(label: str, graph: ModelLike) -> Engine:
        def opened() -> Runner:
            return TvmRunner(compile(graph, hw=hw, batch=batch, threads=threads), name=label)

        return Engine(label, opened, file="float" if graph is model else "qdq")

    def peer(label: str, runner: Callable[..., Runner], graph: ModelLike) -> Engine:
        opened = partial(runner, graph, threads, batch=batch, name=label)
        return Engine(label, opened, file="float" if graph is model else "qdq")

    ours = [tvm("TVM float32", model), tvm("TVM quantized", qdq)]
    if resolve_hw(hw).family == "nvidia":
        return [*ours, *_gpu_engines(model, qdq, batch)]
    return [
        *ours,
        peer("ONNX Runtime float32", OnnxRuntimeRunner, model),
        peer("ONNX Runtime int8", OnnxRuntimeRunner, qdq),
        peer("OpenVINO float32", OpenVinoRunner, model),
        peer("OpenVINO int8", OpenVinoRunner, qdq),
    ]


def _gpu_engines(model: ModelLike, qdq: onnx.ModelProto, batch: int) -> list[Engine]:
    """The other engines on this machine's GPU; those that are not installed keep their rows, which say so."""

    def engine(label: str, runner: Callable[..., Runner], graph: ModelLike, file: str | None, **more: Any) -> Engine:
        return Engine(label, partial(runner, graph, batch=batch, name=label, **more), file=file)

    half = {"half": True}  # float16 rounds more than its file says
    return [
        engine("ONNX Runtime CUDA float32", OnnxRuntimeCudaRunner, model, "float"),
        engine("ONNX Runtime CUDA int8", OnnxRuntimeCudaRunner, qdq, "qdq"),
        engine("PyTorch eager float32", TorchCudaRunner, model, "float"),
        engine("PyTorch eager float16", TorchCudaRunner, model, None, **half),
        engine("PyTorch graph float16", TorchCudaRunner, model, None, mode="graph", **half),
        engine("PyTorch compiled float16", TorchCudaRunner, model, None, mode="compiled", **half),
        engine("TensorRT float16", TensorRtRunner, model, None, precisions=("float16",)),
        engine("TensorRT int8", TensorRtRunner, qdq, "qdq", precisions=("float16", "int8")),
    ]
