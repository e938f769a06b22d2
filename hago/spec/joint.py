"""What several pieces of hardware have in common, as one spec: what a strategy may use that must run on all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import SpecError
from .types import OP_KINDS, HardwareSpec, OpChoice

SEPARATOR = "+"


def join(specs: Sequence[HardwareSpec]) -> HardwareSpec:
    """A spec of the ways that all of them offer, in the order of the first; it is no hardware to compile for.

    int7 is common where one offers it and the others int8: seven bits lie in eight. Raises SpecError for fewer than
    two.
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


def _common(specs: Sequence[HardwareSpec], kind: str) -> tuple[OpChoice, ...]:
    first = specs[0].choices(kind)
    seven = [choice for spec in specs[1:] for choice in spec.choices(kind) if choice.precision == "int7"]
    if any(choice.precision == "int7" for choice in first):
        seven = []
    return tuple(shared for choice in (*seven[:1], *first) if (shared := _shared(specs, kind, choice)) is not None)


def _shared(specs: Sequence[HardwareSpec], kind: str, choice: OpChoice) -> OpChoice | None:
    """The way as all have it; None where one has it not."""
    found = [_find(spec, kind, choice.precision) for spec in specs]
    ways = [way for way in found if way is not None]
    if len(ways) < len(found):
        return None
    common = tuple(g for g in choice.granularities if all(g in way.granularities for way in ways))
    if choice.granularities and not common:
        return None
    limits = [way.max_reduction for way in ways if way.max_reduction is not None]
    return replace(choice, granularities=common, max_reduction=min(limits, default=None))


def _find(spec: HardwareSpec, kind: str, precision: str) -> OpChoice | None:
    by_precision = {way.precision: way for way in reversed(spec.choices(kind))}
    return by_precision.get(precision) or (by_precision.get("int8") if precision == "int7" else None)
