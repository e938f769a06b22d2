"""Look-ups in a normalized ONNX graph that look through quantize, dequantize and casts to short floats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from ..precision import SHORT_FLOATS

_SHORT_FLOATS = frozenset(onnx.TensorProto.DataType.Value(name.upper()) for name in SHORT_FLOATS)


class GraphView:
    """Look-ups in a normalized ONNX graph."""

    def __init__(self, proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], quantized: bool) -> None:
        graph = proto.graph
        self.nodes: Sequence[onnx.NodeProto] = graph.node
        self.shapes = shapes
        self.quantized = quantized
        self.initializers = {t.name: t for t in graph.initializer}
        self.inputs = {i.name for i in graph.input}
        self.outputs = {o.name for o in graph.output}
        self.producer = {o: n for n in graph.node for o in n.output if o}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                if name:
                    self.readers.setdefault(name, []).append(node)
        self.types = {v.name: v.type.tensor_type.elem_type for v in [*graph.value_info, *graph.input, *graph.output]}

    def is_wrapper(self, node: onnx.NodeProto) -> bool:
        """Whether it is Quantize, Dequantize, a cast that marks a short float, or the Clip before a cast to float16."""
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return True
        if node.op_type == "Clip":
            reader = self.only_reader(node.output[0])
            highest = self.value_of(node.input[2]) if len(node.input) > 2 else None
            return reader is not None and reader.op_type == "Cast" and highest == np.finfo(np.float16).max
        if node.op_type == "Cast" and (node.input[0] in self.inputs or node.output[0] in self.outputs):
            return False  # the type of the model's own inputs and outputs
        types = {self.types.get(node.input[0]), self.types.get(node.output[0])} if node.op_type == "Cast" else set()
        if node.op_type == "Cast" and node.input[0] in self.initializers:
            types.add(self.initializers[node.input[0]].data_type)
        return not types.isdisjoint(_SHORT_FLOATS)

    def origin(self, tensor: str) -> str:
        """The tensor behind any quantize, dequantize and casts to short floats."""
        while (node := self.producer.get(tensor)) is not None and self.is_wrapper(node):
            tensor = node.input[0]
        return tensor

    def is_constant(self, tensor: str) -> bool:
        """Whether it is an initializer, possibly dequantized."""
        return self.origin(tensor) in self.initializers

    def only_reader(self, tensor: str) -> onnx.NodeProto | None:
        """Its only reader; None if there are several, or if it is an output."""
        readers = self.readers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def value_of(self, tensor: str) -> np.ndarray | None:
        """A constant as an array (up to a scale if it is stored quantized); None if it is computed."""
        held = self.initializers.get(tensor)
        if held is not None:
            return onnx.numpy_helper.to_array(held)
        node = self.producer.get(tensor)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        parts = [self.initializers.get(name) for name in (node.input[0], *node.input[2:3])]
        if any(part is None for part in parts):
            return None
        stored, *zero = [onnx.numpy_helper.to_array(p).astype(np.int64) for p in parts if p is not None]
        return stored - zero[0] if zero else stored

    def size(self, tensor: str | None) -> int:
        """The elements of a constant; 0 for None."""
        return 0 if tensor is None else int(np.prod(self.initializers[tensor].dims, dtype=np.int64))


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute (bytes decoded), or ``default``."""
    for item in node.attribute:
        if item.name == name:
            value = onnx.helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default
