"""Tensors in templates, on any target: flat views, vector types, conversions, and the constants of one call.

Indices are flat, in elements, row-major. ``lanes`` counts the elements of one vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from .calls import item_bytes, stored

Expr: TypeAlias = Any
"""A TIR expression, scalar or vector (TVM's classes are untyped)."""

_ROUND = float(3 << 22)
_ROUND_BITS = int(np.float32(_ROUND).view(np.int32))


class Flat:
    """One tensor of a kernel's signature, addressed by flat index; loads are of type ``dtype``."""

    def __init__(self, whole: Any, tensor: TensorType, dtype: str) -> None:
        self.dtype = dtype
        self.size = tensor.size
        view = T.decl_buffer((max(self.size, 1),), dtype, data=whole.data)
        self._view = IRBuilder.name(whole.name, view)

    def seen_as(self, dtype: str) -> Flat:
        """The same memory as elements of another type; a remainder is not seen.

        To be called where it is used: a view made outside of a GPU's kernel would be one more argument of it.
        """
        size = self.size * item_bytes(self.dtype) // item_bytes(dtype)
        return Flat(self._view, TensorType(dtype, (size,)), dtype)

    def load(self, index: Expr, lanes: int = 1) -> Expr:
        """[lanes]: neighbours from ``index`` on, bound to a variable, so that a second use costs nothing."""
        return T.bind(self._view[index if lanes == 1 else T.ramp(index, 1, lanes)])

    def at(self, index: Expr) -> Expr:
        """The element at a scalar index, read where the expression stands: in a branch, only if that is taken."""
        return self._view[index]

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


def seen(dtype: str, raw: bool) -> str:
    """The type that a kernel sees: that of memory; with ``raw`` an unsigned integer of the same width."""
    if raw or dtype in ("bool", "bfloat16"):
        return f"uint{8 * item_bytes(dtype)}"
    return dtype


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
        body(*[Flat(whole, t, seen(t.dtype, raw)) for whole, t in zip(arguments, tensors, strict=True)])
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
