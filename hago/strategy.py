"""A strategy: how each layer of one model is quantized. A value, saved as YAML or JSON.

    hago_strategy: 1
    model: 8c5f...                     # SHA-256 of the source model
    structure: 02ab...                 # hash of everything but the weights, shared with fine-tuned models
    hw: x86-avx512-vnni
    layers:
      conv1: {precision: int8, granularity: per_channel, calibrator: minmax}
      conv2: {precision: int8, granularity: per_tensor, calibrator: mse, rounding: mse, correction: bias}
      fc:    {precision: float32}

Where the whole network is transformed before it is calibrated (`hago.methods.TRANSFORMATIONS`), a line
``transformation: NAME`` says so.

The choice of a layer governs the quantization of its input activations and of its weights; a layer
that is not named stays in float32. `hago.knobs` has the table of what can be chosen.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml

from . import arguments
from .choice import Choice
from .documents import did_you_mean, is_json, mapping, read_document
from .errors import HagoWarning, StrategyError
from .files import hash_bytes, write_atomic
from .knobs import KNOBS, TRANSFORMATION, find_knob
from .precision import Precision
from .scheme import PER_CHANNEL, Granularity
from .ways import WEIGHTED_KINDS, check_choice, granularities, op_kind, ways_of

if TYPE_CHECKING:
    from .model import Model
    from .spec import HardwareSpec

__all__ = [
    "OTHER_WEIGHTS",
    "WEIGHTED_KINDS",
    "Choice",
    "Strategy",
    "check_choice",
    "granularities",
    "op_kind",
    "uniform",
    "ways_of",
]

OTHER_WEIGHTS = (
    "the strategy was made for other weights of this network: ranges are calibrated again, and results measured "
    "with the old weights may not hold"
)
"""The warning of `Strategy.bound_to`."""

_FORMAT = 1
# Keys of a file that hold texts, with their defaults; None: there is none.
_TEXTS: Mapping[str, Any] = {"model": None, "structure": "", "hw": None, TRANSFORMATION.name: TRANSFORMATION.default}
_LEFT_ALONE = Choice()


@dataclass(frozen=True)
class Strategy:
    """Layer name -> :class:`Choice`, for one model (by hash) and one hardware spec (by name).

    ``structure``, if known, is the model's `Model.structure`: the strategy then fits every model that differs only in
    its weights. ``transformation`` is applied to the network before calibration (`hago.methods.transformed`). Raises
    StrategyError if it does not exist.
    """

    model_hash: str
    hw: str
    choices: Mapping[str, Choice] = field(default_factory=dict)
    structure: str = field(default="", compare=False)
    transformation: str = TRANSFORMATION.default

    def __post_init__(self) -> None:
        TRANSFORMATION.check(self.transformation)
        # Sorted, so that equal strategies also print and save equally.
        frozen = MappingProxyType({name: self.choices[name] for name in sorted(self.choices)})
        object.__setattr__(self, "choices", frozen)

    def __hash__(self) -> int:
        return hash((self.model_hash, self.hw, tuple(self.choices.items()), self.transformation))

    def __reduce__(self) -> tuple[Any, ...]:  # a mappingproxy can be neither copied nor sent
        return Strategy, (self.model_hash, self.hw, dict(self.choices), self.structure, self.transformation)

    @property
    def is_float(self) -> bool:
        """Whether every layer stays in float32, named or not."""
        return not any(choice.is_quantized for choice in self.choices.values())

    @property
    def is_transformed(self) -> bool:
        """Whether the network is transformed before it is quantized."""
        return self.transformation != TRANSFORMATION.default

    def choice(self, layer: str) -> Choice:
        """The choice for this layer: float32 where it is not named."""
        return self.choices.get(layer, _LEFT_ALONE)

    def with_(self, layer: str, choice: Choice) -> Strategy:
        """The same strategy with another choice for one layer."""
        return replace(self, choices={**self.choices, layer: choice})

    def key(self) -> str:
        """A stable hash of the meaning: layers in float32 count the same, named or not.

        Where all are in float32, the transformation counts for nothing: it comes before quantization alone.
        """
        meant = {n: c.to_dict() for n, c in self.choices.items() if c.is_quantized}
        whole = [self.transformation] if meant and self.is_transformed else []
        return hash_bytes(json.dumps([_FORMAT, self.model_hash, self.hw, meant, *whole], sort_keys=True))

    @property
    def used(self) -> dict[str, tuple[str, ...]]:
        """Knob -> the values that quantized layers have; `hago.methods.needs_of` reads it."""
        chosen = [choice for choice in self.choices.values() if choice.is_quantized]
        return {knob.name: tuple(sorted({choice.value(knob.name) for choice in chosen})) for knob in KNOBS}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON or YAML; :meth:`from_dict` reads it back."""
        layers = {name: choice.to_dict() for name, choice in self.choices.items()}
        structure = {"structure": self.structure} if self.structure else {}
        whole = {TRANSFORMATION.name: self.transformation} if self.is_transformed else {}
        return {
            "hago_strategy": _FORMAT,
            "model": self.model_hash,
            **structure,
            "hw": self.hw,
            **whole,
            "layers": layers,
        }

    @classmethod
    def from_dict(cls, data: Any, where: str | None = None) -> Strategy:
        """Reads plain data; raises StrategyError naming ``where`` and the key that is wrong."""
        fields = mapping(data, where, error=StrategyError, known=("hago_strategy", *_TEXTS, "layers"))
        version = fields.get("hago_strategy")
        if version != _FORMAT or isinstance(version, bool):
            raise StrategyError(
                f"hago_strategy must be {_FORMAT}, found {version!r}",
                where=where,
                hint="is this file a strategy, and made by this version of hago?",
            )
        texts = {key: fields.get(key, default) for key, default in _TEXTS.items()}
        for key, text in texts.items():
            if not isinstance(text, str):
                raise StrategyError(f"{key} must be a string, found {text!r}", where=where)
        layers = mapping(fields.get("layers", {}), f"{where}: layers" if where else "layers", error=StrategyError)
        prefix = f"{where}: " if where else ""
        choices = {name: Choice.from_dict(v, f"{prefix}layers: {name}") for name, v in layers.items()}
        try:
            return cls(texts["model"], texts["hw"], choices, texts["structure"], texts[TRANSFORMATION.name])
        except StrategyError as error:
            raise StrategyError(error.what, where=where, hint=error.hint) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes YAML, or JSON if the name ends in ``.json``."""
        data = self.to_dict()
        if is_json(path):
            text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
        else:
            # One line per layer: only the leaves are written in braces.
            text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=1 << 20)
        write_atomic(path, text)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Strategy:
        """Reads what :meth:`save` wrote, strictly: no tags, anchors or duplicate keys."""
        path = arguments.path("a strategy", path, StrategyError)
        return cls.from_dict(read_document(path, error=StrategyError).data, path)

    def fits(self, model: Model) -> bool:
        """Whether it was made for this model, or for one that differs only in its weights."""
        return self.model_hash == model.hash or (self.structure != "" and self.structure == model.structure)

    def bound_to(self, model: Model) -> Strategy:
        """The same strategy for this model, which may have other weights, for instance after fine-tuning.

        Warns (HagoWarning) about other weights, since old measurements may not apply to them. Raises StrategyError if
        the models differ in more than that.
        """
        if not self.fits(model):
            raise _misfit(self, model)
        if self.model_hash != model.hash:
            warnings.warn(OTHER_WEIGHTS, HagoWarning, stacklevel=2)
        return replace(self, model_hash=model.hash, structure=model.structure)

    def check(self, model: Model, spec: HardwareSpec) -> None:
        """Raises StrategyError unless every choice can be carried out on this model and hardware."""
        if not self.fits(model):
            raise _misfit(self, model)
        layers = {layer.name: layer for layer in model.layers}
        for name, choice in self.choices.items():
            if name not in layers:
                raise StrategyError(
                    f"the model has no layer {name!r}",
                    hint=f"{did_you_mean(name, layers)} (`hago inspect MODEL` lists the layers)",
                )
            check_choice(layers[name], choice, spec)
        for name in layers.keys() - self.choices.keys():
            check_choice(layers[name], _LEFT_ALONE, spec, implied=True)


def _misfit(strategy: Strategy, model: Model) -> StrategyError:
    other = "its operators, layer names or shapes differ" if strategy.structure else "it has no structure to compare"
    return StrategyError(
        f"this strategy is for the model {strategy.model_hash[:12]}, not for {model.hash[:12]}: {other}",
        where=str(model.source),
        hint="a strategy fits the model that it was made for, and the same network with other weights: "
        "search or write one for this model",
    )


def uniform(
    model: Model,
    spec: HardwareSpec,
    precision: str = "int8",
    granularity: Granularity = PER_CHANNEL,
    calibrator: str = "minmax",
    transformation: str = TRANSFORMATION.default,
    **methods: str,
) -> Strategy:
    """A strategy with every layer that supports this precision ("int8 everywhere"); the others are not named.

    If the granularity does not fit a layer, its weights are per channel, or else what is offered first. ``methods`` are
    values of other knobs, for the layers where they matter.
    """
    choices = {}
    for layer in model.layers:
        ways = [way for way in ways_of(layer, spec) if way.precision == precision]
        if not layer.quantizable or layer.kind == "shape" or not ways:
            continue
        fitting = granularities(layer, ways[0]) or (granularity,)
        taken = next((g for g in (granularity, PER_CHANNEL) if g in fitting), fitting[0])
        about = layer.kind in WEIGHTED_KINDS, Precision.named(precision), taken
        mattering = {name: value for name, value in methods.items() if find_knob(name).matters(*about)}
        choices[layer.name] = Choice(precision, taken, calibrator).with_(**mattering)
    return Strategy(model.hash, spec.name, choices, model.structure, transformation)
