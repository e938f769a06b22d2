"""Sums, products and per-channel affine functions of quantized tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tensor import TensorType
from .arithmetic import fma
from .lookahead import FusedEpilogue, along_axis
from .source import SourceNode
from .translate import Translator
from .values import Params, Quant, Value


def add(tr: Translator, node: SourceNode) -> bool:
    """Add or Sub of two quantized tensors into a quantized one."""
    epilogue = tr.ahead.epilogue(node)
    params = tr.ahead.target(epilogue.out)
    a, b = tr.quant(node.inputs[0]), tr.quant(node.inputs[1])
    if params is None or a is None or b is None or not tr.integers("add"):
        return False
    sign = -1 if node.op == "Sub" else 1
    attrs = sum_of_codes(a.params, b.params, params, sign)
    _quantized(tr, "QAdd", node, epilogue, params, [a.tensor, b.tensor], attrs)
    return True


def sum_of_codes(a: Params, b: Params, y: Params, sign: int = 1) -> dict[str, float]:
    """The numbers of QAdd: y's code is rint(a_scale * code of a + b_scale * code of b + offset), clamped.

    float32 throughout and rounded in this order, so the codes are those of ONNX Runtime's QLinearAdd on x86.
    """
    a_scale, b_scale = a.scale / y.scale, np.float32(sign) * b.scale / y.scale
    zero = fma(np.array(a_scale), np.float32(a.zero_point), b_scale * np.float32(b.zero_point))
    offset = np.float32(y.zero_point) - zero
    return {"a_scale": float(a_scale), "b_scale": float(b_scale), "offset": float(offset)}


def mul(tr: Translator, node: SourceNode) -> bool:
    """Mul of two quantized tensors into a quantized one."""
    epilogue = tr.ahead.epilogue(node)
    params = tr.ahead.target(epilogue.out)
    a, b = tr.quant(node.inputs[0]), tr.quant(node.inputs[1])
    if params is None or a is None or b is None or not tr.integers("mul"):
        return False
    scale = np.float64(a.params.scale) * np.float64(b.params.scale) / np.float64(params.scale)
    attrs = {
        "a_zero_point": a.params.zero_point, "b_zero_point": b.params.zero_point,
        "scale": float(np.float32(scale)), "out": "uint8", "y_zero_point": params.zero_point,
    }  # fmt: skip
    _quantized(tr, "QMul", node, epilogue, params, [a.tensor, b.tensor], attrs)
    return True


def _quantized(
    tr: Translator,
    op: str,
    node: SourceNode,
    epilogue: FusedEpilogue,
    params: Params,
    inputs: list[str],
    attrs: dict[str, Any],
) -> None:
    """Emits an op whose result is uint8, clamped as the epilogue says."""
    attrs |= {"lo": params.clamp_code(epilogue.low), "hi": params.clamp_code(epilogue.high)}
    type_ = TensorType("uint8", tr.source.shape(epilogue.out))
    output = tr.hago(op, node, inputs, type_, f"{epilogue.out}_u8", attrs)
    tr.finish(epilogue, Value(quant=Quant(output, params)))


def affine(tr: Translator, node: SourceNode) -> bool:
    """y = x * a[c] + b[c]: BatchNormalization, and Mul or Add with a constant per channel.

    If x and y are quantized it becomes QScaleShift; a float BatchNormalization becomes Mul and Add.
    """
    found = _affine_of(tr, node)
    if found is None:
        return False
    name, factor, offset = found
    epilogue = tr.ahead.epilogue(node)
    params, x = tr.ahead.target(epilogue.out), tr.quant(name)
    if params is not None and x is not None and tr.integers("scale_shift"):
        numbers = affine_of_codes(x.params, factor, offset, params)
        inputs = [x.tensor] + [
            tr.build.constant(part, f"{node.name}_{label}") for part, label in zip(numbers, ("mul", "add"), strict=True)
        ]
        _quantized(tr, "QScaleShift", node, epilogue, params, inputs, {})
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


def affine_of_codes(x: Params, factor: np.ndarray, offset: np.ndarray, y: Params) -> tuple[np.ndarray, np.ndarray]:
    """(mul, add) of QScaleShift, float32 [C], for y = x * factor + offset (float32 [C]) between quantized tensors.

    x has 256 codes: `add` is shifted where necessary, so that each code gives the result of the source's float32
    operators (dequantize, multiply, add, divide by y's scale, round), ties included.
    """
    codes = np.arange(256, dtype=np.float32)
    real = x.reals() * factor[:, None] + offset[:, None]  # two roundings
    wanted = y.quantize(real).astype(np.float64)
    mul = (factor.astype(np.float64) * float(x.scale) / float(y.scale)).astype(np.float32)
    add = offset.astype(np.float64) / float(y.scale) + y.zero_point - mul.astype(np.float64) * x.zero_point
    # wanted - 1/2 <= mul * code + add <= wanted + 1/2, but for saturated codes, which have one bound.
    slack = wanted - (mul[:, None].astype(np.float64) * codes + add[:, None])
    least = np.where(wanted > 0, slack - 0.5, -np.inf).max(axis=1)
    most = np.where(wanted < 255, slack + 0.5, np.inf).min(axis=1)
    with np.errstate(invalid="ignore"):
        middle = np.where(np.isfinite(least + most), (least + most) / 2, np.clip(0.0, least, most))
    margin = 2.0**-14  # of one code: what fma may lose when it rounds to float32
    shift = np.where((least + margin <= 0) & (most - margin >= 0), 0.0, middle)
    return mul, (add + shift).astype(np.float32)


def _affine_of(tr: Translator, node: SourceNode) -> tuple[str, np.ndarray, np.ndarray] | None:
    """(x, factor float32 [C], offset float32 [C]) along the channel axis 1, else None."""
    shape = tr.source.shape(node.outputs[0])
    if not 2 <= len(shape) <= 4:
        return None
    if node.op == "BatchNormalization":
        arrays = [tr.source.array(name) for name in node.inputs[1:5]]
        if any(a is None for a in arrays) or any(node.outputs[1:]):
            return None
        gamma, beta, mean, variance = (np.asarray(a, np.float32) for a in arrays)
        factor = gamma * (np.float32(1) / np.sqrt(variance + np.float32(node.attrs.get("epsilon", 1e-5))))
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
    ones, zeros = np.ones(shape[1], np.float32), np.zeros(shape[1], np.float32)
    vector = vector.astype(np.float32)
    return (x, ones, vector) if node.op == "Add" else (x, vector, zeros)
