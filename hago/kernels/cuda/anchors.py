"""Emitters of the anchors: convolutions and fully connected layers, on tensor cores.

A node becomes one call of conv.py, with its weights packed, its zero point moved into the bias, and all that is fused
behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ...errors import BuildError
from ...tensor import TensorType
from ..common.anchor import bias_of, bounds_of, constant, geometry, integer_bias, roles, scale_of, zeros
from ..common.calls import KernelCall, NodeView, stored_array
from ..common.remembered import remembered
from .conv import ConvParams, conv, pack_channels, pack_nibbles, pack_weights
from .depthwise import emit_qdepthwise
from .families import Gpu
from .grouped import emit_qgrouped
from .loads import Window
from .parts import CombineParams, combine
from .registry import emits
from .split import SplitParams, partial_sums
from .thread_epilogue import IntegerEpilogue
from .tile import BlockTile
from .tile_choice import candidates, choose_splits
from .tile_epilogue import Result, padded


@emits("hago", "QConv")
def emit_qconv(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """Integer convolution: on tensor cores, unless it has groups or scales of groups."""
    group, scaled = int(node.attrs.get("group", 1)), "mult" in roles(node)
    if group > 1 and not scaled and group == window_of(node).x[3] == len(constant(node, 1)):
        return emit_qdepthwise(node, gpu)
    if group > 1 or scaled:
        return emit_qgrouped(node, gpu)
    return _integer(node, gpu, window_of(node))


@emits("hago", "QGemm")
def emit_qgemm(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """Integer fully connected layer: a 1x1 convolution over the rows of x [.., K]."""
    return emit_qgrouped(node, gpu) if "mult" in roles(node) else _integer(node, gpu, rows_of(node))


def window_of(node: NodeView, item: int = 1) -> Window:
    """What a convolution reads."""
    n, h, w, c = node.type(node.inputs[0]).shape
    _, kh, kw, _ = constant(node, 1).shape
    return Window((n, h, w, c), (kh, kw), **geometry(node), item=item)


def rows_of(node: NodeView, item: int = 1) -> Window:
    """What a fully connected layer reads."""
    x = node.type(node.inputs[0]).shape
    return Window((1, 1, prod(x[:-1]), x[-1]), item=item)


def _integer(node: NodeView, gpu: Gpu, window: Window) -> list[KernelCall]:
    weights, found = constant(node, 1), roles(node)
    residual = ("first" if node.attrs["r_first"] else "second") if "r" in found else ""
    out = node.attrs.get("out", "uint8")
    result = Result(window.rows, len(weights), out, residual, "table" in found)
    four = node.attrs.get("bits") == 4 and gpu.int4
    pack = pack_nibbles if four else pack_weights
    packed, sums = remembered(weights, pack.__name__, lambda w: (pack(w), _sums(w)))
    zero_x, zero_y = int(node.attrs["x_zero_point"]), int(node.attrs.get("y_zero_point", 0))
    inputs: list[Any] = [node.inputs[0], packed, pack_channels(integer_bias(node, sums, zero_x))]
    inputs += [pack_channels(scale_of(node, len(weights))), zeros(zero_x, zero_y), bounds_of(node, bool(residual))]
    if "table" in found:
        inputs.append(np.ascontiguousarray(found["table"], np.uint8))
    if residual:
        inputs.append(found["r"])
    tile, splits = (None, 1) if four else choose_splits(result, window, gpu)
    if tile is not None and splits > 1:
        return _split(node, SplitParams(_params(node, tile, window, result), splits), inputs)
    return [_call(node, gpu, window, result, inputs, "u4s4" if four else "u8s8")]


def _split(node: NodeView, params: SplitParams, inputs: list[Any]) -> list[KernelCall]:
    """The calls of a product whose reduction is split among blocks."""
    x, weight, *behind = inputs
    result, parts, zero = params.conv.result, f"{node.outputs[0]}:parts", behind[2]
    shape = (params.splits, result.rows, result.columns)
    types = {parts: TensorType("int32", shape)}
    epilogue = IntegerEpilogue(result.out, result.table, result.residual)
    together = CombineParams(*shape, padded(result.columns), epilogue, params.conv.y_shape)
    return [
        KernelCall("conv", params, partial_sums, (x, weight, zero), (parts,), node.layer, types),
        KernelCall("combine", together, combine, (parts, *behind), node.outputs[:1], node.layer),
    ]


def emit_half(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """Convolution without groups, or fully connected layer, in float16 or bfloat16 with sums in float32."""
    precision = node.attrs["precision"]
    where = f"layer {node.layer!r}" if node.layer else f"node {node.name!r}"
    if precision == "bfloat16" and not gpu.bf16:
        raise BuildError(f"the tensor cores of {gpu.name} do not take bfloat16", where=where)
    window = window_of(node, 2) if node.op == "Conv" else rows_of(node, 2)
    weights, y = constant(node, 1), node.type(node.outputs[0])
    residual = node.inputs[3] if len(node.inputs) > 3 else ""
    activation = node.attrs.get("activation", "")
    result = Result(window.rows, len(weights), y.dtype, "float32" if residual else "", activation=activation)
    (packed,) = remembered(stored_array(weights), "chunks", lambda w: (pack_weights(w),))
    inputs = [node.inputs[0], packed, pack_channels(bias_of(node, len(weights), np.float32)), bounds_of(node)]
    return [_call(node, gpu, window, result, [*inputs, residual] if residual else inputs, precision)]


def _call(
    node: NodeView, gpu: Gpu, window: Window, result: Result, inputs: list[Any], operands: str = "u8s8"
) -> KernelCall:
    tiles = candidates(result, window, gpu, operands)
    best, *others = [_params(node, tile, window, result, operands) for tile in tiles]
    return KernelCall("conv", best, conv, tuple(inputs), node.outputs[:1], node.layer, alternatives=tuple(others))


def _params(node: NodeView, tile: BlockTile, window: Window, result: Result, operands: str = "u8s8") -> ConvParams:
    x, y = node.type(node.inputs[0]).shape, node.type(node.outputs[0]).shape
    return ConvParams(window, tile, result, x, y, operands)


def _sums(weights: np.ndarray) -> np.ndarray:
    return weights.reshape(len(weights), -1).sum(1, dtype=np.int64)
