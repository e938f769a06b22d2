"""From an accumulator to a result: requantize and dequantize, on whole vectors.

    y = clamp(rint(float32(acc) * scale), lo - zp, hi - zp) + zp

The product is rounded once, to float32, and the zero point is added as an integer: nothing here can be
contracted into a fused multiply-add, so the result is the same on every machine.

What depends on the calibration reaches a kernel as two small buffers, so that no code depends on it:

    bounds f32 [6]   lo, hi (less the zero point where the result is an integer), r_lo, r_hi (likewise), r_scale, 0
    zero   i32 [6]   zero points of x, y and the residual r, y_mul, r_mul, zero point of the sum
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from .base import Isa


def round_to_int(isa: Isa, value: Any) -> Any:
    """float32 lanes -> int32 lanes, ties to even (the rounding mode that MXCSR starts with)."""
    lanes = isa.lanes
    if isa.bits == 512:
        return T.call_llvm_pure_intrin(
            f"int32x{lanes}",
            "llvm.x86.avx512.mask.cvtps2dq.512",
            value,
            T.broadcast(T.int32(0), lanes),
            T.int16(-1),
            T.int32(4),
        )
    name = "llvm.x86.avx.cvt.ps2dq.256" if isa.bits == 256 else "llvm.x86.sse2.cvtps2dq"
    return T.call_llvm_pure_intrin(f"int32x{lanes}", name, value)


def requantize(isa: Isa, acc: Any, scale: Any, low: Any, high: Any) -> Any:
    """int32 lanes -> int32 lanes in [low, high], still without the zero point.

    ``scale`` is a vector; ``low`` and ``high`` are float32 scalars holding lo - zp and hi - zp. Clamping
    before rounding gives what rounding before clamping would, and keeps the conversion in range.
    """
    lanes = isa.lanes
    real = T.Cast(f"float32x{lanes}", acc) * scale
    real = T.max(T.min(real, T.broadcast(high, lanes)), T.broadcast(low, lanes))
    return round_to_int(isa, real)


def dequantize(isa: Isa, acc: Any, scale: Any, low: Any, high: Any) -> Any:
    """int32 lanes -> float32 lanes: float32(acc) * scale, clamped to [low, high]."""
    real = T.Cast(f"float32x{isa.lanes}", acc) * scale
    return T.max(T.min(real, T.broadcast(high, isa.lanes)), T.broadcast(low, isa.lanes))


def bounds(low: float, high: float, r_low: float = 0.0, r_high: float = 0.0, r_scale: float = 0.0) -> np.ndarray:
    """The buffer ``bounds``, as the kernels take it."""
    return np.array([low, high, r_low, r_high, r_scale, 0.0], np.float32)


def zeros(x: int, y: int = 0, r: int = 0, y_mul: int = 0, r_mul: int = 0, total: int = 0) -> np.ndarray:
    """The buffer ``zero``, as the kernels take it."""
    return np.array([x, y, r, y_mul, r_mul, total], np.int32)
