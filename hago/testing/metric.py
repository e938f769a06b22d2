"""What every metric must do, be it a `SampleMetric` (a score for each sample) or a `SetMetric` (one number for all)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ..errors import DataError
from ..measure.metrics import Metric, SampleMetric, SetMetric

Array = NDArray[Any]
_SAMPLES, _CLASSES = 24, 7


class MetricSuite:
    """Derive from it, and override `metric`; also `outputs` and `labels`, where it reads no scores of classes."""

    @pytest.fixture
    def metric(self) -> Metric:
        """The metric."""
        raise NotImplementedError

    @pytest.fixture
    def outputs(self) -> list[Array]:
        """The float model's outputs, each [n, ...]."""
        return [np.random.default_rng(0).normal(size=(_SAMPLES, _CLASSES)).astype(np.float32)]

    @pytest.fixture
    def labels(self, outputs: list[Array]) -> Any:
        """A label for each sample; the float model is right about each."""
        return outputs[0].argmax(axis=1)

    def score(self, metric: Metric, outputs: list[Array], labels: Any, floats: list[Array]) -> float:
        """The value of the whole set, either way."""
        against = floats if metric.needs_float else None
        if isinstance(metric, SampleMetric) and not getattr(metric, "whole_set", False):
            return metric.value(metric.per_sample(outputs, labels, against))
        assert isinstance(metric, SetMetric)
        return metric.of_set(outputs, labels, against)

    def test_it_says_what_it_is(self, metric: Metric) -> None:
        assert isinstance(metric, SampleMetric | SetMetric)
        assert isinstance(metric.name, str) and metric.name
        assert all(type(x) is bool for x in (metric.needs_labels, metric.needs_float, metric.higher_is_better))

    def test_the_value_is_a_number_and_the_same_each_time(
        self, metric: Metric, outputs: list[Array], labels: Any
    ) -> None:
        first, again = (self.score(metric, outputs, labels, outputs) for _ in range(2))
        assert isinstance(first, float) and math.isfinite(first) and first == again

    def test_the_order_of_samples_does_not_count(self, metric: Metric, outputs: list[Array], labels: Any) -> None:
        order = np.random.default_rng(1).permutation(len(outputs[0]))
        turned = [output[order] for output in outputs]
        mixed = [labels[i] for i in order] if isinstance(labels, list) else None if labels is None else labels[order]
        expected = self.score(metric, outputs, labels, outputs)
        assert self.score(metric, turned, mixed, turned) == pytest.approx(expected, rel=1e-6, abs=1e-9)

    def test_what_it_reads_is_not_written_to(self, metric: Metric, outputs: list[Array], labels: Any) -> None:
        for array in [*outputs, *([labels] if isinstance(labels, np.ndarray) else [])]:
            array.setflags(write=False)
        self.score(metric, outputs, labels, outputs)

    def test_noise_is_not_better(self, metric: Metric, outputs: list[Array], labels: Any) -> None:
        rng = np.random.default_rng(2)
        noisy = [output + rng.normal(size=output.shape).astype(output.dtype) * 3 for output in outputs]
        clean, worse = self.score(metric, outputs, labels, outputs), self.score(metric, noisy, labels, outputs)
        assert worse <= clean if metric.higher_is_better else worse >= clean

    def test_scores_of_samples_are_of_each_by_itself(self, metric: Metric, outputs: list[Array], labels: Any) -> None:
        if not isinstance(metric, SampleMetric) or getattr(metric, "whole_set", None) is not None:
            pytest.skip("it scores the whole set")
        against = outputs if metric.needs_float else None
        scores = np.asarray(metric.per_sample(outputs, labels, against))
        assert scores.shape == (len(outputs[0]),)
        few = slice(3, 8)
        some = metric.per_sample(
            [output[few] for output in outputs],
            None if labels is None else labels[few],
            None if against is None else [output[few] for output in against],
        )
        np.testing.assert_allclose(np.asarray(some), scores[few], rtol=1e-6)

    def test_what_it_needs_and_is_not_given_is_a_data_error(
        self, metric: Metric, outputs: list[Array], labels: Any
    ) -> None:
        call = metric.per_sample if isinstance(metric, SampleMetric) else metric.of_set
        if metric.needs_labels:
            with pytest.raises(DataError):
                call(outputs, None, outputs)
        if metric.needs_float:
            with pytest.raises(DataError):
                call(outputs, None, None)
