"""Depthwise and grouped convolutions for GPUs: on the emulated block, and what NVRTC makes of them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cuda_nodes import conforms, needs_compiler, needs_cuda, one_node, sass_of

from hago.kernels.cuda import depthwise as depthwise_kernels
from hago.kernels.cuda.depthwise import DepthwiseParams, depthwise
from hago.kernels.cuda.grouped import GroupedParams, grouped
from hago.kernels.cuda.loads import Window
from hago.kernels.cuda.thread_epilogue import FloatEpilogue, IntegerEpilogue
from hago.lower import reference

WINDOW: dict[str, Any] = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
SUM = {"a_scale": 0.7, "b_scale": 0.55, "r_offset": -19.3, "r_lo": 3, "r_hi": 240}


def size_of(shape: tuple[int, ...], kernel: tuple[int, int], attrs: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the output."""
    (top, left, bottom, right), strides, dilations = attrs["pads"], attrs["strides"], attrs["dilations"]
    padded = (shape[1] + top + bottom, shape[2] + left + right)
    sizes = [(p - (k - 1) * d - 1) // s + 1 for p, k, d, s in zip(padded, kernel, dilations, strides, strict=True)]
    return sizes[0], sizes[1]


def integers(
    shape: tuple[int, int, int, int], outputs: int, kernel: tuple[int, int], groups: int, window: dict[str, Any],
    *, out: str = "uint8", table: bool = False, residual: str = "", block: int = 0,
) -> Any:  # fmt: skip
    """A QConv with extreme codes and weights among random ones, whose results use their whole range."""
    rng = np.random.default_rng(7)
    depth = shape[3] // groups
    x = rng.integers(0, 256, shape).astype(np.uint8)
    w = rng.integers(-128, 128, (outputs, *kernel, depth)).astype(np.int8)
    x.flat[::7], w.flat[::10], w.flat[5::10] = 255, -128, 127
    scale = rng.uniform(0.5, 1.5, outputs) * 0.006 / np.sqrt(w[0].size) / (8 if block else 1)
    attrs = {**window, "group": groups, "x_zero_point": 13, "out": out}
    attrs |= {"y_zero_point": 100, "lo": 2, "hi": 250} if out == "uint8" else {"act_lo": -60.0, "act_hi": 70.0}
    inputs: dict[str, Any] = {"x": x, "w": w, "bias": rng.integers(-999, 999, outputs).astype(np.int32)}
    inputs |= {"scale": scale.astype(np.float32), "mult": None, "table": None, "r": None}
    if block:
        inputs["mult"] = rng.integers(1, 16, (outputs, -(-depth // block))).astype(np.int32)
        attrs["group_size"] = block
    if table:
        inputs["table"] = rng.permutation(256).astype(np.uint8)
    if residual:
        inputs["r"] = rng.integers(0, 256, (shape[0], *size_of(shape, kernel, attrs), outputs)).astype(np.uint8)
        attrs |= {**SUM, "r_first": int(residual == "first")}
    graph, feeds = one_node("QConv", inputs, attrs)
    (y,) = reference(graph)(feeds)
    assert ((y > y.min()) & (y < y.max())).mean() > 0.5, "most results are clamped: they would hide what is wrong"
    return graph, feeds


def floats(
    shape: tuple[int, int, int, int], outputs: int, kernel: tuple[int, int], groups: int, residual: bool,
    precision: str = "float32", to: str = "",
) -> Any:  # fmt: skip
    rng, dtype = np.random.default_rng(7), np.dtype(precision if precision != "bfloat16" else ml_dtypes.bfloat16)
    inputs: dict[str, Any] = {"x": rng.standard_normal(shape).astype(dtype)}
    inputs["w"] = rng.standard_normal((outputs, *kernel, shape[3] // groups)).astype(dtype)
    inputs["bias"] = rng.standard_normal(outputs).astype(np.float32)
    inputs["r"] = None
    if residual:
        inputs["r"] = rng.standard_normal((shape[0], *size_of(shape, kernel, WINDOW), outputs)).astype(np.float32)
    attrs = {**WINDOW, "group": groups, "act_lo": -2.0, "act_hi": 3.0, "precision": precision}
    return one_node("Conv", inputs, {**attrs, **({"to": to} if to else {})})


UNEVEN = {"strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2)}
DEPTHWISE = {
    "3x3, a table and a residual": (integers((2, 6, 7, 8), 8, (3, 3), 8, WINDOW, table=True, residual="first"), 4),
    "bytes to float32": (integers((1, 6, 7, 5), 5, (5, 2), 5, UNEVEN, out="float32"), 1),
    "a large kernel": (integers((1, 6, 7, 8), 8, (9, 9), 8, {**WINDOW, "pads": (4, 4, 4, 4)}, residual="second"), 1),
    "two rows, stride 2": (integers((1, 6, 9, 4), 4, (2, 3), 4, {**WINDOW, "strides": (1, 2)}), 2),
    "floats": (floats((1, 6, 7, 8), 8, (3, 3), 8, residual=True), 4),
    "float16": (floats((1, 5, 7, 8), 8, (3, 3), 8, False, "float16", "float16"), 2),
    "bfloat16": (floats((1, 5, 7, 4), 4, (3, 3), 4, False, "bfloat16", "bfloat16"), 4),
    "floats, three channels": (floats((1, 6, 7, 3), 3, (3, 3), 3, residual=False), 2),
}


@needs_compiler
@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise_convolutions_equal_their_reference(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (graph, feeds), pixels = DEPTHWISE[case]
    monkeypatch.setattr(depthwise_kernels, "pixels_of", lambda y, gpu: pixels)
    assert conforms(graph, feeds) < (1e-2 if "to" in graph.nodes[0].attrs else 1e-6)


GROUPED = {
    "words": integers((1, 6, 7, 16), 8, (3, 3), 2, WINDOW, residual="second"),
    "bytes": integers((1, 6, 5, 6), 9, (3, 2), 3, UNEVEN),
    "several outputs of each channel": integers((1, 4, 5, 4), 16, (3, 3), 4, WINDOW, out="float32"),
    "blocks with a scale each": integers((1, 5, 5, 24), 8, (3, 3), 2, WINDOW, block=8),
    "blocks of three": integers((1, 4, 5, 7), 3, (2, 2), 1, {**WINDOW, "pads": (0, 0, 0, 0)}, block=3),
    "floats": floats((1, 6, 7, 6), 8, (3, 3), 2, residual=True),
    "bfloat16": floats((1, 5, 4, 6), 9, (3, 3), 3, True, "bfloat16"),
}


@needs_compiler
@pytest.mark.parametrize("case", GROUPED)
def test_grouped_convolutions_equal_their_reference(case: str) -> None:
    graph, feeds = GROUPED[case]
    assert conforms(graph, feeds) < 1e-6


@needs_compiler
def test_a_fully_connected_layer_may_have_scales_of_groups() -> None:
    rng = np.random.default_rng(3)
    inputs: dict[str, Any] = {"x": rng.integers(0, 256, (2, 3, 20)).astype(np.uint8)}
    inputs["w"] = rng.integers(-128, 128, (6, 20)).astype(np.int8)
    inputs["bias"] = rng.integers(-999, 999, 6).astype(np.int32)
    inputs["scale"] = np.array([2e-4], np.float32)
    inputs["mult"] = rng.integers(1, 16, (6, 2)).astype(np.int8)
    attrs = {"x_zero_point": 13, "out": "uint8", "y_zero_point": 100, "lo": 2, "hi": 250, "group_size": 16}
    graph, feeds = one_node("QGemm", inputs, attrs)
    assert conforms(graph, feeds) == 0


PLANE = Window((8, 56, 56, 96), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
XY = (PLANE.x, PLANE.x)
COMPILED = {
    "depthwise": (depthwise, DepthwiseParams(PLANE, IntegerEpilogue("uint8", True, "first"), 4), "IDP", 48),
    "depthwise floats": (depthwise, DepthwiseParams(PLANE, FloatEpilogue(True), 4, "float32"), "FFMA", 144),
    "grouped": (grouped, GroupedParams(PLANE, 96, 3, 32, False, IntegerEpilogue("float32"), *XY), "IDP", 64),
    "grouped floats": (
        grouped,
        GroupedParams(PLANE, 96, 3, 32, False, FloatEpilogue(), *XY, "float16"),
        "FFMA",
        16,
    ),
}


@needs_cuda
@pytest.mark.parametrize("arch", ("sm_75", "sm_90a"))
@pytest.mark.parametrize("case", COMPILED)
def test_the_promised_instructions_are_there(case: str, arch: str) -> None:
    template, params, instruction, least = COMPILED[case]
    sass = sass_of(template(params, None, 1), arch)
    assert sass.count(instruction) >= least
    assert not sass.spills and sass.registers <= 128
