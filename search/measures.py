"""Trials in the quantities of the goal, as samplers, models and the plateau test see them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from ..goal import QUANTITIES, Goal, Quantity
from ..record import Record
from .additive import Outcome
from .sampling import Observation
from .space import Params
from .trial_store import Finished

_LEAST_VIOLATION, _LARGEST_VIOLATION = 1e-6, 1.0  # of a missed bound, as samplers see it


def violations(goal: Goal, record: Record) -> dict[str, float]:
    """Bound -> by how much the record misses it (negative: kept), as constraints for samplers.

    For accuracy in the metric's unit, for all others relative to the bound; a failed record misses all by far.
    """
    found = {}
    for quantity in goal.bounds:
        if quantity.name == "accuracy":
            excess = min(goal.likely_drop(record), 2 * goal.worst_drop) - goal.max_drop
            kept = record.state == "ok" and goal.kept(quantity, record, True)
            found[quantity.bound_name] = min(excess, 0.0) if kept else max(excess, _LEAST_VIOLATION)
        else:
            found[quantity.bound_name] = min(goal.missed_share(quantity, record), _LARGEST_VIOLATION)
    return found


class Measures:
    """Trials in the units of the goal: the drop of accuracy in the metric's unit, all else over float32's.

    ``ratio`` returns a trial's latency over float32's. With ``by_model`` it also decides bounds on latency, so that
    measurement noise changes no proposal.
    """

    def __init__(self, goal: Goal, floats: Record, ratio: Callable[[Finished], float], by_model: bool) -> None:
        self._goal, self._floats, self._ratio, self._by_model = goal, floats, ratio, by_model

    def observe(self, past: Finished) -> Observation:
        """A trial as samplers see it; a failed one looks far outside the bounds."""
        drop = min(self._goal.likely_drop(past.record), 2 * self._goal.worst_drop)
        missed = violations(self._goal, self._as_modelled(past))
        return Observation(past.params, self._objectives(self._values(past, drop)), missed)

    def float_observation(self, params: Params) -> Observation:
        """float32, at these parameters, as samplers see it."""
        values = {name: 0.0 if name == "accuracy" else 1.0 for name in QUANTITIES}
        return Observation(params, self._objectives(values), violations(self._goal, self._floats))

    def outcome(self, past: Finished) -> Outcome:
        """A trial as the additive model learns from it."""
        return Outcome(past.params, self._values(past, self._goal.likely_drop(past.record)))

    def point(self, past: Finished) -> tuple[float, ...]:
        """A trial's point on the axes of the goal. Being more accurate than float32 is noise and counts as no drop."""
        values = self._values(past, max(0.0, self._goal.drop(past.record)))
        return tuple(values[quantity.name] for quantity in self._goal.axes)

    @property
    def reference(self) -> tuple[float, ...]:
        """The reference point: points beyond it do not count."""
        return tuple(self._goal.worst_drop if axis.name == "accuracy" else 1.0 for axis in self._goal.axes)

    @property
    def limits(self) -> dict[str, float]:
        """The bounds, in the units of these values."""
        found = {}
        for quantity in self._goal.bounds:
            bound = quantity.bound(self._goal) or 0.0
            floats = 1.0 if quantity.name == "accuracy" else bound + quantity.excess(self._goal, self._floats, False)
            found[quantity.name] = bound / floats
        return found

    def keeps(self, past: Finished) -> bool:
        """Whether a trial keeps every bound."""
        return self._goal.within(self._as_modelled(past))

    @property
    def float_keeps(self) -> bool:
        """Whether float32 keeps every bound."""
        return self._goal.within(self._floats)

    def _objectives(self, values: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(values[name] for name in self._goal.objectives)

    def _values(self, past: Finished, drop: float) -> dict[str, float]:
        """The values of a trial by quantity, with this drop."""

        def over_float(quantity: Quantity) -> float:
            cost, floats = (quantity.cost(self._goal, record) for record in (past.record, self._floats))
            return cost / floats if 0 < cost < math.inf and 0 < floats < math.inf else 1.0

        found = {name: over_float(quantity) for name, quantity in QUANTITIES.items()}
        return {**found, "latency": self._ratio(past), "accuracy": drop}

    def _as_modelled(self, past: Finished) -> Record:
        floats_s = self._floats.latency_s
        if self._goal.max_latency_s is None or not self._by_model or floats_s is None:
            return past.record
        return replace(past.record, latency_s=self._ratio(past) * floats_s, latency_interval=None)
