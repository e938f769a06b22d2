"""A strategy: how each layer of one model is quantized. A value, saved as YAML or JSON.

    hago_strategy: 1
    model: 8c5f...                     # SHA-256 of the source model
    structure: 02ab...                 # of what it shares with its fine-tuned forms: all but the weights
    hw: x86-avx512-vnni
    layers:
      conv1: {precision: int8, granularity: per_channel, calibrator: minmax}
      fc:    {precision: float32}

The choice of a layer governs the quantization of its input activations and of its weights; a layer
that is not named stays in float32.
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
from .documents import did_you_mean, is_json, mapping, read_document
from .errors import HagoWarning, SpecError, StrategyError
from .files import hash_bytes, write_atomic
from .scheme import PER_CHANNEL, Granularity

if TYPE_CHECKING:
    from .model import Layer, Model
    from .spec import HardwareSpec, OpChoice

CALIBRATORS = ("minmax", "moving_average", "percentile", "entropy", "mse")
PRECISIONS = ("float32", "bfloat16", "float16", "int8", "int7")
"""What a QDQ model can be written in today; a spec may know more."""

WEIGHTED_KINDS = ("conv", "depthwise_conv", "fully_connected")

OTHER_WEIGHTS = (
    "the strategy was made for another set of weights of this network: ranges are calibrated anew, "
    "and what was measured with the old weights need not hold for these"
)
"""What `Strategy.bound_to` warns of."""

_FORMAT = 1


@dataclass(frozen=True, order=True)
class Choice:
    """What one layer does: its precision, how its weights share scales, how ranges are found.

    ``granularity`` counts only where the layer has quantized weights, ``calibrator`` only where its
    activations are integers.
    """

    precision: str = "float32"
    granularity: Granularity = PER_CHANNEL
    calibrator: str = "minmax"

    def __post_init__(self) -> None:
        if self.calibrator not in CALIBRATORS:
            raise StrategyError(
                f"unknown calibrator {self.calibrator!r}", hint=did_you_mean(self.calibrator, CALIBRATORS)
            )

    def to_dict(self) -> dict[str, str]:
        return {
            "precision": self.precision,
            "granularity": str(self.granularity),
            "calibrator": self.calibrator,
        }

    @classmethod
    def from_dict(cls, data: Any, where: str | None = None) -> Choice:
        """Reads what :meth:`to_dict` writes; absent keys take their defaults.

        Raises StrategyError on an unknown key, a value that is no string, or an unknown name.
        """
        fields = mapping(data, where, error=StrategyError, known=("precision", "granularity", "calibrator"))
        for key, value in fields.items():
            if not isinstance(value, str):
                raise StrategyError(f"{key} must be a string, not {value!r}", where=where)
        try:
            if "granularity" in fields:
                fields["granularity"] = Granularity.parse(fields["granularity"])
            return cls(**fields)
        except StrategyError as error:
            raise StrategyError(error.what, where=where, hint=error.hint) from None
        except ValueError as error:  # a group size of thousands of digits
            raise StrategyError(f"granularity is not valid: {error}", where=where) from None


FLOAT32 = Choice()


@dataclass(frozen=True)
class Strategy:
    """Layer name -> :class:`Choice`, for one model (by hash) and one hardware spec (by name).

    ``structure``, where it is known, is the model's `Model.structure`: the strategy then fits every model that differs
    in its weights alone.
    """

    model_hash: str
    hw: str
    choices: Mapping[str, Choice] = field(default_factory=dict)
    structure: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        # Sorted, so that two strategies that say the same also print and save the same.
        frozen = MappingProxyType({name: self.choices[name] for name in sorted(self.choices)})
        object.__setattr__(self, "choices", frozen)

    def __hash__(self) -> int:
        return hash((self.model_hash, self.hw, tuple(self.choices.items())))

    def __reduce__(self) -> tuple[Any, ...]:  # a mappingproxy can be neither copied nor sent
        return Strategy, (self.model_hash, self.hw, dict(self.choices), self.structure)

    @property
    def is_float(self) -> bool:
        """Whether every layer stays in float32, named or not."""
        return all(choice.precision == "float32" for choice in self.choices.values())

    def choice(self, layer: str) -> Choice:
        """The choice for this layer: float32 where it is not named."""
        return self.choices.get(layer, FLOAT32)

    def with_(self, layer: str, choice: Choice) -> Strategy:
        """The same strategy with another choice for one layer."""
        return replace(self, choices={**self.choices, layer: choice})

    def key(self) -> str:
        """A stable hash of the meaning: layers in float32 count the same, named or not."""
        meant = {n: c.to_dict() for n, c in self.choices.items() if c.precision != "float32"}
        return hash_bytes(json.dumps([_FORMAT, self.model_hash, self.hw, meant], sort_keys=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON or YAML; :meth:`from_dict` reads it back."""
        layers = {name: choice.to_dict() for name, choice in self.choices.items()}
        structure = {"structure": self.structure} if self.structure else {}
        return {"hago_strategy": _FORMAT, "model": self.model_hash, **structure, "hw": self.hw, "layers": layers}

    @classmethod
    def from_dict(cls, data: Any, where: str | None = None) -> Strategy:
        """Reads plain data; raises StrategyError naming ``where`` and the key that is wrong."""
        fields = mapping(
            data, where, error=StrategyError, known=("hago_strategy", "model", "structure", "hw", "layers")
        )
        version = fields.get("hago_strategy")
        if version != _FORMAT or isinstance(version, bool):
            raise StrategyError(
                f"hago_strategy must be {_FORMAT}, found {version!r}",
                where=where,
                hint="is this file a strategy, and made by this version of hago?",
            )
        for key in ("model", "hw", "structure"):
            if not isinstance(fields.get(key, "" if key == "structure" else None), str):
                raise StrategyError(f"{key} must be a string, found {fields.get(key)!r}", where=where)
        layers = mapping(fields.get("layers", {}), f"{where}: layers" if where else "layers", error=StrategyError)
        prefix = f"{where}: " if where else ""
        choices = {name: Choice.from_dict(v, f"{prefix}layers: {name}") for name, v in layers.items()}
        return cls(fields["model"], fields["hw"], choices, fields.get("structure", ""))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes YAML, or JSON where the name ends in ``.json``."""
        data = self.to_dict()
        if is_json(path):
            text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
        else:
            # One line per layer: the leaves alone are written in braces.
            text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=1 << 20)
        write_atomic(path, text)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Strategy:
        """Reads what :meth:`save` wrote. Data alone is read: no tags, anchors or duplicate keys."""
        path = arguments.path("a strategy", path, StrategyError)
        return cls.from_dict(read_document(path, error=StrategyError).data, path)

    def fits(self, model: Model) -> bool:
        """Whether it was made for this model, or for one that differs in its weights alone."""
        return self.model_hash == model.hash or (self.structure != "" and self.structure == model.structure)

    def bound_to(self, model: Model) -> Strategy:
        """The same strategy for this model, which may have other weights: fine-tuned, or trained once more.

        Warns (HagoWarning) of other weights: what was measured with the old ones says little of the new ones. Raises
        StrategyError where the models differ in more than that.
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
            check_choice(layers[name], FLOAT32, spec, implied=True)


