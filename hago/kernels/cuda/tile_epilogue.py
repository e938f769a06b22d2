"""From the sums of a block to its part of the result, as `hago.lower.ops` defines it.

Codes meet in shared memory, from where they are stored in whole lines; floats go where they belong at once. A residual
of codes comes to the place of the finished tile while the product is computed.

    bias    [O...]  as the sums; scale [O...] float32 (integer sums only); both with `padded` elements
    zero    [3] int32, bounds [7] float32: see `hago.kernels.common.anchor`
    table   [256]   uint8
    r       like y; a residual
    y       [rows, O] uint8, or a float type
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.elements import Vec, cast, narrowed
from ..common.elementwise_ops import OPS
from ..common.flat import Expr, Flat, seen
from .device import address, all_of, call, elements, seen_as, value, when
from .grid import barrier
from .product import Product
from .tile import CHUNK, Block, BlockTile
from .words import read, write

_WORDS = {16: ("int32", 4), 8: ("int32", 2), 4: ("int32", 1), 2: ("uint16", 1), 1: ("uint8", 1)}


@dataclass(frozen=True)
class Result:
    """``out`` is "uint8", "float32", or a 16-bit float. ``residual``: none (""), or the codes of a quantized addition,
    of which it is the "first" or "second" operand, or "float32" to be added before the clamp. ``activation`` of floats
    is "Gelu" or "Gelu_tanh"; it follows the clamp."""

    rows: int
    columns: int
    out: str = "uint8"
    residual: str = ""
    table: bool = False
    activation: str = ""

    @property
    def codes_added(self) -> bool:
        """Whether the residual is an operand of a quantized addition."""
        return self.residual in ("first", "second")

    def shared_bytes(self, tile: BlockTile) -> int:
        """Shared memory of a block."""
        finished = tile.finished_bytes if self.out == "uint8" else 0
        return max(tile.operand_bytes, self.finished_at(tile) + finished)

    def finished_at(self, tile: BlockTile) -> int:
        """Where the finished tile lies in shared memory: over the operands, or, beginning as residual, behind them."""
        return tile.operand_bytes if self.codes_added else 0


def padded(columns: int) -> int:
    """Elements of the bias and of the scale: those of whole tiles, however wide."""
    return -(-columns // 256) * 256


@dataclass(frozen=True)
class Buffers:
    """The arguments of a kernel that its epilogue reads and writes; None where it has none."""

    zero: Any
    bounds: Any
    y: Any
    table: Any = None
    residual: Any = None


class Epilogue:
    """Writes the end of a kernel; ``real(product, i, j, half, at, channel)`` is a sum as float32, scaled."""

    def __init__(
        self, block: Block, result: Result, buffers: Buffers, real: Callable[..., Expr], batch_elements: Expr | int = 0
    ) -> None:
        """``batch_elements`` lie before this block's matrix in y."""
        self.block, self.result, self.buffers, self.real, self.before = block, result, buffers, real, batch_elements
        self.start = result.finished_at(block.tile)
        self.piece = gcd(result.columns, CHUNK)

    def begin(self) -> None:
        """Begins to bring the residual to where the finished tile will stand."""
        if not self.result.codes_added:
            return

        def bring(place: Expr, at: Expr, exists: Expr) -> None:
            source = self.buffers.residual.data
            call(f"copy_or_zero<{self.piece}>", address(self.block.shared, place), source, at, exists)

        self._pieces(bring)

    def finish(self, product: Product) -> None:
        """From sums to y."""
        if self.result.out != "uint8":
            self._store_floats(product)
            return
        if not self.result.codes_added:  # the finished tile takes the place of operands that other warps still read
            barrier()
        self._codes(product)
        barrier()
        self._store_codes()

    def _codes(self, product: Product) -> None:
        """Sums to codes, which meet in shared memory."""
        block, tile, bounds = self.block, self.block.tile, self.buffers.bounds
        pairs = seen_as(block.shared, "uint16", block.shared_bytes // 2)
        zero, low, high = T.bind(self.buffers.zero[1]), _whole(bounds[0]), _whole(bounds[1])
        self.limits = [_whole(bounds[i]) for i in (2, 3)]  # of a quantized addition
        for j in range(product.wide):
            column = T.bind(product.column(j))
            for i in range(product.high):
                for half in range(2):
                    place = T.bind((self.start + product.row(i, half) * tile.pitch + column) // 2)
                    added = T.bind(T.cast(pairs[place], "int32")) if self.result.codes_added else None
                    codes = []
                    for at in range(2):
                        real = self.real(product, i, j, half, at, block.first_column + column + at)
                        code = T.min(T.max(value("int32", "nearest", real), low), high) + zero
                        if self.result.table:
                            code = T.cast(self.buffers.table[code], "int32")
                        if added is not None:
                            code = self._with(T.bitwise_and(T.shift_right(added, 8 * at), 255), code)
                        codes.append(T.cast(code, "uint16"))
                    both = T.bitwise_or(codes[0], T.shift_left(codes[1], T.uint16(8)))
                    T.buffer_store(pairs, both, [place])

    def _with(self, added: Expr, code: Expr) -> Expr:
        """The code of the quantized sum of two codes."""
        b = self.buffers.bounds
        first, second = (added, code) if self.result.residual == "first" else (code, added)
        inner = value("float32", "multiply_add", T.cast(second, "float32"), b[5], b[6])
        total = value("float32", "multiply_add", T.cast(first, "float32"), b[4], inner)
        low, high = self.limits
        return T.min(T.max(value("int32", "nearest", total), low), high)

    def _store_codes(self) -> None:
        kind, count = _WORDS[self.piece]
        size = self.piece // count
        words = seen_as(self.block.shared, kind, self.block.shared_bytes // size)
        out = seen_as(self.buffers.y, kind, elements(self.buffers.y) // size)

        def store(place: Expr, at: Expr, exists: Expr) -> None:
            with when(exists):
                if count == 1:
                    T.buffer_store(out, words[place // size], [at // size])
                else:
                    T.buffer_store(out, words[T.ramp(place // size, 1, count)], [T.ramp(at // size, 1, count)])

        self._pieces(store)

    def _pieces(self, move: Callable[[Expr, Expr, Expr], None]) -> None:
        """``move(place in shared memory, place in y, whether y has it)`` for each piece that this thread moves."""
        tile, result, block = self.block.tile, self.result, self.block
        across = tile.columns // self.piece
        with T.unroll(0, -(-tile.rows * across // tile.threads)) as i:
            piece = T.bind(block.thread + i * tile.threads)
            row, column = T.bind(piece // across), T.bind(piece % across * self.piece)
            m, channel = block.first_row + row, block.first_column + column
            with when(True if tile.rows * across % tile.threads == 0 else row < tile.rows):
                exists = all_of(m < result.rows, channel < result.columns)
                move(self.start + row * tile.pitch + column, self.before + m * result.columns + channel, exists)

    def _store_floats(self, product: Product) -> None:
        y, r = _flat(self.buffers.y, self.result.out), None
        if self.result.residual:
            r = _flat(self.buffers.residual, "float32")
        low, high = T.bind(self.buffers.bounds[0]), T.bind(self.buffers.bounds[1])

        def store(i: int, j: int, half: int, columns: Sequence[int], channel: Expr, place: Expr) -> None:
            reals = [self.real(product, i, j, half, at, channel + at) for at in columns]
            if r is not None:
                reals = [real + other for real, other in zip(reals, read(r, place, len(reals)), strict=True)]
            write(y, place, [self._rounded(_clamped(T.bind(real), low, high)) for real in reals])

        store_directly(self.block, self.result, product, store, self.before)

    def _rounded(self, real: Expr) -> Expr:
        """What memory holds of a result."""
        vec = Vec(real, "float32", 1)
        if self.result.activation:
            op, _, approximate = self.result.activation.partition("_")
            vec = OPS[op]([vec], {"approximate": approximate or "none"})
        return narrowed(cast(vec, self.result.out))


def store_directly(
    block: Block, result: Result, product: Product, store: Callable[..., None], before: Expr | int = 0
) -> None:
    """``store(i, j, half, columns, channel, place)`` for sums that the output has: two neighbours of a fragment at
    once where the alignment lets them. ``place`` is the first one's in y, ``channel`` that of the left column."""
    together = 2 if result.columns % 2 == 0 else 1
    for j in range(product.wide):
        channel = T.bind(block.first_column + product.column(j))
        for i in range(product.high):
            for half in range(2):
                m = T.bind(block.first_row + product.row(i, half))
                for at in range(0, 2, together):
                    with when(all_of(m < result.rows, channel + at < result.columns)):
                        place = T.bind(before + m * result.columns + channel + at)
                        store(i, j, half, range(at, at + together), channel, place)


def _flat(buffer: Any, dtype: str) -> Flat:
    return Flat(buffer, TensorType(dtype, (elements(buffer),)), seen(dtype, False))


def _whole(bound: Expr) -> Expr:
    return T.bind(T.cast(bound, "int32"))


def _clamped(real: Expr, low: Expr, high: Expr) -> Expr:
    """Within the bounds; NaN stays NaN."""
    above = T.bind(T.Select(real < low, low, real))
    return T.Select(above > high, high, above)
