"""Conformance suites: what every implementation of a protocol must do, as tests to derive from.

    from hago.testing import MetricSuite

    class TestMyMetric(MetricSuite):
        @pytest.fixture
        def metric(self):
            return MyMetric()

A suite needs pytest, and one fixture that makes what is tested. Hago's own implementations go through the same suites
(tests/test_conformance.py).
"""

from .backend import BackendSuite
from .bench import BenchSuite
from .evaluator import EvaluatorSuite
from .methods import CorrectionSuite, RangeSuite, RoundingSuite, TransformationSuite
from .metric import MetricSuite
from .progress import ProgressSuite
from .runner import RunnerSuite

__all__ = [
    "BackendSuite",
    "BenchSuite",
    "CorrectionSuite",
    "EvaluatorSuite",
    "MetricSuite",
    "ProgressSuite",
    "RangeSuite",
    "RoundingSuite",
    "RunnerSuite",
    "TransformationSuite",
]
