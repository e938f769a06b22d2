"""Concat of any element type, and QConcat, whose inputs may pass through tables that bring them to one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .calls import NodeView
from .plans import Plan, plans


@dataclass(frozen=True)
class Concat:
    """Inputs of ``shapes``, joined along ``axis``; those whose indices are in ``tables`` are looked up on the way."""

    dtype: str
    shapes: tuple[tuple[int, ...], ...]
    axis: int
    tables: tuple[int, ...] = ()

    @property
    def y(self) -> tuple[int, ...]:
        """The shape of the result."""
        size = sum(shape[self.axis] for shape in self.shapes)
        return (*self.shapes[0][: self.axis], size, *self.shapes[0][self.axis + 1 :])


@plans("hago", "QConcat")
@plans("", "Concat")
def plan_concat(node: NodeView) -> Sequence[Plan]:
    """Concat of floats or integers, and QConcat, whose inputs may each pass through a table."""
    with_table = tuple(int(i) for i in node.attrs.get("tables", ())) if node.domain else ()
    sources = node.inputs[: len(node.inputs) - len(with_table)]
    shapes = tuple(node.type(name).shape for name in sources)
    axis = int(node.attrs["axis"]) % len(shapes[0])
    params = Concat(node.type(sources[0]).dtype, shapes, axis, with_table)
    return [Plan("concat", params, node.inputs, node.outputs)]
