"""Constants that integers cannot represent: they keep a layer in float32 on any hardware."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .layer import Layer
from .layer_graph import GraphView, attribute

_LARGEST = 2.0**60  # of weights: beyond it the product of two scales may overflow float32
_STEPS = 255  # of eight bits
_LOST = 0.25  # share of a constant's values that may become zero
_MASK = 1e3  # a constant of zeros and values at least this large is a mask, which keeps or hides what it is added to


def constant_objections(graph: GraphView, layer: Layer) -> Iterator[str]:
    """The reasons why the values of this layer's constants cannot be integers; none if they can."""
    if layer.kind == "scale_shift":
        yield from _of_normalization(graph, layer)
        return
    for name in dict.fromkeys(_names(graph, layer)):
        values = graph.value_of(name)
        if values is None or values.dtype.kind != "f" or values.size == 0:
            continue
        called = {layer.weight: "weights", layer.bias: "bias"}.get(name, "constant")
        low, high = float(values.min()), float(values.max())
        if np.isnan(low):
            yield f"its {called} {name!r} {_verb(called)} NaN"
        elif np.isinf([low, high]).any():
            yield f"its {called} {name!r} {_verb(called)} infinity, which no integer can represent"
        elif called == "weights" and max(-low, high) > _LARGEST:
            yield f"its weights {name!r} reach {max(-low, high):.3g}: their products leave float32"
        elif called == "bias":
            yield from _of_bias(layer, values)
        elif called == "constant" and layer.kind in ("add", "mul", "concat"):
            yield from _of_operand(layer, name, values)


def _verb(called: str) -> str:
    return "hold" if called == "weights" else "holds"


def _names(graph: GraphView, layer: Layer) -> Iterator[str]:
    """The constants that the layer's nodes read, including the bounds of a folded Clip."""
    for node in graph.nodes:
        if node.name in layer.nodes:
            yield from (graph.origin(name) for name in node.input if name and graph.is_constant(name))


def _of_bias(layer: Layer, values: NDArray[np.floating]) -> Iterator[str]:
    outputs = layer.output_shape[-1] if layer.kind == "fully_connected" else layer.output_shape[1]
    if values.size not in (1, outputs):
        yield f"its bias has {values.size} values, not one for each of {outputs} output channels"


def _of_operand(layer: Layer, name: str, values: NDArray[np.floating]) -> Iterator[str]:
    """Reasons for a constant operand, which has one scale for all its values."""
    sizes = np.abs(values[values != 0].astype(np.float64))
    if not sizes.size:
        return
    step = (max(0.0, float(values.max())) - min(0.0, float(values.min()))) / _STEPS
    if layer.kind == "add" and sizes.size < values.size and sizes.min() >= _MASK:
        hidden = max((float(values.min()), float(values.max())), key=abs)
        yield f"its constant {name!r} is a mask of 0 and {hidden:.3g}, beside which eight bits hold nothing else"
    elif np.mean(sizes < step / 2) > _LOST:
        yield (
            f"its constant {name!r} holds values from {sizes.min():.3g} to {sizes.max():.3g}, "
            "of which eight bits would make the small ones zero"
        )


def _of_normalization(graph: GraphView, layer: Layer) -> Iterator[str]:
    """Reasons for a BatchNormalization's factor and offset per channel."""
    node = next(node for node in graph.nodes if node.name == layer.nodes[0])
    found = [graph.value_of(name) for name in node.input[1:5]]
    gamma, beta, mean, variance = (np.asarray(0.0 if v is None else v, np.float32) for v in found)
    with np.errstate(all="ignore"):
        factor = gamma / np.sqrt(variance + np.float32(attribute(node, "epsilon", 1e-5)))
        offset = beta - mean * factor
    broken = np.flatnonzero(~np.isfinite(factor) | ~np.isfinite(offset))
    if broken.size:
        yield f"its factor or offset is not finite in channel {broken[0]}: variance plus epsilon must be positive"
