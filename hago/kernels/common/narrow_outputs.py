"""Layers in 16-bit floats whose readers all want 16 bits: the kernel rounds its sums itself.

Otherwise each result would go to memory in float32, be read again, rounded, and written.
"""

from __future__ import annotations

from dataclasses import replace

from ...lower.graph import LoweredGraph, Node

_HALF = {10: "float16", 16: "bfloat16"}  # by ONNX's numbers of element types


def narrow_outputs(lowered: LoweredGraph) -> LoweredGraph:
    """The same graph in which Conv and Gemm take over a Cast that is their only reader (attribute ``to``)."""
    replaced: dict[str, Node] = {}
    for node in lowered.nodes:
        if not node.is_hago("Conv", "Gemm") or node.attrs["precision"] == "float32":
            continue
        cast = lowered.sole_consumer(node.outputs[0])
        to = None if cast is None or not cast.is_onnx("Cast") else _HALF.get(int(cast.attrs["to"]))
        if cast is None or to is None or to != node.attrs["precision"]:
            continue
        replaced[node.name] = replace(node, outputs=cast.outputs, attrs={**node.attrs, "to": to})
        replaced[cast.name] = replaced[node.name]
    if not replaced:
        return lowered
    nodes = [replaced.get(node.name, node) for node in lowered.nodes if not (node.is_onnx() and node.name in replaced)]
    return lowered.with_nodes(nodes)
