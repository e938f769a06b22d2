"""Gather: rows of a tensor, chosen by indices that may be known only at run time.

x [outer, size, run]   indices [count]   y [outer, count, run] = x[:, indices]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.calls import KernelCall, NodeView
from ..common.flat import Expr, Flat, primfunc
from .families import Isa
from .movement import call
from .registry import emits
from .vector import copy_lanes, rows, spans


@dataclass(frozen=True)
class Gather:
    """Along ``axis`` of ``x``; the output is x.shape[:axis] + indices + x.shape[axis + 1:]."""

    dtype: str
    x: tuple[int, ...]
    index_dtype: str
    indices: tuple[int, ...]
    axis: int

    @property
    def y(self) -> tuple[int, ...]:
        """The shape of the result."""
        return (*self.x[: self.axis], *self.indices, *self.x[self.axis + 1 :])


def gather(params: Gather, isa: Isa, threads: int) -> Any:
    """(x, indices int32 or int64) -> y of x's type. Negative indices count from the end; all are clamped."""
    size, run = params.x[params.axis], prod(params.x[params.axis + 1 :])
    count, outer = prod(params.indices), prod(params.x[: params.axis])
    lanes = copy_lanes(isa, params.dtype)

    def body(x: Flat, indices: Flat, y: Flat) -> None:
        def row_body(row: Expr) -> None:
            wanted = T.cast(indices.load(row % count), "int32")
            wrapped = T.bind(T.Select(wanted < 0, wanted + size, wanted))
            chosen = T.bind(T.max(0, T.min(size - 1, wrapped)))
            start = T.bind((row // count * size + chosen) * run)
            spans(run, lanes, lambda i, width: y.store(row * run + i, x.load(start + i, width), width))

        rows(outer * count, threads, y.size, row_body)

    x, y = TensorType(params.dtype, params.x), TensorType(params.dtype, params.y)
    return primfunc([x, TensorType(params.index_dtype, params.indices)], [y], body)


@emits("", "Gather")
def emit_gather(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """Gather along one axis."""
    x, indices = (node.type(name) for name in node.inputs)
    axis = int(node.attrs.get("axis", 0)) % len(x.shape)
    params = Gather(x.dtype, x.shape, indices.dtype, indices.shape, axis)
    return [call(node, params, gather, node.inputs, node.outputs[0])]
