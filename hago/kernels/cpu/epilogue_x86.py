"""The epilogue on x86: values are clamped before they are rounded, which keeps the conversion in range.

Shapes as in epilogue.py: vectors [L], scalars low, high, zero.
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from .families import Isa


def clamp(isa: Isa, value: Any, low: Any, high: Any) -> Any:
    """float32 lanes, not NaN, within the scalars ``low`` and ``high``."""
    low = T.broadcast(low, isa.lanes)
    return T.max(_at_most(isa, value, high), low)


def bounded(isa: Isa, value: Any, low: Any, high: Any) -> Any:
    """float lanes within the scalars ``low`` and ``high``; NaN stays NaN.

    TVM's max(a, b) is ``a > b ? a : b``, like the instruction: the operand that may be NaN comes last.
    """
    return T.min(T.broadcast(high, isa.lanes), T.max(T.broadcast(low, isa.lanes), value))


def _at_most(isa: Isa, value: Any, high: Any) -> Any:
    return T.min(value, T.broadcast(high, isa.lanes))


def round_to_int(isa: Isa, value: Any) -> Any:
    """float32 lanes -> int32 lanes, ties to even (the rounding mode that MXCSR starts with)."""
    # With 512 bits the instruction takes what masked lanes keep, the mask (all lanes), and the rounding mode (MXCSR's).
    masked = [T.broadcast(T.int32(0), isa.lanes), T.int16(-1), T.int32(4)] if isa.bits == 512 else []
    return T.call_llvm_pure_intrin(f"int32x{isa.lanes}", _ROUND[isa.bits], value, *masked)


def requantized_bytes(isa: Isa, sums: list[Any], scales: list[Any], zero: Any, bounds: Any) -> Any:
    """Four vectors of int32 sums [L] -> one of their uint8 codes [4 L]; see `pack_bytes` for their order."""
    reals = [T.Cast(f"float32x{isa.lanes}", acc) * scale for acc, scale in zip(sums, scales, strict=True)]  # 4 x [L]
    whole = [round_to_int(isa, _at_most(isa, real, bounds[1])) for real in reals]
    return pack_bytes(isa, whole, zero, bounds[0])


def pack_bytes(isa: Isa, whole: list[Any], zero: Any, low: Any) -> Any:
    """Four vectors of int32 results [L], less the zero point and none too high -> uint8 [4*L] of at least ``low``.

    Within 128 bits, 4 lanes of each vector become neighbours. Packing saturates, which clamps at 0; ``zero``
    and ``low`` are scalars as in the buffers, ``low`` less the zero point.
    """
    words, count = isa.bits // 16, isa.bits // 8  # 2*L and 4*L
    first, second = (
        T.call_llvm_pure_intrin(f"int16x{words}", _PACK_WORDS[isa.bits], whole[i], whole[i + 1])
        + T.broadcast(T.Cast("int16", zero), words)
        for i in (0, 2)
    )
    packed = T.call_llvm_pure_intrin(f"uint8x{count}", _PACK_BYTES[isa.bits], first, second)
    return T.max(packed, T.broadcast(T.Cast("uint8", T.Cast("int32", low) + zero), count))


_ROUND = {
    512: "llvm.x86.avx512.mask.cvtps2dq.512",
    256: "llvm.x86.avx.cvt.ps2dq.256",
    128: "llvm.x86.sse2.cvtps2dq",
}
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
