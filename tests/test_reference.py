"""The numpy reference of each hago op, held to slow formulas written out here, or to ONNX's operators."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator
from qdq_graphs import run_onnx

from hago.errors import ModelError
from hago.lower import DOMAIN, LoweredGraph, Node, TensorType, reference
from hago.lower import arithmetic as ar
from hago.lower.ops import SCHEMAS, check_node

Array = np.ndarray
U8 = {"out": "uint8", "y_zero_point": 7, "lo": 3, "hi": 250}
F32 = {"out": "float32", "act_lo": 0.0, "act_hi": math.inf}
WINDOW = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}


def run(op: str, inputs: list[Array | None], attrs: dict[str, Any], dtype: str = "uint8") -> Array:
    """The result of one hago node through a whole lowered graph; checks its schema on the way."""
    names = ["" if a is None else f"i{k}" for k, a in enumerate(inputs)]
    node = Node("n", op, DOMAIN, tuple(names), ("y",), attrs, layer="layer")
    check_node(node)
    feeds = {name: a for name, a in zip(names, inputs, strict=True) if a is not None}
    types = {name: TensorType.of(a) for name, a in feeds.items()} | {"y": TensorType(dtype, ())}
    graph = LoweredGraph((node,), tuple(feeds), ("y",), types, {})
    return reference(graph)(feeds)[0]


def codes(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(0, 256, shape, dtype=np.uint8)


def signed(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(-128, 128, shape, dtype=np.int8)


def requantized(acc: Array, scale: Any, attrs: dict[str, Any]) -> Array:
    """The contract's formula on Python integers, one element at a time."""
    scale = np.broadcast_to(np.asarray(scale, np.float32), acc.shape)
    out = np.zeros(acc.shape, np.uint8)
    for index in np.ndindex(acc.shape):
        product = np.float32(np.float32(int(acc[index])) * scale[index])
        y = round(float(product)) + attrs["y_zero_point"]  # Python rounds half to even
        out[index] = min(max(y, attrs["lo"]), attrs["hi"])
    return out


def test_requantize_rounds_half_to_even_and_clamps() -> None:
    acc = np.array([-3, -1, 1, 3, 5, 2**30, -(2**30)], np.int32)
    got = ar.requantize(acc, np.float32(0.5), 10, 9, 200)
    assert got.tolist() == [9, 10, 10, 12, 12, 200, 9]


def test_requantize_takes_the_sum_as_float32() -> None:
    # 2**24 + 1 is no float32: it becomes 2**24, and the result is below, not above the half.
    acc = np.array([2**24 + 1], np.int32)
    assert ar.requantize(acc, np.float32(0.5 / 2**24 * 1), 0, 0, 255).tolist() == [0]


