"""Collects the nodes, types and constants of a graph under construction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..tensor import TensorType
from .graph import DOMAIN, LoweredGraph, Node


class GraphBuilder:
    """Appends nodes in topological order; names of tensors and nodes are made unique here."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.nodes: list[Node] = []
        self.types: dict[str, TensorType] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.layer: str | None = None
        """The layer of nodes that are emitted without one: that of the node that needs them."""
        self._taken = set(taken)
        self._node_names: set[str] = set()
        self._same: dict[tuple[Any, ...], str] = {}

    def fresh(self, hint: str) -> str:
        """An unused tensor name: ``hint``, or ``hint`` with a number."""
        name, number = hint, 0
        while name in self._taken or not name:
            number += 1
            name = f"{hint}_{number}"
        self._taken.add(name)
        return name

    def constant(self, array: np.ndarray, hint: str) -> str:
        """A new constant of that value."""
        name = self.fresh(hint)
        self.constants[name] = array
        self.types[name] = TensorType.of(array)
        return name

    def shared_constant(self, array: np.ndarray, hint: str) -> str:
        """A constant of that value; equal small constants are one."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._same:
            self._same[key] = self.constant(array, hint)
        return self._same[key]

    def add(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: Sequence[tuple[str, TensorType]],
        *,
        name: str,
        attrs: Mapping[str, Any] | None = None,
        layer: str | None = None,
        domain: str = "",
    ) -> Node:
        """Appends a node; ``outputs`` are (name, type), each name already `fresh`."""
        unique, number = name, 0
        while unique in self._node_names or not unique:
            number += 1
            unique = f"{name or op}_{number}"
        self._node_names.add(unique)
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        node = Node(
            unique,
            op,
            domain,
            tuple(inputs),
            tuple(name for name, _ in outputs),
            dict(attrs or {}),
            layer or self.layer,
        )
        self.nodes.append(node)
        for output, type_ in outputs:
            if output:
                self.types[output] = type_
        return node

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        type_: TensorType,
        *,
        hint: str,
        name: str,
        attrs: Mapping[str, Any] | None = None,
        layer: str | None = None,
        domain: str = DOMAIN,
    ) -> str:
        """Appends a node with one output, whose name, a fresh one like ``hint``, is returned."""
        output = self.fresh(hint)
        self.add(op, inputs, [(output, type_)], name=name, attrs=attrs, layer=layer, domain=domain)
        return output

    def finish(self, inputs: Sequence[str], outputs: Sequence[str], name: str, opset: int) -> LoweredGraph:
        """The graph so far, without anything that no output depends on."""
        graph = LoweredGraph((), tuple(inputs), tuple(outputs), self.types, self.constants, name, opset)
        return graph.with_nodes(self.nodes)
