"""From sums to results where a thread finishes its own: the epilogues of integer and of float kernels.

They are written for one or four neighbouring channels.

Integers (`hago.lower.ops`): requantize, then a table, then a residual; or float32. What depends on the calibration
comes in the buffers ``zero`` and ``bounds`` (`hago.kernels.common.anchor`):

    bias, scale [O]   int32, float32: see `padded`
    zero        [3]   int32
    bounds      [7]   float32
    table     [256]   uint8, if there is one
    residual          uint8, like y, if there is one

Floats: sum + bias [+ residual], clamped, then an activation, rounded to the type of y. There are ``bias`` [O],
``bounds`` [7], and the residual, all float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common import math as vm
from ..common.anchor import BOUNDS, ZEROS, bias_of, bounds_of, integer_bias, roles, scale_of, zeros
from ..common.calls import NodeView
from ..common.elements import Vec, cast, narrowed
from ..common.flat import Expr, Flat, rint_to_int32
from ..common.remembered import remembered
from .words import read, write

WIDE = 4
"""Neighbouring channels that a thread computes where their number allows."""


def padded(values: np.ndarray, channels: int) -> np.ndarray:
    """[..., O] with zeros up to ``channels``."""
    missing = [(0, 0)] * (values.ndim - 1) + [(0, channels - values.shape[-1])]
    return np.ascontiguousarray(np.pad(values, missing))


def pack_columns(weights: np.ndarray, columns: int) -> np.ndarray:
    """Floats [O, ...] -> float32 [K, O], with zeros up to ``columns``; the same array for the same weights."""
    (packed,) = remembered(
        np.asarray(weights, np.float32),
        ("columns", columns),
        lambda w: (padded(w.reshape(len(w), -1).T, columns),),
    )
    return packed


@dataclass(frozen=True)
class IntegerEpilogue:
    """What follows int32 sums; ``residual`` says which operand of its addition it is: "first", "second", or ""."""

    out: str
    table: bool = False
    residual: str = ""
    sums = "int32"

    def arguments(self, channels: int, y: TensorType) -> list[TensorType]:
        """The types of the buffers that it reads."""
        tensors = [TensorType("int32", (channels,)), TensorType("float32", (channels,))]
        tensors += [TensorType("int32", (ZEROS,)), TensorType("float32", (BOUNDS,))]
        tensors += [TensorType("uint8", (256,))] if self.table else []
        return tensors + ([TensorType("uint8", y.shape)] if self.residual else [])


def integer_epilogue(
    node: NodeView, weight_sums: np.ndarray, channels: int
) -> tuple[IntegerEpilogue, list[str | np.ndarray]]:
    """The epilogue of a QConv or QGemm, and its buffers; ``weight_sums`` is int64 [O], padded to ``channels``."""
    attrs, found = node.attrs, roles(node)
    count, zero_x = len(weight_sums), int(attrs["x_zero_point"])
    residual = ("first" if attrs["r_first"] else "second") if "r" in found else ""
    buffers: list[str | np.ndarray] = [
        padded(integer_bias(node, weight_sums, zero_x), channels),
        padded(scale_of(node, count), channels),
        zeros(zero_x, int(attrs.get("y_zero_point", 0))),
        bounds_of(node, residual=bool(residual)),
    ]
    buffers += [np.asarray(found["table"], np.uint8)] if "table" in found else []
    buffers += [found["r"]] if residual else []
    return IntegerEpilogue(attrs["out"], "table" in found, residual), buffers


class IntegerFinish:
    """Writes an `IntegerEpilogue`; made where the kernel's threads begin, from its buffers and y."""

    def __init__(self, p: IntegerEpilogue, buffers: Sequence[Flat], y: Flat) -> None:
        self.p = p
        bias, scale, zero, bounds, *rest = buffers
        self._bias, self._scale = bias, scale
        self.zero_x, self._zero_y = zero.load(0), zero.load(1)
        self._bounds = [bounds.load(i) for i in range(BOUNDS if p.residual else 2)]
        self._table = rest[0] if p.table else None
        self._residual = rest[-1] if p.residual else None
        self._y = y

    def starts(self, channel: Expr, lanes: int) -> list[Expr]:
        """What the sums of the channels from ``channel`` on begin with: the bias."""
        return read(self._bias, channel, lanes)

    def factors(self, channel: Expr, lanes: int) -> list[Expr]:
        """What `store` takes for those channels: their scales."""
        return read(self._scale, channel, lanes)

    def store(self, sums: Sequence[Expr], scales: Sequence[Expr], at: Expr) -> None:
        """Neighbouring results, from element ``at`` of y on; four of them begin at a multiple of four."""
        lanes = len(sums)
        if self.p.out == "float32":
            low, high = self._bounds[:2]
            values = [T.min(T.max(T.cast(s, "float32") * f, low), high) for s, f in zip(sums, scales, strict=True)]
            write(self._y, at, values)
            return
        others: list[Expr | None] = [None] * lanes
        if self._residual is not None:
            others = [T.cast(code, "int32") for code in read(self._residual, at, lanes)]
        codes = [self.code(*each) for each in zip(sums, scales, others, strict=True)]
        write(self._y, at, [T.cast(code, "uint8") for code in codes])

    def code(self, total: Expr, scale: Expr, other: Expr | None = None) -> Expr:
        """int32: the code of one sum; ``other`` is the residual's, int32."""
        low, high = self._bounds[:2]
        code = rint_to_int32(T.min(T.max(T.cast(total, "float32") * scale, low), high), 1) + self._zero_y
        if self._table is not None:
            code = T.cast(self._table.load(code), "int32")
        if other is None:
            return code
        first, second = (other, code) if self.p.residual == "first" else (code, other)
        low, high, a_scale, b_scale, offset = self._bounds[2:]
        inner = T.fma(T.cast(second, "float32"), b_scale, offset)
        return rint_to_int32(T.min(T.max(T.fma(T.cast(first, "float32"), a_scale, inner), low), high), 1)


