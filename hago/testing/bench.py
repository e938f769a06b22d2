"""What every bench must do (hago.bench)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ..bench import Bench, Candidate, MeasurementBudget
from ..measure.latency import Latency
from ..result_files import LIBRARY_FILE
from ..spec import HardwareSpec
from .networks import random_feeds

_BUDGET = MeasurementBudget(rounds=0.3, time=0.2, settled=False)


class BenchSuite:
    """Override the fixtures ``bench`` and ``candidates``: float32 first, compiled for ``bench.host``."""

    @pytest.fixture
    def bench(self) -> Bench:
        """The bench under test; the suite closes nothing."""
        raise NotImplementedError("override the fixture `bench`")

    @pytest.fixture
    def candidates(self) -> Sequence[Candidate]:
        """Float32 and at least one other."""
        raise NotImplementedError("override the fixture `candidates`")

    def test_it_says_what_it_is(self, bench: Bench) -> None:
        assert isinstance(bench.spec, HardwareSpec) and isinstance(bench.host, HardwareSpec)
        assert isinstance(bench.where, str) and isinstance(bench.estimated, bool)
        assert all(isinstance(key, str) and isinstance(value, str) for key, value in bench.identity().items())

    def test_ratios_are_to_the_first_candidate(self, bench: Bench, candidates: Sequence[Candidate]) -> None:
        samples = [random_feeds(candidates[0].artifact.input_info)]
        timing = bench.measure(candidates, samples, _BUDGET)
        assert set(timing.latency) == {candidate.name for candidate in candidates}
        assert timing.latency[candidates[0].name].ratio == 1
        for found in timing.latency.values():
            assert found.ratio > 0
            assert bench.estimated != isinstance(found, Latency)

    def test_outputs_are_those_of_the_candidate(self, bench: Bench, candidates: Sequence[Candidate]) -> None:
        for candidate in candidates:
            feeds = random_feeds(candidate.artifact.input_info)
            with bench.runner(candidate) as runner:
                for x, y in zip(runner.run(feeds), candidate.artifact.run(feeds), strict=True):
                    np.testing.assert_allclose(x, y, rtol=0, atol=1e-3 * max(float(np.abs(y).max()), 1e-6))

    def test_costs_are_told_by_layer(self, bench: Bench, candidates: Sequence[Candidate]) -> None:
        costs = bench.kernel_costs(candidates[0])
        assert costs and all(cost >= 0 for cost in costs.values()) and sum(costs.values()) > 0

    def test_what_is_saved_is_all_there(self, bench: Bench, candidates: Sequence[Candidate], tmp_path: Path) -> None:
        bench.save(candidates[-1], tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {LIBRARY_FILE, *bench.files}
