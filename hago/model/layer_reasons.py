"""Why a layer cannot be quantized on any hardware."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from .layer import Layer
from .layer_constants import constant_objections
from .layer_graph import GraphView, attribute


def objections(graph: GraphView, node: onnx.NodeProto, layer: Layer, made_by: Mapping[str, Layer]) -> Iterator[str]:
    """The reasons why this layer cannot be quantized, the most important first; none if it can."""
    kind, op = layer.kind, layer.op_type
    rank = len(layer.input_shapes[0]) if layer.input_shapes else 0
    if kind == "shape":
        yield "it only moves data: it works in the type of the layers around it"
    if graph.quantized:
        yield "the model is quantized already"
    if kind == "float":
        yield _why_float(graph, node, layer)
    if kind in ("conv", "depthwise_conv", "max_pool", "avg_pool", "global_avg_pool") and rank not in (3, 4):
        yield f"{op} over {rank - 2} spatial axes has no integer kernel"
    if kind == "avg_pool" and attribute(node, "ceil_mode", 0):
        yield "it counts padding in windows that ceil_mode cuts off, which has no integer kernel"
    if kind == "avg_pool" and set(attribute(node, "dilations", (1,))) != {1}:
        yield "a dilated average pool has no integer kernel"
    if kind == "matmul" and layer.constant is not None:
        left = graph.is_constant(node.input[0])
        yield "its left operand is a constant" if left else "its weights differ from batch to batch"
    if kind == "matmul" and min(map(len, layer.input_shapes)) < 2:
        yield "a product with a vector has no integer kernel"
    if kind == "resize" and attribute(node, "mode", "nearest") != "nearest":
        yield f"{attribute(node, 'mode')} interpolation runs in float"
    if kind == "scale_shift" and rank < 2:
        yield "it has no channel axis"
    if kind in ("add", "mul", "concat"):
        for tensor in layer.inputs:
            source = _source(tensor, made_by)
            if source is not None and not source.quantizable:
                yield f"its input {tensor!r} comes from {source.op_type} {source.name!r}, which runs in float"
    yield from constant_objections(graph, layer)


def _source(tensor: str, made_by: Mapping[str, Layer]) -> Layer | None:
    """The layer that computes ``tensor``, looking through data movement; None for an input."""
    layer = made_by.get(tensor)
    while layer is not None and layer.kind == "shape":
        layer = made_by.get(layer.inputs[0])
    return layer


def _why_float(graph: GraphView, node: onnx.NodeProto, layer: Layer) -> str:
    op = layer.op_type
    if op in ("Conv", "Gemm"):
        return "its weights are computed at run time"
    if op == "ConvTranspose":
        return "ConvTranspose has no integer kernel"
    if not layer.inputs:
        return "it depends on no input: a constant too large to fold"
    if graph.types.get(node.output[0]) != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(graph.types.get(node.output[0], 0)).lower()
        return f"it makes {kind} numbers, not float32"
    if op == "Gather":
        return "an embedding table is read in float32"
    if op == "Pad":
        return "it pads with a value other than zero"
    if op == "MaxPool":
        return "it returns indices"
    return f"{op} runs in float"
