"""From an accumulator to a result: requantize and dequantize, on whole vectors.

    y = clamp(rint(float32(acc) * scale), lo - zp, hi - zp) + zp

The product is rounded once, to float32, and the zero point is added as an integer: nothing here can be
contracted into a fused multiply-add, so the result is the same on every machine. A residual is added to the
codes of that result, by two multiply-adds that *are* fused, everywhere:

    y = clamp(rint(fma(a, a_scale, fma(b, b_scale, offset))), r_lo, r_hi)

What depends on the calibration reaches a kernel as two small buffers, so that no code depends on it:

    bounds f32 [7]   lo, hi (less the zero point where the result is an integer), r_lo, r_hi, a_scale, b_scale, offset
    zero   i32 [3]   zero points of x, y and, of a product of two activations, the second one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from .base import Isa


def clamp(isa: Isa, value: Any, low: Any, high: Any) -> Any:
    """float32 lanes, not NaN, within the scalars ``low`` and ``high``."""
    low = T.broadcast(low, isa.lanes)
    value = at_most(isa, value, high)
    return T.call_llvm_pure_intrin(f"float32x{isa.lanes}", "llvm.maxnum", value, low) if isa.arm else T.max(value, low)


def bounded(isa: Isa, value: Any, low: Any, high: Any) -> Any:
    """float lanes within the scalars ``low`` and ``high``; NaN stays NaN.

    TVM's max(a, b) is ``a > b ? a : b``, as the instruction of x86 is: what may be NaN stands last.
    """
    low, high = T.broadcast(low, isa.lanes), T.broadcast(high, isa.lanes)
    if isa.arm:
        kind = f"float32x{isa.lanes}"
        at_least = T.call_llvm_pure_intrin(kind, "llvm.maximum", low, value)
        return T.call_llvm_pure_intrin(kind, "llvm.minimum", high, at_least)
    return T.min(high, T.max(low, value))


def at_most(isa: Isa, value: Any, high: Any) -> Any:
    """The smaller of float32 lanes, not NaN, and a scalar: by one instruction."""
    high = T.broadcast(high, isa.lanes)
    return (
        T.call_llvm_pure_intrin(f"float32x{isa.lanes}", "llvm.minnum", value, high) if isa.arm else T.min(value, high)
    )


def round_to_int(isa: Isa, value: Any) -> Any:
    """float32 lanes -> int32 lanes, ties to even (the rounding mode that MXCSR starts with)."""
    lanes = isa.lanes
    if isa.arm:
        return T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.fcvtns.v4i32.v4f32", value)
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
    return round_to_int(isa, clamp(isa, real, low, high))


def add_residual(isa: Isa, first: Any, second: Any, bounds: Any) -> Any:
    """uint8 codes of the sum of two vectors of int32 codes."""
    lanes = isa.lanes
    kind = f"float32x{lanes}"
    a_scale, b_scale, offset = (T.broadcast(bounds[i], lanes) for i in range(4, 7))
    inner = T.call_llvm_pure_intrin(kind, "llvm.fma", T.Cast(kind, second), b_scale, offset)
    total = T.call_llvm_pure_intrin(kind, "llvm.fma", T.Cast(kind, first), a_scale, inner)
    return T.Cast(f"uint8x{lanes}", round_to_int(isa, clamp(isa, total, bounds[2], bounds[3])))


def pack_bytes(isa: Isa, whole: list[Any], zero: Any, low: Any) -> Any:
    """Four vectors of int32 results less the zero point, none too high -> one vector of bytes of at least ``low``.

    On x86. Within 128 bits, 4 lanes of each vector become neighbours. Packing saturates, which clamps at 0; ``zero``
    and ``low`` are scalars as in the buffers, ``low`` less the zero point.
    """
    words, count = isa.bits // 16, isa.bits // 8
    first, second = (
        T.call_llvm_pure_intrin(f"int16x{words}", _PACK_WORDS[isa.bits], whole[i], whole[i + 1])
        + T.broadcast(T.Cast("int16", zero), words)
        for i in (0, 2)
    )
    packed = T.call_llvm_pure_intrin(f"uint8x{count}", _PACK_BYTES[isa.bits], first, second)
    return T.max(packed, T.broadcast(T.Cast("uint8", T.Cast("int32", low) + zero), count))


def narrowed(whole: list[Any], zero: Any) -> Any:
    """One, two or four vectors of int32 -> bytes, the zero point added, saturated at every step, on Arm."""
    words = [T.call_llvm_pure_intrin("int16x4", "llvm.aarch64.neon.sqxtn.v4i16", part) for part in whole]
    if len(words) == 1:
        words *= 2
    wide = [T.Shuffle(words[i : i + 2], list(range(8))) for i in range(0, len(words), 2)]
    moved = [
        T.call_llvm_pure_intrin("int16x8", "llvm.aarch64.neon.sqadd.v8i16", part, T.broadcast(T.Cast("int16", zero), 8))
        for part in wide
    ]
    halves = [T.call_llvm_pure_intrin("uint8x8", "llvm.aarch64.neon.sqxtun.v8i8", part) for part in moved]
    return halves[0] if len(halves) == 1 else T.Shuffle(halves, list(range(16)))


def requantized_bytes(isa: Isa, sums: list[Any], scales: list[Any], zero: Any, bounds: Any) -> Any:
    """Two or four neighbouring vectors of int32 sums -> their codes, on Arm: `requantize` for several at once.

    Rounding to int32 and narrowing saturate, so that it is enough to clamp the bytes.
    """
    whole = [round_to_int(isa, T.Cast("float32x4", value) * scale) for value, scale in zip(sums, scales, strict=True)]
    codes, count = narrowed(whole, zero), 4 * len(sums)
    low, high = (T.broadcast(T.Cast("uint8", T.Cast("int32", bounds[i]) + zero), count) for i in (0, 1))
    return T.max(T.min(codes, high), low)


def residual_bytes(
    isa: Isa, sums: list[Any], scales: list[Any], zero: Any, bounds: Any, residual: Any, residual_first: bool
) -> Any:  # fmt: skip
    """The same with a residual, a vector of as many codes, added: `add_residual` on Arm."""
    kind, whole = "float32x4", []
    a_scale, b_scale, offset = (T.broadcast(bounds[i], 4) for i in range(4, 7))
    zero = T.broadcast(T.Cast("float32", zero), 4)
    for i, (value, scale) in enumerate(zip(sums, scales, strict=True)):
        real = clamp(isa, T.Cast(kind, value) * scale, bounds[0], bounds[1])
        # Codes are small integers: as floats they are exact.
        own = T.call_llvm_pure_intrin(kind, "llvm.roundeven.v4f32", real) + zero
        other = T.Cast(kind, T.Cast("int32x4", T.Shuffle([residual], [4 * i + k for k in range(4)])))
        first, second = (other, own) if residual_first else (own, other)
        inner = T.call_llvm_pure_intrin(kind, "llvm.fma", second, b_scale, offset)
        whole.append(round_to_int(isa, T.call_llvm_pure_intrin(kind, "llvm.fma", first, a_scale, inner)))
    codes, count = narrowed(whole, T.int32(0)), 4 * len(sums)
    low, high = (T.broadcast(T.Cast("uint8", bounds[i]), count) for i in (2, 3))
    return T.max(T.min(codes, high), low)


_PACK_WORDS = {
    512: "llvm.x86.avx512.packssdw.512",
    256: "llvm.x86.avx2.packssdw",
    128: "llvm.x86.sse2.packssdw.128",
}
_PACK_BYTES = {
    512: "llvm.x86.avx512.packuswb.512",
    256: "llvm.x86.avx2.packuswb",
    128: "llvm.x86.sse2.packuswb.128",
}


def dequantize(isa: Isa, acc: Any, scale: Any, low: Any, high: Any) -> Any:
    """int32 lanes -> float32 lanes: float32(acc) * scale, clamped to [low, high]."""
    return clamp(isa, T.Cast(f"float32x{isa.lanes}", acc) * scale, low, high)


BOUNDS, ZEROS = 7, 3
"""Elements of the two buffers."""


def bounds(low: float, high: float, residual: Sequence[float] = ()) -> np.ndarray:
    """The buffer ``bounds``, as the kernels take it; ``residual``: its last five elements."""
    return np.array([low, high, *(residual or (0.0,) * 5)], np.float32)


def zeros(x: int, y: int = 0, second: int = 0) -> np.ndarray:
    """The buffer ``zero``, as the kernels take it."""
    return np.array([x, y, second], np.int32)
