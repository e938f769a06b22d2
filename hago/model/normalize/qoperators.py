"""Operators with built-in quantization (QLinearConv, MatMulInteger, QLinearAdd ...), as QDQ.

``_EXPANSIONS`` has one entry for each, of the standard and of ONNX Runtime's domain com.microsoft. An operator becomes
the float operator between DequantizeLinear and QuantizeLinear if integer kernels compute that exactly; if they
do not (weights without a zero point in the middle, weights or scales known only at run time) it becomes the integer
sum that defines it (`integers`), times the product of the scales.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ...errors import UnsupportedOpError
from .edit import Editor, attr_float, attr_int, attr_ints, constant, dims, dtype_of

MICROSOFT = "com.microsoft"
_FLOAT, _UINT8, _INT32 = 1, 2, 6


class Expansion:
    """One quantized operator that is being replaced: adds the new nodes before it."""

    def __init__(self, editor: Editor, node: ir.Node, where: str) -> None:
        self.editor, self.node, self.where = editor, node, where

    def inputs(self, count: int) -> list[ir.Value | None]:
        """The first ``count`` inputs, None for absent ones."""
        given = [v if v is not None and v.name else None for v in self.node.inputs]
        return (given + [None] * count)[:count]

    def op(self, op_type: str, *inputs: ir.Value | None, last: bool = False, **attributes: Any) -> ir.Value:
        """A standard operator; the ``last`` one takes over the name of the node."""
        name = None if last else f"{self.node.name}_{op_type.lower()}"
        return self.editor.node(op_type, inputs, self.node, attributes, name=name)

    def number(self, value: float, dtype: Any = np.float32) -> ir.Value:
        """A scalar constant."""
        return self.editor.initializer(np.array(value, dtype), f"{self.node.name}_constant")

    def integers(self, *values: int) -> ir.Value:
        """A constant list of integers: axes or a shape."""
        return self.editor.initializer(np.array(values, np.int64), f"{self.node.name}_constant")

    def dequantize(
        self, x: ir.Value | None, scale: ir.Value | None, zero: ir.Value | None, axis: int | None = None
    ) -> ir.Value:
        """The real tensor; ``axis`` is that of a scale per channel."""
        attributes: dict[str, Any] = {"axis": axis} if axis is not None and not self.is_scalar(scale) else {}
        inputs = [x, self.scalar(scale), *([] if zero is None else [self.scalar(zero)])]
        return self.op("DequantizeLinear", *inputs, **attributes)

    def quantize(self, x: ir.Value, scale: ir.Value | None, zero: ir.Value | None, like: ir.Value | None) -> ir.Value:
        """The codes of a real tensor; without a zero point, in the type of ``like``."""
        if zero is None:
            dtype = None if like is None else dtype_of(like)
            zero = self.number(0, np.uint8 if dtype is None else dtype.numpy())
        return self.op("QuantizeLinear", x, self.scalar(scale), self.scalar(zero))

    def is_scalar(self, value: ir.Value | None) -> bool:
        """Whether one number applies to the whole tensor (or none is given: the default)."""
        shape = dims(value)
        return value is None or shape is None or int(np.prod(shape)) == 1

    def scalar(self, value: ir.Value | None) -> ir.Value | None:
        """A parameter of one element as a scalar, as QuantizeLinear has it; many files have lists of one."""
        array = constant(value)
        if array is None or array.size != 1 or not array.ndim:
            return value
        return self.editor.initializer(array.reshape(()), f"{self.node.name}_scalar")

    def real(self, value: ir.Value | None) -> ir.Value:
        """The value as float32."""
        assert value is not None
        array = constant(value)
        if array is not None:
            return self.editor.initializer(array.astype(np.float32), f"{self.node.name}_constant")
        return value if dtype_of(value) == ir.DataType.FLOAT else self.op("Cast", value, to=_FLOAT)

    def known(self, *values: ir.Value | None) -> bool:
        """Whether all are constant or absent."""
        return all(v is None or constant(v) is not None for v in values)

    def attributes(self, *dropped: str) -> dict[str, Any]:
        """The attributes that the node shares with the operator that it becomes."""
        return {k: a.value for k, a in self.node.attributes.items() if k not in dropped}

    def refuse(self, why: str, hint: str = "export the model in QDQ format") -> UnsupportedOpError:
        """The error of a node that cannot be expanded."""
        return UnsupportedOpError(
            f"operator {self.node.op_type} of domain {self.node.domain or 'ai.onnx'} cannot be compiled: {why}",
            where=f"{self.where}, node {self.node.name!r}",
            hint=hint,
        )


def expand_quantized(graph: ir.Graph, where: str) -> int:
    """Replaces every operator of ``_EXPANSIONS``; the number of edits. Raises UnsupportedOpError."""
    editor = Editor(graph)
    for node in list(graph):
        build = _EXPANSIONS.get((node.domain, node.op_type))
        if build is None:
            continue
        results = build(Expansion(editor, node, where))
        for old, new in zip(list(node.outputs), [results] if isinstance(results, ir.Value) else results, strict=False):
            editor.forward(old, new)
        editor.discard(node)
    return editor.changed


def can_expand(domain: str, op_type: str) -> bool:
    """Whether a node of that kind is replaced on import."""
    return (domain, op_type) in _EXPANSIONS


# --- sums of products -------------------------------------------------------------------------------


def _centred(weight: ir.Value | None, zero: ir.Value | None) -> bool:
    """Whether integer kernels take a constant weight as it is: its zero points are in the middle of the range."""
    codes, middle = constant(weight), constant(zero)
    if codes is None or (zero is not None and middle is None):
        return False
    wanted = {np.dtype(np.int8): 0, np.dtype(np.uint8): 128}.get(codes.dtype)
    return wanted is not None and (wanted == 0 if middle is None else bool((middle == wanted).all()))


def _bias_scale(e: Expansion, x_scale: ir.Value | None, w_scale: ir.Value | None) -> ir.Value:
    """The scale of an int32 bias: that of the products."""
    x, w = constant(x_scale), constant(w_scale)
    assert x is not None and w is not None
    return e.editor.initializer((x.reshape(()) * w).astype(np.float32), f"{e.node.name}_bias_scale")


def _requantized(
    e: Expansion, acc: ir.Value, scales: Sequence[ir.Value], y_scale: ir.Value | None, zero: ir.Value | None,
    like: ir.Value | None,
) -> ir.Value:  # fmt: skip
    """rint(float32(acc) * (scale * scale / y_scale)) + zero; a real tensor if there is no ``y_scale``."""
    factor = scales[0]
    for scale in scales[1:]:
        factor = e.op("Mul", factor, scale)
    if y_scale is not None:
        factor = e.op("Div", factor, y_scale)
    real = e.op("Mul", e.op("Cast", acc, to=_FLOAT), factor, last=True)
    return real if y_scale is None else e.quantize(real, e.number(1.0), zero, like)


def _conv(e: Expansion) -> ir.Value:
    x, xs, xz, w, ws, wz, ys, yz, bias = e.inputs(9)
    if attr_int(e.node, "channels_last", 0):
        raise e.refuse("its channels come last", "convert the model before ONNX Runtime optimizes it")
    attributes = e.attributes("channels_last")
    if _centred(w, wz) and e.known(xs, xz, ws, ys, yz) and e.is_scalar(xs):
        offset = [] if bias is None else [e.dequantize(bias, _bias_scale(e, xs, ws), None, axis=0)]
        real = e.op("Conv", e.dequantize(x, xs, xz), e.dequantize(w, ws, wz, axis=0), *offset, last=True, **attributes)
        return e.quantize(real, ys, yz, x)
    shape = dims(w)
    if shape is None:
        raise e.refuse("the shape of its weights is not known")
    spread = tuple(range(1, len(shape) - 1))  # from [M] to [M, 1, 1]
    zeros = [xz if xz is not None else e.number(0, np.uint8), *([] if wz is None else [wz])]
    acc = e.op("ConvInteger", x, w, *zeros, **attributes)
    if bias is not None:
        acc = e.op("Add", acc, e.op("Unsqueeze", bias, e.integers(*spread)))
    if not e.is_scalar(ws):
        ws = e.op("Unsqueeze", ws, e.integers(*spread))
    assert xs is not None and ws is not None
    return _requantized(e, acc, [xs, ws], ys, yz, x)


def _matmul(
    e: Expansion, a: Sequence[ir.Value | None], b: Sequence[ir.Value | None], ys: ir.Value | None, yz: ir.Value | None
) -> ir.Value:
    """Codes (a real tensor without ``ys``) of the product of two triples of codes, scale and zero point."""
    (x, xs, xz), (w, ws, wz) = a, b
    whole = e.is_scalar(xs) and e.is_scalar(xz)
    two = constant(w) is None and e.is_scalar(ws) and e.is_scalar(wz)
    if whole and e.known(xs, xz, ws, wz, ys, yz) and (two or _centred(w, wz)):
        real = e.op("MatMul", e.dequantize(x, xs, xz), e.dequantize(w, ws, wz, axis=-1), last=True)
        return real if ys is None else e.quantize(real, ys, yz, x)
    zeros = [xz, wz] if wz is not None else [xz] if xz is not None else []
    acc = e.op("MatMulInteger", x, w, *zeros)
    shape = dims(xs)
    if shape is not None and len(shape) == 1 and shape[0] > 1:
        xs = e.op("Unsqueeze", xs, e.integers(1))  # a scale per row
    assert xs is not None and ws is not None
    return _requantized(e, acc, [xs, ws], ys, yz, x)


def _qlinear_matmul(e: Expansion) -> ir.Value:
    given = e.inputs(8)
    return _matmul(e, given[:3], given[3:6], given[6], given[7])


def _gemm(e: Expansion) -> ir.Value:
    a, sa, za, b, sb, zb, bias, ys, yz = e.inputs(9)
    alpha = attr_float(e.node, "alpha", 1.0)
    turned_a, turned_b = attr_int(e.node, "transA", 0), attr_int(e.node, "transB", 0)
    if _centred(b, zb) and e.known(sa, za, sb, ys, yz, bias) and e.is_scalar(sa):
        offset = []
        if bias is not None:
            axis = len(dims(bias) or (1,)) - 1
            offset = [e.dequantize(bias, _bias_scale(e, sa, sb), None, axis)]
        factors = {"alpha": alpha, "beta": alpha, "transA": turned_a, "transB": turned_b}
        weight = e.dequantize(b, sb, zb, axis=0 if turned_b else 1)
        real = e.op("Gemm", e.dequantize(a, sa, za), weight, *offset, last=True, **factors)
        return real if ys is None else e.quantize(real, ys, yz, a)
    x = e.op("Transpose", a, perm=[1, 0]) if turned_a else a
    w = e.op("Transpose", b, perm=[1, 0]) if turned_b else b
    zeros = [za, zb] if zb is not None else [za] if za is not None else []
    acc = e.op("MatMulInteger", x, w, *zeros)
    if bias is not None:
        acc = e.op("Add", acc, bias)
    assert sa is not None and sb is not None
    return _requantized(e, acc, [e.number(alpha), sa, sb], ys, yz, a)


def _matmul_to_float(e: Expansion) -> ir.Value:
    a, b, sa, sb, za, zb, bias = e.inputs(7)
    product = _matmul(e, (a, sa, za), (b, sb, zb), None, None)
    return product if bias is None else e.op("Add", product, bias)


def _dynamic_matmul(e: Expansion) -> ir.Value:
    a, b, sb, zb, bias = e.inputs(5)
    codes, scale, zero = dynamic_quantize(e, a)
    product = _matmul(e, (codes, scale, zero), (b, sb, zb), None, None)
    return product if bias is None else e.op("Add", product, bias)


def dynamic_quantize(e: Expansion, x: ir.Value | None) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Codes, scale and zero point of DynamicQuantizeLinear. If all is zero, the scale is 1 (ONNX: 0 / 0)."""
    zero, one, top = e.number(0.0), e.number(1.0), e.number(255.0)
    low = e.op("Min", e.op("ReduceMin", x, keepdims=0), zero)
    high = e.op("Max", e.op("ReduceMax", x, keepdims=0), zero)
    reach = e.op("Sub", high, low)
    scale = e.op("Where", e.op("Equal", reach, zero), one, e.op("Div", reach, top))
    exact = e.op("Sub", zero, e.op("Div", low, scale))
    middle = e.op("Cast", e.op("Round", e.op("Clip", exact, zero, top)), to=_UINT8)
    return e.op("QuantizeLinear", x, scale, middle, last=True), scale, middle


