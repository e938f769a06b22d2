"""The epilogue on Arm: rounding to int32 and narrowing saturate, so clamping can wait until results are bytes.

Vectors have L = 4 lanes; scalars are named low, high, zero.
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from .families import Isa


def clamp(isa: Isa, value: Any, low: Any, high: Any) -> Any:
    """float32 lanes, not NaN, within the scalars ``low`` and ``high``: one instruction for each."""
    kind = f"float32x{isa.lanes}"
    low, high = T.broadcast(low, isa.lanes), T.broadcast(high, isa.lanes)
    at_most = T.call_llvm_pure_intrin(kind, "llvm.minnum", value, high)
    return T.call_llvm_pure_intrin(kind, "llvm.maxnum", at_most, low)


def bounded(isa: Isa, value: Any, low: Any, high: Any) -> Any:
    """float lanes within the scalars ``low`` and ``high``; NaN stays NaN."""
    kind = f"float32x{isa.lanes}"
    low, high = T.broadcast(low, isa.lanes), T.broadcast(high, isa.lanes)
    at_least = T.call_llvm_pure_intrin(kind, "llvm.maximum", low, value)
    return T.call_llvm_pure_intrin(kind, "llvm.minimum", high, at_least)


def round_to_int(isa: Isa, value: Any) -> Any:
    """float32 lanes -> int32 lanes, ties to even."""
    return T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.fcvtns.v4i32.v4f32", value)


def narrowed(whole: list[Any], zero: Any) -> Any:
    """One, two or four vectors of int32 [4] -> uint8 [8], [8] or [16]: the zero point added, saturated at every step.

    One vector is taken twice.
    """
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


def saturated_bytes(isa: Isa, product: Any, low: Any, high: Any, zero: Any) -> Any:
    """float32 products [16] -> uint8 codes [16]: clamped to the scalars ``low`` and ``high``, rounded, ``zero`` added.

    The upper bound waits until the results are bytes. NaN becomes the lower one.
    """
    product = T.bind(product)
    parts = [T.Shuffle([product], list(range(at, at + 4))) for at in range(0, 16, 4)]  # 4 x [4]
    reals = [T.call_llvm_pure_intrin("float32x4", "llvm.maxnum", part, T.broadcast(low, 4)) for part in parts]
    codes = narrowed([round_to_int(isa, real) for real in reals], zero)
    return T.min(codes, T.broadcast(T.cast(T.cast(high, "int32") + zero, "uint8"), 16))


def requantized_bytes(isa: Isa, sums: list[Any], scales: list[Any], zero: Any, bounds: Any) -> Any:
    """Two or four neighbouring vectors of int32 sums [4], and of scales -> uint8 codes [8] or [16]."""
    whole = [round_to_int(isa, T.Cast("float32x4", value) * scale) for value, scale in zip(sums, scales, strict=True)]
    codes, count = narrowed(whole, zero), 4 * len(sums)
    low, high = (T.broadcast(T.Cast("uint8", T.Cast("int32", bounds[i]) + zero), count) for i in (0, 1))
    return T.max(T.min(codes, high), low)


def residual_bytes(
    isa: Isa, sums: list[Any], scales: list[Any], zero: Any, bounds: Any, residual: Any, residual_first: bool
) -> Any:  # fmt: skip
    """The same with a residual [8] or [16] added to the codes, as `add_residual` does it."""
    kind, whole = "float32x4", []
    a_scale, b_scale, offset = (T.broadcast(bounds[i], 4) for i in range(4, 7))
    zero = T.broadcast(T.Cast("float32", zero), 4)
    for i, (value, scale) in enumerate(zip(sums, scales, strict=True)):
        real = clamp(isa, T.Cast(kind, value) * scale, bounds[0], bounds[1])
        # Codes are small integers, which floats hold exactly.
        own = T.call_llvm_pure_intrin(kind, "llvm.roundeven.v4f32", real) + zero
        other = T.Cast(kind, T.Cast("int32x4", T.Shuffle([residual], [4 * i + k for k in range(4)])))
        first, second = (other, own) if residual_first else (own, other)
        inner = T.call_llvm_pure_intrin(kind, "llvm.fma", second, b_scale, offset)
        whole.append(round_to_int(isa, T.call_llvm_pure_intrin(kind, "llvm.fma", first, a_scale, inner)))
    codes, count = narrowed(whole, T.int32(0)), 4 * len(sums)
    low, high = (T.broadcast(T.Cast("uint8", bounds[i]), count) for i in (2, 3))
    return T.max(T.min(codes, high), low)
