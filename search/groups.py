"""A group of layers: its options, and each layer's choice under each option."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..errors import StrategyError
from ..files import hash_bytes
from ..knobs import find_knob
from ..precision import Precision, find_fitting
from ..scheme import PER_CHANNEL, Granularity
from ..strategy import WEIGHTED_KINDS, Choice, granularities, op_kind, ways_of
from .grouping import ANCHORS
from .option import FLOAT32, granularity_of, option_of, precision_of

if TYPE_CHECKING:
    from ..model import Layer
    from ..spec import HardwareSpec

_LONGEST_NAME = 400  # Optuna's tables store 512 characters of a parameter's name


@dataclass(frozen=True)
class GroupMember:
    """A layer of a group: its choice under each option, and the options under which its inputs are integers."""

    layer: str
    ways: Mapping[str, Choice]
    integer: frozenset[str]
    weighted: bool = False

    def has(self, option: str, knob: str) -> bool:
        """Whether this knob affects the layer under this option."""
        choice = self.ways[option]
        return choice.is_quantized and _matters(knob, self.weighted, choice.precision, choice.granularity)


@dataclass(frozen=True)
class Group:
    """Layers that change together. ``options`` are in the hardware's order of preference."""

    name: str
    members: tuple[GroupMember, ...]
    options: tuple[str, ...]
    integer: frozenset[str]

    def limited_to(self, options: tuple[str, ...]) -> Group:
        """The group restricted to these of its options."""
        return replace(self, options=options, integer=self.integer & set(options))

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of its layers, in the order of the network."""
        return tuple(member.layer for member in self.members)

    def find(self, wanted: str) -> str:
        """The option nearest to ``wanted``: itself, the same precision, one that it fits in, or the last.

        If 7 bits are not offered, 8 are nearest: a float layer between integer layers would cost conversions.
        """
        precision = find_fitting(precision_of(wanted), map(precision_of, self.options))
        if precision is None:
            return self.options[-1]
        same = [option for option in self.options if precision_of(option) == precision]
        exact = option_of(precision, granularity_of(wanted))
        return exact if exact in same else same[0]


def make_group(layers: Sequence[Layer], spec: HardwareSpec) -> Group:
    """The group with the options that all of its anchors have; other layers follow as far as they can."""
    core = [layer for layer in layers if layer.kind in ANCHORS] or list(layers)
    options = [
        option_of(precision, granularity)
        for precision in _shared(core, spec)
        for granularity in _granularities(core, precision, spec)
    ]
    # Two ways of one precision are one choice.
    options = list(dict.fromkeys(options)) or [FLOAT32]
    members = tuple(_make_member(layer, options, spec) for layer in layers)
    core_names = {layer.name for layer in core}
    integer = frozenset(s for m in members if m.layer in core_names for s in m.integer)
    name = layers[0].name
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME - 17]}-{hash_bytes(name)[:16]}"
    return Group(name, members, tuple(options), integer)


def _shared(core: Sequence[Layer], spec: HardwareSpec) -> list[str]:
    offered = [[way.precision for way in ways_of(layer, spec)] for layer in core]
    return [p for p in dict.fromkeys(offered[0]) if all(p in others for others in offered)]


def _granularities(core: Iterable[Layer], precision: str, spec: HardwareSpec) -> list[Granularity | None]:
    """The granularities that all weights of the group can have, per channel first; [None] without weights."""
    shared: list[Granularity] | None = None
    for layer in core:
        fitting = granularities(layer, spec.find(op_kind(layer), precision))
        if fitting:
            shared = list(fitting) if shared is None else [g for g in shared if g in fitting]
    if shared is None:
        return [None]
    return sorted(shared, key=lambda g: g != PER_CHANNEL)  # stable: the hardware's order otherwise


def _make_member(layer: Layer, options: Iterable[str], spec: HardwareSpec) -> GroupMember:
    ways = {way.precision: way for way in reversed(ways_of(layer, spec))}
    chosen: dict[str, Choice] = {}
    integer = set()
    for option in options:
        wanted, granularity = precision_of(option), granularity_of(option)
        # The fewer bits apply to weights only: layers without weights keep all.
        precision = find_fitting(wanted, ways) or FLOAT32
        way = ways.get(precision)
        if way is None:
            raise StrategyError(
                f"the hardware offers no {wanted} and no float32 for {op_kind(layer)}",
                where=layer.name,
            )
        has_weights = layer.kind in WEIGHTED_KINDS and bool(granularities(layer, way))
        chosen[option] = Choice(precision, granularity if has_weights and granularity else PER_CHANNEL)
        if precision != FLOAT32 and way.activation is not None:
            integer.add(option)
    return GroupMember(layer.name, MappingProxyType(chosen), frozenset(integer), layer.kind in WEIGHTED_KINDS)


@cache
def _matters(knob: str, weighted: bool, precision: str, granularity: Granularity) -> bool:
    return find_knob(knob).matters(weighted, Precision.named(precision), granularity)
