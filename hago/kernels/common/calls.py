"""What a kernel is: a template, its parameters, and the call that a node of the lowered graph becomes.

A template is a function ``(params, family, threads) -> PrimFunc``: ``params`` is a frozen dataclass, ``family`` what
the template must know about the hardware (on processors an `Isa`). The PrimFunc takes its input buffers and then its
output buffers (destination-passing style), all row-major and static; no two may overlap. ``threads`` is the number of
chunks that a parallel loop is cut into; with 1 there is no parallel loop at all.

An *emitter* turns one node of the lowered graph into the `KernelCall`s that compute it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...errors import BuildError
from ...tensor import TensorType

Template = Callable[[Any, Any, int], Any]


def stored(tensor: TensorType) -> TensorType:
    """The type in memory: bfloat16 is stored as its bits, because TVM's code generation does not preserve it."""
    return replace(tensor, dtype="uint16") if tensor.dtype == "bfloat16" else tensor


def stored_array(array: np.ndarray) -> np.ndarray:
    """The array as memory holds it, see `stored`."""
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


def item_bytes(dtype: str) -> int:
    """Bytes of one element."""
    return {"bool": 1, "bfloat16": 2}.get(dtype) or np.dtype(dtype).itemsize


@dataclass(frozen=True)
class KernelCall:
    """One call of one kernel.

    ``params`` is a frozen dataclass whose ``repr`` contains everything that the code depends on: it is
    the cache key. ``inputs`` are names of tensors, or arrays that become constants of the artifact
    (packed weights, scales). ``outputs`` name tensors; those that are not tensors of the lowered
    graph are temporaries, whose types are in ``temporaries``. ``alternatives`` are other params with which the template
    computes the same from the same arrays; a measurement may find one of them faster.
    """

    family: str
    params: Any
    template: Template
    inputs: tuple[str | np.ndarray, ...]
    outputs: tuple[str, ...]
    layer: str | None = None
    temporaries: Mapping[str, TensorType] = field(default_factory=dict)
    alternatives: tuple[Any, ...] = ()


@dataclass(frozen=True)
class NodeView:
    """A node of the lowered graph as an emitter sees it: with ONNX's types, not those of memory (`stored`)."""

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    types: Mapping[str, TensorType]
    constants: Mapping[str, np.ndarray]
    layer: str | None = None

    def type(self, name: str) -> TensorType:
        """Element type and shape of a tensor of this node."""
        return self.types[name]

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a constant input, or None if it is computed at run time."""
        return self.constants.get(name)


def known(node: NodeView, index: int, what: str) -> np.ndarray | None:
    """The value of an optional input, which must be a constant; None if it is absent. Raises BuildError."""
    name = node.inputs[index] if index < len(node.inputs) else ""
    if not name:
        return None
    value = node.constant(name)
    if value is None:
        raise BuildError(
            f"{what} of {node.op} must be a constant, but {name!r} is computed at run time",
            where=node.name,
            hint="simplify the model first: its shapes must not depend on its input",
        )
    return np.asarray(value)


Emitter = Callable[[NodeView, Any], Sequence[KernelCall]]
