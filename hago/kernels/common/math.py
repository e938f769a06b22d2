"""Elementary functions of float32 vectors, in arithmetic that every vector unit has.

A libm call would turn a vector into a loop over its elements. Each function here is a range reduction and a
minimax polynomial or rational function. The coefficients are fits of this project: least squares reweighted
towards the largest relative error (C. L. Lawson 1961), rational ones with the linearised denominator of
C. Sanathanan and J. Koerner 1963. The range reductions are those of J.-M. Muller, *Elementary Functions*:
exp by Cody and Waite's two-part ln 2, log by the artanh series, tanh and erf as x * P(x^2) / Q(x^2).

Largest errors against float64, in units in the last place: exp 1, log 2, sigmoid 3, tanh 6, erf 6. exp is 0
where the result is below 2e-38. NaN passes through: a clamp is always written with its constant first, because
TVM's max(a, b) is ``a > b ? a : b``.

All arguments and results are float32 [lanes], or scalars with lanes = 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

from tvm.script.ir_builder import tirx as T

Expr: TypeAlias = Any

_scope: ContextVar[str] = ContextVar("scope", default="global")

_EXP = (0.499999934, 0.166665201, 0.0416683942, 0.00836878041, 0.00138144669)
_EXP_LOW, _EXP_HIGH = -86.98, 88.72284
_LOG = (0.666666656, 0.400003362, 0.285372383, 0.235835687)
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_TANH_P = (0.999999979, 0.133797178, 0.00349403443, 2.05834799e-05, 1.33190712e-08)
_TANH_Q = (1.0, 0.467130331, 0.0258710727, 0.000328309266, 7.76201891e-07)
_TANH_ONE = 9.5
_ERF_P = (1.12837915, 0.190783999, 0.0527903094, 0.00377961669, 0.000284808808, 2.04197e-06)
_ERF_Q = (1.0, 0.502410637, 0.114257593, 0.0149974524, 0.00116521459, 3.80040775e-05)
_ERF_ONE = 4.1
_ROUND = float(3 << 22)
_LARGEST = (2 - 2.0**-23) * 2.0**127
_SMALLEST = 2.0**-126


def exp(x: Expr, lanes: int) -> Expr:
    """e^x = 2^n * e^r with n = rint(x / ln 2) and |r| <= ln 2 / 2."""
    x = named(x)
    inside = named(T.max(_f(_EXP_LOW), T.min(_f(_EXP_HIGH), x)))
    shifted = named(_fma(inside, _f(1 / math.log(2)), _f(_ROUND)))
    n = named(shifted - _f(_ROUND))
    r = named(_fma(n, _f(-_LN2_LOW), _fma(n, _f(-_LN2_HIGH), inside)))
    value = _fma(named(r * r), polynomial(r, _EXP), r) + _f(1)
    # 2^(n-1), doubled afterwards: n reaches 128, for which float32 has no exponent.
    half = (T.reinterpret(shifted, dtype=_int(lanes)) << T.int32(23)) + T.int32(126 << 23)
    power = T.reinterpret(half, dtype=_float(lanes))
    result = named(value * power * _f(2))
    result = T.Select(x < _vector(_EXP_LOW, lanes), _vector(0.0, lanes), result)
    return named(T.Select(x > _vector(_EXP_HIGH, lanes), _vector(math.inf, lanes), result))


def log(x: Expr, lanes: int) -> Expr:
    """ln x = e ln 2 + 2 artanh(s), x = m 2^e with m in [sqrt(1/2), sqrt 2), s = (m - 1) / (m + 1)."""
    x = named(x)
    tiny = x < _vector(_SMALLEST, lanes)
    scaled = named(T.Select(tiny, x * _f(2.0**23), x))
    raw = named(T.reinterpret(scaled, dtype=_int(lanes)))
    # Exponent of x / sqrt(1/2), rounded down.
    e = named((raw - T.int32(0x3F3504F3)) >> T.int32(23))
    m = named(T.reinterpret(raw - (e << T.int32(23)), dtype=_float(lanes)))
    exponent = named(T.Cast(_float(lanes), e) - T.Select(tiny, _vector(23.0, lanes), _vector(0.0, lanes)))
    f = named(m - _f(1))
    s = named(f / (f + _f(2)))
    z = named(s * s)
    # 2s = f - s f, so that f, which is exact, carries the leading bits.
    tail = named(_fma(exponent, _f(_LN2_LOW), s * (z * polynomial(z, _LOG) - f)))
    result = named(_fma(exponent, _f(_LN2_HIGH), f + tail))
    result = T.Select(x > _vector(_LARGEST, lanes), x, result)
    result = T.Select(T.EQ(x, _vector(0.0, lanes)), _vector(-math.inf, lanes), result)
    # "not x >= 0" holds for NaN too.
    return named(T.Select(x >= _vector(0.0, lanes), result, _vector(math.nan, lanes)))


def tanh(x: Expr, lanes: int) -> Expr:
    """x * P(x^2) / Q(x^2), clamped to [-1, 1]; it reaches 1 where tanh rounds to 1 in float32."""
    return _odd(x, lanes, _TANH_ONE, _TANH_P, _TANH_Q)


def erf(x: Expr, lanes: int) -> Expr:
    """x * P(x^2) / Q(x^2), clamped to [-1, 1]; it reaches 1 where erf rounds to 1 in float32."""
    return _odd(x, lanes, _ERF_ONE, _ERF_P, _ERF_Q)


def sigmoid(x: Expr, lanes: int) -> Expr:
    """1 / (1 + e^-x)."""
    return named(_f(1) / (_f(1) + exp(-x, lanes)))


def gelu(x: Expr, lanes: int) -> Expr:
    """x/2 (1 + erf(x / sqrt 2)), Hendrycks and Gimpel 2016."""
    x = named(x)
    return named(x * _f(0.5) * (_f(1) + erf(x * _f(math.sqrt(0.5)), lanes)))


def gelu_tanh(x: Expr, lanes: int) -> Expr:
    """x/2 (1 + tanh u) = x * sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)."""
    x = named(x)
    twice = 2 * math.sqrt(2 / math.pi)
    u = x * _fma(x * x, _f(0.044715 * twice), _f(twice))
    return named(x * sigmoid(u, lanes))


def softplus(x: Expr, lanes: int) -> Expr:
    """ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|)."""
    x = named(x)
    small = exp(-T.max(x, -x), lanes)
    return named(T.max(_f(0), x) + log1p(small, lanes))


def log1p(x: Expr, lanes: int) -> Expr:
    """ln(1 + x); the factor x / ((1 + x) - 1) makes up for the rounding of 1 + x (W. Kahan, HP-15C handbook)."""
    x = named(x)
    u = named(_f(1) + x)
    d = named(u - _f(1))
    ratio = x / T.Select(T.EQ(d, _vector(0.0, lanes)), _vector(1.0, lanes), d)
    value = named(log(u, lanes) * ratio)
    exact = T.Select(T.EQ(d, _vector(0.0, lanes)), x, value)
    return named(T.Select(x > _vector(_LARGEST, lanes), x, exact))


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger of two float vectors; NaN where either is NaN."""
    return T.Select(T.isnan(a), a, T.max(a, b))


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller of two float vectors; NaN where either is NaN."""
    return T.Select(T.isnan(a), a, T.min(a, b))


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's scheme, lowest coefficient first."""
    result: Expr = _f(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = _fma(result, x, _f(coefficient))
    return named(result)


def _odd(x: Expr, lanes: int, one: float, p: Sequence[float], q: Sequence[float]) -> Expr:
    inside = named(T.max(_f(-one), T.min(_f(one), x)))
    z = named(inside * inside)
    ratio = inside * polynomial(z, p) / polynomial(z, q)
    return named(T.max(_f(-1), T.min(_f(1), ratio)))


def named(value: Expr) -> Expr:
    """The value, named: for one that is used twice.

    It goes through a local buffer, which LLVM turns back into a register: TVM's simplifier looks through
    plain bindings in every pass, which takes exponential time over a chain of them; and it treats float
    arithmetic as exact, so that it would turn (1 + x) - 1 into x.
    """
    dtype = value.ty.dtype
    lanes = dtype.lanes
    held = T.alloc_buffer((lanes,), str(dtype).partition("x")[0], scope=_scope.get())
    whole = 0 if lanes == 1 else T.ramp(0, 1, lanes)
    T.buffer_store(held, value, [whole])
    return T.bind(held[whole])


@contextmanager
def registers_in(scope: str) -> Iterator[None]:
    """Where `named` keeps values: on the stack of a processor ("global", the default), or in "local" of a GPU."""
    before = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(before)


def _fma(a: Expr, b: Expr, c: Expr) -> Expr:
    """a * b + c with one rounding, whatever LLVM would contract; scalars are broadcast."""
    lanes = max(v.ty.dtype.lanes for v in (a, b, c))
    return T.fma(*(v if v.ty.dtype.lanes == lanes else T.broadcast(v, lanes) for v in (a, b, c)))


def _f(value: float) -> Expr:
    return T.float32(value)


def _vector(value: float, lanes: int) -> Expr:
    number = T.float32(value)
    return number if lanes == 1 else T.broadcast(number, lanes)


def _float(lanes: int) -> str:
    return "float32" if lanes == 1 else f"float32x{lanes}"


def _int(lanes: int) -> str:
    return "int32" if lanes == 1 else f"int32x{lanes}"
