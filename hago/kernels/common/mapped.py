"""Data movement by a table of indices per axis, on any target: Tile, nearest Resize, Pad that repeats.

    y[i, j, ...] = x[table_0[i], table_1[j], ...]      x, y of one type and rank

The tables are one input int32, one after the other for the axes that have one, their entries already multiplied by
x's stride along the axis. Every entry lies inside x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .calls import NodeView
from .movement import contiguous_strides, plan, plan_copy
from .plans import Plan, plans


@dataclass(frozen=True)
class Mapped:
    """From shape ``x`` to shape ``y``; ``axes`` have tables, the others stay as they are."""

    dtype: str
    x: tuple[int, ...]
    y: tuple[int, ...]
    axes: tuple[int, ...]


def plan_mapped(node: NodeView, indices: Mapping[int, np.ndarray]) -> list[Plan]:
    """The plan for a node whose output takes the input's ``indices[axis]`` along these axes."""
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    strides = contiguous_strides(x.shape)
    kept = {a: i for a, i in sorted(indices.items()) if not np.array_equal(i, np.arange(x.shape[a]))}
    if not kept:
        return plan_copy(node)
    tables = np.concatenate([index * strides[axis] for axis, index in kept.items()]).astype(np.int32)
    params = Mapped(x.dtype, x.shape, y.shape, tuple(kept))
    return [plan(params, (node.inputs[0], tables), node.outputs[0])]


@plans("", "Tile")
def plan_tile(node: NodeView) -> Sequence[Plan]:
    """Tile: the input repeated along its axes."""
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    return plan_mapped(node, {a: np.arange(y.shape[a]) % size for a, size in enumerate(x.shape)})