def _dynamic(e: Expansion) -> tuple[ir.Value, ir.Value, ir.Value]:
    return dynamic_quantize(e, e.inputs(1)[0])


# --- the rest: a float operator between DequantizeLinear and QuantizeLinear --------------------------


def _unary(op_type: str, *, needs_channels: bool = False) -> Callable[[Expansion], ir.Value]:
    """(x, scale, zero, y scale, y zero)."""

    def build(e: Expansion) -> ir.Value:
        x, xs, xz, ys, yz = e.inputs(5)
        if needs_channels and attr_int(e.node, "channels_last", 0):
            raise e.refuse("its channels come last", "convert the model before ONNX Runtime optimizes it")
        real = e.op(op_type, e.dequantize(x, xs, xz), last=True, **e.attributes("channels_last"))
        return e.quantize(real, ys, yz, x)

    return build


def _binary(op_type: str) -> Callable[[Expansion], ir.Value]:
    def build(e: Expansion) -> ir.Value:
        a, sa, za, b, sb, zb, ys, yz = e.inputs(8)
        return e.quantize(e.op(op_type, e.dequantize(a, sa, za), e.dequantize(b, sb, zb), last=True), ys, yz, a)

    return build


def _concat(e: Expansion) -> ir.Value:
    ys, yz, *parts = e.inputs(len(e.node.inputs))
    triples = [parts[i : i + 3] for i in range(0, len(parts), 3)]
    real = e.op("Concat", *(e.dequantize(x, s, z) for x, s, z in triples), last=True, **e.attributes())
    return e.quantize(real, ys, yz, triples[0][0])


