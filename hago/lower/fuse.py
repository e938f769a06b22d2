"""Fuses neighbours of the lowered graph into one kernel each, without changing any result.

Every pass looks at one node at a time and its only reader, and returns the replaced nodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..tensor import TensorType
from .graph import LoweredGraph, Node

Replaced = dict[str, Node | None]
"""Node name -> its replacement; None if the node is dropped."""


def fuse(graph: LoweredGraph) -> LoweredGraph:
    """All passes, each on the result of the one before."""
    for step in (
        lookups_into_lookups,
        lookups_into_sums,
        clamps_into_quantize,
        adds_into_anchors,
        gelu_into_gemm,
    ):
        replaced, constants = step(graph)
        if replaced:
            nodes = [replaced.get(node.name, node) for node in graph.nodes]
            graph = graph.with_nodes([n for n in nodes if n is not None], _types_of(constants), constants)
    return graph


def _types_of(constants: Mapping[str, np.ndarray]) -> dict[str, TensorType]:
    return {name: TensorType.of(array) for name, array in constants.items()}


Step = tuple[Replaced, dict[str, np.ndarray]]


def lookups_into_lookups(graph: LoweredGraph) -> Step:
    """QLookup of a QLookup: one table."""
    replaced: Replaced = {}
    constants: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        reader = graph.sole_consumer(node.outputs[0]) if node.is_hago("QLookup") else None
        if reader is None or not reader.is_hago("QLookup"):
            continue
        first = replaced.get(node.name) or node
        inner = constants.get(first.inputs[1], graph.constants.get(first.inputs[1]))
        outer = graph.constants.get(reader.inputs[1])
        if inner is None or outer is None:
            continue
        name = f"{reader.inputs[1]}_composed"
        constants[name] = outer[inner]
        replaced[node.name] = None
        replaced[reader.name] = replace(reader, inputs=(first.inputs[0], name))
    return replaced, constants


def lookups_into_sums(graph: LoweredGraph) -> Step:
    """A QLookup behind a uint8 epilogue: tighter bounds if it only clamps, else the op's table."""
    replaced: Replaced = {}
    for node in graph.nodes:
        reader = graph.sole_consumer(node.outputs[0]) if node.is_hago() else None
        if reader is None or not reader.is_hago("QLookup"):
            continue
        if node.op not in ("Quantize", "QAdd", "QScaleShift") and node.attrs.get("out") != "uint8":
            continue
        table = graph.constants.get(reader.inputs[1])
        if table is None or table.dtype != np.uint8:
            continue
        bounds = _clamp_bounds(table, node.attrs["lo"], node.attrs["hi"])
        if bounds is not None:
            attrs = {**node.attrs, "lo": bounds[0], "hi": bounds[1]}
            merged = replace(node, attrs=attrs, outputs=reader.outputs)
        elif node.is_hago("QConv", "QGemm") and len(node.inputs) <= 5:
            inputs = (*node.inputs, *("",) * (5 - len(node.inputs)), reader.inputs[1])
            merged = replace(node, inputs=inputs, outputs=reader.outputs)
        else:
            continue
        replaced[node.name] = None
        replaced[reader.name] = merged
    return replaced, {}


def _clamp_bounds(table: np.ndarray, lo: int, hi: int) -> tuple[int, int] | None:
    """(low, high) if table[q] = min(max(q, low), high) for all q in lo..hi, else None."""
    low, high = int(table[lo]), int(table[hi])
    if low > high:
        return None
    codes = np.arange(lo, hi + 1)
    return (low, high) if np.array_equal(table[lo : hi + 1], np.clip(codes, low, high)) else None


def clamps_into_quantize(graph: LoweredGraph) -> Step:
    """Relu or Clip whose only reader is Quantize: the bounds of the codes. Rounding is monotonic."""
    replaced: Replaced = {}
    for node in graph.nodes:
        bounds = clip_bounds(graph, node)
        reader = graph.sole_consumer(node.outputs[0]) if bounds is not None else None
        if bounds is None or reader is None or not reader.is_hago("Quantize"):
            continue
        scale, zero = np.float32(reader.attrs["scale"]), reader.attrs["zero_point"]
        lo, hi = reader.attrs["lo"], reader.attrs["hi"]
        codes = [edge if math.isinf(edge) else float(np.rint(np.float32(edge) / scale)) + zero for edge in bounds]
        low, high = (int(min(max(code, lo), hi)) for code in codes)
        replaced[node.name] = None
        attrs = {**reader.attrs, "lo": low, "hi": max(low, high)}
        replaced[reader.name] = replace(reader, inputs=node.inputs[:1], attrs=attrs)
    return replaced, {}


