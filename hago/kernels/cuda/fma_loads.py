"""What brings the operands of a float32 product into shared memory: through registers, one step ahead of the products.

Both operands lie there with K first: ``a`` as [depth, rows], ``b`` behind it as [depth, columns]. The rows of ``a`` are
permuted in eights by K, so that threads that hold neighbours along K store them in different banks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from ..common.flat import Expr, Flat
from .device import all_of
from .guarded import read_into
from .loads import Window

WIDE = 4
"""Floats of one access to memory."""


@dataclass(frozen=True)
class FmaTile:
    """How a block divides its work: a thread computes ``high`` rows by ``wide`` columns, a step is ``depth`` of K."""

    rows: int
    columns: int
    high: int = 4
    wide: int = 4
    depth: int = 16

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows // self.high * (self.columns // self.wide)

    @property
    def stage(self) -> int:
        """Floats of one step in shared memory."""
        return self.depth * (self.rows + self.columns)

    def row_at(self, row: Expr, k: Expr) -> Expr:
        """Where a row of ``a`` lies among those with the same ``k``; fours stay together."""
        four = T.bitwise_xor(row // WIDE, k // WIDE % min(WIDE, self.rows // 8) * 2)
        return four * WIDE + row % WIDE


@dataclass(frozen=True)
class Along:
    """The part of K that a block goes along: ``steps`` of ``size`` each, the ``part``-th of ``parts``."""

    depth: int  # K
    size: int
    steps: int
    parts: int
    part: Expr

    def at(self, step: Expr, k: Expr) -> tuple[Expr, Expr | bool]:
        """Where ``k`` of a step lies along K, and whether that is within K."""
        place = T.bind((self.part * self.steps + step) * self.size + k)
        return place, True if self.parts * self.steps * self.size == self.depth else place < self.depth


@dataclass(frozen=True)
class Piece:
    """Neighbours that a thread brings: ``where`` they lie at a step, and whether.

    ``places`` are those in a stage of shared memory: one for all of them, or one for each.
    """

    where: Callable[[Expr], tuple[Expr, Expr | bool]]
    places: Sequence[Expr]


class FmaLoads:
    """Brings what one thread brings of an operand."""

    def __init__(self, source: Flat, shared: Any, lanes: int, pieces: Sequence[Piece]) -> None:
        self.source, self.shared, self.lanes, self.pieces = source, shared, lanes, pieces
        self.held = T.alloc_buffer((len(pieces) * lanes,), "float32", scope="local")

    def fetch(self, step: Expr) -> None:
        """Reads one step into registers; zeros outside of the operand."""
        for i, piece in enumerate(self.pieces):
            at, inside = piece.where(step)
            read_into(self.held, i * self.lanes, None if inside is True else inside, self.source, at, self.lanes)

    def place(self, stage: Expr) -> None:
        """Stores what was read in the stage that begins at ``stage``."""
        for i, piece in enumerate(self.pieces):
            width = self.lanes // len(piece.places)
            for j, place in enumerate(piece.places):
                value = self.held[T.ramp(i * self.lanes, 1, width) if width > 1 else i * self.lanes + j]
                T.buffer_store(self.shared, value, [T.ramp(stage + place, 1, width) if width > 1 else stage + place])


def left_pieces(
    window: Window, tile: FmaTile, thread: Expr, first_row: Expr, start: Expr, along: Along
) -> tuple[int, list[Piece]]:
    """Lanes and pieces of ``a``, whose matrix begins at ``start``: pixels under each output pixel, read where they lie.

    Without four neighbours to read, threads that follow one another have rows that do.
    """
    lanes = 1 if window.x[3] % WIDE else WIDE
    count = tile.rows * tile.depth // (lanes * tile.threads)
    if lanes == 1:
        rows = [T.bind(thread % tile.rows)] * count
        pixels = [_pixel(window, tile, first_row + rows[0], start)] * count
        ks = [T.bind(thread // tile.rows + i * (tile.threads // tile.rows)) for i in range(count)]
    else:
        chunks = tile.depth // lanes
        rows = [T.bind(thread // chunks + i * (tile.threads // chunks)) for i in range(count)]
        pixels = [_pixel(window, tile, first_row + row, start) for row in rows]
        ks = [T.bind(thread % chunks * lanes)] * count
    found = []
    for row, pixel, k in zip(rows, pixels, ks, strict=True):

        def where(step: Expr, pixel: Any = pixel, k: Expr = k) -> tuple[Expr, Expr | bool]:
            return pixel(*along.at(step, k))

        at = T.bind(tile.row_at(row, k))
        found.append(Piece(where, [(k + i) * tile.rows + at for i in range(lanes)]))
    return lanes, found


def _pixel(
    window: Window, tile: FmaTile, m: Expr, start: Expr
) -> Callable[[Expr, Expr | bool], tuple[Expr, Expr | bool]]:
    """Of the output pixel ``m``: where a value along K lies, and whether it is there at all."""
    _, h, w, channels = window.x
    _, oh, ow = window.places
    top = T.bind(m // ow % oh * window.strides[0] - window.pads[0])
    left = T.bind(m % ow * window.strides[1] - window.pads[1])
    corner = T.bind(start + ((m // (oh * ow) * h + top) * w + left) * channels)

    def where(k: Expr, within: Expr | bool) -> tuple[Expr, Expr | bool]:
        limits = [m < window.rows if window.rows % tile.rows else True, within]
        if window.kernel == (1, 1):
            down, right, channel = T.int32(0), T.int32(0), k
        else:
            tap, channel = k // channels, k % channels
            down = T.bind(tap // window.kernel[1] * window.dilations[0])
            right = T.bind(tap % window.kernel[1] * window.dilations[1])
        y, x = top + down, left + right
        if any(window.pads):
            limits += [y >= 0, y < h, x >= 0, x < w]
        return corner + (down * w + right) * channels + channel, all_of(*limits)

    return where


def right_pieces(
    width: int, tile: FmaTile, thread: Expr, first_column: Expr, start: Expr, along: Along
) -> tuple[int, list[Piece]]:
    """Lanes and pieces of ``b`` [K, width], whose matrix begins at ``start``."""
    lanes = 1 if width % WIDE else WIDE
    chunks = tile.columns // lanes
    found = []
    for i in range(tile.columns * tile.depth // (lanes * tile.threads)):
        index = thread + i * tile.threads
        k, column = T.bind(index // chunks), T.bind(index % chunks * lanes)

        def where(step: Expr, k: Expr = k, column: Expr = column) -> tuple[Expr, Expr | bool]:
            place, within = along.at(step, k)
            n = first_column + column
            return start + place * width + n, all_of(within, n < width if width % tile.columns else True)

        found.append(Piece(where, [tile.rows * tile.depth + k * tile.columns + column]))
    return lanes, found
