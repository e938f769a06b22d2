"""Why a bound could not be met: the blocking layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .option import FLOAT32
from .sensitivity import EVERYWHERE, Sensitivities, base_option
from .space import SearchSpace
from .timing import TimeTable

_MOST = 5
_ENOUGH = 0.8  # of the whole loss
_GAIN = 0.98  # quantized layers that take more of float32's time than this gain nothing


@dataclass(frozen=True)
class Blocker:
    """A group of layers that blocks the goal: by its accuracy ("accuracy") or its speed ("latency").

    ``share`` is its part of the loss of all groups, or of float32's time; ``float_cost_s`` is what leaving
    it in float32 costs (negative: what it saves).
    """

    layers: tuple[str, ...]
    cause: str
    share: float
    float_cost_s: float

    def __str__(self) -> str:
        names = self.layers[0]
        if len(self.layers) > 1:
            names += f" and {len(self.layers) - 1} that must agree with it"
        if self.cause == "accuracy":
            return f"{names}: {self.share:.0%} of the loss; float32 there costs {self.float_cost_s * 1e3:.3g} ms"
        return f"{names}: {self.share:.0%} of the time, and no faster quantized than in float32"


def accuracy_blockers(
    space: SearchSpace, times: TimeTable, known: Sensitivities, probe: Callable[[str], float] | None = None
) -> tuple[Blocker, ...]:
    """The groups with the largest losses, up to five, until they add up to four fifths of the total.

    The largest groups that were not probed yet are probed with ``probe`` (group name -> loss).
    """
    known_groups = {group for group, _, _ in known.losses if group != EVERYWHERE}
    groups = [g for g in space.groups if g.integer]
    losses: dict[str, float] = {}
    if known_groups:
        losses = {g.name: known.loss(space, g, base_option(g))[0] for g in groups if g.name in known_groups}
    elif probe is not None:
        largest = sorted(groups, key=lambda g: -sum(space.macs[name] for name in g.layers))[: 2 * _MOST]
        losses = {g.name: probe(g.name) for g in largest}
    worst = sorted(groups, key=lambda g: -losses.get(g.name, 0.0))
    finite = [loss for loss in losses.values() if loss < float("inf")]
    total = sum(finite)
    found: list[Blocker] = []
    covered = 0.0
    for group in worst[:_MOST]:
        loss = losses.get(group.name, 0.0)
        if loss <= 0 or covered >= _ENOUGH:
            break
        share = 1.0 if loss == float("inf") else loss / total
        floats = times.group_cost(space, group, group.find(FLOAT32))
        cost = floats - times.group_cost(space, group, base_option(group))
        found.append(Blocker(group.layers, "accuracy", share, cost))
        covered += share
    return tuple(found)


def latency_blockers(space: SearchSpace, times: TimeTable) -> tuple[Blocker, ...]:
    """The slowest groups that gain nothing, up to five; empty without kernel times."""
    whole = times.float_s(space)
    found = []
    for group in space.groups:
        quantized = [s for s in group.options if s != FLOAT32]
        if not times.times or not quantized or FLOAT32 not in group.options:
            continue
        floats = times.group_cost(space, group, FLOAT32)
        best = min(times.group_cost(space, group, option) for option in quantized)
        if best >= _GAIN * floats:
            found.append(Blocker(group.layers, "latency", floats / max(whole, 1e-12), floats - best))
    return tuple(sorted(found, key=lambda b: -b.share)[:_MOST])
