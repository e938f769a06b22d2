"""Quantized operators of one node each, against the integers that define them (ONNX's evaluator, or numpy)."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import hago
from hago.errors import ModelError, UnsupportedOpError

F32 = np.float32
MICROSOFT = "com.microsoft"
ELEMENTS = {t.__name__: helper.np_dtype_to_tensor_dtype(np.dtype(t)) for t in (F32, np.uint8, np.int8, np.int32)}
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _the_same_numbers_in_any_order(request: pytest.FixtureRequest) -> None:
    global RNG
    RNG = np.random.default_rng(zlib.crc32(request.node.name.encode()))


def codes(dtype: Any, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max + 1, shape).astype(dtype)


def model_of(
    op: str, inputs: list[np.ndarray | None], fed: tuple[int, ...], types: str = "uint8", domain: str = "", **attrs: Any
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one node: the inputs numbered in ``fed`` are fed, the others constants; and what is fed.

    ``types`` are those of the outputs.
    """
    names = ["" if array is None else f"x{i}" for i, array in enumerate(inputs)]
    results = [helper.make_tensor_value_info(f"y{i}", ELEMENTS[t], None) for i, t in enumerate(types.split())]
    node = helper.make_node(op, names, [r.name for r in results], "node", domain=domain, **attrs)
    given = {names[i]: inputs[i] for i in fed}
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in given.items()
    ]  # type: ignore[union-attr]
    held = [
        numpy_helper.from_array(a, n) for n, a in zip(names, inputs, strict=True) if a is not None and n not in given
    ]
    graph = helper.make_graph([node], "one", infos, results, held)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), given  # type: ignore[return-value]


def check(model: onnx.ModelProto, feeds: dict[str, np.ndarray], expected: list[np.ndarray] | None = None) -> None:
    """Integers must be equal; float32 may differ in its last bits."""
    wanted: Any = ReferenceEvaluator(model).run(None, feeds) if expected is None else expected
    for got, right in zip(hago.compile(model, threads=1).run(feeds), wanted, strict=True):
        assert got.dtype == right.dtype
        if right.dtype == F32:
            np.testing.assert_allclose(got, right, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(got, right)


WEIGHTS = {"int8": (np.int8, 0), "uint8": (np.uint8, 128), "uneven": (np.uint8, 101), "shifted": (np.int8, -7)}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("x_type", [np.uint8, np.int8])
@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("fed", [(0,), (0, 3)])
def test_qlinear_conv(weights: str, x_type: Any, channels: bool, fed: tuple[int, ...]) -> None:
    w_type, middle = WEIGHTS[weights]
    scale = F32([0.01, 0.02, 0.013, 0.004]) if channels else F32(0.01)
    zeros = np.full(4 if channels else (), middle, w_type)
    bias = RNG.integers(-2000, 2000, 4).astype(np.int32)
    inputs = [
        codes(x_type, 1, 3, 6, 6),
        F32(0.03),
        x_type(5),
        codes(w_type, 4, 3, 3, 3),
        scale,
        zeros,
        F32(0.4),
        x_type(9),
        bias,
    ]
    model, feeds = model_of("QLinearConv", inputs, fed, x_type.__name__, pads=[1, 1, 1, 1], strides=[2, 1])
    check(model, feeds)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("fed", [(0,), (0, 3)])
def test_qlinear_matmul(weights: str, fed: tuple[int, ...]) -> None:
    w_type, middle = WEIGHTS[weights]
    inputs = [
        codes(np.uint8, 5, 20),
        F32(0.03),
        np.uint8(120),
        codes(w_type, 20, 6),
        F32(0.01),
        w_type(middle),
        F32(0.5),
        np.uint8(118),
    ]
    check(*model_of("QLinearMatMul", inputs, fed))  # type: ignore[arg-type]


def test_qlinear_matmul_with_a_scale_for_every_row_and_column() -> None:
    rows, columns = F32([0.01, 0.02, 0.03, 0.01, 0.02]), F32([0.01, 0.04, 0.02])
    zeros = np.array([3, 100, 128, 7, 200], np.uint8), np.array([0, 3, -9], np.int8)
    a, b = codes(np.uint8, 5, 20), codes(np.int8, 20, 3)
    inputs = [a, rows, zeros[0], b, columns, zeros[1], F32(0.5), np.uint8(118)]
    sums = (a.astype(np.int32) - zeros[0].reshape(-1, 1)) @ (b.astype(np.int32) - zeros[1])
    real = np.rint(sums.astype(F32) * (rows.reshape(-1, 1) * columns / F32(0.5))) + 118
    model, feeds = model_of("QLinearMatMul", inputs, (0,))  # type: ignore[arg-type]
    check(model, feeds, [np.clip(real, 0, 255).astype(np.uint8)])


@settings(max_examples=25)
@given(
    st.integers(1, 1200),
    st.sampled_from([np.uint8, np.int8]),
    st.sampled_from([np.uint8, np.int8]),
    st.booleans(),
    st.sets(st.integers(1, 3)),
)
def test_integer_products_are_exact(depth: int, a_type: Any, b_type: Any, extreme: bool, fed: set[int]) -> None:
    """Also where their sums leave what float32 can hold, and whatever is known at run time alone."""
    a, b = codes(a_type, 3, depth), codes(b_type, depth, 4)
    if extreme:
        a[:], b[:] = np.iinfo(a_type).max, np.iinfo(b_type).min
    inputs = [a, b, a_type(RNG.integers(0, 100)), b_type(RNG.integers(0, 100))]
    sums = (a.astype(np.int64) - int(inputs[2])) @ (b.astype(np.int64) - int(inputs[3]))
    model, feeds = model_of("MatMulInteger", inputs, (0, *sorted(fed)), "int32")  # type: ignore[arg-type]
    check(model, feeds, [sums.astype(np.int32)])


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (2, 700, 3, 3), (6, 1, 3, 3)])
@pytest.mark.parametrize("fed", [(0,), (0, 2)])
def test_integer_convolution_is_exact(shape: tuple[int, ...], fed: tuple[int, ...]) -> None:
    group = shape[0] if shape[1] == 1 else 1
    weights = np.full(shape, -127, np.int8) if shape[1] == 700 else codes(np.int8, *shape)
    x = codes(np.uint8, 1, shape[1] * group, 5, 5)
    check(*model_of("ConvInteger", [x, weights, np.uint8(9)], fed, "int32", group=group, pads=[1, 0, 0, 2]))


