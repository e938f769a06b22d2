"""The search space: groups of layers, what each may do, and the way between parameters and strategies.

Each group has two categorical parameters, named after its first layer: ``NAME.scheme`` (precision and
granularity of the weights, such as ``int8/per_channel``) and ``NAME.calibrator``. Both are always there,
so that every sampler sees one fixed space; a calibrator says nothing where its group stays in float, and
two sets of parameters that mean the same give the same :class:`Strategy`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from ..errors import StrategyError
from ..files import hash_bytes
from ..strategy import CALIBRATORS, Choice, Strategy
from .grouping import Flow, find_flows, group_layers, tied_layers
from .groups import Group, Member, make_group, ways_of
from .keep import Keep, check_keep, kept_options
from .option import FLOAT32

if TYPE_CHECKING:
    from ..model import Layer, Model
    from ..spec import HardwareSpec

Params = Mapping[str, str]
"""Parameter name -> the choice made, as text."""


class SuggestsCategorical(Protocol):
    """What :meth:`SearchSpace.suggest` needs of an Optuna trial."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str: ...


@dataclass(frozen=True)
class SearchSpace:
    """All strategies that a search may propose for one model on one hardware.

    ``ties`` are layers that read one tensor and so have one calibrator: that of the first of them that
    computes in integers. ``macs`` are the multiply-adds of all layers, ``weights`` the elements of their weights.
    """

    model_hash: str
    hw: str
    groups: tuple[Group, ...]
    calibrators: tuple[str, ...]
    ties: tuple[tuple[str, ...], ...]
    flows: tuple[Flow, ...]
    macs: Mapping[str, int]
    weights: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_model(
        cls,
        model: Model,
        spec: HardwareSpec,
        calibrators: Sequence[str] = CALIBRATORS,
        keep: Collection[Keep] = (),
    ) -> SearchSpace:
        """Groups the layers of ``model`` and gathers what ``spec`` allows each group, and ``keep`` leaves of it.

        Raises StrategyError when an unknown calibrator, or none, is named, and for what cannot be kept.
        """
        if not calibrators or (unknown := [name for name in calibrators if name not in CALIBRATORS]):
            raise StrategyError(
                f"unknown calibrators {unknown}" if calibrators else "a search needs a calibrator",
                hint=f"calibrators: {', '.join(CALIBRATORS)}",
            )
        layers = {layer.name: layer for layer in model.layers}

        def searched(layer: Layer) -> bool:
            ways = ways_of(layer, spec) if layer.quantizable and layer.kind != "shape" else ()
            return any(way.precision != "float32" for way in ways)

        made = [make_group([layers[name] for name in names], spec) for names in group_layers(model, searched)]
        check_keep(keep, model.layers, {name for group in made for name in group.layers})
        groups = tuple(group.limited_to(kept_options(group, layers, keep)) for group in made)
        group_of = {name: i for i, group in enumerate(groups) for name in group.layers}
        return cls(
            model_hash=model.hash,
            hw=spec.name,
            groups=groups,
            calibrators=tuple(dict.fromkeys(calibrators)),
            ties=tied_layers(model, searched),
            flows=find_flows(model, group_of),
            macs=MappingProxyType({layer.name: int(layer.macs) for layer in model.layers}),
            weights=MappingProxyType({layer.name: prod(layer.weight_shape or (0,)) for layer in model.layers}),
        )

    @cached_property
    def parameters(self) -> Mapping[str, tuple[str, ...]]:
        """Parameter -> its choices; those with a single choice are left out."""
        found: dict[str, tuple[str, ...]] = {}
        for group in self.groups:
            if len(group.options) > 1:
                found[f"{group.name}.scheme"] = group.options
            if group.integer and len(self.calibrators) > 1:
                found[f"{group.name}.calibrator"] = self.calibrators
        return MappingProxyType(found)

    @property
    def size(self) -> int:
        """How many sets of parameters there are (strategies can be fewer)."""
        return prod(len(choices) for choices in self.parameters.values())

    @cached_property
    def signature(self) -> str:
        """A hash of the space: two searches of one signature can share their trials."""
        content = {name: list(choices) for name, choices in self.parameters.items()}
        layers = [group.layers for group in self.groups]
        return hash_bytes(json.dumps([self.model_hash, self.hw, content, layers, self.ties]))

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

    def calibrator(self, params: Params, group: Group) -> str:
        return params.get(f"{group.name}.calibrator", self.calibrators[0])

    def make_params(
        self, options: Mapping[str, str] | Sequence[str], calibrators: Mapping[str, str] | str
    ) -> dict[str, str]:
        """Parameters from the option of every group, and one calibrator for all or one for each group."""
        params: dict[str, str] = {}
        for i, group in enumerate(self.groups):
            option = options[group.name] if isinstance(options, Mapping) else options[i]
            wanted = calibrators if isinstance(calibrators, str) else calibrators.get(group.name, "")
            params[f"{group.name}.scheme"] = option
            params[f"{group.name}.calibrator"] = wanted if wanted in self.calibrators else self.calibrators[0]
        return {name: params[name] for name in self.parameters}

    def uniform(self, option: str, calibrator: str) -> dict[str, str]:
        """Every group at this option, or at the nearest that it has."""
        return self.make_params([group.find(option) for group in self.groups], calibrator)

    def strategy(self, params: Params) -> Strategy:
        """The strategy that these parameters mean; raises StrategyError on a choice that is not there."""
        choices: dict[str, Choice] = {}
        integer: set[str] = set()
        for group, option in zip(self.groups, self.options(params), strict=True):
            calibrator = self.calibrator(params, group)
            for member in group.members:
                choice = member.ways[option]
                if option in member.integer:
                    choice = replace(choice, calibrator=calibrator)
                    integer.add(member.layer)
                if choice.precision != "float32":
                    choices[member.layer] = choice
        for tie in self.ties:
            tied = [name for name in tie if name in integer]
            for name in tied[1:]:
                choices[name] = replace(choices[name], calibrator=choices[tied[0]].calibrator)
        return Strategy(self.model_hash, self.hw, choices)

    def params(self, strategy: Strategy) -> dict[str, str]:
        """Parameters that mean this strategy; raises StrategyError where the space has none."""
        options: dict[str, str] = {}
        calibrators: dict[str, str] = {}
        follower = {name: tie for tie in self.ties for name in tie}
        integer = {
            name
            for name, choice in strategy.choices.items()
            if any(
                choice.precision == member.ways[option].precision
                for group in self.groups
                for member in group.members
                if member.layer == name
                for option in member.integer
            )
        }
        for group in self.groups:
            fitting = [s for s in group.options if _fits(group, s, strategy)]
            if not fitting:
                raise StrategyError(
                    "its layers "
                    + ", ".join(f"{name} ({strategy.choice(name).precision})" for name in group.layers)
                    + " must agree, at a choice that the hardware has",
                    where=group.name,
                )
            options[group.name] = fitting[0]
            heads = [name for name in group.layers if name in integer and _leads(name, follower, integer)]
            named = heads or [name for name in group.layers if name in integer]
            if named:
                calibrators[group.name] = strategy.choice(named[0]).calibrator
        params = self.make_params(options, calibrators)
        if self.strategy(params).key() != strategy.key():
            raise StrategyError(
                "the strategy is none of this search: calibrators differ within a group or a shared tensor",
                hint="give layers that read one tensor, and layers of one group, one calibrator",
            )
        return params

    def nearest(self, strategy: Strategy) -> dict[str, str]:
        """Parameters of the strategy nearest to this one, which need not be one of this space, nor of this hardware.

        A group takes the option that agrees with most of its multiply-adds, and the calibrator of the first layer.
        """
        own = replace(strategy, model_hash=self.model_hash, hw=self.hw)
        try:
            return self.params(own)
        except StrategyError:
            pass
        options: dict[str, str] = {}
        calibrators: dict[str, str] = {}
        for group in self.groups:

            def agreement(option: str, group: Group = group) -> int:
                return sum(1 + self.macs[m.layer] for m in group.members if _agrees(m, option, own))

            options[group.name] = max(group.options, key=agreement)  # the hardware's favourite among equals
            calibrators[group.name] = own.choice(group.layers[0]).calibrator
        return self.make_params(options, calibrators)

    def suggest(self, trial: SuggestsCategorical) -> Strategy:
        """The strategy that an Optuna trial proposes."""
        return self.strategy(
            {name: trial.suggest_categorical(name, choices) for name, choices in self.parameters.items()}
        )


def _leads(name: str, tie_of: Mapping[str, tuple[str, ...]], integer: set[str]) -> bool:
    return next((other for other in tie_of.get(name, (name,)) if other in integer), name) == name


def _fits(group: Group, option: str, strategy: Strategy) -> bool:
    return all(_agrees(member, option, strategy) for member in group.members)


def _agrees(member: Member, option: str, strategy: Strategy) -> bool:
    """Whether the strategy has this layer do what the option means for it."""
    choice, way = strategy.choice(member.layer), member.ways[option]
    if choice.precision == way.precision == FLOAT32:
        return True
    return (choice.precision, choice.granularity) == (way.precision, way.granularity)
