"""Concat and QConcat (`hago.kernels.common.concat`).

Seen as [outer, run], row by row: the inputs' runs follow one another in y [outer, sum of runs].
"""

from __future__ import annotations

from math import prod
from typing import Any

from ...tensor import TensorType
from ..common.concat import Concat
from ..common.flat import Expr, Flat, primfunc
from .families import Isa
from .lookup import LookupTable
from .registry import computes
from .vector import copy_lanes, rows, spans


@computes(Concat)
def concat(params: Concat, isa: Isa, threads: int) -> Any:
    """(x_0, x_1 ..., a table uint8 [256] for each index in ``tables``) -> y; all but tables of one type."""
    lanes, axis = copy_lanes(isa, params.dtype), params.axis
    count = len(params.shapes)
    runs = [prod(shape[axis:]) for shape in params.shapes]
    total = sum(runs)

    def body(*buffers: Flat) -> None:
        sources, y = buffers[:count], buffers[-1]
        tables = {index: LookupTable(buffers[count + i], isa, runs[index]) for i, index in enumerate(params.tables)}

        def row_body(row: Expr) -> None:
            begin = 0
            for index, (x, run) in enumerate(zip(sources, runs, strict=True)):
                _copy_run(x, y, row * run, row * total + begin, run, lanes, tables.get(index))
                begin += run

        cost = 1 + 4 * bool(tables)
        rows(prod(params.shapes[0][:axis]), threads, cost * y.size, row_body)

    inputs = [TensorType(params.dtype, shape) for shape in params.shapes]
    inputs += [TensorType("uint8", (256,))] * len(params.tables)
    return primfunc(inputs, [TensorType(params.dtype, params.y)], body, raw=True)


def _copy_run(x: Flat, y: Flat, start: Expr, to: Expr, run: int, lanes: int, table: LookupTable | None) -> None:
    """y[to : to + run] = x[start : start + run], looked up if there is a table."""

    def vector(i: Expr, width: int) -> None:
        value = x.load(start + i, width)
        y.store(to + i, value if table is None else table(value, width), width)

    spans(run, lanes, vector)
