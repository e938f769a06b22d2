"""Small, safe edits of an ONNX graph (``onnx_ir``), which all rewrites are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

STANDARD_DOMAINS = ("", "ai.onnx")
QUANTIZE_OPS = ("QuantizeLinear", "DequantizeLinear")
CONTROL_FLOW_OPS = ("If", "Loop", "Scan")


def dims(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a tensor as integers, or None if it is not (fully) known."""
    if value is None:
        return None
    if value.const_value is not None:
        return tuple(value.const_value.shape.numpy())
    if value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(d) for d in value.shape.numpy())


def attr_int(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute of a node, or the default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def attr_float(node: ir.Node, name: str, default: float) -> float:
    """A float attribute of a node, or the default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def attr_string(node: ir.Node, name: str, default: str) -> str:
    """A text attribute of a node, or the default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def attr_ints(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """A list of integers of a node, or None."""
    attribute = node.attributes.get(name)
    return None if attribute is None else tuple(attribute.as_ints())


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer; None for a tensor that is computed or fed."""
    if value is None or value.const_value is None or value.producer() is not None:
        return None
    return value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The number in a one-element floating-point or integer initializer, else None."""
    array = constant(value)
    return None if array is None or array.size != 1 else float(array.reshape(()))


def dtype_of(value: ir.Value) -> ir.DataType | None:
    """The element type of a value, or None."""
    return value.dtype if value.dtype is not None else value.const_value.dtype if value.const_value else None


def is_float(value: ir.Value | None) -> bool:
    """Whether a value is of float32."""
    return value is not None and dtype_of(value) == ir.DataType.FLOAT


class Editor:
    """One graph being edited. ``changed`` counts the edits, so that passes can run until there are no more."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.changed = 0
        self._made: set[ir.Value] = set()
        self.values = {v.name for v in graph.inputs} | set(graph.initializers)
        self.values |= {v.name for n in graph.all_nodes() for v in n.outputs}
        self.names = {n.name for n in graph.all_nodes()}

    def nodes(self, *op_types: str) -> list[ir.Node]:
        """The current nodes in order: skip those that a later edit removes (``graph is None``)."""
        return [n for n in self.graph if not op_types or (n.op_type in op_types and n.domain == "")]

    def fresh(self, hint: str, taken: set) -> str:
        """``hint``, or the first of ``hint_1``, ``hint_2`` ... that is not in ``taken``, to which it is added."""
        name, i = hint, 0
        while name in taken:
            i += 1
            name = f"{hint}_{i}"
        taken.add(name)
        return name

    def initializer(self, array: np.ndarray, hint: str) -> ir.Value:
        """Adds a constant; its name starts with ``hint``."""
        name = self.fresh(hint, self.values)
        tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        like: ir.Node,
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        shape: Sequence[int] | None = None,
        after: bool = False,
    ) -> ir.Value:
        """Adds a node beside ``like`` (before it, or after it) and returns its one output.

        ``name`` defaults to the name of ``like``, which the new node then takes over.
        The output is float32 unless shape inference says otherwise later.
        """
        node_name = (like.name or op_type) if name is None else self.fresh(name, self.names)
        output = ir.Value(
            name=self.fresh(f"{node_name}_out", self.values),
            shape=None if shape is None else ir.Shape(shape),
            type=ir.TensorType(ir.DataType.FLOAT) if shape is not None else None,
        )
        attrs = ir.convenience.convert_attributes(attributes or {})
        new = ir.Node("", op_type, inputs, attrs, outputs=[output], name=node_name)
        (self.graph.insert_after if after else self.graph.insert_before)(like, new)
        self.changed += 1
        self._made.add(output)
        return output

    def sole_consumer(self, value: ir.Value) -> ir.Node | None:
        """The one node that reads ``value`` (once), if nothing else does and it is not an output of the graph."""
        uses = list(value.uses())
        if len(uses) != 1 or value.is_graph_output():
            return None
        node = uses[0].node
        return node if node.graph is self.graph else None

    def forward(self, old: ir.Value, new: ir.Value) -> bool:
        """Makes every reader of ``old`` read ``new``; removes dead nodes. False if that is impossible.

        The names of graph outputs are fixed, so an output that would become an input, a constant
        or a second output of the graph is left alone.
        """
        if old.is_graph_output():
            if new.producer() is None or new.is_graph_output() or new.graph is not self.graph:
                return False
            name = old.name
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            old.name = self.fresh(f"{name}_before", self.values)
            new.name = name
        else:
            old.replace_all_uses_with(new)
            if new in self._made and new.name is not None and old.name is not None:
                # A tensor that replaces another takes its name: reports use the source's names.
                new.name, old.name = old.name, new.name
        self.changed += 1
        self._made.discard(new)
        producer = old.producer()
        if producer is not None:
            self.discard(producer)
        return True

    def discard(self, node: ir.Node) -> None:
        """Removes ``node`` if nothing reads it, and then whatever only fed it."""
        stack = [node]
        while stack:
            dead = stack.pop()
            if dead.graph is not self.graph:
                continue
            if any(v.uses() or v.is_graph_output() for v in dead.outputs):
                continue
            feeders = [v.producer() for v in dead.inputs if v is not None]
            self.graph.remove(dead, safe=True)
            self.changed += 1
            stack.extend(f for f in feeders if f is not None)

    def set_input(self, node: ir.Node, index: int, value: ir.Value | None) -> None:
        """Makes input ``index`` of ``node`` read ``value`` (extending the list of inputs if necessary)."""
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        before = node.inputs[index]
        if before is value:
            return
        node.replace_input_with(index, value)
        self.changed += 1
        producer = before.producer() if before is not None else None
        if producer is not None:
            self.discard(producer)

    def set_attributes(self, node: ir.Node, **attributes: Any) -> None:
        """Sets attributes that differ; None removes one."""
        for name, wanted in attributes.items():
            present = node.attributes.get(name)
            if wanted is None:
                if present is not None:
                    del node.attributes[name]
                    self.changed += 1
                continue
            value = list(wanted) if isinstance(wanted, tuple) else wanted
            held = None if present is None else present.value
            if isinstance(value, list) and held is not None:
                held = list(held)
            if held != value:
                node.attributes[name] = ir.convenience.convert_attribute(name, value)
                self.changed += 1

    def drop_unused_initializers(self) -> None:
        """Removes initializers that nothing reads."""
        outputs = {id(v) for v in self.graph.outputs}
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and id(value) not in outputs:
                del self.graph.initializers[name]
