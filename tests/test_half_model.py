"""A model in float16, quantized and compiled: it takes and gives float16 all the while."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import hago
from hago.spec import load_spec
from hago.strategy import uniform


def test_a_model_in_float16_is_quantized_like_any_other() -> None:
    rng = np.random.default_rng(0)
    held = {"w": rng.normal(size=(8, 3, 3, 3)), "f": rng.normal(size=(8, 4))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]), helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "f"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)],
        [numpy_helper.from_array(a.astype(np.float16), n) for n, a in held.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model, spec = hago.load_model(proto), load_spec("x86-avx2")
    assert not model.is_quantized
    assert {layer.kind for layer in model.layers if layer.quantizable} >= {"conv", "fully_connected"}
    x = rng.normal(size=(16, 3, 8, 8)).astype(np.float16)
    quantized = hago.quantize(model, uniform(model, spec, "int8"), x, hw=spec)
    wanted = hago.compile(proto, hw=spec, threads=1).run({"x": x[:1]})[0]
    got = hago.compile(quantized, hw=spec, threads=1).run({"x": x[:1]})[0]
    assert got.dtype == wanted.dtype == np.float16
    np.testing.assert_allclose(got, wanted, atol=0.05 * float(np.abs(wanted).max()))
    assert not np.array_equal(got, wanted)
