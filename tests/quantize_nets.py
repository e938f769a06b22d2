"""Small float networks that between them hold every kind of layer, for the tests of quantization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Net:
    """Builds an ONNX graph by calls: each returns the name of the tensor it makes."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        return name

    def constant(self, name: str, value: Any) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def random(self, name: str, *shape: int, scale: float = 1.0) -> str:
        return self.constant(name, (self.rng.standard_normal(shape) * scale).astype(np.float32))

    def op(self, op_type: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, list(inputs), [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def conv(
        self, x: str, name: str, weight: Sequence[int], *, bias: bool = True, act: str = "", **attributes: Any
    ) -> str:
        """A convolution with He-scaled random weights, then ``act`` ("", "Relu" or "Clip" to 0..6)."""
        fan_in = int(np.prod(weight[1:]))
        operands = [x, self.random(f"{name}_w", *weight, scale=(2 / fan_in) ** 0.5)]
        if bias:
            operands.append(self.random(f"{name}_b", weight[0], scale=0.1))
        y = self.op("Conv", *operands, name=name, **attributes)
        if act == "Relu":
            return self.op("Relu", y, name=f"{name}_relu")
        if act == "Clip":
            low, high = (self.constant(f"{name}_{n}", np.float32(v)) for n, v in (("lo", 0), ("hi", 6)))
            return self.op("Clip", y, low, high, name=f"{name}_clip")
        return y

    def dense(self, x: str, name: str, inputs: int, outputs: int) -> str:
        """MatMul [K, N] and the Add of its bias."""
        y = self.op("MatMul", x, self.random(f"{name}_w", inputs, outputs, scale=inputs**-0.5), name=name)
        return self.op("Add", y, self.random(f"{name}_b", outputs, scale=0.1), name=f"{name}_add")

    def proto(self, *outputs: tuple[str, Sequence[int]]) -> onnx.ModelProto:
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, values, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.checker.check_model(model)
        return model


def classifier(seed: int = 0) -> onnx.ModelProto:
    """Residual network [1, 3, 16, 16] -> [1, 10]: convolutions, addition, pooling, Gemm."""
    net = Net(seed)
    x = net.conv(net.input("image", [1, 3, 16, 16]), "stem", (16, 3, 3, 3), act="Relu", pads=[1] * 4)
    y = net.conv(x, "left", (32, 16, 3, 3), act="Relu", pads=[1] * 4, strides=[2, 2])
    y = net.conv(y, "right", (32, 32, 3, 3), pads=[1] * 4)
    z = net.conv(x, "shortcut", (32, 16, 1, 1), strides=[2, 2])
    x = net.op("Relu", net.op("Add", y, z, name="join"), name="join_relu")
    x = net.op("GlobalAveragePool", x, name="pool")
    x = net.op("Flatten", x, name="flatten")
    w, b = net.random("fc_w", 10, 32), net.random("fc_b", 10)
    return net.proto((net.op("Gemm", x, w, b, name="fc", transB=1), [1, 10]))


def zoo(seed: int = 0) -> onnx.ModelProto:
    """Every kind of layer in one network, with two outputs, one of them read inside too."""
    net = Net(seed)
    x = net.input("image", [1, 3, 16, 16])
    x = net.conv(x, "stem", (32, 3, 3, 3), bias=False, act="Relu", pads=[1] * 4)
    x = net.op("MaxPool", x, name="maxpool", kernel_shape=[2, 2], strides=[2, 2])  # 8 x 8
    a = net.conv(x, "depthwise", (32, 1, 3, 3), act="Clip", pads=[1] * 4, group=32)
    a = net.conv(a, "grouped", (32, 16, 1, 1), group=2)
    gate = net.op("Sigmoid", a, name="sigmoid")
    a = net.op("Mul", a, gate, name="swish")
    a = net.op("Add", a, x, name="residual")
    b = net.conv(a, "branch1", (16, 32, 1, 1), act="Relu")
    c = net.conv(a, "branch2", (16, 32, 3, 3), act="Relu", pads=[1] * 4)
    x = net.op("Concat", b, c, name="concat", axis=1)
    x = net.conv(x, "squeeze", (32, 32, 1, 1), bias=False)
    both = net.op("Relu", x, name="standalone")  # reads the raw convolution, as the norm does
    spans = {"scale": (0.5, 2), "shift": (-1, 1), "mean": (-0.2, 0.2), "var": (0.5, 1.5)}
    norm = [net.constant(f"norm_{k}", np.linspace(*v, 32).astype(np.float32)) for k, v in spans.items()]
    n = net.op("BatchNormalization", x, *norm, name="norm")
    bounds = [net.constant(k, np.float32(v)) for k, v in (("lowest", -1), ("highest", 4))]
    x = net.op("Clip", net.op("Add", n, both, name="merge"), *bounds, name="merge_clip")
    x = net.op("AveragePool", x, name="avgpool", kernel_shape=[2, 2], strides=[2, 2])  # 4 x 4
    sizes = net.constant("sizes", np.array([1, 1, 2, 2], np.float32))
    grid = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    up = net.op("Resize", x, "", sizes, name="resize", mode="nearest", **grid)
    up = net.conv(up, "after_resize", (8, 32, 3, 3))
    t = net.op("Reshape", x, net.constant("tokens", np.array([1, 32, 16])), name="reshape")
    t = net.op("Transpose", t, name="transpose", perm=[0, 2, 1])  # [1, 16 tokens, 32]
    t = net.op("Add", t, net.random("position", 16, 32), name="embed")
    qkv = net.dense(t, "qkv", 32, 96)
    parts = []
    for index, part in enumerate("qkv"):
        window = {"start": 32 * index, "end": 32 * index + 32, "axis": 2}
        ends = [net.constant(f"{part}_{k}", np.array([v])) for k, v in window.items()]
        parts.append(net.op("Slice", qkv, *ends, name=f"slice_{part}"))
    turned = net.op("Transpose", parts[1], name="turn", perm=[0, 2, 1])
    scores = net.op("MatMul", parts[0], turned, name="scores")
    scores = net.op("Mul", scores, net.constant("factor", np.float32(32**-0.5)), name="scaled")
    weights = net.op("Softmax", scores, name="softmax", axis=-1)
    t = net.op("MatMul", weights, parts[2], name="attention")
    t = net.op("Gelu", net.dense(t, "mix", 32, 64), name="gelu")
    ones, zeros = (
        net.constant("ones", np.ones(64, np.float32)),
        net.constant("zeros", np.zeros(64, np.float32)),
    )
    t = net.op("LayerNormalization", t, ones, zeros, name="layernorm")
    last = net.dense(t, "head", 64, 10)
    g = net.op("GlobalAveragePool", up, name="pool")
    return net.proto((last, [1, 16, 10]), (g, [1, 8, 1, 1]))


def conv1d(seed: int = 0) -> onnx.ModelProto:
    """[1, 32, 40] -> [1, 8, 38]: convolutions over one axis."""
    net = Net(seed)
    x = net.conv(net.input("signal", [1, 32, 40]), "first", (64, 32, 3), act="Relu", pads=[1, 1])
    return net.proto((net.conv(x, "second", (8, 64, 3)), [1, 8, 38]))
