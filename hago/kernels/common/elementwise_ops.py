"""The elementwise ONNX operators, as expressions over vectors (`elements.Vec`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from . import math as vm
from .elements import FLOATS, HALF, ONNX_DTYPES, Vec, cast, constant, held, rounded
from .flat import Expr, all_lanes, rint_to_int32, typed

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


def _extreme(whole: Callable[[Expr, Expr], Expr], real: Callable[[Expr, Expr], Expr]) -> Op:
    """The largest or the smallest; of floats, NaN where any is NaN."""

    def op(args: Sequence[Vec], attrs: Attrs) -> Vec:
        first, *others = args
        for other in others:
            # Constants in the code are not NaN; an operand that may be comes last.
            if first.dtype in FLOATS and first.constant is None and other.constant is None:
                value = real(vm.named(first.value), other.value)
            elif other.constant is not None:
                value = whole(other.value, first.value)
            else:
                value = whole(first.value, other.value)
            first = Vec(value, first.dtype, first.lanes)
        return _like(args[0], first.value)

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


_QUOTIENTS = 6


def _mod(args: Sequence[Vec], attrs: Attrs) -> Vec:
    """The remainder has the sign of the divisor, with ``fmod`` that of the dividend, as in C.

    Of floats it is exact: a float64 quotient takes at least 52 of the 277 bits that a quotient of float32 has.
    """
    x, y = args
    if x.dtype not in FLOATS:
        return _like(x, (T.truncmod if attrs.get("fmod") else T.floormod)(x.value, _divisor(y)))
    wide = typed("float64", x.lanes)
    a, b = vm.named(T.cast(x.value, wide)), vm.named(T.cast(y.value, wide))
    infinity = all_lanes(T.float64(math.inf), x.lanes)
    rest = a
    for _ in range(_QUOTIENTS):
        rest = vm.named(T.fma(-T.trunc(rest / b), b, rest))
    # A quotient that was rounded up leaves a rest of the other sign.
    zero = all_lanes(T.float64(0), x.lanes)
    over = T.Or(T.And(rest < zero, a > zero), T.And(rest > zero, a < zero))
    rest = vm.named(T.Select(over, rest + T.Select(a < zero, -T.abs(b), T.abs(b)), rest))
    rest = T.Select(T.And(T.EQ(T.abs(b), infinity), T.abs(a) < infinity), a, rest)
    rest = vm.named(T.cast(rest, typed(held(x.dtype), x.lanes)))
    if attrs.get("fmod"):
        return _like(x, rest)
    zero = _number(x, 0)
    apart = T.Or(T.And(rest < zero, y.value > zero), T.And(rest > zero, y.value < zero))
    return _like(x, T.Select(apart, rest + y.value, rest))


def _is_infinite(args: Sequence[Vec], attrs: Attrs) -> Vec:
    x = args[0]
    signs = [s for s, name in ((1, "detect_positive"), (-1, "detect_negative")) if attrs.get(name, 1)]
    found = [T.EQ(x.value, _number(x, s * math.inf)) for s in signs]
    return Vec(T.Or(*found) if len(found) == 2 else found[0] if found else _never(x), "bool", x.lanes)


def _never(x: Vec) -> Expr:
    return T.Not(T.EQ(_number(x, 0), _number(x, 0)))


def _is_nan(args: Sequence[Vec], attrs: Attrs) -> Vec:
    return Vec(T.isnan(args[0].value), "bool", args[0].lanes)


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
    "Max": _extreme(T.max, vm.maximum),
    "Min": _extreme(T.min, vm.minimum),
    "Div": _div,
    "Mean": _mean,
    "Pow": _pow,
    "Mod": _mod,
    "IsInf": _is_infinite,
    "IsNaN": _is_nan,
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
    "ThresholdedRelu", "Mean", "IsInf", "IsNaN",
}  # fmt: skip
_FUNCTION_OPS = {
    "Exp", "Log", "Tanh", "Erf", "Sigmoid", "Softplus", "Mish", "Gelu", "Elu", "Celu", "Selu",
}  # fmt: skip
_HEAVY = _FUNCTION_OPS | {"Pow", "Mod"}
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
        return first != "bool"
    return op in _ANY_TYPE or first != "bool"


def heavy(op: str) -> bool:
    """Whether the operator costs so much that narrower vectors (fewer values alive at once) are better."""
    return op in _HEAVY
