"""Integer programmes that learn: measured drops of strategies correct the losses of groups.

The drop of a strategy is modelled as the sum of its groups' losses, each times an unknown factor near 1. Measured drops
narrow the factors down (Bayesian linear regression, in closed form); a draw from their posterior gives the losses of
the next integer programme (Thompson sampling in a linear bandit, Agrawal and Goyal 2013). This tries strategies near
the bound that differ where the losses are least certain.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence

import numpy as np
from numpy.typing import NDArray

from .additive import AdditiveModel
from .option import FLOAT32
from .sensitivity import Sensitivities
from .space import Params, SearchSpace
from .timing import TimeTable
from .warmstart import WarmStartCandidate, make_candidate, solve

TRIALS = 8
_SPREAD = 0.5  # standard deviation of the factors between probed loss and drop of the metric
_NOISE = 0.25  # of the bound: variation of a drop that no sum of losses explains
_BUDGETS = (1.0, 1.0, 1.2, 0.85, 1.5, 0.7)  # of the bound: tried in turn if a draw gives a known strategy
_NEAR = 3.0  # drops beyond this many bounds say little about those near it


def refine(
    space: SearchSpace,
    times: TimeTable,
    known: Sensitivities,
    outcomes: Sequence[tuple[Params, float]],
    max_drop: float,
    seen: Container[str],
    rng: np.random.Generator,
    limit_s: float | None = None,
) -> WarmStartCandidate | None:
    """The fastest strategy that keeps the bound by one draw of the factors; None if all of these are known.

    ``outcomes``: parameters and measured drops of strategies so far; ``seen`` holds their keys; ``limit_s`` limits the
    time of each programme.
    """
    model = AdditiveModel(space, times, known)
    rows = [(model.losses(params), max(drop, 0.0)) for params, drop in outcomes]
    near = [(row, drop) for row, drop in rows if drop <= _NEAR * max_drop and math.isfinite(sum(row))]
    features = np.array([row for row, _ in near])
    drops = np.array([drop for _, drop in near])
    slope = _slope(features, drops)
    if slope <= 0:
        return None
    table = [[known.loss(space, group, option) for option in group.options] for group in space.groups]
    mean, root = _posterior(slope * features, drops, _NOISE * max_drop)
    for share in _BUDGETS:
        factors = np.clip(mean + root @ rng.normal(size=len(mean)), 0.2, 3.0)
        losses = [[slope * factor * loss for loss, _ in row] for factor, row in zip(factors, table, strict=True)]
        options = solve(space, times, losses, share * max_drop, limit_s)
        if options is None or all(option == FLOAT32 for option in options):
            continue
        candidate = make_candidate(space, times, table, options, "integer programme, refined")
        if space.strategy(candidate.params).key() not in seen:
            return candidate
    return None


def _slope(features: NDArray[np.float64], drops: NDArray[np.float64]) -> float:
    """Drop per loss, by least squares through the origin; 0 while nothing was lost."""
    if not len(drops):
        return 0.0
    sums = features.sum(axis=1)
    return float(sums @ drops / max(float(sums @ sums), 1e-300))


def _posterior(
    features: NDArray[np.float64], drops: NDArray[np.float64], noise: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of the factors and a square root of their covariance. ``features``: [trials, groups]."""
    n_groups = features.shape[1]
    variance = _SPREAD**2
    gram = variance * features @ features.T + noise**2 * np.eye(len(drops))
    gain = variance * np.linalg.solve(gram, features).T  # [groups, trials]
    mean = 1 + gain @ (drops - features.sum(axis=1))
    covariance = variance * (np.eye(n_groups) - gain @ features)
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return mean, vectors * np.sqrt(np.clip(values, 0, None))
