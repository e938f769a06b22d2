"""Whole searches for other goals than the fastest within a drop: bounds on latency and size, and size as objective."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_harness import FakeEvaluator, residual_space

from hago.goal import Goal
from hago.outcomes import MET, NOT_FASTER, NOT_MET
from hago.record import Record
from hago.search import SearchSpace, run_search
from hago.search.sizes import SizeTable
from hago.search.stopping import hypervolume, trials_without_gain
from hago.search.timing import TimeTable, options_to_time
from hago.search.warmstart import WarmStartCandidate, bisect, solve
from hago.strategy import Strategy

LOSSES = {"stem": 6.0, "b0.conv1": 1.0, "b0.conv2": 2.0, "b1.short": 3.0, "fc": 0.5}
BITS = {"float32": 32, "bfloat16": 16}


class Sized(FakeEvaluator):
    """Networks take what their weights take, and a hundred bytes."""

    def size(self, strategy: Strategy) -> int:
        layers = self.space.weights.items()
        return 100 + sum(n * BITS.get(strategy.choice(name).precision, 8) // 8 for name, n in layers)

    def float_record(self) -> Record:
        floats = self._float()
        return Record(-1, "float32", accuracy=0.9, latency_s=self.true_s(floats), size_bytes=self.size(floats))

    def _record(self, strategy: Strategy, part: str, extra: float = 0.0) -> Record:
        found = super()._record(strategy, part, extra).to_dict()
        return Record.from_dict({**found, "size_bytes": self.size(strategy)})


def every_layer(space: SearchSpace) -> tuple[str, ...]:
    return tuple(space.macs)


def test_where_size_is_the_objective_the_smallest_is_the_answer_though_it_is_slower():
    space = residual_space()
    slow = Sized(space, LOSSES, slow=every_layer(space))
    fastest = run_search(space, slow, trials=12, goal=Goal(max_drop=0.05))
    assert fastest.outcome == NOT_FASTER
    smallest = run_search(space, slow, trials=12, goal=Goal(max_drop=0.05, objectives=("size", "accuracy")))
    assert smallest.outcome == MET and smallest.best.latency_ratio > 1
    assert smallest.best.size_bytes == min(r.size_bytes for r in smallest.records if smallest.goal.within(r))
    assert smallest.float.size_bytes > 3 * smallest.best.size_bytes
    assert "times smaller and" in smallest.summary() and "times slower" in smallest.summary()
    assert smallest.best.size_bytes in {r.size_bytes for r in smallest.front}
    # What nothing beats in accuracy and size; how fast it is does not count.
    points = [(smallest.goal.drop(r), r.size_bytes) for r in smallest.front]
    assert points == sorted(points) and [size for _, size in points] == sorted((s for _, s in points), reverse=True)


def test_a_tight_bound_leaves_the_costly_layers_larger():
    space = residual_space()
    costly = Sized(space, {"b1.conv2": 40.0, "stem": 1.0})
    result = run_search(space, costly, trials=25, goal=Goal(max_drop=0.005, objectives=("size",)))
    assert result.outcome == MET
    kept = result.best.strategy.choice("b1.conv2").precision
    assert BITS.get(kept, 8) > 8 and result.float.size_bytes > 2 * result.best.size_bytes


def test_within_a_latency_the_most_accurate_is_looked_for():
    space = residual_space()
    evaluator = Sized(space, LOSSES)
    floats_s = evaluator.float_record().latency_s
    everywhere = run_search(space, Sized(space, LOSSES), trials=4)  # integers in every layer
    goal = Goal(math.inf, max_latency_s=0.7 * floats_s)
    result = run_search(space, evaluator, trials=30, goal=goal)
    assert result.outcome == MET
    assert result.best.latency_s <= 0.7 * floats_s
    assert goal.drop(result.best) < goal.drop(everywhere.records[0])
    said = result.summary()
    assert "drop of" in said and f"with {goal.words}" in said
    # Nothing that was measured keeps the bound and is more accurate.
    assert goal.drop(result.best) == min(goal.drop(r) for r in result.records if result.goal.within(r))


def test_where_float32_keeps_the_latency_it_stays():
    space = residual_space()
    evaluator = Sized(space, LOSSES)
    goal = Goal(math.inf, max_latency_s=2 * evaluator.float_record().latency_s)
    result = run_search(space, evaluator, trials=10, goal=goal)
    assert result.outcome == NOT_FASTER and result.best is result.float
    assert "more accurate" in result.summary()


def test_a_latency_out_of_reach_gives_the_closest():
    space = residual_space()
    evaluator = Sized(space, LOSSES)
    result = run_search(
        space, evaluator, trials=15, goal=Goal(math.inf, max_latency_s=0.1 * evaluator.float_record().latency_s)
    )
    assert result.outcome == NOT_MET
    measured = [r.latency_s for r in result.records if r.state == "ok"]
    assert result.best.latency_s == min(measured)
    assert "the closest takes" in result.summary()


def test_of_the_fast_ones_only_those_of_the_size_asked_for_are_taken():
    space = residual_space()
    evaluator = Sized(space, {"b1.conv2": 12.0, "stem": 1.0}, slow=("b2.conv1",))
    fastest = run_search(space, evaluator, trials=20)
    assert fastest.outcome == MET
    most = fastest.best.size_bytes - 1
    bounded = run_search(space, Sized(space, {"b1.conv2": 12.0, "stem": 1.0}, slow=("b2.conv1",)), trials=20,
                         goal=Goal(max_size=most))  # fmt: skip
    if bounded.outcome == MET:
        assert bounded.best.size_bytes <= most and bounded.best.latency_ratio >= fastest.best.latency_ratio * 0.97
    else:
        assert bounded.outcome == NOT_MET
    hopeless = run_search(space, Sized(space, LOSSES), trials=8, goal=Goal(max_size=200))
    assert hopeless.outcome == NOT_MET and "the closest" in hopeless.summary()


@pytest.mark.parametrize("goal", [{"max_latency_s": 0.6}, {"max_latency_s": 0.6, "max_size": 60_000}])
def test_noisy_latencies_change_no_proposal(goal):
    space = residual_space()
    proposed = []
    for seed in (1, 2):
        evaluator = Sized(space, LOSSES, noise=0.05, seed=seed)
        bounds = {**goal, "max_latency_s": goal["max_latency_s"] * evaluator.float_record().latency_s}
        run_search(space, evaluator, trials=16, seed=3, patience=None, goal=Goal(math.inf, **bounds))
        proposed.append(evaluator.proposed())
    assert proposed[0] == proposed[1]


def test_predicted_sizes_are_those_of_the_weights():
    space = residual_space()
    evaluator = Sized(space)
    table = SizeTable(evaluator.float_record().size_bytes)
    rng = np.random.default_rng(0)
    for _ in range(10):
        options = [group.options[int(rng.integers(len(group.options)))] for group in space.groups]
        strategy = space.strategy(space.make_params(options, "mse"))
        expected = evaluator.size(strategy) / evaluator.float_record().size_bytes
        assert table.ratio(space, options) == pytest.approx(expected, rel=1e-3)


@given(st.integers(0, 10**6), st.floats(0.3, 1.0))
@settings(max_examples=10, deadline=None)
def test_the_programme_keeps_its_limits(seed, share):
    space = residual_space(blocks=1)
    rng = np.random.default_rng(seed)
    times = TimeTable(
        {
            option: {layer: float(rng.uniform(1e-6, 2e-5)) for layer in space.macs}
            for option in options_to_time(space, True)
        }
    )
    sizes = SizeTable()
    losses = [[float(rng.uniform(0, 1)) for _ in g.options] for g in space.groups]
    most = share * sum(max(sizes.group_cost(space, g, s) for s in g.options) for g in space.groups)

    def weight(options):
        return sum(sizes.group_cost(space, g, s) for g, s in zip(space.groups, options, strict=True))

    every = list(product(*(g.options for g in space.groups)))
    fitting = [times.predict_s(space, options) for options in every if weight(options) <= most]
    found = solve(space, times, losses, math.inf, limits=[(sizes, most)])
    assert (found is None) == (not fitting)
    if found is not None:
        assert weight(found) <= most * (1 + 1e-6)
        assert times.predict_s(space, found) <= min(fitting) * 1.003  # the solver's gap
    assert solve(space, times, losses, math.inf, limits=[(sizes, 0.0)]) is None


@given(st.integers(1, 40), st.integers(-1, 40), st.booleans())
def test_bisection_from_the_exact_end_finds_the_most_exact_that_keeps_the_bound(count, last_good, float_keeps):
    front = [WarmStartCandidate({"i": str(i)}, str(i)) for i in range(count)]
    asked: dict[str, bool] = {}
    while (found := bisect(count, front.__getitem__, lambda c: asked.get(c.label), True, float_keeps)) is not None:
        assert found.label not in asked
        asked[found.label] = int(found.label) <= last_good
    good = [int(label) for label, keeps in asked.items() if keeps]
    assert max(good, default=-1) == min(last_good, count - 1)
    assert len(asked) <= 2 + math.ceil(math.log2(count + 1))


CORNERS = st.lists(st.tuples(*[st.integers(0, 5)] * 3), max_size=8)


@given(CORNERS)
def test_the_volume_of_three_axes_is_that_of_the_cells(points):
    reference = (4, 4, 4)
    cells = product(range(4), repeat=3)
    counted = sum(any(all(p <= c for p, c in zip(point, cell, strict=True)) for point in points) for cell in cells)
    assert hypervolume(points, reference) == counted
    assert hypervolume([point[:1] for point in points], (4,)) == max([0, *(4 - point[0] for point in points)])


@given(CORNERS)
def test_plateaus_are_counted_alike_with_and_without_the_points_that_add_nothing(points):
    reference = (4, 4, 4)
    volumes = [hypervolume(points[:i], reference) for i in range(len(points) + 1)]
    last = max((i for i in range(1, len(volumes)) if volumes[i] > volumes[i - 1]), default=0)
    assert trials_without_gain(points, reference, tolerance=1e-9) == len(points) - last
