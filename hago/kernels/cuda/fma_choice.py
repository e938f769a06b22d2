"""Which tile a float32 product gets, and in how many parts: what is estimated to be the fastest.

The next best tiles, with as many parts, are alternatives to be timed.
"""

from __future__ import annotations

from .families import Gpu
from .fma_loads import FmaTile
from .loads import Window

TILES = (
    FmaTile(128, 128, 8, 8),
    FmaTile(128, 64, 8, 8),
    FmaTile(64, 64, 8, 4),
    FmaTile(32, 64),
    FmaTile(32, 32, 4, 4, 32),
    FmaTile(16, 64, 4, 4, 32),
)

_ADDS = {"sm_75": 64, "sm_80": 64, "sm_87": 128, "sm_89": 128, "sm_90a": 128}
"""Multiply-adds of a multiprocessor in a cycle."""
_ISSUED = 4  # instructions of warps in a cycle
_CACHE_BYTES = 40  # that a multiprocessor reads of the second cache in a cycle
_LATENCY = 700  # cycles until what a step reads is there
_LAUNCH = 1500  # cycles of one more kernel
_GAIN = 1.25  # that parts must promise
_PARTS = (1, 2, 4, 8, 16)
_REGISTERS = 65536  # of a multiprocessor


def choose_tiles(window: Window, columns: int, batches: int, gpu: Gpu) -> tuple[int, list[FmaTile]]:
    """Parts, and the best tiles for products of the rows of ``window`` by ``columns``; the first is the best."""

    def cycles(tile: FmaTile, parts: int) -> float:
        return estimate(tile, parts, window, columns, batches, gpu)

    parts, _ = min(((p, tile) for p in _PARTS for tile in TILES), key=lambda pair: cycles(pair[1], pair[0]))
    return parts, sorted(TILES, key=lambda tile: cycles(tile, parts))[:3]


def estimate(tile: FmaTile, parts: int, window: Window, columns: int, batches: int, gpu: Gpu) -> float:
    """Cycles that they take."""
    depth = window.depth // window.item
    blocks = parts * batches * -(-window.rows // tile.rows) * -(-columns // tile.columns)
    registers = tile.threads * (tile.high * tile.wide + 2 * (tile.high + tile.wide) + 40)
    most = -(-blocks // gpu.multiprocessors)  # of one multiprocessor
    together = min(most, max(_REGISTERS // registers, 1))
    adds = tile.rows * tile.columns * tile.depth / _ADDS[gpu.arch]
    # Besides, each warp reads its operands for every k, brings its share of the next step, and waits.
    others = tile.depth * (tile.high + tile.wide) / 4 + 20 + 2 * tile.stage / tile.threads
    busy = adds + tile.threads / 32 * others / _ISSUED
    step = max(together * max(busy, 4 * tile.stage / _CACHE_BYTES), _LATENCY + busy)
    total = -(-most // together) * -(-depth // (tile.depth * parts)) * step
    if parts == 1:
        return total
    sums = 4 * batches * window.rows * columns * parts
    return _GAIN * (total + _LAUNCH) + 2 * sums / (_CACHE_BYTES * gpu.multiprocessors)
