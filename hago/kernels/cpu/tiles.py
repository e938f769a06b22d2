"""Dense dot products on AMX tiles: the same packed weights, the same integers, many times the products.

    M rows of a tile = pixels (up to 16), L = 16 output channels, a chunk of up to 16 packed reduction steps
    PT tiles of pixels and VT tiles of channels of a block

    C tile [M, L] of sums += A tile [M, chunk*KP] of the image x B tile [chunk, L*KP] of the weights

A block of PT x VT sums stays in tiles over the whole reduction; then each goes through a buffer on the stack
to the vectors of the epilogue. A pixel's channels are neighbours in memory, so a tile of the image is loaded
in place, its rows one pixel apart. If the steps are no multiple of 16, the last chunk is moved back, and the
weights of the steps that it repeats are zero: nothing is read behind the last pixel. Buffers as in dense.py.
The caller guarantees that the process may use AMX (`hago.runtime.amx`).

Intel, Architecture Instruction Set Extensions Programming Reference, chapter "Intel AMX".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from .dense import TILE_STEPS, Dense, DenseParams, Tile, choose_tile, estimate, plan
from .families import Isa
from .ir_builder import channel_start, maybe_parallel, moved_back

_ROWS = 16  # of a tile
_TILES = 8
_NEAR_BYTES = 24 * 1024
_WORTH_SLICING = 4  # blocks of pixels, at least, that must share a slice of the weights
SUMS = ((2, 2), (1, 4), (4, 1), (1, 3), (3, 1), (1, 2), (2, 1), (1, 1))  # (PT, VT)
_FROM_VECTORS = {"vnni": "tile-u8s8", "bf16": "tile-bf16"}


@dataclass(frozen=True)
class TileBlock:
    """PT tiles of M pixels times VT tiles of channels, accumulated in tiles."""

    rows: int  # M
    pixel_tiles: int  # PT
    channel_tiles: int  # VT
    across: bool = False  # tiles run on from one image row to the next, through the padding between them


@dataclass(frozen=True)
class _Slice:
    """Some neighbouring chunks of the reduction; ``kept_at`` is where this block's sums are kept in between."""

    start: Any
    count: int
    begins: bool = True
    ends: bool = True
    kept_at: Any = 0


def tiled(p: DenseParams, isa: Isa, threads: int) -> Any:
    """The PrimFunc; buffers as of `dense`."""
    return _Tiled(p, isa, threads).build()


@lru_cache(maxsize=4096)
def best_tiles(p: DenseParams, isa: Isa) -> str:
    """The instruction for these shapes: ``p.dot``, or its counterpart on tiles if that is estimated to be faster."""
    dot = _FROM_VECTORS.get(p.dot)
    if not isa.tiles or dot is None or p.group_steps or p.o // p.groups < isa.lanes:
        return p.dot
    vectors = estimate(p, isa, choose_tile(p, isa))
    tiles = replace(p, dot=dot, tile=None)
    return dot if choose_block(tiles, isa)[1] < vectors else p.dot


def choose_block(p: DenseParams, isa: Isa) -> tuple[TileBlock, float]:
    """The block with the fewest estimated cycles, and their number."""
    return min(candidates(p, isa), key=lambda found: found[1])


