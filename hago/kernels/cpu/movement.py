"""Data movement at regular strides: Transpose, Slice, Split, Expand, DepthToSpace ...

The kernels take any element type, seen as unsigned integers of its width; x and y may not overlap.
"""

from __future__ import annotations

from math import prod
from typing import Any

from ...tensor import TensorType
from ..common.flat import Expr, Flat, primfunc, unravel
from ..common.movement import Permute, Strided, order
from .families import Isa
from .registry import computes
from .transpose import permute
from .vector import chunks, copy_lanes, rows, spans


@computes(Permute)
def permuted(params: Permute, isa: Isa, threads: int) -> Any:
    """(x [shape]) -> y [shape[perm]]."""
    how, lanes = order(params.shape, params.perm), copy_lanes(isa, params.dtype)

    def body(x: Flat, y: Flat) -> None:
        permute(x, y, how, lanes, threads)

    x, y = TensorType(params.dtype, params.x), TensorType(params.dtype, params.y)
    return primfunc([x], [y], body, raw=True)


@computes(Strided)
def strided(params: Strided, isa: Isa, threads: int) -> Any:
    """(x) -> y [dims]: vectors run along the last dimension, rows are cut into threads."""
    lanes, offset = copy_lanes(isa, params.dtype), params.offset
    inner, outer = params.dims[-1], params.dims[:-1]
    step = params.strides[-1]

    def body(x: Flat, y: Flat) -> None:
        def move(to: Expr, start: Expr, width: int) -> None:
            y.store(to, x.load(start, width) if step == 1 else x.strided(start, step, width), width)

        if not outer:
            chunks(inner, lanes, threads, y.size, lambda i, width: move(i, i * step + offset, width))
            return

        def row_body(row: Expr) -> None:
            at = unravel(row, outer)
            start = sum((i * s for i, s in zip(at, params.strides, strict=False) if s), offset)
            spans(inner, lanes, lambda i, width: move(row * inner + i, start + i * step, width))

        rows(prod(outer), threads, y.size, row_body)

    x, y = TensorType(params.dtype, params.x), TensorType(params.dtype, params.y)
    return primfunc([x], [y], body, raw=True)