@dataclass(frozen=True)
class FloatEpilogue:
    """What follows float32 sums; ``activation`` as hago.Gemm has it, "" if there is none."""

    residual: bool = False
    activation: str = ""
    out: str = "float32"
    sums = "float32"

    def arguments(self, channels: int, y: TensorType) -> list[TensorType]:
        """The types of the buffers that it reads."""
        tensors = [TensorType("float32", (channels,)), TensorType("float32", (BOUNDS,))]
        return tensors + ([TensorType("float32", y.shape)] if self.residual else [])


def float_epilogue(node: NodeView, outputs: int, channels: int) -> tuple[FloatEpilogue, list[str | np.ndarray]]:
    """The epilogue of a Conv or Gemm with ``outputs`` channels, padded to ``channels``, and its buffers."""
    residual = node.inputs[3] if len(node.inputs) > 3 else ""
    buffers: list[str | np.ndarray] = [padded(bias_of(node, outputs, np.float32), channels), bounds_of(node)]
    buffers += [residual] if residual else []
    out = node.type(node.outputs[0]).dtype
    return FloatEpilogue(bool(residual), node.attrs.get("activation", ""), out), buffers


class FloatFinish:
    """Writes a `FloatEpilogue`; made where the kernel's threads begin, from its buffers and y."""

    def __init__(self, p: FloatEpilogue, buffers: Sequence[Flat], y: Flat) -> None:
        self.p = p
        self._bias, bounds, *rest = buffers
        self._low, self._high = bounds.load(0), bounds.load(1)
        self._residual = rest[0] if rest else None
        self._y = y

    def starts(self, channel: Expr, lanes: int) -> list[Expr]:
        """What sums begin with: zeros."""
        return [T.float32(0)] * lanes

    def factors(self, channel: Expr, lanes: int) -> list[Expr]:
        """What `store` takes for the channels from ``channel`` on: their biases."""
        return read(self._bias, channel, lanes)

    def store(self, sums: Sequence[Expr], biases: Sequence[Expr], at: Expr) -> None:
        """Neighbouring results, from element ``at`` of y on; four of them begin at a multiple of four."""
        others: list[Any] = [None] * len(sums)
        if self._residual is not None:
            others = [*read(self._residual, at, len(sums))]
        values = [self.value(*each) for each in zip(sums, biases, others, strict=True)]
        write(self._y, at, [narrowed(cast(Vec(value, "float32", 1), self.p.out)) for value in values])

    def value(self, total: Expr, bias: Expr, other: Expr | None = None) -> Expr:
        """float32: the result of one sum; a NaN stays one."""
        value = total + bias if other is None else total + bias + other
        value = vm.named(T.min(self._high, T.max(self._low, value)))
        return _ACTIVATIONS[self.p.activation](value)


Epilogue: TypeAlias = IntegerEpilogue | FloatEpilogue


def finish_of(p: Epilogue, buffers: Sequence[Flat], y: Flat) -> IntegerFinish | FloatFinish:
    """What writes an epilogue."""
    return IntegerFinish(p, buffers, y) if isinstance(p, IntegerEpilogue) else FloatFinish(p, buffers, y)


_ACTIVATIONS = {"": lambda x: x, "Gelu": lambda x: vm.gelu(x, 1), "Gelu_tanh": lambda x: vm.gelu_tanh(x, 1)}
