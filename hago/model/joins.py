"""Outputs that join several tensors, each of one kind, such as boxes in pixels and scores from 0 to 1.

The graph shows where one ends and the next begins: at the Concat that made the output, looking through operators
that move or map single elements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from .layer_graph import attribute

_LAYOUT = {"Identity", "Cast", "Dropout", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_ONE_BY_ONE = {
    "Add", "Sub", "Mul", "Div", "Clip", "Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "Tanh", "Exp", "Softplus", "Neg",
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """Positions ``start`` to ``stop`` of one axis; ``kind`` is the operator that computed them."""

    axis: int
    start: int
    stop: int
    kind: str


def joined_blocks(graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]], output: str) -> tuple[Block, ...]:
    """The blocks that ``output`` joins, in order; empty if it joins none.

    If all joined tensors join the same blocks themselves (the levels of a detector), the blocks are those.
    ``shapes`` are those of all tensors. An axis is never 0, the batch.
    """
    found = _Tracer(graph, shapes).trace(output)
    return found if isinstance(found, tuple) and found[0].axis > 0 else ()


class _Tracer:
    def __init__(self, graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]]) -> None:
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self._constants = {tensor.name for tensor in graph.initializer}
        self._shapes = shapes

    def trace(self, name: str) -> tuple[Block, ...] | str:
        """The blocks of a tensor, or the operator that computes all of it."""
        # A loop down the chain of operators that keep blocks, then back up, since chains may be long.
        chain: list[tuple[str, str, onnx.NodeProto]] = []
        while True:
            node = self._producers.get(name)
            source = None if node is None else self._kept_from(node, name)
            if node is None or source is None:
                break
            chain.append((source, name, node))
            name = source
        found: tuple[Block, ...] | str = "" if node is None else node.op_type
        if node is not None and node.op_type == "Concat" and name in self._shapes:
            found = self._joined(node, len(self._shapes[name]))
        for source, target, step in reversed(chain):
            if isinstance(found, tuple):
                moved = self._moved(found, step, self._shapes[source], self._shapes[target])
                found = step.op_type if moved is None else moved
            elif step.op_type not in _LAYOUT:
                found = step.op_type
        return found

    def _kept_from(self, node: onnx.NodeProto, name: str) -> str | None:
        """The input whose elements ``node`` moves or maps one by one; None if it does something else."""
        if node.op_type in _LAYOUT:
            sources = [node.input[0]]
        elif node.op_type in _ONE_BY_ONE:
            sources = [i for i in node.input if i and i not in self._constants]
            same = self._shapes.get(name)
            sources = [] if same is None or any(self._shapes.get(i) != same for i in sources) else sources
        else:
            return None
        known = len(sources) == 1 and sources[0] in self._shapes and name in self._shapes
        return sources[0] if known else None

    def _joined(self, node: onnx.NodeProto, rank: int) -> tuple[Block, ...] | str:
        axis = attribute(node, "axis", 0) % rank
        inner = [self.trace(name) for name in node.input]
        first = inner[0]
        if isinstance(first, tuple) and first[0].axis != axis and len({_places(found) for found in inner}) == 1:
            return first
        blocks: list[Block] = []
        offset = 0
        for name, found in zip(node.input, inner, strict=True):
            if name not in self._shapes:
                return node.op_type
            size = self._shapes[name][axis]
            if isinstance(found, tuple) and found[0].axis == axis:
                blocks += [replace(b, start=b.start + offset, stop=b.stop + offset) for b in found]
            elif size:
                blocks.append(Block(axis, offset, offset + size, found if isinstance(found, str) else node.op_type))
            offset += size
        return tuple(blocks) if len(blocks) > 1 else node.op_type

    @staticmethod
    def _moved(
        blocks: tuple[Block, ...], node: onnx.NodeProto, source: Sequence[int], target: Sequence[int]
    ) -> tuple[Block, ...] | None:
        """Where the blocks of a data movement's input are in its output; None if they are scattered."""
        axis = blocks[0].axis
        if node.op_type == "Transpose":
            order = attribute(node, "perm", list(range(len(source)))[::-1])
            return tuple(replace(block, axis=order.index(axis)) for block in blocks)
        before, product = math.prod(source[:axis]), 1
        for place, size in enumerate(target):
            if product == before and size and size % source[axis] == 0 and size >= source[axis]:
                scale = size // source[axis]  # axes that follow, merged into this one
                return tuple(replace(b, axis=place, start=b.start * scale, stop=b.stop * scale) for b in blocks)
            product *= size
        return None


def _places(found: tuple[Block, ...] | str) -> object:
    return found if isinstance(found, str) else tuple((b.axis, b.start, b.stop) for b in found)
