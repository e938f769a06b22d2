"""Operators without a kernel of their own, through TVM's lowering, against ONNX Runtime or numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from kernel_harness import run, type_of, view
from onnx import helper

from hago.errors import UnsupportedOpError
from hago.kernels.cpu.fallback import emit_fallback
from hago.kernels.cpu.families import AVX2, AVX512_VNNI

X = np.random.default_rng(0).standard_normal((2, 3, 6, 5)).astype(np.float32)


def onnxruntime_run(op: str, feeds: dict[str, np.ndarray], attrs: dict[str, Any], count: int = 1) -> list[np.ndarray]:
    node = helper.make_node(op, list(feeds), [f"y{i}" for i in range(count)], **attrs)
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(f"y{i}") for i in range(count)]
    graph = helper.make_graph([node], "one", infos, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def check(op: str, feeds: dict[str, np.ndarray], constants: tuple[str, ...] = (), **attrs: Any) -> None:
    expected = onnxruntime_run(op, feeds, attrs)[0]
    node = view(op, feeds, {"y": type_of(expected)}, attrs, domain="", constants=constants)
    result = run(node, feeds, AVX512_VNNI)[0]
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_instance_normalization() -> None:
    feeds = {"x": X, "s": np.arange(3, dtype=np.float32), "b": np.ones(3, np.float32)}
    check("InstanceNormalization", feeds, ("s", "b"))


def test_transposed_convolution() -> None:
    weights = np.random.default_rng(1).standard_normal((3, 4, 3, 3)).astype(np.float32)
    check("ConvTranspose", {"x": X, "w": weights}, ("w",), strides=[2, 2], pads=[1, 1, 1, 1])


@pytest.mark.parametrize("op", ["Sin", "Cos"])
def test_functions_without_a_vector_form(op: str) -> None:
    check(op, {"x": X})


def test_float64_functions_take_this_way() -> None:
    x = X.astype(np.float64)
    node = view("Exp", {"x": x}, {"y": type_of(x)}, domain="")
    np.testing.assert_allclose(run(node, {"x": x})[0], np.exp(x), rtol=1e-6)


def test_cumulative_sum_and_trilu() -> None:
    check("CumSum", {"x": X, "axis": np.array(2)}, ("axis",))
    check("Trilu", {"x": X})


def test_gather_elements() -> None:
    indices = np.random.default_rng(1).integers(0, 6, (2, 3, 4, 5))
    check("GatherElements", {"x": X, "i": indices}, axis=2)


def test_several_outputs() -> None:
    feeds = {"x": X, "s": np.ones(3, np.float32), "b": np.zeros(3, np.float32), "m": np.zeros(3, np.float32),
             "v": np.ones(3, np.float32)}  # fmt: skip
    check("BatchNormalization", feeds, ("s", "b", "m", "v"))


def test_a_node_is_lowered_once() -> None:
    node = view("Sin", {"x": X}, {"y": type_of(X)}, domain="")
    first, second = emit_fallback(node, AVX2), emit_fallback(node, AVX2)
    assert [call.params for call in first] == [call.params for call in second]
    assert first[0].template is second[0].template


def test_an_unknown_operator_names_itself_its_node_and_domain() -> None:
    node = view("Frobnicate", {"x": X}, {"y": type_of(X)}, domain="com.example")
    with pytest.raises(UnsupportedOpError, match=r"node 'node'.*Frobnicate.*com\.example"):
        emit_fallback(node, AVX2)
    node = view("Frobnicate", {"x": X}, {"y": type_of(X)}, domain="")
    with pytest.raises(UnsupportedOpError, match=r"node 'node'.*Frobnicate"):
        emit_fallback(node, AVX2)


def test_a_result_that_tvm_gives_another_type_is_cast() -> None:
    indices = np.array([3, 0, 8, 1])
    feeds = {"i": indices, "depth": np.array(9), "values": np.array([0, 1], np.float32)}
    check("OneHot", feeds, ("depth", "values"))


def test_a_result_known_at_build_time() -> None:
    check("ConstantOfShape", {"s": np.array([2, 3])}, ("s",))


def test_sorting() -> None:
    x = X[0, 0]
    values, indices = onnxruntime_run("TopK", {"x": x, "k": np.array([2])}, {}, 2)
    node = view("TopK", {"x": x, "k": np.array([2])}, {"v": type_of(values), "i": type_of(indices)}, domain="",
                constants=("k",))  # fmt: skip
    found = run(node, {"x": x, "k": np.array([2])})
    np.testing.assert_array_equal(found[0], values)
    np.testing.assert_array_equal(found[1], indices)


def test_a_result_of_unknown_shape_is_refused_plainly() -> None:
    node = view("NonZero", {"x": X}, {"y": type_of(np.zeros((4, 180), np.int64))}, domain="")
    with pytest.raises(UnsupportedOpError, match="NonZero"):
        emit_fallback(node, AVX2)
