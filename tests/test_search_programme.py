"""The additive models, the integer programme over them, and the bisection of its front."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_harness import FakeEvaluator, residual_net, residual_space

from hago.errors import BuildError, StorageError
from hago.search.additive import AdditiveModel
from hago.search.option import FLOAT32
from hago.search.refine import refine
from hago.search.sensitivity import (
    EVERYWHERE,
    MOST_PROBES,
    Sensitivities,
    base_option,
    main_option,
    measure_probe,
    next_probe,
    next_uniform_probe,
    sample_count,
)
from hago.search.space import SearchSpace
from hago.search.timing import TimeTable, convert_s, options_to_time, time_option
from hago.search.warmstart import (
    Programme,
    WarmStartCandidate,
    bisect,
    fastest,
    solve,
    uniform_candidates,
)
from hago.spec import load_spec

INT8 = "int8/per_channel"
LOSSES = {"stem": 6.0, "b0.conv1": 1.0, "b1.conv1": 12.0, "b1.conv2": 2.0, "b2.conv1": 0.5, "fc": 5.0}


def measured_times(evaluator: FakeEvaluator, thorough: bool = True) -> TimeTable:
    space = evaluator.space
    options = options_to_time(space, thorough)
    return TimeTable({s: time_option(space, evaluator, s) for s in options})


def all_probes(evaluator: FakeEvaluator, thorough: bool = True) -> Sensitivities:
    space, known = evaluator.space, Sensitivities()
    while (probe := next_uniform_probe(space, known)) is not None:
        known = known.with_(probe, measure_probe(space, evaluator, probe, 8))
    while (probe := next_probe(space, known, thorough)) is not None:
        known = known.with_(probe, measure_probe(space, evaluator, probe, 8))
    return known


def test_predicted_time_is_the_sum_of_kernels_and_conversions():
    space = residual_space()
    evaluator = FakeEvaluator(space, slow=("fc",))
    times = measured_times(evaluator)
    rng = np.random.default_rng(0)
    for _ in range(20):
        options = [group.options[int(rng.integers(len(group.options)))] for group in space.groups]
        strategy = space.strategy(space.make_params(options, "minmax"))
        assert times.predict_s(space, options) == pytest.approx(evaluator.true_s(strategy), rel=1e-9)
        ratio = AdditiveModel(space, times, Sensitivities()).ratio(space.make_params(options, "minmax"))
        assert ratio == pytest.approx(times.ratio(space, options), rel=1e-9)


def test_conversions_are_paid_where_neighbours_differ():
    space = residual_space()
    alone = [FLOAT32] * len(space.groups)
    assert convert_s(space, alone) == 0
    everywhere = [group.find(INT8) for group in space.groups]
    mixed = [INT8 if i % 2 else FLOAT32 for i in range(len(space.groups))]
    # All in integers still converts the graph's input and its output.
    assert 0 < convert_s(space, everywhere) < convert_s(space, mixed)


def test_options_without_times_take_those_of_their_kin():
    space = residual_space()
    table = TimeTable({"float32": {"fc": 10e-6}, "int8/per_channel": {"fc": 4e-6}})
    assert table.layer_s("fc", INT8) == 4e-6
    assert table.layer_s("fc", next(s for s in space.groups[-1].options if "per_tensor" in s)) == 4e-6
    grouped = next(s for s in space.groups[-1].options if "per_group" in s)
    assert table.layer_s("fc", grouped) == pytest.approx(5e-6)
    assert table.layer_s("fc", "bfloat16") == 10e-6  # nothing known: no gain is promised
    nothing = TimeTable()
    assert nothing.layer_s("fc", INT8, 10**6) < nothing.layer_s("fc", FLOAT32, 10**6)


def test_failed_timing_leaves_an_empty_row_and_a_full_disk_is_reported():
    space = residual_space()

    class Failing(FakeEvaluator):
        def kernel_times(self, strategy):
            raise BuildError("no kernel")

    class Full(FakeEvaluator):
        def kernel_times(self, strategy):
            raise StorageError("no space left")

    assert time_option(space, Failing(space), INT8) == {}
    with pytest.raises(StorageError):
        time_option(space, Full(space), INT8)


def test_per_group_weights_are_timed_only_where_the_bound_is_at_stake():
    space = residual_space()
    assert [s for s in options_to_time(space, False)] == ["float32", "int8/per_channel", "bfloat16"]
    assert "int8/per_group:32" in [s for s in options_to_time(space, True)]


def test_probes_cover_every_group_then_the_costly_ones():
    evaluator = FakeEvaluator(residual_space(), LOSSES)
    space = evaluator.space
    plain = all_probes(evaluator, thorough=False)
    single = {g for g, _, _ in plain.losses if g != EVERYWHERE}
    assert single == {group.name for group in space.groups}
    thorough = all_probes(evaluator, thorough=True)
    assert plain.losses.items() <= thorough.losses.items()
    assert len(thorough.losses) <= MOST_PROBES + len(space.settings)
    worst = max(space.groups, key=lambda g: thorough.loss(space, g, base_option(g))[0])
    assert {s for g, s, _ in thorough.losses if g == worst.name} == {s for s in worst.options if s != FLOAT32}
    # "mse" is this evaluator's best calibrator, and probes are exact here.
    loss, calibrator = thorough.loss(space, worst, base_option(worst))
    assert calibrator == "mse"
    alone = space.strategy(space.make_params([base_option(g) if g is worst else FLOAT32 for g in space.groups], "mse"))
    assert loss == pytest.approx(evaluator.loss(alone) * 1e-4)


def test_further_knobs_are_probed_at_the_best_of_those_before():
    space = SearchSpace.from_model(residual_net(), load_spec("x86-avx2"), {"correction": "none,bias"})
    known, asked = Sensitivities(), []
    while (probe := next_uniform_probe(space, known)) is not None:
        asked.append(probe[2])
        known = known.with_(probe, 1.0 if probe[2].startswith("entropy") else 2.0)
    assert asked == [*(space.free["calibrator"]), "entropy,correction=bias"]


def test_failed_probes_count_as_infinite_and_survive_json():
    space = residual_space()

    class Failing(FakeEvaluator):
        def sensitivity(self, strategy, samples):
            raise BuildError("no kernel")

    probe = next_uniform_probe(space, Sensitivities())
    assert probe is not None
    assert measure_probe(space, Failing(space), probe, 8) == math.inf
    known = Sensitivities({probe: math.inf, ("fc", "int8/per_channel", "mse"): 0.25})
    assert Sensitivities.from_json(known.to_json()) == known
    assert None in [row[3] for row in known.to_json()]


def test_sample_counts_are_bounded():
    assert 8 <= sample_count(residual_space()) <= 64


def brute_force(space, times, losses, budget):
    """Every assignment of options: the least time, and of those the least loss."""
    best = (math.inf, math.inf)
    for chosen in product(*(range(len(g.options)) for g in space.groups)):
        loss = sum(row[c] for row, c in zip(losses, chosen, strict=True))
        if loss <= budget:
            options = [g.options[c] for g, c in zip(space.groups, chosen, strict=True)]
            best = min(best, (times.predict_s(space, options), loss))
    return best


@given(st.integers(0, 10**6), st.floats(0.0, 1.0))
@settings(max_examples=12)
def test_the_programme_finds_the_best_strategy(seed, share):
    space = residual_space(blocks=1)
    rng = np.random.default_rng(seed)
    times = TimeTable(
        {
            option: {layer: float(rng.uniform(1e-6, 2e-5)) for layer in space.macs}
            for option in options_to_time(space, True)
        }
    )
    losses = [[0.0 if s == FLOAT32 else float(rng.uniform(0, 1)) for s in g.options] for g in space.groups]
    budget = share * sum(max(row) for row in losses) + 1e-9
    options = solve(space, times, losses, budget)
    assert options is not None
    expected_s, _ = brute_force(space, times, losses, budget)
    loss = sum(row[g.options.index(s)] for g, row, s in zip(space.groups, losses, options, strict=True))
    assert loss <= budget * (1 + 1e-6)
    assert times.predict_s(space, options) <= expected_s * 1.003  # the solver's gap


def test_a_choice_that_cannot_run_is_not_taken():
    space = residual_space(blocks=1)
    times = measured_times(FakeEvaluator(space))
    losses = [[0.0 if s == FLOAT32 else math.inf for s in g.options] for g in space.groups]
    options = solve(space, times, losses, math.inf)
    assert options is not None and set(options) == {FLOAT32}


def test_the_front_goes_from_fast_to_exact():
    evaluator = FakeEvaluator(residual_space(), LOSSES, slow=("fc",))
    times, known = measured_times(evaluator), all_probes(evaluator)
    programme = Programme(evaluator.space, times, known)
    front = [candidate for i in range(Programme.count) if (candidate := programme.candidate(i)) is not None]
    assert len({candidate.params["b1.conv1.scheme"] for candidate in front}) > 1
    for faster, slower in pairwise(front):
        assert faster.time_s <= slower.time_s * 1.002  # the solver's gap
        assert faster.loss >= slower.loss
    first = fastest(evaluator.space, times, known)
    assert first is not None and first.time_s == pytest.approx(front[0].time_s, rel=1e-3)
    # Integers are slower there, so even the fastest leaves it in another precision.
    assert not first.params["fc.scheme"].startswith("int8")
    assert front[7] == Programme(evaluator.space, times, known).candidate(7)


def test_uniform_candidates_start_with_the_best_calibrator_and_then_more_precision():
    evaluator = FakeEvaluator(residual_space(), LOSSES)
    labels = [c.label for c in uniform_candidates(evaluator.space, all_probes(evaluator))]
    assert labels == [
        "int8/per_channel everywhere, mse",
        "bfloat16 everywhere",
        "int8/per_channel everywhere, percentile",
    ]
    assert main_option(evaluator.space) == INT8


@given(st.integers(1, 40), st.integers(0, 40))
def test_bisection_finds_where_the_bound_lies(count, first_good):
    front = [WarmStartCandidate({"i": str(i)}, str(i)) for i in range(count)]
    asked: dict[str, bool] = {}
    while (candidate := bisect(count, front.__getitem__, lambda c: asked.get(c.label))) is not None:
        assert candidate.label not in asked
        asked[candidate.label] = int(candidate.label) >= first_good
    assert len(asked) <= 2 + math.ceil(math.log2(count + 1))
    if first_good < count:
        assert asked[str(first_good)] is True
        assert first_good == 0 or asked[str(first_good - 1)] is False


def test_refinement_learns_from_what_was_really_lost():
    evaluator = FakeEvaluator(residual_space(), LOSSES)
    space, times, known = evaluator.space, measured_times(evaluator), all_probes(evaluator)
    plain = space.uniform(INT8, "mse")
    # Half of it in float32 lost nothing: the fault lies with the other half.
    halved = {**plain, "b1.conv1.scheme": "float32", "stem.scheme": "float32"}
    outcomes = [(plain, 0.025), (halved, 0.0)]
    seen = {space.strategy(params).key() for params, _ in outcomes}
    found = refine(space, times, known, outcomes, 0.01, seen, np.random.default_rng(1))
    assert found is not None
    assert space.strategy(found.params).key() not in seen
    again = refine(space, times, known, outcomes, 0.01, seen, np.random.default_rng(1))
    assert again is not None and again.params == found.params
    model = AdditiveModel(space, times, known)
    assert sum(model.losses(found.params)) < sum(model.losses(plain))
    assert refine(space, times, known, [], 0.01, seen, np.random.default_rng(1)) is None
