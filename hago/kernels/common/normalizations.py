"""Softmax and layer normalization as all targets see them: parameters, and the calls that a node takes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ...tensor import TensorType
from .calls import NodeView
from .plans import Plan, plans


@dataclass(frozen=True)
class Softmax:
    """Along the middle of ``shape``, seen as [outer, n, inner]; ``log`` means LogSoftmax."""

    shape: tuple[int, ...]
    outer: int
    n: int
    inner: int
    log: bool


@plans("", "Softmax", "LogSoftmax")
def plan_softmax(node: NodeView) -> list[Plan] | None:
    """Softmax or LogSoftmax along one axis, of float32."""
    x = node.type(node.inputs[0])
    if x.dtype != "float32":
        return None
    axis = int(node.attrs.get("axis", -1)) % len(x.shape)
    outer, inner = prod(x.shape[:axis]), prod(x.shape[axis + 1 :])
    params = Softmax(x.shape, outer, x.shape[axis], inner, node.op == "LogSoftmax")
    return [Plan("softmax", params, node.inputs, node.outputs)]


@dataclass(frozen=True)
class LayerNorm:
    """Over the last ``n`` elements of ``shape``; ``statistics`` adds the outputs mean and 1 / deviation."""

    shape: tuple[int, ...]
    n: int
    epsilon: float
    scale: tuple[int, ...]
    bias: tuple[int, ...] | None
    statistics: tuple[tuple[int, ...], ...] = ()

    @property
    def inputs(self) -> list[TensorType]:
        """x, scale [, bias]."""
        shapes = (self.shape, self.scale, self.bias)
        return [TensorType("float32", shape) for shape in shapes if shape is not None]

    @property
    def outputs(self) -> list[TensorType]:
        """y [, mean [, inverse deviation]]."""
        return [TensorType("float32", shape) for shape in (self.shape, *self.statistics)]


@plans("", "LayerNormalization")
def plan_layer_norm(node: NodeView) -> list[Plan] | None:
    """LayerNormalization of float32, with a scale and a bias for each element of a row."""
    x = node.type(node.inputs[0])
    axis = int(node.attrs.get("axis", -1)) % len(x.shape)
    n = prod(x.shape[axis:])
    inputs = tuple(name for name in node.inputs if name)
    vectors = [node.type(name) for name in inputs[1:]]
    outputs = tuple(name for name in node.outputs if name)
    plain = all(vector.size == n for vector in vectors) and outputs == node.outputs[: len(outputs)]
    if x.dtype != "float32" or not plain:
        return None
    params = LayerNorm(
        shape=x.shape,
        n=n,
        epsilon=float(node.attrs.get("epsilon", 1e-5)),
        scale=vectors[0].shape,
        bias=vectors[1].shape if len(vectors) > 1 else None,
        statistics=tuple(node.type(name).shape for name in outputs[1:]),
    )
    return [Plan("norm", params, inputs, outputs)]
