"""Gather on GPUs (`hago.kernels.common.gather`).

x [outer, size, run]   indices [count]   y [outer, count, run] = x[:, indices]
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.flat import Expr, Flat, primfunc
from ..common.gather import Gather
from .families import Gpu
from .registry import computes
from .words import gather_runs


@computes(Gather)
def gather(params: Gather, gpu: Gpu, threads: int) -> Any:
    """(x, indices int32 or int64) -> y of x's type. Negative indices count from the end; all are clamped."""
    size, run, count = params.x[params.axis], prod(params.x[params.axis + 1 :]), prod(params.indices)

    def body(x: Flat, indices: Flat, y: Flat) -> None:
        def start(row: Expr) -> Expr:
            wanted = T.cast(indices.load(row % count), "int32")
            wrapped = T.bind(T.Select(wanted < 0, wanted + size, wanted))
            chosen = T.max(T.int32(0), T.min(T.int32(size - 1), wrapped))
            return (row // count * size + chosen) * run

        gather_runs(gpu, x, y, run, start)

    x, y = TensorType(params.dtype, params.x), TensorType(params.dtype, params.y)
    return primfunc([x, TensorType(params.index_dtype, params.indices)], [y], body)
