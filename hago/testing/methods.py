"""What every method must hold: ranges, rounding of weights, correction of biases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ..calibrate.calibration import RangeMethod
from ..calibrate.histogram import Histogram, TensorStats
from ..methods import NEAREST, Correction, CorrectionTask, Need, Rounding, Transformation, WeightTask
from ..model import Model, load_model
from ..scheme import PER_CHANNEL, PER_TENSOR, Granularity, IntegerType

INT8 = IntegerType(8, signed=True, symmetric=True)
INT4 = IntegerType(4, signed=True, symmetric=True)
UINT8 = IntegerType(8, signed=False, symmetric=False)
GROUP4 = Granularity("per_group", 4)
_SAMPLES, _OUTPUTS, _CHANNELS = 6, 5, 8


def make_weight(seed: int = 0) -> npt.NDArray[np.float32]:
    """[O, I, k] with channels of different size, one of them zero."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** np.arange(-2, _OUTPUTS - 2).reshape(-1, 1, 1)
    weight = rng.standard_normal((_OUTPUTS, _CHANNELS, 3)) * sizes
    weight[1] = 0
    return weight.astype(np.float32)


def make_statistics(needs: Sequence[Need]) -> dict[str, npt.NDArray[np.float32]]:
    """Made-up statistics of a layer's inputs [N, I, 4] and outputs [N, O, 4]."""
    rng = np.random.default_rng(1)
    inputs = rng.uniform(0, 2, (_SAMPLES, _CHANNELS, 4)).astype(np.float32)
    rows = inputs.transpose(0, 2, 1).reshape(-1, _CHANNELS)
    every: dict[str, Any] = {
        "input_mean": rows.mean(axis=0),
        "input_moments": rows.T @ rows / np.float32(len(rows)),
        "inputs": inputs,
        "outputs": rng.standard_normal((_SAMPLES, _OUTPUTS, 4)).astype(np.float32),
    }
    return {need.statistic: every[need.statistic] for need in needs}


class RangeSuite:
    """Override ``method`` with a range method, such as one of `hago.methods.RANGES`."""

    @pytest.fixture
    def method(self) -> RangeMethod:
        """What is tested."""
        raise NotImplementedError

    @pytest.mark.parametrize("integers", [UINT8, INT8, INT4])
    @pytest.mark.parametrize("kind", ["both sides", "positive", "negative", "constant", "zeros", "one"])
    def test_a_range_holds_zero_and_lies_within_what_was_seen(
        self, method: RangeMethod, integers: IntegerType, kind: str
    ) -> None:
        """lo <= 0 <= hi, finite, and the same twice."""
        stats = _stats(kind)
        lo, hi = method(stats, integers)
        assert min(0.0, stats.lo) <= lo <= 0 <= hi <= max(0.0, stats.hi)
        assert method(stats, integers) == (lo, hi)


def _stats(kind: str) -> TensorStats:
    values = np.random.default_rng(2).standard_normal(2000).astype(np.float32)
    values = {
        "both sides": values,
        "positive": np.abs(values),
        "negative": -np.abs(values),
        "constant": np.full(9, 3, np.float32),
        "zeros": np.zeros(9, np.float32),
        "one": values[:1],
    }[kind]
    histogram = Histogram()
    histogram.update(values)
    return histogram.stats()


