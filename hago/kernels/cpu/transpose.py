"""Loops that read a tensor in one order of dimensions and write it in another, tile by tile in registers.

A square tile is transposed by log2(n) rounds of interleaving two vectors (the perfect shuffle network of
Stone, IEEE Trans. Computers C-20, 1971): round by round, row i is zipped with row i + n/2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm.script.ir_builder import tirx as T

from ..common.calls import item_bytes
from ..common.flat import Expr, Flat, unravel
from ..common.movement import Order
from .vector import chunks, rows, spans

Convert = Callable[[Expr, int], Expr]
"""An elementwise function of a vector and its number of lanes."""

_WIDEST_INTERLEAVE = 4
"""Up to this many channels, whole pixels are woven from (or split into) one vector per channel."""


@dataclass(frozen=True)
class _Job:
    """What all ways to permute share: ``target`` = after(before(``source``)), reordered as ``how`` says."""

    source: Flat
    target: Flat
    how: Order
    threads: int
    work: int  # element operations
    before: Convert
    after: Convert

    def read(self, index: Expr, lanes: int) -> Expr:
        """``lanes`` neighbours of the source, as ``before`` leaves them."""
        return self.before(self.source.load(index, lanes), lanes)

    def write(self, index: Expr, value: Expr, lanes: int) -> None:
        """Stores ``lanes`` neighbours of the target, as ``after`` leaves them."""
        self.target.store(index, self.after(value, lanes), lanes)


def permute(
    source: Flat,
    target: Flat,
    how: Order,
    lanes: int,
    threads: int,
    *,
    cost: int = 1,
    before: Convert = lambda value, lanes: value,
    after: Convert = lambda value, lanes: value,
) -> None:
    """target = after(before(source)), reordered; ``before`` acts ahead of the shuffle, ``after`` behind it.

    ``lanes`` is the vector width of plain copies, ``cost`` the operations per element.
    """
    job = _Job(source, target, how, threads, cost * source.size, before, after)
    if how.strides[-1] == 1:
        _copy(job, lanes)
        return
    depth, last = how.strides.index(1), how.dims[-1]
    if last <= _WIDEST_INTERLEAVE and depth == len(how.dims) - 2 and how.dims[depth] >= 8:
        _weave(job)
    elif how.dims[depth] <= _WIDEST_INTERLEAVE and how.strides[-1] == how.dims[depth] and last >= 8:
        _split(job, depth)
    else:
        _tiles(job, depth)


def _copy(job: _Job, lanes: int) -> None:
    """[..., n] -> [..., n]: the last dimension stays the last, so rows are copied."""
    how = job.how
    inner, outer = how.dims[-1], how.dims[:-1]

    def move(to: Expr, start: Expr, width: int) -> None:
        job.write(to, job.read(start, width), width)

    if not outer:
        chunks(inner, lanes, job.threads, job.work, lambda i, width: move(i, i, width))
        return

    def row_body(row: Expr) -> None:
        at = unravel(row, outer)
        start = sum(i * s for i, s in zip(at, how.strides, strict=False))
        spans(inner, lanes, lambda i, width: move(row * inner + i, start + i, width))

    rows(int(np.prod(outer, dtype=np.int64)), job.threads, job.work, row_body)


def _starts(how: Order, outer: Sequence[int], row: Expr) -> tuple[Expr, Expr]:
    """Flat input and output index of an outer coordinate (0 along the dimensions not in ``outer``)."""
    at = unravel(row, [how.dims[axis] for axis in outer])
    source = sum((i * how.strides[axis] for i, axis in zip(at, outer, strict=True)), 0)
    target = sum((i * _below(how, axis) for i, axis in zip(at, outer, strict=True)), 0)
    return source, target


def _below(how: Order, axis: int) -> int:
    return int(np.prod(how.dims[axis + 1 :], dtype=np.int64))


def _blocked(count: int, width: int, body: Callable[[Expr], None]) -> None:
    """``body`` at every multiple of ``width`` below ``count``, the last one moved back so that it fits."""
    full = count // width
    with T.serial(0, full) as i:
        body(i * width)
    if count % width:
        body(count - width)


def _weave(job: _Job) -> None:
    """[..., few, many] -> [..., many, few]: one vector per plane, interleaved."""
    few, many, stride = job.how.dims[-1], job.how.dims[-2], job.how.strides[-1]
    outer = list(range(len(job.how.dims) - 2))
    width = 16 if many >= 16 else 8
    weave = [plane * width + lane for lane in range(width) for plane in range(few)]

    def pixels(begin: tuple[Expr, Expr], first: Expr) -> None:
        planes = [job.read(begin[0] + first + c * stride, width) for c in range(few)]  # few x [width]
        woven = T.bind(T.Shuffle(planes, weave))  # [width, few]
        job.write(begin[1] + first * few, woven, width * few)

    _over_blocks(job, outer, many, width, pixels)


def _split(job: _Job, depth: int) -> None:
    """[..., many, few] -> [..., few, ..., many]: one load of whole pixels, one vector per plane."""
    how = job.how
    few, many = how.dims[depth], how.dims[-1]
    outer = [axis for axis in range(len(how.dims) - 1) if axis != depth]
    width = 16 if many >= 16 else 8
    step = _below(how, depth)

    def pixels(begin: tuple[Expr, Expr], first: Expr) -> None:
        whole = T.bind(job.read(begin[0] + first * few, width * few))  # [width, few]
        for plane in range(few):
            picked = T.bind(T.Shuffle([whole], [lane * few + plane for lane in range(width)]))  # [width]
            job.write(begin[1] + first + plane * step, picked, width)

    _over_blocks(job, outer, many, width, pixels)


def _over_blocks(
    job: _Job, outer: Sequence[int], count: int, width: int, body: Callable[[tuple[Expr, Expr], Expr], None]
) -> None:
    """``body(starts, first)`` for every outer coordinate and every block of ``width`` along ``count``."""
    how = job.how
    full, rest = divmod(count, width)
    outside = int(np.prod([how.dims[axis] for axis in outer], dtype=np.int64))

    def row_body(row: Expr) -> None:
        body(_starts(how, outer, row // full), (row % full) * width)

    rows(outside * full, job.threads, job.work, row_body)
    if rest:
        rows(outside, 1, job.work, lambda row: body(_starts(how, outer, row), count - width))


def _tiles(job: _Job, depth: int) -> None:
    """Square tiles over the input's last dimension (``depth`` in the output) and the output's last."""
    how = job.how
    deep, last = how.dims[depth], how.dims[-1]
    outer = [axis for axis in range(len(how.dims)) if axis not in (depth, len(how.dims) - 1)]
    widest = {1: 16, 2: 8, 4: 8}.get(item_bytes(job.source.dtype), 4)
    side = 1 << (min(deep, last, widest).bit_length() - 1)
    step_in, step_out = how.strides[-1], _below(how, depth)
    down = -(-deep // side)

    def tile(begin: tuple[Expr, Expr], a: Expr, b: Expr) -> None:
        # side x [side along deep] -> side x [side along last]
        lines = [T.bind(job.read(begin[0] + a + (b + i) * step_in, side)) for i in range(side)]
        for i, line in enumerate(_transposed(lines, side)):
            job.write(begin[1] + b + (a + i) * step_out, line, side)

    def row_body(row: Expr) -> None:
        begin = _starts(how, outer, row // down)
        a = T.bind(T.min((row % down) * side, deep - side))
        _blocked(last, side, lambda b: tile(begin, a, b))

    rows(int(np.prod([how.dims[axis] for axis in outer], dtype=np.int64)) * down, job.threads, job.work, row_body)


def _transposed(lines: list[Expr], side: int) -> list[Expr]:
    """``side`` vectors [side], the rows of a square, as its columns."""
    if side == 1:
        return lines
    half = side // 2
    low = [k for i in range(half) for k in (i, side + i)]
    high = [k + half for k in low]
    for _ in range(side.bit_length() - 1):
        zipped: list[Expr] = []
        for i in range(half):
            pair = [lines[i], lines[i + half]]
            zipped += [T.bind(T.Shuffle(pair, low)), T.bind(T.Shuffle(pair, high))]
        lines = zipped
    return lines
