"""The size of a strategy's network, from the stored bits of its weights; what the integer programme minimises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .grouping import Flow
from .groups import Group
from .priors import stored_bits
from .space import SearchSpace
from .timing import TimeTable
from .warmstart import Cost, Limit

_FLOAT_BITS = 32


@dataclass(frozen=True)
class SizeTable:
    """Bytes by the elements of weights. ``float_bytes`` is the size of the whole network in float32, if known."""

    float_bytes: int | None = None

    def group_cost(self, space: SearchSpace, group: Group, option: str) -> float:
        """Bytes of a group's weights under one of its options."""
        bits = ((m.layer, stored_bits(m.ways[option].precision)) for m in group.members)
        return sum(space.weights.get(layer, 0) * each / 8 for layer, each in bits)

    def to_integer(self, flow: Flow) -> float:
        """A conversion stores nothing."""
        return 0.0

    def to_float(self, flow: Flow) -> float:
        """A conversion stores nothing."""
        return 0.0

    def outside(self, space: SearchSpace) -> float:
        """Bytes of everything but the weights of groups."""
        names = [name for group in space.groups for name in group.layers]
        return self.whole(space) - sum(space.weights.get(name, 0) for name in names) * _FLOAT_BITS / 8

    def ratio(self, space: SearchSpace, options: Sequence[str]) -> float:
        """Predicted size over float32's."""
        whole, chosen = self.whole(space), zip(space.groups, options, strict=True)
        if not whole:
            return 1.0
        return (self.outside(space) + sum(self.group_cost(space, group, option) for group, option in chosen)) / whole

    def whole(self, space: SearchSpace) -> float:
        """Bytes of the network in float32."""
        return max(float(self.float_bytes or 0), sum(space.weights.values()) * _FLOAT_BITS / 8)


def programme_costs(
    space: SearchSpace, primary: str, limits: Mapping[str, float], times: TimeTable, sizes: SizeTable
) -> tuple[Cost, list[Limit]]:
    """The cost that the integer programme minimises, and the ``limits`` (quantity -> over float32's) that it keeps.

    If accuracy is ``primary``, the first bounded quantity is minimised: the programme's budgets of loss then give the
    front on which to find the bound.
    """
    tables: dict[str, tuple[Cost, float, float]] = {
        "latency": (times, times.float_s(space), times.outside(space)),
        "size": (sizes, sizes.whole(space), sizes.outside(space)),
    }
    bounded = [name for name, limit in limits.items() if name in tables and limit > 0]
    minimised = primary if primary in tables else next(iter(bounded), "latency")
    others = [(*tables[name], limits[name]) for name in bounded if name != minimised]
    return tables[minimised][0], [(table, limit * whole - outside) for table, whole, outside, limit in others]
