"""Gather (`hago.kernels.common.gather`).

x [outer, size, run]   indices [count]   y [outer, count, run] = x[:, indices]
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.flat import Expr, Flat, primfunc
from ..common.gather import Gather
from .families import Isa
from .registry import computes
from .vector import copy_lanes, rows, spans


@computes(Gather)
def gather(params: Gather, isa: Isa, threads: int) -> Any:
    """(x, indices int32 or int64) -> y of x's type. Negative indices count from the end; all are clamped."""
    size, run = params.x[params.axis], prod(params.x[params.axis + 1 :])
    count, outer = prod(params.indices), prod(params.x[: params.axis])
    lanes = copy_lanes(isa, params.dtype)

    def body(x: Flat, indices: Flat, y: Flat) -> None:
        def row_body(row: Expr) -> None:
            wanted = T.cast(indices.load(row % count), "int32")
            wrapped = T.bind(T.Select(wanted < 0, wanted + size, wanted))
            chosen = T.bind(T.max(0, T.min(size - 1, wrapped)))
            start = T.bind((row // count * size + chosen) * run)
            spans(run, lanes, lambda i, width: y.store(row * run + i, x.load(start + i, width), width))

        rows(outer * count, threads, y.size, row_body)

    x, y = TensorType(params.dtype, params.x), TensorType(params.dtype, params.y)
    return primfunc([x, TensorType(params.index_dtype, params.indices)], [y], body)
