"""From any QDQ model back to a strategy: a start for a search, or for a table of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import StrategyError
from ..lower.source import Codes, SourceGraph, SourceNode
from ..precision import SHORT_FLOATS
from ..scheme import PER_CHANNEL, PER_TENSOR, Granularity
from ..strategy import Choice, Strategy
from ..ways import granularities, ways_of

if TYPE_CHECKING:
    from ..model import Layer, Model
    from ..spec import HardwareSpec, Way

_INTEGER = "integer"
_PRODUCTS = {"Gemm", "MatMul"}  # one may have been written as the other


def strategy_of(qdq: Model, model: Model, spec: HardwareSpec) -> Strategy:
    """What ``qdq`` does to the layers of ``model``, as far as this hardware can do it.

    Layers are found by the names of their nodes, or else of their outputs. A layer is quantized if all activations
    that it reads are dequantized integers, or rounded to a short float; its way is the hardware's first that
    can represent the integers of its weights. The file does not say how ranges were found, so the calibrator is the
    default. Raises StrategyError if the file has no quantized layer of the model.
    """
    graph = SourceGraph(qdq.proto)
    named = {node.name: node for node in graph.nodes}
    floats = {node.name: node for node in model.proto.graph.node}
    choices: dict[str, Choice] = {}
    for layer in model.layers:
        if not layer.quantizable or layer.kind == "shape":
            continue
        own = floats[layer.nodes[0]]
        node = named.get(own.name) or graph.producers.get(own.output[0])
        if node is None or (node.op != own.op_type and not {node.op, own.op_type} <= _PRODUCTS):
            continue
        choice = _choice(graph, node, dict(zip(own.input, node.inputs, strict=False)), layer, spec)
        if choice is not None:
            choices[layer.name] = choice
    if not choices:
        raise StrategyError(
            f"no layer of {model.source} is quantized in it, in a way that {spec.name} offers",
            where=qdq.source,
            hint="is it a quantized version of this model? Layers are found by the names of their nodes or outputs",
        )
    return Strategy(model.hash, spec.name, choices, model.structure)


def _choice(
    graph: SourceGraph, node: SourceNode, operands: dict[str, str], layer: Layer, spec: HardwareSpec
) -> Choice | None:
    """The choice of one layer; None if it computes in float32. ``operands``: float operand -> that of ``node``."""
    held = {_held_as(graph, operands[name]) for name in layer.inputs if name in operands}
    kind = held.pop() if len(held) == 1 else ""
    ways = ways_of(layer, spec)
    if kind in SHORT_FLOATS:
        return next((Choice(way.precision) for way in ways if way.precision == kind), None)
    integers = [way for way in ways if way.numbers.is_integer]
    if kind != _INTEGER or not integers:
        return None
    if layer.weight is None:
        return Choice(integers[0].precision)
    codes = _codes(graph, operands.get(layer.weight, ""))
    if codes is None:
        return None
    way = _narrowest(integers, codes)
    offered = granularities(layer, way) or (PER_CHANNEL,)
    wanted = (_granularity(codes), PER_CHANNEL)
    return Choice(way.precision, next((g for g in wanted if g in offered), offered[0]))


def _held_as(graph: SourceGraph, name: str) -> str:
    """How an activation is represented: "integer", a short float, or float32."""
    maker = graph.producers.get(name)
    if maker is not None and maker.op == "DequantizeLinear":
        return _INTEGER
    if maker is not None and maker.op == "Cast" and graph.type(maker.inputs[0]).dtype in SHORT_FLOATS:
        return graph.type(maker.inputs[0]).dtype
    return "float32"


def _codes(graph: SourceGraph, name: str) -> Codes | None:
    """The stored integers of a weight, also if a Transpose follows them."""
    while (maker := graph.producers.get(name)) is not None and maker.op == "Transpose":
        name = maker.inputs[0]
    constant = graph.constant(name)
    return None if constant is None else constant.codes


def _narrowest(ways: Sequence[Way], codes: Codes) -> Way:
    """The first way whose weights can represent these integers, else the last one."""
    zero = codes.zero_point.astype(np.int64)
    span = codes.codes.astype(np.int64)
    low, high = int(span.min(initial=0)) - int(zero.max(initial=0)), int(span.max(initial=0)) - int(zero.min(initial=0))
    fits = (way for way in ways if way.weight is not None and way.weight.qmin <= low and high <= way.weight.qmax)
    return next(fits, ways[-1])


def _granularity(codes: Codes) -> Granularity:
    if codes.block_size:
        return Granularity("per_group", codes.block_size)
    return PER_CHANNEL if codes.scale.size > 1 else PER_TENSOR
