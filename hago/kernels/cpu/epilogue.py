"""From an accumulator to a result: requantize and dequantize, on whole vectors.

    y = clamp(rint(float32(acc) * scale), lo - zp, hi - zp) + zp

The product is rounded once, to float32, and the zero point is added as an integer: nothing here can be
contracted into a fused multiply-add, so the result is the same on every machine. A residual is added to the
codes of that result by two multiply-adds that *are* fused, on every machine:

    y = clamp(rint(fma(a, a_scale, fma(b, b_scale, offset))), r_lo, r_hi)

What depends on the calibration reaches a kernel in the buffers ``bounds`` and ``zero`` (`hago.kernels.common.anchor`).
Vectors of sums are int32 or float32 [L], L = `isa.lanes`. Arguments named low, high, zero are scalars.
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from . import epilogue_arm, epilogue_x86
from .families import Isa


def _of(isa: Isa) -> Any:
    """How this kind of processor clamps, rounds and narrows."""
    return epilogue_arm if isa.arm else epilogue_x86


def clamp(isa: Isa, value: Any, low: Any, high: Any) -> Any:
    """float32 lanes, not NaN, within the scalars ``low`` and ``high``."""
    return _of(isa).clamp(isa, value, low, high)


def bounded(isa: Isa, value: Any, low: Any, high: Any) -> Any:
    """float lanes within the scalars ``low`` and ``high``; NaN stays NaN."""
    return _of(isa).bounded(isa, value, low, high)


def round_to_int(isa: Isa, value: Any) -> Any:
    """float32 lanes -> int32 lanes, ties to even."""
    return _of(isa).round_to_int(isa, value)


def requantize(isa: Isa, acc: Any, scale: Any, low: Any, high: Any) -> Any:
    """int32 [L] -> int32 [L] in [low, high], still without the zero point.

    ``scale`` is float32 [L]; ``low`` and ``high`` are float32 scalars that hold lo - zp and hi - zp. Clamping
    before rounding gives what rounding before clamping would, and keeps the conversion in range.
    """
    lanes = isa.lanes
    real = T.Cast(f"float32x{lanes}", acc) * scale
    return round_to_int(isa, clamp(isa, real, low, high))


def add_residual(isa: Isa, first: Any, second: Any, bounds: Any) -> Any:
    """Two vectors of int32 codes [L] -> the uint8 codes [L] of their sum."""
    lanes = isa.lanes
    kind = f"float32x{lanes}"
    a_scale, b_scale, offset = (T.broadcast(bounds[i], lanes) for i in range(4, 7))
    inner = T.call_llvm_pure_intrin(kind, "llvm.fma", T.Cast(kind, second), b_scale, offset)
    total = T.call_llvm_pure_intrin(kind, "llvm.fma", T.Cast(kind, first), a_scale, inner)
    return T.Cast(f"uint8x{lanes}", round_to_int(isa, clamp(isa, total, bounds[2], bounds[3])))


def requantized_bytes(isa: Isa, sums: list[Any], scales: list[Any], zero: Any, bounds: Any) -> Any:
    """Two (on Arm) or four vectors of int32 sums [L] -> uint8 codes [2*L] or [4*L]: `requantize` for several at once.

    On x86, 4 lanes of each vector become neighbours within 128 bits; on Arm the vectors follow one another.
    """
    return _of(isa).requantized_bytes(isa, sums, scales, zero, bounds)


def dequantize(isa: Isa, acc: Any, scale: Any, low: Any, high: Any) -> Any:
    """int32 [L] -> float32 [L]: float32(acc) * scale, clamped to [low, high]."""
    return clamp(isa, T.Cast(f"float32x{isa.lanes}", acc) * scale, low, high)
