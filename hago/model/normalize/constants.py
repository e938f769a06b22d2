"""Constant folding: computes once what does not depend on the inputs."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from ...errors import ModelError
from .edit import CONTROL_FLOW_OPS, Editor, attr_int, constant, dims, scalar
from .prepare import IR_VERSION, OPSET
from .sequences import unpack
from .shapes import infer

# Folding may make a constant grow (Expand, Tile, Range); beyond this size it stays an operator.
_LARGEST_BYTES = 1 << 24
_KEEP = ("DequantizeLinear", *CONTROL_FLOW_OPS)
_MAX_ROUNDS = 50


def fold_all(graph: ir.Graph, where: str) -> None:
    """Folds, infers shapes and takes decided branches until nothing is left to fold.

    DequantizeLinear of a constant stays, because quantized models store weights that way. So does a cast
    from a short float, by which Hago stores weights in that type.
    """
    for _ in range(_MAX_ROUNDS):
        infer(graph, where)
        editor = Editor(graph)
        for node in list(graph):
            if node.graph is graph:
                _fold(editor, node)
        _inline_branches(editor)
        unpack(editor)
        if not editor.changed:
            return


def _fold(editor: Editor, node: ir.Node) -> None:
    output = any(v.is_graph_output() for v in node.outputs)
    if node.domain or node.op_type in _KEEP or (output and node.op_type == "Identity"):
        return
    if node.op_type == "CastLike" and node.inputs[1] is not None and node.inputs[1].dtype is not None:
        # Only the type of its second input matters, which is known.
        node.attributes["to"] = ir.AttrInt64("to", int(node.inputs[1].dtype))
        node.resize_inputs(1)
        node.op_type = "Cast"
        editor.changed += 1
    if _is_empty(node):
        results: list[np.ndarray] | None = [np.zeros(dims(v) or (), v.dtype.numpy()) for v in node.outputs if v.dtype]
    elif node.op_type in ("Shape", "Size"):
        results = _shape(node)
    elif any(v is not None and constant(v) is None for v in node.inputs) or _is_short_weight(node):
        return
    else:
        results = _constant_attribute(node) if node.op_type == "Constant" else _evaluate(node)
    if results is None:
        return
    for value, array in zip(node.outputs, results, strict=True):
        if value.is_graph_output():  # a tensor that a node makes, whatever its value
            held = editor.initializer(array, f"{value.name}_value")
            for user, index in list(value.uses()):
                user.replace_input_with(index, held)
            made = editor.node("Identity", [held], node, name=f"{node.name}_value", shape=array.shape)
            made.type = value.type
            editor.forward(value, made)
        elif value.uses():
            folded = editor.initializer(array, f"{value.name}_folded")
            for user, index in list(value.uses()):
                user.replace_input_with(index, folded)
            # The tensor keeps its name: later reports and errors use the source's names.
            name, value.name = value.name, folded.name
            _rename(editor.graph, folded, name)
    editor.changed += 1
    if node.graph is not None:
        editor.discard(node)


def _is_empty(node: ir.Node) -> bool:
    """Whether all its outputs have no elements (and a known type)."""
    return all(0 in (dims(value) or ()) and value.dtype is not None for value in node.outputs)


def _is_short_weight(node: ir.Node) -> bool:
    """Whether it widens a weight in bfloat16, or one in float16 that meets an activation in float16.

    Models are often stored in float16 only to save space, which does not say how they are to be computed.
    """
    source = node.inputs[0] if node.op_type == "Cast" else None
    if source is None or source.dtype != ir.DataType.FLOAT16:
        return source is not None and source.dtype == ir.DataType.BFLOAT16
    others = (value.producer() for user, _ in node.outputs[0].uses() for value in user.inputs if value is not None)
    widened = [other.inputs[0] for other in others if other is not None and other.op_type == "Cast"]
    return any(v is not None and v.dtype == ir.DataType.FLOAT16 and constant(v) is None for v in widened)


def _rename(graph: ir.Graph, value: ir.Value, name: str | None) -> None:
    assert name is not None and value.name is not None
    del graph.initializers[value.name]
    value.name = name
    graph.register_initializer(value)


def _shape(node: ir.Node) -> list[np.ndarray] | None:
    shape = dims(node.inputs[0])
    if shape is None:
        return None
    if node.op_type == "Size":
        return [np.array(math.prod(shape), np.int64)]
    start, end = attr_int(node, "start", 0), attr_int(node, "end", len(shape))
    return [np.array(shape[slice(*_clamped(start, end, len(shape)))], np.int64)]


def _clamped(start: int, end: int, rank: int) -> tuple[int, int]:
    start, end = (x + rank if x < 0 else x for x in (start, end))
    return min(max(start, 0), rank), min(max(end, 0), rank)


def _constant_attribute(node: ir.Node) -> list[np.ndarray] | None:
    name, attribute = next(iter(node.attributes.items()))
    if name == "value":
        return [attribute.as_tensor().numpy()]
    if name in ("value_float", "value_floats"):
        return [np.array(attribute.value, np.float32)]
    if name in ("value_int", "value_ints"):
        return [np.array(attribute.value, np.int64)]
    return None


def _evaluate(node: ir.Node) -> list[np.ndarray] | None:
    inputs = [v for v in node.inputs if v is not None]
    known = [dims(v) for v in node.outputs]
    held = sum(v.const_value.nbytes for v in inputs if v.const_value is not None)
    size = sum(4 * math.prod(d) for d in known if d is not None)
    if size > max(_LARGEST_BYTES, 2 * held):
        return None
    unique = {v.name or "": v for v in inputs}
    graph = onnx.helper.make_graph(
        [ir.serde.serialize_node(node)],
        "fold",
        [
            onnx.helper.make_tensor_value_info(n, int(v.dtype or 1), list(constant(v).shape))  # type: ignore[union-attr]
            for n, v in unique.items()
        ],
        [onnx.ValueInfoProto(name=v.name) for v in node.outputs if v.name],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, {n: constant(v) for n, v in unique.items()})
    except Exception:  # what the reference cannot compute stays in the graph, which is just as correct
        return None
    arrays = [np.asarray(r) for r in results]
    if len(arrays) != len(node.outputs) or any(a.dtype == object for a in arrays):
        return None
    for value, array in zip(node.outputs, arrays, strict=True):
        if value.dtype is not None and np.dtype(value.dtype.numpy()) != array.dtype:
            return None
    return arrays


def _inline_branches(editor: Editor) -> None:
    """Replaces If nodes with a constant condition by the branch that is taken."""
    graph = editor.graph
    for node in editor.nodes("If"):
        taken = scalar(node.inputs[0])
        if taken is None:
            continue
        branch = node.attributes["then_branch" if taken else "else_branch"].as_graph()
        mapping: dict[ir.Value, ir.Value] = {}
        for value in list(branch.initializers.values()):
            array = constant(value)
            assert array is not None
            mapping[value] = editor.initializer(array, f"{node.name}_{value.name}")
        for inner in list(branch):
            inputs = [None if v is None else mapping.get(v, v) for v in inner.inputs]
            outputs = [
                ir.Value(name=editor.fresh(v.name or f"{node.name}_value", editor.values), type=v.type)
                for v in inner.outputs
            ]
            mapping.update(zip(inner.outputs, outputs, strict=True))
            copy = ir.Node(
                inner.domain, inner.op_type, inputs, list(inner.attributes.values()), outputs=outputs,
                name=editor.fresh(inner.name or inner.op_type, editor.names),
            )  # fmt: skip
            graph.insert_before(node, copy)
        for output, result in zip(node.outputs, branch.outputs, strict=True):
            value = mapping.get(result, result)
            if value.producer() is None or (output.is_graph_output() and value.is_graph_output()):
                identity = ir.Node("", "Identity", [value], num_outputs=1, name=f"{node.name}_{output.name}")
                identity.outputs[0].name = editor.fresh(f"{output.name}_taken", editor.values)
                graph.insert_before(node, identity)
                value = identity.outputs[0]
            if output.is_graph_output():
                name, output.name = output.name, editor.fresh(f"{output.name}_if", editor.values)
                output.replace_all_uses_with(value, replace_graph_outputs=True)
                value.name = name
            else:
                output.replace_all_uses_with(value)
        graph.remove(node, safe=True)
        editor.changed += 1


def check_inference_mode(graph: ir.Graph, where: str) -> None:
    """Raises ModelError for operators exported in training mode."""
    for node in graph:
        training = node.op_type == "BatchNormalization" and attr_int(node, "training_mode", 0)
        if node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
            training = scalar(node.inputs[2]) != 0.0
        if training:
            raise ModelError(
                f"{node.op_type} is in training mode",
                where=f"{where}, node {node.name!r}",
                hint="export the model for inference (module.eval() in PyTorch)",
            )
