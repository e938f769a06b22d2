"""TopK on GPUs: the place of each element among those of its row, counted by a thread of its own.

x [outer, n, inner] -> values [outer, k, inner], positions int64 [outer, k, inner]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.calls import KernelCall, NodeView, known
from ..common.elements import FLOATS, widened
from ..common.flat import Expr, Flat, primfunc
from ..common.math import named
from .fallback import emit_fallback
from .families import Gpu
from .grid import each
from .registry import emits


@dataclass(frozen=True)
class TopK:
    """The ``k`` largest or smallest along ``axis`` of ``x``, sorted; of equal ones, the first come first."""

    dtype: str
    x: tuple[int, ...]
    axis: int
    k: int
    largest: bool

    @property
    def y(self) -> tuple[int, ...]:
        """The shape of the results."""
        return (*self.x[: self.axis], self.k, *self.x[self.axis + 1 :])


def topk(params: TopK, gpu: Gpu, threads: int) -> Any:
    """(x) -> (values, positions). NaN counts as the largest number."""
    n, inner = params.x[params.axis], prod(params.x[params.axis + 1 :])

    def body(x: Flat, values: Flat, positions: Flat) -> None:
        def number(place: Expr) -> Expr:
            return T.bind(widened(x.load(place), params.dtype, 1).value)

        def above(a: Expr, b: Expr) -> Expr:
            """1 if ``a`` comes before ``b`` because of its value, else 0."""
            first, second = (a, b) if params.largest else (b, a)
            found = first > second
            if params.dtype in FLOATS:
                found = tirx.any(found, tirx.all(T.isnan(first), T.Not(T.isnan(second))))
            # A number, because TVM takes "not a > b" for "a <= b", which NaN does not obey.
            return named(T.Select(found, T.int32(1), T.int32(0)))

        def element(index: Expr) -> None:
            position = T.bind(index // inner % n)
            start = T.bind(index // (n * inner) * (n * inner) + index % inner)
            own, before = number(index), T.alloc_buffer((1,), "int32", scope="local")
            T.buffer_store(before, T.int32(0), [0])
            with T.serial(0, n) as other:
                rival = number(start + other * inner)
                first = T.Select(other < position, T.int32(1), T.int32(0))
                ahead = T.max(above(rival, own), first - above(own, rival))
                T.buffer_store(before, before[0] + T.max(ahead, T.int32(0)), [0])
            rank = T.bind(before[0])
            with T.If(rank < params.k), T.Then():
                to = T.bind(index // (n * inner) * (params.k * inner) + rank * inner + index % inner)
                values.store(to, x.load(index))
                positions.store(to, T.cast(position, "int64"))

        each(x.size, element)

    x = TensorType(params.dtype, params.x)
    return primfunc([x], [TensorType(params.dtype, params.y), TensorType("int64", params.y)], body)


@emits("", "TopK")
def emit_topk(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """TopK with a constant k; one with only one of its outputs takes TVM's own lowering."""
    x, count = node.type(node.inputs[0]), known(node, 1, "k")
    if count is None or len(node.outputs) < 2 or not all(node.outputs) or x.dtype == "bool":
        return emit_fallback(node, gpu)
    axis = int(node.attrs.get("axis", -1)) % len(x.shape)
    params = TopK(x.dtype, x.shape, axis, int(count.item()), bool(node.attrs.get("largest", 1)))
    return [KernelCall("topk", params, topk, node.inputs[:1], node.outputs, node.layer)]
