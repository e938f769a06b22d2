"""Everything that is no anchor and has an integer form: adds, pools, concats, data movement; and the
float pools and affine operators.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .anchors import accumulator, window
from .graph import TensorType
from .source import SourceNode
from .translate import RESHAPES, Tail, Translator, along_axis
from .values import Params, Quant, Value, power_of_two_scale


def quantize_linear(tr: Translator, node: SourceNode) -> bool:
    """QuantizeLinear to 8 bits per tensor."""
    params = tr.quantize_params(node)
    if params is None or tr.source.type(node.inputs[0]).dtype != "float32":
        return False
    signed = tr.source.type(node.outputs[0]).dtype == "int8"
    tr.set(node.outputs[0], Value(codes=tr.quantized(node.inputs[0], params, node.layer), signed=signed))
    return True


def dequantize_linear(tr: Translator, node: SourceNode) -> bool:
    """DequantizeLinear from 8 bits per tensor: nothing is emitted until somebody needs real values."""
    params = tr.quantize_params(node)
    codes = tr.codes_of(node.inputs[0]) if params is not None else None
    if params is None or codes is None:
        return False
    tr.set(node.outputs[0], Value(quant=Quant(codes, params)))
    return True


def cast(tr: Translator, node: SourceNode) -> bool:
    """Widening a bfloat16 tensor: nothing is emitted until somebody needs float32."""
    if tr.source.type(node.inputs[0]).dtype != "bfloat16" or node.attrs["to"] != 1:
        return False
    tr.set(node.outputs[0], Value(bfloat16=tr.tensor(node.inputs[0])))
    return True


def narrow(tr: Translator, node: SourceNode) -> bool:
    """Cast of float32 to bfloat16, once per tensor."""
    if tr.source.type(node.inputs[0]).dtype != "float32" or node.attrs["to"] != 16:
        return False
    type_ = tr.source.type(node.outputs[0])
    tensor = tr.once(
        ("bfloat16", node.inputs[0]),
        lambda: tr.standard(
            "Cast", [tr.tensor(node.inputs[0])], type_, node.outputs[0], {"to": 16}, name=node.name, layer=node.layer
        ),
    )
    tr.set(node.outputs[0], Value(tensor=tensor))
    return True


def identity(tr: Translator, node: SourceNode) -> bool:
    """Identity: another name for the same value."""
    if tr.source.constant(node.inputs[0]) is not None:
        return False
    tr.set(node.outputs[0], tr.value(node.inputs[0]))
    return True


def add(tr: Translator, node: SourceNode) -> bool:
    """Add or Sub of two quantized tensors into a quantized one."""
    tail = tr.tail(node)
    params = tr.target(tail.out)
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
    tail = tr.tail(node)
    params = tr.target(tail.out)
    a, b = tr.quant(node.inputs[0]), tr.quant(node.inputs[1])
    if params is None or a is None or b is None or not tr.offers("mul", "int8"):
        return False
    scale = np.float64(a.params.scale) * np.float64(b.params.scale) / np.float64(params.scale)
    attrs = {"a_zero_point": a.params.zero_point, "b_zero_point": b.params.zero_point}
    _integer_follower(tr, "QMul", node, tail, params, [a.tensor, b.tensor], attrs, float(np.float32(scale)))
    return True


def _integer_follower(
    tr: Translator, op: str, node: SourceNode, tail: Tail, params: Params, inputs: list[str], attrs: dict[str, Any],
    scale: float,
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
    tail = tr.tail(node)
    params, x = tr.target(tail.out), tr.quant(name)
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


def concat(tr: Translator, node: SourceNode) -> bool:
    """Concat of quantized tensors; real ones among them are quantized where the result is."""
    quants = [tr.quant(name) for name in node.inputs]
    params = tr.target(node.outputs[0])
    type_ = TensorType("uint8", tr.source.shape(node.outputs[0]))
    if params is None:
        first = quants[0]
        if first is None or any(q is None or q.params != first.params for q in quants):
            return False
        params = first.params
    if not tr.offers("concat", "int8"):
        return False
    inputs: list[str] = []
    tables: list[tuple[int, np.ndarray]] = []
    for index, (name, quant) in enumerate(zip(node.inputs, quants, strict=True)):
        if quant is None or quant.params == params or tr.source.constant(name) is not None:
            inputs.append(tr.quantized(name, params, node.layer))
        else:
            inputs.append(quant.tensor)
            tables.append((index, params.quantize(quant.params.reals())))
    inputs += [tr.build.constant(table, f"{node.name}_table") for _, table in tables]
    axis = node.attrs["axis"] % len(type_.shape)
    attrs = {"axis": axis, "tables": tuple(index for index, _ in tables)}
    output = tr.hago("QConcat", node, inputs, type_, f"{node.outputs[0]}_u8", attrs)
    tr.set(node.outputs[0], Value(quant=Quant(output, params)))
    return True


def move(tr: Translator, node: SourceNode) -> bool:
    """Data movement: on uint8 codes where the input is quantized; reshapes always become Reshape."""
    value = tr.value(node.inputs[0])
    quant = value.quant
    commutes = tr.commutes(node)
    params = tr.target(node.outputs[0]) if commutes else None
    if quant is None and value.table is not None and params is not None:
        quant = Quant(tr.quantized(node.inputs[0], params), params)
    if quant is None or not commutes:
        if node.op not in RESHAPES or tr.source.constant(node.inputs[0]) is not None:
            return False
        type_ = tr.source.type(node.outputs[0])
        tensor = reshape(tr, tr.tensor(node.inputs[0]), type_, node.outputs[0], node)
        tr.set(node.outputs[0], Value(tensor=tensor))
        return True
    type_ = TensorType("uint8", tr.source.shape(node.outputs[0]))
    hint = f"{node.outputs[0]}_u8"
    if node.op in RESHAPES:
        tensor = reshape(tr, quant.tensor, type_, hint, node)
    else:
        inputs = [quant.tensor] + [tr.tensor(name) if name else "" for name in node.inputs[1:]]
        if node.op == "Pad" and node.attrs.get("mode", "constant") == "constant":
            zero = tr.build.constant(np.array(quant.params.zero_point, np.uint8), f"{node.name}_value")
            inputs = [*inputs[:2], zero, *inputs[3:]]
        tensor = tr.standard(node.op, inputs, type_, hint, dict(node.attrs), name=node.name, layer=node.layer)
    tr.set(node.outputs[0], Value(quant=Quant(tensor, quant.params)))
    return True


def reshape(tr: Translator, tensor: str, type_: TensorType, hint: str, node: SourceNode) -> str:
    """Emits a Reshape to a static shape."""
    shape = tr.build.shared_constant(np.array(type_.shape, np.int64), "shape")
    return tr.standard("Reshape", [tensor, shape], type_, hint, name=node.name, layer=node.layer)


def max_pool(tr: Translator, node: SourceNode) -> bool:
    """MaxPool without indices, and GlobalMaxPool, over 1 or 2 spatial dimensions."""
    shape = tr.source.shape(node.inputs[0])
    if len(shape) not in (3, 4) or any(node.outputs[1:]) or tr.source.constant(node.inputs[0]) is not None:
        return False
    kernel = tuple(node.attrs.get("kernel_shape", shape[2:]))
    attrs = window(node, shape, kernel, tr.source.shape(node.outputs[0]))
    attrs["kernel_shape"] = kernel if len(kernel) == 2 else (1, *kernel)
    quant = tr.quant(node.inputs[0])
    type_ = tr.source.type(node.outputs[0])
    if quant is not None and tr.offers("max_pool", "int8"):
        type_ = TensorType("uint8", type_.shape)
        tensor = tr.hago("QMaxPool", node, [quant.tensor], type_, f"{node.outputs[0]}_u8", attrs)
        tr.set(node.outputs[0], Value(quant=Quant(tensor, quant.params)))
        return True
    if type_.dtype != "float32":
        return False
    tensor = tr.hago("MaxPool", node, [tr.tensor(node.inputs[0])], type_, node.outputs[0], attrs)
    tr.set(node.outputs[0], Value(tensor=tensor))
    return True


def average_pool(tr: Translator, node: SourceNode) -> bool:
    """AveragePool over 1 or 2 spatial dimensions."""
    shape, out = tr.source.shape(node.inputs[0]), tr.source.shape(node.outputs[0])
    if len(shape) not in (3, 4) or tr.source.constant(node.inputs[0]) is not None:
        return False
    kernel = tuple(node.attrs["kernel_shape"])
    attrs = window(node, shape, kernel, out)
    include = int(node.attrs.get("count_include_pad", 0))
    if include and node.attrs.get("ceil_mode", 0):
        # Positions that only ceil_mode adds count for nothing, those of the padding do: no attribute says so.
        return False
    attrs |= {"kernel_shape": kernel if len(kernel) == 2 else (1, *kernel), "count_include_pad": include}
    return _average(tr, node, "AvgPool", attrs, 1.0)


def global_average_pool(tr: Translator, node: SourceNode) -> bool:
    """GlobalAveragePool, and ReduceMean over exactly the spatial dimensions."""
    shape = tr.source.shape(node.inputs[0])
    if len(shape) not in (3, 4) or tr.source.constant(node.inputs[0]) is not None:
        return False
    if node.op == "ReduceMean":
        axes = tr.source.array(node.input(1)) if node.input(1) else node.attrs.get("axes")
        if axes is None or sorted(int(a) % len(shape) for a in axes) != list(range(2, len(shape))):
            return False
        if len(shape) == 3:  # more often tokens than a one-dimensional image
            return False
    return _average(tr, node, "GlobalAvgPool", {}, 1.0 / math.prod(shape[2:]))


def _average(tr: Translator, node: SourceNode, op: str, attrs: dict[str, Any], factor: float) -> bool:
    """Emits the integer or the float form of a pool; a ReduceMean without keepdims is reshaped."""
    name = node.inputs[0]
    if tr.source.type(name).dtype != "float32":
        return False
    tail = tr.tail(node)
    pooled = tr.source.type(tail.out)
    flat = pooled.rank == 2
    kind = "avg_pool" if op == "AvgPool" else "global_avg_pool"
    quant = tr.quant(name)
    if quant is not None and tr.offers(kind, "int8"):
        attrs["x_zero_point"] = quant.params.zero_point
        accumulator(tr, f"Q{op}", node, tail, [quant.tensor], attrs, float(quant.params.scale) * factor)
    else:
        output = tr.hago(op, node, [tr.tensor(name)], pooled, node.outputs[0], attrs)
        tr.set(node.outputs[0], Value(tensor=output))
        tail = Tail(node.outputs[0], [])
    if flat:
        tr.flatten_result(tail.out, (*pooled.shape, 1, 1))
    return True
