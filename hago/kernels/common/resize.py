"""Resize, on any target: nearest on any element type, all other modes in float32.

`hago.lower.resize_taps` gives the input positions and shares that make an output position, so the kernels know
nothing of modes. Two neighbours along one or two axes are one kernel; everything else goes axis by axis. Every position
lies inside x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from tvm.script.ir_builder import tirx as T

from ...errors import UnsupportedOpError
from ...lower.resize_taps import Resizing, Taps
from ...tensor import TensorType
from .calls import NodeView, known
from .flat import Expr, Flat
from .mapped import plan_mapped
from .movement import contiguous_strides, plan, table_starts
from .plans import Plan, plans


@dataclass(frozen=True)
class Linear:
    """Linear interpolation from shape ``x`` to shape ``y`` along ``axes`` (one or two)."""

    x: tuple[int, ...]
    y: tuple[int, ...]
    axes: tuple[int, ...]


def corners(
    params: Linear, start: Expr, places: Sequence[Expr], indices: Flat, weights: Flat
) -> list[tuple[Expr, Expr]]:
    """The 2 or 4 elements of x that make one of y at ``places``: the offset of each, from ``start`` on, and its share.

    ``indices`` holds, axis by axis, all lower neighbours and then all upper ones, as offsets in elements; ``weights``
    holds the shares of the upper ones.
    """
    strides, (starts, _) = contiguous_strides(params.x), table_starts(params.axes, params.y)
    found: list[tuple[Expr, Expr]] = [(start, T.float32(1))]
    for axis, place in enumerate(places):
        if axis not in starts:
            found = [(at + place * strides[axis], share) for at, share in found]
            continue
        begin = starts[axis]
        lower = indices.load(2 * begin + place)
        upper = indices.load(2 * begin + params.y[axis] + place)
        share_up = weights.load(begin + place)
        found = [
            (at + neighbour, share * part)
            for at, share in found
            for neighbour, part in ((lower, T.float32(1) - share_up), (upper, share_up))
        ]
    return found


@dataclass(frozen=True)
class Resample:
    """A weighted sum of ``taps`` input positions along one ``axis``, from shape ``x`` to shape ``y``."""

    x: tuple[int, ...]
    y: tuple[int, ...]
    axis: int
    taps: int


@dataclass(frozen=True)
class Extrapolate:
    """x if all flags along its axes are 0, else a value."""

    shape: tuple[int, ...]
    dtype: str


@plans("", "Resize")
def plan_resize(node: NodeView) -> Sequence[Plan]:
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
    fill = plan(Extrapolate(y.shape, y.dtype), (inside, value, flags), node.outputs[0])
    return [*first, replace(last, temporaries={**last.temporaries, inside: y}), fill]


def _inside(node: NodeView, along: Mapping[int, Taps], mode: str) -> list[Plan]:
    """The calls of a Resize none of whose positions lie outside the input."""
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    if mode == "nearest":
        return plan_mapped(node, {a: t.positions[:, 0] for a, t in along.items()})
    if x.dtype != "float32":
        raise UnsupportedOpError(
            f"Resize in the mode {mode!r} is compiled for float32, not for {x.dtype}", where=f"node {node.name!r}"
        )
    resized = {a: t for a, t in along.items() if not t.identity}
    if not resized:
        return plan_mapped(node, {})
    if len(resized) <= 2 and all(t.positions.shape[1] == 2 for t in resized.values()):
        return [_neighbours(node, x, y, resized)]
    return _axis_by_axis(node, x, resized)


def _neighbours(node: NodeView, x: TensorType, y: TensorType, resized: Mapping[int, Taps]) -> Plan:
    strides = contiguous_strides(x.shape)
    indices = [t.positions[:, side] * strides[axis] for axis, t in resized.items() for side in (0, 1)]
    weights = [t.shares[:, 1] for t in resized.values()]
    tables = (np.concatenate(indices).astype(np.int32), np.concatenate(weights).astype(np.float32))
    params = Linear(x.shape, y.shape, tuple(resized))
    return plan(params, (node.inputs[0], *tables), node.outputs[0])


def _axis_by_axis(node: NodeView, x: TensorType, resized: Mapping[int, Taps]) -> list[Plan]:
    """One call for each axis; those that shrink most come first, so that less is left to do."""
    calls: list[Plan] = []
    order = sorted(resized, key=lambda axis: len(resized[axis].positions) / x.shape[axis])
    source, shape = node.inputs[0], x.shape
    for axis in order:
        table = resized[axis]
        after = (*shape[:axis], len(table.positions), *shape[axis + 1 :])
        output = node.outputs[0] if axis == order[-1] else f"{node.outputs[0]}:{axis}"
        params = Resample(shape, after, axis, table.positions.shape[1])
        positions = (table.positions * prod(shape[axis + 1 :])).astype(np.int32).reshape(-1)
        made = plan(params, (source, positions, table.shares.astype(np.float32).reshape(-1)), output)
        last = output == node.outputs[0]
        calls.append(made if last else replace(made, temporaries={output: TensorType("float32", after)}))
        source, shape = output, after
    return calls
