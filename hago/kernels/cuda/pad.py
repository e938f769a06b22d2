"""Pad by a value on GPUs (`hago.kernels.common.pad`). x and y may not overlap."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.flat import Expr, Flat, primfunc, unravel
from ..common.pad import Pad
from .families import Gpu
from .registry import computes
from .words import each_few, per_thread, read, write


@computes(Pad)
def pad(params: Pad, gpu: Gpu, threads: int) -> Any:
    """(x, value [1]) -> y, all of one type. What lies behind the last padded axis is moved as it is."""
    padded = [axis for axis in range(len(params.x)) if params.before[axis] or params.after[axis]]
    last = padded[-1] if padded else -1
    run = prod(params.x[last + 1 :])
    sizes, outs = params.x[: last + 1], params.y[: last + 1]

    def body(x: Flat, value: Flat, y: Flat) -> None:
        def element(index: Expr) -> tuple[Expr, Expr]:
            """Where x has the element, and whether it has it."""
            place: Expr = T.int32(0)
            inside: Expr = T.bool(True)
            for at, before, size, out in zip(unravel(index // run, outs), params.before, sizes, outs, strict=False):
                place = place * size + (at - before)
                if before > 0 or out - before > size:
                    inside = tirx.all(inside, at >= before, at < before + size)
            return T.bind(place * run + index % run), inside

        def few(index: Expr, lanes: int) -> None:
            filler = value.load(0)
            values = []
            for k in range(1 if run % lanes == 0 else lanes):
                place, inside = element(index + k)
                found = read(x, T.Select(inside, place, T.int32(0)), lanes if run % lanes == 0 else 1)
                values += [T.Select(inside, one, filler) for one in found]
            write(y, index, values)

        each_few(y.size, per_thread(gpu, y.size, y.dtype), few)

    x, y = TensorType(params.dtype, params.x), TensorType(params.dtype, params.y)
    return primfunc([x, TensorType(params.dtype, (1,))], [y], body, raw=True)
