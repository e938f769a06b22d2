"""Quantized operators that look at one element at a time: QAdd, QMul, QScaleShift, QLookup, (De)Quantize.

Scales, multipliers, zero points and clamps are inputs of the kernels (constants of the artifact), so that
one compiled kernel serves every strategy. All results equal the formulas of the lowered graph bit for bit:
products and sums are exact in int32, there is one float32 rounding, and a clamp stands between the product
and the rounding, so that no fused multiply-add can form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from ..errors import BuildError
from .base import Isa, KernelCall, NodeView, TensorType, emits
from .broadcast import nest, operand, walk
from .lookup import Lookup, lookup
from .transpose import order, permute
from .vector import Epilogue, Expr, Flat, byte_lanes, cast, factors_of, numbers_of, primfunc, rows, spans

_INT = "int32"


@dataclass(frozen=True)
class Binary:
    """QAdd or QMul of two uint8 tensors with numpy broadcasting."""

    op: str
    a: tuple[int, ...]
    b: tuple[int, ...]
    y: tuple[int, ...]
    out: str


def binary(params: Binary, isa: Isa, threads: int) -> Any:
    """(a, b, numbers int32 [4] or [2], factors float32 [1], epilogue constants) -> y.

    QAdd: numbers a_zero_point, b_zero_point, a_mul, b_mul; acc = (a - za) * a_mul + (b - zb) * b_mul.
    QMul: numbers a_zero_point, b_zero_point; acc = (a - za) * (b - zb).
    """
    loops = nest(params.y, [params.a, params.b])

    def body(a: Flat, b: Flat, numbers: Flat, factors: Flat, constants: Flat, y: Flat) -> None:
        a_zero, b_zero, scale = numbers.load(0), numbers.load(1), factors.load(0)
        epilogue = Epilogue(params.out, constants, 0)
        if params.op == "QAdd":
            a_mul, b_mul = numbers.load(2), numbers.load(3)
            shift = T.bind(a_zero * a_mul + b_zero * b_mul)

        def total(left: Expr, right: Expr) -> Expr:
            return left * a_mul + right * b_mul - shift

        def vector(to: Expr, at: list[Expr], lanes: int) -> None:
            left = cast(operand(a, at[0], loops.strides[0], lanes), _INT, lanes)
            right = cast(operand(b, at[1], loops.strides[1], lanes), _INT, lanes)
            acc = total(left, right) if params.op == "QAdd" else (left - a_zero) * (right - b_zero)
            y.store(to, epilogue(cast(acc, "float32", lanes) * scale, lanes), lanes)

        walk(loops, byte_lanes(isa), threads, 4, vector)

    count = 4 if params.op == "QAdd" else 2
    return primfunc(
        [
            TensorType("uint8", params.a),
            TensorType("uint8", params.b),
            TensorType(_INT, (count,)),
            TensorType("float32", (1,)),
            constants_type(params.out),
        ],
        [TensorType(params.out, params.y)],
        body,
    )


def constants_type(out: str) -> TensorType:
    """The type of the epilogue's constants, see `vector.Epilogue`."""
    return TensorType(_INT, (3,)) if out == "uint8" else TensorType("float32", (2,))


def epilogue_constants(node: NodeView) -> tuple[str, np.ndarray]:
    """The output type that a node asks for, and its epilogue's constants."""
    attrs = node.attrs
    out = attrs.get("out", "uint8")
    if out == "uint8":
        return out, numbers_of(attrs["y_zero_point"], attrs["lo"], attrs["hi"])
    if out == "float32":
        return out, factors_of(attrs.get("act_lo", -np.inf), attrs.get("act_hi", np.inf))
    raise BuildError(f"the output of {node.op} must be uint8 or float32, not {out!r}", where=node.name)


