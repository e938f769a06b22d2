"""Resize in float32 on GPUs (`hago.kernels.common.resize`); the mode nearest is data movement.

No two buffers may overlap.
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.flat import Expr, Flat, primfunc, unravel
from ..common.movement import table_starts
from ..common.resize import Extrapolate, Linear, Resample, corners
from .families import Gpu
from .registry import computes
from .words import each_few, per_thread, read, write


@computes(Linear)
def linear(params: Linear, gpu: Gpu, threads: int) -> Any:
    """(x float32, indices int32 [2 n], weights float32 [n]) -> y float32, n = sum of y.shape[axis] over axes.

    ``indices`` holds, axis by axis, all lower neighbours and then all upper ones, as offsets in elements; ``weights``
    holds the shares of the upper ones.
    """
    _, count = table_starts(params.axes, params.y)
    last = params.axes[-1]
    outer, run = params.y[: last + 1], prod(params.y[last + 1 :])

    def body(x: Flat, indices: Flat, weights: Flat, y: Flat) -> None:
        def few(index: Expr, lanes: int) -> None:
            terms = []
            for at, share in corners(params, index % run, unravel(T.bind(index // run), outer), indices, weights):
                factor = T.bind(share)
                terms.append([value * factor for value in read(x, T.bind(at), lanes)])
            write(y, index, [sum(parts[1:], parts[0]) for parts in zip(*terms, strict=True)])

        each_few(y.size, per_thread(gpu, y.size, "float32", run), few)

    inputs = [TensorType("float32", params.x), TensorType("int32", (2 * count,)), TensorType("float32", (count,))]
    return primfunc(inputs, [TensorType("float32", params.y)], body)


@computes(Resample)
def resample(params: Resample, gpu: Gpu, threads: int) -> Any:
    """(x [before, in, run], positions int32 [out * taps], shares float32 [out * taps]) -> y [before, out, run].

    x and y are float32; positions are offsets in elements, multiples of ``run``.
    """
    out, run = params.y[params.axis], prod(params.y[params.axis + 1 :])
    lower = params.x[params.axis] * run

    def body(x: Flat, positions: Flat, shares: Flat, y: Flat) -> None:
        def few(index: Expr, lanes: int) -> None:
            row = T.bind(index // run)
            start, first = T.bind(row // out * lower + index % run), T.bind(row % out * params.taps)
            totals = T.alloc_buffer((lanes,), "float32", scope="local")
            for k in range(lanes):
                T.buffer_store(totals, T.float32(0), [k])
            with T.serial(0, params.taps) as tap:
                at, share = start + positions.load(first + tap), shares.load(first + tap)
                for k, value in enumerate(read(x, at, lanes)):
                    T.buffer_store(totals, totals[k] + value * share, [k])
            write(y, index, [totals[k] for k in range(lanes)])

        each_few(y.size, per_thread(gpu, y.size, "float32", run), few)

    table = (out * params.taps,)
    inputs = [TensorType("float32", params.x), TensorType("int32", table), TensorType("float32", table)]
    return primfunc(inputs, [TensorType("float32", params.y)], body)


@computes(Extrapolate)
def extrapolate(params: Extrapolate, gpu: Gpu, threads: int) -> Any:
    """(x, value [1], flags int32 [sum of the shape]) -> y like x; a flag is 1 if its position lies outside."""
    shape = params.shape or (1,)
    starts = [sum(shape[:axis]) for axis in range(len(shape))]

    def body(x: Flat, value: Flat, flags: Flat, y: Flat) -> None:
        def few(index: Expr, lanes: int) -> None:
            found, filler = [], value.load(0)
            for k, one in enumerate(read(x, index, lanes)):
                at = unravel(index + k, shape)
                outside = sum((flags.load(start + i) for start, i in zip(starts, at, strict=True)), T.int32(0))
                found.append(T.Select(T.EQ(outside, 0), one, filler))
            write(y, index, found)

        each_few(y.size, per_thread(gpu, y.size, y.dtype), few)

    tensor = TensorType(params.dtype, params.shape)
    return primfunc([tensor, TensorType(params.dtype, (1,)), TensorType("int32", (sum(shape),))], [tensor], body)
