"""Latency, size and loss of strategies by the additive models, fast enough to look up thousands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from ..goal import QUANTITIES, Goal
from .option import FLOAT32
from .sensitivity import Sensitivities
from .sizes import SizeTable
from .space import Params, SearchSpace
from .stopping import hypervolume
from .timing import TimeTable, convert_s


class AdditiveModel:
    """Predicted latency ratio, size and losses of strategies, from tables that do not change."""

    def __init__(
        self, space: SearchSpace, times: TimeTable, known: Sensitivities, sizes: SizeTable | None = None
    ) -> None:
        self._sizes = sizes or SizeTable()
        self._space, self._times, self._known = space, times, known
        self._float_s = max(times.float_s(space), 1e-12)
        self._gains = [
            {
                option: times.group_cost(space, group, option)
                - sum(times.layer_s(m.layer, FLOAT32, space.macs[m.layer]) for m in group.members)
                for option in group.options
            }
            for group in space.groups
        ]
        self._losses: dict[tuple[str, str, str], float] = {}

    def ratio(self, params: Params) -> float:
        """Predicted latency over float32's."""
        options = self._space.options(params)
        gained = sum(gains[option] for gains, option in zip(self._gains, options, strict=True))
        return (self._float_s + gained + convert_s(self._space, options)) / self._float_s

    def relative(self, params: Params) -> dict[str, float]:
        """Every predicted quantity but accuracy, over float32's."""
        return {"latency": self.ratio(params), "size": self._sizes.ratio(self._space, self._space.options(params))}

    def losses(self, params: Params) -> list[float]:
        """The loss of each group, at its setting if that was probed.

        Infinite for a group that could not be run at that option.
        """
        found = []
        for group, option in zip(self._space.groups, self._space.options(params), strict=True):
            probe = (group.name, option, self._space.setting(params, group))
            if probe not in self._losses:
                exact = self._known.losses.get(probe)
                loss = self._known.loss(self._space, group, option)[0] if exact is None else exact
                self._losses[probe] = loss
            found.append(self._losses[probe])
        return found


@dataclass(frozen=True)
class Outcome:
    """A measured strategy: its ``values`` by quantity, the likely drop of accuracy, all others over float32's."""

    params: Params
    values: Mapping[str, float]


def make_acquisition(
    model: AdditiveModel, outcomes: Sequence[Outcome], goal: Goal, limits: Mapping[str, float]
) -> Callable[[Params], float]:
    """The acquisition function of :func:`sampling.propose`: what a strategy would add to the front by the models.

    ``limits`` are the bounds, in the unit of the outcomes' values. The drop of a strategy is interpolated between
    strategies of less and of more loss (isotonic regression). A strategy beyond a bound adds nothing; among those that
    add nothing, faster ones are preferred. A drop below zero is noise and counts as zero.
    """
    drops_seen = [(outcome.params, outcome.values["accuracy"]) for outcome in outcomes]
    seen = sorted((sum(model.losses(params)), min(max(drop, 0.0), 1e6)) for params, drop in drops_seen)
    seen = [(loss, drop) for loss, drop in seen if np.isfinite(loss)]
    losses = [0.0, *(loss for loss, _ in seen)]
    drops = isotonic_regression([0.0, *(drop for _, drop in seen)]).x
    axes = [quantity.name for quantity in goal.axes]

    def point(values: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(max(values[name], 0.0) if name == "accuracy" else values[name] for name in axes)

    kept = [o.values for o in outcomes if all(o.values[name] <= limit for name, limit in limits.items())]
    front = [point(values) for values in kept]
    most = goal.worst_drop + (goal.max_drop if goal.bounds_accuracy else 0.0)
    reference = tuple(most if name == "accuracy" else 1.0 for name in axes)
    area = hypervolume(front, reference)

    def acquisition(params: Params) -> float:
        loss = sum(model.losses(params))
        if not np.isfinite(loss):
            return -np.inf  # one of its groups could not be run
        drop = float(np.interp(loss, losses, drops))
        if drop > goal.max_drop:
            return goal.max_drop - drop
        values = {**dict.fromkeys(QUANTITIES, 1.0), "accuracy": drop, **model.relative(params)}
        beyond = max((values[name] - limit for name, limit in limits.items()), default=0.0)
        if beyond > 0:
            return -beyond
        return hypervolume([*front, point(values)], reference) - area - 1e-9 * values["latency"]

    return acquisition
