"""The quantized pointwise kernels against plain numpy, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from emulated_kernels import can_emulate, kernel_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes
from kernel_harness import ISAS, assembly, run, view

from hago.kernels.common.broadcast import nest
from hago.kernels.common.movement import order
from hago.kernels.common.pointwise import Lookup
from hago.kernels.cpu.families import AVX2, AVX512_VNNI, NEON, Isa
from hago.kernels.cpu.lookup import lookup
from hago.kernels.cpu.registry import EMITTERS
from hago.kernels.cpu.vector import widths
from hago.lower import arithmetic
from hago.tensor import TensorType

FEW = settings(max_examples=50)
isas = st.sampled_from(ISAS)
seeds = st.integers(0, 2**32 - 1)
bytes_ = st.integers(0, 255)
real_scales = st.floats(-4, 4, width=32)
scales = st.sampled_from([1e-3, 0.0312, 0.5, 1.0, 3.7, 1e-30, 1e20]).map(np.float32)


def requantize(acc: np.ndarray, scale: Any, zero: int, lo: int, hi: int) -> np.ndarray:
    product = acc.astype(np.int32).astype(np.float32) * np.float32(scale)
    return (np.rint(np.clip(product, lo - zero, hi - zero)).astype(np.int32) + zero).astype(np.uint8)


@st.composite
def epilogues(draw: st.DrawFn) -> dict[str, int]:
    lo, hi = sorted((draw(bytes_), draw(bytes_)))
    return {"y_zero_point": draw(bytes_), "lo": lo, "hi": hi}


def extreme_bytes(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.integers(0, 256, shape).astype(np.uint8)
    flat = values.reshape(-1)
    flat[: min(2, flat.size)] = (0, 255)[: min(2, flat.size)]
    return values


shapes = mutually_broadcastable_shapes(num_shapes=2, min_dims=1, max_dims=4, max_side=21)


def clamps(epilogue: dict[str, int]) -> dict[str, int]:
    return {name: epilogue[name] for name in ("lo", "hi")}


@FEW
@given(shapes, seeds, isas, epilogues(), real_scales, real_scales, st.floats(-300, 300, width=32))
def test_add_equals_the_reference(
    pair: Any, seed: int, isa: Isa, epilogue: dict[str, int], a_scale: float, b_scale: float, offset: float
) -> None:
    rng = np.random.default_rng(seed)
    feeds = {"a": extreme_bytes(rng, pair.input_shapes[0]), "b": extreme_bytes(rng, pair.input_shapes[1])}
    attrs = {"a_scale": a_scale, "b_scale": b_scale, "offset": offset, **clamps(epilogue)}
    node = view("QAdd", feeds, {"y": TensorType("uint8", pair.result_shape)}, attrs)
    expected = arithmetic.weighted_sum(feeds["a"], feeds["b"], a_scale, b_scale, offset, *clamps(epilogue).values())
    np.testing.assert_array_equal(run(node, feeds, isa)[0], expected)


def exact_fma(a: np.ndarray, b: float, c: Any) -> np.ndarray:
    """float32(a * b + c) by way of exact fractions: slow, and right by construction."""
    a, c = np.broadcast_arrays(a, np.asarray(c, np.float32))
    found = np.empty(a.shape, np.float32)
    for at in np.ndindex(a.shape):
        value = Fraction(float(a[at])) * Fraction(b) + Fraction(float(c[at]))
        found[at] = nearest_float32(value)
    return found


def nearest_float32(value: Fraction) -> np.float32:
    """Ties to even."""
    guess = np.float32(float(value))
    around = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    best = min(abs(Fraction(float(v)) - value) for v in around)
    nearest = [v for v in around if abs(Fraction(float(v)) - value) == best]
    return next((v for v in nearest if v.view(np.int32) % 2 == 0), nearest[0])


@given(
    st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=20), st.floats(-4, 4, width=32),
    st.floats(-300, 300, width=32),
)  # fmt: skip
def test_the_reference_has_the_fused_multiply_add_of_hardware(a: list[float], b: float, c: float) -> None:
    values = np.array(a, np.float32)
    np.testing.assert_array_equal(arithmetic.fma(values, np.float32(b), np.float32(c)), exact_fma(values, b, c))


@FEW
@given(shapes, seeds, isas, bytes_, bytes_, epilogues(), scales)
def test_mul_equals_numpy(
    pair: Any, seed: int, isa: Isa, za: int, zb: int, epilogue: dict[str, int], scale: np.float32
) -> None:
    rng = np.random.default_rng(seed)
    feeds = {"a": extreme_bytes(rng, pair.input_shapes[0]), "b": extreme_bytes(rng, pair.input_shapes[1])}
    attrs = {"a_zero_point": za, "b_zero_point": zb, "scale": float(scale), **epilogue}
    node = view("QMul", feeds, {"y": TensorType("uint8", pair.result_shape)}, attrs)
    acc = (feeds["a"].astype(np.int64) - za) * (feeds["b"].astype(np.int64) - zb)
    expected = requantize(acc, scale, epilogue["y_zero_point"], epilogue["lo"], epilogue["hi"])
    np.testing.assert_array_equal(run(node, feeds, isa)[0], expected)


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_add_in_two_threads_equals_one(isa: Isa) -> None:
    rng = np.random.default_rng(0)
    feeds = {"a": extreme_bytes(rng, (1, 57, 43, 67)), "b": extreme_bytes(rng, (1, 57, 43, 67))}
    attrs = {"a_scale": 0.53, "b_scale": 0.69, "offset": -40.0, "lo": 100, "hi": 255}
    node = view("QAdd", feeds, {"y": TensorType("uint8", (1, 57, 43, 67))}, attrs)
    np.testing.assert_array_equal(run(node, feeds, isa, threads=2)[0], run(node, feeds, isa)[0])


def test_halves_are_rounded_to_even() -> None:
    x = np.arange(256, dtype=np.uint8)
    attrs = {"a_scale": 0.5, "b_scale": 0.0, "offset": 2.0, "lo": 0, "hi": 255}
    node = view("QAdd", {"a": x, "b": x}, {"y": TensorType("uint8", (256,))}, attrs)
    expected = (np.rint(x / 2) + 2).astype(np.uint8)
    assert expected[1] == 2 and expected[3] == 4  # 2.5 -> 2, 3.5 -> 4
    np.testing.assert_array_equal(run(node, {"a": x, "b": x})[0], expected)


@FEW
@given(st.integers(1, 12), st.integers(1, 70), seeds, isas, epilogues(), st.booleans())
def test_scale_shift_equals_the_reference(
    pixels: int, channels: int, seed: int, isa: Isa, epilogue: dict[str, int], known: bool
) -> None:
    rng = np.random.default_rng(seed)
    feeds = {
        "x": extreme_bytes(rng, (1, pixels, 2, channels)),
        "mul": rng.uniform(-3, 3, channels).astype(np.float32),
        "add": rng.uniform(-400, 400, channels).astype(np.float32),
    }
    real = arithmetic.fma(feeds["x"].astype(np.float32), feeds["mul"], feeds["add"])
    expected = np.rint(np.clip(real, epilogue["lo"], epilogue["hi"])).astype(np.uint8)
    y = {"y": TensorType("uint8", feeds["x"].shape)}
    node = view("QScaleShift", feeds, y, clamps(epilogue), constants=("mul", "add") if known else ())
    np.testing.assert_array_equal(run(node, feeds, isa)[0], expected)


@FEW
@given(
    st.sampled_from([(1, 7), (300,), (2, 3, 5, 7), (1, 17, 64), (1,)]),
    st.sampled_from(["uint8", "float32"]),
    st.sampled_from([*ISAS, replace(AVX512_VNNI, lookup="vbmi", features=("avx512vbmi",))]),
    seeds,
)
def test_lookup_equals_numpy(shape: tuple[int, ...], dtype: str, isa: Isa, seed: int) -> None:
    rng = np.random.default_rng(seed)
    feeds = {"x": extreme_bytes(rng, shape), "table": rng.integers(0, 256, 256).astype(dtype)}
    node = view("QLookup", feeds, {"y": TensorType(dtype, shape)}, constants=("table",))
    np.testing.assert_array_equal(run(node, feeds, isa)[0], feeds["table"][feeds["x"]])


@pytest.mark.aarch64
@pytest.mark.skipif(not can_emulate(), reason="no emulated AArch64 machine (scripts/aarch64_sysroot.py makes it)")
@pytest.mark.parametrize("size", [63, 64, 256, 300])
def test_lookup_on_arm_equals_numpy(size: int) -> None:
    rng = np.random.default_rng(size)
    x, table = (rng.integers(0, 256, n).astype(np.uint8) for n in (size, 256))
    x[:: size // 8] = [0, 63, 64, 127, 128, 191, 192, 255, 1][: len(x[:: size // 8])]
    got = np.zeros(size, np.uint8)
    kernel_of(lookup, Lookup((size,), "uint8"), NEON)(x, table, got)
    np.testing.assert_array_equal(got, table[x])


@st.composite
def permuted(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 5, 9, 19, 35]), min_size=1, max_size=4)))
    return shape, tuple(draw(st.permutations(range(len(shape)))))


@FEW
@given(permuted(), seeds, isas, scales, epilogues())
def test_quantize_equals_numpy(layout: Any, seed: int, isa: Isa, scale: np.float32, epilogue: dict[str, int]) -> None:
    shape, perm = layout
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape) * 90).astype(np.float32) * scale
    flat = x.reshape(-1)
    edge = np.array([np.inf, -np.inf, 0.0, -0.0, 3e38, 0.5 * scale, 1.5 * scale, -2.5 * scale], np.float32)
    flat[: edge.size] = edge[: flat.size]
    zero, lo, hi = epilogue["y_zero_point"], epilogue["lo"], epilogue["hi"]
    with np.errstate(over="ignore"):
        ratio = x / scale
    expected = np.clip(np.rint(ratio.astype(np.float64)) + zero, lo, hi).astype(np.uint8).transpose(perm)
    attrs = {"scale": float(scale), "zero_point": zero, "lo": lo, "hi": hi, "perm": list(perm)}
    node = view("Quantize", {"x": x}, {"y": TensorType("uint8", expected.shape)}, attrs)
    np.testing.assert_array_equal(run(node, {"x": x}, isa)[0], expected)


@FEW
@given(permuted(), seeds, isas, scales, bytes_)
def test_dequantize_equals_numpy(layout: Any, seed: int, isa: Isa, scale: np.float32, zero: int) -> None:
    shape, perm = layout
    x = extreme_bytes(np.random.default_rng(seed), shape)
    expected = ((x.astype(np.int32) - zero).astype(np.float32) * scale).transpose(perm)
    attrs = {"scale": float(scale), "zero_point": zero, "perm": list(perm)}
    node = view("Dequantize", {"x": x}, {"y": TensorType("float32", expected.shape)}, attrs)
    np.testing.assert_array_equal(run(node, {"x": x}, isa)[0], expected)


def test_scales_are_inputs_so_that_one_kernel_serves_all() -> None:
    x = np.zeros((1, 3, 8, 8), np.float32)
    y = {"y": TensorType("uint8", (1, 8, 8, 3))}
    calls = [
        EMITTERS["hago", "Quantize"](
            view("Quantize", {"x": x}, y, {"scale": scale, "zero_point": zero, "perm": [0, 2, 3, 1]}), AVX2
        )[0]
        for scale, zero in ((0.1, 3), (0.2, 128))
    ]
    assert repr(calls[0].params) == repr(calls[1].params)


def test_conversion_with_transposition_is_vectorised() -> None:
    x = np.zeros((1, 3, 64, 64), np.float32)
    attrs = {"scale": 0.1, "zero_point": 3, "perm": [0, 2, 3, 1]}
    node = view("Quantize", {"x": x}, {"y": TensorType("uint8", (1, 64, 64, 3))}, attrs)
    call = EMITTERS["hago", "Quantize"](node, AVX512_VNNI)[0]
    code = assembly(call, AVX512_VNNI)
    assert "vdivps" in code and "divss" not in code


def test_dimensions_are_merged() -> None:
    assert nest((1, 56, 56, 64), [(1, 56, 56, 64), (1, 56, 56, 64)]).dims == (56 * 56 * 64,)
    assert nest((1, 56, 56, 64), [(1, 56, 56, 64), (64,)]).dims == (56 * 56, 64)
    assert nest((2, 3, 4), [(2, 3, 4), ()]).strides == ((1,), (0,))
    assert nest((1, 1), [(1, 1), (1,)]).dims == (1,)
    assert order((1, 3, 224, 224), (0, 2, 3, 1)).dims == (224 * 224, 3)
    assert order((2, 3, 4), (0, 1, 2)).dims == (24,)


def test_widths_cover_once() -> None:
    assert widths(13, 8) == [(0, 8), (8, 4), (12, 1)]
    assert widths(3, 16) == [(0, 2), (2, 1)]
