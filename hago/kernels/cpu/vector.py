"""What the vector templates share: flat views of tensors, loops over vectors with remainders, requantize.

The templates are TVMScript, written through its builder (`tvm.script.ir_builder.tirx`) because vector widths,
remainders and tap counts are Python values; building one takes well under a millisecond, the parser ten. Indices are
flat, in elements, row-major. ``lanes`` counts the elements of one vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T

from ..common import epilogue
from ..common.calls import item_bytes
from ..common.flat import Expr, Flat
from .epilogue_arm import saturated_bytes
from .families import Isa

Spans = Callable[[Expr, int], None]
"""Receives the first index of one vector and its number of lanes."""

PARALLEL_FROM = 1 << 19
"""Element operations below which starting the thread pool costs more than it gives."""


def local(size: int, dtype: str) -> Any:
    """Scratch memory of this kernel: on the stack up to 1 KiB, which LLVM promotes to registers.

    In scope "local", TVM would call its workspace allocator instead, and nothing would reach a register.
    """
    return T.alloc_buffer((size,), dtype)


def widths(count: int, lanes: int) -> list[tuple[int, int]]:
    """Powers of two, at most ``lanes``, that cover ``count`` elements once: (first element, width) each."""
    found, start, width = [], 0, lanes
    while start < count:
        while width > count - start:
            width //= 2
        found.append((start, width))
        start += width
    return found


def spans(count: int, lanes: int, body: Spans, *, overlap: bool = True) -> None:
    """Covers ``range(count)`` by vectors.

    Full vectors are a loop. One more covers the rest and overlaps the last full one (with ``overlap``: computing an
    element twice must be harmless); without a full one, narrower vectors do.
    """
    full, rest = divmod(count, lanes)
    if full > 1:
        with T.serial(0, full) as i:
            body(i * lanes, lanes)
    elif full == 1:
        body(0, lanes)
    if rest and full and overlap:
        body(count - lanes, lanes)
    elif rest:
        for start, width in widths(rest, lanes):
            body(full * lanes + start, width)


def rows(count: int, threads: int, work: int, body: Callable[[Expr], None]) -> None:
    """Runs ``body(row)`` for every row, in ``threads`` chunks if ``work`` (element operations) is large enough."""
    if count == 1:
        body(0)
        return
    if threads < 2 or work < PARALLEL_FROM:
        with T.serial(0, count) as row:
            body(row)
        return
    chunk = -(-count // threads)
    with T.parallel(0, threads) as part, T.serial(0, T.max(0, T.min(chunk, count - part * chunk))) as row:
        body(part * chunk + row)


def chunks(count: int, lanes: int, threads: int, work: int, body: Spans) -> None:
    """`spans` over one long dimension, cut into ``threads`` chunks of whole vectors if ``work`` is large enough."""
    full, rest = divmod(count, lanes)
    if threads < 2 or work < PARALLEL_FROM or full < threads:
        spans(count, lanes, body)
        return
    rows(full, threads, work, lambda i: body(i * lanes, lanes))
    if rest:
        body(count - lanes, lanes)


class Epilogue(epilogue.Epilogue):
    """`hago.kernels.common.epilogue.Epilogue`, by instructions that narrow with saturation where there are any."""

    def __init__(self, out: str, constants: Flat, at: int, isa: Isa) -> None:
        super().__init__(out, constants, at)
        self.isa = isa

    def __call__(self, product: Expr, lanes: int) -> Expr:
        """Elements [lanes] of type ``out``."""
        if self.isa.narrows > 1 and self.out == "uint8" and lanes == 16:
            return saturated_bytes(self.isa, product, self.low, self.high, self.zero_point)
        return super().__call__(product, lanes)


def copy_lanes(isa: Isa, dtype: str) -> int:
    """Elements in one vector."""
    return isa.bits // (8 * item_bytes(dtype))


def byte_lanes(isa: Isa) -> int:
    """8-bit lanes in one vector."""
    return isa.bits // 8
