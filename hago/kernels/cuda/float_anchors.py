"""Emitters of convolutions, fully connected layers and matrix products in floats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from ...tensor import TensorType
from ..common.anchor import bounds, constant
from ..common.calls import KernelCall, NodeView
from .anchors import emit_half, rows_of, window_of
from .depthwise import emit_depthwise
from .fallback import emit_fallback
from .families import Gpu
from .fma import FmaParams, fma, fma_parts
from .fma_choice import choose_tiles
from .grouped import emit_grouped
from .loads import Window
from .parts import CombineParams, combine
from .registry import emits
from .thread_epilogue import WIDE, FloatEpilogue, float_epilogue, pack_columns


@emits("hago", "Conv")
def emit_conv(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """Convolution: on tensor cores in 16-bit floats, by multiply-adds in float32 or where there are groups."""
    group = int(node.attrs["group"])
    if group == 1 and node.attrs["precision"] != "float32":
        return emit_half(node, gpu)
    if group == 1:
        return _dense(node, gpu, window_of(node))
    is_depthwise = group == node.type(node.inputs[0]).shape[-1] == node.type(node.outputs[0]).shape[-1]
    return (emit_depthwise if is_depthwise else emit_grouped)(node, gpu)


@emits("hago", "Gemm")
def emit_gemm(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """Fully connected layer: on tensor cores in 16-bit floats, by multiply-adds in float32."""
    if node.attrs["precision"] != "float32":
        return emit_half(node, gpu)
    return _dense(node, gpu, rows_of(node))


@emits("", "MatMul")
def emit_matmul(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """Product of two float32 tensors; vectors are matrices of one row or one column, batches broadcast."""
    a, b = (node.type(name) for name in node.inputs)
    if a.dtype != "float32" or not a.shape or not b.shape:
        return emit_fallback(node, gpu)
    left = a.shape if len(a.shape) > 1 else (1, *a.shape)
    right = b.shape if len(b.shape) > 1 else (*b.shape, 1)
    batch = tuple(np.broadcast_shapes(left[:-2], right[:-2]))
    if prod(right[:-2]) == 1:  # all rows meet the same matrix
        left, right, batch = (prod(left[:-1]), left[-1]), right[-2:], ()
    window, columns = Window((1, 1, left[-2], left[-1])), right[-1]
    buffers = (np.zeros(-(-columns // WIDE) * WIDE, np.float32), bounds(-np.inf, np.inf))
    shapes = (a.shape, b.shape, node.type(node.outputs[0]).shape, batch, left[:-2], right[:-2])
    product = _Product(window, columns, columns, FloatEpilogue(), shapes)
    return _calls(node, gpu, product, node.inputs, buffers)


def _dense(node: NodeView, gpu: Gpu, window: Window) -> Sequence[KernelCall]:
    """A layer with constant weights, whose rows read ``window``."""
    weights = constant(node, 1)
    width = -(-len(weights) // WIDE) * WIDE
    packed = pack_columns(weights, width)
    epilogue, buffers = float_epilogue(node, len(weights), width)
    shapes = (node.type(node.inputs[0]).shape, packed.shape, node.type(node.outputs[0]).shape)
    product = _Product(window, len(weights), width, epilogue, shapes)
    return _calls(node, gpu, product, (node.inputs[0], packed), buffers)


@dataclass(frozen=True)
class _Product:
    """What is computed: ``columns`` of rows that read ``window``; the second operand has rows of ``width``.

    ``shapes`` are those of the operands and of the result; of batches, and of each operand's, if there are any.
    """

    window: Window
    columns: int
    width: int
    epilogue: FloatEpilogue
    shapes: tuple[Any, ...]


def _calls(
    node: NodeView,
    gpu: Gpu,
    product: _Product,
    operands: Sequence[str | np.ndarray],
    buffers: Sequence[str | np.ndarray],
) -> Sequence[KernelCall]:
    """The product, in parts if that helps, with the tile estimated to be the best one and others that may be."""
    window, columns, epilogue, shapes = product.window, product.columns, product.epilogue, product.shapes
    batches = prod(shapes[3]) if len(shapes) > 3 else 1
    parts, tiles = choose_tiles(window, columns, batches, gpu)
    params = [
        replace(FmaParams(window, columns, product.width, epilogue, tile, *shapes), parts=parts) for tile in tiles
    ]
    if parts == 1:
        inputs = (*operands, *buffers)
        return [KernelCall("fma", params[0], fma, inputs, node.outputs, node.layer, alternatives=tuple(params[1:]))]
    sums = f"{node.outputs[0]}:parts"
    made = CombineParams(parts, batches * window.rows, columns, -(-columns // WIDE) * WIDE, epilogue, shapes[2])
    types = {sums: TensorType("float32", (parts, made.rows, columns))}
    return [
        KernelCall("fma", params[0], fma_parts, tuple(operands), (sums,), node.layer, types, tuple(params[1:])),
        KernelCall("combine", made, combine, (sums, *buffers), node.outputs, node.layer),
    ]
