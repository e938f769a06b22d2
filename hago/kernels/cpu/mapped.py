"""Data movement by a table of indices per axis (`hago.kernels.common.mapped`).

Axes behind the last of those with a table are copied as whole rows. x and y may not overlap.
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.flat import Expr, Flat, primfunc, unravel
from ..common.mapped import Mapped
from ..common.movement import contiguous_strides, table_starts
from .families import Isa
from .registry import computes
from .vector import copy_lanes, rows, spans


@computes(Mapped)
def mapped(params: Mapped, isa: Isa, threads: int) -> Any:
    """(x, tables int32 [sum of y.shape[axis] over axes]) -> y."""
    lanes = copy_lanes(isa, params.dtype)
    strides = contiguous_strides(params.x)
    starts, count = table_starts(params.axes, params.y)
    last = params.axes[-1]
    outer, run = params.y[:last], prod(params.y[last + 1 :])

    def body(x: Flat, tables: Flat, y: Flat) -> None:
        def at(axis: int, index: Expr) -> Expr:
            """Elements of x before position ``index`` of the output, along one axis."""
            if axis in starts:
                return tables.load(starts[axis] + index)
            return index * strides[axis]

        def row_body(row: Expr) -> None:
            """x [run] -> y [run]: all that lies behind one position of the last axis with a table."""
            coordinates = unravel(row, params.y[: last + 1])
            start = T.bind(sum((at(axis, i) for axis, i in enumerate(coordinates)), T.int32(0)))
            spans(run, lanes, lambda i, width: y.store(row * run + i, x.load(start + i, width), width))

        def elements(row: Expr) -> None:
            """y [y.shape[last]]: the last axis has a table, so single elements are gathered."""
            start = T.bind(sum((at(axis, i) for axis, i in enumerate(unravel(row, outer))), T.int32(0)))
            width_of_row = params.y[last]

            def vector(i: Expr, width: int) -> None:
                index = tables.load(starts[last] + i, width) + start
                y.store(row * width_of_row + i, x.gather(index), width)

            spans(width_of_row, lanes, vector)

        if run > 1:
            rows(prod(params.y[: last + 1]), threads, y.size, row_body)
        else:
            rows(prod(outer), threads, 2 * y.size, elements)

    x, y = TensorType(params.dtype, params.x), TensorType(params.dtype, params.y)
    return primfunc([x, TensorType("int32", (count,))], [y], body, raw=False)
