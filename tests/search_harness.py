"""A small residual network and an evaluator without a compiler, for the tests of the search."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hago.errors import BuildError
from hago.model import Model, load_model
from hago.record import Record
from hago.search.option import option_of
from hago.search.space import SearchSpace
from hago.search.timing import convert_s
from hago.spec import load_spec
from hago.strategy import Strategy

N_SAMPLES = 1000


class NetBuilder:
    """Makes small ONNX networks, a node at a time; every method returns the name of the tensor it makes."""

    def __init__(self, channels: int, size: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, size, size])
        self._rng = np.random.default_rng(0)
        self._channels = {"x": channels}

    def op(self, op_type: str, name: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        made = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), made, name=name, **attributes))
        self._channels[made[0]] = self._channels[inputs[0]]
        return made[0]

    def weight(self, name: str, *shape: int) -> str:
        values = self._rng.normal(size=shape).astype(np.float32) / math.sqrt(math.prod(shape[1:]) or 1)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, name: str, x: str, out: int, kernel: int = 3, stride: int = 1, group: int = 1) -> str:
        w = self.weight(f"{name}.w", out, self._channels[x] // group, kernel, kernel)
        pad = kernel // 2
        y = self.op("Conv", name, x, w, strides=[stride] * 2, pads=[pad] * 4, group=group)
        self._channels[y] = out
        return y

    def relu(self, x: str) -> str:
        return self.op("Relu", f"{x}.relu", x)

    def dense(self, name: str, x: str, out: int) -> str:
        w = self.weight(f"{name}.w", out, self._channels[x])
        b = self.weight(f"{name}.b", out)
        return self.op("Gemm", name, x, w, b, transB=1)

    def model(self, *outputs: str) -> Model:
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", [self.input], infos, self.weights)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return load_model(proto)


@cache
def residual_net(blocks: int = 3) -> Model:
    """conv, residual blocks (the middle one with a strided shortcut), pooling, a fully connected layer."""
    net = NetBuilder(3, 16)
    x = net.relu(net.conv("stem", "x", 32))
    width = 32
    for i in range(blocks):
        stride = 2 if i == 1 else 1
        width *= stride
        y = net.relu(net.conv(f"b{i}.conv1", x, width, stride=stride))
        y = net.conv(f"b{i}.conv2", y, width)
        short = net.conv(f"b{i}.short", x, width, kernel=1, stride=2) if stride == 2 else x
        x = net.relu(net.op("Add", f"b{i}.add", y, short))
    x = net.op("Flatten", "flat", net.op("GlobalAveragePool", "gap", x))
    return net.model(net.dense("fc", x, 10))


@cache
def residual_space(hw: str = "x86-avx512-bf16", blocks: int = 3) -> SearchSpace:
    return SearchSpace.from_model(residual_net(blocks), load_spec(hw))


class FakeEvaluator:
    """Additive times and losses, hidden from the search; accuracy falls with the loss; noise in latencies alone.

    ``losses``: layer -> how many samples of 1,000 it costs in int8 per channel. ``broken`` strategies (by
    option, as text, of some layer) fail to build.
    """

    higher_is_better = True

    def __init__(
        self,
        space: SearchSpace,
        losses: Mapping[str, float] | None = None,
        *,
        noise: float = 0.0,
        seed: int = 0,
        slow: tuple[str, ...] = (),
        broken: tuple[str, ...] = (),
        delay_s: float = 0.0,
        identity: Mapping[str, str] | None = None,
        margin_of_test: float = 0.0,
    ) -> None:
        self.space = space
        self.losses = dict(losses or {})
        self.noise, self.slow, self.broken, self.delay_s = noise, slow, broken, delay_s
        self._rng = np.random.default_rng(seed)
        self._identity = dict(identity or {})
        self._margin_of_test = margin_of_test
        self.evaluated: list[Strategy] = []
        self.calls: list[str] = []

    def identity(self) -> Mapping[str, str]:
        return {"model": self.space.model_hash[:12], "hw": self.space.hw, "metric": "top1", **self._identity}

    def layer_s(self, layer: str, precision: str) -> float:
        macs = self.space.macs[layer]
        factor = {"float32": 1.0, "bfloat16": 0.6}.get(precision, 0.35)
        if layer in self.slow and precision != "float32":
            factor = 1.5
        return 1e-6 + macs * 2e-11 * factor

    def true_s(self, strategy: Strategy) -> float:
        layers = sum(self.layer_s(layer, strategy.choice(layer).precision) for layer in self.space.macs)
        if not strategy.choices:
            return layers
        return layers + convert_s(self.space, self.space.options(self.space.params(strategy)))

    def loss(self, strategy: Strategy) -> float:
        """Samples of 1,000 that are lost."""
        calibrators = {"minmax": 1.5, "percentile": 1.0, "mse": 0.9, "entropy": 1.2, "moving_average": 2.0}
        kinds = {"per_channel": 1.0, "per_tensor": 3.0, "per_group": 0.5}
        total = 0.0
        for layer, choice in strategy.choices.items():
            own = self.losses.get(layer, 0.0)
            if choice.precision == "bfloat16":
                total += 0.02 * own
            elif choice.precision != "float32":
                total += own * calibrators[choice.calibrator] * kinds[choice.granularity.kind]
        return total

    def float_record(self) -> Record:
        self.calls.append("float")
        return Record(-1, "float32", accuracy=0.9, latency_s=self.true_s(self._float()), size_bytes=4000)

    def _float(self) -> Strategy:
        return Strategy(self.space.model_hash, self.space.hw)

    def _record(self, strategy: Strategy, part: str, extra: float = 0.0) -> Record:
        # Which samples flip depends on the strategy: a small change that no model foresees.
        digest = hashlib.sha256(strategy.key().encode()).digest()
        jitter = digest[0] % 3 - 1 if strategy.choices else 0
        lost = min(900, max(0, round(self.loss(strategy) + extra) + jitter))
        if self.loss(strategy) == 0:
            lost = 0
        ratio = self.true_s(strategy) / self.true_s(self._float())
        ratio *= 1 + self.noise * float(self._rng.normal())
        change = -lost / N_SAMPLES
        return Record(
            0,
            "",
            strategy,
            accuracy=0.9 + change,
            accuracy_change=change,
            accuracy_change_interval=(change - 0.005, change + 0.005),
            n_samples=N_SAMPLES,
            part=part,
            latency_s=ratio * self.true_s(self._float()),
            latency_ratio=ratio,
            latency_ratio_interval=(ratio * 0.99, ratio * 1.01),
            size_bytes=4000 - 100 * len(strategy.choices),
        )

    def evaluate(
        self, strategy: Strategy, *, stop_below: float | None = None, time_left_s: float | None = None
    ) -> Record:
        self.calls.append("evaluate")
        if self.delay_s:
            time.sleep(self.delay_s)
        self.evaluated.append(strategy)
        self._build(strategy)
        return self._record(strategy, "search")

    def _build(self, strategy: Strategy) -> None:
        texts = {str(option_of(c.precision, c.granularity)) for c in strategy.choices.values()}
        if texts & set(self.broken):
            raise BuildError("no kernel for this", where="layer conv1")

    def remeasure(self, records: Sequence[Record]) -> list[Record]:
        return [self._again(record) for record in records]

    def _again(self, record: Record) -> Record:
        assert record.strategy is not None
        fresh = self._record(record.strategy, "search")
        return replace(
            record,
            latency_s=fresh.latency_s,
            latency_interval=fresh.latency_interval,
            latency_ratio=fresh.latency_ratio,
            latency_ratio_interval=fresh.latency_ratio_interval,
        )

    def test(self, strategy: Strategy) -> Record:
        self.calls.append("test")
        return self._record(strategy, "test", self._margin_of_test)

    def sensitivity(self, strategy: Strategy, samples: int) -> float:
        assert samples > 0
        self.calls.append("sensitivity")
        self._build(strategy)
        return self.loss(strategy) * 1e-4

    def kernel_times(self, strategy: Strategy) -> Mapping[str, float]:
        self.calls.append("kernel_times")
        self._build(strategy)
        return {layer: self.layer_s(layer, strategy.choice(layer).precision) for layer in self.space.macs}

    def proposed(self) -> list[str]:
        """The keys of all that was evaluated, in order."""
        return [strategy.key() for strategy in self.evaluated]
