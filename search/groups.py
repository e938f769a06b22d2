"""A group of layers and what it may do: its schemes, and each layer's choice under each scheme."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..errors import SpecError, StrategyError
from ..files import hash_bytes
from ..scheme import PER_CHANNEL, Granularity
from ..strategy import WEIGHTED_KINDS, Choice, granularities, op_kind
from .grouping import ANCHORS

if TYPE_CHECKING:
    from ..model import Layer
    from ..spec import HardwareSpec, OpChoice

_LONGEST_NAME = 400  # Optuna's tables keep 512 characters of a parameter's name


@dataclass(frozen=True, order=True)
class Scheme:
    """A precision and, where weights are quantized, their granularity. Written ``int8/per_channel``."""

    precision: str
    granularity: Granularity | None = None

    def __str__(self) -> str:
        return self.precision if self.granularity is None else f"{self.precision}/{self.granularity}"


FLOAT32 = Scheme("float32")


@dataclass(frozen=True)
class Member:
    """A layer of a group: what it does under each scheme, and under which its inputs are integers."""

    layer: str
    ways: Mapping[Scheme, Choice]
    integer: frozenset[Scheme]


@dataclass(frozen=True)
class Group:
    """Layers that change together. ``schemes`` stand in the hardware's order of preference."""

    name: str
    members: tuple[Member, ...]
    schemes: tuple[Scheme, ...]
    integer: frozenset[Scheme]

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(member.layer for member in self.members)

    def find(self, wanted: Scheme) -> Scheme:
        """The scheme of this group nearest to ``wanted``: itself, the same precision, or the last.

        Where 7 bits are not offered, 8 are the nearest: a layer in float between integers would cost conversions.
        """
        precisions = ("int7", "int8") if wanted.precision == "int7" else (wanted.precision,)
        for precision in precisions:
            same = [scheme for scheme in self.schemes if scheme.precision == precision]
            exact = Scheme(precision, wanted.granularity)
            if same:
                return exact if exact in same else same[0]
        return self.schemes[-1]


def ways_of(layer: Layer, spec: HardwareSpec) -> tuple[OpChoice, ...]:
    """How the hardware can run this layer; empty where it cannot."""
    try:
        return tuple(spec.choices(op_kind(layer)))
    except SpecError:
        return ()


def make_group(layers: Sequence[Layer], spec: HardwareSpec) -> Group:
    """What all the anchors of the group can do; its other layers go along as far as they can."""
    core = [layer for layer in layers if layer.kind in ANCHORS] or list(layers)
    schemes = [
        Scheme(precision, granularity)
        for precision in _shared(core, spec)
        for granularity in _granularities(core, precision, spec)
    ]
    # A precision written twice (two arithmetics of one name) is one choice.
    schemes = list(dict.fromkeys(schemes)) or [FLOAT32]
    members = tuple(_make_member(layer, schemes, spec) for layer in layers)
    core_names = {layer.name for layer in core}
    integer = frozenset(s for m in members if m.layer in core_names for s in m.integer)
    name = layers[0].name
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME - 17]}-{hash_bytes(name)[:16]}"
    return Group(name, members, tuple(schemes), integer)


def _shared(core: Sequence[Layer], spec: HardwareSpec) -> list[str]:
    offered = [[way.precision for way in ways_of(layer, spec)] for layer in core]
    return [p for p in dict.fromkeys(offered[0]) if all(p in others for others in offered)]


def _granularities(core: Iterable[Layer], precision: str, spec: HardwareSpec) -> list[Granularity | None]:
    """Those that all weights of the group can have, per channel first; [None] where it has none."""
    shared: list[Granularity] | None = None
    for layer in core:
        fitting = granularities(layer, spec.find(op_kind(layer), precision))
        if fitting:
            shared = list(fitting) if shared is None else [g for g in shared if g in fitting]
    if shared is None:
        return [None]
    return sorted(shared, key=lambda g: g != PER_CHANNEL)  # stable: the hardware's order otherwise


def _make_member(layer: Layer, schemes: Iterable[Scheme], spec: HardwareSpec) -> Member:
    ways = {way.precision: way for way in reversed(ways_of(layer, spec))}
    chosen: dict[Scheme, Choice] = {}
    integer = set()
    for scheme in schemes:
        precision = scheme.precision
        if precision == "int7" and "int7" not in ways:
            precision = "int8"  # the seven bits are those of weights: layers without keep all eight
        if precision not in ways:
            precision = "float32"
        way = ways.get(precision)
        if way is None:
            raise StrategyError(
                f"the hardware offers no {scheme.precision} and no float32 for {op_kind(layer)}",
                where=layer.name,
            )
        has_weights = layer.kind in WEIGHTED_KINDS and bool(granularities(layer, way))
        granularity = scheme.granularity if has_weights and scheme.granularity else PER_CHANNEL
        chosen[scheme] = Choice(precision, granularity)
        if precision != "float32" and way.activation is not None:
            integer.add(scheme)
    return Member(layer.name, MappingProxyType(chosen), frozenset(integer))