def _misfit(strategy: Strategy, model: Model) -> StrategyError:
    other = "its operators, layer names or shapes differ" if strategy.structure else "it tells no structure to compare"
    return StrategyError(
        f"this strategy is for the model {strategy.model_hash[:12]}, not for {model.hash[:12]}: {other}",
        where=str(model.source),
        hint="a strategy fits the model that it was made for, and the same network with other weights: "
        "search or write one for this model",
    )


def op_kind(layer: Layer) -> str:
    """The key of the spec's ``ops`` under which this layer's ways are found."""
    return "data_movement" if layer.kind == "shape" else layer.kind


def find_op_choice(layer: Layer, precision: str, spec: HardwareSpec) -> OpChoice:
    """The hardware's way to run this layer at this precision; StrategyError if it has none."""
    try:
        return spec.find(op_kind(layer), precision)
    except SpecError:
        offered = list(dict.fromkeys(c.precision for c in _choices(spec, op_kind(layer))))
        raise StrategyError(
            f"{spec.name} offers no {precision} for {op_kind(layer)}",
            where=f"layer {layer.name}",
            hint=f"precisions offered: {', '.join(offered) or 'none'}",
        ) from None


def check_choice(layer: Layer, choice: Choice, spec: HardwareSpec, implied: bool = False) -> None:
    """Raises StrategyError unless this layer can run this way on this hardware.

    ``implied`` marks a layer that the strategy does not name.
    """
    where = f"layer {layer.name}"
    if choice.precision == "float32":
        offered = _choices(spec, op_kind(layer))
        if layer.quantizable and offered and all(c.precision != "float32" for c in offered):
            named = "is not named, so it would run in float32, which" if implied else "cannot run in float32:"
            names = ", ".join(dict.fromkeys(c.precision for c in offered))
            raise StrategyError(
                f"{named} {spec.name} does not offer for {op_kind(layer)}",
                where=where,
                hint=f"choose one of: {names}",
            )
        return
    if not layer.quantizable:
        raise StrategyError(
            f"cannot run in {choice.precision}: {layer.reason or 'the layer is not quantizable'}",
            where=where,
            hint="leave it in float32",
        )
    op_choice = find_op_choice(layer, choice.precision, spec)
    if choice.precision not in PRECISIONS:
        raise StrategyError(
            f"{choice.precision} cannot be written to a QDQ model yet",
            where=where,
            hint=f"precisions so far: {', '.join(PRECISIONS)}",
        )
    if layer.kind not in WEIGHTED_KINDS or op_choice.weight is None:
        return
    if choice.granularity not in op_choice.granularities:
        offered_text = ", ".join(str(g) for g in op_choice.granularities)
        raise StrategyError(
            f"{spec.name} offers no {choice.granularity} weights for {choice.precision} {op_kind(layer)}",
            where=where,
            hint=f"granularities offered: {offered_text}",
        )
    size, channels = choice.granularity.group_size, weight_input_channels(layer)
    if size and channels % size:
        raise StrategyError(
            f"groups of {size} do not divide the {channels} input channels of its weights",
            where=where,
            hint="choose a group size that divides them, or per_channel",
        )


