"""Which tile a product gets: the one with the lowest estimate of a few candidates.

The estimate counts what bounds a block: its products, the bytes that its multiprocessor reads from the second cache,
and the latency of a step, of which copies hide as much as there are stages ahead; blocks come in waves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .families import Gpu
from .loads import Window
from .product import OPERANDS
from .tile import BlockTile, blocks_of
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

_MACS = {"sm_75": 1024, "sm_80": 2048, "sm_87": 2048, "sm_89": 1024, "sm_90a": 1400}
"""8-bit products of a multiprocessor in a cycle; by warpgroups three times as many."""
_WORTH_TIMING = 4
_BYTES_WRITTEN = {"uint8": 2, "float16": 2, "bfloat16": 2, "float32": 4}  # codes through shared memory
_CACHE_BYTES = 40  # that a multiprocessor reads of the second cache in a cycle
_STEP, _LATENCY, _START = 60, 900, 2500  # cycles: of a step, barrier included; of a copy; of a block
_REGISTERS, _THREADS = 65536, 1536  # of a multiprocessor


def candidates(result: Result, window: Window, gpu: Gpu, operands: str = "u8s8", batch: int = 1) -> Sequence[BlockTile]:
    """The tiles that are worth timing: those with the lowest estimates, the lowest first."""
    fitting = _fitting(result, window, gpu, operands)
    return sorted(fitting, key=lambda tile: estimate(tile, result, window, gpu, batch))[:_WORTH_TIMING]


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


def estimate(tile: BlockTile, result: Result, window: Window, gpu: Gpu, batch: int = 1) -> float:
    """Cycles that the product takes."""
    across, down, _ = blocks_of(tile, result.rows, result.columns)
    steps = -(-window.depth // tile.depth)
    registers = tile.threads * (4 * tile.high * tile.wide + 56)
    fit = min(gpu.shared_bytes // result.shared_bytes(tile), _REGISTERS // registers, _THREADS // tile.threads)
    at_once = gpu.multiprocessors * max(fit, 1)
    total, left = 0.0, across * down * batch
    speed = _MACS.get(gpu.arch, 1024) * (3 if tile.warpgroups else 2 if tile.nibbles else 1)
    while left > 0:
        waves = max(1, left // at_once)  # all of which are full, but for the last
        blocks = min(-(-left // gpu.multiprocessors), max(fit, 1))  # on one multiprocessor
        products = blocks * tile.rows * tile.columns * tile.depth / speed
        bytes_read = blocks * tile.stage_bytes / _CACHE_BYTES
        step = max(products, bytes_read, _LATENCY / tile.ahead, _STEP)
        written = blocks * tile.rows * tile.columns * _BYTES_WRITTEN[result.out] / _CACHE_BYTES
        total += waves * (steps * step + written + _START)
        left -= waves * at_once
    return total
