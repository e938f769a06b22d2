"""Groups elementwise operators into `hago.Fused` nodes, so that their intermediate results never reach memory.

A group has one output. Starting from it, a producer joins when it is elementwise, has the output's shape, and
is read only inside the group. A Dequantize or Quantize without transposition joins too, as DequantizeLinear or
QuantizeLinear, with its scale and zero point as inputs: the compiled kernel is the same for every calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...lower.graph import LoweredGraph, Node, onnx_code
from ...tensor import TensorType

Supported = Callable[[str, Sequence[str], Mapping[str, Any]], bool]
"""Whether a group may contain an operator, given the element types of its inputs and its attributes."""

_MOST_NODES = 24
_MOST_INPUTS = 12


def fuse_elementwise(lowered: LoweredGraph, supported: Supported) -> LoweredGraph:
    """The same graph with every group of at least two elementwise nodes as one node.

    Results are the same, up to the contraction of a product and a sum into a fused multiply-add.
    """
    joins = partial(_joins, lowered, supported)
    taken: set[str] = set()
    replaced: dict[str, Node] = {}
    constants: dict[str, np.ndarray] = {}
    for node in reversed(lowered.nodes):
        if node.name in taken or not joins(node):
            continue
        members = _group(lowered, node, taken, joins)
        if len(members) < 2:
            continue
        taken.update(members)
        replaced[node.name], own = _fused(lowered, node, members)
        constants |= own
    if not replaced:
        return lowered
    nodes = [replaced.get(node.name, node) for node in lowered.nodes if node.name in replaced or node.name not in taken]
    types = {name: TensorType.of(array) for name, array in constants.items()}
    return lowered.with_nodes(nodes, types, constants)


def _joins(lowered: LoweredGraph, supported: Supported, node: Node) -> bool:
    """Whether a node is elementwise and can be fused."""
    if node.is_hago("Quantize", "Dequantize"):
        perm = node.attrs.get("perm")
        return not perm or list(perm) == sorted(perm)
    if not node.is_onnx() or len(node.outputs) != 1:
        return False
    dtypes = [lowered.types[name].dtype if name else "" for name in node.inputs]
    return bool(dtypes) and supported(node.op, dtypes, node.attrs)


def _group(lowered: LoweredGraph, sink: Node, taken: Iterable[str], joins: Callable[[Node], bool]) -> dict[str, Node]:
    """Node name -> node, for all nodes that can be computed in the loop that makes ``sink``'s output."""
    shape = lowered.types[sink.outputs[0]].shape
    members = {sink.name: sink}
    waiting = list(sink.inputs)
    while waiting:
        tensor = waiting.pop()
        producer = lowered.producers.get(tensor)
        if producer is None or producer.name in members or producer.name in taken or tensor in lowered.outputs:
            continue
        alone = all(reader.name in members for reader in lowered.consumers[tensor])
        if not alone or lowered.types[tensor].shape != shape or not joins(producer):
            continue
        if len(members) == _MOST_NODES or _width(lowered, members, producer) > _MOST_INPUTS:
            continue
        members[producer.name] = producer
        # A tensor that was read outside the group before may be read only inside it now.
        waiting += [name for member in members.values() for name in member.inputs if name]
    return members


def _width(lowered: LoweredGraph, members: Mapping[str, Node], more: Node) -> int:
    """The number of tensors that the group would read with one more node."""
    nodes = [*members.values(), more]
    made = {name for node in nodes for name in node.outputs}
    read = {name for node in nodes for name in node.inputs if name} - made
    return sum(1 for name in read if not _is_number(lowered, name))


def _is_number(lowered: LoweredGraph, name: str) -> bool:
    """Whether the tensor is a constant of one element, which becomes part of the code."""
    value = lowered.constants.get(name)
    return value is not None and value.size == 1 and value.dtype.name != "bfloat16"


@dataclass
class _Graph:
    """A body under construction."""

    inputs: list[str] = field(default_factory=list)
    infos: list[onnx.ValueInfoProto] = field(default_factory=list)
    scalars: dict[str, onnx.TensorProto] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def read(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        if name not in self.inputs:
            self.inputs.append(name)
            self.infos.append(helper.make_tensor_value_info(name, onnx_code(dtype), shape))

    def number(self, name: str, value: np.ndarray) -> str:
        """A new input of the node that holds one number."""
        self.constants[name] = value.reshape(1)
        self.read(name, value.dtype.name, (1,))
        return name


def _fused(lowered: LoweredGraph, sink: Node, members: Mapping[str, Node]) -> tuple[Node, dict[str, np.ndarray]]:
    made = {name for node in members.values() for name in node.outputs}
    graph = _Graph()
    for node in lowered.nodes:
        if node.name not in members:
            continue
        for name in node.inputs:
            if not name or name in made or name in graph.scalars:
                continue
            if _is_number(lowered, name):
                value = lowered.constants[name]
                graph.scalars[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
            else:
                graph.read(name, lowered.types[name].dtype, lowered.types[name].shape)
        if node.is_hago():
            _add_conversion(graph, node)
        else:
            attrs = {key: value for key, value in node.attrs.items()}
            graph.nodes.append(helper.make_node(node.op, node.inputs, node.outputs, node.name, **attrs))
    y = lowered.types[sink.outputs[0]]
    output = helper.make_tensor_value_info(sink.outputs[0], onnx_code(y.dtype), y.shape)
    body = helper.make_graph(graph.nodes, "body", graph.infos, [output], list(graph.scalars.values()))
    node = Node(f"{sink.name}_fused", "Fused", "hago", tuple(graph.inputs), sink.outputs, {"body": body}, sink.layer)
    return node, graph.constants


def _add_conversion(graph: _Graph, node: Node) -> None:
    """Adds a Quantize or Dequantize as standard operators that read scale, zero point and bounds as inputs."""
    scale = graph.number(f"{node.name}_scale", np.array(node.attrs["scale"], np.float32))
    zero = graph.number(f"{node.name}_zero", np.array(node.attrs["zero_point"], np.uint8))
    (x,), (y,) = node.inputs, node.outputs
    if node.op == "Dequantize":
        graph.nodes.append(helper.make_node("DequantizeLinear", [x, scale, zero], [y], node.name))
        return
    low, high = int(node.attrs.get("lo", 0)), int(node.attrs.get("hi", 255))
    if (low, high) == (0, 255):
        graph.nodes.append(helper.make_node("QuantizeLinear", [x, scale, zero], [y], node.name))
        return
    whole = f"{y}_unclamped"
    graph.nodes.append(helper.make_node("QuantizeLinear", [x, scale, zero], [whole], node.name))
    least = graph.number(f"{node.name}_lo", np.array(low, np.uint8))
    most = graph.number(f"{node.name}_hi", np.array(high, np.uint8))
    graph.nodes.append(helper.make_node("Max", [whole, least], [f"{whole}_up"], f"{node.name}_max"))
    graph.nodes.append(helper.make_node("Min", [f"{whole}_up", most], [y], f"{node.name}_min"))
