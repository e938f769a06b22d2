"""How a block of threads divides its part of a product, and what its threads know of their places."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from ..common.flat import Expr
from ..common.math import registers_in

CHUNK = 16
"""Bytes that ldmatrix reads at once, and the most of one asynchronous copy."""

LANES = 32
"""Threads of a warp."""


@dataclass(frozen=True)
class BlockTile:
    """How a block divides its work: ``warps`` along rows and columns; ``depth`` in bytes, 64 or 128.

    With ``warpgroups``, each four warps multiply 64 rows by all columns together (wgmma, sm_90a). ``nibbles``: columns
    come as 4-bit numbers, two in a byte; rows as bytes, all of them below 16.
    """

    rows: int
    columns: int
    depth: int
    stages: int
    warps: tuple[int, int]
    warpgroups: bool = False
    nibbles: bool = False

    def __post_init__(self) -> None:
        down, across = self.warps
        if self.warpgroups and (
            across != 1 or self.rows != 16 * down or down % 4 or self.depth != 128 or self.columns not in (64, 128, 256)
        ):
            raise ValueError(f"a warpgroup multiplies 64 rows by 64, 128 or 256 columns, over 128 bytes: {self}")
        if self.stages < 2 + self.warpgroups:
            raise ValueError(f"a tile needs at least {2 + self.warpgroups} stages: {self}")
        if self.nibbles and (self.warpgroups or self.depth != 128):
            raise ValueError(f"4-bit numbers are multiplied by warps, over 128 bytes: {self}")
        if self.rows % (16 * down) or self.columns % (16 * across) or self.depth not in (64, 128):
            raise ValueError(f"warps must share rows and columns in multiples of 16, over 64 or 128 bytes: {self}")

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.warps[0] * self.warps[1] * LANES

    @property
    def high(self) -> int:
        """Fragments of 16 rows that each warp has."""
        return self.rows // self.warps[0] // 16

    @property
    def wide(self) -> int:
        """Fragments of 8 columns that each warp has."""
        return self.columns // self.warps[1] // 8

    @property
    def column_depth(self) -> int:
        """Bytes of a column in one step."""
        return self.depth // 2 if self.nibbles else self.depth

    @property
    def stage_bytes(self) -> int:
        """Shared memory of one step."""
        return self.rows * self.depth + self.columns * self.column_depth

    @property
    def operand_bytes(self) -> int:
        """Shared memory of all stages."""
        return self.stages * self.stage_bytes

    @property
    def pitch(self) -> int:
        """Bytes from one row of the finished tile of codes to the next: 16 more than it has, for the banks."""
        return self.columns + CHUNK

    @property
    def finished_bytes(self) -> int:
        """Shared memory of the finished tile of codes."""
        return self.rows * self.pitch

    @property
    def ahead(self) -> int:
        """Steps whose copies are begun before they are multiplied.

        A product that a warpgroup began still reads its stage while the next step is begun.
        """
        return self.stages - (2 if self.warpgroups else 1)


@dataclass(frozen=True)
class Block:
    """What a thread knows while it works on a tile; expressions are the same in all parts of the kernel."""

    tile: BlockTile
    shared: Any  # uint8
    shared_bytes: int
    thread: Expr
    lane: Expr
    batch: Expr
    first_row: Expr
    first_column: Expr
    warp_row: Expr
    warp_column: Expr

    def place(self, start: Expr, row: Expr, byte: Expr, depth: int = 0) -> Expr:
        """Where a byte of a row of an operand lies in shared memory; the operand begins at ``start``, and its rows have
        ``depth`` bytes (0: those of the tile).

        The chunks of a row are permuted by the row's number, so that neither copies nor ldmatrix meet in a bank.
        """
        depth, chunk = depth or self.tile.depth, byte // CHUNK
        permuted = T.bitwise_xor(chunk, row // 2 % 4 if depth == 64 else row % 8)
        return start + row * depth + permuted * CHUNK + byte % CHUNK

    def stage(self, step: Expr) -> Expr:
        """Where the operands of a step lie in shared memory: rows first, then columns."""
        return T.bind(step % self.tile.stages * self.tile.stage_bytes)


@contextmanager
def launched(tile: BlockTile, grid: tuple[int, int, int], shared_bytes: int) -> Iterator[Block]:
    """Launches ``grid`` blocks: along columns, which change first so that neighbours share rows, rows, and batches."""
    across, down, batch = (T.env_thread(f"blockIdx.{axis}") for axis in "xyz")
    thread = T.env_thread("threadIdx.x")
    with (
        T.launch_thread(across, grid[0]),
        T.launch_thread(down, grid[1]),
        T.launch_thread(batch, grid[2]),
        T.launch_thread(thread, tile.threads),
        registers_in("local"),
    ):
        first_row, first_column = T.bind(down * tile.rows), T.bind(across * tile.columns)
        shared = T.alloc_buffer((shared_bytes,), "uint8", scope="shared.dyn", align=1024)
        lane, warp = T.bind(thread % LANES), thread // LANES
        warp_row = T.bind(warp // tile.warps[1] * (tile.rows // tile.warps[0]))
        warp_column = T.bind(warp % tile.warps[1] * (tile.columns // tile.warps[1]))
        yield Block(tile, shared, shared_bytes, thread, lane, batch, first_row, first_column, warp_row, warp_column)


def blocks_of(tile: BlockTile, rows: int, columns: int, batches: int = 1) -> tuple[int, int, int]:
    """The grid that covers ``rows`` by ``columns``."""
    return -(-columns // tile.columns), -(-rows // tile.rows), batches
