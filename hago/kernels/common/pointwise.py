"""Quantized operators on single elements, on any target: QAdd, QMul, QScaleShift, QLookup, Quantize and Dequantize.

Scales, multipliers, zero points and clamps are inputs of the kernels (constants of the artifact), so that one compiled
kernel serves every strategy. Per-channel vectors run along the last axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .calls import NodeView
from .epilogue import epilogue_constants
from .flat import factors_of, numbers_of
from .plans import Plan, plans

_LONGEST_VECTOR = 64
"""8-bit elements that a row of QScaleShift should have, for the processor with the longest vectors."""


@dataclass(frozen=True)
class Binary:
    """QAdd or QMul of uint8 tensors of shapes ``a`` and ``b``, broadcast to ``y`` as in numpy; ``out`` is y's type."""

    op: str
    a: tuple[int, ...]
    b: tuple[int, ...]
    y: tuple[int, ...]
    out: str


@plans("hago", "QAdd", "QMul")
def plan_binary(node: NodeView) -> Sequence[Plan]:
    """QAdd and QMul."""
    a, b = node.inputs
    attrs = node.attrs
    out, constants = epilogue_constants(node)
    names = ("a_scale", "b_scale", "offset") if node.op == "QAdd" else ("a_zero_point", "b_zero_point", "scale")
    params = Binary(node.op, node.type(a).shape, node.type(b).shape, node.type(node.outputs[0]).shape, out)
    inputs = (a, b, factors_of(*(float(attrs[name]) for name in names)), constants)
    return [Plan("pointwise", params, inputs, node.outputs)]


@dataclass(frozen=True)
class ScaleShift:
    """Per-channel affine map of a tensor of ``shape``, seen as [rows, channels]."""

    shape: tuple[int, ...]
    rows: int
    channels: int


def _repeats(count: int, channels: int, at_least: int) -> int:
    """How many neighbouring pixels make one row, so that even few channels fill a vector."""
    if channels >= at_least:
        return 1
    fitting = [k for k in range(1, min(count, 1 + 4 * at_least // channels) + 1) if count % k == 0]
    return max(fitting)


@plans("hago", "QScaleShift")
def plan_scale_shift(node: NodeView) -> Sequence[Plan]:
    """QScaleShift: a factor and a summand per channel."""
    x, mul, add = node.inputs
    _, constants = epilogue_constants(node)
    shape = node.type(x).shape
    channels = shape[-1]
    count = node.type(x).size // channels
    factors = [node.constant(name) for name in (mul, add)]
    inputs: list[str | np.ndarray] = [mul, add]
    repeats = 1
    if all(value is not None for value in factors):
        repeats = _repeats(count, channels, _LONGEST_VECTOR)
        inputs = [np.tile(np.asarray(value, np.float32), repeats) for value in factors]
    params = ScaleShift(shape, count // repeats, channels * repeats)
    return [Plan("pointwise", params, (x, *inputs, constants), node.outputs)]


@dataclass(frozen=True)
class Lookup:
    """y = table[x]; ``dtype`` is that of the table and of the output, uint8 or float32."""

    shape: tuple[int, ...]
    dtype: str


@plans("hago", "QLookup")
def plan_lookup(node: NodeView) -> Sequence[Plan]:
    """QLookup: a table applied to every element."""
    x, table = node.inputs
    params = Lookup(node.type(x).shape, node.type(node.outputs[0]).dtype)
    return [Plan("lookup", params, (x, table), node.outputs)]


@dataclass(frozen=True)
class Convert:
    """Quantize (float32 to uint8) or Dequantize (uint8 to float32), transposed by ``perm``."""

    op: str
    shape: tuple[int, ...]
    perm: tuple[int, ...]


@plans("hago", "Quantize", "Dequantize")
def plan_convert(node: NodeView) -> Sequence[Plan]:
    """Quantize and Dequantize."""
    attrs = node.attrs
    shape = node.type(node.inputs[0]).shape
    perm = tuple(attrs.get("perm") or range(len(shape)))
    numbers = [attrs["zero_point"]]
    if node.op == "Quantize":
        numbers += [attrs.get("lo", 0), attrs.get("hi", 255)]
    inputs = (node.inputs[0], factors_of(attrs["scale"]), numbers_of(*numbers))
    params = Convert(node.op, shape, perm)
    return [Plan("pointwise", params, inputs, node.outputs)]