def _softmax(e: Expansion) -> ir.Value:
    x, xs, xz, ys, yz = e.inputs(5)
    real, axis = e.dequantize(x, xs, xz), attr_int(e.node, "axis", -1)
    if attr_int(e.node, "opset", 13) >= 13:
        return e.quantize(e.op("Softmax", real, last=True, axis=axis), ys, yz, x)
    # Until opset 12, all dimensions from the axis on count as one.
    flat = e.op("Softmax", e.op("Flatten", real, axis=axis), last=True, axis=-1)
    return e.quantize(e.op("Reshape", flat, e.op("Shape", real)), ys, yz, x)


def _reduce_mean(e: Expansion) -> ir.Value:
    x, xs, xz, ys, yz = e.inputs(5)
    axes = attr_ints(e.node, "axes")
    inputs = [e.dequantize(x, xs, xz), *([] if axes is None else [e.integers(*axes)])]
    return e.quantize(e.op("ReduceMean", *inputs, last=True, keepdims=attr_int(e.node, "keepdims", 1)), ys, yz, x)


def _where(e: Expansion) -> ir.Value:
    condition, a, sa, za, b, sb, zb, ys, yz = e.inputs(9)
    real = e.op("Where", condition, e.dequantize(a, sa, za), e.dequantize(b, sb, zb), last=True)
    return e.quantize(real, ys, yz, a)


