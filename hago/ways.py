"""The ways in which a piece of hardware can run a layer, and whether a choice is one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .choice import Choice
from .errors import SpecError, StrategyError
from .kernels import why_not
from .precision import FLOAT32, Precision
from .scheme import Granularity

if TYPE_CHECKING:
    from .model import Layer
    from .spec import HardwareSpec, Way

WEIGHTED_KINDS = ("conv", "depthwise_conv", "fully_connected")


def op_kind(layer: Layer) -> str:
    """The key of the spec's ``ops`` under which this layer's ways are found."""
    return "data_movement" if layer.kind == "shape" else layer.kind


def find_way(layer: Layer, precision: str, spec: HardwareSpec) -> Way:
    """The hardware's way to run this layer at this precision; StrategyError if it has none."""
    try:
        return spec.find(op_kind(layer), precision)
    except SpecError:
        offered = list(dict.fromkeys(way.precision for way in _offered(layer, spec)))
        raise StrategyError(
            f"{spec.name} offers no {precision} for {op_kind(layer)}",
            where=f"layer {layer.name}",
            hint=f"precisions offered: {', '.join(offered) or 'none'}",
        ) from None


def ways_of(layer: Layer, spec: HardwareSpec) -> tuple[Way, ...]:
    """The hardware's ways to run this layer for which Hago has kernels, the fastest first."""
    return tuple(way for way in _offered(layer, spec) if _why_not(layer, way, spec) is None)


def _offered(layer: Layer, spec: HardwareSpec) -> tuple[Way, ...]:
    try:
        return tuple(spec.choices(op_kind(layer)))
    except SpecError:
        return ()


def _why_not(layer: Layer, way: Way, spec: HardwareSpec) -> str | None:
    """The reason why Hago cannot carry out a way of the hardware, or None."""
    numbers = Precision.named(way.precision)
    bits = numbers.activation.bits if numbers.activation else 0
    if numbers.dynamic or (numbers.is_integer and bits != 8) or (numbers.is_short_float and bits < 16):
        return f"{way.precision} cannot be written to a QDQ model yet"
    return why_not(spec, op_kind(layer), way)


def check_choice(layer: Layer, choice: Choice, spec: HardwareSpec, implied: bool = False) -> None:
    """Raises StrategyError unless this layer can run this way on this hardware.

    ``implied`` marks a layer that the strategy does not name.
    """
    where = f"layer {layer.name}"
    if not choice.is_quantized:
        offered = _offered(layer, spec)
        if layer.quantizable and offered and all(way.precision != FLOAT32 for way in offered):
            named = "is not named, so it would run in float32, which" if implied else "cannot run in float32:"
            names = ", ".join(dict.fromkeys(way.precision for way in offered))
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
    way = find_way(layer, choice.precision, spec)
    if (reason := _why_not(layer, way, spec)) is not None:
        others = dict.fromkeys(other.precision for other in ways_of(layer, spec))
        raise StrategyError(reason, where=where, hint=f"choose one of: {', '.join(others) or 'none'}")
    if layer.kind not in WEIGHTED_KINDS or way.weight is None:
        return
    if choice.granularity not in way.granularities:
        offered_text = ", ".join(str(g) for g in way.granularities)
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


def granularities(layer: Layer, way: Way) -> tuple[Granularity, ...]:
    """The offered weight granularities that fit the shape of this layer.

    Groups that do not divide the input channels are left out, and so is one group per channel,
    which is the same as per channel. Empty for a layer without quantized weights.
    """
    if layer.kind not in WEIGHTED_KINDS or way.weight is None:
        return ()
    channels = weight_input_channels(layer)
    return tuple(
        g
        for g in way.granularities
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
