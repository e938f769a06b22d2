"""Methods that a strategy names for a layer, held against numpy through the QDQ file that they lead to."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from qdq_graphs import session
from quantize_nets import Net

from hago.calibrate import Calibration, calibrate
from hago.calibrate.statistics import statistics_of
from hago.data import make_samples
from hago.errors import DataError
from hago.methods import CORRECTION, RANGES, ROUNDING, needs_of
from hago.model import Model, expose, load_model
from hago.qdq import Quantizer, observed_tensors
from hago.scheme import PER_CHANNEL, PER_TENSOR, Granularity
from hago.spec import load_spec
from hago.strategy import Strategy, uniform
from hago.testing.methods import CorrectionSuite, RangeSuite, RoundingSuite

HARDWARE = load_spec("x86-avx2")


class TestRanges(RangeSuite):
    @pytest.fixture(params=RANGES.values(), ids=RANGES)
    def method(self, request):
        return request.param


class TestRounding(RoundingSuite):
    @pytest.fixture(params=ROUNDING.values(), ids=ROUNDING)
    def method(self, request):
        return request.param


class TestCorrection(CorrectionSuite):
    @pytest.fixture(params=CORRECTION.values(), ids=CORRECTION)
    def method(self, request):
        return request.param


def net(bias: bool = True) -> Model:
    """A grouped convolution with padding and strides, and a product; [1, 16, 8, 8] -> [1, 10]."""
    made = Net(3)
    x = made.input("x", [1, 16, 8, 8])
    x = made.conv(x, "conv", (32, 8, 3, 3), bias=bias, group=2, strides=[2, 2], pads=[1, 1, 0, 0])
    x = made.dense(made.op("Flatten", x, name="flat"), "fc", 512, 10)
    return load_model(made.proto((x, [1, 10])))


def inputs(count: int = 16) -> np.ndarray:
    """Positive samples, so that the mean of every channel is far from zero."""
    return np.abs(np.random.default_rng(0).standard_normal((count, 16, 8, 8))).astype(np.float32)


def calibrated(model: Model, xs: np.ndarray, strategy: Strategy) -> Calibration:
    """What the strategy's methods ask for, by ONNX Runtime."""
    tensors, statistics = observed_tensors(model), statistics_of(model.layers, needs_of(strategy.used))
    wanted = dict.fromkeys((*tensors, *(each.tensor for each in statistics)))
    exposed = expose(model, [name for name in wanted if name != "x"])
    runner, names = ort.InferenceSession(exposed.SerializeToString()), [o.name for o in exposed.graph.output]
    samples = make_samples(xs, model.inputs)

    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**feeds, **dict(zip(names, runner.run(None, feeds), strict=True))}

    return calibrate(tensors, samples, run, model.batch, statistics=statistics)


def constants(model: Model, strategy: Strategy, xs: np.ndarray) -> dict[str, np.ndarray]:
    """The initializers of the QDQ file, by name."""
    proto = Quantizer(model, calibrated(model, xs, strategy), HARDWARE).qdq(strategy)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


@pytest.mark.parametrize("granularity", [PER_TENSOR, PER_CHANNEL])
@pytest.mark.parametrize("bias", [True, False])
def test_bias_correction_adds_what_rounded_weights_take_from_the_mean_output(granularity, bias):
    """The mean of conv(x, w) - conv(x, dequantized w) over samples and positions, by ONNX Runtime.

    Channels are constant over positions, so that a tap beside the padding sees the mean of the whole channel.
    """
    model = net(bias)
    xs = np.broadcast_to(inputs()[:, :, :1, :1], (16, 16, 8, 8)).copy()
    strategy = uniform(model, HARDWARE, "int7", granularity, correction="bias")
    found = constants(model, strategy, xs)
    scale, stored = found["conv_w_scale"], found["conv_w_quantized"]
    axis = scale.reshape(-1, 1, 1, 1) if scale.ndim else scale
    floats = constants_of(model)

    def convolved(weight: np.ndarray) -> np.ndarray:
        made = Net()
        y = made.op("Conv", made.input("x", [16, 16, 8, 8]), made.constant("w", weight), name="y", group=2,
                    strides=[2, 2], pads=[1, 1, 0, 0])  # fmt: skip
        return session(made.proto((y, [16, 32, 4, 4]))).run(None, {"x": xs})[0].mean(axis=(0, 2, 3))

    lost = convolved(floats["conv_w"]) - convolved(stored.astype(np.float32) * axis)
    assert np.abs(lost).max() > 1e-3
    name = "conv_b" if bias else "conv_w_bias"
    plain = floats["conv_b"] if bias else np.zeros(32, np.float32)
    np.testing.assert_allclose(
        found[f"{name}_quantized"] * found[f"{name}_scale"] - plain, lost, atol=2e-5 + found[f"{name}_scale"].max()
    )