_EXPANSIONS: Mapping[tuple[str, str], Callable[[Expansion], ir.Value | tuple[ir.Value, ...]]] = {
    ("", "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _qlinear_matmul,
    ("", "DynamicQuantizeLinear"): _dynamic,
    (MICROSOFT, "QLinearConv"): _conv,
    (MICROSOFT, "QGemm"): _gemm,
    (MICROSOFT, "MatMulIntegerToFloat"): _matmul_to_float,
    (MICROSOFT, "DynamicQuantizeMatMul"): _dynamic_matmul,
    (MICROSOFT, "QLinearAdd"): _binary("Add"),
    (MICROSOFT, "QLinearMul"): _binary("Mul"),
    (MICROSOFT, "QLinearSigmoid"): _unary("Sigmoid"),
    (MICROSOFT, "QLinearLeakyRelu"): _unary("LeakyRelu"),
    (MICROSOFT, "QLinearAveragePool"): _unary("AveragePool", needs_channels=True),
    (MICROSOFT, "QLinearGlobalAveragePool"): _unary("GlobalAveragePool", needs_channels=True),
    (MICROSOFT, "QLinearConcat"): _concat,
    (MICROSOFT, "QLinearSoftmax"): _softmax,
    (MICROSOFT, "QLinearReduceMean"): _reduce_mean,
    (MICROSOFT, "QLinearWhere"): _where,
}
