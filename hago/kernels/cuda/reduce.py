"""Reductions over neighbouring axes, and ArgMax, ArgMin along one axis, by teams of threads (`rowwise`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.flat import Expr, Flat, primfunc
from ..common.math import named
from ..common.reductions import ArgExtreme, Reduce
from .families import Gpu
from .registry import computes
from .rowwise import Piece, divide, local, teams


@computes(Reduce)
def reduction(params: Reduce, gpu: Gpu, threads: int) -> Any:
    """(x [outer, n, inner]) -> y [outer, inner], both of ``dtype``."""
    kind, dtype = params.kind, params.dtype

    def body(x: Flat, y: Flat) -> None:
        with teams(divide(gpu, params.outer, params.n, params.inner, dtype), 1) as team:
            elements = team.values(x)

            def terms(piece: Piece) -> list[Expr]:
                return [kind.before(value) for value in elements(piece)]

            total = team.total(terms, kind.combine, kind.start(dtype), dtype)
            with team.first():
                y.store(team.row, params.finish(total))

    return primfunc([TensorType(dtype, params.x)], [TensorType(dtype, params.y)], body)


@computes(ArgExtreme)
def arg_extreme(params: ArgExtreme, gpu: Gpu, threads: int) -> Any:
    """(x [outer, n, inner] of ``dtype``) -> y int64 [outer, inner]."""
    dtype, combine = params.dtype, params.kind.combine
    start = params.kind.start(dtype)

    def better(a: Sequence[Expr], b: Sequence[Expr]) -> Expr:
        """Whether (value, index) ``a`` comes before ``b``."""
        above = a[0] < b[0] if params.least else a[0] > b[0]
        earlier = a[1] > b[1] if params.last else a[1] < b[1]
        return T.Or(above, T.And(T.EQ(a[0], b[0]), earlier))

    def body(x: Flat, y: Flat) -> None:
        with teams(divide(gpu, params.outer, params.n, params.inner, dtype), 2) as team:
            elements = team.values(x)
            best, where = local(dtype, start), local("int32", T.int32(-1 if params.last else params.n))

            def look(piece: Piece) -> None:
                for k, value in enumerate(elements(piece)):
                    mine = (piece.only(value, start), named(piece.only(piece.place + k, where[0])))
                    held = (best[0], where[0])
                    T.buffer_store(where, T.Select(better(mine, held), mine[1], held[1]), [0])
                    T.buffer_store(best, combine(held[0], mine[0]), [0])

            team.along(look)
            pair = team.across(
                [named(best[0]), named(where[0])],
                lambda a, b: [combine(a[0], b[0]), T.Select(better(a, b), a[1], b[1])],
            )
            with team.first():
                y.store(team.row, T.cast(T.max(0, T.min(params.n - 1, pair[1])), "int64"))

    return primfunc([TensorType(dtype, params.x)], [TensorType("int64", params.y)], body)