def constants_of(model: Model) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.proto.graph.initializer}


def test_bias_correction_brings_the_mean_of_the_network_back():
    model, xs = net(), inputs()
    runner = session(model.proto)
    floats = np.concatenate([runner.run(None, {"x": x[None]})[0] for x in xs])
    shift = {}
    for label, methods in (("plain", {}), ("corrected", {"correction": "bias"})):
        strategy = uniform(model, HARDWARE, "int7", PER_TENSOR, **methods)
        opened = session(Quantizer(model, calibrated(model, xs, strategy), HARDWARE).qdq(strategy))
        found = np.concatenate([opened.run(None, {"x": x[None]})[0] for x in xs])
        shift[label] = np.abs((found - floats).mean(axis=0)).max()
    assert shift["corrected"] < shift["plain"]  # what is left comes from rounded activations


def test_weights_are_clipped_where_the_squared_error_is_least():
    model, xs = net(), inputs(2)
    weight = constants_of(model)["conv_w"].astype(np.float64)
    found = constants(model, uniform(model, HARDWARE, "int7", PER_TENSOR, rounding="mse"), xs)
    scale = float(found["conv_w_scale"])

    def error(step: float) -> float:
        return float(np.square(np.clip(np.rint(weight / step), -63, 63) * step - weight).sum())

    np.testing.assert_array_equal(found["conv_w_quantized"], np.clip(np.rint(weight / scale), -63, 63))
    whole = np.abs(weight).max() / 63
    assert scale < whole and error(scale) < error(whole)
    assert error(scale) <= 1.02 * min(error(whole * i / 100) for i in range(30, 101))


@pytest.mark.parametrize("granularity", [PER_CHANNEL, Granularity("per_group", 32)], ids=str)
def test_clipping_reaches_the_file_where_channels_and_groups_have_scales(granularity):
    proto, xs = net().proto, inputs(2)
    weight = np.random.default_rng(1).standard_t(3, (512, 10)).astype(np.float32)
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == "fc_w")
    tensor.CopyFrom(numpy_helper.from_array(weight, "fc_w"))
    model, lost = load_model(proto), {}
    for rounding in ("nearest", "mse"):
        found = constants(model, uniform(model, HARDWARE, "int7", granularity, rounding=rounding), xs)
        stored, scale = found["fc_w_quantized"].astype(np.float64), found["fc_w_scale"].astype(np.float64)
        if granularity.group_size:
            scale = np.repeat(scale, granularity.group_size, axis=scale.shape.index(512 // granularity.group_size))
        stored = stored * scale
        lost[rounding] = np.square((stored if stored.shape == weight.shape else stored.T) - weight).sum()
    assert lost["mse"] < lost["nearest"]


def test_a_calibration_without_what_a_method_needs_is_refused():
    model, xs = net(), inputs(2)
    bare = calibrated(model, xs, uniform(model, HARDWARE, "int8"))
    with pytest.raises(DataError, match="no input_mean of tensor 'x'\n  hint: calibrate again, with samples"):
        Quantizer(model, bare, HARDWARE).qdq(uniform(model, HARDWARE, "int8", correction="bias"))
