"""Pad of any element type, on any target: by a value, or by elements of the input (reflect, edge, wrap)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import UnsupportedOpError
from ...tensor import TensorType
from .calls import NodeView, known
from .mapped import plan_mapped
from .movement import plan
from .plans import Plan, plans


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


@plans("", "Pad")
def plan_pad(node: NodeView) -> Sequence[Plan]:
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
        return [plan(params, (node.inputs[0], _value(node, x)), node.outputs[0])]
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
    return plan_mapped(node, indices)


def _value(node: NodeView, x: TensorType) -> np.ndarray:
    """The padding value [1]."""
    dtype = "uint16" if x.dtype == "bfloat16" else x.dtype
    value = known(node, 2, "the value")
    if value is None:
        value = np.asarray(node.attrs.get("value", 0.0))
    if value.dtype.name == "bfloat16":
        value = value.view(np.uint16)
    return value.reshape(1).astype(dtype)
