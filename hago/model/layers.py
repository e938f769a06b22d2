"""Finds the layers of a normalized model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from .layer import Layer
from .layer_graph import GraphView, attribute
from .layer_reasons import objections

LAYER_KEY = "hago.layer"  # key in a node's metadata_props: the layer it belongs to

#: Layers that include a Relu or Clip that directly follows them.
_CLAMPED_KINDS = frozenset({
    "conv", "depthwise_conv", "fully_connected", "matmul", "add", "mul", "scale_shift", "avg_pool",
    "global_avg_pool",
})  # fmt: skip
_SHAPE_OPS = frozenset({
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Pad", "Gather", "GatherElements",
    "GatherND", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Identity", "Split", "CenterCropPad",
    "ReverseSequence",
})  # fmt: skip
_LOOKUP_OPS = frozenset({
    "Relu", "Clip", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Gelu", "LeakyRelu", "Elu", "Selu", "Celu",
    "Softplus", "Softsign", "Mish", "ThresholdedRelu", "Erf", "Abs", "Neg",
})  # fmt: skip
_JOINS = {"Add": "add", "Mul": "mul", "Concat": "concat"}
_POOLS = {"MaxPool": "max_pool", "AveragePool": "avg_pool", "GlobalAveragePool": "global_avg_pool"}


def find_layers(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], quantized: bool) -> tuple[Layer, ...]:
    """The layers of a normalized model, in its order; every node except Q, DQ and the like belongs to one."""
    graph = GraphView(proto, shapes, quantized)
    covered: set[str] = set()
    layers: list[Layer] = []
    made_by: dict[str, Layer] = {}
    for node in graph.nodes:
        if node.name in covered or graph.is_wrapper(node):
            continue
        layer = _with_clamp(graph, _describe(graph, node))
        layer = _judge(graph, node, layer, made_by)
        covered.update(layer.nodes)
        layers.append(layer)
        made_by.update((o, layer) for o in [*node.output, layer.output])
    return tuple(layers)


def mark(proto: onnx.ModelProto, layers: Sequence[Layer]) -> None:
    """Writes each layer's name into the metadata of the nodes it covers."""
    owner = {n: layer.name for layer in layers for n in layer.nodes}
    for node in proto.graph.node:
        if node.name in owner:
            kept = [p for p in node.metadata_props if p.key != LAYER_KEY]
            del node.metadata_props[:]
            node.metadata_props.extend(kept)
            node.metadata_props.add(key=LAYER_KEY, value=owner[node.name])


def _describe(graph: GraphView, node: onnx.NodeProto) -> Layer:
    """Kind, operands and costs of a node; of a product, including the Add of its bias."""
    op = node.op_type
    constants = [i for i in node.input if i and graph.is_constant(i)]
    fed = [i for i in node.input if i and not graph.is_constant(i)]
    activations = tuple(graph.origin(i) for i in fed)
    output = next(o for o in node.output if o)
    base = Layer(
        name=node.name,
        kind="float",
        op_type=op,
        nodes=(node.name,),
        inputs=activations,
        output=output,
        input_shapes=tuple(graph.shapes[i] for i in activations),
        output_shape=graph.shapes[output],
    )
    if op in ("Conv", "Gemm") and len(fed) == 1 and len(node.input) > 1 and node.input[1] in constants:
        return _weighted(graph, node, base)
    if op == "MatMul":
        return _product(graph, node, base, constants)
    first = node.input[0] if node.input else ""
    floats = graph.types.get(node.output[0]) == onnx.TensorProto.FLOAT
    if op in _SHAPE_OPS and fed and first == fed[0] and not _fills(graph, node):
        return replace(base, kind="shape", inputs=base.inputs[:1], input_shapes=base.input_shapes[:1])
    if not floats:
        return base
    if op in _JOINS and fed:
        constant = graph.origin(constants[0]) if constants else None
        kind = _JOINS[op]
        return replace(base, kind=kind, constant=constant, params=sum(graph.size(graph.origin(c)) for c in constants))
    if op in _POOLS and len([o for o in node.output if o]) == 1:
        return replace(base, kind=_POOLS[op])
    if op in _LOOKUP_OPS and len(fed) == 1:
        return replace(base, kind="lookup")
    if op == "BatchNormalization" and len(fed) == 1:
        return replace(base, kind="scale_shift", params=sum(graph.size(graph.origin(c)) for c in constants))
    if op == "Resize" and len(fed) == 1:
        return replace(base, kind="resize")
    macs = 0
    if op == "ConvTranspose":
        weight = graph.shapes[node.input[1]]
        macs = int(np.prod(base.input_shapes[0], dtype=np.int64) * np.prod(weight[1:], dtype=np.int64))
    return replace(base, macs=macs, params=sum(graph.size(graph.origin(c)) for c in constants if _is_float(graph, c)))


