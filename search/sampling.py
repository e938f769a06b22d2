"""What to try next: Optuna's samplers over the history of a search, as one pure function.

``propose`` builds an in-memory study from the history, with a new sampler seeded by the search's seed and the number of
trials so far, and asks it. A proposal thus depends only on the seed and the history: an interrupted search proposes
what it would have proposed anyway, and only measured candidates are written to the stored study.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, product

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler

from .option import FLOAT32
from .sensitivity import Sensitivities, base_option, main_option
from .space import Params, SearchSpace

SamplerFactory = Callable[[int], BaseSampler]
"""Seed -> a new Optuna sampler; pass one to use another sampler of Optuna, or your own."""

_STARTUP = 5  # random trials before a sampler learns; the warm start's candidates count
_POPULATION = 8  # of NSGA-II: searches have tens of trials, not thousands
_GENERATION = "NSGAIISampler:generation"  # where that sampler looks for it; others never become parents
_ASKS = 24
_GP_ASKS = 2  # a Gaussian process is slow and mostly repeats itself
_DRAWS = 6
_OVERLAYS, _BASES, _MOST_CHANGED = 24, 3, 4
_MUTATIONS = 200
_SMALL = 4096


@dataclass(frozen=True)
class Observation:
    """A past trial as samplers see it: ``values`` are minimised; a violation above 0 breaks a bound."""

    params: Params
    values: tuple[float, ...]
    violations: Mapping[str, float]

    @property
    def violation(self) -> float:
        """The largest violation."""
        return max(self.violations.values(), default=0.0)


def make_sampler(sampler: str | SamplerFactory, seed: int) -> BaseSampler:
    """A new Optuna sampler. The grid is not one of them: see :func:`grid`."""
    with warnings.catch_warnings():  # multivariate sampling and the like are marked experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if callable(sampler):
            return sampler(seed)
        if sampler == "tpe":
            return optuna.samplers.TPESampler(
                seed=seed, multivariate=True, constant_liar=False, n_startup_trials=_STARTUP
            )
        if sampler == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=_POPULATION)
        if sampler == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=_STARTUP, deterministic_objective=True)
        return optuna.samplers.RandomSampler(seed=seed)


def propose(
    space: SearchSpace,
    sampler: str | SamplerFactory,
    seed: int,
    history: Sequence[Observation],
    known: Mapping[str, Observation],
    sensitivities: Sensitivities,
    acquisition: Callable[[Params], float] | None = None,
) -> dict[str, str] | None:
    """Parameters of a strategy that is not among ``known``; None when none is left.

    ``known`` maps a strategy's key to its outcome. A sampler that repeats itself receives the known result and is asked
    again; after some rounds a neighbour of a good strategy, or a random one, is taken. With ``acquisition``, the most
    promising of a few draws of a random sampler (all but "gp") is taken.
    """
    if sampler == "grid":
        points = grid(space, sensitivities)
        return next((params for params in points if space.strategy(params).key() not in known), None)
    digest = hashlib.sha256(f"{seed}:{len(history)}".encode()).digest()
    trial_seed = int.from_bytes(digest[:4], "little")
    if space.parameters and history:
        params = _ask(space, sampler, trial_seed, history, known, acquisition)
        if params is not None:
            return params
    return _neighbour(space, np.random.default_rng(trial_seed), history, known)


def _ask(
    space: SearchSpace,
    sampler: str | SamplerFactory,
    seed: int,
    history: Sequence[Observation],
    known: Mapping[str, Observation],
    acquisition: Callable[[Params], float] | None,
) -> dict[str, str] | None:
    distributions: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(choices) for name, choices in space.parameters.items()
    }
    study = optuna.create_study(directions=["minimize"] * len(history[0].values), sampler=make_sampler(sampler, seed))
    with warnings.catch_warnings(), _one_torch_thread(sampler):
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for i, past in enumerate(history):
            finished = optuna.trial.create_trial(
                params=dict(past.params),
                distributions=distributions,
                values=past.values,
                constraints=dict(past.violations),
                system_attrs={_GENERATION: i // _POPULATION},
            )
            study.add_trial(finished)
        draws: list[dict[str, str]] = []
        wanted = _DRAWS if acquisition is not None and sampler in ("tpe", "nsga2", "random") else 1
        for _ in range(_GP_ASKS if sampler == "gp" else _ASKS):
            trial = study.ask(distributions)
            params = {name: str(value) for name, value in trial.params.items()}
            repeated = known.get(space.strategy(params).key())
            if repeated is not None:
                _tell(study, trial, repeated)
                continue
            draws.append(params)
            if len(draws) == wanted:
                break
    if wanted == 1 or acquisition is None:
        return next(iter(draws), None)
    near = _overlay(space, draws, history, np.random.default_rng(seed))
    ranked = sorted([*draws, *near], key=acquisition, reverse=True)  # stable: among equals, whole draws first
    return next((params for params in ranked if space.strategy(params).key() not in known), None)


def _overlay(
    space: SearchSpace,
    draws: Sequence[Params],
    history: Sequence[Observation],
    rng: np.random.Generator,
) -> list[dict[str, str]]:
    """The best strategies so far, with a few groups changed to the sampler's draw.

    In spaces of a hundred parameters a whole draw is hardly ever better than a good strategy.
    """
    feasible = sorted((past for past in history if past.violation <= 0), key=lambda past: past.values)
    if not feasible:
        return []
    near = []
    for draw in draws:
        for _ in range(_OVERLAYS):
            base = feasible[int(rng.integers(min(len(feasible), _BASES)))].params
            count = int(rng.integers(1, min(len(space.groups), _MOST_CHANGED) + 1))
            chosen = rng.choice(len(space.groups), size=count, replace=False)
            names = [name for g in chosen for name in space.names_of(space.groups[g])]
            near.append({**base, **{name: draw[name] for name in names if name in draw}})
    return near


@contextmanager
def _one_torch_thread(sampler: str | SamplerFactory) -> Iterator[None]:
    """Keeps torch to one thread while the GP sampler works.

    Its problems are tiny, and on a busy machine spinning threads make them take five times as long.
    """
    if sampler != "gp":
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tell(study: optuna.Study, trial: optuna.Trial, outcome: Observation) -> None:
    for name, violation in outcome.violations.items():
        trial.set_constraint(name, violation)
    study.tell(trial, outcome.values)


def _neighbour(
    space: SearchSpace,
    rng: np.random.Generator,
    history: Sequence[Observation],
    known: Mapping[str, Observation],
) -> dict[str, str] | None:
    """One or two changes to the best past trial, then anything; None when everything has been tried."""
    names = list(space.parameters)

    def is_new(params: Params) -> bool:
        return space.strategy(params).key() not in known

    start: dict[str, str] = {}
    if history:
        start = dict(min(history, key=lambda past: (max(past.violation, 0.0), past.values)).params)
    for attempt in range(2 * _MUTATIONS):
        local = bool(start) and attempt < _MUTATIONS
        changed = rng.choice(names, size=min(len(names), 2), replace=False) if local else names
        drawn = {name: str(rng.choice(space.parameters[name])) for name in changed}
        params = {**start, **drawn} if local else drawn
        if is_new(params):
            return params
    if space.size <= _SMALL:
        return next((params for params in _all(space) if is_new(params)), None)
    return None


def _all(space: SearchSpace) -> Iterator[dict[str, str]]:
    for chosen in product(*space.parameters.values()):
        yield dict(zip(space.parameters, chosen, strict=True))


def grid(space: SearchSpace, sensitivities: Sensitivities) -> Iterator[dict[str, str]]:
    """Every set of parameters if there are few; else a coarse grid over the whole model.

    The coarse grid varies how many of the most sensitive groups stay in float32 (none, 1, 2, 3, 5, 8 ...), the option
    of all others, and the setting.
    """
    if space.size <= _SMALL:
        yield from _all(space)
        return
    order = sorted(
        space.groups, key=lambda g: -sensitivities.loss(space, g, base_option(g))[0]
    )  # stable: unknown groups in the model's order
    options = dict.fromkeys(s for g in space.groups for s in g.options if s != FLOAT32)
    settings = sensitivities.settings(space, main_option(space))
    for kept in _fibonacci(len(order)):
        in_float = {group.name for group in islice(order, kept)}
        for option, setting in product(options, settings):
            chosen = [g.find(FLOAT32 if g.name in in_float else option) for g in space.groups]
            yield space.make_params(chosen, setting)


def _fibonacci(limit: int) -> Iterator[int]:
    a, b = 0, 1
    while a < limit:
        yield a
        a, b = (1, 2) if a == 0 else (b, a + b)
