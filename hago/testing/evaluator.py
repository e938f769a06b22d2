"""What every `hago.search.Evaluator` must do."""

from __future__ import annotations

import math

import pytest

from ..search.objective import Evaluator
from ..strategy import Strategy


class EvaluatorSuite:
    """Derive from it, and override `evaluator` and `strategy`."""

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        """An evaluator of a small model; it may be one and the same for all tests."""
        raise NotImplementedError

    @pytest.fixture
    def strategy(self) -> Strategy:
        """A strategy that it can measure, with at least one quantized layer."""
        raise NotImplementedError

    def test_its_identity_is_text_and_stays(self, evaluator: Evaluator) -> None:
        identity = evaluator.identity()
        assert all(isinstance(text, str) for pair in identity.items() for text in pair)
        assert dict(evaluator.identity()) == dict(identity)

    def test_float32_is_measured_on_the_search_part(self, evaluator: Evaluator) -> None:
        record = evaluator.float_record()
        assert (record.state, record.part, record.strategy) == ("ok", "search", None)
        assert record.accuracy is not None and math.isfinite(record.accuracy)

    def test_the_same_strategy_has_the_same_accuracy(self, evaluator: Evaluator, strategy: Strategy) -> None:
        evaluator.float_record()
        first, again = evaluator.evaluate(strategy), evaluator.evaluate(strategy)
        assert first.state == again.state == "ok" and first.part == "search"
        assert first.accuracy is not None and first.accuracy == again.accuracy
        assert first.accuracy_change is not None and first.accuracy_change == again.accuracy_change

    def test_a_race_that_cannot_be_lost_is_run_to_its_end(self, evaluator: Evaluator, strategy: Strategy) -> None:
        evaluator.float_record()
        assert evaluator.evaluate(strategy, stop_below=-math.inf, time_left_s=60.0).state == "ok"

    def test_measuring_again_changes_the_latency_alone(self, evaluator: Evaluator, strategy: Strategy) -> None:
        evaluator.float_record()
        record = evaluator.evaluate(strategy)
        (again,) = evaluator.remeasure([record])
        assert (again.strategy, again.accuracy, again.id) == (record.strategy, record.accuracy, record.id)

    def test_the_test_part_is_another(self, evaluator: Evaluator, strategy: Strategy) -> None:
        evaluator.float_record()
        assert evaluator.test(strategy).part == "test"
        floats = evaluator.test(Strategy(strategy.model_hash, strategy.hw))
        assert floats.part == "test" and floats.accuracy is not None

    def test_sensitivity_is_no_less_than_nothing_and_the_same_each_time(
        self, evaluator: Evaluator, strategy: Strategy
    ) -> None:
        found = evaluator.sensitivity(strategy, 4)
        assert found >= 0 and found == evaluator.sensitivity(strategy, 4)

    def test_times_of_kernels_are_seconds_by_layer(self, evaluator: Evaluator, strategy: Strategy) -> None:
        times = evaluator.kernel_times(strategy)
        assert times and all(isinstance(name, str) and 0 <= time_s < math.inf for name, time_s in times.items())
