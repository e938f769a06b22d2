"""How each operator treats the order of its tensors; see `hago.lower.layout`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .forms import TO_LAST, TO_ONNX, Form
from .graph import DOMAIN, LoweredGraph, Node
from .layout import CHANNELS_LAST, LayoutPass, Position, Rule, fold_permutations, rename_outputs

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
    """Emits an operator in its operands' form; the last ``rest`` inputs are taken as they are."""
    form = run.common_form(node, operands)
    inputs = run.operands_last(operands, form) if form is not None else None
    if form is None or inputs is None:
        return False
    inputs += [run.onnx(name) if name else "" for name in node.inputs[len(node.inputs) - rest :]] if rest else []
    forms = [Form(2, form.image)] if form.rank == 2 else ()
    run.emit(node, inputs, last=True, forms=forms, attrs=attrs)
    return True


def _quantize_linear(run: LayoutPass, node: Node) -> bool:
    scale = run.draft.types[node.inputs[1]]
    if math.prod(scale.shape) != 1:
        return False
    return _first_only(run, node)


def _along_axis(run: LayoutPass, node: Node) -> bool:
    """Softmax and its like: elementwise but for one axis."""
    form = run.common_form(node, [node.inputs[0]])
    if form is None or form.rank == 2:
        return False
    axis = form.axis_to_last(node.attrs.get("axis", -1))
    return _follow(run, node, [node.inputs[0]], len(node.inputs) - 1, {**node.attrs, "axis": axis})


def _concat(run: LayoutPass, node: Node) -> bool:
    rest = len(node.attrs.get("tables", ())) if node.is_hago() else 0
    operands = list(node.inputs[: len(node.inputs) - rest])
    form = run.common_form(node, operands)
    if form is None or form.rank == 2:
        return False
    return _follow(run, node, operands, rest, {**node.attrs, "axis": form.axis_to_last(node.attrs["axis"])})


def _movable(run: LayoutPass, node: Node) -> tuple[Form, list[np.ndarray | None]] | None:
    """The form of a data movement's input where channels-last is what there is, and its other inputs."""
    form = run.common_form(node, [node.inputs[0]])
    if form is None or form.rank == 2 or run.is_constant(node.inputs[0]):
        return None
    if not all(run.is_constant(name) for name in node.inputs[1:] if name):
        return None
    return form, [run.draft.constants[name] if name else None for name in node.inputs[1:]]


def _pad(run: LayoutPass, node: Node) -> bool:
    found = _movable(run, node)
    if found is None:
        return False
    form, (pads, *others) = found
    assert pads is not None
    axes = others[1] if len(others) > 1 else None
    listed = list(range(form.rank)) if axes is None else [int(a) for a in axes]
    last = np.zeros((2, 4), np.int64)
    for position, axis in enumerate(listed):
        last[:, form.axis_to_last(axis)] = pads[position], pads[len(listed) + position]
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
    form, (starts, ends, *others) = found
    assert starts is not None and ends is not None
    axes = others[0] if others and others[0] is not None else np.arange(len(starts))
    last = np.array([form.axis_to_last(int(a)) for a in axes], np.int64)
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
    form, others = found
    axes = others[0] if others and others[0] is not None else node.attrs.get("axes")
    if axes is None:
        return False
    last = tuple(form.axis_to_last(int(a)) for a in axes)
    inputs = [run.last(node.inputs[0])]
    attrs = dict(node.attrs)
    if "axes" in attrs:
        attrs["axes"] = last
    else:
        inputs.append(run.build.shared_constant(np.array(last, np.int64), "axes"))
    run.emit(node, inputs, last=True, attrs=attrs)
    return True


def _transpose(run: LayoutPass, node: Node) -> bool:
    """A transpose that converts between the two forms costs nothing; others start from what is there."""
    name, out = node.inputs[0], node.outputs[0]
    if run.is_constant(name):
        return False
    place, type_ = run.places[name], run.draft.types[out]
    perm = tuple(node.attrs.get("perm") or reversed(range(type_.rank)))
    if type_.rank == 4 and place.last is not None and place.form is not None and (
        perm == TO_LAST or place.onnx is None
    ):  # fmt: skip
        made = Position(type_, Form.of(type_.shape), onnx=place.last)
        if perm != TO_LAST:
            composed = tuple(TO_ONNX[axis] for axis in perm)
            made.onnx = run.transpose(place.last, composed, out, node.name, node.layer)
        run.places[out] = made
        return True
    if place.onnx is None or not run.wants_last(out):
        return False
    form = Form.of(type_.shape)
    if perm == TO_ONNX:
        run.places[out] = Position(type_, form, last=place.onnx)
        return True
    if perm == (0, 2, 1) and form is not None:
        shaped = run.reshape(place.onnx, form.last_shape, f"{out}_nhwc", node.name, node.layer)
        run.places[out] = Position(type_, form, last=shaped)
        return True
    return False


def _reshape(run: LayoutPass, node: Node) -> bool:
    """Flattening an image keeps its order (the reader's weights follow); unit dimensions cost nothing."""
    name, out = node.inputs[0], node.outputs[0]
    if run.is_constant(name) or not run.is_constant(node.inputs[1]):
        return False
    place, type_ = run.places[name], run.draft.types[out]
    if place.onnx is not None or place.form is None or place.last is None:
        return False
    form = place.form
    if form.is_reshape:
        tensor = run.reshape(place.last, type_.shape, out, node.name, node.layer)
        run.places[out] = Position(type_, Form.of(type_.shape), onnx=tensor)
        return True
    if type_.rank != 2 or type_.shape[0] != form.image[0] or form.rank == 2:
        return False
    flat = Form(2, form.image)
    tensor = run.reshape(place.last, flat.last_shape, out, node.name, node.layer)
    run.places[out] = Position(type_, flat, last=tensor)
    return True


def _fully_connected(run: LayoutPass, node: Node) -> bool:
    """A flattened channels-last image is taken as it is, with the weight's columns in that order."""
    x, weight = node.inputs[0], node.inputs[1]
    place = run.places.get(x)
    if place is None or place.onnx is not None or place.form is None or place.form.rank != 2:
        return False
    if not run.is_constant(weight) or node.input(4) or place.last is None:
        return False
    columns = place.form.features_to_last(run.draft.constants[weight])
    inputs = [place.last, run.constant(weight, columns, place.form.image[1:])]
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
