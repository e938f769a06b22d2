"""Small float networks drawn by a seed, and ONNX Runtime's quantizer over them, in all of its ways."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Rng = np.random.Generator
CALIBRATION = 8  # samples


@dataclass(frozen=True)
class Way:
    """How a network is quantized: the arguments of ONNX Runtime's quantizer."""

    form: str  # qdq, qoperator or dynamic
    activations: str
    weights: str
    per_channel: bool
    symmetric: bool
    reduce_range: bool
    calibration: str

    def __str__(self) -> str:
        words = "per channel", "symmetric", "reduced range"
        flags = [
            word for word, on in zip(words, (self.per_channel, self.symmetric, self.reduce_range), strict=True) if on
        ]
        return ", ".join([self.form, f"{self.activations} x {self.weights}", self.calibration, *flags])


def draw_way(rng: Rng) -> Way:
    """One way, among those that the quantizer offers."""
    form = str(rng.choice(["qdq", "qdq", "qoperator", "qoperator", "dynamic"]))
    types = ["QUInt8", "QInt8"]
    activations, weights = str(rng.choice(types)), str(rng.choice(types))
    if activations == "QInt8":
        weights = "QInt8"  # the quantizer refuses the other pair
    if form == "qdq" and rng.random() < 0.15:
        activations = str(rng.choice(["QUInt16", "QInt16"]))
    calibration = str(rng.choice(["MinMax", "Entropy", "Percentile"]))
    if form == "dynamic":
        activations, calibration = "QUInt8", "none"
    per_channel, symmetric, reduce_range = (bool(rng.random() < share) for share in (0.5, 0.3, 0.3))
    return Way(form, activations, weights, per_channel, symmetric, reduce_range, calibration)


