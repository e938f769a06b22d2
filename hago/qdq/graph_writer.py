"""Building blocks of the QDQ graph: named nodes, initializers and types, each added once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYER_KEY = "hago.layer"
"""Node metadata: the name of the layer that the node belongs to."""


class GraphWriter:
    """Appends to a GraphProto. New names differ from all that the model uses."""

    def __init__(self, graph: onnx.GraphProto, taken: frozenset[str]) -> None:
        self.graph = graph
        self._taken = taken
        self._used: set[str] = set()
        self._initializers: dict[Any, str] = {}

    def unique(self, wanted: str) -> str:
        """``wanted``, or the first of ``wanted_2``, ``wanted_3`` ... that is free."""
        name, count = wanted, 1
        while name in self._taken or name in self._used:
            count += 1
            name = f"{wanted}_{count}"
        self._used.add(name)
        return name

    def keep_node(self, node: onnx.NodeProto, inputs: Sequence[str], layer: str | None) -> onnx.NodeProto:
        """Copies a node of the model with other inputs; returns the copy."""
        added = self.graph.node.add()
        added.CopyFrom(node)
        if list(inputs) != list(node.input):
            del added.input[:]
            added.input.extend(inputs)
        if layer is not None and all(entry.key != LAYER_KEY for entry in added.metadata_props):
            added.metadata_props.add(key=LAYER_KEY, value=layer)
        return added

    def add_node(
        self,
        op_type: str,
        inputs: Sequence[str],
        output: str,
        layer: str,
        attributes: dict[str, Any] | None = None,
    ) -> None:
        """Appends a node of ``layer``, named after its output."""
        node = self.graph.node.add()
        node.op_type = op_type
        node.name = self.unique(f"{output}_{op_type}")
        node.input.extend(inputs)
        node.output.append(output)
        for key, value in (attributes or {}).items():
            node.attribute.append(helper.make_attribute(key, value))
        node.metadata_props.add(key=LAYER_KEY, value=layer)

    def add_type(self, name: str, elem_type: int, shape: Sequence[int]) -> None:
        """Adds the element type and shape of a tensor."""
        value = self.graph.value_info.add()
        value.name = name
        value.type.tensor_type.elem_type = elem_type
        dims = value.type.tensor_type.shape
        dims.SetInParent()  # a scalar has a shape, with no dimensions
        for size in shape:
            dims.dim.add().dim_value = size

    def keep_initializer(self, tensor: TensorProto) -> str:
        """Copies an initializer of the model, once; returns its name."""
        if ("kept", tensor.name) not in self._initializers:
            self._initializers["kept", tensor.name] = tensor.name
            self.graph.initializer.append(tensor)
        return tensor.name

    def add_initializer(self, key: Any, wanted: str, value: np.ndarray | TensorProto) -> str:
        """Adds a constant, once per ``key``; returns its name."""
        if key not in self._initializers:
            name = self.unique(wanted)
            proto = value if isinstance(value, TensorProto) else numpy_helper.from_array(value)
            self.graph.initializer.append(proto)
            self.graph.initializer[-1].name = name
            self._initializers[key] = name
        return self._initializers[key]
