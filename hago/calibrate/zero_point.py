"""Scale and zero point of a range: real = scale * (q - zero_point)."""

from __future__ import annotations

import math

import numpy as np

from ..errors import DataError
from ..scheme import IntegerType

# The smallest normal float32: its reciprocal is finite, unlike that of some subnormal numbers.
SMALLEST_SCALE = np.finfo(np.float32).tiny


def scale_zero_point(lo: float, hi: float, scheme: IntegerType) -> tuple[np.float32, int]:
    """(scale, zero point) that map [lo, hi], widened to contain zero, onto the integers of ``scheme``.

    Zero is exactly ``zero_point``. Symmetric schemes cover [-b, b] with b the larger magnitude; their zero
    point is 0, or 2**(bits-1) for unsigned integers. The scale is finite and positive for every range: 1
    if the range is only zero, and at least the smallest normal float32. Raises DataError if a bound is
    not finite or lo > hi.
    """
    if not (math.isfinite(lo) and math.isfinite(hi) and lo <= hi):
        raise DataError(f"a range needs finite bounds in order, found [{lo}, {hi}]")
    lo, hi = min(0.0, float(lo)), max(0.0, float(hi))
    if scheme.symmetric:
        zero_point = 0 if scheme.signed else 2 ** (scheme.bits - 1)
        return _scale(max(-lo, hi), scheme.qmax - zero_point), zero_point
    scale = _scale(hi - lo, scheme.qmax - scheme.qmin)
    zero_point = round(scheme.qmin - lo / float(scale))
    return scale, min(max(zero_point, scheme.qmin), scheme.qmax)


def _scale(span: float, steps: int) -> np.float32:
    return np.float32(1.0) if span == 0 else max(np.float32(span / steps), SMALLEST_SCALE)
