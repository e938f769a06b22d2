"""The structure of a model, without its weights, as a hash: the same for a network and its fine-tuned versions."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from ..files import hash_bytes

# A few integers or booleans say how tensors are shaped, sliced and gathered; more than this many are tables.
_MOST_VALUES = 4096
_WHOLE = {
    getattr(onnx.TensorProto, name)
    for name in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BOOL")
}


def structure_hash(proto: onnx.ModelProto) -> str:
    """SHA-256 of operators, their attributes, names and connections, and the shapes of all constants.

    Weights (constants of real numbers), names of tensors, and where constants are stored do not count. Names of nodes
    do, because strategies name layers by them.
    """
    graph = proto.graph
    names: dict[str, str] = {}
    parts = [f"{opset.domain or 'ai.onnx'} {opset.version}" for opset in proto.opset_import]
    parts += [_value(value, names) for value in graph.input if value.name not in {t.name for t in graph.initializer}]
    parts += _graph(graph, names)
    return hash_bytes(*parts)


def _graph(graph: onnx.GraphProto, names: dict[str, str]) -> Iterator[str]:
    """Nodes in their order; every tensor is named after the position where it first appears."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        inputs = [_used(name, names, constants) for name in node.input]
        label = node.name or next((name for name in node.output if name), "")
        yield f"{node.domain}:{node.op_type} {label!r} {inputs} -> {len(node.output)}"
        for name in node.output:
            names[name] = f"t{len(names)}"
        for attribute in sorted(node.attribute, key=lambda a: a.name):
            yield f"{attribute.name} {attribute.type}"
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield _constant(attribute.t)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graph(attribute.g, dict(names))
            else:
                bare = onnx.AttributeProto()
                bare.CopyFrom(attribute)
                bare.ClearField("doc_string")
                yield bare.SerializeToString(deterministic=True).hex()
    yield f"outputs {[_used(value.name, names, constants) for value in graph.output]}"


def _used(name: str, names: dict[str, str], constants: dict[str, onnx.TensorProto]) -> str:
    if name and name not in names:
        place = f"t{len(names)}"
        names[name] = f"{place} {_constant(constants[name])}" if name in constants else place
    return names.get(name, "")


def _constant(tensor: onnx.TensorProto) -> str:
    """Type and shape, and the values of a few integers."""
    about = f"{tensor.data_type} {list(tensor.dims)}"
    if tensor.data_type in _WHOLE:
        values = onnx.numpy_helper.to_array(tensor)
        if values.size <= _MOST_VALUES:
            about += f" {values.tolist()}"
    return about


def _value(value: onnx.ValueInfoProto, names: dict[str, str]) -> str:
    names[value.name] = f"t{len(names)}"
    tensor = value.type.tensor_type
    sizes = [dim.dim_value if dim.dim_value > 0 else "free" for dim in tensor.shape.dim]
    return f"input {tensor.elem_type} {sizes}"