def clip_bounds(graph: LoweredGraph, node: Node | None) -> tuple[float, float] | None:
    """(low, high) of a standard Relu or Clip with constant bounds, else None."""
    if node is None or not node.is_onnx("Relu", "Clip"):
        return None
    if node.op == "Relu":
        return 0.0, math.inf
    bounds = [float(node.attrs.get("min", -math.inf)), float(node.attrs.get("max", math.inf))]
    for index in (0, 1):
        name = node.input(index + 1)
        if name:
            array = graph.constants.get(name)
            if array is None or array.size != 1:
                return None
            bounds[index] = float(array.reshape(()))
    return (bounds[0], bounds[1]) if bounds[0] <= bounds[1] else None


def adds_into_anchors(graph: LoweredGraph) -> Step:
    """A residual addition (and the clamp behind it) into the convolution or product it follows."""
    replaced: Replaced = {}
    for node in reversed(graph.nodes):  # of two candidates, the later one: by then the other one's result is ready
        if not node.is_hago("QConv", "QGemm", "Conv", "Gemm") or node.name in replaced:
            continue
        output = node.outputs[0]
        reader = graph.sole_consumer(output)
        if reader is None or len(reader.inputs) != 2 or reader.name in replaced:
            continue
        position = reader.inputs.index(output)
        r = reader.inputs[1 - position]
        if graph.types[r].shape != graph.types[output].shape:
            continue
        if node.is_hago("QConv", "QGemm"):
            merged = _integer_residual(node, reader, position, r)
            if merged is not None:
                replaced[node.name], replaced[reader.name] = None, merged
        elif reader.is_onnx("Add") and _unclamped(node) and not node.input(3):
            clamp = graph.sole_consumer(reader.outputs[0])
            bounds = clip_bounds(graph, clamp)
            merged = replace(node, inputs=(*node.inputs, r), outputs=reader.outputs)
            replaced[node.name] = None
            if clamp is None or bounds is None or clamp.name in replaced:
                replaced[reader.name] = merged
                continue
            attrs = {**node.attrs, "act_lo": bounds[0], "act_hi": bounds[1]}
            replaced[reader.name] = None
            replaced[clamp.name] = replace(merged, outputs=clamp.outputs, attrs=attrs)
    return replaced, {}


def _unclamped(node: Node) -> bool:
    return node.attrs["act_lo"] == -math.inf and node.attrs["act_hi"] == math.inf


def _integer_residual(node: Node, add: Node, position: int, r: str) -> Node | None:
    """The QConv or QGemm that also does the QAdd which reads it at ``position``, or None."""
    if not add.is_hago("QAdd") or node.attrs["out"] != "uint8" or len(node.inputs) > 5:
        return None
    attrs = {
        **node.attrs,
        "r_first": int(position == 1),
        "a_scale": add.attrs["a_scale"],
        "b_scale": add.attrs["b_scale"],
        "r_offset": add.attrs["offset"],
        "r_lo": add.attrs["lo"],
        "r_hi": add.attrs["hi"],
    }
    inputs = (*node.inputs, *("",) * (6 - len(node.inputs)), r)
    return replace(node, inputs=inputs, outputs=add.outputs, attrs=attrs)


def gelu_into_gemm(graph: LoweredGraph) -> Step:
    """Gelu behind a Gemm without clamp and residual: its ``activation``."""
    replaced: Replaced = {}
    for node in graph.nodes:
        reader = graph.sole_consumer(node.outputs[0]) if node.is_hago("Gemm") else None
        if reader is None or not reader.is_onnx("Gelu") or not _unclamped(node) or node.input(3):
            continue
        name = "Gelu_tanh" if reader.attrs.get("approximate", "none") == "tanh" else "Gelu"
        replaced[node.name] = None
        replaced[reader.name] = replace(node, outputs=reader.outputs, attrs={**node.attrs, "activation": name})
    return replaced, {}
