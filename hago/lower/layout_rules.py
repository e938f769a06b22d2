"""Which layout each operator takes and produces; see `hago.lower.layout_pass`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .graph import DOMAIN, LoweredGraph, Node
from .layout_pass import CHANNELS_LAST, LayoutPass, Position, Rule, fold_permutations, rename_outputs
from .layouts import TO_LAST, TO_ONNX, Layout

ELEMENTWISE = (
    "Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "PRelu", "Where", "Equal", "Greater", "GreaterOrEqual",
    "Less", "LessOrEqual", "And", "Or", "Not", "Xor", "Mod", "Sum", "Mean", "Relu", "Clip", "Sigmoid",
    "Tanh", "HardSigmoid", "HardSwish", "Gelu", "LeakyRelu", "Elu", "Selu", "Celu", "Softplus", "Softsign",
    "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Mish", "ThresholdedRelu", "Swish", "Neg", "Abs", "Sin",
    "Cos", "Floor", "Ceil", "Round", "Sign", "Cast", "IsNaN", "IsInf", "Identity", "QuantizeLinear",
    "DequantizeLinear",
)  # fmt: skip


def _wants_channels_last(run: LayoutPass, node: Node) -> bool:
    name = node.inputs[0]
    inputs = [run.last(name), *(run.onnx(other) if other else "" for other in node.inputs[1:])]
    run.emit(node, inputs, last=True)
    return True


def _scale_shift(run: LayoutPass, node: Node) -> bool:
    if run.draft.types[node.inputs[0]].rank == 2:
        return False
    return _wants_channels_last(run, node)


def _elementwise(run: LayoutPass, node: Node) -> bool:
    return _follow(run, node, list(node.inputs), 0)


def _quantized_pair(run: LayoutPass, node: Node) -> bool:
    return _follow(run, node, list(node.inputs[:2]), len(node.inputs) - 2)


def _first_only(run: LayoutPass, node: Node) -> bool:
    return _follow(run, node, [node.inputs[0]], len(node.inputs) - 1)


def _follow(run: LayoutPass, node: Node, operands: list[str], rest: int, attrs: dict[str, Any] | None = None) -> bool:
    """Emits an operator in the layout of its operands; the last ``rest`` inputs are taken as they are."""
    layout = run.common_layout(node, operands)
    inputs = run.operands_last(operands, layout) if layout is not None else None
    if layout is None or inputs is None:
        return False
    inputs += [run.onnx(name) if name else "" for name in node.inputs[len(node.inputs) - rest :]] if rest else []
    layouts = [Layout(2, layout.image)] if layout.rank == 2 else ()
    run.emit(node, inputs, last=True, layouts=layouts, attrs=attrs)
    return True


def _quantize_linear(run: LayoutPass, node: Node) -> bool:
    scale = run.draft.types[node.inputs[1]]
    if math.prod(scale.shape) != 1:
        return False
    return _first_only(run, node)


def _along_axis(run: LayoutPass, node: Node) -> bool:
    """Softmax and the like: elementwise but for one axis."""
    layout = run.common_layout(node, [node.inputs[0]])
    if layout is None or layout.rank == 2:
        return False
    axis = layout.axis_to_last(node.attrs.get("axis", -1))
    return _follow(run, node, [node.inputs[0]], len(node.inputs) - 1, {**node.attrs, "axis": axis})


def _concat(run: LayoutPass, node: Node) -> bool:
    rest = len(node.attrs.get("tables", ())) if node.is_hago() else 0
    operands = list(node.inputs[: len(node.inputs) - rest])
    layout = run.common_layout(node, operands)
    if layout is None or layout.rank == 2:
        return False
    return _follow(run, node, operands, rest, {**node.attrs, "axis": layout.axis_to_last(node.attrs["axis"])})


def _movable(run: LayoutPass, node: Node) -> tuple[Layout, list[np.ndarray | None]] | None:
    """The layout of a data movement's input, if that is channels-last, and its other inputs; else None."""
    layout = run.common_layout(node, [node.inputs[0]])
    if layout is None or layout.rank == 2 or run.is_constant(node.inputs[0]):
        return None
    if not all(run.is_constant(name) for name in node.inputs[1:] if name):
        return None
    return layout, [run.draft.constants[name] if name else None for name in node.inputs[1:]]


