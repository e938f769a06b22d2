"""Resize: nearest on any element type, all other modes in float32.

`hago.lower.resize_taps` gives the input positions and shares that make an output position, so the kernels know
nothing of modes. Two neighbours along one or two axes are one kernel; everything else goes axis by axis. The caller
guarantees that every position lies inside x, and that no two buffers overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from ...errors import UnsupportedOpError
from ...lower.resize_taps import Resizing, Taps
from ...tensor import TensorType
from ..common.calls import KernelCall, NodeView, known
from ..common.flat import Expr, Flat, all_lanes, primfunc, unravel
from .families import Isa
from .mapped import emit_mapped
from .movement import call, contiguous_strides
from .registry import emits
from .rowwise import Register
from .vector import rows, spans


@dataclass(frozen=True)
class Linear:
    """Linear interpolation from shape ``x`` to shape ``y`` along ``axes`` (one or two)."""

    x: tuple[int, ...]
    y: tuple[int, ...]
    axes: tuple[int, ...]


def linear(params: Linear, isa: Isa, threads: int) -> Any:
    """(x float32, indices int32 [2 n], weights float32 [n]) -> y float32, n = sum of y.shape[axis] over axes.

    ``indices`` holds, axis by axis, all lower neighbours and then all upper ones, as offsets in elements; ``weights``
    holds the shares of the upper ones.
    """
    strides = contiguous_strides(params.x)
    count, starts = 0, {}
    for axis in params.axes:
        starts[axis] = count
        count += params.y[axis]
    last = params.axes[-1]
    outer, run = params.y[: last + 1], prod(params.y[last + 1 :])

    def body(x: Flat, indices: Flat, weights: Flat, y: Flat) -> None:
        def row_body(row: Expr) -> None:
            corners: list[tuple[Expr, Expr]] = [(T.int32(0), T.float32(1))]  # (offset in x, share): 2 or 4 in the end
            for axis, index in enumerate(unravel(row, outer)):
                if axis not in starts:
                    corners = [(at + index * strides[axis], share) for at, share in corners]
                    continue
                begin = starts[axis]
                lower = indices.load(2 * begin + index)
                upper = indices.load(2 * begin + params.y[axis] + index)
                share_up = weights.load(begin + index)
                corners = [
                    (at + neighbour, share * part)
                    for at, share in corners
                    for neighbour, part in ((lower, T.float32(1) - share_up), (upper, share_up))
                ]
            bound = [(T.bind(at), T.bind(share)) for at, share in corners]

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


@dataclass(frozen=True)
class Resample:
    """A weighted sum of ``taps`` input positions along one ``axis``, from shape ``x`` to shape ``y``."""

    x: tuple[int, ...]
    y: tuple[int, ...]
    axis: int
    taps: int


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


@dataclass(frozen=True)
class Extrapolate:
    """x if all flags along its axes are 0, else a value."""

    shape: tuple[int, ...]
    dtype: str


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


@emits("", "Resize")
def emit_resize(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """Resize with constant sizes."""
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    optional = [known(node, i, what) for i, what in ((1, "the region"), (2, "the scales"), (3, "the sizes"))]
    resizing = Resizing(node.attrs, x.shape, y.shape, *optional)
    along = {axis: resizing.taps(axis) for axis in range(len(x.shape))}
    if not any(t.outside.any() for t in along.values()):
        return _inside(node, along, resizing.mode)
    inside = f"{node.outputs[0]}:inside"
    view = replace(node, outputs=(inside,), types={**node.types, inside: y})
    *first, last = _inside(view, along, resizing.mode)
    flags = np.concatenate([t.outside for t in along.values()]).astype(np.int32)
    value = np.array([node.attrs.get("extrapolation_value", 0.0)], y.dtype)
    fill = call(node, Extrapolate(y.shape, y.dtype), extrapolate, (inside, value, flags), node.outputs[0])
    return [*first, replace(last, temporaries={**last.temporaries, inside: y}), fill]


def _inside(node: NodeView, along: Mapping[int, Taps], mode: str) -> list[KernelCall]:
    """The calls of a Resize none of whose positions lie outside the input."""
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    if mode == "nearest":
        return emit_mapped(node, {a: t.positions[:, 0] for a, t in along.items()})
    if x.dtype != "float32":
        raise UnsupportedOpError(
            f"Resize in the mode {mode!r} is compiled for float32, not for {x.dtype}", where=f"node {node.name!r}"
        )
    resized = {a: t for a, t in along.items() if not t.identity}
    if not resized:
        return emit_mapped(node, {})
    if len(resized) <= 2 and all(t.positions.shape[1] == 2 for t in resized.values()):
        return [_neighbours(node, x, y, resized)]
    return _axis_by_axis(node, x, resized)


def _neighbours(node: NodeView, x: TensorType, y: TensorType, resized: Mapping[int, Taps]) -> KernelCall:
    strides = contiguous_strides(x.shape)
    indices = [t.positions[:, side] * strides[axis] for axis, t in resized.items() for side in (0, 1)]
    weights = [t.shares[:, 1] for t in resized.values()]
    tables = (np.concatenate(indices).astype(np.int32), np.concatenate(weights).astype(np.float32))
    params = Linear(x.shape, y.shape, tuple(resized))
    return call(node, params, linear, (node.inputs[0], *tables), node.outputs[0])


def _axis_by_axis(node: NodeView, x: TensorType, resized: Mapping[int, Taps]) -> list[KernelCall]:
    """One call for each axis; those that shrink most come first, so that less is left to do."""
    calls: list[KernelCall] = []
    order = sorted(resized, key=lambda axis: len(resized[axis].positions) / x.shape[axis])
    source, shape = node.inputs[0], x.shape
    for axis in order:
        table = resized[axis]
        after = (*shape[:axis], len(table.positions), *shape[axis + 1 :])
        output = node.outputs[0] if axis == order[-1] else f"{node.outputs[0]}:{axis}"
        params = Resample(shape, after, axis, table.positions.shape[1])
        positions = (table.positions * prod(shape[axis + 1 :])).astype(np.int32).reshape(-1)
        made = call(node, params, resample, (source, positions, table.shares.astype(np.float32).reshape(-1)), output)
        last = output == node.outputs[0]
        calls.append(made if last else replace(made, temporaries={output: TensorType("float32", after)}))
        source, shape = output, after
    return calls
