"""The six usual rows of a comparison: TVM, ONNX Runtime and OpenVINO, each on the float and the QDQ model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import onnx

from ..runners import OnnxRuntimeRunner, OpenVinoRunner, Runner, TvmRunner
from ..runners.onnx_io import ModelLike
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
    """TVM float32 and quantized, then ONNX Runtime and OpenVINO float32 and int8.

    All three engines get the same float model, as in the user's file, and the same QDQ model.
    ``compile`` is ``hago.compile``.
    """

    def tvm(label: str, graph: ModelLike) -> Engine:
        def opened() -> Runner:
            return TvmRunner(compile(graph, hw=hw, batch=batch, threads=threads), name=label)

        return Engine(label, opened, file="float" if graph is model else "qdq")

    def peer(label: str, runner: Callable[..., Runner], graph: ModelLike) -> Engine:
        opened = partial(runner, graph, threads, batch=batch, name=label)
        return Engine(label, opened, file="float" if graph is model else "qdq")

    return [
        tvm("TVM float32", model),
        tvm("TVM quantized", qdq),
        peer("ONNX Runtime float32", OnnxRuntimeRunner, model),
        peer("ONNX Runtime int8", OnnxRuntimeRunner, qdq),
        peer("OpenVINO float32", OpenVinoRunner, model),
        peer("OpenVINO int8", OpenVinoRunner, qdq),
    ]
