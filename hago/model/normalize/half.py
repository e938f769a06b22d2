"""A float16 model, read as float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type")


def widen(graph: ir.Graph) -> bool:
    """Turns every float16 tensor, constant and cast of a model that computes in it into float32.

    float32 holds every float16 exactly, so only intermediate rounding changes (for the better). A model
    that merely stores float16, or rounds to it by casts, is left alone. True if anything changed.
    """
    computed = [v for n in graph.all_nodes() if n.op_type not in ("Cast", "Constant") for v in n.outputs]
    if not any(v.dtype == ir.DataType.FLOAT16 for v in [*graph.inputs, *graph.outputs, *computed]):
        return False
    found = False
    for value in _values(graph):
        if value.dtype == ir.DataType.FLOAT16:
            value.type = ir.TensorType(ir.DataType.FLOAT)
            found = True
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT16:
            array = value.const_value.numpy().astype(np.float32)
            value.const_value = ir.tensor(array, name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
            found = True
    for node in graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR:
                tensor = attribute.as_tensor()
                if tensor.dtype == ir.DataType.FLOAT16:
                    wide = ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)
                    node.attributes[name] = ir.AttrTensor(name, wide)
                    found = True
            elif name in _TYPE_ATTRIBUTES and attribute.value == int(ir.DataType.FLOAT16):
                node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
                found = True
    return found


def _values(graph: ir.Graph) -> list[ir.Value]:
    values: list[ir.Value] = []
    for part in (graph, *graph.subgraphs()):
        values += [*part.inputs, *part.initializers.values()]
    values += [v for n in graph.all_nodes() for v in n.outputs]
    return values
