"""The elementwise ONNX operators, as expressions over vectors.

A `Vec` is a TIR expression with the element type that ONNX gives it. bool is a TIR boolean; float16 and
bfloat16 are held as float32 and rounded to their precision by every operator that makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from . import math as vm
from .vector import Expr, rint_to_int32, typed

ONNX_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
HALF = frozenset({"float16", "bfloat16"})
FLOATS = HALF | {"float32", "float64"}
_FUNCTIONS = frozenset({"float32"}) | HALF


@dataclass(frozen=True)
class Vec:
    """``lanes`` values of the ONNX element type ``dtype``; ``constant`` is set where all are one known number."""

    value: Expr
    dtype: str
    lanes: int
    constant: float | int | None = None


Attrs = Mapping[str, Any]
Op = Callable[[Sequence[Vec], Attrs], Vec]


def held(dtype: str) -> str:
    """The TIR type that holds values of an ONNX type."""
    return "float32" if dtype in HALF else dtype


def constant(value: float | int, dtype: str, lanes: int) -> Vec:
    """The same number in every lane."""
    if dtype == "bool":
        number: Expr = T.bool(bool(value))
    elif dtype in FLOATS:
        number = getattr(T, held(dtype))(float(value))
    else:
        number = getattr(T, dtype)(int(value))
    return Vec(_all(number, lanes), dtype, lanes, value)


def widened(raw: Expr, dtype: str, lanes: int) -> Vec:
    """From what memory holds (bool as uint8, bfloat16 as uint16) to a `Vec`."""
    if dtype == "bool":
        return Vec(T.NE(raw, _all(T.uint8(0), lanes)), dtype, lanes)
    if dtype == "bfloat16":
        high = T.cast(raw, typed("uint32", lanes)) << T.uint32(16)
        return Vec(T.reinterpret(high, dtype=typed("float32", lanes)), dtype, lanes)
    if dtype == "float16":
        return Vec(T.cast(raw, typed("float32", lanes)), dtype, lanes)
    return Vec(raw, dtype, lanes)


def narrowed(vec: Vec) -> Expr:
    """What memory holds of a `Vec`."""
    if vec.dtype == "bool":
        return T.cast(vec.value, typed("uint8", vec.lanes))
    if vec.dtype == "bfloat16":
        bits = T.reinterpret(vec.value, dtype=typed("uint32", vec.lanes)) >> T.uint32(16)
        return T.cast(bits, typed("uint16", vec.lanes))
    if vec.dtype == "float16":
        return T.cast(vec.value, typed("float16", vec.lanes))
    return vec.value


def named(vec: Vec) -> Vec:
    """The same, for repeated use."""
    if vec.constant is not None:
        return vec
    if vec.dtype == "bool":
        # A boolean vector under a name trips TVM's simplifier.
        zero = _all(T.int32(0), vec.lanes)
        flag = vm.named(T.Select(vec.value, _all(T.int32(1), vec.lanes), zero))
        return Vec(T.NE(flag, zero), vec.dtype, vec.lanes)
    return Vec(vm.named(vec.value), vec.dtype, vec.lanes)


def cast(vec: Vec, dtype: str) -> Vec:
    """ONNX Cast: to integers towards zero, to bool "is not zero", to half types rounded to even."""
    if vec.dtype == dtype:
        return vec
    if dtype == "bool":
        zero = constant(0, vec.dtype, vec.lanes).value
        return Vec(T.NE(vec.value, zero), dtype, vec.lanes)
    value = vec.value
    if vec.dtype == "bool":
        value = T.Select(value, constant(1, dtype, vec.lanes).value, constant(0, dtype, vec.lanes).value)
        return Vec(value, dtype, vec.lanes)
    if held(vec.dtype) != held(dtype):
        value = T.cast(value, typed(held(dtype), vec.lanes))
    return _rounded(Vec(value, dtype, vec.lanes))


def _rounded(vec: Vec) -> Vec:
    """float32 values brought to the precision of the half type that they stand for."""
    lanes = vec.lanes
    if vec.dtype == "float16":
        there = T.cast(vec.value, typed("float16", lanes))
        return Vec(T.cast(there, typed("float32", lanes)), vec.dtype, lanes)
    if vec.dtype == "bfloat16":
        # Half of the last kept bit, less one unless that bit is odd: ties to even. NaN is kept as it is.
        value = vm.named(vec.value)
        bits = vm.named(T.reinterpret(value, dtype=typed("uint32", lanes)))
        odd = (bits >> T.uint32(16)) & T.uint32(1)
        up = (bits + T.uint32(0x7FFF) + odd) & T.uint32(0xFFFF0000)
        nan = (bits & T.uint32(0xFFFF0000)) | T.uint32(0x00400000)
        magnitude = bits & T.uint32(0x7FFFFFFF)
        kept = T.Select(magnitude > _all(T.uint32(0x7F800000), lanes), nan, up)
        return Vec(T.reinterpret(kept, dtype=typed("float32", lanes)), vec.dtype, lanes)
    return vec


def _all(number: Expr, lanes: int) -> Expr:
    return number if lanes == 1 else T.broadcast(number, lanes)


def _like(x: Vec, value: Expr) -> Vec:
    return _rounded(Vec(value, x.dtype, x.lanes))


def _number(x: Vec, value: float) -> Expr:
    return constant(value, x.dtype, x.lanes).value


def _fold(combine: Callable[[Expr, Expr], Expr]) -> Op:
    def op(args: Sequence[Vec], attrs: Attrs) -> Vec:
        value = args[0].value
        for other in args[1:]:
            value = combine(value, other.value)
        return _like(args[0], value)

    return op


def _unary(function: Callable[[Vec], Expr]) -> Op:
    return lambda args, attrs: _like(args[0], function(args[0]))


def _vector_function(function: Callable[[Expr, int], Expr]) -> Op:
    return lambda args, attrs: _like(args[0], function(args[0].value, args[0].lanes))


def _compare(function: Callable[[Expr, Expr], Expr]) -> Op:
    return lambda args, attrs: Vec(function(args[0].value, args[1].value), "bool", args[0].lanes)


def _xor(a: Expr, b: Expr) -> Expr:
    return T.Or(T.And(a, T.Not(b)), T.And(T.Not(a), b))


def _equal(args: Sequence[Vec]) -> Vec:
    a, b = args
    # LLVM's code generator in TVM compares booleans as floats.
    value = T.Not(_xor(a.value, b.value)) if a.dtype == "bool" else T.EQ(a.value, b.value)
    return Vec(value, "bool", a.lanes)


def _div(args: Sequence[Vec], attrs: Attrs) -> Vec:
    a, b = args
    return _like(a, a.value / b.value if a.dtype in FLOATS else T.truncdiv(a.value, b.value))


def _mean(args: Sequence[Vec], attrs: Attrs) -> Vec:
    total = _fold(lambda a, b: a + b)(args, attrs)
    return _like(total, total.value / _number(total, len(args)))


def _clip(args: Sequence[Vec | None], attrs: Attrs) -> Vec:
    x = args[0]
    assert x is not None
    value = x.value
    low = args[1] if len(args) > 1 else None
    high = args[2] if len(args) > 2 else None
    if low is not None:
        value = T.max(low.value, value)
    if high is not None:
        value = T.min(high.value, value)
    return _like(x, value)


def _leaky(x: Vec, slope: Expr) -> Vec:
    zero = _number(x, 0)
    return _like(x, T.Select(x.value >= zero, x.value, x.value * slope))


def _elu(x: Vec, alpha: float, gamma: float = 1.0, width: float = 1.0) -> Vec:
    below = (vm.exp(x.value / _number(x, width), x.lanes) - _number(x, 1)) * _number(x, alpha)
    return _like(x, T.Select(x.value > _number(x, 0), x.value, below) * _number(x, gamma))


def _pow(args: Sequence[Vec], attrs: Attrs) -> Vec:
    x, exponent = args
    known = exponent.constant
    if known is None or known not in _POWERS:
        return _like(x, T.pow(x.value, cast(exponent, x.dtype).value))
    if known == 0.5:
        return _like(x, T.sqrt(x.value))
    count = abs(int(known))
    value = x.value if count else _number(x, 1)
    for _ in range(count - 1):
        value = value * x.value
    return _like(x, _number(x, 1) / value if known < 0 else value)


_POWERS = frozenset({0.5, -1.0, -2.0, 0.0, 1.0, 2.0, 3.0, 4.0})


def _hard_sigmoid(x: Vec, alpha: float, beta: float) -> Expr:
    return T.min(_number(x, 1), T.max(_number(x, 0), x.value * _number(x, alpha) + _number(x, beta)))


def _sign(x: Vec) -> Expr:
    zero, one, minus = _number(x, 0), _number(x, 1), _number(x, -1) if x.dtype[0] != "u" else None
    below = zero if minus is None else T.Select(x.value < zero, minus, x.value * zero)
    return T.Select(x.value > zero, one, below)


def _gelu(args: Sequence[Vec], attrs: Attrs) -> Vec:
    function = vm.gelu_tanh if attrs.get("approximate") == "tanh" else vm.gelu
    return _like(args[0], function(args[0].value, args[0].lanes))


def _quantize(args: Sequence[Vec], attrs: Attrs) -> Vec:
    """QuantizeLinear per tensor to uint8: clamp(rint(x / scale) + zero point), see `vector.Epilogue`."""
    x, scale, zero = args
    wide = T.cast(zero.value, typed("int32", x.lanes))
    low = T.cast(-wide, typed("float32", x.lanes))
    high = T.cast(T.int32(255) - wide, typed("float32", x.lanes))
    clamped = T.min(T.max(x.value / scale.value, low), high)
    return Vec(T.cast(rint_to_int32(clamped, x.lanes) + wide, typed("uint8", x.lanes)), "uint8", x.lanes)


def _dequantize(args: Sequence[Vec], attrs: Attrs) -> Vec:
    """DequantizeLinear per tensor from uint8: float32(x - zero point) * scale."""
    x, scale, zero = (args[0], args[1], args[2])
    wide = T.cast(x.value, typed("int32", x.lanes)) - T.cast(zero.value, typed("int32", x.lanes))
    return Vec(T.cast(wide, typed("float32", x.lanes)) * scale.value, "float32", x.lanes)


OPS: dict[str, Op] = {
    "Add": _fold(lambda a, b: a + b),
    "Sub": _fold(lambda a, b: a - b),
    "Mul": _fold(lambda a, b: a * b),
    "Sum": _fold(lambda a, b: a + b),
    "Max": _fold(T.max),
    "Min": _fold(T.min),
    "Div": _div,
    "Mean": _mean,
    "Pow": _pow,
    "Mod": lambda args, attrs: _like(
        args[0], (T.truncmod if attrs.get("fmod") else T.floormod)(args[0].value, args[1].value)
    ),
    "Clip": _clip,
    "Relu": _unary(lambda x: T.max(_number(x, 0), x.value)),
    "Neg": _unary(lambda x: -x.value),
    "Abs": _unary(lambda x: T.abs(x.value) if x.dtype[0] != "u" else x.value),
    "Sign": _unary(_sign),
    "Sqrt": _unary(lambda x: T.sqrt(x.value)),
    "Reciprocal": _unary(lambda x: _number(x, 1) / x.value),
    "Floor": _unary(lambda x: T.floor(x.value)),
    "Ceil": _unary(lambda x: T.ceil(x.value)),
    "Round": _unary(lambda x: T.nearbyint(x.value)),
    "Softsign": _unary(lambda x: x.value / (_number(x, 1) + T.abs(x.value))),
    "Exp": _vector_function(vm.exp),
    "Log": _vector_function(vm.log),
    "Tanh": _vector_function(vm.tanh),
    "Erf": _vector_function(vm.erf),
    "Sigmoid": _vector_function(vm.sigmoid),
    "Softplus": _vector_function(vm.softplus),
    "Mish": _vector_function(lambda x, lanes: x * vm.tanh(vm.softplus(x, lanes), lanes)),
    "Gelu": _gelu,
    "HardSwish": _unary(lambda x: x.value * _hard_sigmoid(x, 1 / 6, 0.5)),
    "HardSigmoid": lambda args, attrs: _like(
        args[0], _hard_sigmoid(args[0], attrs.get("alpha", 0.2), attrs.get("beta", 0.5))
    ),
    "LeakyRelu": lambda args, attrs: _leaky(args[0], _number(args[0], attrs.get("alpha", 0.01))),
    "PRelu": lambda args, attrs: _leaky(args[0], args[1].value),
    "ThresholdedRelu": lambda args, attrs: _like(
        args[0],
        T.Select(args[0].value > _number(args[0], attrs.get("alpha", 1.0)), args[0].value, _number(args[0], 0)),
    ),
    "Elu": lambda args, attrs: _elu(args[0], attrs.get("alpha", 1.0)),
    "Celu": lambda args, attrs: _elu(args[0], attrs.get("alpha", 1.0), 1.0, attrs.get("alpha", 1.0)),
    "Selu": lambda args, attrs: _elu(
        args[0], attrs.get("alpha", 1.67326319217681884765625), attrs.get("gamma", 1.05070102214813232421875)
    ),
    "Equal": lambda args, attrs: _equal(args),
    "Greater": _compare(lambda a, b: a > b),
    "GreaterOrEqual": _compare(lambda a, b: a >= b),
    "Less": _compare(lambda a, b: a < b),
    "LessOrEqual": _compare(lambda a, b: a <= b),
    "And": _compare(T.And),
    "Or": _compare(T.Or),
    "Xor": _compare(_xor),
    "Not": lambda args, attrs: Vec(T.Not(args[0].value), "bool", args[0].lanes),
    "Where": lambda args, attrs: _like(args[1], T.Select(args[0].value, args[1].value, args[2].value)),
    "Cast": lambda args, attrs: cast(args[0], ONNX_DTYPES[int(attrs["to"])]),
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
}

_FLOAT_ONLY = {
    "Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "Softsign", "HardSwish", "HardSigmoid", "LeakyRelu",
    "ThresholdedRelu", "Mean",
}  # fmt: skip
_FUNCTION_OPS = {
    "Exp", "Log", "Tanh", "Erf", "Sigmoid", "Softplus", "Mish", "Gelu", "Elu", "Celu", "Selu",
}  # fmt: skip
_HEAVY = _FUNCTION_OPS | {"Pow"}
_BOOL_ONLY = frozenset({"And", "Or", "Xor", "Not"})
_ANY_TYPE = frozenset({"Cast", "Where", "Equal"})
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def supported(op: str, dtypes: Sequence[str], attrs: Attrs) -> bool:
    """Whether there is an expression for the operator on inputs of these types ("" for an absent one)."""
    if op not in OPS:
        return False
    given = [dtype for dtype in dtypes if dtype]
    if any(dtype not in ONNX_DTYPES.values() for dtype in given):
        return False
    first = given[0]
    if op == "Cast":
        return int(attrs["to"]) in ONNX_DTYPES
    if op in _QUANTIZERS:
        return False
    if op in _BOOL_ONLY:
        return first == "bool"
    if op in _FUNCTION_OPS:
        return first in _FUNCTIONS
    if op in _FLOAT_ONLY:
        return first in FLOATS
    if op == "Pow":
        return first in FLOATS and given[1] in FLOATS | {"int32", "int64"}
    if op == "Mod":
        return first not in FLOATS and first != "bool"
    return op in _ANY_TYPE or first != "bool"


def heavy(op: str) -> bool:
    """Whether the operator costs so much that narrower vectors (fewer values alive at once) are better."""
    return op in _HEAVY