@settings(max_examples=40)
@given(st.data())
def test_qconv_is_the_sum_over_the_window(data: st.DataObject) -> None:
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    group, depth, per = draw(st.sampled_from(((1, 3, 2), (2, 2, 2), (3, 1, 1), (4, 1, 2))))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    attrs = {
        "strides": draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        "pads": draw(st.tuples(*[st.integers(0, 2)] * 4)),
        "dilations": draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        "group": group,
        "x_zero_point": draw(st.integers(0, 255)),
    }
    x, w = codes(rng, 1, 6, 5, group * depth), signed(rng, group * per, *kernel, depth)
    bias = rng.integers(-5000, 5000, group * per, dtype=np.int32)
    grouped = depth > 1 and draw(st.booleans())
    mult = rng.integers(1, 16, (group * per, -(-depth // 2)), dtype=np.int32) if grouped else None
    scale = (rng.random(group * per) * 0.01 + 1e-4).astype(np.float32)
    top, left, bottom, right = attrs["pads"]
    padded = np.full((1, 6 + top + bottom, 5 + left + right, x.shape[3]), attrs["x_zero_point"], np.int64)
    padded[:, top : top + 6, left : left + 5] = x
    padded -= attrs["x_zero_point"]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, attrs["dilations"], strict=True)]
    out = [(padded.shape[1 + i] - reach[i]) // attrs["strides"][i] + 1 for i in (0, 1)]
    acc = np.zeros((1, *out, group * per), np.int64)
    for i, j, o, kh, kw, c in np.ndindex(*out, group * per, *kernel, depth):
        value = padded[
            0,
            i * attrs["strides"][0] + kh * attrs["dilations"][0],
            j * attrs["strides"][1] + kw * attrs["dilations"][1],
            o // per * depth + c,
        ]
        acc[0, i, j, o] += value * int(w[o, kh, kw, c]) * (1 if mult is None else int(mult[o, c // 2]))
    acc += bias
    if mult is not None:
        attrs["group_size"] = 2
    inputs: list[Array | None] = [x, w, bias, scale, mult]
    assert np.array_equal(run("QConv", inputs, attrs | U8), requantized(acc, scale, U8))
    real = run("QConv", inputs, attrs | F32, "float32")
    assert np.array_equal(real, np.maximum(acc.astype(np.float32) * scale, 0))


def test_qconv_is_exact_where_float32_sums_are_not() -> None:
    rng = np.random.default_rng(0)
    x, w = np.full((1, 3, 3, 600), 255, np.uint8), np.full((1, 3, 3, 600), 127, np.int8)
    w[0, 0, 0, :7] = signed(rng, 7)
    acc = int((x.astype(np.int64) * w).sum())
    attrs = {**WINDOW, "group": 1, "x_zero_point": 0, **F32}
    one = np.ones(1, np.float32)
    # float32(acc) is checked without scale; the int32 sum itself through a bias that cancels it.
    got = run("QConv", [x, w, np.array([-acc + 3], np.int32), one], attrs, "float32")
    assert got.reshape(()) == 3.0


def test_qconv_table_and_residual_come_after_the_requantize() -> None:
    rng = np.random.default_rng(1)
    x, w, bias = codes(rng, 1, 2, 2, 3), signed(rng, 4, 1, 1, 3), np.zeros(4, np.int32)
    scale, table, r = np.array([0.01], np.float32), codes(rng, 256), codes(rng, 1, 2, 2, 4)
    attrs = {**WINDOW, "group": 1, "x_zero_point": 100, **U8}
    plain = run("QConv", [x, w, bias, scale], attrs)
    assert np.array_equal(run("QConv", [x, w, bias, scale, None, table], attrs), table[plain])
    residual = {"a_scale": 0.3137, "b_scale": 0.6971, "r_offset": -2.6113, "r_lo": 9, "r_hi": 200}
    first, second = 0.3137 * plain + 0.6971 * r, 0.3137 * r + 0.6971 * plain
    for r_first, total in ((0, first), (1, second)):
        expected = np.rint(np.clip(total - 2.6113, 9, 200)).astype(np.uint8)
        got = run("QConv", [x, w, bias, scale, None, None, r], attrs | residual | {"r_first": r_first})
        assert np.array_equal(got, expected)


@pytest.mark.parametrize("grouped", [False, True])
def test_qgemm_is_the_product(grouped: bool) -> None:
    rng = np.random.default_rng(2)
    x, w, bias = codes(rng, 2, 3, 7), signed(rng, 5, 7), rng.integers(-99, 99, 5, dtype=np.int32)
    scale = (rng.random(5) * 0.01).astype(np.float32)
    mult = rng.integers(1, 16, (5, 3), dtype=np.int32) if grouped else None
    factor = np.repeat(mult, 3, 1)[:, :7] if mult is not None else np.ones((5, 7), np.int64)
    acc = np.einsum("btk,nk->btn", x.astype(np.int64) - 11, w.astype(np.int64) * factor) + bias
    attrs = {"x_zero_point": 11, **U8} | ({"group_size": 3} if grouped else {})
    assert np.array_equal(run("QGemm", [x, w, bias, scale, mult], attrs), requantized(acc, scale, U8))


def test_qmatmul_takes_both_zero_points_and_broadcasts() -> None:
    rng = np.random.default_rng(3)
    a, b = codes(rng, 2, 3, 4, 5), codes(rng, 1, 3, 5, 6)
    acc = (a.astype(np.int64) - 120) @ (b.astype(np.int64) - 30)
    scale = np.array([0.003], np.float32)
    attrs = {"a_zero_point": 120, "b_zero_point": 30, **U8}
    assert np.array_equal(run("QMatMul", [a, b, scale], attrs), requantized(acc, scale, U8))


def test_qadd_qmul_and_qscaleshift_keep_to_their_formulas() -> None:
    rng = np.random.default_rng(4)
    a, b = codes(rng, 2, 3, 3, 4), codes(rng, 2, 1, 1, 4)
    wide_a, wide_b = a.astype(np.int64) - 100, b.astype(np.int64) - 7
    zeros = {"a_zero_point": 100, "b_zero_point": 7}
    attrs = {"a_scale": 0.6137, "b_scale": -0.2791, "offset": 33.313, "lo": 7, "hi": 250}
    expected = np.rint(np.clip(0.6137 * a.astype(float) - 0.2791 * b + 33.313, 7, 250)).astype(np.uint8)
    assert np.array_equal(run("QAdd", [a, b], attrs), expected)
    attrs = {**zeros, "scale": 0.0123, **U8}
    assert np.array_equal(run("QMul", [a, b], attrs), requantized(wide_a * wide_b, 0.0123, U8))
    mul, add = rng.uniform(-2, 2, 4).astype(np.float32), rng.uniform(-99, 99, 4).astype(np.float32)
    expected = np.rint(np.clip(a * mul.astype(float) + add, 7, 250)).astype(np.uint8)
    assert np.array_equal(run("QScaleShift", [a, mul, add], {"lo": 7, "hi": 250}), expected)


def test_qlookup_and_qconcat_use_their_tables() -> None:
    rng = np.random.default_rng(5)
    a, b, table = codes(rng, 2, 3), codes(rng, 2, 4), codes(rng, 256)
    reals = rng.random(256, dtype=np.float32)
    assert np.array_equal(run("QLookup", [a, table], {}), table[a])
    assert np.array_equal(run("QLookup", [a, reals], {}, "float32"), reals[a])
    got = run("QConcat", [a, b, a, table], {"axis": 1, "tables": (1,)})
    assert np.array_equal(got, np.concatenate([a, table[b], a], 1))
    assert np.array_equal(run("QConcat", [a, a], {"axis": 0, "tables": ()}), np.concatenate([a, a]))


def onnx_pool(op: str, x: Array, **attrs: Any) -> Array:
    """A standard pool of an NHWC image, by ONNX Runtime (ONNX's reference fails on uneven padding)."""
    node = helper.make_node(op, ["x"], ["y"], **attrs)
    shape = [x.shape[0], x.shape[3], *x.shape[1:3]]
    x_info = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    y_info = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph([node], "pool", [x_info], [y_info]),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    return run_onnx(model, {"x": x.transpose(0, 3, 1, 2)})[0].transpose(0, 2, 3, 1)


@settings(max_examples=25)
@given(st.data())
def test_pools_agree_with_onnx(data: st.DataObject) -> None:
    draw = data.draw
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = tuple(draw(st.integers(0, k - 1)) for k in (*kernel, *kernel))
    strides = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    include = draw(st.integers(0, 1))
    x = codes(np.random.default_rng(draw(st.integers(0, 99))), 2, 5, 6, 3)
    wide = x.astype(np.float32)
    window = {"kernel_shape": kernel, "pads": pads, "strides": strides, "dilations": (1, 1)}
    standard = {"kernel_shape": list(kernel), "pads": list(pads), "strides": list(strides)}
    greatest = onnx_pool("MaxPool", wide, **standard)
    assert np.array_equal(run("QMaxPool", [x], window), greatest)
    assert np.array_equal(run("MaxPool", [wide], window, "float32"), greatest)
    mean = onnx_pool("AveragePool", wide - 50, count_include_pad=include, **standard)
    attrs = window | {"count_include_pad": include}
    got = run("AvgPool", [wide - 50], attrs, "float32")
    np.testing.assert_allclose(got, mean, rtol=1e-5, atol=1e-5)
    attrs |= {"x_zero_point": 50, "scale": 0.5}
    real = run("QAvgPool", [x], attrs | {"out": "float32", "act_lo": -math.inf, "act_hi": math.inf}, "float32")
    np.testing.assert_allclose(real, mean * 0.5, rtol=1e-5, atol=1e-5)
    quantized = run("QAvgPool", [x], attrs | U8)
    assert np.abs(quantized - np.clip(np.rint(mean * 0.5) + 7, 3, 250)).max() <= 1


def test_qavgpool_divides_the_scale_by_the_count_in_float64() -> None:
    x = np.array([[[[10], [11], [13]]]], np.uint8)
    attrs = {
        **WINDOW, "kernel_shape": (1, 3), "count_include_pad": 0, "x_zero_point": 0, "scale": 0.1, **U8
    }  # fmt: skip
    scale = np.float32(np.float64(np.float32(0.1)) / 3)
    assert run("QAvgPool", [x], attrs).item() == max(3, round(float(np.float32(34) * scale)) + 7)


def test_global_average_pools() -> None:
    x = codes(np.random.default_rng(6), 2, 3, 5, 4)
    acc = (x.astype(np.int64) - 20).sum(axis=(1, 2), keepdims=True)
    attrs = {"x_zero_point": 20, "scale": 0.02, **U8}
    assert np.array_equal(run("QGlobalAvgPool", [x], attrs), requantized(acc, 0.02, U8))
    wide = x.astype(np.float32)
    np.testing.assert_allclose(
        run("GlobalAvgPool", [wide], {}, "float32"), wide.mean(axis=(1, 2), keepdims=True), rtol=1e-6
    )


def test_quantize_agrees_with_quantizelinear_and_dequantize_inverts_it() -> None:
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.standard_normal(500) * 3, np.arange(-20, 20) * 0.05]).astype(np.float32)
    x = np.concatenate([x, np.array([np.inf, -np.inf], np.float32)])
    scale, zero = np.float32(0.025), 17
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "q", [info("x", 1, None), info("s", 1, None), info("z", 2, None)], [info("y", 2, None)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    with np.errstate(invalid="ignore"):
        expected: Any = ReferenceEvaluator(model).run(None, {"x": x[:-2], "s": scale, "z": np.uint8(zero)})
    attrs = {"scale": float(scale), "zero_point": zero}
    got = run("Quantize", [x], {**attrs, "lo": 0, "hi": 255})
    assert np.array_equal(got[:-2], expected[0])
    assert got[-2:].tolist() == [255, 0]
    assert np.array_equal(run("Quantize", [x], {**attrs, "lo": 17, "hi": 60}), np.clip(got, 17, 60))
    every = np.arange(256, dtype=np.uint8)
    real = run("Dequantize", [every], attrs, "float32")
    assert np.array_equal(run("Quantize", [real], {**attrs, "lo": 0, "hi": 255}), every)


def test_quantize_and_dequantize_permute() -> None:
    x = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    attrs = {"scale": 1.0, "zero_point": 0}
    got = run("Quantize", [x], {**attrs, "lo": 0, "hi": 255, "perm": (0, 2, 3, 1)})
    assert np.array_equal(got, x.transpose(0, 2, 3, 1))
    assert np.array_equal(run("Dequantize", [got], {**attrs, "perm": (0, 3, 1, 2)}, "float32"), x)


def test_float_conv_and_gemm_clamp_after_the_residual() -> None:
    rng = np.random.default_rng(8)
    x, w = rng.standard_normal((1, 4, 4, 6), np.float32), rng.standard_normal((4, 3, 3, 3), np.float32)
    bias, r = rng.standard_normal(4, np.float32), rng.standard_normal((1, 4, 4, 4), np.float32)
    attrs = {**WINDOW, "pads": (1, 1, 1, 1), "group": 2, "act_lo": 0.0, "act_hi": 1.5, "precision": "float32"}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1], group=2)
    info = [helper.make_tensor_value_info(n, 1, None) for n in "xwby"]
    model = helper.make_model(
        helper.make_graph([node], "c", info[:3], info[3:]), opset_imports=[helper.make_opsetid("", 21)]
    )
    feeds = {"x": x.transpose(0, 3, 1, 2), "w": w.transpose(0, 3, 1, 2), "b": bias}
    y: Any = ReferenceEvaluator(model).run(None, feeds)
    expected = np.clip(y[0].transpose(0, 2, 3, 1) + r, 0, 1.5)
    np.testing.assert_allclose(run("Conv", [x, w, bias, r], attrs, "float32"), expected, rtol=1e-4, atol=1e-5)
    a, m = rng.standard_normal((3, 5), np.float32), rng.standard_normal((2, 5), np.float32)
    attrs = {"act_lo": -0.5, "act_hi": 0.5, "precision": "float32"}
    expected = np.clip(a @ m.T + bias[:2] + 1, -0.5, 0.5)
    np.testing.assert_allclose(
        run("Gemm", [a, m, bias[:2], np.ones((3, 2), np.float32)], attrs, "float32"), expected, rtol=1e-5
    )


def test_bfloat16_products_are_summed_in_float32() -> None:
    rng = np.random.default_rng(9)
    x = rng.standard_normal((4, 300), np.float32).astype(ml_dtypes.bfloat16)
    w = rng.standard_normal((3, 300), np.float32).astype(ml_dtypes.bfloat16)
    attrs = {"act_lo": -math.inf, "act_hi": math.inf, "precision": "bfloat16"}
    got = run("Gemm", [x, w, np.zeros(3, np.float32)], attrs, "float32")
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, x.astype(np.float64) @ w.astype(np.float64).T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["Gelu", "Gelu_tanh"])
def test_gemm_activation(name: str) -> None:
    x = np.linspace(-3, 3, 9, dtype=np.float32)[:, None]
    attrs = {"act_lo": -math.inf, "act_hi": math.inf, "precision": "float32", "activation": name}
    got = run("Gemm", [x, np.ones((1, 1), np.float32), np.zeros(1, np.float32)], attrs, "float32")
    exact = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x[:, 0].tolist()]
    tanh = [0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x[:, 0].tolist()]
    np.testing.assert_allclose(got[:, 0], exact if name == "Gelu" else tanh, rtol=1e-5, atol=1e-6)


