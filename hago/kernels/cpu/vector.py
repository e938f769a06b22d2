"""What the vector templates share: flat views of tensors, loops over vectors with remainders, requantize.

The templates are TVMScript, written through its builder (`tvm.script.ir_builder.tirx`) because vector widths,
remainders and tap counts are Python values; building one takes well under a millisecond, the parser ten. Indices are
flat, in elements, row-major. ``lanes`` counts the elements of one vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.calls import item_bytes, stored
from .epilogue_arm import saturated_bytes
from .families import Isa

Expr: TypeAlias = Any
"""A TIR expression, scalar or vector (TVM's classes are untyped)."""

Spans = Callable[[Expr, int], None]
"""Receives the first index of one vector and its number of lanes."""

PARALLEL_FROM = 1 << 19
"""Element operations below which starting the thread pool costs more than it gives."""

_ROUND = float(3 << 22)
_ROUND_BITS = int(np.float32(_ROUND).view(np.int32))


class Flat:
    """One tensor of a kernel's signature, addressed by flat index; loads are of type ``dtype``."""

    def __init__(self, whole: Any, tensor: TensorType, dtype: str) -> None:
        self.dtype = dtype
        self.size = tensor.size
        self._view = T.decl_buffer((max(self.size, 1),), dtype, data=whole.data)

    def load(self, index: Expr, lanes: int = 1) -> Expr:
        """[lanes]: neighbours from ``index`` on, bound to a variable, so that a second use costs nothing."""
        return T.bind(self._view[index if lanes == 1 else T.ramp(index, 1, lanes)])

    def gather(self, index: Expr) -> Expr:
        """[lanes]: the elements at the indices in a vector [lanes], or the one at a scalar index."""
        return T.bind(self._view[index])

    def strided(self, index: Expr, step: int, lanes: int) -> Expr:
        """[lanes]: elements that are ``step`` apart; step 0 repeats one element."""
        if lanes == 1:
            return self.load(index)
        if step == 0:
            return T.bind(T.broadcast(self._view[index], lanes))
        return T.bind(self._view[T.ramp(index, step, lanes)])

    def store(self, index: Expr, value: Expr, lanes: int = 1) -> None:
        """Stores a vector [lanes] from ``index`` on."""
        T.buffer_store(self._view, value, [index if lanes == 1 else T.ramp(index, 1, lanes)])


def _seen(dtype: str, raw: bool) -> str:
    if raw or dtype in ("bool", "bfloat16"):
        return f"uint{8 * item_bytes(dtype)}"
    return dtype


def local(size: int, dtype: str) -> Any:
    """Scratch memory of this kernel: on the stack up to 1 KiB, which LLVM promotes to registers.

    In scope "local", TVM would call its workspace allocator instead, and nothing would reach a register.
    """
    return T.alloc_buffer((size,), dtype)


def primfunc(
    inputs: Sequence[TensorType],
    outputs: Sequence[TensorType],
    body: Callable[..., None],
    *,
    raw: bool = False,
) -> Any:
    """The PrimFunc whose statements ``body(*inputs, *outputs)`` emits, given `Flat` views.

    bool is seen as uint8 and bfloat16 as uint16; with ``raw`` all tensors are seen as unsigned integers. No two
    buffers may overlap.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_attr({"global_symbol": "kernel", "tirx.noalias": True})
        names = [f"x{i}" for i in range(len(inputs))] + [f"y{i}" for i in range(len(outputs))]
        tensors = [*inputs, *outputs]
        arguments = [
            T.arg(name, T.buffer(tensor.shape, stored(tensor).dtype))
            for name, tensor in zip(names, tensors, strict=True)
        ]
        body(*[Flat(whole, t, _seen(t.dtype, raw)) for whole, t in zip(arguments, tensors, strict=True)])
    return builder.get()


def typed(dtype: str, lanes: int) -> str:
    """TVM's name of the vector type."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def all_lanes(number: Expr, lanes: int) -> Expr:
    """A scalar in every lane."""
    return number if lanes == 1 else T.broadcast(number, lanes)


def cast(value: Expr, dtype: str, lanes: int) -> Expr:
    """The values as another type."""
    return T.cast(value, typed(dtype, lanes))


def bits(value: Expr, dtype: str, lanes: int) -> Expr:
    """The same bits as another type of the same width."""
    return T.reinterpret(value, dtype=typed(dtype, lanes))


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


def unravel(row: Expr, dims: Sequence[int]) -> list[Expr]:
    """The coordinates of a flat row number in ``dims``."""
    found: list[Expr] = []
    for position, dim in enumerate(dims):
        below = int(np.prod(dims[position + 1 :], dtype=np.int64))
        index = row if below == 1 else row // below
        found.append(index if position == 0 else index % dim)
    return found


def rint_to_int32(value: Expr, lanes: int) -> Expr:
    """Nearest integer, half to even, of float32 values within +-2**22, as int32.

    Adding 1.5 * 2**23 leaves the integer in the low mantissa bits, rounded in the processor's default mode:
    two cheap instructions on every instruction set, and exact. The sum must not be contracted with a product
    that ``value`` comes from: callers clamp in between.
    """
    shifted = value + T.float32(_ROUND)
    return bits(shifted, "int32", lanes) - T.int32(_ROUND_BITS)


class Epilogue:
    """From products float32(acc) * scale, float32 [lanes], to output elements [lanes].

    uint8: clamp(rint(product), lo - zp, hi - zp) + zp; ``constants[at:at + 3]`` are int32 zp, lo, hi.
    float32: min(max(product, act_lo), act_hi); ``constants[at:at + 2]`` are float32 act_lo, act_hi.
    The constants are loaded once, where this object is made: before the loops.
    """

    def __init__(self, out: str, constants: Flat, at: int, isa: Isa) -> None:
        self.out, self.isa = out, isa
        if out == "uint8":
            self.zero_point = constants.load(at)
            self.low = T.bind(T.cast(constants.load(at + 1) - self.zero_point, "float32"))
            self.high = T.bind(T.cast(constants.load(at + 2) - self.zero_point, "float32"))
        else:
            self.low, self.high = constants.load(at), constants.load(at + 1)

    def __call__(self, product: Expr, lanes: int) -> Expr:
        if self.isa.narrows > 1 and self.out == "uint8" and lanes == 16:
            return saturated_bytes(self.isa, product, self.low, self.high, self.zero_point)
        clamped = T.min(T.max(product, self.low), self.high)
        if self.out == "float32":
            return clamped
        return cast(rint_to_int32(clamped, lanes) + self.zero_point, "uint8", lanes)


@lru_cache(maxsize=8192)
def numbers_of(*values: int) -> np.ndarray:
    """int32 constants of one call. Kernels take them as an input, so that new scales need no new kernel.

    Equal ones are one read-only array, so that an artifact holds them once.
    """
    return _shared(np.array(values, np.int32))


@lru_cache(maxsize=8192)
def factors_of(*values: float) -> np.ndarray:
    """float32 constants of one call, like `numbers_of`."""
    return _shared(np.array(values, np.float32))


def _shared(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def copy_lanes(isa: Isa, dtype: str) -> int:
    """Elements in one vector."""
    return isa.bits // (8 * item_bytes(dtype))


def byte_lanes(isa: Isa) -> int:
    """8-bit lanes in one vector."""
    return isa.bits // 8
