"""Runs convolutions for GPUs on the emulated block, and what they must give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from emulated_block import EmulatedKernel, emulated

from hago.kernels.cuda.conv import ConvParams, conv
from hago.kernels.cuda.cuda_source import source_of
from hago.kernels.cuda.families import SM80


@dataclass(frozen=True)
class Case:
    """Inputs of one convolution, by their names in the kernel, and the output that they must give."""

    feeds: dict[str, np.ndarray]
    expected: np.ndarray


def make_case(params: ConvParams, seed: int = 0, zero_point: int = 3) -> Case:
    """Random inputs with the extremes among them; ``zero_point`` is the input's, which lies around the image."""
    rng = np.random.default_rng(seed)
    low, high, dtype = (-128, 128, np.int8) if params.signed else (0, 256, np.uint8)
    _, channels, k = params.sizes
    x = rng.integers(low, high, params.x).astype(dtype)
    weight = rng.integers(-128, 128, (channels, k)).astype(np.int8)
    x.flat[::7], weight.flat[::10], weight.flat[5::10] = high - 1, -128, 127
    feeds = {
        "x": x,
        "weight": weight,
        "bias": rng.integers(-9999, 9999, channels).astype(np.int32),
        "scale": (rng.uniform(0.5, 1.5, channels) * 0.005 / k**0.5).astype(np.float32),  # codes use their whole range
        "numbers": np.array([117, 2, 250, zero_point], np.int32),
    }
    if params.residual:
        feeds["residual"] = rng.integers(0, 256, params.y).astype(np.uint8)
        feeds["residual_scale"] = np.array([0.37], np.float32)
    codes = expected(params, feeds)
    assert ((codes > 2) & (codes < 250)).mean() > 0.5, "most codes are clamped: they would hide what is wrong"
    return Case(feeds, codes)


def expected(params: ConvParams, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The convolution by its definition, in int64; requantize in float32 as lowering defines it."""
    _, oh, ow, channels = params.y
    kh, kw = params.kernel
    top, left, bottom, right = params.pads
    width = ((0, 0), (top, bottom), (left, right), (0, 0))
    x = np.pad(feeds["x"].astype(np.int64), width, constant_values=int(feeds["numbers"][3]))
    weight = feeds["weight"].reshape(channels, kh, kw, -1).astype(np.int64)
    total = np.zeros(params.y, np.int64)
    for i in range(kh):
        for j in range(kw):
            rows = slice(i, i + oh * params.strides[0], params.strides[0])
            columns = slice(j, j + ow * params.strides[1], params.strides[1])
            total += x[:, rows, columns] @ weight[:, i, j].T
    value = (total + feeds["bias"]).astype(np.int32).astype(np.float32) * feeds["scale"]
    if params.residual:  # one rounding, of the sum: float64 holds product and sum exactly enough
        product = feeds["residual"].astype(np.float64) * np.float64(feeds["residual_scale"][0])
        value = (product + value.astype(np.float64)).astype(np.float32)
    zero, low, high, _ = (int(number) for number in feeds["numbers"])
    return np.clip(np.rint(value).astype(np.int64) + zero, low, high).astype(np.uint8)


def kernel_of(params: ConvParams, edit: Callable[[str], str] = lambda text: text) -> EmulatedKernel:
    """The kernel of a convolution for the emulated block, after ``edit`` of its source."""
    return emulated(source_of(conv(params, SM80), "conv"), params.shared_bytes, edit)


def run(params: ConvParams, case: Case, kernel: EmulatedKernel, seed: int = 0) -> tuple[str, int]:
    """The fault that was found ("": none), and how many elements are wrong."""
    y = np.full(params.y, 77, np.uint8)
    values = {**case.feeds, "y": y}
    arrays = [values[name.removesuffix("_ptr")] for name in kernel.arguments]
    fault = kernel(arrays, (*params.grid, 1), (params.tile.threads, 1, 1), seed)
    return fault, int((y != case.expected).sum())
