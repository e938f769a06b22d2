"""Runs convolutions for GPUs on the emulated block, and what they must give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from emulated_gpu import EmulatedCall, emulated_call

from hago.kernels.common.anchor import bounds, zeros
from hago.kernels.cuda.conv import ConvParams, conv, pack_channels, pack_weights
from hago.kernels.cuda.families import SM80
from hago.kernels.cuda.loads import Window
from hago.kernels.cuda.tile import BlockTile
from hago.kernels.cuda.tile_epilogue import Result

ADDED = 0.37, 0.81, -60.0
"""Scales of the residual and of the codes, and the offset, of the quantized addition."""


@dataclass(frozen=True)
class Case:
    """Inputs of one convolution, by their names in the kernel, and the output that they must give."""

    feeds: dict[str, np.ndarray]
    expected: np.ndarray


def convolution(
    x: tuple[int, int, int, int],
    channels: int,
    tile: BlockTile,
    kernel: tuple[int, int] = (1, 1),
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    residual: str = "",
) -> ConvParams:
    """A convolution of codes to codes."""
    window = Window(x, kernel, strides, pads)
    result = Result(window.rows, channels, residual=residual)
    return ConvParams(window, tile, result, x, (*window.places, channels))


def make_case(params: ConvParams, seed: int = 0, zero_point: int = 3) -> Case:
    """Random inputs with the extremes among them; ``zero_point`` is the input's, which lies around the image."""
    rng = np.random.default_rng(seed)
    channels, kernel, k = params.result.columns, params.window.kernel, params.window.depth
    x = rng.integers(0, 256, params.x_shape).astype(np.uint8)
    weight = rng.integers(-128, 128, (channels, *kernel, x.shape[-1])).astype(np.int8)
    x.flat[::7], weight.flat[::10], weight.flat[5::10] = 255, -128, 127
    bias = rng.integers(-9999, 9999, channels).astype(np.int32)
    scale = (rng.uniform(0.5, 1.5, channels) * 0.005 / k**0.5).astype(np.float32)  # codes use their whole range
    feeds = {
        "x": x,
        "weight": pack_weights(weight),
        "bias": pack_channels(bias),
        "scale": pack_channels(scale),
        "zero": zeros(zero_point, 117),
        "bounds": bounds(2 - 117, 250 - 117, (0.0, 255.0, *ADDED)),
    }
    if params.result.residual:
        feeds["residual"] = rng.integers(0, 256, params.y_shape).astype(np.uint8)
    codes = expected(params, feeds, weight, bias, scale)
    assert ((codes > 2) & (codes < 250)).mean() > 0.5, "most codes are clamped: they would hide what is wrong"
    return Case(feeds, codes)


def expected(
    params: ConvParams, feeds: dict[str, np.ndarray], weight: np.ndarray, bias: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """The convolution by its definition, in int64; requantize in float32 as lowering defines it."""
    window = params.window
    _, oh, ow = window.places
    top, left, bottom, right = window.pads
    width = ((0, 0), (top, bottom), (left, right), (0, 0))
    x = np.pad(feeds["x"].astype(np.int64), width, constant_values=int(feeds["zero"][0]))
    total = np.zeros(params.y_shape, np.int64)
    for i in range(window.kernel[0]):
        for j in range(window.kernel[1]):
            rows = slice(i, i + oh * window.strides[0], window.strides[0])
            columns = slice(j, j + ow * window.strides[1], window.strides[1])
            total += x[:, rows, columns][:, :oh, :ow] @ weight[:, i, j].astype(np.int64).T
    value = (total + bias).astype(np.int32).astype(np.float32) * scale
    codes = np.clip(np.rint(value).astype(np.int64) + 117, 2, 250)
    if params.result.residual:  # one rounding of each sum: float64 holds product and sum exactly enough
        assert params.result.residual == "first"
        first, second, offset = (np.float64(np.float32(number)) for number in ADDED)
        inner = (codes * second + offset).astype(np.float32).astype(np.float64)
        total = (feeds["residual"] * first + inner).astype(np.float32)
        codes = np.clip(np.rint(total), 0, 255)
    return codes.astype(np.uint8)


def kernel_of(params: ConvParams, edit: Callable[[str], str] = lambda text: text) -> EmulatedCall:
    """The kernel of a convolution for the emulated block, after ``edit`` of its source."""
    return emulated_call(conv(params, SM80), edit)


def run(params: ConvParams, case: Case, kernel: EmulatedCall, seed: int = 0) -> tuple[str, int]:
    """The fault that was found ("": none), and how many elements are wrong."""
    values = {**case.feeds, "y": np.full(params.y_shape, 77, np.uint8)}
    fault = kernel([values[name] for name in kernel.names], seed)
    return fault, int((values["y"] != case.expected).sum())
