"""A float16 model, read as float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .edit import Editor

_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type")


def widen(graph: ir.Graph) -> bool:
    """Turns every float16 tensor, constant and cast of a model that computes in it into float32.

    float32 represents every float16 exactly, so only intermediate rounding changes (for the better). A model
    that merely stores float16, or rounds to it by casts, is left alone. Inputs and outputs keep their declared types,
    with a Cast behind or before. True if anything changed.
    """
    computed = [v for n in graph.all_nodes() if n.op_type not in ("Cast", "Constant") for v in n.outputs]
    if not any(v.dtype == ir.DataType.FLOAT16 for v in computed):
        return False
    found = False
    ends = [[v for v in side if v.dtype == ir.DataType.FLOAT16] for side in (graph.inputs, graph.outputs)]
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
    _cast_ends(graph, *ends)
    return found


def _cast_ends(graph: ir.Graph, inputs: list[ir.Value], outputs: list[ir.Value]) -> None:
    """Restores the float16 of inputs and outputs, by casts that take over the tensors' names."""
    editor = Editor(graph)
    for value in outputs:
        producer = value.producer()
        if producer is None:  # an input or a constant: it keeps its new type
            continue
        like = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(ir.DataType.FLOAT16))], num_outputs=1)
        cast, name = like.outputs[0], value.name
        value.replace_all_uses_with(cast, replace_graph_outputs=True)
        like.replace_input_with(0, value)
        value.name, cast.name = editor.fresh(f"{name}_wide", editor.values), name
        like.name = editor.fresh(f"{name}_cast", editor.names)
        graph.insert_after(producer, like)
        for user, index in list(cast.uses()):
            user.replace_input_with(index, value)
    first = next(iter(graph))
    for value in inputs:
        value.type = ir.TensorType(ir.DataType.FLOAT16)
        uses = list(value.uses())
        wide = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(ir.DataType.FLOAT))], num_outputs=1)
        wide.name = editor.fresh(f"{value.name}_cast", editor.names)
        wide.outputs[0].name = editor.fresh(f"{value.name}_wide", editor.values)
        graph.insert_before(first, wide)
        for user, index in uses:
            user.replace_input_with(index, wide.outputs[0])


def _values(graph: ir.Graph) -> list[ir.Value]:
    values: list[ir.Value] = []
    for part in (graph, *graph.subgraphs()):
        values += [*part.inputs, *part.initializers.values()]
    values += [v for n in graph.all_nodes() for v in n.outputs]
    return values