def granularities(layer: Layer, op_choice: OpChoice) -> tuple[Granularity, ...]:
    """The weight granularities that make sense for this layer: those offered that fit its shape.

    Groups that do not divide the input channels are left out, and so is one group per channel,
    which is the same as per channel. Empty for a layer without quantized weights.
    """
    if layer.kind not in WEIGHTED_KINDS or op_choice.weight is None:
        return ()
    channels = weight_input_channels(layer)
    return tuple(
        g
        for g in op_choice.granularities
        if g.kind != "per_group" or (channels > g.group_size and channels % g.group_size == 0)
    )


def weight_input_channels(layer: Layer) -> int:
    """Input channels that one output channel of the weights sees: C/group, or K."""
    shape: tuple[int, ...] = layer.weight_shape or ()
    if layer.op_type == "MatMul":
        return int(shape[-2])
    if layer.op_type == "Gemm":
        return int(layer.input_shapes[0][-1])
    return int(shape[1]) if len(shape) > 1 else 1


def uniform(
    model: Model,
    spec: HardwareSpec,
    precision: str = "int8",
    granularity: Granularity = PER_CHANNEL,
    calibrator: str = "minmax",
) -> Strategy:
    """Every layer that can at this precision ("int8 everywhere"), the rest not named.

    Where the granularity does not fit a layer, its weights are per channel, or else as is offered first.
    """
    choices = {}
    for layer in model.layers:
        ways = [c for c in _choices(spec, op_kind(layer)) if c.precision == precision]
        if not layer.quantizable or layer.kind == "shape" or not ways:
            continue
        fitting = granularities(layer, ways[0]) or (granularity,)
        taken = next((g for g in (granularity, PER_CHANNEL) if g in fitting), fitting[0])
        choices[layer.name] = Choice(precision, taken, calibrator)
    return Strategy(model.hash, spec.name, choices, model.structure)


def _choices(spec: HardwareSpec, kind: str) -> tuple[OpChoice, ...]:
    try:
        return tuple(spec.choices(kind))
    except SpecError:
        return ()