def _pad(run: LayoutPass, node: Node) -> bool:
    found = _movable(run, node)
    if found is None:
        return False
    layout, (pads, *others) = found
    assert pads is not None
    axes = others[1] if len(others) > 1 else None
    listed = list(range(layout.rank)) if axes is None else [int(a) for a in axes]
    last = np.zeros((2, 4), np.int64)
    for position, axis in enumerate(listed):
        last[:, layout.axis_to_last(axis)] = pads[position], pads[len(listed) + position]
    value = [run.onnx(node.inputs[2])] if node.input(2) else []
    run.emit(
        node,
        [run.last(node.inputs[0]), run.build.shared_constant(last.reshape(-1), "pads"), *value],
        last=True,
    )
    return True


def _slice(run: LayoutPass, node: Node) -> bool:
    found = _movable(run, node)
    if found is None:
        return False
    layout, (starts, ends, *others) = found
    assert starts is not None and ends is not None
    axes = others[0] if others and others[0] is not None else np.arange(len(starts))
    last = np.array([layout.axis_to_last(int(a)) for a in axes], np.int64)
    parts = [starts.astype(np.int64), ends.astype(np.int64), last]
    if len(others) > 1 and others[1] is not None:
        parts.append(others[1].astype(np.int64))
    names = [run.build.shared_constant(part, "slice") for part in parts]
    run.emit(node, [run.last(node.inputs[0]), *names], last=True)
    return True


def _split(run: LayoutPass, node: Node) -> bool:
    found = _movable(run, node)
    if found is None:
        return False
    axis = found[0].axis_to_last(node.attrs.get("axis", 0))
    inputs = [run.last(node.inputs[0]), *(run.onnx(name) if name else "" for name in node.inputs[1:])]
    run.emit(node, inputs, last=True, attrs={**node.attrs, "axis": axis})
    return True


def _gather(run: LayoutPass, node: Node) -> bool:
    found = _movable(run, node)
    if found is None or found[1][0] is None or found[1][0].ndim != 1:
        return False
    axis = found[0].axis_to_last(node.attrs.get("axis", 0))
    inputs = [run.last(node.inputs[0]), run.onnx(node.inputs[1])]
    run.emit(node, inputs, last=True, attrs={**node.attrs, "axis": axis})
    return True


def _reduce(run: LayoutPass, node: Node) -> bool:
    found = _movable(run, node)
    if found is None or not node.attrs.get("keepdims", 1):
        return False
    layout, others = found
    axes = others[0] if others and others[0] is not None else node.attrs.get("axes")
    if axes is None:
        return False
    last = tuple(layout.axis_to_last(int(a)) for a in axes)
    inputs = [run.last(node.inputs[0])]
    attrs = dict(node.attrs)
    if "axes" in attrs:
        attrs["axes"] = last
    else:
        inputs.append(run.build.shared_constant(np.array(last, np.int64), "axes"))
    run.emit(node, inputs, last=True, attrs=attrs)
    return True


