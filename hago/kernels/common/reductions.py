"""Reductions as all targets see them: their arithmetic, and the steps that a node takes.

x is seen as [outer, n, inner] and y as [outer, inner].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from . import math as vm
from .calls import NodeView, known
from .flat import Expr
from .plans import Plan, plans

Combine = Callable[[Expr, Expr], Expr]


@dataclass(frozen=True)
class Reduce:
    """Over the middle of ``x``, seen as [outer, n, inner]."""

    op: str
    dtype: str
    x: tuple[int, ...]
    y: tuple[int, ...]
    outer: int
    n: int
    inner: int

    @property
    def kind(self) -> Kind:
        """Its arithmetic."""
        return KINDS[self.op]

    def finish(self, value: Expr) -> Expr:
        """The result, from all that was combined."""
        if self.op == "ReduceMean":
            return value / getattr(T, self.dtype)(self.n)
        return T.sqrt(value) if self.op == "ReduceL2" else value


@dataclass(frozen=True)
class Kind:
    """combine(start, before(x) ...); ``again`` is the operator that combines results."""

    combine: Combine
    before: Callable[[Expr], Expr] = lambda value: value
    extreme: int = 0  # 1: a maximum, -1: a minimum, 0: a sum
    again: str | None = None  # None: the same

    def start(self, dtype: str) -> Expr:
        """The neutral element."""
        number = getattr(T, dtype)
        if not self.extreme:
            return number(0)
        if dtype.startswith("float"):
            return number("-inf" if self.extreme > 0 else "inf")
        info = np.iinfo(dtype)
        return number(int(info.min if self.extreme > 0 else info.max))


def _square(value: Expr) -> Expr:
    held = T.bind(value)
    return held * held


def _is_real(value: Expr) -> bool:
    return str(value.ty.dtype).startswith("float")


_SUM = Kind(lambda a, b: a + b)
KINDS = {
    "ReduceSum": _SUM,
    "ReduceMean": _SUM,
    "ReduceSumSquare": Kind(_SUM.combine, _square, again="ReduceSum"),
    "ReduceL2": Kind(_SUM.combine, _square),
    "ReduceL1": Kind(_SUM.combine, lambda value: T.abs(value)),
    "ReduceMax": Kind(lambda a, b: vm.maximum(a, b) if _is_real(a) else T.max(a, b), extreme=1),
    "ReduceMin": Kind(lambda a, b: vm.minimum(a, b) if _is_real(a) else T.min(a, b), extreme=-1),
}
_FLOAT_ONLY = {"ReduceMean", "ReduceL2", "ReduceL1"}
_TYPES = ("float32", "float64", "int32", "int64", "uint8", "int8")


@plans("", *KINDS)
def plan_reduction(node: NodeView) -> list[Plan] | None:
    """A reduction, one run of neighbouring axes after the other."""
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    given = known(node, 1, "the axes")
    chosen = node.attrs.get("axes") if given is None else given.tolist()
    if not chosen and node.attrs.get("noop_with_empty_axes", 0):
        return None
    if x.dtype not in _TYPES[: 2 if node.op in _FLOAT_ONLY else None]:
        return None
    axes = {int(a) % len(x.shape) for a in chosen} if chosen else set(range(len(x.shape)))
    runs = _runs(x.shape, axes)
    found: list[Plan] = []
    op, name, shape = node.op, node.inputs[0], x.shape
    for run in runs:
        last = run is runs[-1]
        after = y.shape if last else tuple(1 if a in run else size for a, size in enumerate(shape))
        output = node.outputs[0] if last else f"{node.outputs[0]}:{run.start}"
        outer, n, inner = prod(shape[: run.start]), prod(shape[run.start : run.stop]), prod(shape[run.stop :])
        params = Reduce(op, x.dtype, shape, after, outer, n, inner)
        temporaries = {} if last else {output: TensorType(x.dtype, after)}
        found.append(Plan("reduce", params, (name,), (output,), temporaries))
        op, name, shape = params.kind.again or op, output, after
    return found


def _runs(shape: Sequence[int], axes: set[int]) -> list[range]:
    """The axes to reduce as runs of neighbours; axes of size 1 part none, and matter only where there are no others."""
    runs: list[range] = []
    kept = True  # whether an axis that stays, or none, came before
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if axis in axes:
            runs.append(range(axis, axis + 1) if kept else range(runs.pop().start, axis + 1))
        kept = axis not in axes
    return runs or [range(len(shape), len(shape))]


@dataclass(frozen=True)
class ArgExtreme:
    """Index of the largest (or ``least``) along the middle of [outer, n, inner]; of equals, the first (or ``last``)."""

    dtype: str
    x: tuple[int, ...]
    y: tuple[int, ...]
    outer: int
    n: int
    inner: int
    least: bool
    last: bool

    @property
    def kind(self) -> Kind:
        """What finds the extreme value; it does not look for NaN."""
        if self.least:
            return Kind(lambda a, b: T.min(a, b), extreme=-1)
        return Kind(lambda a, b: T.max(a, b), extreme=1)


@plans("", "ArgMax", "ArgMin")
def plan_arg_extreme(node: NodeView) -> list[Plan] | None:
    """ArgMax or ArgMin along one axis."""
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    if x.dtype not in ("float32", "uint8", "int8", "int32"):
        return None
    axis = int(node.attrs.get("axis", 0)) % len(x.shape)
    outer, inner = prod(x.shape[:axis]), prod(x.shape[axis + 1 :])
    least, last = node.op == "ArgMin", bool(node.attrs.get("select_last_index", 0))
    params = ArgExtreme(x.dtype, x.shape, y.shape, outer, x.shape[axis], inner, least, last)
    return [Plan("reduce", params, node.inputs, node.outputs)]
