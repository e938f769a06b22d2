"""Resize: nearest on any element type, linear along up to two axes in float32.

Coordinates are those of the ONNX operator; they are computed here once, as tables of indices and weights, so
that the kernels know nothing of modes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from ..errors import UnsupportedOpError
from .base import Isa, KernelCall, NodeView, TensorType, emits
from .mapped import emit_mapped
from .movement import call, contiguous_strides, known
from .vector import Expr, Flat, primfunc, rows, spans, unravel

_NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@dataclass(frozen=True)
class Linear:
    """Linear interpolation along ``axes`` (one or two)."""

    x: tuple[int, ...]
    y: tuple[int, ...]
    axes: tuple[int, ...]


def linear(params: Linear, isa: Isa, threads: int) -> Any:
    """(x float32, indices int32 [2 n], weights float32 [n]) -> y, n = sum of y.shape[axis] over axes.

    ``indices`` holds for every axis all lower neighbours and then all upper ones, in elements; ``weights``
    the share of the upper one.
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
            corners: list[tuple[Expr, Expr]] = [(T.int32(0), T.float32(1))]
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


@emits("", "Resize")
def emit_resize(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    mode = node.attrs.get("mode", "nearest")
    coordinates = {axis: _coordinates(node, axis) for axis in range(len(x.shape))}
    if mode == "nearest":
        nearest = _NEAREST[node.attrs.get("nearest_mode", "round_prefer_floor")]
        return emit_mapped(
            node,
            {a: np.clip(nearest(at), 0, x.shape[a] - 1).astype(np.int64) for a, at in coordinates.items()},
        )
    axes = tuple(a for a in coordinates if not np.array_equal(coordinates[a], np.arange(x.shape[a])))
    plain = not node.attrs.get("antialias", 0) and not node.attrs.get("exclude_outside", 0)
    if mode != "linear" or len(axes) > 2 or x.dtype != "float32" or not plain:
        raise UnsupportedOpError(
            f"Resize is compiled in the modes nearest and, for float32 along two axes, linear; this is "
            f"{mode!r} of {x.dtype} along {len(axes)} axes",
            where=f"node {node.name!r}",
        )
    axes = axes or (0,)
    strides = contiguous_strides(x.shape)
    indices, weights = [], []
    for axis in axes:
        at = np.clip(coordinates[axis], 0, x.shape[axis] - 1)
        lower = np.floor(at)
        upper = np.minimum(lower + 1, x.shape[axis] - 1)
        indices += [lower * strides[axis], upper * strides[axis]]
        weights.append(at - lower)
    tables = (np.concatenate(indices).astype(np.int32), np.concatenate(weights).astype(np.float32))
    params = Linear(x.shape, y.shape, axes)
    return [call(node, params, linear, (node.inputs[0], *tables), node.outputs[0])]


def _coordinates(node: NodeView, axis: int) -> np.ndarray:
    """Where every output position along ``axis`` lies in the input.

    In float32, as ONNX Runtime computes it: a position half way between two elements must round alike.
    """
    size, out = node.type(node.inputs[0]).shape[axis], node.type(node.outputs[0]).shape[axis]
    scale = np.float32(_scale(node, axis, size, out))
    at, half = np.arange(out, dtype=np.float32), np.float32(0.5)
    kind = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    if kind == "asymmetric":
        return at / scale
    if kind == "align_corners":
        return at * np.float32(size - 1) / np.float32(out - 1) if out > 1 else np.zeros(1, np.float32)
    if kind == "pytorch_half_pixel":
        return (at + half) / scale - half if out > 1 else np.zeros(1, np.float32)
    if kind == "half_pixel":
        return (at + half) / scale - half
    if kind == "half_pixel_symmetric":
        adjustment = np.float32(out) / (scale * np.float32(size))
        return np.float32(size) * half * (1 - adjustment) + (at + half) / scale - half
    raise UnsupportedOpError(
        f"Resize with coordinate_transformation_mode {kind!r} is not compiled", where=f"node {node.name!r}"
    )


def _scale(node: NodeView, axis: int, size: int, out: int) -> float:
    """Output size over input size, as the model states it (the sizes themselves are rounded)."""
    scales = known(node, 2, "the scales")
    if scales is None or not scales.size:
        return out / size
    axes = [int(a) % len(node.type(node.inputs[0]).shape) for a in node.attrs.get("axes", ())]
    if not axes:
        return float(scales[axis])
    return float(scales[axes.index(axis)]) if axis in axes else 1.0
