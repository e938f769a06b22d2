"""Data movement by a table of indices per axis on GPUs (`hago.kernels.common.mapped`). x and y may not overlap."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.flat import Expr, Flat, primfunc, unravel
from ..common.mapped import Mapped
from ..common.movement import contiguous_strides, table_starts
from .families import Gpu
from .registry import computes
from .words import gather_runs


@computes(Mapped)
def mapped(params: Mapped, gpu: Gpu, threads: int) -> Any:
    """(x, tables int32 [sum of y.shape[axis] over axes]) -> y."""
    strides = contiguous_strides(params.x)
    starts, count = table_starts(params.axes, params.y)
    last = params.axes[-1]
    run = prod(params.y[last + 1 :])  # all that lies behind one position of the last axis with a table

    def body(x: Flat, tables: Flat, y: Flat) -> None:
        def start(row: Expr) -> Expr:
            found: Expr = T.int32(0)
            for axis, index in enumerate(unravel(row, params.y[: last + 1])):
                found += tables.load(starts[axis] + index) if axis in starts else index * strides[axis]
            return found

        gather_runs(gpu, x, y, run, start)

    x, y = TensorType(params.dtype, params.x), TensorType(params.dtype, params.y)
    return primfunc([x, TensorType("int32", (count,))], [y], body, raw=True)
