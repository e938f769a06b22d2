"""Softmax, layer normalization and reductions against numpy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_harness import ISAS, assembly, run, type_of, view

from hago.kernels.cpu.families import AVX512_VNNI, Isa
from hago.kernels.cpu.registry import EMITTERS
from hago.tensor import TensorType

FEW = settings(max_examples=25)
isas = st.sampled_from(ISAS)
seeds = st.integers(0, 2**32 - 1)
sides = st.sampled_from([1, 2, 3, 7, 16, 33, 99, 130, 200])
shapes = st.lists(sides, min_size=1, max_size=3).filter(lambda s: np.prod(s) < 40_000).map(tuple)


def sample(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 5).astype(np.float32)


@FEW
@given(st.data(), shapes, st.booleans(), seeds, isas)
def test_softmax(data: Any, shape: tuple[int, ...], log: bool, seed: int, isa: Isa) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = sample(shape, seed)
    less = x.astype(np.float64) - x.max(axis=axis, keepdims=True)
    total = np.exp(less).sum(axis=axis, keepdims=True)
    expected = less - np.log(total) if log else np.exp(less) / total
    node = view("LogSoftmax" if log else "Softmax", {"x": x}, {"y": type_of(x)}, {"axis": axis}, domain="")
    np.testing.assert_allclose(run(node, {"x": x}, isa)[0], expected, rtol=3e-6, atol=3e-7 * (1 + 20 * log))


def test_softmax_of_masked_scores() -> None:
    x = sample((4, 99), 0)
    x[:, 50:] = -np.inf
    node = view("Softmax", {"x": x}, {"y": type_of(x)}, domain="")
    result = run(node, {"x": x})[0]
    assert np.all(result[:, 50:] == 0)
    np.testing.assert_allclose(result.sum(axis=1), 1, rtol=1e-6)


@FEW
@given(st.data(), shapes, st.booleans(), seeds, isas)
def test_layer_normalization(data: Any, shape: tuple[int, ...], biased: bool, seed: int, isa: Isa) -> None:
    axis = data.draw(st.integers(-len(shape), -1))
    rng = np.random.default_rng(seed)
    x = sample(shape, seed) + np.float32(3)
    feeds = {"x": x, "s": rng.standard_normal(shape[axis:]).astype(np.float32)}
    if biased:
        feeds["b"] = rng.standard_normal(shape[axis:]).astype(np.float32)
    axes = tuple(range(axis, 0))
    wide = x.astype(np.float64)
    mean = wide.mean(axis=axes, keepdims=True)
    inverse = 1 / np.sqrt(((wide - mean) ** 2).mean(axis=axes, keepdims=True) + 1e-3)
    expected = (wide - mean) * inverse * feeds["s"] + feeds.get("b", 0)
    outputs = {"y": type_of(x), "m": TensorType("float32", mean.shape), "i": TensorType("float32", mean.shape)}
    attrs = {"axis": axis, "epsilon": 1e-3}
    found = run(view("LayerNormalization", feeds, outputs, attrs, domain=""), feeds, isa)
    for result, truth in zip(found, (expected, mean, inverse), strict=True):
        np.testing.assert_allclose(result, truth, rtol=2e-5, atol=2e-5 * max(1, np.abs(truth).max() / 10))


REDUCTIONS = {
    "ReduceSum": np.sum,
    "ReduceMean": np.mean,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceL1": lambda x, **k: np.abs(x).sum(**k),
    "ReduceL2": lambda x, **k: np.sqrt((x * x).sum(**k)),
    "ReduceSumSquare": lambda x, **k: (x * x).sum(**k),
}


@FEW
@given(st.data(), shapes, st.sampled_from(sorted(REDUCTIONS)), st.booleans(), seeds, isas)
def test_float_reductions(data: Any, shape: tuple[int, ...], op: str, keep: bool, seed: int, isa: Isa) -> None:
    axes = sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    x = sample(shape, seed)
    expected = REDUCTIONS[op](x.astype(np.float64), axis=tuple(axes), keepdims=keep)
    feeds = {"x": x, "axes": np.array(axes)}
    y = {"y": TensorType("float32", expected.shape)}
    node = view(op, feeds, y, {"keepdims": int(keep)}, domain="", constants=("axes",))
    scale = np.abs(x).astype(np.float64).sum(axis=tuple(axes), keepdims=keep).max()
    np.testing.assert_allclose(run(node, feeds, isa)[0], expected, rtol=1e-5, atol=1e-6 * scale)


@FEW
@given(st.data(), shapes, st.sampled_from(["ReduceSum", "ReduceMax", "ReduceMin"]),
       st.sampled_from(["int32", "int64"]), seeds, isas)  # fmt: skip
def test_integer_reductions(data: Any, shape: tuple[int, ...], op: str, dtype: str, seed: int, isa: Isa) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = np.random.default_rng(seed).integers(-1000, 1000, shape).astype(dtype)
    expected = REDUCTIONS[op](x, axis=axis).astype(dtype)
    feeds = {"x": x, "axes": np.array([axis])}
    node = view(op, feeds, {"y": type_of(expected)}, {"keepdims": 0}, domain="", constants=("axes",))
    np.testing.assert_array_equal(run(node, feeds, isa)[0], expected)


def test_reduction_over_everything() -> None:
    x = sample((3, 5, 7), 0)
    node = view("ReduceMean", {"x": x}, {"y": TensorType("float32", ())}, {"keepdims": 0}, domain="")
    np.testing.assert_allclose(run(node, {"x": x})[0], x.mean(), rtol=1e-5)


@FEW
@given(st.data(), shapes, st.booleans(), st.booleans(), st.sampled_from(["float32", "uint8"]), seeds, isas)
def test_arg_extremes(
    data: Any, shape: tuple[int, ...], least: bool, last: bool, dtype: str, seed: int, isa: Isa
) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    # Few values, so that there are equals.
    x = np.random.default_rng(seed).integers(0, 5, shape).astype(dtype)
    looked = np.flip(x, axis) if last else x
    expected = (np.argmin if least else np.argmax)(looked, axis=axis)
    if last:
        expected = shape[axis] - 1 - expected
    attrs = {"axis": axis, "keepdims": 0, "select_last_index": int(last)}
    y = {"y": TensorType("int64", expected.shape)}
    node = view("ArgMin" if least else "ArgMax", {"x": x}, y, attrs, domain="")
    np.testing.assert_array_equal(run(node, {"x": x}, isa)[0], expected)


@pytest.mark.parametrize("op", ["Softmax", "LayerNormalization"])
def test_rows_are_vectorised(op: str) -> None:
    feeds = {"x": sample((99, 64), 0)}
    if op == "LayerNormalization":
        feeds |= {"s": sample((64,), 1), "b": sample((64,), 2)}
    node = view(op, feeds, {"y": type_of(feeds["x"])}, domain="")
    (call,) = EMITTERS["", op](node, AVX512_VNNI)
    code = assembly(call, AVX512_VNNI)
    assert "%zmm" in code and "expf" not in code
