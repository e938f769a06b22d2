"""The search space: groups of layers with their options, and parameters to and from strategies.

Each group has categorical parameters, named after its first layer: ``NAME.scheme`` (precision and granularity of the
weights, such as ``int8/per_channel``), and one for each free knob that has several values (`hago.knobs.FREE`), such as
``NAME.calibrator``. All parameters always exist, so every sampler sees one fixed space; a calibrator has no effect if
its group stays in float, and parameters with the same meaning give the same :class:`Strategy`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import product
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from ..errors import StrategyError
from ..files import hash_bytes
from ..knobs import FREE, TRANSFORMATION, read_knobs, read_setting, setting_text, transformation_of
from ..strategy import Choice, Strategy, ways_of
from .grouping import Flow, find_flows, group_layers, tied_layers
from .groups import Group, GroupMember, make_group
from .keep import Keep, allowed_options, check_keep, kept_options
from .option import FLOAT32

if TYPE_CHECKING:
    from ..model import Layer, Model
    from ..spec import HardwareSpec

Params = Mapping[str, str]
"""Parameter name -> the choice made, as text."""


class SuggestsCategorical(Protocol):
    """The part of an Optuna trial that :meth:`SearchSpace.suggest` needs."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """One of the choices, for the parameter of that name."""
        ...


@dataclass(frozen=True)
class SearchSpace:
    """All strategies that a search may propose for one model on one hardware.

    ``free`` are the values of each free knob. ``ties`` are layers that read one tensor and so share a calibrator: that
    of the first of them that computes in integers. ``macs`` are the multiply-adds of all layers, ``weights`` the
    elements of their weights. ``transformation`` is that of all its strategies.
    """

    model_hash: str
    hw: str
    groups: tuple[Group, ...]
    free: Mapping[str, tuple[str, ...]]
    ties: tuple[tuple[str, ...], ...]
    flows: tuple[Flow, ...]
    macs: Mapping[str, int]
    weights: Mapping[str, int] = field(default_factory=dict)
    transformation: str = TRANSFORMATION.default

    @classmethod
    def from_model(
        cls,
        model: Model,
        spec: HardwareSpec,
        knobs: Mapping[str, str | Sequence[str]] | None = None,
        keep: Collection[Keep] = (),
    ) -> SearchSpace:
        """Groups the layers of ``model`` and gathers what ``spec``, ``knobs`` and ``keep`` allow each group.

        ``knobs`` are the requested ones, as `hago.knobs.read_knobs` takes them. Raises StrategyError for an invalid
        value of a knob, and for layers that cannot be kept.
        """
        values = read_knobs(knobs)
        layers = {layer.name: layer for layer in model.layers}

        def searched(layer: Layer) -> bool:
            ways = ways_of(layer, spec) if layer.quantizable and layer.kind != "shape" else ()
            return any(way.precision != "float32" for way in ways)

        made = [make_group([layers[name] for name in names], spec) for names in group_layers(model, searched)]
        check_keep(keep, model.layers, {name for group in made for name in group.layers})
        made = [group.limited_to(allowed_options(group, values)) for group in made]
        groups = tuple(group.limited_to(kept_options(group, layers, keep)) for group in made)
        group_of = {name: i for i, group in enumerate(groups) for name in group.layers}
        return cls(
            model_hash=model.hash,
            hw=spec.name,
            groups=groups,
            free=MappingProxyType({knob.name: values[knob.name] for knob in FREE}),
            ties=tied_layers(model, searched),
            flows=find_flows(model, group_of),
            macs=MappingProxyType({layer.name: int(layer.macs) for layer in model.layers}),
            weights=MappingProxyType({layer.name: prod(layer.weight_shape or (0,)) for layer in model.layers}),
            transformation=transformation_of(values),
        )

    @cached_property
    def parameters(self) -> Mapping[str, tuple[str, ...]]:
        """Parameter -> its choices, without parameters of a single choice."""
        found: dict[str, tuple[str, ...]] = {}
        for group in self.groups:
            if len(group.options) > 1:
                found[f"{group.name}.scheme"] = group.options
            for knob, values in self.free.items():
                if len(values) > 1 and any(m.has(option, knob) for m in group.members for option in group.options):
                    found[f"{group.name}.{knob}"] = values
        return MappingProxyType(found)

    @property
    def size(self) -> int:
        """The number of sets of parameters (there can be fewer strategies)."""
        return prod(len(choices) for choices in self.parameters.values())

    @cached_property
    def signature(self) -> str:
        """A hash of the space: searches with one signature can share their trials."""
        content = {name: list(choices) for name, choices in self.parameters.items()}
        layers = [group.layers for group in self.groups]
        whole = [] if self.transformation == TRANSFORMATION.default else [self.transformation]
        return hash_bytes(json.dumps([self.model_hash, self.hw, content, layers, self.ties, *whole]))

    def options(self, params: Params) -> tuple[str, ...]:
        """The option of each group. A parameter not given takes its first choice."""
        chosen = []
        for group in self.groups:
            option = params.get(f"{group.name}.scheme", group.options[0])
            if option not in group.options:
                raise StrategyError(
                    f"{option!r} is not among the choices",
                    where=group.name,
                    hint=f"choices: {', '.join(group.options)}",
                )
            chosen.append(option)
        return tuple(chosen)

    def names_of(self, group: Group) -> tuple[str, ...]:
        """The names of a group's parameters, including those with a single value."""
        return tuple(f"{group.name}.{name}" for name in ("scheme", *self.free))

    @cached_property
    def settings(self) -> tuple[str, ...]:
        """Every setting (a value of each free knob) as text, ordered by calibrator first."""
        names = list(self.free)
        found = product(*(self.free[name] for name in reversed(names)))
        return tuple(setting_text(dict(zip(names, reversed(values), strict=True))) for values in found)

    def setting(self, params: Params, group: Group) -> str:
        """The setting of a group."""
        return setting_text(self._values(params, group))

    def _values(self, params: Params, group: Group) -> dict[str, str]:
        return {knob: params.get(f"{group.name}.{knob}", values[0]) for knob, values in self.free.items()}

    def make_params(
        self, options: Mapping[str, str] | Sequence[str], settings: Mapping[str, str] | str
    ) -> dict[str, str]:
        """Parameters from the option of every group, and one setting for all groups or one for each."""
        params: dict[str, str] = {}
        for i, group in enumerate(self.groups):
            params[f"{group.name}.scheme"] = options[group.name] if isinstance(options, Mapping) else options[i]
            text = settings if isinstance(settings, str) else settings.get(group.name, "")
            wanted = read_setting(text) if text else {}
            for knob, values in self.free.items():
                value = wanted.get(knob)
                params[f"{group.name}.{knob}"] = value if value in values else values[0]
        return {name: params[name] for name in self.parameters}

    def uniform(self, option: str, setting: str) -> dict[str, str]:
        """Parameters with every group at this option, or the nearest that it has."""
        return self.make_params([group.find(option) for group in self.groups], setting)

    def strategy(self, params: Params) -> Strategy:
        """The strategy that these parameters mean; raises StrategyError for an unknown choice."""
        choices: dict[str, Choice] = {}
        having: dict[str, set[str]] = {knob: set() for knob in self.free}  # the layers that each knob affects
        for group, option in zip(self.groups, self.options(params), strict=True):
            values = self._values(params, group)
            for member in group.members:
                choice = member.ways[option]
                if choice.is_quantized:
                    own = {knob: value for knob, value in values.items() if member.has(option, knob)}
                    choices[member.layer] = _with(choice, tuple(own.items()))
                    for knob in own:
                        having[knob].add(member.layer)
        for tie, knob in product(self.ties, self._tied):
            first, *others = [name for name in tie if name in having[knob]] or [""]
            for name in others:
                choices[name] = _with(choices[name], ((knob, choices[first].value(knob)),))
        return Strategy(self.model_hash, self.hw, choices, transformation=self.transformation)

    @cached_property
    def _tied(self) -> tuple[str, ...]:
        return tuple(knob.name for knob in FREE if knob.tied)

    def params(self, strategy: Strategy) -> dict[str, str]:
        """Parameters that mean this strategy; raises StrategyError if the space has none."""
        options: dict[str, str] = {}
        for group in self.groups:
            fitting = [option for option in group.options if _fits(group, option, strategy)]
            if not fitting:
                raise StrategyError(
                    "its layers "
                    + ", ".join(f"{name} ({strategy.choice(name).precision})" for name in group.layers)
                    + " must agree, at a choice that the hardware has",
                    where=group.name,
                )
            options[group.name] = fitting[0]
        params = self.make_params(options, self._settings_of(strategy, options))
        if self.strategy(params).key() != strategy.key():
            raise StrategyError(
                "the strategy is not in this search space: calibrators differ within a group or a shared tensor",
                hint="give layers that read one tensor, and layers of one group, one calibrator",
            )
        return params

    def _settings_of(self, strategy: Strategy, options: Mapping[str, str]) -> dict[str, str]:
        """The setting of each group under these options: that of its first layer without a tie to an earlier group."""
        tie_of = {name: tie for tie in self.ties for name in tie}
        found: dict[str, dict[str, str]] = {group.name: {} for group in self.groups}
        for knob in self.free:
            having = {m.layer for group in self.groups for m in group.members if m.has(options[group.name], knob)}
            for group in self.groups:
                named = [name for name in group.layers if name in having]
                heads = [name for name in named if knob not in self._tied or _leads(name, tie_of, having)] or named
                if heads:
                    found[group.name][knob] = strategy.choice(heads[0]).value(knob)
        return {name: setting_text(values) for name, values in found.items() if values}

    def nearest(self, strategy: Strategy) -> dict[str, str]:
        """Parameters of the strategy nearest to this one, which may be of another space or hardware.

        A group takes the option that agrees with most of its multiply-adds.
        """
        own = replace(strategy, model_hash=self.model_hash, hw=self.hw, transformation=self.transformation)
        try:
            return self.params(own)
        except StrategyError:
            pass
        options: dict[str, str] = {}
        for group in self.groups:

            def agreement(option: str, group: Group = group) -> int:
                return sum(1 + self.macs[m.layer] for m in group.members if _agrees(m, option, own))

            options[group.name] = max(group.options, key=agreement)  # among equals the hardware's favourite
        return self.make_params(options, self._settings_of(own, options))

    def suggest(self, trial: SuggestsCategorical) -> Strategy:
        """The strategy that an Optuna trial proposes."""
        return self.strategy(
            {name: trial.suggest_categorical(name, choices) for name, choices in self.parameters.items()}
        )


@cache
def _with(choice: Choice, values: tuple[tuple[str, str], ...]) -> Choice:
    """Cached, because a sampler makes thousands of strategies of the same few choices."""
    return choice.with_(**dict(values))


def _leads(name: str, tie_of: Mapping[str, tuple[str, ...]], integer: set[str]) -> bool:
    return next((other for other in tie_of.get(name, (name,)) if other in integer), name) == name


def _fits(group: Group, option: str, strategy: Strategy) -> bool:
    return all(_agrees(member, option, strategy) for member in group.members)


def _agrees(member: GroupMember, option: str, strategy: Strategy) -> bool:
    """Whether the strategy gives this layer the choice that the option means."""
    choice, way = strategy.choice(member.layer), member.ways[option]
    if choice.precision == way.precision == FLOAT32:
        return True
    return (choice.precision, choice.granularity) == (way.precision, way.granularity)
