"""Quantized operators on single elements: QAdd, QMul, QScaleShift, QLookup, Quantize and Dequantize.

Scales, multipliers, zero points and clamps are inputs of the kernels (constants of the artifact), so that
one compiled kernel serves every strategy. All results equal the formulas of the lowered graph bit for bit: a
multiply-add is fused where the formula says so; elsewhere a clamp between product and rounding prevents one.

Tensors are row-major, of any shape; per-channel vectors run along the last axis. Epilogue constants are those of
`vector.Epilogue`. No two buffers may overlap.
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.broadcast import nest, operand
from ..common.epilogue import constants_type
from ..common.flat import Expr, Flat, all_lanes, cast, primfunc, typed
from ..common.movement import order
from ..common.pointwise import Binary, Convert, ScaleShift
from .broadcast import walk
from .families import Isa
from .registry import computes
from .transpose import permute
from .vector import Epilogue, byte_lanes, rows, spans

_INT = "int32"


@computes(Binary)
def binary(params: Binary, isa: Isa, threads: int) -> Any:
    """(a uint8, b uint8, factors float32 [3], epilogue constants) -> y uint8 or float32.

    QAdd: factors a_scale, b_scale, offset; fma(a, a_scale, fma(b, b_scale, offset)).
    QMul: factors a_zero_point, b_zero_point, scale; (a - za) * (b - zb) * scale, of which the first product is exact.
    """
    loops = nest(params.y, [params.a, params.b])

    def body(a: Flat, b: Flat, factors: Flat, constants: Flat, y: Flat) -> None:
        numbers = [factors.load(i) for i in range(3)]
        epilogue = Epilogue(params.out, constants, 0, isa)

        def vector(to: Expr, at: list[Expr], lanes: int) -> None:
            # uint8 [lanes], uint8 [lanes] -> float32 [lanes] -> y [lanes]
            left = codes(operand(a, at[0], loops.strides[0], lanes), lanes)
            right = codes(operand(b, at[1], loops.strides[1], lanes), lanes)
            if params.op == "QAdd":
                a_scale, b_scale, offset = (all_lanes(number, lanes) for number in numbers)
                real = fma(left, a_scale, fma(right, b_scale, offset, lanes), lanes)
            else:
                real = (left - numbers[0]) * (right - numbers[1]) * numbers[2]
            y.store(to, epilogue(real, lanes), lanes)

        walk(loops, byte_lanes(isa), threads, 4, vector)

    return primfunc(
        [
            TensorType("uint8", params.a),
            TensorType("uint8", params.b),
            TensorType("float32", (3,)),
            constants_type(params.out),
        ],
        [TensorType(params.out, params.y)],
        body,
    )


def codes(value: Expr, lanes: int) -> Expr:
    """float32 lanes from uint8 lanes."""
    return cast(cast(value, _INT, lanes), "float32", lanes)


def fma(a: Expr, b: Expr, c: Expr, lanes: int) -> Expr:
    """a * b + c with one rounding, of float32 vectors or scalars."""
    return T.call_llvm_pure_intrin(typed("float32", lanes), "llvm.fma", a, b, c)


@computes(ScaleShift)
def scale_shift(params: ScaleShift, isa: Isa, threads: int) -> Any:
    """(x uint8 [R, C], mul float32 [C], add float32 [C], epilogue constants) -> y uint8 [R, C].

    y = clamp(rint(fma(x, mul[c], add[c]))).
    """
    channels = params.channels

    def body(x: Flat, mul: Flat, add: Flat, constants: Flat, y: Flat) -> None:
        epilogue = Epilogue("uint8", constants, 0, isa)

        def row_body(row: Expr) -> None:
            def vector(c: Expr, lanes: int) -> None:
                at = row * channels + c
                real = fma(codes(x.load(at, lanes), lanes), mul.load(c, lanes), add.load(c, lanes), lanes)
                y.store(at, epilogue(real, lanes), lanes)

            spans(channels, byte_lanes(isa), vector)

        rows(params.rows, threads, 4 * x.size, row_body)

    per_channel = TensorType("float32", (channels,))
    return primfunc(
        [TensorType("uint8", params.shape), per_channel, per_channel, constants_type("uint8")],
        [TensorType("uint8", params.shape)],
        body,
    )


@computes(Convert)
def convert(params: Convert, isa: Isa, threads: int) -> Any:
    """Quantize: (x float32, scale float32 [1], numbers int32 [3]: zero point, lo, hi) -> y uint8.

    y = clamp(rint(x / scale) + zero_point, lo, hi): the clamp is applied ahead of rint, to lo - zp and
    hi - zp, which is the same because these are integers.
    Dequantize: (x uint8, scale float32 [1], numbers int32 [1]: zero point) -> y float32.
    y = float32(x - zero_point) * scale. The shape of y is that of x, transposed by ``perm``.
    """
    how = order(params.shape, params.perm)
    shape = tuple(params.shape[axis] for axis in params.perm)

    def quantize(x: Flat, factors: Flat, constants: Flat, y: Flat) -> None:
        scale, epilogue = factors.load(0), Epilogue("uint8", constants, 0, isa)
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
