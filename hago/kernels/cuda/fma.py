"""Products in float32 by fused multiply-adds: y [M, N] = epilogue(a [M, K] x b [K, N]).

``a`` is a matrix or, for a convolution, the pixels under each output pixel (K = KH * KW * C), read from the image where
they lie. Matrices may come in batches, which broadcast.

    a        as the graph has it    float32
    b        as the graph has it, or weights packed by `thread_epilogue.pack_columns`
    ...      the buffers of the epilogue (thread_epilogue.py)
    y        as the graph has it    float32

A block computes a tile of rows by columns, one step along K after the other. While it multiplies one step out of shared
memory, its threads read the next one into registers (fma_loads.py). A warp is 4 by 8 threads; each has its rows and its
columns in fours, so that the warp reads whole lines of shared memory.

Where the blocks of a product are too few for the GPU, each computes but a part of the steps (`fma_parts`): its sums go
to memory, and a second kernel adds them up and finishes them (`parts.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.broadcast import nest
from ..common.flat import Expr, Flat, primfunc, unravel
from .device import when
from .families import Gpu
from .fma_loads import WIDE, Along, FmaLoads, FmaTile, left_pieces, right_pieces
from .grid import barrier, blocks
from .loads import Window
from .thread_epilogue import FloatEpilogue, FloatFinish
from .words import write

_WARP = 32
_DOWN, _ACROSS = 4, 8  # threads of a warp
_STAGES = 2


@dataclass(frozen=True)
class FmaParams:
    """Shapes of one product.

    ``window`` is what the rows of one product read; ``columns`` is N, and the rows of b have ``width``, with padding.
    Products are repeated over the dimensions ``batch``, of which the operands have ``a_batch`` and ``b_batch``.
    """

    window: Window
    columns: int
    width: int
    epilogue: FloatEpilogue
    tile: FmaTile
    a: tuple[int, ...]  # as the graph has them
    b: tuple[int, ...]
    y: tuple[int, ...]
    batch: tuple[int, ...] = ()
    a_batch: tuple[int, ...] = ()
    b_batch: tuple[int, ...] = ()
    parts: int = 1

    @property
    def blocks(self) -> tuple[int, int, int, int]:
        """Batches, parts of K, tiles along rows and along columns."""
        down, across = -(-self.window.rows // self.tile.rows), -(-self.columns // self.tile.columns)
        return prod(self.batch), self.parts, down, across

    @property
    def steps(self) -> int:
        """Steps along K of one block."""
        return -(-self.depth // (self.tile.depth * self.parts))

    @property
    def depth(self) -> int:
        """K."""
        return self.window.depth // self.window.item


def fma(params: FmaParams, gpu: Gpu, threads: int = 1) -> Any:
    """(a, b, buffers of the epilogue ...) -> y, see the module's docstring."""
    p = params
    a, b, y = (TensorType("float32", shape) for shape in (p.a, p.b, p.y))

    def body(a: Flat, b: Flat, *rest: Flat) -> None:
        *buffers, y = rest
        with _tiles(p, a, b) as (place, batch, _, sums):
            finish = FloatFinish(p.epilogue, buffers, y)
            _finish(p, sums, place, batch * p.window.rows, finish.factors, finish.store)

    return primfunc([a, b, *p.epilogue.arguments(-(-p.columns // WIDE) * WIDE, y)], [y], body)


def fma_parts(params: FmaParams, gpu: Gpu, threads: int = 1) -> Any:
    """(a, b) -> sums [parts, rows of all batches, N]."""
    p = params
    rows = prod(p.batch) * p.window.rows

    def body(a: Flat, b: Flat, y: Flat) -> None:
        with _tiles(p, a, b) as (place, batch, part, sums):
            before = part * rows + batch * p.window.rows
            _finish(p, sums, place, before, lambda n, lanes: [], lambda own, _, at: write(y, at, own))

    tensors = [TensorType("float32", shape) for shape in (p.a, p.b, (p.parts, rows, p.columns))]
    return primfunc(tensors[:2], tensors[2:], body)


@contextmanager
def _tiles(p: FmaParams, a: Flat, b: Flat) -> Iterator[tuple[_Place, Expr, Expr, Any]]:
    """Launches a block for every tile; yields a thread's place, its batch and part, and its sums."""
    tile = p.tile
    with blocks(prod(p.blocks), tile.threads) as (block, thread):
        batch, part, row, column = (T.bind(number) for number in unravel(block, p.blocks))
        shared = T.alloc_buffer((_STAGES * tile.stage,), "float32", scope="shared.dyn", align=128)
        place = _Place(p, thread, T.bind(row * tile.rows), T.bind(column * tile.columns))
        a_start, b_start = _starts(p, batch)
        along = Along(p.depth, tile.depth, p.steps, p.parts, part)
        left = left_pieces(p.window, tile, thread, place.first_row, a_start, along)
        right = right_pieces(p.width, tile, thread, place.first_column, b_start, along)
        sums = _product(p, shared, place, FmaLoads(a, shared, *left), FmaLoads(b, shared, *right))
        yield place, batch, part, sums


def _starts(p: FmaParams, batch: Expr) -> tuple[Expr, Expr]:
    """Where the matrices of a batch begin in a and b."""
    if not p.batch:
        return T.int32(0), T.int32(0)
    loops = nest(p.batch, [p.a_batch, p.b_batch])
    numbers = unravel(batch, loops.dims)
    starts = []
    for size, strides in zip((p.window.rows * p.depth, p.depth * p.width), loops.strides, strict=True):
        at = sum((n * (s * size) for n, s in zip(numbers, strides, strict=True) if s), T.int32(0))
        starts.append(T.bind(at))
    return starts[0], starts[1]


class _Place:
    """Which rows and columns of y a thread computes: fours that the warp's other threads lie between."""

    def __init__(self, p: FmaParams, thread: Expr, first_row: Expr, first_column: Expr) -> None:
        tile = p.tile
        lane, warp = T.bind(thread % _WARP), T.bind(thread // _WARP)
        across = tile.columns // (_ACROSS * tile.wide)
        self.row = T.bind(warp // across * (_DOWN * tile.high) + lane // _ACROSS * WIDE)
        self.column = T.bind(warp % across * (_ACROSS * tile.wide) + lane % _ACROSS * WIDE)
        self.first_row, self.first_column = first_row, first_column

    def row_of(self, i: Expr) -> Expr:
        """In the tile, of this thread's row ``i``."""
        return self.row + i // WIDE * (_DOWN * WIDE) + i % WIDE

    def column_of(self, j: Expr) -> Expr:
        """In the tile, of this thread's column ``j``."""
        return self.column + j // WIDE * (_ACROSS * WIDE) + j % WIDE


def _product(p: FmaParams, shared: Any, place: _Place, left: FmaLoads, right: FmaLoads) -> Any:
    """All steps; the sums [high * wide] of this thread."""
    tile, steps = p.tile, p.steps
    sums = T.alloc_buffer((tile.high * tile.wide,), "float32", scope="local")
    with T.unroll(0, tile.high * tile.wide) as i:
        T.buffer_store(sums, T.float32(0), [i])
    for operand in (left, right):
        operand.fetch(T.int32(0))
        operand.place(T.int32(0))
    barrier()
    if steps > 1:
        with T.serial(0, steps - 1) as step:
            for operand in (left, right):
                operand.fetch(step + 1)
            _multiply(tile, shared, place, sums, T.bind(step % _STAGES * tile.stage))
            for operand in (left, right):
                operand.place(T.bind((step + 1) % _STAGES * tile.stage))
            barrier()
    _multiply(tile, shared, place, sums, T.int32((steps - 1) % _STAGES * tile.stage))
    return sums


def _multiply(tile: FmaTile, shared: Any, place: _Place, sums: Any, stage: Expr) -> None:
    """Adds the products of the step that begins at ``stage`` in shared memory."""
    with T.unroll(0, tile.depth) as k:
        a = T.alloc_buffer((tile.high,), "float32", scope="local")
        b = T.alloc_buffer((tile.wide,), "float32", scope="local")
        for i in range(0, tile.high, WIDE):
            at = stage + k * tile.rows + tile.row_at(place.row_of(i), k)
            T.buffer_store(a, shared[T.ramp(at, 1, WIDE)], [T.ramp(i, 1, WIDE)])
        for j in range(0, tile.wide, WIDE):
            at = stage + tile.rows * tile.depth + k * tile.columns + place.column_of(j)
            T.buffer_store(b, shared[T.ramp(at, 1, WIDE)], [T.ramp(j, 1, WIDE)])
        with T.unroll(0, tile.high) as i, T.unroll(0, tile.wide) as j:
            at = i * tile.wide + j
            T.buffer_store(sums, T.fma(a[i], b[j], sums[at]), [at])


def _finish(
    p: FmaParams,
    sums: Any,
    place: _Place,
    rows_before: Expr,
    factors_of: Callable[..., Any],
    store: Callable[..., None],
) -> None:
    """``store(sums, factors, place in y)`` for all that this thread has."""
    tile = p.tile
    lanes = 1 if p.columns % WIDE else WIDE
    with T.unroll(0, tile.wide // lanes) as j:
        n = T.bind(place.first_column + place.column_of(j * lanes))
        with when(n < p.columns if p.columns % tile.columns else True):
            factors = factors_of(n, lanes)
            with T.unroll(0, tile.high) as i:
                m = T.bind(place.first_row + place.row_of(i))
                with when(m < p.window.rows if p.window.rows % tile.rows else True):
                    own = [sums[i * tile.wide + j * lanes + c] for c in range(lanes)]
                    store(own, factors, T.bind((rows_before + m) * p.columns + n))
