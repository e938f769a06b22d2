"""LayerNormalization in float32 over the last axes (Ba, Kiros and Hinton 2016).

x and y are seen as [rows, n], normalized along n, with a scale and a bias of n elements. A vector runs along n, and
the last one is moved back to end with the row. No two buffers may overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.calls import KernelCall, NodeView
from ..common.flat import Expr, Flat, all_lanes, primfunc
from .fallback import emit_fallback
from .families import Isa
from .registry import emits
from .rowwise import Register, across, along, fresh, row_lanes
from .vector import rows

_REGISTERS = 8
"""A row of at most this many vectors stays in registers between the passes."""


@dataclass(frozen=True)
class LayerNorm:
    """Over the last ``n`` elements of ``shape``; ``statistics`` adds the outputs mean and 1 / deviation."""

    shape: tuple[int, ...]
    n: int
    epsilon: float
    scale: tuple[int, ...]
    bias: tuple[int, ...] | None
    statistics: tuple[tuple[int, ...], ...] = ()


def layer_norm(params: LayerNorm, isa: Isa, threads: int) -> Any:
    """(x [R, n], scale [n] [, bias [n]]) -> y [R, n] [, mean [R] [, inverse deviation [R]]], all float32.

    y = (x - mean) / sqrt(mean of (x - mean)^2 + epsilon) * scale + bias, in two passes for accuracy.
    """
    n, lanes = params.n, row_lanes(params.n, isa.lanes)
    unrolled = _REGISTERS if -(-n // lanes) <= _REGISTERS else 1
    inputs = 2 if params.bias is None else 3

    def body(*buffers: Flat) -> None:
        x, scale = buffers[:2]
        bias = buffers[2] if params.bias is not None else None
        y, statistics = buffers[inputs], buffers[inputs + 1 :]

        def row_body(row: Expr) -> None:
            begin = T.bind(row * n)

            def total(term: Any) -> Expr:
                """The sum over the row of ``term`` of each element."""
                sum_ = Register(T.float32(0), "float32", lanes)

                def add(i: Expr, seen: int) -> None:
                    value = term(x.load(begin + i, lanes))
                    sum_.set(sum_.value + fresh(value, seen, lanes, all_lanes(T.float32(0), lanes)))

                along(n, lanes, add, unrolled=unrolled)
                return across(sum_.value, lanes, lambda a, b: a + b)

            mean = T.bind(total(lambda value: value) / T.float32(n))

            def square(value: Expr) -> Expr:
                apart = T.bind(value - mean)
                return apart * apart

            variance = total(square) / T.float32(n)
            inverse = T.bind(T.float32(1) / T.sqrt(variance + T.float32(params.epsilon)))

            def finish(i: Expr, seen: int) -> None:
                value = (x.load(begin + i, lanes) - mean) * inverse * scale.load(i, lanes)
                y.store(begin + i, value if bias is None else value + bias.load(i, lanes), lanes)

            along(n, lanes, finish, unrolled=unrolled)
            for target, value in zip(statistics, (mean, inverse), strict=False):
                target.store(row, value)

        rows(prod(params.shape) // n, threads, 4 * x.size, row_body)

    x = TensorType("float32", params.shape)
    vectors = [TensorType("float32", shape) for shape in (params.scale, params.bias) if shape is not None]
    return primfunc([x, *vectors], [x, *(TensorType("float32", shape) for shape in params.statistics)], body)


@emits("", "LayerNormalization")
def emit_layer_norm(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """LayerNormalization over the last axes."""
    x = node.type(node.inputs[0])
    axis = int(node.attrs.get("axis", -1)) % len(x.shape)
    n = prod(x.shape[axis:])
    inputs = tuple(name for name in node.inputs if name)
    vectors = [node.type(name) for name in inputs[1:]]
    outputs = tuple(name for name in node.outputs if name)
    plain = all(vector.size == n for vector in vectors) and outputs == node.outputs[: len(outputs)]
    if x.dtype != "float32" or not plain:
        return emit_fallback(node, isa)
    params = LayerNorm(
        shape=x.shape,
        n=n,
        epsilon=float(node.attrs.get("epsilon", 1e-5)),
        scale=vectors[0].shape,
        bias=vectors[1].shape if len(vectors) > 1 else None,
        statistics=tuple(node.type(name).shape for name in outputs[1:]),
    )
    return [KernelCall("norm", params, layer_norm, inputs, outputs, node.layer)]