@pytest.mark.parametrize("kind", ["normal", "positive", "negative", "zero"])
def test_dynamic_quantization(kind: str) -> None:
    x = RNG.standard_normal((4, 7)).astype(F32)
    x = {"normal": x, "positive": abs(x) + 1, "negative": -abs(x) - 1, "zero": x * 0}[kind]
    model, feeds = model_of("DynamicQuantizeLinear", [x], (0,), "uint8 float32 uint8")
    # ONNX divides zero by zero where all is zero; ONNX Runtime takes 1 for the scale.
    zero = [np.zeros((4, 7), np.uint8), F32(1), np.uint8(0)]
    check(model, feeds, [np.asarray(z) for z in zero] if kind == "zero" else None)


# --- operators of com.microsoft ---------------------------------------------------------------------

A, B, Y = (F32(0.05), np.uint8(120)), (F32(0.03), np.uint8(100)), (F32(0.07), np.uint8(130))


def real(x: np.ndarray, pair: tuple[Any, Any]) -> np.ndarray:
    return (x.astype(np.float64) - pair[1]) * pair[0]


def unrounded(x: np.ndarray, pair: tuple[Any, Any] = Y) -> np.ndarray:
    """Where exact values lie between the codes."""
    return x / pair[0].astype(np.float64) + pair[1]


def near(model: onnx.ModelProto, feeds: dict[str, np.ndarray], exact: np.ndarray) -> None:
    """Each code is the nearest; values within rounding of halfway may go either way, by the order of the steps."""
    got = hago.compile(model, threads=1).run(feeds)[0]
    assert got.dtype == np.uint8
    assert np.abs(got - np.clip(exact, 0, 255)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(("op", "function"), [("QLinearAdd", np.add), ("QLinearMul", np.multiply)])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (3, 1, 1), (1,)])
def test_binary(op: str, function: Any, shape: tuple[int, ...]) -> None:
    a, b = codes(np.uint8, 2, 3, 8, 8), codes(np.uint8, *shape)
    model, feeds = model_of(op, [a, *A, b, *B, *Y], (0, 3), domain=MICROSOFT)
    near(model, feeds, unrounded(function(real(a, A), real(b, B))))