def _is_float(graph: GraphView, tensor: str) -> bool:
    return graph.initializers[graph.origin(tensor)].data_type != onnx.TensorProto.INT64


def _fills(graph: GraphView, node: onnx.NodeProto) -> bool:
    """Whether a Pad adds a value other than zero, which a scale may not represent."""
    if node.op_type != "Pad" or attribute(node, "mode", "constant") != "constant":
        return False
    if len(node.input) < 3 or not node.input[2]:
        return False
    fill = graph.value_of(node.input[2])
    return fill is None or bool(fill.any())


def _weighted(graph: GraphView, node: onnx.NodeProto, base: Layer) -> Layer:
    """Conv [N, C, *] * [O, C/g, *] and Gemm [M, K] * [N, K]."""
    weight = graph.origin(node.input[1])
    bias = graph.origin(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    shape = tuple(graph.initializers[weight].dims)
    kind = "fully_connected"
    if node.op_type == "Conv":
        group = int(attribute(node, "group", 1))
        channels = base.input_shapes[0][1]
        kind = "depthwise_conv" if group == channels == shape[0] and channels > 1 else "conv"
    return replace(
        base,
        kind=kind,
        weight=weight,
        bias=bias,
        weight_shape=shape,
        params=graph.size(weight) + graph.size(bias),
        macs=int(np.prod(base.output_shape, dtype=np.int64) * np.prod(shape[1:], dtype=np.int64)),
    )


def _product(graph: GraphView, node: onnx.NodeProto, base: Layer, constants: list[str]) -> Layer:
    """MatMul [..., M, K] x [..., K, N]; with a constant [K, N] it is fully connected, an Add its bias."""
    depth = graph.shapes[node.input[0]][-1]
    macs = int(np.prod(base.output_shape, dtype=np.int64) * depth)
    right = graph.origin(node.input[1])
    if node.input[1] not in constants or len(graph.initializers[right].dims) != 2:
        held = tuple(graph.origin(c) for c in constants)
        params = sum(graph.size(c) for c in held)
        return replace(base, kind="matmul", macs=macs, params=params, constant=held[0] if held else None)
    layer = replace(
        base,
        kind="fully_connected",
        weight=right,
        weight_shape=tuple(graph.initializers[right].dims),
        macs=macs,
        params=graph.size(right),
    )
    adder = graph.only_reader(node.output[0])
    if adder is None or adder.op_type != "Add" or adder.input[0] != node.output[0]:
        return layer
    bias = graph.origin(adder.input[1])
    if bias not in graph.initializers or tuple(graph.initializers[bias].dims) != base.output_shape[-1:]:
        return layer
    return replace(
        layer,
        bias=bias,
        nodes=(node.name, adder.name),
        output=adder.output[0],
        params=layer.params + graph.size(bias),
    )


def _with_clamp(graph: GraphView, layer: Layer) -> Layer:
    """Adds the Relu or Clip that is the only reader of the layer's output."""
    if layer.kind not in _CLAMPED_KINDS:
        return layer
    node = graph.only_reader(layer.output)
    if node is None or node.op_type not in ("Relu", "Clip") or node.input[0] != layer.output:
        return layer
    if any(i and i not in graph.initializers for i in node.input[1:]):
        return layer
    return replace(layer, nodes=(*layer.nodes, node.name), output=node.output[0], activation=node.op_type)


def _judge(graph: GraphView, node: onnx.NodeProto, layer: Layer, made_by: Mapping[str, Layer]) -> Layer:
    reason = next(objections(graph, node, layer, made_by), None)
    return replace(layer, quantizable=reason is None, reason=reason)
