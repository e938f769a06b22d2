"""Reading a tensor in one order of dimensions and writing it in another.

Where both orders have long runs, a block takes a square tile, whose rows it reads and whose columns it writes, through
shared memory: neighbouring threads have neighbouring addresses on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..common.calls import item_bytes
from ..common.flat import Expr, Flat, unravel
from ..common.movement import Order
from .families import Gpu
from .grid import THREADS, barrier, blocks
from .words import copy, each_few, per_thread, read, write

Element = Callable[[Expr], Expr]
"""A function of one element."""

_SIDE = 32  # elements of a tile
_LEAST = 8
"""Elements that both runs must have for tiles to pay."""


def permute(
    source: Flat, target: Flat, how: Order, gpu: Gpu, *, before: Element | None = None, after: Element | None = None
) -> None:
    """target = after(before(source)), reordered as ``how`` says; ``before`` acts ahead of the shuffle.

    Without functions both are of one type; with ``before`` alone, tiles are of the target's type.
    """
    depth = how.strides.index(1)
    if how.strides[-1] == 1:
        _rows(source, target, how, gpu, before, after)
    elif min(how.dims[depth], how.dims[-1]) >= _LEAST:
        _tiles(source, target, how, before, after)
    else:
        _elements(source, target, how, gpu, before, after)


def _applied(value: Expr, *functions: Element | None) -> Expr:
    for function in functions:
        value = value if function is None else function(value)
    return value


def start_of(how: Order, index: Expr) -> Expr:
    """Where the source has the target's element ``index``."""
    return sum((i * s for i, s in zip(unravel(index, how.dims), how.strides, strict=True)), T.int32(0))


def _rows(source: Flat, target: Flat, how: Order, gpu: Gpu, before: Element | None, after: Element | None) -> None:
    """The last dimension stays the last."""
    wider = max((source.dtype, target.dtype), key=item_bytes)
    parts = () if len(how.dims) == 1 else (how.dims[-1], *how.strides[:-1])

    def few(index: Expr, lanes: int) -> None:
        start = T.bind(start_of(how, index))
        if before is None and after is None:
            copy(target, index, source, start, lanes)
        else:
            write(target, index, [_applied(value, before, after) for value in read(source, start, lanes)])

    each_few(target.size, per_thread(gpu, target.size, wider, *parts), few)


def _elements(source: Flat, target: Flat, how: Order, gpu: Gpu, before: Element | None, after: Element | None) -> None:
    """Neighbours of the target, from wherever they lie."""

    def few(index: Expr, lanes: int) -> None:
        values = [source.load(start_of(how, index + k)) for k in range(lanes)]
        write(target, index, [_applied(value, before, after) for value in values])

    each_few(target.size, per_thread(gpu, target.size, target.dtype), few)


def _tiles(source: Flat, target: Flat, how: Order, before: Element | None, after: Element | None) -> None:
    """Tiles over the source's last dimension (``deep``, at ``depth`` in the target) and the target's last."""
    depth = how.strides.index(1)
    deep, last = how.dims[depth], how.dims[-1]
    outer = [axis for axis in range(len(how.dims) - 1) if axis != depth]
    steps = [prod(how.dims[axis + 1 :]) for axis in range(len(how.dims))]  # the target's strides
    dtype = target.dtype if before else source.dtype
    pitch = _SIDE + max(4 // item_bytes(dtype), 1)  # an odd number of words: no two rows share a bank
    down, across = -(-deep // _SIDE), -(-last // _SIDE)
    lines = THREADS // _SIDE

    with blocks(prod(how.dims[axis] for axis in outer) * down * across) as (block, thread):
        tile = T.alloc_buffer((_SIDE * pitch,), dtype, scope="shared")
        first_deep, first_last = T.bind(block // across % down * _SIDE), T.bind(block % across * _SIDE)
        at = unravel(block // (down * across), [how.dims[axis] for axis in outer]) if outer else []
        begin = T.bind(sum((i * how.strides[axis] for i, axis in zip(at, outer, strict=True)), T.int32(0)))
        to = T.bind(sum((i * steps[axis] for i, axis in zip(at, outer, strict=True)), T.int32(0)))
        column, line = T.bind(thread % _SIDE), T.bind(thread // _SIDE)
        for row in range(0, _SIDE, lines):
            a, b = first_deep + column, first_last + line + row
            with T.If(tirx.all(a < deep, b < last)), T.Then():
                value = _applied(source.load(begin + b * how.strides[-1] + a), before)
                T.buffer_store(tile, value, [(line + row) * pitch + column])
        barrier()
        for row in range(0, _SIDE, lines):
            a, b = first_deep + line + row, first_last + column
            with T.If(tirx.all(a < deep, b < last)), T.Then():
                value = T.bind(tile[column * pitch + line + row])
                target.store(to + a * steps[depth] + b, _applied(value, after))
