"""What several devices have in common: the ways of each kind of operation that all of them offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import SpecError
from .types import HardwareSpec, OpChoice


@dataclass(frozen=True)
class JointSpec:
    """Several specs as one, for a search space: what one strategy may use on all of them.

    The order of preference is that of the first spec.
    """

    specs: tuple[HardwareSpec, ...]

    @property
    def name(self) -> str:
        return "+".join(spec.name for spec in self.specs)

    @property
    def description(self) -> str:
        return "What all of these offer: " + ", ".join(spec.name for spec in self.specs) + "."

    def choices(self, kind: str) -> tuple[OpChoice, ...]:
        """The ways of the first spec whose precision all others offer, with the granularities that all have."""
        shared = []
        for choice in self.specs[0].choices(kind):
            others = [_find(spec, kind, choice.precision) for spec in self.specs[1:]]
            if None in others:
                continue
            common = tuple(
                g for g in choice.granularities if all(o is not None and g in o.granularities for o in others)
            )
            if common or not choice.granularities:
                shared.append(replace(choice, granularities=common))
        return tuple(shared)

    def find(self, kind: str, precision: str) -> OpChoice:
        """The way in that precision. Raises SpecError where not all offer it."""
        for choice in self.choices(kind):
            if choice.precision == precision:
                return choice
        raise SpecError(f"not all of these offer {kind} in {precision}", where=self.name)


def join(specs: Sequence[HardwareSpec]) -> JointSpec:
    """Raises SpecError for fewer than two."""
    if len(specs) < 2:
        raise SpecError(f"one strategy for several devices takes at least two, got {len(specs)}")
    return JointSpec(tuple(specs))


def _find(spec: HardwareSpec, kind: str, precision: str) -> OpChoice | None:
    return next((choice for choice in spec.choices(kind) if choice.precision == precision), None)
