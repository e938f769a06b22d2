"""Emitters of the anchors: convolutions and fully connected layers, on tensor cores.

A node becomes one call of conv.py, with its weights packed, its zero point moved into the bias, and all that is fused
behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ..common.anchor import bounds_of, constant, geometry, integer_bias, roles, scale_of, zeros
from ..common.calls import KernelCall, NodeView
from ..common.remembered import remembered
from .conv import ConvParams, conv, pack_channels, pack_weights
from .depthwise import emit_qdepthwise
from .epilogue import Result
from .families import Gpu
from .grouped import emit_qgrouped
from .loads import Window
from .registry import emits
from .tile_choice import choose_tile


@emits("hago", "QConv")
def emit_qconv(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """Integer convolution: on tensor cores, unless it has groups or scales of groups."""
    group, scaled = int(node.attrs.get("group", 1)), "mult" in roles(node)
    if group > 1 and not scaled and group == window_of(node).x[3] == len(constant(node, 1)):
        return emit_qdepthwise(node, gpu)
    if group > 1 or scaled:
        return emit_qgrouped(node, gpu)
    return [_integer(node, gpu, window_of(node))]


@emits("hago", "QGemm")
def emit_qgemm(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """Integer fully connected layer: a 1x1 convolution over the rows of x [.., K]."""
    return emit_qgrouped(node, gpu) if "mult" in roles(node) else [_integer(node, gpu, rows_of(node))]


def window_of(node: NodeView, item: int = 1) -> Window:
    """What a convolution reads."""
    n, h, w, c = node.type(node.inputs[0]).shape
    _, kh, kw, _ = constant(node, 1).shape
    return Window((n, h, w, c), (kh, kw), **geometry(node), item=item)


def rows_of(node: NodeView, item: int = 1) -> Window:
    """What a fully connected layer reads."""
    x = node.type(node.inputs[0]).shape
    return Window((1, 1, prod(x[:-1]), x[-1]), item=item)


def _integer(node: NodeView, gpu: Gpu, window: Window) -> KernelCall:
    weights, found = constant(node, 1), roles(node)
    residual = ("first" if node.attrs["r_first"] else "second") if "r" in found else ""
    out = node.attrs.get("out", "uint8")
    result = Result(window.rows, len(weights), out, residual, "table" in found)
    packed, sums = remembered(weights, "chunks", lambda w: (pack_weights(w), _sums(w)))
    zero_x, zero_y = int(node.attrs["x_zero_point"]), int(node.attrs.get("y_zero_point", 0))
    inputs: list[Any] = [node.inputs[0], packed, pack_channels(integer_bias(node, sums, zero_x))]
    inputs += [pack_channels(scale_of(node, len(weights))), zeros(zero_x, zero_y), bounds_of(node, bool(residual))]
    if "table" in found:
        inputs.append(np.ascontiguousarray(found["table"], np.uint8))
    if residual:
        inputs.append(found["r"])
    x, y = node.type(node.inputs[0]).shape, node.type(node.outputs[0]).shape
    params = ConvParams(window, choose_tile(result, window, gpu), result, x, y)
    return KernelCall("conv", params, conv, tuple(inputs), node.outputs[:1], node.layer)


def _sums(weights: np.ndarray) -> np.ndarray:
    return weights.reshape(len(weights), -1).sum(1, dtype=np.int64)