def candidates(p: DenseParams, isa: Isa) -> Iterator[tuple[TileBlock, float]]:
    """All blocks that fit, each with its estimate in the unit of `dense.estimate`."""
    shape = plan(p, isa)
    depth = p.kernel[0] * shape.taps * (shape.steps // shape.chunk)
    lines = [(shape.rows, shape.cols, False)]
    if shape.rows > 1 and p.strides == (1, 1):
        lines.append((p.n, _columns_across(p), True))
    for (outer, columns, across), (pixel_tiles, channel_tiles) in product(lines, SUMS):
        if channel_tiles > shape.vectors:
            continue
        sums = pixel_tiles * channel_tiles
        for rows in range(1, min(_ROWS, columns // pixel_tiles) + 1):
            blocks = outer * -(-columns // (pixel_tiles * rows)) * -(-shape.vectors // channel_tiles)
            # The unit is half a cycle, in which one dot product on vectors starts. A product of tiles takes 16
            # cycles, somewhat less with few rows, and 52 until its sum can be used again; a tile is loaded in 8
            # cycles, or 16 if the weights of the block do not stay in the nearest cache.
            far = 2.0 if channel_tiles * depth * 1024 > _NEAR_BYTES else 1.0
            products = max(sums * (20 + 12 * rows / _ROWS), 104.0)
            loads = 16.0 * (pixel_tiles * rows / _ROWS + far * channel_tiles * shape.chunk / TILE_STEPS)
            finish = sums * (rows * (24 if across else 9) + 32) + 60
            cost = blocks * ((max(products, loads) + 0.2 * loads) * depth + finish)
            yield TileBlock(rows, pixel_tiles, channel_tiles, across), cost * p.groups + 600


def _columns_across(p: DenseParams) -> int:
    """Pixels from the first to the last of an image, including those in the padding between its rows."""
    return (p.oh - 1) * (p.w + p.pads[1] + p.pads[3]) + p.ow


class _Tiled(Dense):
    """Replaces what `Dense` does with vectors of sums by tiles of sums."""

    def __init__(self, p: DenseParams, isa: Isa, threads: int) -> None:
        super().__init__(p, isa, threads)
        block = self.block
        if block.across:
            self.P = block.rows * block.pixel_tiles
            self.tiles = -(-_columns_across(p) // self.P)
            self.work = p.n * self.tiles
        self.sums = first_a = block.pixel_tiles * block.channel_tiles
        self.a_tiles = range(first_a, first_a + (1 if block.pixel_tiles == 1 else min(2, block.pixel_tiles)))
        self.b_tiles = range(self.a_tiles.stop, _TILES)[: block.channel_tiles]
        self.per_tap = self.plan.steps // self.plan.chunk
        self.all_chunks = p.kernel[0] * self.plan.taps * self.per_tap
        self.slices = self._count_slices()
        self.now = _Slice(0, self.all_chunks)

    def best_tile(self) -> Tile:
        self.block = choose_block(self.p, self.isa)[0]
        return Tile(self.block.rows * self.block.pixel_tiles, self.block.channel_tiles)

    def _count_slices(self) -> int:
        """How many parts the reduction is cut into so that the weights of one stay in the nearest cache."""
        near = self.block.channel_tiles * self.all_chunks * 1024
        if near <= _NEAR_BYTES or self.work < _WORTH_SLICING * self.chunks:
            return 1
        return min(-(-near // _NEAR_BYTES), self.all_chunks)

    def loops(self) -> None:
        """One slice of the reduction for all pixels, then the next; sums wait in a buffer between slices."""
        if self.slices == 1:
            super().loops()
            return
        length = -(-self.all_chunks // self.slices)
        starts = range(0, self.all_chunks, length)
        with maybe_parallel(self.work, self.chunks) as (at, end), self.prepared():
            most = -(-self.work // self.chunks) + 1
            # [blocks of pixels, PT*VT, 16, L]
            self.waiting = T.alloc_buffer((most * self.sums * _ROWS * self.lanes,), self.acc_type.split("x")[0])
            with T.serial(0, self.p.groups * self.blocks) as block:

                def one_slice(start: Any, count: int, begins: bool, ends: bool) -> None:
                    with T.serial(0, end - at) as i:
                        self.now = _Slice(start, count, begins, ends, i * (self.sums * _ROWS * self.lanes))
                        self.tile(at + i, block)

                one_slice(0, length, True, False)
                if len(starts) > 2:
                    with T.serial(1, len(starts) - 1) as k:
                        one_slice(k * length, length, False, False)
                one_slice(starts[-1], self.all_chunks - starts[-1], False, True)

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Sets the tiles' shapes, and restores those that the thread had before."""
        shapes = T.alloc_buffer((16,), "int32")
        before = T.alloc_buffer((16,), "int32")
        for i, word in enumerate(self._shapes().view(np.int32)):
            T.buffer_store(shapes, T.int32(int(word)), [i])
        _emit("llvm.x86.sttilecfg", before.access_ptr("w"))
        _emit("llvm.x86.ldtilecfg", shapes.access_ptr("r"))
        yield
        _emit("llvm.x86.ldtilecfg", before.access_ptr("r"))

    def _shapes(self) -> np.ndarray:
        """The 64 bytes that ldtilecfg takes: the palette, and each tile's bytes per row and rows."""
        shapes = np.zeros(64, np.uint8)
        shapes[0] = 1
        row_bytes, rows = shapes[16:32].view(np.uint16), shapes[48:56]
        sums = range(self.a_tiles.start)
        for tiles, count, width in (
            (sums, self.block.rows, 64),
            (self.a_tiles, self.block.rows, 4 * self.plan.chunk),
            (self.b_tiles, self.plan.chunk, 64),
        ):
            for tile in tiles:
                rows[tile], row_bytes[tile] = count, width
        return shapes

    def tile(self, work: Any, block: Any) -> None:
        if not self.block.across:
            super().tile(work, block)
            return
        p = self.p
        group, vector, first = self.channels_of(block)
        image = work // self.tiles
        self.pixel = T.bind(moved_back(work % self.tiles, self.P, _columns_across(p)) + T.int32(0))
        height = p.h + p.pads[0] + p.pads[2]
        x_at = T.bind(image * (height * self.row) + self.pixel * p.c + group * self.c + T.int32(0))
        y_at = T.bind(image * (p.oh * p.ow * p.o) + group * self.o + T.int32(0))
        self.compute(vector, first, x_at, y_at)

    def compute(self, vector: Any, first: Any, x_at: Any, y_at: Any) -> None:
        p, block, now = self.p, self.block, self.now
        size = _ROWS * self.lanes
        for tile in range(self.sums):
            if now.begins:  # a row stride of 0: every pixel starts from the bias [L]
                bias = self.bias.access_ptr("r", offset=(first + tile % self.V) * self.lanes)
                _emit("llvm.x86.tileloadd64", T.uint8(tile), bias, T.int64(0))
            else:
                kept = self.waiting.access_ptr("r", offset=now.kept_at + tile * size)
                _emit("llvm.x86.tileloadd64", T.uint8(tile), kept, T.int64(64))
        last = (self.plan.needed - self.plan.chunk) * self.dot.pack
        with T.serial(0, now.count) as n:
            chunk = T.bind(now.start + n)
            s, tap = chunk % self.per_tap, chunk // self.per_tap
            i, j = tap // self.plan.taps, tap % self.plan.taps
            start = s * (self.plan.chunk * self.dot.pack)
            start = T.min(start, last) if self.plan.steps != self.plan.needed else start
            at = T.bind(x_at + i * (p.dilations[0] * self.row) + j * self.plan.tap_stride + start)
            self.products(at, first, T.bind(chunk * self.plan.chunk))
        if not now.ends:
            for tile in range(self.sums):
                kept = self.waiting.access_ptr("w", offset=now.kept_at + tile * size)
                _emit("llvm.x86.tilestored64", T.uint8(tile), kept, T.int64(64))
            return
        parts = [T.alloc_buffer((size,), self.acc_type.split("x")[0]) for _ in range(self.sums)]  # PT*VT x [16, L]
        for tile, part in enumerate(parts):
            _emit("llvm.x86.tilestored64", T.uint8(tile), part.access_ptr("w"), T.int64(64))
        channels = [channel_start(vector + v, self.o, self.lanes) for v in range(self.V)]

        def finish(t: int, q: Any, pixel: Any) -> None:
            for v in range(self.V):
                value = parts[t * self.V + v].vload([q * self.lanes], self.acc_type)
                self.finish(value, y_at + pixel * p.o + channels[v], (first + v) * self.lanes)

        with T.serial(0, block.rows) as q:
            for t in range(block.pixel_tiles):
                pixel = t * block.rows + q
                if not block.across:
                    finish(t, q, pixel)
                    continue
                line = p.w + p.pads[1] + p.pads[3]
                column = T.bind((self.pixel + pixel) % line)
                with T.If(column < p.ow), T.Then():
                    finish(t, q, T.bind((self.pixel + pixel) // line * p.ow + column))

    def products(self, x_at: Any, first: Any, depth: Any) -> None:
        """One chunk for the whole block: PT x [M, chunk*KP] x VT x [chunk, L*KP] -> PT*VT sums [M, L]."""
        size = self.dot.weight_numpy.itemsize
        stride = self.p.strides[1] * self.p.c
        line = self.lanes * self.dot.pack

        def load_a(t: int) -> int:
            tile = self.a_tiles[t % len(self.a_tiles)]
            at = x_at + t * (self.block.rows * stride)
            _emit("llvm.x86.tileloadd64", T.uint8(tile), self.x.access_ptr("r", offset=at), T.int64(stride * size))
            return tile

        def load_b(v: int) -> int:
            tile = self.b_tiles[v % len(self.b_tiles)]
            at = ((first + v) * self.depth + depth) * line
            _emit("llvm.x86.tileloadd64", T.uint8(tile), self.w.access_ptr("r", offset=at), T.int64(line * size))
            return tile

        with T.serial(0, self.plan.chunk) as r:
            self.prefetch(first, depth + r)
        kept = [load_b(v) for v in range(self.V)] if len(self.b_tiles) == self.V else None
        for t in range(self.block.pixel_tiles):
            a = load_a(t)
            for v in range(self.V):
                b = kept[v] if kept else load_b(v)
                _emit(self.dot.tile_instruction, T.uint8(t * self.V + v), T.uint8(a), T.uint8(b))


def _emit(intrinsic: str, *arguments: Any) -> None:
    T.evaluate(T.call_llvm_intrin("void", intrinsic, *arguments))


__all__ = ["SUMS", "TileBlock", "best_tiles", "candidates", "choose_block", "tiled"]
