"""One conformance suite for all samplers: new strategies, from seed and history alone, learning included."""

from __future__ import annotations

import importlib.util

import numpy as np
import optuna
import pytest
from search_harness import NetBuilder, residual_space

from hago.errors import MissingExtraError, SearchError
from hago.option_fields import SAMPLERS, check_sampler
from hago.search.option import FLOAT32, precision_of
from hago.search.sampling import Observation, grid, propose
from hago.search.sensitivity import Sensitivities
from hago.search.space import SearchSpace
from hago.spec import load_spec

INT8 = "int8/per_channel"
HAS_TORCH = importlib.util.find_spec("torch") is not None


def custom(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.QMCSampler(seed=seed, warn_asynchronous_seeding=False)


EVERY = [
    pytest.param(s, marks=pytest.mark.skipif(s == "gp" and not HAS_TORCH, reason="needs torch"))
    for s in (*SAMPLERS, custom)
]


def observe(space: SearchSpace, params: dict[str, str]) -> Observation:
    """Every group in float32 costs time, every one in int8 loses a little."""
    options = space.options(params)
    time = sum(s == FLOAT32 for s in options) / len(options)
    drop = sum(precision_of(s) == "int8" for s in options) * 0.003
    return Observation(params, (0.4 + 0.6 * time, drop), {"max_drop": drop - 0.01})


def run(space: SearchSpace, sampler: object, seed: int, trials: int) -> list[Observation]:
    history: list[Observation] = []
    known: dict[str, Observation] = {}
    for _ in range(trials):
        params = propose(space, sampler, seed, history, known, Sensitivities())  # type: ignore[arg-type]
        if params is None:
            break
        seen = observe(space, params)
        history.append(seen)
        known[space.strategy(params).key()] = seen
    return history


@pytest.mark.parametrize("sampler", EVERY)
def test_proposals_are_new_and_valid(sampler):
    space = residual_space()
    trials = 8 if sampler == "gp" else 14  # Gaussian processes take a second each
    history = run(space, sampler, seed=3, trials=trials)
    assert len(history) == trials
    for past in history:
        assert past.params.keys() == space.parameters.keys()
        assert all(past.params[name] in space.parameters[name] for name in past.params)
    assert len({space.strategy(past.params).key() for past in history}) == trials


@pytest.mark.parametrize("sampler", EVERY)
def test_the_same_seed_and_history_give_the_same_proposal(sampler):
    space = residual_space()
    first = run(space, sampler, seed=5, trials=7)
    assert [p.params for p in first] == [p.params for p in run(space, sampler, seed=5, trials=7)]
    # And the next one depends on the history, not on how it came about: as after a resume.
    known = {space.strategy(past.params).key(): past for past in first}
    nexts = [propose(space, sampler, 5, first, dict(known), Sensitivities()) for _ in range(2)]
    assert nexts[0] == nexts[1]


@pytest.mark.parametrize("sampler", [s for s in EVERY if s.values[0] != "grid"])
def test_another_seed_gives_other_proposals(sampler):
    space = residual_space()
    assert [p.params for p in run(space, sampler, 1, 5)] != [p.params for p in run(space, sampler, 2, 5)]


@pytest.mark.parametrize("sampler", EVERY)
def test_a_small_space_is_exhausted_and_then_there_is_nothing(sampler):
    net = NetBuilder(3, 8)
    model = net.model(net.conv("b", net.relu(net.conv("a", "x", 8)), 8))
    space = SearchSpace.from_model(model, load_spec("x86-avx512-vnni"), knobs={"calibrator": "minmax"})
    assert space.size == 9  # two groups of two granularities and float32
    history = run(space, sampler, seed=0, trials=20)
    assert len(history) == 9


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", pytest.param("gp", marks=EVERY[2].marks)])
def test_samplers_learn(sampler):
    """Given the same history, a sampler's draws lie nearer to the good region than random ones."""
    space = residual_space()
    rng = np.random.default_rng(0)
    history = []
    for _ in range(30):
        params = {name: str(rng.choice(choices)) for name, choices in space.parameters.items()}
        if rng.random() < 0.5:  # a clear optimum: bfloat16 for all but the first group
            params.update({f"{g.name}.scheme": "bfloat16" for g in space.groups[1:]})
        history.append(params)

    def judged(params: dict[str, str]) -> Observation:
        wrong = sum(precision_of(s) != "bfloat16" for s in space.options(params)[1:])
        return Observation(params, (0.3 + 0.1 * wrong,), {"max_drop": -0.01})

    seen = [judged(params) for params in history]
    known = {space.strategy(past.params).key(): past for past in seen}

    def mean_cost(name: str) -> float:
        found = [propose(space, name, seed, seen, known, Sensitivities()) for seed in range(6)]
        return float(np.mean([judged(params).values[0] for params in found if params is not None]))

    assert mean_cost(sampler) < mean_cost("random") - 0.1


def test_of_several_draws_the_most_promising_is_taken():
    space = residual_space()
    history = run(space, "random", seed=0, trials=6)
    known = {space.strategy(past.params).key(): past for past in history}

    def acquisition(params):
        return float(sum(text == "float32" for text in params.values()))

    plain = propose(space, "random", 0, history, known, Sensitivities())
    chosen = propose(space, "random", 0, history, known, Sensitivities(), acquisition)
    assert plain is not None and chosen is not None
    assert acquisition(chosen) > acquisition(plain)
    assert space.strategy(chosen).key() not in known


def test_the_grid_of_a_large_space_keeps_the_most_sensitive_groups_in_float():
    space = residual_space()
    known = Sensitivities({("fc", "int8/per_channel", "minmax"): 9.0, ("stem", "int8/per_channel", "minmax"): 1.0})
    kept = []
    for params in grid(space, known):
        floats = {g.name for g, s in zip(space.groups, space.options(params), strict=True) if s == FLOAT32}
        if floats not in kept:
            kept.append(floats)
    assert kept[0] == set() and kept[1] == {"fc"}
    assert [len(floats) for floats in kept] == [0, 1, 2, 3, 5]


def test_unknown_samplers_and_missing_packages_are_reported(monkeypatch):
    with pytest.raises(SearchError, match=r"there is no sampler 'best'.*\n.*tpe, nsga2, gp, random, grid"):
        check_sampler("best")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'torch'.*\n.*hago\[torch\]"):
        check_sampler("gp")
