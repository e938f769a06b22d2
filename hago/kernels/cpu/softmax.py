"""Softmax and LogSoftmax in float32 along any axis, after subtracting the largest element.

x and y are seen as [outer, n, inner], reduced along n. With inner = 1 a vector runs along n, and the last one is
moved back to end with the row; else it runs along inner, one column in each lane. x and y may not overlap.
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common import math as vm
from ..common.flat import Expr, Flat, all_lanes, primfunc
from ..common.normalizations import Softmax
from .families import Isa
from .registry import computes
from .rowwise import Register, across, along, fresh, row_lanes
from .vector import rows, spans

_REGISTERS = 8
"""A row of at most this many vectors stays in registers between the passes."""


@computes(Softmax)
def softmax(params: Softmax, isa: Isa, threads: int) -> Any:
    """(x float32) -> y float32 = e^(x - max) / sum, or x - max - ln sum."""
    inner, lanes = params.inner, row_lanes(params.n, isa.lanes)
    in_registers = -(-params.n // lanes) <= _REGISTERS

    def body(x: Flat, y: Flat) -> None:
        def row(outer: Expr) -> None:
            begin = T.bind(outer * params.n * inner)
            if inner > 1:
                spans(inner, 2 * isa.lanes, lambda i, width: _column(params, x, y, begin + i, width))
            elif in_registers:
                _short_row(params, x, y, begin, lanes)
            else:
                _long_row(params, x, y, begin, lanes)

        rows(params.outer, threads, 24 * x.size, row)

    x = TensorType("float32", params.shape)
    return primfunc([x], [x], body)


def _finish(params: Softmax, total: Expr, lanes: int) -> tuple[Expr, Any]:
    """What the last pass does to e^(x - max), or to x - max if the result is a logarithm."""
    if params.log:
        offset = vm.log(total, lanes)
        return offset, lambda value: value - offset
    factor = T.bind(T.float32(1) / total)
    return factor, lambda value: value * factor


def _short_row(params: Softmax, x: Flat, y: Flat, begin: Expr, lanes: int) -> None:
    """A row [n] of a few vectors, read once and written once."""
    pieces: list[tuple[int, int, Expr]] = []
    along(params.n, lanes, lambda i, seen: pieces.append((i, seen, x.load(begin + i, lanes))), unrolled=_REGISTERS)
    top = pieces[0][2]
    for _, _, value in pieces[1:]:
        top = T.max(top, value)
    largest = across(top, lanes, T.max)  # [lanes] -> one number
    total: Expr = None
    kept: list[tuple[int, Expr]] = []
    for i, seen, value in pieces:
        less = T.bind(value - largest)
        power = vm.exp(less, lanes)
        kept.append((i, less if params.log else power))
        power = fresh(power, seen, lanes, all_lanes(T.float32(0), lanes))
        total = power if total is None else total + power
    _, finish = _finish(params, across(total, lanes, lambda a, b: a + b), 1)
    for i, value in kept:
        y.store(begin + i, finish(value), lanes)


def _long_row(params: Softmax, x: Flat, y: Flat, begin: Expr, lanes: int) -> None:
    """Three passes over a row [n]: the largest, the sum, the result."""
    n = params.n
    top = Register(T.float32("-inf"), "float32", lanes)
    along(n, lanes, lambda i, seen: top.set(T.max(top.value, x.load(begin + i, lanes))))
    largest = across(top.value, lanes, T.max)
    total = Register(T.float32(0), "float32", lanes)

    def add(i: Expr, seen: int) -> None:
        less = T.bind(x.load(begin + i, lanes) - largest)
        power = vm.exp(less, lanes)
        y.store(begin + i, less if params.log else power, lanes)
        total.set(total.value + fresh(power, seen, lanes, all_lanes(T.float32(0), lanes)))

    along(n, lanes, add)
    _, finish = _finish(params, across(total.value, lanes, lambda a, b: a + b), 1)

    def scale(i: Expr, seen: int) -> None:
        value = y.load(begin + i, lanes)
        y.store(begin + i, fresh(finish(value), seen, lanes, value), lanes)

    along(n, lanes, scale)


def _column(params: Softmax, x: Flat, y: Flat, begin: Expr, lanes: int) -> None:
    """Neighbouring columns [n, lanes], one in each lane."""
    n, step = params.n, params.inner
    top = Register(T.float32("-inf"), "float32", lanes)
    with T.serial(0, n) as i:
        top.set(T.max(top.value, x.load(begin + i * step, lanes)))
    largest = top.get()
    total = Register(T.float32(0), "float32", lanes)
    with T.serial(0, n) as i:
        less = T.bind(x.load(begin + i * step, lanes) - largest)
        power = vm.exp(less, lanes)
        total.set(total.value + power)
        y.store(begin + i * step, less if params.log else power, lanes)
    _, finish = _finish(params, total.get(), lanes)
    with T.serial(0, n) as i:
        y.store(begin + i * step, finish(y.load(begin + i * step, lanes)), lanes)
