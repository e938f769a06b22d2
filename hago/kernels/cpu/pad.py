"""Pad by a value (`hago.kernels.common.pad`).

x and y are seen as [outer, row]: everything from the last padded axis on is one row. x and y may not overlap.
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.flat import Expr, Flat, all_lanes, primfunc, unravel
from ..common.pad import Pad
from .families import Isa
from .registry import computes
from .vector import copy_lanes, rows, spans


@computes(Pad)
def pad(params: Pad, isa: Isa, threads: int) -> Any:
    """(x, value [1]) -> y, all of one type. Axes behind the last padded one are part of its rows."""
    padded = [axis for axis in range(len(params.x)) if params.before[axis] or params.after[axis]]
    last = padded[-1] if padded else 0
    run = prod(params.x[last + 1 :])
    outer, sizes = params.y[:last], params.x[:last]
    left, right = params.before[last] * run, params.after[last] * run
    width_in, width_out = params.x[last] * run, params.y[last] * run
    lanes = copy_lanes(isa, params.dtype)

    def body(x: Flat, value: Flat, y: Flat) -> None:
        filler = value.load(0)

        def fill(begin: Expr, count: int) -> None:
            def vector(i: Expr, width: int) -> None:
                y.store(begin + i, all_lanes(filler, width), width)

            spans(count, lanes, vector)

        def copy(row: Expr, start: Expr) -> None:
            """x [width_in] at ``start`` -> y [left + width_in + right] at ``row``."""
            fill(row, max(left, 0))
            count = width_in + min(left, 0) + min(right, 0)
            spans(
                count, lanes,
                lambda i, w: y.store(row + max(left, 0) + i, x.load(start + max(-left, 0) + i, w), w),
            )  # fmt: skip
            fill(row + width_out - max(right, 0), max(right, 0))

        def row_body(row: Expr) -> None:
            start: Expr = 0
            within: Expr = None
            for index, before, size, out in zip(unravel(row, outer), params.before, sizes, outer, strict=False):
                at = index - before
                start = start * size + at
                if before > 0 or out - before > size:
                    inside = T.And(at >= 0, at < size)
                    within = inside if within is None else T.And(within, inside)
            if within is None:
                copy(row * width_out, start * width_in)
                return
            with T.If(within):
                with T.Then():
                    copy(row * width_out, start * width_in)
                with T.Else():
                    fill(row * width_out, width_out)

        rows(prod(outer), threads, y.size, row_body)

    x, y = TensorType(params.dtype, params.x), TensorType(params.dtype, params.y)
    return primfunc([x, TensorType(params.dtype, (1,))], [y], body, raw=True)
