"""What quantization must know about a model's graph, gathered once: producer and readers of each tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

if TYPE_CHECKING:
    from ..model import Layer, Model


class GraphIndex:
    """Read-only maps over the layers, nodes and tensors of one normalized model.

    ``producer`` tensor -> layer that makes it; ``consumers`` tensor -> layers that read it, in order,
    with None for a node that belongs to no layer; ``bounds`` tensor -> (lo, hi) forced by a folded
    Relu or Clip.
    """

    def __init__(self, model: Model) -> None:
        graph = model.proto.graph
        self.layers: tuple[Layer, ...] = model.layers
        self.nodes: dict[str, onnx.NodeProto] = {node.name: node for node in graph.node}
        self.initializers: dict[str, TensorProto] = {t.name: t for t in graph.initializer}
        self.outputs = frozenset(value.name for value in graph.output)
        self.elem_types = {
            value.name: value.type.tensor_type.elem_type
            for values in (graph.input, graph.value_info, graph.output)
            for value in values
        }
        self.layer_of_node = {name: layer for layer in self.layers for name in layer.nodes}
        self.producer: dict[str, Layer] = {}
        self.consumers: dict[str, list[Layer | None]] = {}
        self.layer_outputs: dict[str, tuple[str, ...]] = {}
        for node in graph.node:
            owner = self.layer_of_node.get(node.name)
            if owner is not None:
                self.producer.update({name: owner for name in node.output if name})
            for name in filter(None, node.input):
                readers = self.consumers.setdefault(name, [])
                if owner is None or owner not in readers:
                    readers.append(owner)
        for layer in self.layers:
            made = [name for n in layer.nodes for name in self.nodes[n].output if name]
            inside = {name for n in layer.nodes for name in self.nodes[n].input}
            self.layer_outputs[layer.name] = tuple(name for name in made if name not in inside or name == layer.output)
        self.bounds = {layer.output: bound for layer in self.layers if (bound := self._bound_of(layer))}

    def is_float(self, tensor: str) -> bool:
        """Whether the tensor is a float32 activation."""
        return tensor not in self.initializers and self.elem_types.get(tensor) == TensorProto.FLOAT

    def constant(self, tensor: str) -> np.ndarray | None:
        """The value of an initializer, or None."""
        proto = self.initializers.get(tensor)
        return None if proto is None else numpy_helper.to_array(proto)

    def activations(self, layer: Layer) -> tuple[str, ...]:
        """The float activations that the layer reads, each once."""
        return tuple(dict.fromkeys(t for t in layer.inputs if self.is_float(t)))

    def moved_tensor(self, layer: Layer) -> str | None:
        """The float tensor whose elements the layer moves unchanged, or None.

        It may add zeros, which every integer type represents.
        """
        return layer.inputs[0] if layer.kind == "shape" and self.is_float(layer.inputs[0]) else None

    def keeps_range(self, layer: Layer) -> bool:
        """Whether the layer's outputs are some of its input's values, or lie between them."""
        if layer.kind == "max_pool":
            return True
        if layer.kind == "resize":
            node = self.nodes[layer.nodes[0]]
            mode = next((a.s for a in node.attribute if a.name == "mode"), b"nearest")
            return mode in (b"nearest", b"linear")
        return self.moved_tensor(layer) is not None

    def _bound_of(self, layer: Layer) -> tuple[float, float] | None:
        if layer.activation not in ("Relu", "Clip") or not layer.nodes:
            return None
        node = next((self.nodes[n] for n in layer.nodes if layer.output in self.nodes[n].output), None)
        if node is None or node.op_type not in ("Relu", "Clip"):
            return None
        if node.op_type == "Relu":
            return 0.0, np.inf
        limits = [self.constant(n) if n else None for n in list(node.input[1:3])]
        lo, hi = (*limits, None, None)[:2]
        return (-np.inf if lo is None else float(lo)), (np.inf if hi is None else float(hi))
