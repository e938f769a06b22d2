"""Loops of elementwise kernels on processors: vectors along the last dimension."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..common.broadcast import Nest
from ..common.flat import Expr, unravel
from .vector import chunks, rows, spans

Body = Callable[[Expr, list[Expr], int], None]
"""Receives the output's flat index, each operand's flat index, and the number of lanes."""


def walk(loops: Nest, lanes: int, threads: int, cost: int, body: Body) -> None:
    """Covers the output by vectors along the last dimension; ``cost`` counts operations per element."""
    work = cost * int(np.prod(loops.dims, dtype=np.int64))
    inner, outer = loops.dims[-1], loops.dims[:-1]
    if not outer:
        chunks(
            inner, lanes, threads, work,
            lambda i, width: body(i, [i * strides[-1] for strides in loops.strides], width),
        )  # fmt: skip
        return

    def row_body(row: Expr) -> None:
        at = unravel(row, outer)
        starts = [sum((i * s for i, s in zip(at, strides, strict=False) if s), 0) for strides in loops.strides]
        spans(
            inner, lanes,
            lambda i, width: body(
                row * inner + i,
                [start + i * strides[-1] for start, strides in zip(starts, loops.strides, strict=True)],
                width,
            ),
        )  # fmt: skip

    rows(int(np.prod(outer, dtype=np.int64)), threads, work, row_body)