def test_fused_runs_its_body() -> None:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Mul", ["a", "b"], ["m"]), helper.make_node("Relu", ["m"], ["y"])],
        "body",
        [info("a", 1, [3]), info("b", 1, [3])],
        [info("y", 1, [3])],
    )
    a, b = np.array([1, -2, 3], np.float32), np.array([2, 2, -2], np.float32)
    assert run("Fused", [a, b], {"body": body}, "float32").tolist() == [2, 0, 0]


GOOD = {"x_zero_point": 0, **U8}


@pytest.mark.parametrize(
    ("op", "inputs", "attrs", "message"),
    [
        ("QNothing", ("x",), {}, "no operator hago.QNothing"),
        ("QGemm", ("x", "w", "b", "s"), {"x_zero_point": 0}, "missing"),
        ("QGemm", ("x", "w", "b", "s"), {**GOOD, "color": 1}, "unknown"),
        ("QGemm", ("x", "w"), GOOD, "takes the inputs"),
        ("QGemm", ("x", "w", "", "s"), GOOD, "takes the inputs"),
        ("QLookup", ("x", "t", "u"), {}, "takes the inputs"),
        ("QGemm", ("x", "w", "b", "s"), {"x_zero_point": 0, "out": "uint8"}, "epilogue"),
        ("QGemm", ("x", "w", "b", "s"), {"x_zero_point": 0, "out": "int4"}, "epilogue"),
    ],
)
def test_a_node_that_breaks_its_schema_is_refused(
    op: str, inputs: tuple[str, ...], attrs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        check_node(Node("n", op, DOMAIN, inputs, ("y",), attrs))


def test_every_op_has_a_schema_and_a_reference() -> None:
    from hago.lower.reference import OPS

    assert {op.__name__ for op in OPS} == set(SCHEMAS)


def test_intermediate_tensors_are_reported() -> None:
    nodes = (
        Node("q", "Quantize", DOMAIN, ("x",), ("u",), {"scale": 0.5, "zero_point": 1, "lo": 0, "hi": 255}),
        Node("d", "Dequantize", DOMAIN, ("u",), ("y",), {"scale": 0.5, "zero_point": 1}),
    )
    types = {"x": TensorType("float32", (2,)), "u": TensorType("uint8", (2,)), "y": TensorType("float32", (2,))}
    tensors = reference(LoweredGraph(nodes, ("x",), ("y",), types, {})).tensors({"x": np.array([0.6, 2.0], np.float32)})
    assert tensors["u"].tolist() == [2, 5]
    assert tensors["y"].tolist() == [0.5, 2.0]
