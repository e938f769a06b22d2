"""How many bits the codes of a quantized layer's input really have: four-bit instructions must not be given more.

A tensor of codes is uint8, whatever a strategy made of it. What can be in it follows from how it was made: the upper
bound of a requantization, the largest entry of a table, or what a data movement passes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ...lower.graph import LoweredGraph, Node

_MOVES = frozenset(
    ["Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Split", "Gather", "Tile",
     "Expand", "DepthToSpace", "SpaceToDepth", "QMaxPool"]
)  # fmt: skip
_MOST = 255


def largest_codes(lowered: LoweredGraph) -> dict[str, int]:
    """Tensor of codes -> a number that no code in it exceeds."""
    found: dict[str, int] = {}

    def known(name: str) -> int:
        value = lowered.constants.get(name)
        if value is not None and value.dtype == np.uint8:
            return int(value.max(initial=0))
        return found.get(name, _MOST)

    for node in lowered.nodes:
        most = min(_largest(node, known, lowered), _MOST)
        found.update({name: most for name in node.outputs if name and lowered.types[name].dtype == "uint8"})
    return found


def _largest(node: Node, known: Callable[[str], int], lowered: LoweredGraph) -> int:
    if node.op in _MOVES:
        return known(node.inputs[0])
    if node.is_onnx("Concat"):
        return max(map(known, node.inputs))
    if not node.is_hago():
        return _MOST
    if node.op == "QLookup":
        return known(node.inputs[1])
    if node.op == "QConcat":
        tables = node.attrs["tables"]
        count = len(node.inputs) - len(tables)
        through = {index: known(table) for index, table in zip(tables, node.inputs[count:], strict=True)}
        return max(through.get(i, known(name)) for i, name in enumerate(node.inputs[:count]))
    if node.op in ("QConv", "QGemm"):
        if node.input(6):
            return int(node.attrs["r_hi"])
        return known(node.inputs[5]) if node.input(5) else int(node.attrs.get("hi", _MOST))
    return int(node.attrs.get("hi", _MOST))


def mark_four_bits(lowered: LoweredGraph) -> LoweredGraph:
    """The same graph in which QConv and QGemm of 4-bit codes by 4-bit weights have the attribute ``bits`` = 4."""
    largest = largest_codes(lowered)

    def fits(node: Node) -> bool:
        if not node.is_hago("QConv", "QGemm") or node.input(4):
            return False
        weights = lowered.constants.get(node.inputs[1])
        codes = max(largest.get(node.inputs[0], _MOST), int(node.attrs["x_zero_point"]))
        return codes < 16 and weights is not None and bool(weights.min(initial=0) >= -8 and weights.max(initial=0) < 8)

    nodes = [replace(node, attrs={**node.attrs, "bits": 4}) if fits(node) else node for node in lowered.nodes]
    return replace(lowered, nodes=tuple(nodes))
