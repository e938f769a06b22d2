"""Reductions over one row of memory: what softmax, norms and reductions share.

A row of ``n`` elements is covered by vectors of `row_lanes` elements; the last one is moved back so that it
ends with the row, and says how many of its first lanes were covered before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T

from ..common.flat import Expr, all_lanes
from ..common.reductions import Combine

Row = Callable[[Expr, int], None]
"""Receives the first index of a vector and how many of its first lanes were seen before."""


def row_lanes(n: int, lanes: int) -> int:
    """The widest vector, a power of two, that fits into a row."""
    return min(lanes, 1 << (n.bit_length() - 1))


def along(n: int, lanes: int, body: Row, *, unrolled: int = 1) -> None:
    """Covers a row; a loop, unless it has at most ``unrolled`` vectors."""
    full, rest = divmod(n, lanes)
    if full <= unrolled:
        for i in range(full):
            body(i * lanes, 0)
    else:
        with T.serial(0, full) as i:
            body(i * lanes, 0)
    if rest:
        body(n - lanes, lanes - rest)


def fresh(value: Expr, seen: int, lanes: int, instead: Expr) -> Expr:
    """``value`` [lanes] with its first ``seen`` lanes taken from ``instead``, so that nothing counts twice."""
    if not seen:
        return value
    lane = T.ramp(T.int32(0), 1, lanes)
    return T.Select(lane >= T.broadcast(T.int32(seen), lanes), value, instead)


def across(value: Expr, lanes: int, combine: Combine) -> Expr:
    """[lanes] -> one number: the halves of the vector are combined until one lane is left."""
    value = T.bind(value)
    while lanes > 1:
        half = lanes // 2
        low, high = T.Shuffle([value], list(range(half))), T.Shuffle([value], list(range(half, lanes)))
        value = T.bind(combine(low, high))
        lanes = half
    return value


class Register:
    """A vector [lanes] that changes: an accumulator."""

    def __init__(self, start: Expr, dtype: str, lanes: int) -> None:
        self._buffer: Any = T.alloc_buffer((lanes,), dtype)
        self._whole = 0 if lanes == 1 else T.ramp(0, 1, lanes)
        self.dtype, self.lanes = dtype, lanes
        self.set(all_lanes(start, lanes))

    @property
    def value(self) -> Expr:
        """The value at the time when the expression is evaluated."""
        return self._buffer[self._whole]

    def set(self, value: Expr) -> None:
        """Stores a new value."""
        T.buffer_store(self._buffer, value, [self._whole])

    def get(self) -> Expr:
        """The current value, bound to a name."""
        return T.bind(self.value)
