"""Operators that meant something else at an old opset, and that ONNX's converter leaves unchanged.

`tests/opset_cases.py` compares the outputs of every operator whose schema changed before and after the conversion; all
differences that it found are handled here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...errors import ModelError
from .validate import walk


def old_nodes(proto: onnx.ModelProto, version: int) -> dict[str, onnx.NodeProto]:
    """First output -> node, for the nodes of a model at opset ``version`` that `restore` has to check."""
    return {
        node.output[0]: node
        for node in walk(proto.graph.node)
        if node.op_type in _MEANINGS and version <= _MEANINGS[node.op_type][0] and node.output
    }


def restore(proto: onnx.ModelProto, old: Mapping[str, onnx.NodeProto], where: str) -> None:
    """Rewrites what the ``old`` nodes became in a converted model, so that it means what it did before.

    Raises ModelError if the old meaning is not defined.
    """
    if old:
        _restore(proto.graph, old, where)


def _restore(graph: onnx.GraphProto, old: Mapping[str, onnx.NodeProto], where: str) -> None:
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _restore(attribute.g, old, where)
        before = old.get(node.output[0]) if node.output else None
        # The converter turns some operators into several nodes: the one with the old output may be of another type.
        nodes += [node] if before is None else _MEANINGS[before.op_type][1](node, before, where)
    del graph.node[:]
    graph.node.extend(nodes)


def _resize(node: onnx.NodeProto, before: onnx.NodeProto, where: str) -> Iterable[onnx.NodeProto]:
    """Upsample, and Resize before opset 11: source position = position / scale.

    The nearest element is the one below if an axis grows, and the one above if it shrinks, hence two steps.
    """
    mode = next((a.s for a in node.attribute if a.name == "mode"), b"nearest")
    kept: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    source, scales, result = node.input[0], node.input[2], node.output[0]
    if mode != b"nearest":
        yield helper.make_node("Resize", [source, "", scales], [result], node.name, **kept)
        return
    one, grow, shrink, between = (f"{result}_{name}" for name in ("one", "grow", "shrink", "grown"))
    yield helper.make_node("Constant", [], [one], one, value=numpy_helper.from_array(np.ones(1, np.float32)))
    yield helper.make_node("Max", [scales, one], [grow], grow)
    yield helper.make_node("Min", [scales, one], [shrink], shrink)
    yield helper.make_node("Resize", [source, "", grow], [between], node.name, nearest_mode="floor", **kept)
    yield helper.make_node(
        "Resize", [between, "", shrink], [result], f"{node.name}_shrink", nearest_mode="ceil", **kept
    )


def _hardmax(node: onnx.NodeProto, before: onnx.NodeProto, where: str) -> Iterable[onnx.NodeProto]:
    """Hardmax before opset 13: over all axes from ``axis`` (default 1) on, as one."""
    source, result = node.input[0], node.output[0]
    axis = next((a.i for a in before.attribute if a.name == "axis"), 1)
    shape, flat, flat_result = (f"{result}_{name}" for name in ("shape", "flat", "hard"))
    yield helper.make_node("Shape", [source], [shape], shape)
    yield helper.make_node("Flatten", [source], [flat], flat, axis=axis)
    yield helper.make_node("Hardmax", [flat], [flat_result], node.name, axis=-1)
    yield helper.make_node("Reshape", [flat_result, shape], [result], f"{node.name}_reshape")


def _dropout(node: onnx.NodeProto, before: onnx.NodeProto, where: str) -> Iterable[onnx.NodeProto]:
    if len(before.output) > 1 and before.output[1]:
        raise ModelError(
            "the mask of a Dropout is not defined for inference before opset 12",
            where=f"{where}, node {node.name!r}",
            hint="export the model without the mask, or at opset 17 or newer",
        )
    return [node]


# Operator -> the last opset with the old meaning, and the function that restores it.
_MEANINGS: dict[
    str, tuple[int, Callable[[onnx.NodeProto, onnx.NodeProto, str], Iterable[onnx.NodeProto]]]
] = {
    "Upsample": (9, _resize),
    "Resize": (10, _resize),
    "Hardmax": (12, _hardmax),
    "Dropout": (11, _dropout),
}  # fmt: skip