def pooled(x: np.ndarray) -> np.ndarray:
    return x.reshape(2, 3, 4, 2, 4, 2).mean(axis=(3, 5))


def softmax(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    e = np.exp(x - x.max(axis=axes, keepdims=True))
    return e / e.sum(axis=axes, keepdims=True)


UNARY: dict[str, tuple[Any, dict[str, Any]]] = {
    "QLinearSigmoid": (lambda x: 1 / (1 + np.exp(-x)), {}),
    "QLinearLeakyRelu": (lambda x: np.where(x < 0, x * F32(0.2), x), {"alpha": 0.2}),
    "QLinearGlobalAveragePool": (lambda x: x.mean(axis=(2, 3), keepdims=True), {}),
    "QLinearAveragePool": (pooled, {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "QLinearSoftmax": (lambda x: softmax(x, (-1,)), {"axis": -1, "opset": 13}),
    "QLinearSoftmax of old": (lambda x: softmax(x, (1, 2, 3)), {"axis": 1, "opset": 12}),
    "QLinearReduceMean": (lambda x: x.mean(axis=(1,)), {"axes": [1], "keepdims": 0}),
}


@pytest.mark.parametrize("case", UNARY)
def test_unary(case: str) -> None:
    function, attrs = UNARY[case]
    y = (F32(1 / 256), np.uint8(0)) if "Softmax" in case else Y
    x = codes(np.uint8, 2, 3, 8, 8)
    model, feeds = model_of(case.split()[0], [x, *A, *y], (0,), domain=MICROSOFT, **attrs)
    near(model, feeds, unrounded(function(real(x, A)), y))


def test_concat_and_where() -> None:
    a, b = codes(np.uint8, 2, 3, 4), codes(np.uint8, 2, 5, 4)
    model, feeds = model_of("QLinearConcat", [*Y, a, *A, b, *B], (2, 5), domain=MICROSOFT, axis=1)
    near(model, feeds, unrounded(np.concatenate([real(a, A), real(b, B)], axis=1)))
    c = codes(np.uint8, 2, 3, 4)
    model, feeds = model_of("QLinearWhere", [a > 99, a, *A, c, *B, *Y], (0, 1, 4), domain=MICROSOFT)
    near(model, feeds, unrounded(np.where(a > 99, real(a, A), real(c, B))))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("result", ["codes", "real"])
def test_gemm(weights: str, turned: int, result: str) -> None:
    w_type, middle = WEIGHTS[weights]
    a, b = codes(np.uint8, 5, 20), codes(w_type, 20, 6)
    bias = RNG.integers(-3000, 3000, 6).astype(np.int32)
    inputs = [a.T.copy() if turned else a, *A, b.T.copy() if turned else b, F32(0.01), w_type(middle), bias]
    model, feeds = model_of(
        "QGemm", [*inputs, *(Y if result == "codes" else ())], (0,), "uint8" if result == "codes" else "float32",
        MICROSOFT, transA=turned, transB=turned, alpha=0.5,
    )  # fmt: skip
    sums = ((a.astype(np.int32) - 120) @ (b.astype(np.int32) - middle) + bias).astype(F32)
    if result == "codes":
        near(model, feeds, unrounded(sums * (0.5 * np.float64(A[0]) * np.float64(F32(0.01)))))
    else:
        check(model, feeds, [sums * (F32(0.5) * A[0] * F32(0.01))])


@pytest.mark.parametrize("weights", WEIGHTS)
def test_products_with_real_results(weights: str) -> None:
    w_type, middle = WEIGHTS[weights]
    x, b = RNG.standard_normal((5, 20)).astype(F32), codes(w_type, 20, 6)
    w = b.astype(np.int64) - middle
    low, high = min(x.min(), F32(0)), max(x.max(), F32(0))
    scale = (high - low) / F32(255)
    zero = np.uint8(np.rint(-low / scale))
    q = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8)
    wanted = ((q.astype(np.int64) - zero) @ w).astype(F32) * (scale * F32(0.01))
    model, feeds = model_of("DynamicQuantizeMatMul", [x, b, F32(0.01), w_type(middle)], (0,), "float32", MICROSOFT)
    check(model, feeds, [wanted])
    inputs = [q, b, scale, F32(0.01), zero, w_type(middle)]
    for fed in ((0,), (0, 2, 4)):
        model, feeds = model_of("MatMulIntegerToFloat", inputs, fed, "float32", MICROSOFT)  # type: ignore[arg-type]
        check(model, feeds, [wanted])


def test_what_cannot_be_converted_is_refused_on_import() -> None:
    x = codes(np.uint8, 1, 2, 2, 3)
    model, _ = model_of("QLinearGlobalAveragePool", [x, *A, *Y], (0,), domain=MICROSOFT, channels_last=1)
    with pytest.raises(UnsupportedOpError, match="its channels come last"):
        hago.load_model(model)
    model, _ = model_of("QAttention", [x, *A], (0,), domain=MICROSOFT)
    with pytest.raises(UnsupportedOpError, match=r"operator QAttention of domain com\.microsoft"):
        hago.load_model(model)


# --- element types of QuantizeLinear ----------------------------------------------------------------


def round_trip(code: int, zero: float, scale: np.ndarray, **attrs: Any) -> onnx.ModelProto:
    """QuantizeLinear and DequantizeLinear of x [3, 5]."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attrs),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attrs),
    ]
    zeros = helper.make_tensor("z", code, scale.shape, [zero] * scale.size)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 5])
    graph = helper.make_graph(
        nodes,
        "g",
        [x],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(scale, "s"), zeros],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


TYPES = {
    "int4": (TensorProto.INT4, -8, 7, -1), "uint4": (TensorProto.UINT4, 0, 15, 7),
    "int16": (TensorProto.INT16, -(2**15), 2**15 - 1, 300), "uint16": (TensorProto.UINT16, 0, 2**16 - 1, 40000),
    "int8": (TensorProto.INT8, -128, 127, -3), "uint8": (TensorProto.UINT8, 0, 255, 130),
}  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("by", ["tensor", "column", "block"])
def test_round_trips_of_every_type(kind: str, by: str) -> None:
    code, low, high, zero = TYPES[kind]
    step = 0.3 if "4" in kind else 0.001 if "16" in kind else 0.02
    scale = F32({"tensor": step, "column": [step * (i + 1) for i in range(5)], "block": np.full((3, 2), step)}[by])
    attrs = {"tensor": {}, "column": {"axis": 1}, "block": {"axis": 1, "block_size": 3}}[by]
    x = RNG.standard_normal((3, 5)).astype(F32) * 2
    spread = np.repeat(scale, 3, 1)[:, :5] if by == "block" else scale
    wanted = (np.clip(np.rint(x / spread) + zero, low, high) - zero).astype(F32) * spread
    got = hago.compile(round_trip(code, zero, scale, **attrs), threads=1).run({"x": x})[0]
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("code", [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E4M3FNUZ])
def test_eight_bit_floats_are_refused_on_import(code: int) -> None:
    with pytest.raises(ModelError, match=r"tensor 'q' of QuantizeLinear .*float8e.*\n.*8 or 16 bits"):
        hago.load_model(round_trip(code, 0, F32(0.1)))


@pytest.mark.parametrize("code", [TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT8E4M3FN])
@pytest.mark.parametrize("by", ["tensor", "channel"])
def test_weights_of_few_bits(code: int, by: str) -> None:
    scale = F32(0.1) if by == "tensor" else F32([0.1, 0.2, 0.3])
    zero = 2 if code == TensorProto.UINT4 else 0
    numbers = RNG.integers(0, 8, 12).tolist()
    held = [
        helper.make_tensor("w", code, [4, 3], numbers),
        helper.make_tensor("z", code, scale.shape, [zero] * scale.size),
        numpy_helper.from_array(scale, "s"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["r"], axis=1),
        helper.make_node("MatMul", ["x", "r"], ["y"]),
    ]
    x = RNG.standard_normal((2, 4)).astype(F32)
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)
    graph = helper.make_graph(nodes, "g", [info], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    wanted = x @ ((np.array(numbers).reshape(4, 3) - zero) * scale)
    np.testing.assert_allclose(hago.compile(model, threads=1).run({"x": x})[0], wanted, rtol=1e-5, atol=1e-6)
