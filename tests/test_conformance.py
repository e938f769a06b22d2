"""Every implementation of a protocol goes through the suite of that protocol, as shipped in hago.testing.

Metrics are tested by being registered. Runners, benches and backends are in test_conformance_targets.py, methods in
their own files.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from measure_fakes import Top1
from rich.console import Console
from search_harness import FakeEvaluator, residual_net, residual_space

from hago.compiler.cache import KernelCache
from hago.data import make_samples, split_samples
from hago.deadline import Deadline
from hago.errors import DataError
from hago.measure.metrics import _METRICS, Metric, get_metric
from hago.model import load_model
from hago.search import Evaluator, LiveProgress, PlainProgress, Progress, SilentProgress
from hago.search.progress import JobProgress
from hago.spec import load_spec, resolve_hw
from hago.strategy import Strategy, uniform
from hago.testing import EvaluatorSuite, MetricSuite, ProgressSuite
from hago.tuning.candidates import EvaluatorOptions
from hago.tuning.evaluator import TvmEvaluator
from hago.tuning.joint import JointEvaluator

HOST = resolve_hw("auto")
needs_kernels = pytest.mark.skipif(not HOST.kernels_available, reason="there are no kernels for this machine")


# --- metrics -------------------------------------------------------------------------------------


def macro_f1(scores: np.ndarray, labels: np.ndarray) -> float:
    """A metric of the whole set, as a user would write it."""
    answers, classes = scores.argmax(axis=1), range(scores.shape[1])
    right = np.array([np.sum((answers == c) & (labels == c)) for c in classes])
    told = np.array([np.sum(answers == c) + np.sum(labels == c) for c in classes])
    return float(np.mean(2 * right / np.maximum(told, 1)))


def share_right(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A metric of samples, as a user would write it."""
    return (scores.argmax(axis=1) == labels).astype(float)


class ByHand(Top1):
    """The protocol satisfied by hand, as a user would."""

    def per_sample(self, outputs: Any, labels: Any, float_outputs: Any = None) -> np.ndarray:
        if labels is None:
            raise DataError("top-1 needs labels")
        return super().per_sample(outputs, labels, float_outputs)


share_right.whole_set = False  # type: ignore[attr-defined]
macro_f1.whole_set = True  # type: ignore[attr-defined]
METRICS = {**{name: name for name in _METRICS}, "function": share_right, "whole set": macro_f1, "object": ByHand()}


class TestMetrics(MetricSuite):
    @pytest.fixture(params=METRICS)
    def metric(self, request: pytest.FixtureRequest) -> Metric:
        return get_metric(METRICS[request.param])


# --- displays ------------------------------------------------------------------------------------

DISPLAYS = {
    "silent": SilentProgress,
    "plain": lambda: PlainProgress(io.StringIO()),
    "live": lambda: LiveProgress(Console(file=io.StringIO(), force_terminal=True)),
    "job": lambda: JobProgress(SilentProgress(), Deadline()),
}


class TestDisplays(ProgressSuite):
    @pytest.fixture(params=DISPLAYS)
    def progress(self, request: pytest.FixtureRequest) -> Progress:
        return DISPLAYS[request.param]()


# --- evaluators ----------------------------------------------------------------------------------


class TestFakeEvaluator(EvaluatorSuite):
    """The one that stands in for a compiler in the tests of the search."""

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return FakeEvaluator(residual_space("x86-avx2"), {"stem": 3.0})

    @pytest.fixture
    def strategy(self) -> Strategy:
        return uniform(residual_net(), load_spec("x86-avx2"))


def _tvm(cache: KernelCache, folder: Path) -> TvmEvaluator:
    model = load_model(tiny.network())
    parts = split_samples(make_samples(tiny.samples(), model.inputs))
    return TvmEvaluator(model, HOST, parts, get_metric("top1"), EvaluatorOptions(threads=1, cache=cache, folder=folder))


@needs_kernels
class TestTvmEvaluator(EvaluatorSuite):
    @pytest.fixture(scope="class")
    def evaluator(self, cache: KernelCache, tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
        return _tvm(cache, tmp_path_factory.mktemp("out"))

    @pytest.fixture
    def strategy(self) -> Strategy:
        return uniform(load_model(tiny.network()), HOST)


@needs_kernels
class TestJointEvaluator(EvaluatorSuite):
    @pytest.fixture(scope="class")
    def evaluator(self, cache: KernelCache, tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
        return JointEvaluator({name: _tvm(cache, tmp_path_factory.mktemp(name)) for name in ("one", "two")}, "mean")

    @pytest.fixture
    def strategy(self) -> Strategy:
        return uniform(load_model(tiny.network()), HOST)