def _transpose(run: LayoutPass, node: Node) -> bool:
    """A transpose that converts between the two layouts is free; others start from the layout that exists."""
    name, out = node.inputs[0], node.outputs[0]
    if run.is_constant(name):
        return False
    position, type_ = run.positions[name], run.draft.types[out]
    perm = tuple(node.attrs.get("perm") or reversed(range(type_.rank)))
    if type_.rank == 4 and position.last is not None and position.layout is not None and (
        perm == TO_LAST or position.onnx is None
    ):  # fmt: skip
        made = Position(type_, Layout.of(type_.shape), onnx=position.last)
        if perm != TO_LAST:
            composed = tuple(TO_ONNX[axis] for axis in perm)
            made.onnx = run.transpose(position.last, composed, out, node.name, node.layer)
        run.positions[out] = made
        return True
    if position.onnx is None or not run.wants_last(out):
        return False
    layout = Layout.of(type_.shape)
    if perm == TO_ONNX:
        run.positions[out] = Position(type_, layout, last=position.onnx)
        return True
    if perm == (0, 2, 1) and layout is not None:
        shaped = run.reshape(position.onnx, layout.last_shape, f"{out}_nhwc", node.name, node.layer)
        run.positions[out] = Position(type_, layout, last=shaped)
        return True
    return False


def _reshape(run: LayoutPass, node: Node) -> bool:
    """Flattening an image keeps its order (the reader's weights are reordered); unit dimensions are free."""
    name, out = node.inputs[0], node.outputs[0]
    if run.is_constant(name) or not run.is_constant(node.inputs[1]):
        return False
    position, type_ = run.positions[name], run.draft.types[out]
    if position.onnx is not None or position.layout is None or position.last is None:
        return False
    layout = position.layout
    if layout.is_reshape:
        tensor = run.reshape(position.last, type_.shape, out, node.name, node.layer)
        run.positions[out] = Position(type_, Layout.of(type_.shape), onnx=tensor)
        return True
    if type_.rank != 2 or type_.shape[0] != layout.image[0] or layout.rank == 2:
        return False
    flat = Layout(2, layout.image)
    tensor = run.reshape(position.last, flat.last_shape, out, node.name, node.layer)
    run.positions[out] = Position(type_, flat, last=tensor)
    return True


def _fully_connected(run: LayoutPass, node: Node) -> bool:
    """A flattened channels-last image is used as it is, with the weight's columns in that order."""
    x, weight = node.inputs[0], node.inputs[1]
    position = run.positions.get(x)
    if position is None or position.onnx is not None or position.layout is None or position.layout.rank != 2:
        return False
    if not run.is_constant(weight) or node.input(4) or position.last is None:
        return False
    columns = position.layout.features_to_last(run.draft.constants[weight])
    inputs = [position.last, run.constant(weight, columns, position.layout.image[1:])]
    inputs += [run.onnx(name) if name else "" for name in node.inputs[2:]]
    run.emit(replace(node, inputs=tuple(inputs)), inputs, last=False)
    return True


RULES: dict[tuple[str, str], Rule] = {
    **{key: _wants_channels_last for key in CHANNELS_LAST},
    **{("", op): _elementwise for op in ELEMENTWISE},
    **{("", op): _along_axis for op in ("Softmax", "LogSoftmax", "Hardmax")},
    **{("", op): _reduce for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2")},
    **{(DOMAIN, op): _first_only for op in ("QLookup", "Quantize", "Dequantize")},
    **{(DOMAIN, op): _quantized_pair for op in ("QAdd", "QMul")},
    **{(DOMAIN, op): _fully_connected for op in ("QGemm", "Gemm")},
    (DOMAIN, "QScaleShift"): _scale_shift,
    (DOMAIN, "QConcat"): _concat,
    ("", "Concat"): _concat,
    ("", "Pad"): _pad,
    ("", "Slice"): _slice,
    ("", "Split"): _split,
    ("", "Gather"): _gather,
    ("", "Transpose"): _transpose,
    ("", "Reshape"): _reshape,
    ("", "QuantizeLinear"): _quantize_linear,
    ("", "DequantizeLinear"): _quantize_linear,
}


def channels_last(draft: LoweredGraph, output_names: Sequence[str]) -> LoweredGraph:
    """The same graph in channels-last order; its outputs get ``output_names``, in ONNX's order."""
    graph = fold_permutations(LayoutPass(draft, output_names).run(RULES))
    return rename_outputs(graph, output_names)
