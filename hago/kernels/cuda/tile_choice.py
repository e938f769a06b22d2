"""Which tile a product gets: the one with the lowest estimate of a few candidates.

The estimate counts what bounds a step of a block: its products, those of one warp, the bytes that its multiprocessor
reads from the second cache, and the latency of copies, of which as much is hidden as there are stages ahead; blocks
come in waves. Its numbers are fitted to 155 times of int8 convolutions of ResNet-50 on an H200, of which it misses one
by 18 % on average; the tile that it picks is 2 % slower than the fastest. For other architectures products are scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .families import Gpu
from .loads import Window
from .product import OPERANDS
from .tile import LANES, BlockTile, blocks_of
from .tile_epilogue import Result

_WARPS = (
    BlockTile(16, 32, 128, 6, (1, 2)),
    BlockTile(16, 64, 128, 5, (1, 4)),
    BlockTile(32, 64, 128, 4, (1, 4)),
    BlockTile(64, 64, 64, 4, (2, 2)),
    BlockTile(64, 64, 128, 4, (2, 2)),
    BlockTile(64, 128, 64, 4, (2, 2)),
    BlockTile(128, 64, 64, 4, (4, 2)),
    BlockTile(128, 128, 64, 4, (2, 4)),
    BlockTile(128, 256, 64, 3, (2, 4)),
)
_WARPGROUPS = (
    BlockTile(64, 64, 128, 5, (4, 1), warpgroups=True),
    BlockTile(64, 128, 128, 4, (4, 1), warpgroups=True),
    BlockTile(64, 256, 128, 4, (4, 1), warpgroups=True),
    BlockTile(128, 64, 128, 5, (8, 1), warpgroups=True),
    BlockTile(128, 256, 128, 4, (8, 1), warpgroups=True),
)

_MACS = {"sm_75": 600, "sm_80": 1200, "sm_87": 1200, "sm_89": 600, "sm_90a": 1200}
"""8-bit products of a multiprocessor in a cycle, as far as warps reach; a warp alone makes a fifth of them."""
_WARPGROUP_GAIN, _WARP_SHARE = 2.3, 0.19
_BYTES_READ, _BYTES_WRITTEN = 40, 12  # in a cycle, of the second cache
_STEP, _LATENCY, _START = 110, 240, 2000  # cycles: of a step, barrier included; of a copy; of a block
_REGISTERS, _THREADS = 65536, 1536  # of a multiprocessor
_OTHER_REGISTERS = 30  # of a thread, besides its sums
_WORTH_TIMING = 4
_SUM_OF_PARTS = 2000  # cycles of the kernel that adds up parts of a split product
_MOST_SPLITS, _CLEAR_GAIN = 16, 0.75


def candidates(result: Result, window: Window, gpu: Gpu, operands: str = "u8s8", batch: int = 1) -> Sequence[BlockTile]:
    """The tiles that are worth timing: those with the lowest estimates, the lowest first."""
    fitting = _fitting(result, window, gpu, operands)
    return sorted(fitting, key=lambda tile: estimate(tile, result, window, gpu, batch))[:_WORTH_TIMING]


def choose_splits(result: Result, window: Window, gpu: Gpu) -> tuple[BlockTile, int]:
    """A tile, and the number of blocks that share each one's steps; 1 unless it is estimated to gain clearly."""
    tiles = [tile for tile in _fitting(result, window, gpu, "u8s8") if not tile.warpgroups]
    whole = min(estimate(tile, result, window, gpu) for tile in candidates(result, window, gpu))
    least, chosen = whole * _CLEAR_GAIN, (tiles[0], 1)
    for tile in tiles:
        steps = -(-window.depth // tile.depth)
        for splits in range(2, min(_MOST_SPLITS, steps // 2) + 1):
            if steps % splits:
                continue
            cost = estimate(tile, result, window, gpu, splits=splits)
            if cost < least:
                least, chosen = cost, (tile, splits)
    return chosen


def _fitting(result: Result, window: Window, gpu: Gpu, operands: str) -> list[BlockTile]:
    """The tiles that fit into a block, with no more stages than there are steps."""
    warpgroups = _WARPGROUPS if gpu.warpgroups and OPERANDS[operands].wgmma else ()
    fitting = []
    tiles = (
        tuple(dict.fromkeys(replace(tile, depth=128, nibbles=True) for tile in _WARPS))
        if operands == "u4s4"
        else (*_WARPS, *warpgroups)
    )
    for tile in tiles:
        least = 3 if tile.warpgroups else 2
        for stages in range(max(least, min(tile.stages, -(-window.depth // tile.depth) + 1)), least - 1, -1):
            shorter = replace(tile, stages=stages)
            if result.shared_bytes(shorter) <= gpu.shared_bytes:
                fitting.append(shorter)
                break
    return fitting


def estimate(tile: BlockTile, result: Result, window: Window, gpu: Gpu, batch: int = 1, splits: int = 1) -> float:
    """Cycles that the product takes; with ``splits`` the sum of its parts is included."""
    across, down, _ = blocks_of(tile, result.rows, result.columns)
    registers = tile.threads * (4 * tile.high * tile.wide + _OTHER_REGISTERS)
    shared = result.shared_bytes(tile)
    fit = max(1, min(gpu.shared_bytes // shared, _REGISTERS // registers, _THREADS // tile.threads))
    speed = _MACS.get(gpu.arch, 1200) * (_WARPGROUP_GAIN if tile.warpgroups else 2 if tile.nibbles else 1)
    products = tile.rows * tile.columns * tile.depth
    warp = _STEP + products / (tile.threads / LANES) / (speed * _WARP_SHARE)
    written = tile.rows * tile.columns * _item(result) * (2 if result.residual else 1)
    steps, left = -(-window.depth // tile.depth) // splits, across * down * batch * splits
    total = 0.0
    if splits > 1:
        written *= 4
        parts = 4 * splits * result.rows * result.columns
        total = _SUM_OF_PARTS + parts / (_BYTES_READ * gpu.multiprocessors)
    while left > 0:
        waves = max(1, left // (gpu.multiprocessors * fit))  # all of which are full, but for the last
        blocks = min(-(-left // gpu.multiprocessors), fit)  # on one multiprocessor
        step = max(blocks * products / speed, blocks * tile.stage_bytes / _BYTES_READ, warp, _LATENCY / tile.ahead)
        total += waves * (steps * step + blocks * written / _BYTES_WRITTEN + _START)
        left -= waves * gpu.multiprocessors * fit
    return total


def _item(result: Result) -> int:
    return {"uint8": 1, "float32": 4}.get(result.out, 2)
