"""numpy's broadcasting on GPUs: what a thread reads for some neighbouring elements of the output."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from tvm.script.ir_builder import tirx as T

from ..common.broadcast import Nest
from ..common.flat import Expr, Flat, unravel
from .words import read


def operands(loops: Nest, sources: Sequence[Flat], index: Expr, lanes: int) -> list[list[Expr]]:
    """Of each source, the ``lanes`` elements that belong to the output's from ``index`` on."""
    return [_operand(loops, strides, x, index, lanes) for x, strides in zip(sources, loops.strides, strict=True)]


def _operand(loops: Nest, strides: Sequence[int], source: Flat, index: Expr, lanes: int) -> list[Expr]:
    own = tuple(prod(loops.dims[axis + 1 :]) for axis in range(len(loops.dims)))  # the output's strides
    if strides == own:
        return read(source, index, lanes)
    if not any(strides):
        return [source.load(0)] * lanes
    if loops.dims[-1] % lanes:
        return [source.load(_place(loops, strides, index + k)) for k in range(lanes)]
    at = T.bind(_place(loops, strides, index))
    return read(source, at, lanes) if strides[-1] else [source.load(at)] * lanes


def _place(loops: Nest, strides: Sequence[int], index: Expr) -> Expr:
    return sum((i * s for i, s in zip(unravel(index, loops.dims), strides, strict=True) if s), T.int32(0))
