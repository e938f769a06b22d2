"""Reductions over neighbouring axes: ReduceMean, ReduceSum, ReduceMax ..., and ArgMax, ArgMin along one axis.

x is seen as [outer, n, inner] and y as [outer, inner]. With inner = 1 a vector runs along n, and the last one is
moved back to end with the row; else it runs along inner, one column in each lane. x and y may not overlap.
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.flat import Expr, Flat, all_lanes, primfunc, typed
from ..common.reductions import ArgExtreme, Reduce
from .families import Isa
from .registry import computes
from .rowwise import Register, across, along, fresh, row_lanes
from .vector import copy_lanes, rows, spans


@computes(Reduce)
def reduction(params: Reduce, isa: Isa, threads: int) -> Any:
    """(x [outer, n, inner]) -> y [outer, inner], both of ``dtype``."""
    kind, dtype = params.kind, params.dtype
    start = kind.start(dtype)

    def body(x: Flat, y: Flat) -> None:
        def whole_row(row: Expr) -> None:
            """x [n] -> y [1]."""
            lanes = row_lanes(params.n, copy_lanes(isa, dtype))
            begin = T.bind(row * params.n)
            total = Register(start, dtype, lanes)

            def add(i: Expr, seen: int) -> None:
                value = kind.before(x.load(begin + i, lanes))
                total.set(kind.combine(total.value, fresh(value, seen, lanes, all_lanes(start, lanes))))

            along(params.n, lanes, add)
            y.store(row, params.finish(across(total.value, lanes, kind.combine)))

        def columns(row: Expr) -> None:
            """x [n, inner] -> y [inner]."""
            begin = T.bind(row * params.n * params.inner)

            def vector(c: Expr, lanes: int) -> None:
                total = Register(start, dtype, lanes)
                with T.serial(0, params.n) as i:
                    value = x.load(begin + i * params.inner + c, lanes)
                    total.set(kind.combine(total.value, kind.before(value)))
                y.store(row * params.inner + c, params.finish(total.value), lanes)

            spans(params.inner, 4 * copy_lanes(isa, dtype), vector)

        rows(params.outer, threads, x.size, whole_row if params.inner == 1 else columns)

    return primfunc([TensorType(dtype, params.x)], [TensorType(dtype, params.y)], body)


@computes(ArgExtreme)
def arg_extreme(params: ArgExtreme, isa: Isa, threads: int) -> Any:
    """(x [outer, n, inner] of ``dtype``) -> y int64 [outer, inner]."""
    dtype, n, inner = params.dtype, params.n, params.inner
    combine = params.kind.combine
    start = params.kind.start(dtype)

    def better(a: Expr, b: Expr) -> Expr:
        if params.last:
            return a <= b if params.least else a >= b
        return a < b if params.least else a > b

    def body(x: Flat, y: Flat) -> None:
        def whole_row(row: Expr) -> None:
            """x [n] -> y [1]: one pass finds the extreme value, another its index."""
            lanes = row_lanes(n, isa.lanes)
            begin = T.bind(row * n)
            best = Register(start, dtype, lanes)
            along(n, lanes, lambda i, seen: best.set(combine(best.value, x.load(begin + i, lanes))))
            found = across(best.value, lanes, combine)
            where = Register(T.int32(-1 if params.last else n), "int32", lanes)

            def look(i: Expr, seen: int) -> None:
                index = T.ramp(T.cast(i, "int32"), 1, lanes) if lanes > 1 else T.cast(i, "int32")
                equal = T.EQ(x.load(begin + i, lanes), all_lanes(found, lanes))
                pick = T.max if params.last else T.min
                where.set(T.Select(equal, pick(where.value, index), where.value))

            along(n, lanes, look)
            index = across(where.value, lanes, T.max if params.last else T.min)
            y.store(row, T.cast(T.max(0, T.min(n - 1, index)), "int64"))

        def columns(row: Expr) -> None:
            """x [n, inner] -> y [inner], in one pass."""
            begin = T.bind(row * n * inner)

            def vector(c: Expr, lanes: int) -> None:
                best = Register(start, dtype, lanes)
                where = Register(T.int32(0), "int32", lanes)
                best.set(x.load(begin + c, lanes))
                with T.serial(1, n) as i:
                    value = x.load(begin + i * inner + c, lanes)
                    # (A boolean vector bound to a name trips TVM's simplifier.)
                    index = all_lanes(T.cast(i, "int32"), lanes)
                    where.set(T.Select(better(value, best.value), index, where.value))
                    best.set(combine(best.value, value))
                y.store(row * inner + c, T.cast(where.value, typed("int64", lanes)), lanes)

            spans(inner, isa.lanes, vector)

        rows(params.outer, threads, 2 * x.size, whole_row if inner == 1 else columns)

    return primfunc([TensorType(dtype, params.x)], [TensorType("int64", params.y)], body)
