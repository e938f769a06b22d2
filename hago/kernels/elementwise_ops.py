"""The elementwise ONNX operators, as expressions over vectors (`elements.Vec`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from . import math as vm
from .elements import FLOATS, HALF, ONNX_DTYPES, Vec, cast, constant, rounded
from .vector import Expr, rint_to_int32, typed

_FUNCTIONS = frozenset({"float32"}) | HALF

Attrs = Mapping[str, Any]
Op = Callable[[Sequence[Vec], Attrs], Vec]


def _like(x: Vec, value: Expr) -> Vec:
    return rounded(Vec(value, x.dtype, x.lanes))


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
    return _like(a, a.value / b.value if a.dtype in FLOATS else T.truncdiv(a.value, _divisor(b)))


def _divisor(x: Vec) -> Expr:
    """An integer that can be divided by: 1 for 0, by which the processor would stop the program."""
    if x.constant is not None:
        return x.value if x.constant else _number(x, 1)
    return T.Select(T.EQ(x.value, _number(x, 0)), _number(x, 1), x.value)


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
    whole = x.dtype not in FLOATS
    if known is None or known not in _POWERS or (whole and known < 1):
        kind = "float64" if whole else x.dtype
        power = T.pow(cast(x, kind).value, cast(exponent, kind).value)
        return cast(Vec(power, kind, x.lanes), x.dtype) if whole else _like(x, power)
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
        args[0], (T.truncmod if attrs.get("fmod") else T.floormod)(args[0].value, _divisor(args[1]))
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
        return {*given} <= FLOATS | {"int32", "int64"}
    if op == "Mod":
        return first not in FLOATS and first != "bool"
    return op in _ANY_TYPE or first != "bool"


def heavy(op: str) -> bool:
    """Whether the operator costs so much that narrower vectors (fewer values alive at once) are better."""
    return op in _HEAVY
