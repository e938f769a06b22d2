"""QAdd, QMul, QScaleShift, QLookup, Quantize and Dequantize on GPUs (`hago.kernels.common.pointwise`).

A thread computes some neighbouring elements, which it reads and writes as words. No two buffers may overlap.
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.broadcast import nest
from ..common.epilogue import Epilogue, constants_type
from ..common.flat import Expr, Flat, primfunc
from ..common.movement import order
from ..common.pointwise import Binary, Convert, Lookup, ScaleShift
from .broadcast import operands
from .families import Gpu
from .registry import computes
from .transpose import permute
from .words import each_few, per_thread, read, write


@computes(Binary)
def binary(params: Binary, gpu: Gpu, threads: int) -> Any:
    """(a uint8, b uint8, factors float32 [3], epilogue constants) -> y uint8 or float32.

    QAdd: factors a_scale, b_scale, offset; fma(a, a_scale, fma(b, b_scale, offset)).
    QMul: factors a_zero_point, b_zero_point, scale; (a - za) * (b - zb) * scale, of which the first product is exact.
    """
    loops = nest(params.y, [params.a, params.b])
    y_type = TensorType(params.out, params.y)

    def body(a: Flat, b: Flat, factors: Flat, constants: Flat, y: Flat) -> None:
        def elements(index: Expr, lanes: int) -> None:
            first, second, third = (factors.load(i) for i in range(3))
            epilogue = Epilogue(params.out, constants)

            def result(left: Expr, right: Expr) -> Expr:
                if params.op == "QAdd":
                    return T.fma(left, first, T.fma(right, second, third))
                return (left - first) * (right - second) * third

            left, right = operands(loops, (a, b), index, lanes)
            reals = [result(codes(i), codes(j)) for i, j in zip(left, right, strict=True)]
            write(y, index, [epilogue(real, 1) for real in reals])

        each_few(y.size, per_thread(gpu, y.size, y.dtype), elements)

    a, b = TensorType("uint8", params.a), TensorType("uint8", params.b)
    return primfunc([a, b, TensorType("float32", (3,)), constants_type(params.out)], [y_type], body)


def codes(value: Expr) -> Expr:
    """A code as float32."""
    return T.cast(T.cast(value, "int32"), "float32")


@computes(ScaleShift)
def scale_shift(params: ScaleShift, gpu: Gpu, threads: int) -> Any:
    """(x uint8 [R, C], mul float32 [C], add float32 [C], epilogue constants) -> y uint8 [R, C].

    y = clamp(rint(fma(x, mul[c], add[c]))).
    """
    loops = nest((params.rows, params.channels), [(params.rows, params.channels), (params.channels,)])

    def body(x: Flat, mul: Flat, add: Flat, constants: Flat, y: Flat) -> None:
        def elements(index: Expr, lanes: int) -> None:
            epilogue = Epilogue("uint8", constants)
            values, factors = operands(loops, (x, mul), index, lanes)
            _, summands = operands(loops, (x, add), index, lanes)
            reals = [T.fma(codes(v), f, s) for v, f, s in zip(values, factors, summands, strict=True)]
            write(y, index, [epilogue(real, 1) for real in reals])

        each_few(y.size, per_thread(gpu, y.size, "uint8"), elements)

    tensor, per_channel = TensorType("uint8", params.shape), TensorType("float32", (params.channels,))
    return primfunc([tensor, per_channel, per_channel, constants_type("uint8")], [tensor], body)


@computes(Lookup)
def lookup(params: Lookup, gpu: Gpu, threads: int) -> Any:
    """(x uint8, table [256]) -> y like x, of the table's type. The first-level cache holds the table."""

    def body(x: Flat, table: Flat, y: Flat) -> None:
        def elements(index: Expr, lanes: int) -> None:
            write(y, index, [looked_up(table, code) for code in read(x, index, lanes)])

        each_few(y.size, per_thread(gpu, y.size, params.dtype), elements)

    x = TensorType("uint8", params.shape)
    return primfunc([x, TensorType(params.dtype, (256,))], [TensorType(params.dtype, params.shape)], body)


def looked_up(table: Flat, code: Expr) -> Expr:
    """The entry of a table for a code."""
    return table.load(T.cast(code, "int32"))


@computes(Convert)
def convert(params: Convert, gpu: Gpu, threads: int) -> Any:
    """Quantize: (x float32, scale float32 [1], numbers int32 [3]: zero point, lo, hi) -> y uint8.

    y = clamp(rint(x / scale) + zero_point, lo, hi).
    Dequantize: (x uint8, scale float32 [1], numbers int32 [1]: zero point) -> y float32.
    y = float32(x - zero_point) * scale. The shape of y is that of x, transposed by ``perm``.
    """
    how = order(params.shape, params.perm)
    shape = tuple(params.shape[axis] for axis in params.perm)

    def quantize(x: Flat, factors: Flat, numbers: Flat, y: Flat) -> None:
        def code(value: Expr) -> Expr:
            return Epilogue("uint8", numbers)(value / factors.load(0), 1)

        permute(x, y, how, gpu, before=code)

    def dequantize(x: Flat, factors: Flat, numbers: Flat, y: Flat) -> None:
        def real(value: Expr) -> Expr:
            return T.cast(T.cast(value, "int32") - numbers.load(0), "float32") * factors.load(0)

        permute(x, y, how, gpu, after=real)

    made, body, count = ("uint8", quantize, 3) if params.op == "Quantize" else ("float32", dequantize, 1)
    given = "float32" if params.op == "Quantize" else "uint8"
    inputs = [TensorType(given, params.shape), TensorType("float32", (1,)), TensorType("int32", (count,))]
    return primfunc(inputs, [TensorType(made, shape)], body)
