"""Outputs that no node makes, or that hold nothing: held to ONNX Runtime, compiled and as an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_normalize import run

import hago
from hago.model import load_model

pytest.importorskip("onnxruntime")

SHAPE = (2, 3, 4)
X = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
NAMES, NUMBERS = np.float32([7, 8, 9]), np.int64([1, 2])
NOTHING = {"from": np.int64([1]), "to": np.int64([1])}
Node = tuple[Any, ...]

CASES: dict[str, tuple[Sequence[Node], Sequence[str], Mapping[str, np.ndarray]]] = {
    "an initializer": ([("Relu", "x", "r")], ["a", "r"], {"a": NAMES}),
    "an initializer alone": ([("Relu", "x", "r")], ["a"], {"a": NAMES}),
    "an initializer that is read": ([("Conv", "x w", "r")], ["w", "r"], {"w": np.ones((2, 3, 1), np.float32)}),
    "of int64": ([("Relu", "x", "r")], ["a", "r"], {"a": NUMBERS}),
    "of bool": ([("Relu", "x", "r")], ["a", "r"], {"a": np.array([True, False])}),
    "a scalar": ([("Relu", "x", "r")], ["a", "r"], {"a": np.float32(3)}),
    "empty": ([("Relu", "x", "r")], ["a", "r"], {"a": np.zeros(0, np.float32)}),
    "Identity of an initializer": ([("Identity", "a", "i"), ("Relu", "x", "r")], ["i", "r"], {"a": NAMES}),
    "Constant": ([("Constant", "", "a", {"value": NAMES}), ("Relu", "x", "r")], ["a", "r"], {}),
    "Constant of floats": ([("Constant", "", "a", {"value_floats": [1.0, 2]}), ("Relu", "x", "r")], ["a", "r"], {}),
    "a computed constant": ([("Add", "a a", "s"), ("Relu", "x", "r")], ["s", "r"], {"a": NAMES}),
    "Shape": ([("Shape", "x", "s"), ("Relu", "x", "r")], ["s", "r"], {}),
    "Shape that is read": ([("Shape", "x", "s"), ("Reshape", "x s", "q"), ("Relu", "q", "r")], ["s", "r"], {}),
    "Size": ([("Relu", "x", "r"), ("Size", "r", "s")], ["s", "r"], {}),
    "Gather of Shape": ([("Shape", "x", "s"), ("Gather", "s i", "n")], ["n"], {"i": np.int64(1)}),
    "ConstantOfShape": ([("Shape", "x", "s"), ("ConstantOfShape", "s", "z"), ("Relu", "x", "r")], ["z", "r"], {}),
    "an input": ([("Relu", "x", "r")], ["x", "r"], {}),
    "an input alone": ([("Relu", "x", "r")], ["x"], {}),
    "Identity of an input": ([("Identity", "x", "i"), ("Relu", "x", "r")], ["i", "r"], {}),
    "Dropout of an input": ([("Dropout", "x", "i")], ["i"], {}),
    "Reshape of an input": ([("Reshape", "x s", "i")], ["i"], {"s": np.int64([6, 4])}),
    "one tensor, three names": (
        [("Relu", "x", "r"), ("Identity", "r", "s"), ("Identity", "r", "t")], ["r", "s", "t"], {},
    ),
    "no elements": ([("Slice", "x from to", "z"), ("Relu", "x", "r")], ["z", "r"], NOTHING),
    "computed without elements": ([("Slice", "x from to", "z"), ("Softmax", "z", "s")], ["s"], NOTHING),
    "joined with nothing": ([("Slice", "x from to", "z"), ("Concat", "x z x", "c", {"axis": 0})], ["c"], NOTHING),
    "the sum of nothing": (
        [("Slice", "x from to", "z"), ("ReduceSum", "z n", "s"), ("Add", "x s", "y")],
        ["y", "s"], {**NOTHING, "n": np.int64([0])},
    ),
    "a product over nothing": (
        [("Slice", "x from to n", "z"), ("MatMul", "z m", "p")],
        ["p"], {**NOTHING, "n": np.int64([2]), "m": np.zeros((0, 5), np.float32)},
    ),
    "rows of nothing": ([("Gather", "x i", "g")], ["g"], {"i": np.zeros(0, np.int64)}),
}  # fmt: skip


def build(name: str) -> onnx.ModelProto:
    nodes, outputs, constants = CASES[name]
    made = []
    for op, reads, writes, *rest in nodes:
        attrs = {k: numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for a in rest for k, v in a.items()}
        made.append(helper.make_node(op, reads.split(), writes.split(), **attrs))
    graph = helper.make_graph(
        made,
        "outputs",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(o, TensorProto.UNDEFINED, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    types = {n: helper.np_dtype_to_tensor_dtype(a.dtype) for n, a in constants.items()}
    for output in graph.output:
        output.type.tensor_type.elem_type = types.get(output.name, TensorProto.UNDEFINED)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    typed = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    for output in typed.graph.output:
        if output.name == "x":
            output.type.CopyFrom(typed.graph.input[0].type)
        if not output.type.tensor_type.elem_type:  # inference passes over what follows such an output
            output.type.tensor_type.elem_type = TensorProto.FLOAT
    return typed


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_onnxruntime(name: str) -> None:
    proto = build(name)
    wanted = run(proto, {"x": X})
    model = load_model(proto)
    net = hago.compile(model, threads=1)
    assert [o.name for o in model.outputs] == CASES[name][1]
    for got in (net.run({"x": X}), run(model.proto, {"x": X})):
        assert [(g.dtype, g.shape) for g in got] == [(w.dtype, w.shape) for w in wanted]
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
