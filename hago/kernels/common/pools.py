"""Pools as all targets see them: parameters, geometry and constants of windows that slide over images in NHWC.

N images, H W input height and width, OH OW output, KH KW window, C channels
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.script.ir_builder import tirx as T

from .calls import NodeView
from .epilogue import epilogue_constants
from .flat import Expr, factors_of, numbers_of
from .plans import Plan, plans
from .reductions import Reduce


@dataclass(frozen=True)
class PoolWindow:
    """A pool of a batch of images of shape ``x`` [N, H, W, C] to shape ``y`` [N, OH, OW, C].

    ``pads`` are top, left, bottom, right (ceil_mode is already resolved into them). Padded positions never count in
    a maximum or a sum; an average divides by all taps if ``include_pad``, else by those inside the image.
    """

    op: str
    dtype: str
    out: str
    x: tuple[int, ...]
    y: tuple[int, ...]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    include_pad: bool


@dataclass(frozen=True)
class GlobalPool:
    """An average over all pixels of codes, from shape ``x`` [N, H, W, C] to shape ``y``; ``out`` is the type of y."""

    x: tuple[int, ...]
    y: tuple[int, ...]
    out: str


@plans("hago", "QGlobalAvgPool")
def plan_global_pool(node: NodeView) -> list[Plan]:
    """Inputs of the kernel: x, x_zero_point int32 [1], scale float32 [1], epilogue constants."""
    attrs = node.attrs
    params = GlobalPool(node.type(node.inputs[0]).shape, node.type(node.outputs[0]).shape, attrs.get("out", "uint8"))
    constants = (numbers_of(attrs["x_zero_point"]), factors_of(attrs["scale"]), epilogue_constants(node)[1])
    return [Plan("global_pool", params, (node.inputs[0], *constants), node.outputs)]


@plans("hago", "GlobalAvgPool")
def plan_mean_of_images(node: NodeView) -> list[Plan]:
    """A mean over the pixels."""
    x, y = node.type(node.inputs[0]).shape, node.type(node.outputs[0]).shape
    params = Reduce("ReduceMean", "float32", x, y, x[0], x[1] * x[2], x[3])
    return [Plan("global_pool", params, node.inputs, node.outputs)]


@plans("hago", "QMaxPool", "MaxPool", "QAvgPool", "AvgPool")
def plan_window_pool(node: NodeView) -> list[Plan]:
    """Inputs of the kernel: x; of QAvgPool also x_zero_point int32 [1], scales float32 [KH*KW + 1], epilogue constants.

    scales[count] = scale / count, for each number of taps that an average can divide by.
    """
    attrs, x, y = node.attrs, node.type(node.inputs[0]), node.type(node.outputs[0])
    kernel = tuple(attrs["kernel_shape"])
    quantized_sum = node.op == "QAvgPool"
    params = PoolWindow(
        op=node.op,
        dtype=x.dtype,
        out=attrs.get("out", "uint8") if quantized_sum else x.dtype,
        x=x.shape,
        y=y.shape,
        kernel=kernel,
        strides=tuple(attrs.get("strides") or (1, 1)),
        pads=tuple(attrs.get("pads") or (0, 0, 0, 0)),
        dilations=tuple(attrs.get("dilations") or (1, 1)),
        include_pad=bool(attrs.get("count_include_pad", 0)),
    )
    if not quantized_sum:
        return [Plan("pool", params, node.inputs, node.outputs)]
    counts = np.maximum(np.arange(kernel[0] * kernel[1] + 1), 1)
    scales = (np.float64(np.float32(attrs["scale"])) / counts).astype(np.float32)
    constants = (numbers_of(attrs["x_zero_point"]), scales, epilogue_constants(node)[1])
    return [Plan("pool", params, (*node.inputs, *constants), node.outputs)]


def interior(size: int, out: int, taps: int, step: int, far: int, before: int) -> tuple[int, int]:
    """The range of output positions whose taps all lie inside an input of ``size``."""
    reach = (taps - 1) * far
    first = -(-before // step)
    last = (size - 1 - reach + before) // step + 1
    return min(first, out), max(min(first, out), min(last, out))


def taps_inside(start: Expr, far: int, taps: int, size: int) -> tuple[Expr, Expr]:
    """The range of taps that lie inside [0, size), of a window whose first tap is at ``start``."""
    first = T.bind(T.min(T.max((far - 1 - start) // far, 0), taps))
    last = T.bind(T.max(T.min((size - 1 - start) // far + 1, taps), first))
    return first, last