@emits("hago", "QAdd", "QMul")
def emit_binary(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    a, b = node.inputs
    attrs = node.attrs
    out, constants = epilogue_constants(node)
    numbers = [attrs["a_zero_point"], attrs["b_zero_point"]]
    if node.op == "QAdd":
        numbers += [attrs["a_mul"], attrs["b_mul"]]
    params = Binary(node.op, node.type(a).shape, node.type(b).shape, node.type(node.outputs[0]).shape, out)
    inputs = (a, b, numbers_of(*numbers), factors_of(attrs["scale"]), constants)
    return [KernelCall("pointwise", params, binary, inputs, node.outputs, node.layer)]


@dataclass(frozen=True)
class ScaleShift:
    """Per-channel affine map of ``rows`` x ``channels``."""

    shape: tuple[int, ...]
    rows: int
    channels: int
    out: str


def scale_shift(params: ScaleShift, isa: Isa, threads: int) -> Any:
    """(x, mul int32 [C], add int32 [C], numbers int32 [1], factors float32 [1], epilogue constants) -> y.

    acc = (x - x_zero_point) * mul[c] + add[c].
    """
    channels = params.channels

    def body(x: Flat, mul: Flat, add: Flat, numbers: Flat, factors: Flat, constants: Flat, y: Flat) -> None:
        zero, scale = numbers.load(0), factors.load(0)
        epilogue = Epilogue(params.out, constants, 0)

        def row_body(row: Expr) -> None:
            def vector(c: Expr, lanes: int) -> None:
                at = row * channels + c
                value = cast(x.load(at, lanes), _INT, lanes) - zero
                acc = value * mul.load(c, lanes) + add.load(c, lanes)
                y.store(at, epilogue(cast(acc, "float32", lanes) * scale, lanes), lanes)

            spans(channels, byte_lanes(isa), vector)

        rows(params.rows, threads, 4 * x.size, row_body)

    vector_type = TensorType(_INT, (channels,))
    return primfunc(
        [
            TensorType("uint8", params.shape),
            vector_type,
            vector_type,
            TensorType(_INT, (1,)),
            TensorType("float32", (1,)),
            constants_type(params.out),
        ],
        [TensorType(params.out, params.shape)],
        body,
    )


def _repeats(count: int, channels: int, at_least: int) -> int:
    """How many neighbouring pixels to take as one row, so that few channels still fill a vector."""
    if channels >= at_least:
        return 1
    fitting = [k for k in range(1, min(count, 1 + 4 * at_least // channels) + 1) if count % k == 0]
    return max(fitting)


@emits("hago", "QScaleShift")
def emit_scale_shift(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    x, mul, add = node.inputs
    out, constants = epilogue_constants(node)
    shape = node.type(x).shape
    channels = shape[-1]
    count = node.type(x).size // channels
    factors = [node.constant(name) for name in (mul, add)]
    inputs: list[str | np.ndarray] = [mul, add]
    repeats = 1
    if all(value is not None for value in factors):
        repeats = _repeats(count, channels, byte_lanes(isa))
        inputs = [np.tile(np.asarray(value, np.int32), repeats) for value in factors]
    params = ScaleShift(shape, count // repeats, channels * repeats, out)
    numbers, scale = numbers_of(node.attrs["x_zero_point"]), factors_of(node.attrs["scale"])
    call = (x, *inputs, numbers, scale, constants)
    return [KernelCall("pointwise", params, scale_shift, call, node.outputs, node.layer)]


@emits("hago", "QLookup")
def emit_lookup(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    x, table = node.inputs
    params = Lookup(node.type(x).shape, node.type(node.outputs[0]).dtype)
    return [KernelCall("lookup", params, lookup, (x, table), node.outputs, node.layer)]


@dataclass(frozen=True)
class Convert:
    """Quantize (float32 to uint8) or Dequantize (uint8 to float32), transposed by ``perm``."""

    op: str
    shape: tuple[int, ...]
    perm: tuple[int, ...]


def convert(params: Convert, isa: Isa, threads: int) -> Any:
    """Quantize: (x, scale float32 [1], numbers int32 [3] zero point, lo, hi) -> y.

    y = clamp(rint(x / scale) + zero_point, lo, hi): the clamp is applied ahead of rint, to lo - zp and
    hi - zp, which is the same because these are integers.
    Dequantize: (x, scale float32 [1], numbers int32 [1] zero point) -> y = float32(x - zero_point) * scale.
    """
    how = order(params.shape, params.perm)
    shape = tuple(params.shape[axis] for axis in params.perm)

    def quantize(x: Flat, factors: Flat, constants: Flat, y: Flat) -> None:
        scale, epilogue = factors.load(0), Epilogue("uint8", constants, 0)
        permute(x, y, how, byte_lanes(isa), threads, cost=4, before=lambda v, lanes: epilogue(v / scale, lanes))

    def dequantize(x: Flat, factors: Flat, constants: Flat, y: Flat) -> None:
        scale, zero = factors.load(0), constants.load(0)

        def after(value: Expr, lanes: int) -> Expr:
            return cast(cast(value, _INT, lanes) - zero, "float32", lanes) * scale

        permute(x, y, how, byte_lanes(isa), threads, cost=3, after=after)

    if params.op == "Quantize":
        inputs = [TensorType("float32", params.shape), TensorType("float32", (1,)), TensorType(_INT, (3,))]
        return primfunc(inputs, [TensorType("uint8", shape)], quantize)
    inputs = [TensorType("uint8", params.shape), TensorType("float32", (1,)), TensorType(_INT, (1,))]
    return primfunc(inputs, [TensorType("float32", shape)], dequantize)


@emits("hago", "Quantize", "Dequantize")
def emit_convert(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    attrs = node.attrs
    shape = node.type(node.inputs[0]).shape
    perm = tuple(attrs.get("perm") or range(len(shape)))
    numbers = [attrs["zero_point"]]
    if node.op == "Quantize":
        numbers += [attrs.get("lo", 0), attrs.get("hi", 255)]
    inputs = (node.inputs[0], factors_of(attrs["scale"]), numbers_of(*numbers))
    params = Convert(node.op, shape, perm)
    return [KernelCall("pointwise", params, convert, inputs, node.outputs, node.layer)]
