"""Products of few rows, whose reduction is split among blocks: partial sums, which `parts.py` adds up.

A late layer at batch 1 has fewer tiles than the GPU has multiprocessors, each with many steps.

    x, weight       as in conv.py
    zero       [3]  int32, see `hago.kernels.common.anchor`
    parts      [splits, M, O]   int32
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.anchor import ZEROS
from ..common.flat import Expr, Flat
from .conv import ConvParams
from .device import argument, call
from .families import Gpu
from .loads import Pixels, Weights
from .product import OPERANDS, Product
from .tile import blocks_of, launched
from .tile_epilogue import store_directly
from .words import write


@dataclass(frozen=True)
class SplitParams:
    """A convolution whose steps are shared by ``splits`` blocks, which divide their number."""

    conv: ConvParams
    splits: int


def partial_sums(params: SplitParams, gpu: Gpu, threads: int = 1) -> Any:
    """(x, weight, zero) -> parts."""
    p, result = params.conv, params.conv.result
    operands, shape = OPERANDS[p.operands], (params.splits, result.rows, result.columns)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_attr({"global_symbol": "kernel", "tirx.noalias": True})
        x = argument("x", p.x_shape, operands.a)
        weight = argument("weight", (result.columns, p.row_bytes), operands.b)
        zero = argument("zero", (ZEROS,), "int32")
        parts = argument("parts", shape, "int32")
        grid = blocks_of(p.tile, result.rows, result.columns, params.splits)
        with launched(p.tile, grid, p.tile.operand_bytes) as block:
            call("let_next_start")
            pixels = Pixels(block, p.window, x, T.bitwise_and(zero[0], 255) * 0x01010101)
            product = Product(block, operands, p.window.depth, splits=params.splits)
            product.compute(pixels, Weights(block, result.columns, p.row_bytes, weight))
            y = Flat(parts, TensorType("int32", shape), "int32")

            def store(i: int, j: int, half: int, columns: range, channel: Expr, place: Expr) -> None:
                write(y, place, [T.bind(product.sum(i, j, half, at)) for at in columns])

            store_directly(block, result, product, store, T.bind(block.batch * (result.rows * result.columns)))
    return builder.get()
