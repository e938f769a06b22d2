"""Variants of operators that no kernel supports, written with operators that are supported."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .edit import Editor, attr_float, attr_int, constant, dims, dtype_of

_ELEMENTWISE_PART = {"ReduceL1": "Abs", "ReduceL2": "Abs", "ReduceLogSum": "Log", "ReduceSumSquare": "Mul"}
_REDUCTIONS = {*_ELEMENTWISE_PART, "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp"}


def spell_out(editor: Editor, node: ir.Node) -> None:
    """Rewrites one node, if it is such a variant."""
    if node.op_type in _REDUCTIONS and attr_int(node, "noop_with_empty_axes", 0) and _no_axes(node):
        _reduced_over_nothing(editor, node)
    elif node.op_type in ("ReduceMax", "ReduceMin") and dtype_of(node.outputs[0]) == ir.DataType.BOOL:
        _reduced_truths(editor, node)
    elif node.op_type == "IsInf":
        _is_infinite(editor, node)
    elif node.op_type == "RoiAlign" and attr_float(node, "spatial_scale", 1.0) != 1.0:
        _scaled_regions(editor, node)


def _no_axes(node: ir.Node) -> bool:
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    known = constant(axes)
    return axes is None or (known is not None and known.size == 0)


def _reduced_over_nothing(editor: Editor, node: ir.Node) -> None:
    """A reduction over no axes, as the function that it applies to each element."""
    source = node.inputs[0]
    op = _ELEMENTWISE_PART.get(node.op_type, "Identity")
    result = editor.node(op, [source, source] if op == "Mul" else [source], node, shape=dims(source))
    result.type = node.outputs[0].type
    editor.forward(node.outputs[0], result)


def _reduced_truths(editor: Editor, node: ir.Node) -> None:
    """A reduction of bool, in uint8."""
    numbers = _cast(editor, node, node.inputs[0], ir.DataType.UINT8, "numbers", dims(node.inputs[0]))
    attributes = {name: a.value for name, a in node.attributes.items()}
    shape = dims(node.outputs[0])
    reduced = editor.node(node.op_type, [numbers, *node.inputs[1:]], node, attributes, shape=shape)
    reduced.type = ir.TensorType(ir.DataType.UINT8)
    editor.forward(node.outputs[0], _cast(editor, node, reduced, ir.DataType.BOOL, "truths", shape))


def _cast(
    editor: Editor, like: ir.Node, value: ir.Value | None, to: ir.DataType, name: str, shape: tuple[int, ...] | None
) -> ir.Value:
    result = editor.node("Cast", [value], like, {"to": int(to)}, name=f"{like.name}_{name}", shape=shape)
    result.type = ir.TensorType(to)
    return result


def _is_infinite(editor: Editor, node: ir.Node) -> None:
    """IsInf of one sign, or none, as a comparison."""
    positive, negative = attr_int(node, "detect_positive", 1), attr_int(node, "detect_negative", 1)
    source = node.inputs[0]
    dtype = dtype_of(source) if source is not None else None
    if (positive and negative) or dtype is None:
        return
    op, other = "Less", source  # nothing is less than itself
    if positive or negative:
        value = np.array(np.inf if positive else -np.inf, dtype.numpy())
        op, other = "Equal", editor.initializer(value, f"{node.name}_infinity")
    result = editor.node(op, [source, other], node, shape=dims(source))
    result.type = node.outputs[0].type
    editor.forward(node.outputs[0], result)


def _scaled_regions(editor: Editor, node: ir.Node) -> None:
    """Scales regions to the units of the image, so that the scale is 1."""
    regions = node.inputs[1]
    factor = editor.initializer(np.array(attr_float(node, "spatial_scale", 1.0), np.float32), f"{node.name}_scale")
    scaled = editor.node("Mul", [regions, factor], node, name=f"{node.name}_regions", shape=dims(regions))
    editor.set_input(node, 1, scaled)
    editor.set_attributes(node, spatial_scale=None)
