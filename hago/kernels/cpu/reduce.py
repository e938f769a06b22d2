"""Reductions over neighbouring axes: ReduceMean, ReduceSum, ReduceMax ..., and ArgMax, ArgMin along one axis.

x is seen as [outer, n, inner] and y as [outer, inner]. With inner = 1 a vector runs along n, and the last one is
moved back to end with the row; else it runs along inner, one column in each lane. x and y may not overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common import math as vm
from ..common.calls import KernelCall, NodeView, known
from ..common.flat import Expr, Flat, all_lanes, primfunc, typed
from .fallback import emit_fallback
from .families import Isa
from .registry import emits
from .rowwise import Combine, Register, across, along, fresh, row_lanes
from .vector import copy_lanes, rows, spans


@dataclass(frozen=True)
class Reduce:
    """Over the middle of ``x``, seen as [outer, n, inner]."""

    op: str
    dtype: str
    x: tuple[int, ...]
    y: tuple[int, ...]
    outer: int
    n: int
    inner: int


@dataclass(frozen=True)
class _Kind:
    """combine(start, before(x) ...), then after."""

    combine: Combine
    before: Callable[[Expr], Expr] = lambda value: value
    extreme: int = 0  # 1: a maximum, -1: a minimum, 0: a sum


def _square(value: Expr) -> Expr:
    held = T.bind(value)
    return held * held


def _is_real(value: Expr) -> bool:
    return str(value.ty.dtype).startswith("float")


_SUM = _Kind(lambda a, b: a + b)
_KINDS = {
    "ReduceSum": _SUM,
    "ReduceMean": _SUM,
    "ReduceSumSquare": _Kind(_SUM.combine, _square),
    "ReduceL2": _Kind(_SUM.combine, _square),
    "ReduceL1": _Kind(_SUM.combine, lambda value: T.abs(value)),
    "ReduceMax": _Kind(lambda a, b: vm.maximum(a, b) if _is_real(a) else T.max(a, b), extreme=1),
    "ReduceMin": _Kind(lambda a, b: vm.minimum(a, b) if _is_real(a) else T.min(a, b), extreme=-1),
}
_FLOAT_ONLY = {"ReduceMean", "ReduceL2", "ReduceL1"}
_TYPES = ("float32", "float64", "int32", "int64", "uint8", "int8")


def reduction(params: Reduce, isa: Isa, threads: int) -> Any:
    """(x [outer, n, inner]) -> y [outer, inner], both of ``dtype``."""
    kind, dtype = _KINDS[params.op], params.dtype
    start = _start(kind, dtype)

    def finish(value: Expr) -> Expr:
        if params.op == "ReduceMean":
            return value / getattr(T, dtype)(params.n)
        return T.sqrt(value) if params.op == "ReduceL2" else value

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
            y.store(row, finish(across(total.value, lanes, kind.combine)))

        def columns(row: Expr) -> None:
            """x [n, inner] -> y [inner]."""
            begin = T.bind(row * params.n * params.inner)

            def vector(c: Expr, lanes: int) -> None:
                total = Register(start, dtype, lanes)
                with T.serial(0, params.n) as i:
                    value = x.load(begin + i * params.inner + c, lanes)
                    total.set(kind.combine(total.value, kind.before(value)))
                y.store(row * params.inner + c, finish(total.value), lanes)

            spans(params.inner, 4 * copy_lanes(isa, dtype), vector)

        rows(params.outer, threads, x.size, whole_row if params.inner == 1 else columns)

    return primfunc([TensorType(dtype, params.x)], [TensorType(dtype, params.y)], body)


def _start(kind: _Kind, dtype: str) -> Expr:
    """The neutral element of the reduction."""
    number = getattr(T, dtype)
    if not kind.extreme:
        return number(0)
    if dtype.startswith("float"):
        return number("-inf" if kind.extreme > 0 else "inf")
    info = np.iinfo(dtype)
    return number(int(info.min if kind.extreme > 0 else info.max))


@emits("", *_KINDS)
def emit_reduction(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """Reductions over some axes."""
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    given = known(node, 1, "the axes")
    chosen = node.attrs.get("axes") if given is None else given.tolist()
    if not chosen and node.attrs.get("noop_with_empty_axes", 0):
        return emit_fallback(node, isa)
    axes = {int(a) % len(x.shape) for a in chosen} if chosen else set(range(len(x.shape)))
    axes = {a for a in axes if x.shape[a] > 1}
    if not axes:
        axes = {len(x.shape) - 1} if x.shape and x.shape[-1] == 1 else set()
    between = [a for a in range(min(axes, default=0), max(axes, default=-1) + 1) if a not in axes]
    usable = x.dtype in _TYPES[: 2 if node.op in _FLOAT_ONLY else None]
    apart = any(x.shape[a] > 1 for a in between)
    if apart and usable and _KINDS[node.op].extreme:
        return _one_by_one(node, x, y, sorted(axes))
    if not axes or apart or not usable:
        return emit_fallback(node, isa)
    outer, inner = prod(x.shape[: min(axes)]), prod(x.shape[max(axes) + 1 :])
    n = prod(x.shape[min(axes) : max(axes) + 1])
    params = Reduce(node.op, x.dtype, x.shape, y.shape, outer, n, inner)
    return [KernelCall("reduce", params, reduction, node.inputs[:1], node.outputs, node.layer)]


def _one_by_one(node: NodeView, x: TensorType, y: TensorType, axes: Sequence[int]) -> list[KernelCall]:
    """A maximum over several axes, one axis after the other; TVM's own loops would lose NaN."""
    calls: list[KernelCall] = []
    name, shape = node.inputs[0], x.shape
    for axis in axes:
        last = axis == axes[-1]
        after = y.shape if last else (*shape[:axis], 1, *shape[axis + 1 :])
        output = node.outputs[0] if last else f"{node.outputs[0]}:{axis}"
        params = Reduce(node.op, x.dtype, shape, after, prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))
        temporaries = {} if last else {output: TensorType(x.dtype, after)}
        calls.append(KernelCall("reduce", params, reduction, (name,), (output,), node.layer, temporaries))
        name, shape = output, after
    return calls


@dataclass(frozen=True)
class ArgExtreme:
    """Index of the largest (or ``least``) along the middle of [outer, n, inner]; of equals, the first (or ``last``)."""

    dtype: str
    x: tuple[int, ...]
    y: tuple[int, ...]
    outer: int
    n: int
    inner: int
    least: bool
    last: bool


def arg_extreme(params: ArgExtreme, isa: Isa, threads: int) -> Any:
    """(x [outer, n, inner] of ``dtype``) -> y int64 [outer, inner]."""
    dtype, n, inner = params.dtype, params.n, params.inner
    combine: Combine = (lambda a, b: T.min(a, b)) if params.least else (lambda a, b: T.max(a, b))
    start = _start(_Kind(combine, extreme=-1 if params.least else 1), dtype)

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


@emits("", "ArgMax", "ArgMin")
def emit_arg_extreme(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """ArgMax and ArgMin."""
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    if x.dtype not in ("float32", "uint8", "int8", "int32"):
        return emit_fallback(node, isa)
    axis = int(node.attrs.get("axis", 0)) % len(x.shape)
    outer, inner = prod(x.shape[:axis]), prod(x.shape[axis + 1 :])
    least, last = node.op == "ArgMin", bool(node.attrs.get("select_last_index", 0))
    params = ArgExtreme(x.dtype, x.shape, y.shape, outer, x.shape[axis], inner, least, last)
    return [KernelCall("reduce", params, arg_extreme, node.inputs, node.outputs, node.layer)]
