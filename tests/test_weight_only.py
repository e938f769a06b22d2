"""Weights of 4 bits beside float activations: what a spec may say, what is written, and who says that it is early."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from qdq_graphs import session
from quantize_nets import Net

from hago.calibrate import Calibration
from hago.errors import StrategyError
from hago.model import Model, load_model
from hago.precision import Precision
from hago.qdq import observed_tensors, quantize_model
from hago.scheme import PER_CHANNEL, Granularity
from hago.spec import HardwareSpec, check_spec, load_spec
from hago.strategy import uniform, ways_of

SPEC = """\
name: mine
description: Integer weights, float activations.
extends: x86-avx512-bf16
types:
  weight4: {{storage: int8, bits: 4, symmetric: true}}
  float16: {{storage: float16}}
ways:
  w4a32: {{like: float32, precision: w4a32, weight: weight4, granularities: [per_channel, "per_group:32"]{more}}}
  w4a16: {{like: w4a32, precision: w4a16, activation: float16}}
ops:
  conv: [int8, w4a32, w4a16, float32]
  fully_connected: [int8, w4a32, w4a16, float32]
"""


def spec(tmp_path: Path, *, kernels: bool = False) -> HardwareSpec:
    path = tmp_path / "mine.yaml"
    path.write_text(SPEC.format(more="") + ("" if kernels else "kernels: null\n"))
    return load_spec(path)


def net() -> Model:
    made = Net(3)
    x = made.conv(made.input("x", [1, 3, 8, 8]), "conv", (32, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    x = made.dense(made.op("Flatten", x, name="flat"), "fc", 512, 10)
    return load_model(made.proto((x, [1, 10])))


def calibration(model: Model) -> Calibration:
    return Calibration.placeholder(observed_tensors(model))


def test_a_spec_may_offer_it(tmp_path):
    way = spec(tmp_path).find("conv", "w4a16")
    assert way.numbers == Precision.named("w4a16") and way.numbers.is_weight_only
    assert way.numbers.accumulator == "float32" and way.weight is not None and way.weight.bits == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (", requantize: float32", "ways.w4a32.requantize: means nothing for w4a32"),
        (", max_reduction: 64", "ways.w4a32.max_reduction: means nothing for w4a32"),
        (", accumulator: int32", "ways.w4a32.accumulator: must be a float, like the products, found int32"),
        (", accumulator: float16", "ways.w4a32.accumulator: float16 is narrower than the float32 that it sums up"),
        (", outputs: [uint8]", "ways.w4a32.outputs[0]: a float is not requantized, found uint8"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, more, message):
    path = tmp_path / "mine.yaml"
    path.write_text(SPEC.format(more=more))
    assert any(message in str(problem) for problem in check_spec(path))


def test_the_backend_says_that_there_is_no_kernel_yet(tmp_path):
    model, hardware = net(), spec(tmp_path, kernels=True)
    assert "w4a32" in {way.precision for way in hardware.choices("conv")}
    assert "w4a32" not in {way.precision for way in ways_of(model.layers[0], hardware)}
    strategy = uniform(model, spec(tmp_path), "w4a32")
    assert set(strategy.choices) == {"conv", "fc"}
    with pytest.raises(StrategyError, match=r"layer conv: .* w4a32 .*\n  hint: choose one of: int8, float32"):
        strategy.check(model, hardware)


@pytest.mark.parametrize("precision", ["w4a32", "w4a16"])
def test_only_the_weights_are_integers(tmp_path, precision):
    model, hardware = net(), spec(tmp_path)
    proto = quantize_model(model, uniform(model, hardware, precision), calibration(model), hardware)
    assert not [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    halves = [node.output[0] for node in proto.graph.node if node.op_type == "Cast"]
    assert bool(halves) == (precision == "w4a16")
    rounded = _rounded(model)
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    half = (lambda a: a.astype(np.float16).astype(np.float32)) if precision == "w4a16" else (lambda a: a)
    found = session(proto).run(None, {"x": x})[0]
    first = session(_conv(rounded)).run(None, {"x": half(x)})[0]
    expected = half(first.reshape(1, 512)) @ rounded["fc_w"] + rounded["fc_b"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def _rounded(model: Model) -> dict[str, np.ndarray]:
    """Weights rounded per output channel to -7 .. 7 steps, biases as they are."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.proto.graph.initializer}
    for name, axes in (("conv_w", (1, 2, 3)), ("fc_w", (0,))):
        step = np.abs(arrays[name]).max(axis=axes, keepdims=True) / np.float32(7)
        arrays[name] = (np.rint(arrays[name] / step) * step).astype(np.float32)
    return arrays


def _conv(arrays: dict[str, np.ndarray]) -> object:
    made = Net()
    operands = [made.input("x", [1, 3, 8, 8]), *(made.constant(n, arrays[n]) for n in ("conv_w", "conv_b"))]
    return made.proto((made.op("Conv", *operands, name="y", strides=[2, 2], pads=[1, 1, 1, 1]), [1, 32, 4, 4]))


def test_groups_of_inputs_have_scales_of_their_own(tmp_path):
    model, hardware = net(), spec(tmp_path)
    strategy = uniform(model, hardware, "w4a32", Granularity.parse("per_group:32"))
    assert strategy.choice("conv").granularity == PER_CHANNEL  # 3 input channels
    proto = quantize_model(model, strategy, calibration(model), hardware)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    stored, scale = arrays["fc_w_quantized"], arrays["fc_w_scale"]
    assert stored.dtype == np.int8 and np.abs(stored).max() == 7 and scale.shape == (10, 16)
    weight = {t.name: numpy_helper.to_array(t) for t in model.proto.graph.initializer}["fc_w"].T
    steps = np.repeat(scale, 32, axis=1)
    assert np.all(np.abs(stored * steps - weight) <= steps * 0.5001)
    assert all(tensor.data_type != TensorProto.INT32 for tensor in proto.graph.initializer)
