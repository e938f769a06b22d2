"""Elementwise operators as one body, on any target: any number of them, computed for each element of the output.

`Fused` is the node that `hago.kernels.common.fusion` makes; its body is a graph of standard ONNX operators. A single
elementwise operator is a body of one. Numbers in the body are part of the code; constants that are inputs of
the node (quantization scales) are not. Inputs broadcast to the output's shape as in numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from ...errors import UnsupportedOpError
from ...tensor import TensorType
from .calls import NodeView
from .elements import ONNX_DTYPES, Vec, constant, named
from .elementwise_ops import OPS, heavy

_SMALL = frozenset({"int8", "uint8", "int16", "uint16"})
"""What C computes with as int: a name cuts off the bits that the type does not have."""


@dataclass(frozen=True)
class FusedStep:
    """One operator of a body. ``inputs`` number values: the body's inputs, its scalars, its steps; -1 is absent."""

    op: str
    inputs: tuple[int, ...]
    attrs: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Body:
    """What a fused kernel computes; the last step is its output."""

    inputs: tuple[TensorType, ...]
    scalars: tuple[tuple[str, float | int], ...]
    steps: tuple[FusedStep, ...]
    y: TensorType

    @property
    def is_costly(self) -> bool:
        """Whether it has elementary functions."""
        return any(heavy(step.op) for step in self.steps)

    @property
    def cost(self) -> int:
        """Operations for one element, roughly."""
        return sum(16 if heavy(step.op) else 1 for step in self.steps)

    def before_last(self, given: Sequence[Vec], lanes: int) -> list[Any]:
        """What the last step takes, from the values [lanes] of the inputs."""
        values: list[Vec] = [*given, *(constant(value, dtype, lanes) for dtype, value in self.scalars)]
        uses = [index for step in self.steps for index in step.inputs]
        *steps, last = self.steps
        for step in steps:
            taken: list[Any] = [values[i] if i >= 0 else None for i in step.inputs]
            result = OPS[step.op](taken, dict(step.attrs))
            again = uses.count(len(values)) > 1
            values.append(named(result) if again or result.dtype in _SMALL else result)
        return [values[i] if i >= 0 else None for i in last.inputs]

    def compute(self, given: Sequence[Vec], lanes: int) -> Vec:
        """The output's values [lanes], from those of the inputs."""
        last = self.steps[-1]
        return OPS[last.op](self.before_last(given, lanes), dict(last.attrs))


def fused_body(node: NodeView) -> Body:
    """The body of a Fused node; its inputs are the node's."""
    graph: onnx.GraphProto = node.attrs["body"]
    numbers: dict[str, int] = {"": -1}
    inputs: list[TensorType] = []
    for name, info in zip(node.inputs, graph.input, strict=True):
        dtype = ONNX_DTYPES[info.type.tensor_type.elem_type]
        numbers[info.name] = len(inputs)
        inputs.append(TensorType(dtype, node.type(name).shape))
    scalars: list[tuple[str, float | int]] = []
    for tensor in graph.initializer:
        numbers[tensor.name] = len(inputs) + len(scalars)
        scalars.append((ONNX_DTYPES[tensor.data_type], _number(numpy_helper.to_array(tensor))))
    steps: list[FusedStep] = []
    for item in graph.node:
        attrs = tuple(sorted((a.name, onnx.helper.get_attribute_value(a)) for a in item.attribute))
        steps.append(FusedStep(item.op_type, tuple(numbers[name] for name in item.input), _plain(attrs)))
        numbers[item.output[0]] = len(inputs) + len(scalars) + len(steps) - 1
    dtype = ONNX_DTYPES[graph.output[0].type.tensor_type.elem_type]
    y = TensorType(dtype, node.type(node.outputs[0]).shape)
    return Body(tuple(inputs), tuple(scalars), tuple(steps), y)


def single_body(node: NodeView) -> tuple[Body, tuple[str, ...]]:
    """The body of one operator, and the inputs of the node that it reads. Raises UnsupportedOpError without any."""
    types = [node.type(name).dtype if name else "" for name in node.inputs]
    numbers: dict[str, int] = {"": -1}
    scalars: list[tuple[str, float | int]] = []
    sources: list[str] = []
    for name, dtype in zip(node.inputs, types, strict=True):
        value = node.constant(name) if name else None
        if name and name not in numbers and (value is None or value.size != 1 or dtype == "bfloat16"):
            numbers[name] = len(sources)
            sources.append(name)
    for name, dtype in zip(node.inputs, types, strict=True):
        if name not in numbers:
            numbers[name] = len(sources) + len(scalars)
            scalars.append((dtype, _number(np.asarray(node.constant(name)))))
    y = node.type(node.outputs[0])
    if not sources:
        raise UnsupportedOpError("an operator on constants alone should have been folded", where=node.name)
    step = FusedStep(node.op, tuple(numbers[name] for name in node.inputs), _plain(tuple(sorted(node.attrs.items()))))
    return Body(tuple(node.type(name) for name in sources), tuple(scalars), (step,), y), tuple(sources)


def _plain(attrs: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """Attributes as values that compare and print by content."""
    return tuple((name, value.decode() if isinstance(value, bytes) else value) for name, value in attrs)


def _number(array: np.ndarray) -> float | int:
    value = array.reshape(-1)[0]
    return float(value) if array.dtype.kind not in "iub" else int(value)
