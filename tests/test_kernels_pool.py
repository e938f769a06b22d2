"""The pools against plain numpy: integers bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_harness import ISAS, assembly, run, view

from hago.kernels.cpu.families import AVX512_VNNI, Isa
from hago.kernels.cpu.registry import EMITTERS
from hago.tensor import TensorType

FEW = settings(max_examples=25)
isas = st.sampled_from(ISAS)
seeds = st.integers(0, 2**32 - 1)
bytes_ = st.integers(0, 255)


@dataclass(frozen=True)
class Case:
    shape: tuple[int, ...]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]

    @property
    def out(self) -> tuple[int, ...]:
        n, h, w, c = self.shape
        sizes = []
        for axis, size in enumerate((h, w)):
            reach = self.dilations[axis] * (self.kernel[axis] - 1) + 1
            sizes.append((size + self.pads[axis] + self.pads[axis + 2] - reach) // self.strides[axis] + 1)
        return n, *sizes, c

    @property
    def attrs(self) -> dict[str, Any]:
        return {
            "kernel_shape": list(self.kernel),
            "strides": list(self.strides),
            "pads": list(self.pads),
            "dilations": list(self.dilations),
        }


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilations = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pads = tuple(draw(st.integers(0, kernel[i % 2])) for i in range(4))
    sizes = []
    for axis in range(2):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        sizes.append(draw(st.integers(max(1, reach - pads[axis] - pads[axis + 2]), reach + 6)))
    channels = draw(st.sampled_from([1, 3, 16, 19, 33, 64, 70]))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return Case((draw(st.integers(1, 2)), *sizes, channels), kernel, strides, pads, dilations)


def windows(x: np.ndarray, case: Case, outside: float) -> tuple[np.ndarray, np.ndarray]:
    """Every tap of every window, [taps, N, OH, OW, C] (``outside`` where padded), and how many are inside."""
    _, height, width, _ = x.shape
    _, out_h, out_w, _ = case.out
    taps, inside = [], np.zeros((out_h, out_w), np.int64)
    for kh in range(case.kernel[0]):
        for kw in range(case.kernel[1]):
            h = np.arange(out_h) * case.strides[0] - case.pads[0] + kh * case.dilations[0]
            w = np.arange(out_w) * case.strides[1] - case.pads[1] + kw * case.dilations[1]
            valid = ((h >= 0) & (h < height))[:, None] & ((w >= 0) & (w < width))[None, :]
            tap = x[:, np.clip(h, 0, height - 1)[:, None], np.clip(w, 0, width - 1)[None, :]]
            taps.append(np.where(valid[None, :, :, None], tap, outside))
            inside += valid
    return np.stack(taps), inside


@FEW
@given(cases(), st.sampled_from(["uint8", "float32"]), seeds, isas)
def test_max_pool_equals_numpy(case: Case, dtype: str, seed: int, isa: Isa) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, case.shape).astype(dtype)
    if dtype == "float32":
        x -= 250
    lowest = 0 if dtype == "uint8" else -np.inf
    expected = windows(x, case, lowest)[0].max(axis=0).astype(dtype)
    op = "QMaxPool" if dtype == "uint8" else "MaxPool"
    node = view(op, {"x": x}, {"y": TensorType(dtype, case.out)}, case.attrs)
    np.testing.assert_array_equal(run(node, {"x": x}, isa)[0], expected)


@FEW
@given(cases(), st.booleans(), st.sampled_from(["uint8", "float32"]), bytes_, bytes_, seeds, isas)
def test_quantized_avg_pool_equals_numpy(
    case: Case, include_pad: bool, out: str, zero: int, y_zero: int, seed: int, isa: Isa
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, case.shape).astype(np.uint8)
    taps, inside = windows(x.astype(np.int64) - zero, case, 0)
    count = np.full_like(inside, len(taps)) if include_pad else np.maximum(inside, 1)
    scale = np.float32(rng.uniform(0.01, 3))
    acc = taps.sum(axis=0).astype(np.int32)
    each = (np.float64(scale) / count).astype(np.float32)[None, :, :, None]
    product = acc.astype(np.float32) * each
    attrs = {**case.attrs, "count_include_pad": int(include_pad), "x_zero_point": zero, "scale": float(scale)}
    if out == "uint8":
        attrs |= {"out": out, "y_zero_point": y_zero, "lo": 2, "hi": 250}
        expected = (np.rint(np.clip(product, 2 - y_zero, 250 - y_zero)) + y_zero).astype(np.uint8)
    else:
        attrs |= {"out": out, "act_lo": -3.0, "act_hi": 40.0}
        expected = np.clip(product, np.float32(-3), np.float32(40))
    node = view("QAvgPool", {"x": x}, {"y": TensorType(out, case.out)}, attrs)
    np.testing.assert_array_equal(run(node, {"x": x}, isa)[0], expected)


@FEW
@given(cases(), st.booleans(), seeds, isas)
def test_float_avg_pool_is_close_to_numpy(case: Case, include_pad: bool, seed: int, isa: Isa) -> None:
    x = np.random.default_rng(seed).standard_normal(case.shape).astype(np.float32)
    taps, inside = windows(x.astype(np.float64), case, 0)
    count = np.full_like(inside, len(taps)) if include_pad else np.maximum(inside, 1)
    attrs = {**case.attrs, "count_include_pad": int(include_pad)}
    node = view("AvgPool", {"x": x}, {"y": TensorType("float32", case.out)}, attrs)
    expected = taps.sum(axis=0) / count[None, :, :, None]
    np.testing.assert_allclose(run(node, {"x": x}, isa)[0], expected, rtol=1e-5, atol=1e-6)


global_shapes = st.tuples(
    st.integers(1, 2), st.sampled_from([1, 3, 16, 17, 40]), st.sampled_from([1, 4, 16, 23]),
    st.sampled_from([1, 5, 16, 64, 67, 130]),
)  # fmt: skip


@FEW
@given(global_shapes, bytes_, bytes_, st.sampled_from(["uint8", "float32"]), st.booleans(), seeds, isas)
def test_quantized_global_avg_pool_equals_numpy(
    shape: tuple[int, ...], zero: int, y_zero: int, out: str, brightest: bool, seed: int, isa: Isa
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, shape).astype(np.uint8)
    if brightest:
        x[:] = 255
    scale = np.float32(0.7 / (shape[1] * shape[2]))
    acc = (x.astype(np.int32) - zero).sum(axis=(1, 2), keepdims=True, dtype=np.int32)
    product = acc.astype(np.float32) * scale
    attrs: dict[str, Any] = {"x_zero_point": zero, "scale": float(scale), "out": out}
    if out == "uint8":
        attrs |= {"y_zero_point": y_zero, "lo": y_zero, "hi": 255}
        expected = (np.rint(np.clip(product, 0, 255 - y_zero)) + y_zero).astype(np.uint8)
    else:
        expected = product
    node = view("QGlobalAvgPool", {"x": x}, {"y": TensorType(out, expected.shape)}, attrs)
    np.testing.assert_array_equal(run(node, {"x": x}, isa)[0], expected)


@FEW
@given(global_shapes, seeds, isas)
def test_float_global_avg_pool_is_close_to_numpy(shape: tuple[int, ...], seed: int, isa: Isa) -> None:
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    expected = x.astype(np.float64).mean(axis=(1, 2), keepdims=True)
    node = view("GlobalAvgPool", {"x": x}, {"y": TensorType("float32", expected.shape)})
    np.testing.assert_allclose(run(node, {"x": x}, isa)[0], expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_two_threads_equal_one(isa: Isa) -> None:
    case = Case((1, 65, 64, 64), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    x = np.random.default_rng(0).integers(0, 256, case.shape).astype(np.float32)
    node = view("MaxPool", {"x": x}, {"y": TensorType("float32", case.out)}, case.attrs)
    np.testing.assert_array_equal(run(node, {"x": x}, isa, threads=2)[0], run(node, {"x": x}, isa)[0])


def test_a_window_larger_than_unrolled_is_right() -> None:
    case = Case((1, 9, 9, 20), (7, 7), (1, 1), (3, 3, 3, 3), (1, 1))
    x = np.random.default_rng(0).integers(0, 256, case.shape).astype(np.uint8)
    node = view("QMaxPool", {"x": x}, {"y": TensorType("uint8", case.out)}, case.attrs)
    np.testing.assert_array_equal(run(node, {"x": x})[0], windows(x, case, 0)[0].max(axis=0))


def test_float_max_pool_is_vectorised() -> None:
    case = Case((1, 16, 16, 64), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    node = view("MaxPool", {"x": np.zeros(case.shape, np.float32)}, {"y": TensorType("float32", case.out)},
                case.attrs)  # fmt: skip
    code = assembly(EMITTERS["hago", "MaxPool"](node, AVX512_VNNI)[0], AVX512_VNNI)
    # A maximum that keeps NaN is two comparisons and a blend of whole vectors.
    assert "vcmpltps" in code and "vcmpunordps" in code and "%zmm" in code
    assert not {"vmaxss", "vcmpss", "vucomiss", "vcmpltss", "vcmpunordss"} & set(code.split())
