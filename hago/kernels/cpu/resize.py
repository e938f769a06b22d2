"""Resize in float32 (`hago.kernels.common.resize`); the mode nearest is data movement. No two buffers may overlap."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.flat import Expr, Flat, all_lanes, primfunc, unravel
from ..common.movement import table_starts
from ..common.resize import Extrapolate, Linear, Resample, corners
from .families import Isa
from .registry import computes
from .rowwise import Register
from .vector import rows, spans


@computes(Linear)
def linear(params: Linear, isa: Isa, threads: int) -> Any:
    """(x float32, indices int32 [2 n], weights float32 [n]) -> y float32, n = sum of y.shape[axis] over axes.

    ``indices`` holds, axis by axis, all lower neighbours and then all upper ones, as offsets in elements; ``weights``
    holds the shares of the upper ones.
    """
    _, count = table_starts(params.axes, params.y)
    last = params.axes[-1]
    outer, run = params.y[: last + 1], prod(params.y[last + 1 :])

    def body(x: Flat, indices: Flat, weights: Flat, y: Flat) -> None:
        def row_body(row: Expr) -> None:
            found = corners(params, T.int32(0), unravel(row, outer), indices, weights)
            bound = [(T.bind(at), T.bind(share)) for at, share in found]

            def vector(i: Expr, width: int) -> None:
                total = None
                for at, share in bound:
                    term = x.load(at + i, width) * share
                    total = term if total is None else total + term
                y.store(row * run + i, total, width)

            spans(run, isa.lanes, vector)

        rows(prod(outer), threads, 4 * y.size, row_body)

    inputs = [
        TensorType("float32", params.x),
        TensorType("int32", (2 * count,)),
        TensorType("float32", (count,)),
    ]
    return primfunc(inputs, [TensorType("float32", params.y)], body)


@computes(Resample)
def resample(params: Resample, isa: Isa, threads: int) -> Any:
    """(x [before, in, run], positions int32 [out * taps], shares float32 [out * taps]) -> y [before, out, run].

    x and y are float32; positions are offsets in elements, multiples of ``run``.
    """
    out, run = params.y[params.axis], prod(params.y[params.axis + 1 :])
    before = prod(params.y[: params.axis])
    lower = params.x[params.axis] * run

    def body(x: Flat, positions: Flat, shares: Flat, y: Flat) -> None:
        def row_body(row: Expr) -> None:
            outer, index = unravel(row, (before, out))
            start, first = T.bind(outer * lower), T.bind(index * params.taps)

            def vector(i: Expr, width: int) -> None:
                total = Register(T.float32(0), "float32", width)
                with T.serial(0, params.taps) as tap:
                    at = start + positions.load(first + tap) + i
                    share = all_lanes(shares.load(first + tap), width)
                    total.set(total.value + x.load(at, width) * share)
                y.store(row * run + i, total.value, width)

            spans(run, isa.lanes, vector)

        rows(before * out, threads, params.taps * y.size, row_body)

    table = (out * params.taps,)
    inputs = [TensorType("float32", params.x), TensorType("int32", table), TensorType("float32", table)]
    return primfunc(inputs, [TensorType("float32", params.y)], body)


@computes(Extrapolate)
def extrapolate(params: Extrapolate, isa: Isa, threads: int) -> Any:
    """(x, value [1], flags int32 [sum of the shape]) -> y like x; a flag is 1 if its position lies outside."""
    shape = params.shape or (1,)
    starts = [sum(shape[:axis]) for axis in range(len(shape))]
    lead, run = shape[:-1], shape[-1]

    def body(x: Flat, value: Flat, flags: Flat, y: Flat) -> None:
        def row_body(row: Expr) -> None:
            at = unravel(row, lead) if lead else ()
            out = T.bind(sum((flags.load(starts[a] + i) for a, i in enumerate(at)), T.int32(0)))
            filled = value.load(0)
            with T.serial(0, run) as i:
                inside = out + flags.load(starts[-1] + i) == 0
                y.store(row * run + i, T.Select(inside, x.load(row * run + i), filled))

        rows(prod(lead), threads, y.size, row_body)

    tensor = TensorType(params.dtype, params.shape)
    flags = TensorType("int32", (sum(shape),))
    return primfunc([tensor, TensorType(params.dtype, (1,)), flags], [tensor], body)
