"""Sums, products and per-channel affine functions of quantized tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from .graph import TensorType
from .lookahead import Tail, along_axis
from .source import SourceNode
from .translate import Translator
from .values import Params, Quant, Value, power_of_two_scale


def add(tr: Translator, node: SourceNode) -> bool:
    """Add or Sub of two quantized tensors into a quantized one."""
    tail = tr.ahead.tail(node)
    params = tr.ahead.target(tail.out)
    a, b = tr.quant(node.inputs[0]), tr.quant(node.inputs[1])
    if params is None or a is None or b is None or not tr.offers("add", "int8"):
        return False
    ratios = [np.float64(q.params.scale) / np.float64(params.scale) for q in (a, b)]
    shift = power_of_two_scale(255.0 * (ratios[0] + ratios[1]) + 1)
    a_mul, b_mul = (int(np.rint(ratio * 2.0**shift)) for ratio in ratios)
    attrs = {
        "a_zero_point": a.params.zero_point, "b_zero_point": b.params.zero_point,
        "a_mul": a_mul, "b_mul": -b_mul if node.op == "Sub" else b_mul,
    }  # fmt: skip
    _integer_follower(tr, "QAdd", node, tail, params, [a.tensor, b.tensor], attrs, 2.0**-shift)
    return True


def mul(tr: Translator, node: SourceNode) -> bool:
    """Mul of two quantized tensors into a quantized one."""
    tail = tr.ahead.tail(node)
    params = tr.ahead.target(tail.out)
    a, b = tr.quant(node.inputs[0]), tr.quant(node.inputs[1])
    if params is None or a is None or b is None or not tr.offers("mul", "int8"):
        return False
    scale = np.float64(a.params.scale) * np.float64(b.params.scale) / np.float64(params.scale)
    attrs = {"a_zero_point": a.params.zero_point, "b_zero_point": b.params.zero_point}
    _integer_follower(tr, "QMul", node, tail, params, [a.tensor, b.tensor], attrs, float(np.float32(scale)))
    return True


def _integer_follower(
    tr: Translator, op: str, node: SourceNode, tail: Tail, params: Params, inputs: list[str],
    attrs: dict[str, Any], scale: float,
) -> None:  # fmt: skip
    """Emits an op whose scale is an attribute and whose result is uint8."""
    low, high = params.clamp_code(tail.low), params.clamp_code(tail.high)
    attrs |= {"scale": scale, "out": "uint8", "y_zero_point": params.zero_point, "lo": low, "hi": high}
    type_ = TensorType("uint8", tr.source.shape(tail.out))
    output = tr.hago(op, node, inputs, type_, f"{tail.out}_u8", attrs)
    tr.finish(tail, Value(quant=Quant(output, params)))


def affine(tr: Translator, node: SourceNode) -> bool:
    """y = x * a[c] + b[c]: BatchNormalization, and Mul or Add with a constant per channel.

    A quantized x with a quantized y makes QScaleShift; a float BatchNormalization becomes Mul and Add.
    """
    found = _affine_of(tr, node)
    if found is None:
        return False
    name, factor, offset = found
    tail = tr.ahead.tail(node)
    params, x = tr.ahead.target(tail.out), tr.quant(name)
    if params is not None and x is not None and tr.offers("scale_shift", "int8"):
        a = factor * np.float64(x.params.scale) / np.float64(params.scale)
        b = offset / np.float64(params.scale)
        shift = power_of_two_scale(float((np.abs(a) * 255.0 + np.abs(b)).max(initial=0.0)) + 1)
        scaled = [np.rint(part * 2.0**shift).astype(np.int32) for part in (a, b)]
        inputs = [x.tensor] + [
            tr.build.constant(part, f"{node.name}_{label}") for part, label in zip(scaled, ("mul", "add"), strict=True)
        ]
        attrs = {"x_zero_point": x.params.zero_point}
        _integer_follower(tr, "QScaleShift", node, tail, params, inputs, attrs, 2.0**-shift)
        return True
    if node.op != "BatchNormalization":
        return False
    type_ = tr.source.type(node.outputs[0])
    column = (1, -1) + (1,) * (type_.rank - 2)
    a_name = tr.build.constant(factor.astype(np.float32).reshape(column), f"{node.name}_mul")
    b_name = tr.build.constant(offset.astype(np.float32).reshape(column), f"{node.name}_add")
    layer = node.layer
    scaled_x = tr.standard("Mul", [tr.tensor(name), a_name], type_, f"{node.name}_scaled", layer=layer)
    shifted = tr.standard("Add", [scaled_x, b_name], type_, node.outputs[0], name=node.name, layer=layer)
    tr.set(node.outputs[0], Value(tensor=shifted))
    return True


def _affine_of(tr: Translator, node: SourceNode) -> tuple[str, np.ndarray, np.ndarray] | None:
    """(x, factor float64 [C], offset float64 [C]) along the channel axis 1, else None."""
    shape = tr.source.shape(node.outputs[0])
    if not 2 <= len(shape) <= 4:
        return None
    if node.op == "BatchNormalization":
        arrays = [tr.source.array(name) for name in node.inputs[1:5]]
        if any(a is None for a in arrays) or any(node.outputs[1:]):
            return None
        gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in arrays)
        factor = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
        return node.inputs[0], factor, beta - mean * factor
    position = next((i for i, name in enumerate(node.inputs) if tr.source.constant(name) is not None), None)
    if position is None or node.op not in ("Add", "Mul"):
        return None
    x = node.inputs[1 - position]
    if tr.source.shape(x) != shape or tr.source.constant(x) is not None:
        return None
    array = tr.source.array(node.inputs[position])
    vector = None if array is None else along_axis(array, shape, 1)
    if vector is None:
        return None
    ones, zeros = np.ones(shape[1]), np.zeros(shape[1])
    vector = vector.astype(np.float64)
    return (x, ones, vector) if node.op == "Add" else (x, vector, zeros)
