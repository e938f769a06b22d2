"""Pools for GPUs on the emulated block: integers bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_nodes import conforms, single
from emulated_block import can_emulate

from hago.kernels.common.pools import PoolWindow
from hago.kernels.cuda.cuda_source import source_of
from hago.kernels.cuda.families import SM75, SM80, SM90, Gpu
from hago.kernels.cuda.nvrtc import compile_cubin, installed_version
from hago.kernels.cuda.sass import disassemble
from hago.kernels.cuda.window_pool import max_pool
from hago.lower import LoweredGraph
from hago.tensor import TensorType

pytestmark = pytest.mark.skipif(not can_emulate(), reason="g++ is not installed: no block can be emulated")

# Channels by words and one by one; a window over the border on all sides, dilated, and larger than is unrolled.
WINDOWS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "the stem's": ((1, 9, 9, 32), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "3 channels, no pads": ((2, 5, 6, 3), {"kernel_shape": [2, 3], "strides": [1, 2], "pads": [0, 0, 0, 0]}),
    "dilated": ((1, 7, 8, 6), {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 2, 2, 1], "dilations": [3, 2]}),
    "large": ((1, 9, 9, 4), {"kernel_shape": [7, 7], "strides": [3, 3], "pads": [3, 3, 3, 3]}),
}
ONE = {"dilations": [1, 1]}


def pool(op: str, window: str, x: np.ndarray, y_type: str, **attrs: Any) -> LoweredGraph:
    """A pool of ``x`` to elements of type ``y_type``."""
    shape, given = WINDOWS[window]
    kernel, strides, pads = given["kernel_shape"], given["strides"], given["pads"]
    dilations = given.get("dilations", [1, 1])
    sizes = [
        (shape[1 + i] + pads[i] + pads[2 + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(2)
    ]
    y = TensorType(y_type, (shape[0], *sizes, shape[3]))
    return single(op, {"x": x}, {}, ("x",), y, **{**ONE, **given, **attrs})


def codes(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def reals(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32) - np.float32(3)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_maximum(window: str, dtype: str) -> None:
    shape = WINDOWS[window][0]
    x = codes(shape) if dtype == "uint8" else reals(shape)
    graph = pool("QMaxPool" if dtype == "uint8" else "MaxPool", window, x, dtype)
    assert conforms(graph, {"x": x}) == 0


def test_the_maximum_of_a_nan_is_one() -> None:
    x = reals((1, 9, 9, 32))
    x[0, 4, 4, 3:9] = np.nan
    x[0, 0, 0] = -np.inf
    assert conforms(pool("MaxPool", "the stem's", x, "float32"), {"x": x}) == 0


EPILOGUES = {
    "uint8": {"out": "uint8", "y_zero_point": 3, "lo": 2, "hi": 250},
    "float32": {"out": "float32", "act_lo": -3.0, "act_hi": 40.0},
}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("include_pad", [0, 1])
def test_average_of_codes(window: str, include_pad: int) -> None:
    out = "uint8" if include_pad == (window == "dilated") else "float32"
    x = codes(WINDOWS[window][0])
    epilogue = EPILOGUES[out]
    graph = pool("QAvgPool", window, x, out, count_include_pad=include_pad, x_zero_point=17, scale=0.7, **epilogue)
    assert conforms(graph, {"x": x}) == 0


@pytest.mark.parametrize("window", WINDOWS)
def test_average_of_floats(window: str) -> None:
    x = reals(WINDOWS[window][0])
    include_pad = int(window == "dilated")
    assert conforms(pool("AvgPool", window, x, "float32", count_include_pad=include_pad), {"x": x}) < 1e-6


@pytest.mark.parametrize("out", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(1, 7, 7, 64), (2, 3, 5, 7), (2, 40, 40, 1), (1, 1, 1, 4)], ids=str)
def test_global_average_of_codes(shape: tuple[int, ...], out: str) -> None:
    x = codes(shape)
    x[0] = 255
    scale = 0.7 / (shape[1] * shape[2])
    y = TensorType(out, (shape[0], 1, 1, shape[3]))
    graph = single("QGlobalAvgPool", {"x": x}, {}, ("x",), y, x_zero_point=17, scale=scale, **EPILOGUES[out])
    assert conforms(graph, {"x": x}) == 0


@pytest.mark.parametrize("shape", [(1, 7, 7, 48), (2, 5, 4, 3), (2, 6, 6, 1)], ids=str)
def test_global_average_of_floats(shape: tuple[int, ...]) -> None:
    x = reals(shape)
    y = TensorType("float32", (shape[0], 1, 1, shape[3]))
    assert conforms(single("GlobalAvgPool", {"x": x}, {}, ("x",), y), {"x": x}) < 1e-6


@pytest.mark.skipif(not installed_version(), reason="the extra cuda is not installed")
@pytest.mark.parametrize("gpu", [SM75, SM80, SM90], ids=lambda gpu: gpu.arch)
def test_a_thread_reads_as_much_as_keeps_the_gpu_busy(gpu: Gpu) -> None:
    for images, size in ((1, 4), (64, 16)):
        window = ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), False)
        params = PoolWindow("QMaxPool", "uint8", "uint8", (images, 56, 56, 64), (images, 28, 28, 64), *window)
        sass = disassemble(compile_cubin(source_of(max_pool(params, gpu, 1), "kernel").text, gpu.arch))
        loads = [name for name in sass.instructions if name.startswith("LDG")]
        assert not sass.spills and all((".128" in name) == (size == 16) for name in loads), loads
