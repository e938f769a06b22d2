"""Product of two quantized activations, as in attention, on tensor cores.

    a [B, M, K]   b [B, K, N]   y [B, M, N]   (B = 1 for an operand that all batches share)

Zero points are taken out by the sums of rows and columns, which tensor cores compute along with the product:

    sum (a - za)(b - zb) = sum a b - za sum b - zb sum a + K za zb

The caller guarantees that no sum leaves int32: K * 255 * 255 < 2**31.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ...errors import BuildError
from ..common.anchor import BOUNDS, ZEROS, bounds_of, constant, zeros
from ..common.calls import KernelCall, NodeView
from ..common.flat import Expr
from .device import argument, call
from .families import Gpu
from .loads import Columns, Pixels, Window
from .product import OPERANDS, Product
from .registry import emits
from .tile import BlockTile, blocks_of, launched
from .tile_choice import candidates
from .tile_epilogue import Buffers, Epilogue, Result


@dataclass(frozen=True)
class MatMulParams:
    """``a_batch``, ``b_batch``: whether an operand differs from batch to batch; shapes are the graph's."""

    tile: BlockTile
    result: Result
    batch: int
    k: int
    a_batch: bool
    b_batch: bool
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    y_shape: tuple[int, ...]


def matmul(params: MatMulParams, gpu: Gpu, threads: int = 1) -> Any:
    """(a, b uint8, scale [1] float32, zero, bounds) -> y; `hago.kernels.common.anchor` has the last two inputs."""
    p, result = params, params.result
    rows, columns = result.rows, result.columns
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_attr({"global_symbol": "kernel", "tirx.noalias": True})
        a, b = argument("a", p.a_shape, "uint8"), argument("b", p.b_shape, "uint8")
        scale, zero = argument("scale", (1,), "float32"), argument("zero", (ZEROS,), "int32")
        bounds = argument("bounds", (BOUNDS,), "float32")
        y = argument("y", p.y_shape, result.out)
        grid = blocks_of(p.tile, rows, columns, p.batch)
        with launched(p.tile, grid, result.shared_bytes(p.tile)) as block:

            def real(product: Product, i: int, j: int, half: int, at: int, channel: Expr) -> Expr:
                shares = product.row_total(i, half) * zero_b + product.column_total(j, at) * zero_a
                return T.cast(product.sum(i, j, half, at) - shares + both, "float32") * factor

            call("let_next_start")
            zero_a, zero_b, factor = T.bind(zero[0]), T.bind(zero[2]), T.bind(scale[0])
            both = T.bind(zero_a * zero_b * p.k)
            a_start = T.bind(block.batch * (rows * p.k if p.a_batch else 0))
            b_start = T.bind(block.batch * (p.k * columns if p.b_batch else 0))
            pixels = Pixels(block, Window((1, 1, rows, p.k)), a, T.int32(0), a_start)
            product = Product(block, OPERANDS["u8u8"], p.k, with_totals=True)
            product.compute(pixels, Columns(block, p.k, columns, b, b_start))
            buffers = Buffers(zero, bounds, y)
            Epilogue(block, result, buffers, real, T.bind(block.batch * (rows * columns))).finish(product)
    return builder.get()


@emits("hago", "QMatMul")
def emit_qmatmul(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """Integer product of two activations."""
    a, b = (node.type(name).shape for name in node.inputs[:2])
    y = node.type(node.outputs[0]).shape
    batch = prod(y[:-2])
    counts = [prod(shape[:-2]) for shape in (a, b)]
    if min(len(a), len(b)) < 2 or any(count not in (1, batch) for count in counts):
        raise BuildError(f"no integer kernel for matrices of shapes {[list(a), list(b)]}", where=f"node {node.name!r}")
    attrs = node.attrs
    result = Result(a[-2], b[-1], attrs.get("out", "uint8"))
    window = Window((1, 1, a[-2], a[-1]))
    a_batch, b_batch = (count > 1 for count in counts)
    best, *others = [
        MatMulParams(tile, result, batch, a[-1], a_batch, b_batch, a, b, y)
        for tile in candidates(result, window, gpu, "u8u8", batch)
    ]
    scale = np.asarray(constant(node, 2), np.float32).reshape(1)
    zero = zeros(int(attrs["a_zero_point"]), int(attrs.get("y_zero_point", 0)), int(attrs["b_zero_point"]))
    inputs = (node.inputs[0], node.inputs[1], scale, zero, bounds_of(node))
    return [KernelCall("matmul", best, matmul, inputs, node.outputs[:1], node.layer, alternatives=tuple(others))]
