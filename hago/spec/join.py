"""What several devices have in common, as one spec: all that a strategy for all of them may use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import SpecError
from ..precision import find_fitting
from .types import OP_KINDS, HardwareSpec, Way

SEPARATOR = "+"


def join(specs: Sequence[HardwareSpec]) -> HardwareSpec:
    """A spec of the ways that all of them offer, in the order of the first; it is not hardware to compile for.

    A precision is common if every spec offers it, or one that it fits in: int7 fits in int8. Raises SpecError for
    fewer than two.
    """
    if len(specs) < 2:
        raise SpecError(f"one strategy for several devices takes at least two specs, got {len(specs)}")
    return replace(
        specs[0],
        name=SEPARATOR.join(spec.name for spec in specs),
        description=f"What all of these offer: {', '.join(spec.name for spec in specs)}.",
        extends=None,
        kernels=None,
        ops={kind: _common(specs, kind) for kind in OP_KINDS},
        path="",
    )


def _common(specs: Sequence[HardwareSpec], kind: str) -> tuple[Way, ...]:
    """The ways of the first, behind those of the others that fit in one of them."""
    first = specs[0].choices(kind)
    offered = [way.precision for way in first]
    others: dict[str, Way] = {}
    for spec in specs[1:]:
        for way in spec.choices(kind):
            others.setdefault(way.precision, way)
    narrower = [way for name, way in others.items() if name not in offered and find_fitting(name, offered)]
    return tuple(shared for way in (*narrower, *first) if (shared := _shared(specs, kind, way)) is not None)


def _shared(specs: Sequence[HardwareSpec], kind: str, way: Way) -> Way | None:
    """The way as all have it; None if one does not have it."""
    found = [_find(spec, kind, way.precision) for spec in specs]
    ways = [other for other in found if other is not None]
    if len(ways) < len(found):
        return None
    common = tuple(g for g in way.granularities if all(g in other.granularities for other in ways))
    if way.granularities and not common:
        return None
    limits = [other.max_reduction for other in ways if other.max_reduction is not None]
    return replace(way, granularities=common, max_reduction=min(limits, default=None))


def _find(spec: HardwareSpec, kind: str, precision: str) -> Way | None:
    ways = {way.precision: way for way in reversed(spec.choices(kind))}
    fitting = find_fitting(precision, [way.precision for way in spec.choices(kind)])
    return None if fitting is None else ways[fitting]