@pytest.mark.parametrize("granularity", [PER_TENSOR, PER_CHANNEL, GROUP4], ids=str)
class RoundingSuite:
    """Override ``method`` with a `Rounding`."""

    @pytest.fixture
    def method(self) -> Rounding:
        """What is tested."""
        raise NotImplementedError

    @pytest.mark.parametrize("integers", [INT8, INT4])
    def test_integers_lie_within_their_type(
        self, method: Rounding, granularity: Granularity, integers: IntegerType
    ) -> None:
        """And scales are positive; a channel of zeros stays zero."""
        weight = make_weight()
        found = method.round(WeightTask(weight, integers, granularity, statistics=make_statistics(method.needs)))
        assert found.values.dtype == np.int8 and found.values.shape == weight.shape
        assert np.abs(found.values.astype(int)).max() <= integers.qmax
        assert found.scale.shape == (() if granularity == PER_TENSOR else (_OUTPUTS,))
        assert np.all(found.scale > 0) and np.isfinite(found.scale).all()
        assert not found.values[1].any()

    def test_scales_are_not_below_the_bound(self, method: Rounding, granularity: Granularity) -> None:
        """A bias that would not fit asks for coarser weights."""
        bound = np.full(_OUTPUTS, 0.5, np.float32)
        task = WeightTask(make_weight(), INT8, granularity, min_scale=bound, statistics=make_statistics(method.needs))
        assert np.all(method.round(task).scale >= bound)

    def test_the_same_weights_give_the_same_integers(self, method: Rounding, granularity: Granularity) -> None:
        """And leave what they were given alone."""
        weight = make_weight()
        task = WeightTask(weight, INT8, granularity, statistics=make_statistics(method.needs))
        one, other = method.round(task), method.round(task)
        assert np.array_equal(one.values, other.values) and np.array_equal(one.scale, other.scale)
        assert np.array_equal(weight, make_weight())


class CorrectionSuite:
    """Override ``method`` with a `Correction`."""

    @pytest.fixture
    def method(self) -> Correction:
        """What is tested."""
        raise NotImplementedError

    def test_there_is_one_finite_number_for_each_output(self, method: Correction) -> None:
        """float32 [O]."""
        added = method.correct(self._task(method, make_weight()))
        assert added.shape == (_OUTPUTS,) and added.dtype == np.float32 and np.isfinite(added).all()

    def test_what_was_rounded_exactly_needs_no_correction(self, method: Correction) -> None:
        """Weights that are whole steps lose nothing."""
        weight = np.random.default_rng(3).integers(-127, 128, (_OUTPUTS, _CHANNELS, 3)).astype(np.float32)
        weight[:, 0, 0] = 127
        assert not method.correct(self._task(method, weight)).any()

    def _task(self, method: Correction, weight: npt.NDArray[np.float32]) -> CorrectionTask:
        quantized = NEAREST.round(WeightTask(weight, INT8, PER_CHANNEL))
        return CorrectionTask(weight, quantized, None, make_statistics(method.needs))


class TransformationSuite:
    """Override ``method`` with a `Transformation`, and ``model`` with a network that it changes."""

    @pytest.fixture
    def method(self) -> Transformation:
        """What is tested."""
        raise NotImplementedError

    @pytest.fixture
    def model(self) -> Model:
        """Two convolutions [N, 2, 6, 6] -> [N, 3, 2, 2] with a Relu between them."""
        rng = np.random.default_rng(4)
        weights = {"w1": (4, 2, 3, 3), "b1": (4,), "w2": (3, 4, 3, 3), "b2": (3,)}
        nodes = [
            helper.make_node("Conv", ["x", "w1", "b1"], ["first"], "first_conv"),
            helper.make_node("Relu", ["first"], ["relu"], "relu"),
            helper.make_node("Conv", ["relu", "w2", "b2"], ["y"], "second_conv"),
        ]
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("x", [1, 2, 6, 6]), ("y", [1, 3, 2, 2]))
        ]
        constants = [
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
            for name, shape in weights.items()
        ]
        graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], constants)
        return load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))

    def test_the_function_stays(self, method: Transformation, model: Model) -> None:
        """Up to the rounding of float32, by ONNX's reference; inputs, outputs and layers keep their names."""
        changed = method.apply(model)
        assert (changed.inputs, changed.outputs) == (model.inputs, model.outputs)
        assert [layer.name for layer in changed.layers] == [layer.name for layer in model.layers]
        rng = np.random.default_rng(5)
        feeds = {info.name: rng.standard_normal(info.shape).astype(np.float32) for info in model.inputs}
        expected, found = (ReferenceEvaluator(m.proto).run(None, feeds) for m in (model, changed))
        for one, other in zip(expected, found, strict=True):
            scale = np.abs(one).max()
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5 * scale)

    def test_the_model_that_was_given_stays(self, method: Transformation, model: Model) -> None:
        """A transformation returns another model."""
        before = model.proto.SerializeToString(deterministic=True)
        method.apply(model)
        assert model.proto.SerializeToString(deterministic=True) == before
