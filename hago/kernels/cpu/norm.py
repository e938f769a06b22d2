"""LayerNormalization in float32 over the last axes (Ba, Kiros and Hinton 2016).

x and y are seen as [rows, n], normalized along n, with a scale and a bias of n elements. A vector runs along n, and
the last one is moved back to end with the row. No two buffers may overlap.
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T

from ..common.flat import Expr, Flat, all_lanes, primfunc
from ..common.normalizations import LayerNorm
from .families import Isa
from .registry import computes
from .rowwise import Register, across, along, fresh, row_lanes
from .vector import rows

_REGISTERS = 8
"""A row of at most this many vectors stays in registers between the passes."""


@computes(LayerNorm)
def layer_norm(params: LayerNorm, isa: Isa, threads: int) -> Any:
    """(x [R, n], scale [n] [, bias [n]]) -> y [R, n] [, mean [R] [, inverse deviation [R]]], all float32.

    y = (x - mean) / sqrt(mean of (x - mean)^2 + epsilon) * scale + bias, in two passes for accuracy.
    """
    n, lanes = params.n, row_lanes(params.n, isa.lanes)
    unrolled = _REGISTERS if -(-n // lanes) <= _REGISTERS else 1
    inputs = 2 if params.bias is None else 3

    def body(*buffers: Flat) -> None:
        x, scale = buffers[:2]
        bias = buffers[2] if params.bias is not None else None
        y, statistics = buffers[inputs], buffers[inputs + 1 :]

        def row_body(row: Expr) -> None:
            begin = T.bind(row * n)

            def total(term: Any) -> Expr:
                """The sum over the row of ``term`` of each element."""
                sum_ = Register(T.float32(0), "float32", lanes)

                def add(i: Expr, seen: int) -> None:
                    value = term(x.load(begin + i, lanes))
                    sum_.set(sum_.value + fresh(value, seen, lanes, all_lanes(T.float32(0), lanes)))

                along(n, lanes, add, unrolled=unrolled)
                return across(sum_.value, lanes, lambda a, b: a + b)

            mean = T.bind(total(lambda value: value) / T.float32(n))

            def square(value: Expr) -> Expr:
                apart = T.bind(value - mean)
                return apart * apart

            variance = total(square) / T.float32(n)
            inverse = T.bind(T.float32(1) / T.sqrt(variance + T.float32(params.epsilon)))

            def finish(i: Expr, seen: int) -> None:
                value = (x.load(begin + i, lanes) - mean) * inverse * scale.load(i, lanes)
                y.store(begin + i, value if bias is None else value + bias.load(i, lanes), lanes)

            along(n, lanes, finish, unrolled=unrolled)
            for target, value in zip(statistics, (mean, inverse), strict=False):
                target.store(row, value)

        rows(prod(params.shape) // n, threads, 4 * x.size, row_body)

    return primfunc(params.inputs, params.outputs, body)
