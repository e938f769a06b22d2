"""Data movement by a table of indices per axis: Tile, nearest Resize, Pad that repeats.

    y[i, j, ...] = x[table_0[i], table_1[j], ...]      x, y of one type and rank

The tables are one input int32, one after the other for the axes that have one, their entries already multiplied by
x's stride along the axis. Axes behind the last of them are copied as whole rows. The caller guarantees that every
entry lies inside x, and that x and y do not overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.calls import KernelCall, NodeView
from ..common.flat import Expr, Flat, primfunc, unravel
from .families import Isa
from .movement import call, contiguous_strides, emit_copy
from .registry import emits
from .vector import copy_lanes, rows, spans


@dataclass(frozen=True)
class Mapped:
    """From shape ``x`` to shape ``y``; ``axes`` have tables, the others stay as they are."""

    dtype: str
    x: tuple[int, ...]
    y: tuple[int, ...]
    axes: tuple[int, ...]


def mapped(params: Mapped, isa: Isa, threads: int) -> Any:
    """(x, tables int32 [sum of y.shape[axis] over axes]) -> y."""
    lanes = copy_lanes(isa, params.dtype)
    strides = contiguous_strides(params.x)
    begin, starts = 0, {}
    for axis in params.axes:
        starts[axis] = begin
        begin += params.y[axis]
    last = params.axes[-1]
    outer, run = params.y[:last], prod(params.y[last + 1 :])

    def body(x: Flat, tables: Flat, y: Flat) -> None:
        def at(axis: int, index: Expr) -> Expr:
            """Elements of x before position ``index`` of the output, along one axis."""
            if axis in starts:
                return tables.load(starts[axis] + index)
            return index * strides[axis]

        def row_body(row: Expr) -> None:
            """x [run] -> y [run]: all that lies behind one position of the last axis with a table."""
            coordinates = unravel(row, params.y[: last + 1])
            start = T.bind(sum((at(axis, i) for axis, i in enumerate(coordinates)), T.int32(0)))
            spans(run, lanes, lambda i, width: y.store(row * run + i, x.load(start + i, width), width))

        def elements(row: Expr) -> None:
            """y [y.shape[last]]: the last axis has a table, so single elements are gathered."""
            start = T.bind(sum((at(axis, i) for axis, i in enumerate(unravel(row, outer))), T.int32(0)))
            width_of_row = params.y[last]

            def vector(i: Expr, width: int) -> None:
                index = tables.load(starts[last] + i, width) + start
                y.store(row * width_of_row + i, x.gather(index), width)

            spans(width_of_row, lanes, vector)

        if run > 1:
            rows(prod(params.y[: last + 1]), threads, y.size, row_body)
        else:
            rows(prod(outer), threads, 2 * y.size, elements)

    x, y = TensorType(params.dtype, params.x), TensorType(params.dtype, params.y)
    return primfunc([x, TensorType("int32", (begin,))], [y], body, raw=False)


def emit_mapped(node: NodeView, indices: Mapping[int, np.ndarray]) -> list[KernelCall]:
    """The call for a node whose output takes the input's ``indices[axis]`` along these axes."""
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    strides = contiguous_strides(x.shape)
    kept = {a: i for a, i in sorted(indices.items()) if not np.array_equal(i, np.arange(x.shape[a]))}
    if not kept:
        return emit_copy(node)
    tables = np.concatenate([index * strides[axis] for axis, index in kept.items()]).astype(np.int32)
    params = Mapped(x.dtype, x.shape, y.shape, tuple(kept))
    return [call(node, params, mapped, (node.inputs[0], tables), node.outputs[0])]


@emits("", "Tile")
def emit_tile(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """Tile: the input repeated along its axes."""
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    return emit_mapped(node, {a: np.arange(y.shape[a]) % size for a, size in enumerate(x.shape)})
