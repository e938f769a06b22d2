"""numpy's broadcasting in templates, over as few dimensions as the shapes allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .flat import Expr, Flat


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


def operand(flat: Flat, index: Expr, strides: Sequence[int], lanes: int) -> Expr:
    """The operand's elements [lanes] of one vector: neighbours, or one element repeated if it is broadcast."""
    return flat.strided(index, strides[-1], lanes)
