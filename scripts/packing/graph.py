"""What PyTorch needs to run the same network: nodes, shapes, and only those constants whose values matter."""

from __future__ import annotations

from typing import Any

import onnx

from hago.model import Model

_EXACT = 64  # constants of up to so many numbers travel by value; larger ones are weights


def describe(model: Model) -> dict[str, Any]:
    """The graph as plain data, for scripts/gpu_bundle/torch_network.py. Weights are told by their shapes alone."""
    graph = model.proto.graph
    constants: dict[str, Any] = {}
    for initializer in graph.initializer:
        array = onnx.numpy_helper.to_array(initializer)
        about: dict[str, Any] = {"shape": list(array.shape), "dtype": array.dtype.name}
        if array.dtype.kind in "iub" or (array.size <= _EXACT and array.ndim < 2):
            about["values"] = array.reshape(-1).tolist()
        constants[initializer.name] = about
    nodes = []
    for node in graph.node:
        attributes = {a.name: _plain(onnx.helper.get_attribute_value(a)) for a in node.attribute}
        if node.op_type == "Gather":
            attributes["scalar"] = constants.get(node.input[1], {}).get("shape") == []
        if node.op_type == "Resize":
            attributes["size"] = list(model.tensor_shapes[node.output[0]][2:])
        if node.op_type in ("Reshape", "Squeeze", "Unsqueeze"):
            first, *rest = model.tensor_shapes[node.output[0]]
            attributes["shape"] = [-1 if first == model.batch else first, *rest]
        nodes.append(
            {"op": node.op_type, "inputs": list(node.input), "output": node.output[0], "attributes": attributes}
        )
    shapes = {info.name: {"shape": list(info.shape), "dtype": info.dtype} for info in model.inputs}
    return {
        "inputs": list(shapes),
        "shapes": shapes,
        "outputs": [info.name for info in model.outputs],
        "constants": constants,
        "nodes": nodes,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
