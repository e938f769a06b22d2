"""How large a strategy's network is, from the stored bits of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .grouping import Flow
from .groups import Group
from .priors import stored_bits
from .space import SearchSpace

_FLOAT_BITS = 32


@dataclass(frozen=True)
class SizeTable:
    """Bytes by the elements of weights. ``float_bytes`` are the whole network's in float32, where they are known."""

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
        """Bytes of all but the weights of groups."""
        names = [name for group in space.groups for name in group.layers]
        return self._whole(space) - sum(space.weights.get(name, 0) for name in names) * _FLOAT_BITS / 8

    def ratio(self, space: SearchSpace, options: Sequence[str]) -> float:
        """Predicted size over float32's."""
        whole, chosen = self._whole(space), zip(space.groups, options, strict=True)
        if not whole:
            return 1.0
        return (self.outside(space) + sum(self.group_cost(space, group, option) for group, option in chosen)) / whole

    def _whole(self, space: SearchSpace) -> float:
        return max(float(self.float_bytes or 0), sum(space.weights.values()) * _FLOAT_BITS / 8)
