"""Gather, on any target: rows of a tensor, chosen by indices that may be known only at run time.

x [outer, size, run]   indices [count]   y [outer, count, run] = x[:, indices]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .calls import NodeView
from .movement import plan
from .plans import Plan, plans


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


@plans("", "Gather")
def plan_gather(node: NodeView) -> Sequence[Plan]:
    """Gather along one axis."""
    x, indices = (node.type(name) for name in node.inputs)
    axis = int(node.attrs.get("axis", 0)) % len(x.shape)
    params = Gather(x.dtype, x.shape, indices.dtype, indices.shape, axis)
    return [plan(params, node.inputs, node.outputs[0])]
