"""Elementwise operators: any number of them, fused into one loop over the output.

`Fused` is the node that `hago.kernels.common.fusion` makes; its body is a graph of standard ONNX operators. A single
elementwise operator is a body of one. Numbers in the body are part of the code; constants that are inputs of
the node (quantization scales) are not. Inputs broadcast to the output's shape as in numpy; a vector runs along the
last (merged) dimension. No two buffers may overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from ...errors import UnsupportedOpError
from ...tensor import TensorType
from ..common.calls import KernelCall, NodeView
from .broadcast import nest, operand, walk
from .elements import ONNX_DTYPES, Vec, constant, named, narrowed, widened
from .elementwise_ops import OPS, heavy, supported
from .fallback import emit_fallback
from .families import Isa
from .narrowing import can_narrow, narrow, narrowing
from .registry import emits
from .vector import Expr, Flat, primfunc


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


def fused(params: Body, isa: Isa, threads: int) -> Any:
    """(inputs ..., each broadcast to y) -> y."""
    loops = nest(params.y.shape, [tensor.shape for tensor in params.inputs])
    costly = any(heavy(step.op) for step in params.steps)
    lanes = isa.lanes * (2 if costly else 4)
    cost = sum(16 if heavy(step.op) else 1 for step in params.steps)
    first_step = len(params.inputs) + len(params.scalars)
    uses = [index for step in params.steps for index in step.inputs]
    *steps, last = params.steps
    direct = can_narrow(isa) and last.op == "Cast" and params.y.dtype == "bfloat16"

    def body(*buffers: Flat) -> None:
        *sources, y = buffers

        def vector(to: Expr, at: list[Expr], width: int) -> None:
            values: list[Vec] = []
            for source, tensor, index, strides in zip(sources, params.inputs, at, loops.strides, strict=True):
                raw = operand(source, index, strides, width)
                values.append(widened(raw, tensor.dtype, width))
            values += [constant(value, dtype, width) for dtype, value in params.scalars]

            def computed(step: FusedStep) -> Vec:
                """[width], from the values so far."""
                given: list[Any] = [values[i] if i >= 0 else None for i in step.inputs]
                return OPS[step.op](given, dict(step.attrs))

            for number, step in enumerate(steps, first_step):
                result = computed(step)
                values.append(named(result) if uses.count(number) > 1 else result)
            if direct and values[last.inputs[0]].dtype == "float32":
                y.store(to, narrow(values[last.inputs[0]].value, width), width)
            else:
                y.store(to, narrowed(computed(last)), width)

        with narrowing() if direct else nullcontext():
            walk(loops, lanes, threads, cost, vector)

    return primfunc(params.inputs, [params.y], body)


@emits("hago", "Fused")
def emit_fused(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """A group of elementwise operators, in one loop."""
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
    params = Body(tuple(inputs), tuple(scalars), tuple(steps), y)
    return [KernelCall("elementwise", params, fused, node.inputs, node.outputs, node.layer)]


@emits("", *(op for op in OPS if op not in ("QuantizeLinear", "DequantizeLinear")))
def emit_single(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """One operator; one without a vector expression (float64 functions, say) takes TVM's own lowering."""
    types = [node.type(name).dtype if name else "" for name in node.inputs]
    if not supported(node.op, types, node.attrs):
        return emit_fallback(node, isa)
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
    params = Body(tuple(node.type(name) for name in sources), tuple(scalars), (step,), y)
    return [KernelCall("elementwise", params, fused, tuple(sources), node.outputs, node.layer)]


def _plain(attrs: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """Attributes as values that compare and print by content."""
    return tuple((name, value.decode() if isinstance(value, bytes) else value) for name, value in attrs)


def _number(array: np.ndarray) -> float | int:
    value = array.reshape(-1)[0]
    return float(value) if array.dtype.kind not in "iub" else int(value)
