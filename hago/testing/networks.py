"""A small network for the suites, and inputs for any."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..tensor import TensorInfo


def random_feeds(inputs: Iterable[TensorInfo], seed: int = 0) -> dict[str, NDArray[Any]]:
    """An input of each kind: normal values for floats, 0 and 1 for all others."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for info in inputs:
        drawn = rng.normal(size=info.shape)
        feeds[info.name] = (drawn if "float" in info.dtype else drawn > 0).astype(info.dtype)
    return feeds


def small_network(seed: int = 0) -> onnx.ModelProto:
    """image [1, 3, 8, 8] -> scores [1, 5]: convolutions (dense and depthwise), addition, pooling, Gemm, Sigmoid."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "b2": (8,), "w3": (5, 8), "b3": (5,)}
    constants = [numpy_helper.from_array((rng.normal(size=s) / 4).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], "relu"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "depthwise", pads=[1] * 4, group=8),
        helper.make_node("Add", ["r1", "c2"], ["sum"], "join"),
        helper.make_node("GlobalAveragePool", ["sum"], ["mean"], "pool"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["logits"], "fc", transB=1),
        helper.make_node("Sigmoid", ["logits"], ["scores"], "sigmoid"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 5])
    graph = helper.make_graph(nodes, "small", [image], [scores], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
