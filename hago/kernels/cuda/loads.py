"""What brings the operands of a product into shared memory, one step after the other.

A thread brings *pieces* of a row: of as many bytes (16, 8 or 4) as the tensor's alignment lets an asynchronous copy
take. Rows that have none are read element by element, four bytes together.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod
from typing import Any, Protocol

from tvm.script.ir_builder import tirx as T

from ..common.flat import Expr
from .device import address, all_of, call, elements, seen_as, when
from .tile import CHUNK, Block


class Loads(Protocol):
    """Brings one operand."""

    constant: bool  # its values are there before the network runs

    def begin(self, step: Expr) -> None:
        """Begins to bring one step."""


@dataclass(frozen=True)
class Window:
    """What a convolution reads: of ``x`` [N, H, W, C], by rows of the product [N * OH * OW, KH * KW * C].

    A matrix [rows, K] is the image (1, 1, rows, K). ``item`` is the bytes of an element.
    """

    x: tuple[int, int, int, int]
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilations: tuple[int, int] = (1, 1)
    item: int = 1

    @property
    def places(self) -> tuple[int, int, int]:
        """N, OH, OW."""
        n, h, w, _ = self.x
        (top, left, bottom, right), (kh, kw), (dh, dw) = self.pads, self.kernel, self.dilations
        oh = (h + top + bottom - (kh - 1) * dh - 1) // self.strides[0] + 1
        ow = (w + left + right - (kw - 1) * dw - 1) // self.strides[1] + 1
        return n, oh, ow

    @property
    def rows(self) -> int:
        """Rows of the product."""
        return prod(self.places)

    @property
    def depth(self) -> int:
        """Bytes of a row of the product."""
        return prod(self.kernel) * self.x[3] * self.item

    @property
    def piece(self) -> int:
        """Bytes that an asynchronous copy may take of a pixel at once, or less than 4: none may."""
        return gcd(self.x[3] * self.item, CHUNK)

    @property
    def plain(self) -> bool:
        """Whether the rows of the product are those of a matrix: 1x1, without strides or padding."""
        return self.kernel == self.strides == (1, 1) and not any(self.pads)


class _Pieces:
    """Which pieces of ``count`` rows a thread brings in each step."""

    def __init__(self, block: Block, count: int, size: int, depth: int) -> None:
        self.size, self.count = size, count
        across = depth // size
        self.at_once = block.tile.threads // across
        self.first = T.bind(block.thread // across)
        self.byte = T.bind(block.thread % across * size)  # within the row

    def rows(self) -> list[tuple[Expr, Expr | bool]]:
        """The rows of this thread, and whether the tile has them."""
        whole = self.count % self.at_once == 0
        rows = [self.first + i * self.at_once for i in range(-(-self.count // self.at_once))]
        return [(row, True if whole else row < self.count) for row in rows]


class Pixels:
    """Rows of the product from an image; where a tap lies outside of it, ``fill`` (four equal bytes) is stored."""

    constant = False

    def __init__(self, block: Block, window: Window, x: Any, fill: Expr, start: Expr | int = 0) -> None:
        """``start`` is the element of ``x`` at which the image begins."""
        self.block, self.window, self.x, self.fill = block, window, x, T.bind(fill)
        _, h, w, c = window.x
        _, oh, ow = window.places
        self.gathers = window.piece < 4
        self.pieces = _Pieces(block, block.tile.rows, 4 if self.gathers else window.piece, block.tile.depth)
        self.pixels = []
        for row, _ in self.pieces.rows():
            m = T.bind(block.first_row + row)
            exists = T.bind(m < window.rows)
            if window.plain:
                self.pixels.append((T.bind(m * (c * window.item) + start), None, None, exists))
                continue
            image, place = m // (oh * ow), m % (oh * ow)
            top = T.bind(place // ow * window.strides[0] - window.pads[0])
            left = T.bind(place % ow * window.strides[1] - window.pads[1])
            base = T.bind(((image * h + top) * w + left) * (c * window.item) + start)
            self.pixels.append((base, top, left, exists))
        if self.gathers:
            kind = f"uint{8 * window.item}"
            self.elements = seen_as(x, kind, elements(x))
            self.words = seen_as(block.shared, "int32", block.shared_bytes // 4)

    def begin(self, step: Expr) -> None:
        """Begins to bring one step."""
        to, first = self.block.stage(step), T.bind(step * self.block.tile.depth + self.pieces.byte)
        if self.gathers:
            taps = [self._tap(first + byte) for byte in range(0, 4, self.window.item)]
        else:
            taps = [self._tap(first)]
        for pixel, (row, within) in zip(self.pixels, self.pieces.rows(), strict=True):
            place = self.block.place(to, row, self.pieces.byte)
            with when(within):
                if self.gathers:
                    self._gather(pixel, taps, place)
                else:
                    offset, inside = self._at(pixel, taps[0])
                    name = f"copy_or_fill<{self.pieces.size}>"
                    call(name, address(self.block.shared, place), self.x.data, offset, inside, self.fill)

    def _tap(self, k: Expr) -> tuple[Expr, Expr, Expr, Expr | bool]:
        """Of a byte of the product's row: the offset from the first tap, the tap's place, and whether there is one."""
        window = self.window
        _, _, w, c = window.x
        exists: Expr | bool = True if window.depth % self.block.tile.depth == 0 else k < window.depth
        if window.plain:
            return k, None, None, exists
        tap, channel = k // (c * window.item), k % (c * window.item)
        down = T.bind(tap // window.kernel[1] * window.dilations[0])
        right = T.bind(tap % window.kernel[1] * window.dilations[1])
        return T.bind((down * w + right) * (c * window.item) + channel), down, right, exists

    def _at(self, pixel: Any, tap: Any) -> tuple[Expr, Expr]:
        """The byte of ``x`` of a tap of a pixel, and whether there is one."""
        (base, top, left, in_rows), (offset, down, right, in_depth) = pixel, tap
        inside: Expr | bool = all_of(in_rows, in_depth)
        if any(self.window.pads):
            y, x = top + down, left + right
            inside = all_of(inside, y >= 0, y < self.window.x[1], x >= 0, x < self.window.x[2])
        return base + offset, inside

    def _gather(self, pixel: Any, taps: list[Any], place: Expr) -> None:
        """Four bytes, element by element."""
        item, word = self.window.item, None
        for i, tap in enumerate(taps):
            at, inside = self._at(pixel, tap)
            read = T.cast(self.elements[at // item if item > 1 else at], "int32")
            outside = T.bitwise_and(self.fill, (1 << 8 * item) - 1)
            part = T.shift_left(T.if_then_else(inside, read, outside), 8 * item * i)
            word = part if word is None else T.bitwise_or(word, part)
        T.buffer_store(self.words, word, [place // 4])


class Weights:
    """Columns of the product from an array [columns, depth] of whole chunks; beyond it there are zeros."""

    constant = True

    def __init__(self, block: Block, columns: int, depth: int, weight: Any) -> None:
        self.block, self.columns, self.depth, self.weight = block, columns, depth, weight
        self.pieces = _Pieces(block, block.tile.columns, CHUNK, block.tile.column_depth)

    def begin(self, step: Expr) -> None:
        """Begins to bring one step."""
        tile = self.block.tile
        to = T.bind(self.block.stage(step) + tile.rows * tile.depth)
        k = T.bind(step * tile.column_depth + self.pieces.byte)
        in_depth: Expr | bool = True if self.depth % tile.column_depth == 0 else k < self.depth
        for row, within in self.pieces.rows():
            column = self.block.first_column + row
            inside = all_of(in_depth, column < self.columns)
            with when(within):
                place = address(self.block.shared, self.block.place(to, row, self.pieces.byte, tile.column_depth))
                call("copy_or_zero<16>", place, self.weight.data, column * self.depth + k, inside)


class Columns:
    """Columns of the product from a matrix [K, columns] of bytes, four by four of which are transposed on the way."""

    constant = False

    def __init__(self, block: Block, depth: int, columns: int, b: Any, start: Expr | int = 0) -> None:
        """``start`` is the byte of ``b`` at which the matrix begins."""
        self.block, self.depth, self.columns, self.start = block, depth, columns, start
        size = elements(b)
        self.aligned = columns % 4 == 0
        self.b = seen_as(b, "int32" if self.aligned else "uint8", size // 4 if self.aligned else size)
        self.words = seen_as(block.shared, "uint32", block.shared_bytes // 4)
        self.square = T.alloc_buffer((4,), "uint32", scope="local")

    def begin(self, step: Expr) -> None:
        """Brings one step. A warp reads 32 neighbouring columns of 16 rows."""
        tile, block = self.block.tile, self.block
        to = T.bind(block.stage(step) + tile.rows * tile.depth)
        across = tile.columns // 4
        squares = across * (tile.depth // 4)
        narrow = min(8, across)
        for i in range(-(-squares // tile.threads)):
            square = T.bind(block.thread + i * tile.threads)
            with when(True if squares % tile.threads == 0 else square < squares):
                group, inner = square // (4 * narrow), square % (4 * narrow)
                column = T.bind((group % (across // narrow) * narrow + inner % narrow) * 4)
                byte = T.bind((group // (across // narrow) * 4 + inner // narrow) * 4)
                for row in range(4):
                    k = step * tile.depth + byte + row
                    T.buffer_store(self.square, self._word(k, block.first_column + column), [row])
                call("transpose_bytes", address(self.square, 0))
                for row in range(4):
                    place = block.place(to, column + row, byte)
                    T.buffer_store(self.words, self.square[row], [place // 4])

    def _word(self, k: Expr, column: Expr) -> Expr:
        """Four neighbours of a row of the matrix; zeros outside of it."""
        at = self.start + k * self.columns + column
        if self.aligned:
            read = T.if_then_else(all_of(k < self.depth, column < self.columns), self.b[at // 4], T.int32(0))
            return T.cast(read, "uint32")
        word = None
        for i in range(4):
            inside = all_of(k < self.depth, column + i < self.columns)
            part = T.shift_left(T.if_then_else(inside, T.cast(self.b[at + i], "uint32"), T.uint32(0)), T.uint32(8 * i))
            word = part if word is None else T.bitwise_or(word, part)
        return word
