"""The product of a block: operands come some steps ahead, tensor cores multiply what is there.

Fragments are those of mma.m16n8k32: a lane holds of each 16 x 8 sums the rows ``lane // 4`` and 8 below it, the columns
``lane % 4 * 2`` and its right neighbour. In bytes the operands' fragments are the same for 8-bit and 16-bit types.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from ..common.flat import Expr
from .device import address, call, value, when
from .grid import barrier
from .loads import Loads
from .tile import LANES, Block

STEP = 32
"""Bytes along K that one instruction multiplies."""


@dataclass(frozen=True)
class Operands:
    """What is multiplied: types in memory, that of the sums, and the functions of device.cuh."""

    a: str
    b: str
    sums: str
    mma: str
    wgmma: str = ""


OPERANDS = {
    "u8s8": Operands("uint8", "int8", "int32", "mma_u8s8", "wgmma_u8s8"),
    "u4s4": Operands("uint8", "int8", "int32", "mma_u4s4"),
    "u8u8": Operands("uint8", "uint8", "int32", "mma_u8u8"),
    "float16": Operands("float16", "float16", "float32", "mma_f16", "wgmma_f16"),
    "bfloat16": Operands("uint16", "uint16", "float32", "mma_bf16", "wgmma_bf16"),
}


class Product:
    """The sums of a block's tile. ``sums_of`` them are also kept by row and by column if ``with_totals``."""

    def __init__(
        self, block: Block, operands: Operands, depth: int, with_totals: bool = False, splits: int = 1
    ) -> None:
        """``depth`` is K in bytes; the block multiplies one of ``splits`` equal parts of its steps."""
        self.block, self.operands, self.with_totals = block, operands, with_totals
        tile = block.tile
        self.high, self.wide = tile.high, tile.wide
        self.steps = -(-depth // tile.depth) // splits
        self.first = T.bind(block.batch * self.steps) if splits > 1 else T.int32(0)
        self.sums = self._zeros(self.high * self.wide)
        if with_totals:
            self.row_totals, self.column_totals = self._zeros(self.high), self._zeros(self.wide)

    def compute(self, a: Loads, b: Loads, also: Callable[[], None] = lambda: None) -> None:
        """Multiplies; ``also`` begins other copies, which have arrived at the end."""
        tile = self.block.tile
        begun = min(tile.ahead, self.steps)
        if b.constant:
            for step in range(begun):
                b.begin(self.first + step)
        call("wait_for_previous")
        for step in range(tile.ahead):
            if step < begun:
                a.begin(self.first + step)
                if not b.constant:
                    b.begin(self.first + step)
            if step == begun - 1:
                also()
            call("commit_copies")
        with T.serial(0, self.steps) as step:
            call(f"wait_copies<{tile.ahead - 1}>")
            if tile.warpgroups:
                call("show_to_wgmma")
            barrier()
            if self.steps > tile.ahead:
                with when(step + tile.ahead < self.steps):
                    b.begin(self.first + step + tile.ahead)
                    a.begin(self.first + step + tile.ahead)
            call("commit_copies")
            if tile.warpgroups:
                self._multiply_together(self.first + step)
            else:
                self._multiply(self.first + step)
        if tile.warpgroups:
            call("wait_wgmma<0>")
        call("wait_copies<0>")

    def sum(self, i: int, j: int, half: int, at: int) -> Expr:
        """Of fragment ``i`` down and ``j`` across, a sum of the upper or lower row, the left or right column."""
        return self.sums[(i * self.wide + j) * 4 + half * 2 + at]

    def row(self, i: int, half: int) -> Expr:
        """Its row in the tile."""
        return self.block.warp_row + i * 16 + self.block.lane // 4 + half * 8

    def column(self, j: int) -> Expr:
        """Its left column in the tile, an even number."""
        return self.block.warp_column + j * 8 + self.block.lane % 4 * 2

    def row_total(self, i: int, half: int) -> Expr:
        """The sum of a row of the first operand."""
        return self.row_totals[i * 4 + half * 2]

    def column_total(self, j: int, at: int) -> Expr:
        """The sum of a column of the second operand."""
        return self.column_totals[j * 4 + at]

    def _zeros(self, fragments: int) -> Any:
        buffer = T.alloc_buffer((fragments * 4,), self.operands.sums, scope="local")
        with T.unroll(0, fragments * 4) as i:
            T.buffer_store(buffer, T.Cast(self.operands.sums, T.int32(0)), [i])
        return buffer

    def _multiply(self, step: Expr) -> None:
        tile, block, lane = self.block.tile, self.block, self.block.lane
        a_tile = block.stage(step)
        b_tile = a_tile + tile.rows * tile.depth
        a = T.alloc_buffer((self.high * 4,), "uint32", scope="local")
        b = T.alloc_buffer((self.wide * 2,), "uint32", scope="local")
        for k in range(0, tile.depth, STEP):
            for i in range(self.high):
                row = block.warp_row + i * 16 + lane % 16
                self._fragments(a, i * 4, block.place(a_tile, row, k + lane // 16 * 16))
            if tile.nibbles and k % (2 * STEP) == 0:  # the next ones join these
                self._keep(a)
                continue
            if tile.nibbles:
                self._join(a)
            for j in range(self.wide // 2):
                row = block.warp_column + j * 16 + lane % 8 + lane // 16 * 8
                byte = (k - STEP) // 2 if tile.nibbles else k
                self._fragments(b, j * 4, block.place(b_tile, row, byte + lane // 8 % 2 * 16, tile.column_depth))
            for i in range(self.high):
                for j in range(self.wide):
                    self._mma(self.sums, i * self.wide + j, address(a, i * 4), address(b, j * 2))
            if self.with_totals:
                self._add_totals(a, b)

    def _keep(self, a: Any) -> None:
        """The fragments of the even steps of 4-bit numbers, which still are bytes."""
        self.even = T.alloc_buffer((self.high * 4,), "uint32", scope="local")
        for i in range(self.high * 4):
            T.buffer_store(self.even, a[i], [i])

    def _join(self, a: Any) -> None:
        """Two fragments of bytes as one of 4-bit numbers: those of the odd step are the upper halves."""
        for i in range(self.high * 4):
            T.buffer_store(a, T.bitwise_or(self.even[i], T.shift_left(a[i], T.uint32(4))), [i])

    def _fragments(self, to: Any, index: int, place: Expr) -> None:
        call("load_matrices", address(to, index), address(self.block.shared, place))

    def _mma(self, sums: Any, fragment: int, a: Expr, b: Expr) -> None:
        call(self.operands.mma, address(sums, fragment * 4), a, b)

    def _add_totals(self, a: Any, b: Any) -> None:
        """Products with matrices of ones."""
        ones = T.alloc_buffer((4,), "uint32", scope="local")
        for i in range(4):
            T.buffer_store(ones, T.uint32(0x01010101), [i])
        for i in range(self.high):
            self._mma(self.row_totals, i, address(a, i * 4), address(ones, 0))
        for j in range(self.wide):
            self._mma(self.column_totals, j, address(ones, 0), address(b, j * 2))

    def _multiply_together(self, step: Expr) -> None:
        """Begins the product of one step, and waits for that of the step before."""
        tile = self.block.tile
        a_tile = self.block.stage(step)
        group = self.block.thread // (4 * LANES)
        a = self._rows_at(a_tile + group * 64 * tile.depth)
        b = self._rows_at(a_tile + tile.rows * tile.depth)
        call("begin_wgmma")
        for k in range(tile.depth // STEP):
            wgmma = f"{self.operands.wgmma}<{tile.columns}>"
            call(wgmma, address(self.sums, 0), a + T.uint64(2 * k), b + T.uint64(2 * k))
        call("commit_wgmma")
        call("wait_wgmma<1>")

    def _rows_at(self, place: Expr) -> Expr:
        return T.bind(value("uint64", "wgmma_rows", address(self.block.shared, place)))
