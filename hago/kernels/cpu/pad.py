"""Pad of any element type: by a value, or by elements of the input (reflect, edge, wrap).

x and y are seen as [outer, row]: everything from the last padded axis on is one row. x and y may not overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from ...errors import UnsupportedOpError
from ...tensor import TensorType
from ..common.calls import KernelCall, NodeView, known
from ..common.flat import Expr, Flat, all_lanes, primfunc, unravel
from .families import Isa
from .mapped import emit_mapped
from .movement import call
from .registry import emits
from .vector import copy_lanes, rows, spans


@dataclass(frozen=True)
class Pad:
    """``before`` and ``after``: how many elements of a value surround each axis of ``x``; negative numbers crop."""

    dtype: str
    x: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def y(self) -> tuple[int, ...]:
        """The shape of the result."""
        return tuple(b + size + a for b, size, a in zip(self.before, self.x, self.after, strict=True))


def pad(params: Pad, isa: Isa, threads: int) -> Any:
    """(x, value [1]) -> y, all of one type. Axes behind the last padded one are part of its rows."""
    padded = [axis for axis in range(len(params.x)) if params.before[axis] or params.after[axis]]
    last = padded[-1] if padded else 0
    run = prod(params.x[last + 1 :])
    outer, sizes = params.y[:last], params.x[:last]
    left, right = params.before[last] * run, params.after[last] * run
    width_in, width_out = params.x[last] * run, params.y[last] * run
    lanes = copy_lanes(isa, params.dtype)

    def body(x: Flat, value: Flat, y: Flat) -> None:
        filler = value.load(0)

        def fill(begin: Expr, count: int) -> None:
            def vector(i: Expr, width: int) -> None:
                y.store(begin + i, all_lanes(filler, width), width)

            spans(count, lanes, vector)

        def copy(row: Expr, start: Expr) -> None:
            """x [width_in] at ``start`` -> y [left + width_in + right] at ``row``."""
            fill(row, max(left, 0))
            count = width_in + min(left, 0) + min(right, 0)
            spans(
                count, lanes,
                lambda i, w: y.store(row + max(left, 0) + i, x.load(start + max(-left, 0) + i, w), w),
            )  # fmt: skip
            fill(row + width_out - max(right, 0), max(right, 0))

        def row_body(row: Expr) -> None:
            start: Expr = 0
            within: Expr = None
            for index, before, size, out in zip(unravel(row, outer), params.before, sizes, outer, strict=False):
                at = index - before
                start = start * size + at
                if before > 0 or out - before > size:
                    inside = T.And(at >= 0, at < size)
                    within = inside if within is None else T.And(within, inside)
            if within is None:
                copy(row * width_out, start * width_in)
                return
            with T.If(within):
                with T.Then():
                    copy(row * width_out, start * width_in)
                with T.Else():
                    fill(row * width_out, width_out)

        rows(prod(outer), threads, y.size, row_body)

    x, y = TensorType(params.dtype, params.x), TensorType(params.dtype, params.y)
    return primfunc([x, TensorType(params.dtype, (1,))], [y], body, raw=True)


@emits("", "Pad")
def emit_pad(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """Pad with constant widths."""
    x = node.type(node.inputs[0])
    given = known(node, 1, "the pads")
    pads = np.asarray(node.attrs.get("pads", ()) if given is None else given, np.int64)
    axes = known(node, 3, "the axes")
    chosen = np.arange(len(x.shape)) if axes is None else axes % len(x.shape)
    before, after = np.zeros((2, len(x.shape)), np.int64)
    before[chosen], after[chosen] = pads[: len(chosen)], pads[len(chosen) :]
    mode = node.attrs.get("mode", "constant")
    if mode == "constant":
        params = Pad(x.dtype, x.shape, tuple(before.tolist()), tuple(after.tolist()))
        return [call(node, params, pad, (node.inputs[0], _value(node, x)), node.outputs[0])]
    if mode not in ("reflect", "edge", "wrap"):
        raise UnsupportedOpError(f"Pad has no mode {mode!r}", where=node.name)
    indices = {}
    for axis, size in enumerate(x.shape):
        at = np.arange(-before[axis], size + after[axis])
        if mode == "edge":
            indices[axis] = np.clip(at, 0, size - 1)
        elif mode == "wrap" or size == 1:
            indices[axis] = at % size
        else:
            around = at % (2 * size - 2)
            indices[axis] = np.minimum(around, 2 * size - 2 - around)
    return emit_mapped(node, indices)


def _value(node: NodeView, x: TensorType) -> np.ndarray:
    """The padding value [1]."""
    dtype = "uint16" if x.dtype == "bfloat16" else x.dtype
    value = known(node, 2, "the value")
    if value is None:
        value = np.asarray(node.attrs.get("value", 0.0))
    if value.dtype.name == "bfloat16":
        value = value.view(np.uint16)
    return value.reshape(1).astype(dtype)
