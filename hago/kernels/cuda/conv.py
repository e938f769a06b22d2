"""Dense convolution, and the fully connected layer, as an implicit matrix product on tensor cores.

Notation: `N` batch, `H W` height and width, `C` input channels, `O` output channels, `KH KW` taps; of the product
``M = N * OH * OW`` output pixels by ``O`` channels, summed over ``K = KH * KW * C``.

A block computes a tile of pixels by channels: `tile.py` says how its threads share it, `loads.py` how operands come,
`product.py` multiplies them, and `tile_epilogue.py` says what becomes of the sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ..common.anchor import BOUNDS, ZEROS
from ..common.flat import Expr
from .device import argument, call, in_memory
from .families import Gpu
from .loads import Pixels, Weights, Window
from .product import OPERANDS, STEP, Product
from .tile import CHUNK, BlockTile, blocks_of, launched
from .tile_epilogue import Buffers, Epilogue, Result, padded

_MOST_BYTES = (1 << 31) - 1


@dataclass(frozen=True)
class ConvParams:
    """``operands`` names the types (see `OPERANDS`); ``x_shape`` and ``y_shape`` are those of the graph's tensors."""

    window: Window
    tile: BlockTile
    result: Result
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    operands: str = "u8s8"

    def __post_init__(self) -> None:
        largest = max(prod(self.x_shape) * self.window.item, prod(self.y_shape), self.result.columns * self.row_bytes)
        if largest > _MOST_BYTES:
            raise ValueError(f"tensors of over {_MOST_BYTES} bytes are not addressed: {self.x_shape} to {self.y_shape}")

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of packed weights: whole chunks."""
        if self.tile.nibbles:
            return -(-self.window.depth // (2 * STEP)) * STEP
        return -(-self.window.depth // CHUNK) * CHUNK


def pack_weights(weights: np.ndarray) -> np.ndarray:
    """[O, ...] of any type in memory -> [O, K] with zeros up to whole chunks."""
    rows = weights.reshape(len(weights), -1)
    padding = -rows.shape[1] % (CHUNK // rows.itemsize)
    return np.ascontiguousarray(np.pad(rows, ((0, 0), (0, padding))))


def pack_nibbles(weights: np.ndarray) -> np.ndarray:
    """[O, ...] of 4-bit numbers -> int8 [O, K / 2], with zeros up to whole steps.

    Of 64 numbers, the first 32 are the lower halves of bytes and the others the upper halves, since that is how two
    fragments of bytes become one of 4-bit numbers.
    """
    rows = weights.reshape(len(weights), -1)
    padded_rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % (2 * STEP))))
    low, high = np.moveaxis(padded_rows.reshape(len(rows), -1, 2, STEP).astype(np.uint8) & 15, 2, 0)
    return np.ascontiguousarray((low | high << 4).reshape(len(rows), -1)).view(np.int8)


def pack_channels(values: np.ndarray) -> np.ndarray:
    """Values [O], such as the bias, with zeros up to whole tiles."""
    return np.pad(values, (0, padded(len(values)) - len(values)))


def conv(params: ConvParams, gpu: Gpu, threads: int = 1) -> Any:
    """(x, weight [O, K], bias, scale, zero, bounds [, table] [, residual]) -> y.

    ``weight`` is packed by `pack_weights`, bias and scale by `pack_channels`; `tile_epilogue.py` describes the others.
    Float operands have no scale and no zero. Zero points are part of the bias, but for the taps outside of the image.
    """
    operands, window, result, channels = (
        OPERANDS[params.operands], params.window, params.result, padded(params.result.columns),
    )  # fmt: skip
    integer = operands.sums == "int32"
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_attr({"global_symbol": "kernel", "tirx.noalias": True})
        x = argument("x", params.x_shape, operands.a)
        weight = argument("weight", (result.columns, params.row_bytes // window.item), operands.b)
        bias = argument("bias", (channels,), operands.sums)
        scale = argument("scale", (channels,), "float32") if integer else None
        zero = argument("zero", (ZEROS,), "int32") if integer else None
        bounds = argument("bounds", (BOUNDS,), "float32")
        table = argument("table", (256,), "uint8") if result.table else None
        residual_type = "uint8" if result.codes_added else "float32"
        residual = argument("residual", params.y_shape, residual_type) if result.residual else None
        y = argument("y", params.y_shape, in_memory(result.out))
        grid = blocks_of(params.tile, result.rows, result.columns)
        with launched(params.tile, grid, result.shared_bytes(params.tile)) as block:

            def real(product: Product, i: int, j: int, half: int, at: int, channel: Expr) -> Expr:
                total = product.sum(i, j, half, at) + bias[channel]
                return total if scale is None else T.cast(total, "float32") * scale[channel]

            call("let_next_start")
            fill = T.int32(0) if zero is None else T.bitwise_and(zero[0], 255) * 0x01010101
            pixels, weights = Pixels(block, window, x, fill), Weights(block, result.columns, params.row_bytes, weight)
            epilogue = Epilogue(block, result, Buffers(zero, bounds, y, table, residual), real)
            product = Product(block, operands, window.depth)
            product.compute(pixels, weights, epilogue.begin)
            epilogue.finish(product)
    return builder.get()
