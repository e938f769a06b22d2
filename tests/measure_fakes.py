"""Fake runners, clocks and samples, and a tiny ONNX model, for the tests of what measures."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hago.errors import MeasureError
from hago.tensor import TensorInfo

FEEDS = {"x": np.zeros((1, 3), np.float32)}


class FakeClock:
    """Clocks that move only where a runner lets them: CPU time and wall time alike, unless told otherwise."""

    shared = False

    def __init__(self):
        self.wall = self.cpu = self.preempted = self.waits = 0

    def wall_ns(self):
        return self.wall

    def cpu_ns(self):
        return self.cpu

    def switches(self):
        return self.preempted, self.waits

    def work(self, ns):
        """The thread computes for so long."""
        self.wall, self.cpu = self.wall + ns, self.cpu + ns

    def others_work(self, ns):
        """Another process takes the CPU for so long."""
        self.wall, self.preempted = self.wall + ns, self.preempted + 1

    def wait(self, ns):
        """The thread waits for something for so long."""
        self.wall, self.waits = self.wall + ns, self.waits + 1


class FakeRunner:
    """Computes ``function`` of its input, taking ``ns(call number)`` of the fake clock."""

    def __init__(self, name="fake", batch=1, function=lambda x: x, clock=None, ns=lambda call: 0, log=None):
        self.name, self.threads = name, 1
        self.inputs = (SimpleNamespace(name="x", dtype=np.dtype(np.float32), shape=(batch, 3)),)
        self.function, self.clock, self.ns, self.log = function, clock, ns, log
        self.calls = 0

    def run(self, feeds):
        if self.clock is not None:
            self.clock.work(self.ns(self.calls))
        if self.log is not None:
            self.log.append(self.name)
        self.calls += 1
        assert feeds["x"].shape == self.inputs[0].shape
        return [np.asarray(self.function(feeds["x"]))]

    def close(self):
        pass


@dataclass
class FakeSamples:
    x: np.ndarray
    labels: np.ndarray | list | None = None
    indices: np.ndarray | None = None

    def __post_init__(self):
        self.indices = np.arange(len(self.x)) if self.indices is None else self.indices

    def __len__(self):
        return len(self.x)

    def batch(self, start, stop):
        return {"x": self.x[start:stop]}

    def subset(self, indices):
        labels = [self.labels[i] for i in indices] if isinstance(self.labels, list) else self.labels
        labels = labels[indices] if isinstance(labels, np.ndarray) else labels
        return FakeSamples(self.x[indices], labels, self.indices[indices])


class Top1:
    name, needs_labels, needs_float, higher_is_better = "top1", True, False, True

    def per_sample(self, outputs, labels, float_outputs):
        return (outputs[0].argmax(axis=1) == labels).astype(float)

    def value(self, scores):
        return float(np.mean(scores))


def one_hot(labels, classes=3):
    return np.eye(classes, dtype=np.float32)[labels]


def fail(error):
    def function(x):
        raise error

    return function


WEIGHT = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
BATCH = 2


def tiny_model(batch: int | str | None = "N", quantized: bool = False) -> onnx.ModelProto:
    """logits [N, 3] = relu(a) @ W, total [N, 4] = a + b, for a, b [N, 4]; as QDQ int8 where asked."""
    nodes, weights = [], []
    name = "relu"
    nodes.append(helper.make_node("Relu", ["a"], ["relu"]))
    if quantized:
        scale = np.float32(np.abs(WEIGHT).max() / 127)
        weights += [
            numpy_helper.from_array(np.float32(4 / 255), "s"),
            numpy_helper.from_array(np.uint8(0), "z"),
            numpy_helper.from_array(scale, "ws"),
            numpy_helper.from_array(np.int8(0), "wz"),
            numpy_helper.from_array(np.rint(WEIGHT / scale).astype(np.int8), "w8"),
        ]
        nodes.append(helper.make_node("QuantizeLinear", ["relu", "s", "z"], ["q"]))
        nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]))
        nodes.append(helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["w"]))
        name = "dq"
    else:
        weights.append(numpy_helper.from_array(WEIGHT, "w"))
    nodes.append(helper.make_node("MatMul", [name, "w"], ["logits"]))
    nodes.append(helper.make_node("Add", ["a", "b"], ["total"]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, 4]) for n in "ab"],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3]),
            helper.make_tensor_value_info("total", TensorProto.FLOAT, [batch, 4]),
        ],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def expected(feeds):
    return [np.maximum(feeds["a"], 0) @ WEIGHT, feeds["a"] + feeds["b"]]


class FakeArtifact:
    """What TvmRunner needs of an artifact, computed by numpy."""

    threads, size_bytes = 1, 48
    input_info = tuple(TensorInfo(name, "float32", (BATCH, 4)) for name in "ab")

    def run(self, feeds):
        if set(feeds) != {"a", "b"}:
            raise MeasureError("an input is missing")
        return expected(feeds)


class TwoInputSamples:
    """Samples of the tiny model, labelled with its own classes."""

    def __init__(self, n):
        rng = np.random.default_rng(5)
        self.x = {name: rng.normal(size=(n, 4)).astype(np.float32) for name in "ab"}
        self.labels = expected(self.x)[0].argmax(axis=1)
        self.indices = np.arange(n)

    def __len__(self):
        return len(self.labels)

    def batch(self, start, stop):
        return {name: x[start:stop] for name, x in self.x.items()}

    def subset(self, indices):
        few = TwoInputSamples(0)
        few.x, few.labels = {name: x[indices] for name, x in self.x.items()}, self.labels[indices]
        return few
