"""Loops of elementwise kernels with numpy's broadcasting, over as few dimensions as the shapes allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .vector import Expr, Flat, chunks, rows, spans, unravel


@dataclass(frozen=True)
class Nest:
    """``dims`` of the output after merging, and each operand's stride, in elements, along each of them.

    The stride is 0 if the operand is broadcast; along the last dimension it is 0 or 1.
    """

    dims: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]


def nest(output: Sequence[int], operands: Sequence[Sequence[int]]) -> Nest:
    """Drops dimensions of size 1 and merges neighbours that are contiguous, or broadcast, in every operand."""
    rank = len(output)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in operands]
    columns: list[list[int]] = []
    dims: list[int] = []
    for axis in range(rank):
        if output[axis] == 1:
            continue
        column = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) if shape[axis] > 1 else 0 for shape in padded]
        if dims and all(a == b * output[axis] for a, b in zip(columns[-1], column, strict=True)):
            dims[-1] *= output[axis]
            columns[-1] = column
        else:
            dims.append(output[axis])
            columns.append(column)
    if not dims:
        dims, columns = [1], [[0] * len(padded)]
    return Nest(tuple(dims), tuple(tuple(column[i] for column in columns) for i in range(len(padded))))


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


def operand(flat: Flat, index: Expr, strides: Sequence[int], lanes: int) -> Expr:
    """The operand's elements [lanes] of one vector: neighbours, or one element repeated if it is broadcast."""
    return flat.strided(index, strides[-1], lanes)
