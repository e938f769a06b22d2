"""The lowered graph as plain values, and as an ONNX file.

A lowered graph is a list of nodes in topological order over named tensors with static types. Nodes
of the domain ``hago`` are described in `hago.lower.ops`, all others are standard ONNX operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import ModelError
from ..tensor import TensorType, dtype_name

DOMAIN = "hago"

_DTYPES: dict[int, np.dtype] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.UINT8: np.dtype(np.uint8),
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.UINT16: np.dtype(np.uint16),
    TensorProto.INT16: np.dtype(np.int16),
    TensorProto.INT32: np.dtype(np.int32),
    TensorProto.INT64: np.dtype(np.int64),
    TensorProto.BOOL: np.dtype(np.bool_),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.UINT32: np.dtype(np.uint32),
    TensorProto.UINT64: np.dtype(np.uint64),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
_CODES = {dtype.name: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Node:
    """One node. ``""`` marks an absent optional input; ``layer`` names the model's layer."""

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    layer: str | None = None

    def is_hago(self, *ops: str) -> bool:
        """Whether this is a node of the domain ``hago`` (and one of ``ops``, where given)."""
        return self.domain == DOMAIN and (not ops or self.op in ops)

    def is_onnx(self, *ops: str) -> bool:
        """Whether this is a standard ONNX node (and one of ``ops``, where given)."""
        return self.domain == "" and (not ops or self.op in ops)

    def input(self, index: int) -> str:
        """The name of an input, ``""`` where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""


@dataclass(frozen=True)
class LoweredGraph:
    """A lowered graph. ``types`` covers every tensor, ``constants`` holds the constant ones.

    Constants may be views with any strides (a transposed weight is not copied): code that needs
    contiguous memory makes it. Treat everything in here as read-only.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    types: Mapping[str, TensorType]
    constants: Mapping[str, np.ndarray]
    name: str = "lowered"
    opset: int = 21

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """Tensor -> the node that makes it; graph inputs and constants have none."""
        return {output: node for node in self.nodes for output in node.outputs if output}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """Tensor -> the nodes that read it, a node as often as it reads it."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                if name:
                    readers.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in readers.items()}

    def sole_consumer(self, tensor: str) -> Node | None:
        """The only node that reads ``tensor``, or None: also where it is an output of the graph."""
        readers = self.consumers.get(tensor, ())
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def with_nodes(
        self,
        nodes: Sequence[Node],
        types: Mapping[str, TensorType] | None = None,
        constants: Mapping[str, np.ndarray] | None = None,
    ) -> LoweredGraph:
        """The same graph with other nodes; new tensors and constants are added to the old ones.

        Nodes, constants and types that no output depends on are dropped.
        """
        all_types = {**self.types, **(types or {})}
        all_constants = {**self.constants, **(constants or {})}
        live = set(self.outputs)
        kept: list[Node] = []
        for node in reversed(nodes):
            if any(output in live for output in node.outputs):
                kept.append(node)
                live.update(node.inputs)
        kept.reverse()
        live.update(self.inputs)
        for node in kept:
            live.update(node.outputs)
        live.discard("")
        return LoweredGraph(
            tuple(kept),
            self.inputs,
            self.outputs,
            {name: type_ for name, type_ in all_types.items() if name in live},
            {name: array for name, array in all_constants.items() if name in live},
            self.name,
            self.opset,
        )

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """The same graph as an ONNX model (built at the first use): for viewing, and for the reference."""
        graph = onnx.GraphProto(name=self.name)
        for node in self.nodes:
            graph.node.append(_node_proto(node))
        for name, array in self.constants.items():
            graph.initializer.append(_tensor_proto(array, name))
        for name in self.inputs:
            graph.input.append(_value_info(name, self.types[name]))
        for name in self.outputs:
            graph.output.append(_value_info(name, self.types[name]))
        named = {*self.inputs, *self.outputs, *self.constants}
        for name, type_ in self.types.items():
            if name not in named:
                graph.value_info.append(_value_info(name, type_))
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=opsets, producer_name="hago", ir_version=10)

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto) -> LoweredGraph:
        """Reads what `proto` wrote. Raises ModelError for a tensor without a static type."""
        graph = proto.graph
        constants = {tensor.name: array_of(tensor) for tensor in graph.initializer}
        types = {name: TensorType.of(array) for name, array in constants.items()}
        for info in (*graph.value_info, *graph.input, *graph.output):
            types[info.name] = type_of(info)
        nodes = []
        for item in graph.node:
            attrs = {a.name: attribute_value(a) for a in item.attribute}
            layer = attrs.pop("layer", None) if item.domain == DOMAIN else _layer_of(item)
            nodes.append(
                Node(item.name, item.op_type, item.domain, tuple(item.input), tuple(item.output), attrs, layer)
            )
        opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 21)
        inputs = tuple(i.name for i in graph.input if i.name not in constants)
        outputs = tuple(o.name for o in graph.output)
        return cls(tuple(nodes), inputs, outputs, types, constants, graph.name, opset)


def attribute_value(attribute: onnx.AttributeProto) -> Any:
    """The value of an attribute: int, float, str, list of them, ndarray, or GraphProto."""
    kind = attribute.type
    if kind == onnx.AttributeProto.INT:
        return attribute.i
    if kind == onnx.AttributeProto.FLOAT:
        return attribute.f
    if kind == onnx.AttributeProto.INTS:
        return tuple(attribute.ints)
    if kind == onnx.AttributeProto.STRING:
        return attribute.s.decode()
    if kind == onnx.AttributeProto.FLOATS:
        return tuple(attribute.floats)
    if kind == onnx.AttributeProto.TENSOR:
        return array_of(attribute.t)
    if kind == onnx.AttributeProto.STRINGS:
        return tuple(s.decode() for s in attribute.strings)
    return helper.get_attribute_value(attribute)


def array_of(tensor: onnx.TensorProto) -> np.ndarray:
    """The value of a tensor, without a second copy if the bytes are inside the message."""
    dtype = _DTYPES.get(tensor.data_type)
    # HasField costs less than a copy of raw_data, and EXTERNAL data has none.
    if dtype is not None and tensor.HasField("raw_data") and tensor.data_location == TensorProto.DEFAULT:
        return np.frombuffer(tensor.raw_data, dtype).reshape(tuple(tensor.dims))
    return numpy_helper.to_array(tensor)


def type_of(info: onnx.ValueInfoProto) -> TensorType:
    """The static type of a tensor; raises ModelError if a dimension is unknown."""
    tensor = info.type.tensor_type
    dtype = _DTYPES.get(tensor.elem_type)
    dims = tensor.shape.dim
    if dtype is None or not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in dims):
        raise ModelError(
            "every tensor must have a known element type and a static shape",
            where=f"tensor {info.name!r}",
            hint="load the model through hago.model.load_model(path, batch=...)",
        )
    return TensorType(dtype_name(dtype), tuple(d.dim_value for d in dims))


def onnx_code(name: str) -> int:
    """The TensorProto code of a `TensorType.dtype`."""
    return _CODES[name]


def code_dtype(code: int) -> str:
    """The `TensorType.dtype` of a TensorProto code."""
    return dtype_name(_DTYPES[code])


def _layer_of(item: onnx.NodeProto) -> str | None:
    return next((p.value for p in item.metadata_props if p.key == "hago.layer"), None)


def _node_proto(node: Node) -> onnx.NodeProto:
    attrs = {key: _attribute(value) for key, value in node.attrs.items()}
    if node.layer is not None and node.domain == DOMAIN:
        attrs["layer"] = node.layer
    item = helper.make_node(node.op, node.inputs, node.outputs, node.name, domain=node.domain)
    for key, value in attrs.items():
        kind = onnx.AttributeProto.INTS if isinstance(value, tuple) and not value else None
        item.attribute.append(helper.make_attribute(key, value, attr_type=kind))
    if node.layer is not None and node.domain != DOMAIN:
        entry = item.metadata_props.add()
        entry.key, entry.value = "hago.layer", node.layer
    return item


def _attribute(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return numpy_helper.from_array(value)
    return value.item() if isinstance(value, np.generic) else value


def _tensor_proto(array: np.ndarray, name: str) -> onnx.TensorProto:
    proto = onnx.TensorProto(name=name, data_type=_CODES[dtype_name(array.dtype)], dims=array.shape)
    proto.raw_data = np.ascontiguousarray(array).tobytes()
    return proto


def _value_info(name: str, type_: TensorType) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _CODES[type_.dtype], type_.shape)