class _Net:
    """Collects the nodes of a float graph."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.held: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {}

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.held)}"
        self.held.append(numpy_helper.from_array(array, name))
        return name

    def weights(self, *shape: int) -> str:
        scale = 1.5 / np.sqrt(np.prod(shape[1:]))
        return self.constant((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def emit(self, op: str, inputs: list[str], shape: tuple[int, ...], **attrs: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], f"{op}_{len(self.nodes)}", **attrs))
        self.shapes[name] = shape
        return name

    def activation(self, x: str) -> str:
        op = self.pick("", "Relu", "Relu", "Clip", "Sigmoid", "LeakyRelu", "Tanh", "HardSigmoid")
        if not op:
            return x
        inputs = [x, *([self.constant(np.float32(0)), self.constant(np.float32(6))] if op == "Clip" else [])]
        return self.emit(op, inputs, self.shapes[x])

    def join(self, a: str, b: str) -> str:
        op = self.pick("Add", "Add", "Mul", "Concat")
        if op != "Concat":
            return self.emit(op, [a, b], self.shapes[a])
        shape = (self.shapes[a][0], 2 * self.shapes[a][1], *self.shapes[a][2:])
        return self.emit(op, [a, b], shape, axis=1)

    def conv(self, x: str) -> str:
        n, c, *space = self.shapes[x]
        kind = self.pick("dense", "dense", "pointwise", "depthwise", "grouped" if c % 2 == 0 else "dense")
        group = {"depthwise": c, "grouped": 2}.get(kind, 1)
        out, size = (c if kind == "depthwise" else self.pick(4, 8)), 1 if kind == "pointwise" else 3
        step = self.pick(1, 1, 2)
        w = self.weights(out, c // group, *[size] * len(space))
        inputs = [
            x,
            w,
            *(
                [self.constant(self.rng.standard_normal(out).astype(np.float32) * np.float32(0.1))]
                if self.pick(0, 1)
                else []
            ),
        ]
        pad = size // 2
        shape = (n, out, *((s + 2 * pad - size) // step + 1 for s in space))
        return self.emit(
            "Conv", inputs, shape, kernel_shape=[size] * len(space), pads=[pad] * 2 * len(space),
            strides=[step] * len(space), group=group,
        )  # fmt: skip

    def dense(self, x: str, out: int) -> str:
        *lead, depth = self.shapes[x]
        y = self.emit("MatMul", [x, self.weights(depth, out)], (*lead, out))
        bias = self.constant(self.rng.standard_normal(out).astype(np.float32) * np.float32(0.1))
        return self.emit("Add", [y, bias], (*lead, out)) if self.pick(0, 1) else y

    def finish(self, shape: tuple[int, ...], y: str) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        out = helper.make_tensor_value_info(y, TensorProto.FLOAT, self.shapes[y])
        graph = helper.make_graph(self.nodes, "net", [x], [out], self.held)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def draw_net(rng: Rng) -> onnx.ModelProto:
    """A float network of convolutions (over images or lines) or of products of tokens; one input ``x``."""
    net = _Net(rng)
    if rng.random() < 0.3:
        return _tokens(net)
    shape = net.pick((1, 3, 8, 8), (1, 8, 8, 8), (1, 4, 16))
    x, net.shapes["x"] = "x", shape
    for _ in range(int(rng.integers(1, 4))):
        before = x
        x = net.activation(net.conv(x))
        if net.shapes[before] == net.shapes[x] and before != "x":
            x = net.join(x, before)
        elif rng.random() < 0.3 and len(shape) == 4 and min(net.shapes[x][2:]) >= 4:
            n, c, h, w = net.shapes[x]
            op = net.pick("MaxPool", "AveragePool")
            x = net.emit(op, [x], (n, c, h // 2, w // 2), kernel_shape=[2, 2], strides=[2, 2])
    if rng.random() < 0.6:
        n, c = net.shapes[x][:2]
        x = net.emit("GlobalAveragePool", [x], (n, c, *[1] * (len(shape) - 2)))
        x = net.emit("Flatten", [x], (n, c))
        w, b = net.weights(10, c), net.constant(rng.standard_normal(10).astype(np.float32))
        x = net.emit("Gemm", [x, w, b], (n, 10), transB=1)
    return net.finish(shape, x)


def _tokens(net: _Net) -> onnx.ModelProto:
    shape = net.pick((1, 6, 16), (2, 5, 8))
    n, t, d = net.shapes["x"] = shape
    x = "x"
    for _ in range(int(net.rng.integers(1, 3))):
        if net.pick(0, 1):
            q, k, v = (net.dense(x, d) for _ in range(3))
            turned = net.emit("Transpose", [k], (n, d, t), perm=[0, 2, 1])
            scores = net.emit("Softmax", [net.emit("MatMul", [q, turned], (n, t, t))], (n, t, t), axis=-1)
            y = net.emit("MatMul", [scores, v], (n, t, d))
        else:
            y = net.dense(net.activation(net.dense(x, 2 * d)), d)
        x = net.emit("Add", [x, y], shape) if net.pick(0, 1) else y
    return net.finish(shape, x)


def quantized(model: onnx.ModelProto, way: Way, rng: Rng) -> onnx.ModelProto:
    """What ONNX Runtime's quantizer makes of it."""
    import onnxruntime
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        left = CALIBRATION

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            self.left -= 1
            return {"x": rng.standard_normal(shape).astype(np.float32)} if self.left >= 0 else None

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(3)
    try:
        with tempfile.TemporaryDirectory() as place, warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            source, target = Path(place) / "float.onnx", Path(place) / "quantized.onnx"
            onnx.save(model, source)
            kinds = {
                "weight_type": QuantType[way.weights],
                "per_channel": way.per_channel,
                "reduce_range": way.reduce_range,
            }
            symmetric_weights = way.symmetric or way.weights == "QInt8"
            if way.form == "dynamic":
                quantize_dynamic(source, target, **kinds)
            else:
                quantize_static(
                    source, target, Reader(), **kinds, activation_type=QuantType[way.activations],
                    quant_format=QuantFormat.QDQ if way.form == "qdq" else QuantFormat.QOperator,
                    calibrate_method=CalibrationMethod[way.calibration],
                    extra_options={"ActivationSymmetric": way.symmetric, "WeightSymmetric": symmetric_weights},
                )  # fmt: skip
            return onnx.load(target)
    finally:
        logging.disable(level)
