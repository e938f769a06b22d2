"""Elementwise operators on processors, in one loop over the output (`hago.kernels.common.fused`).

A vector runs along the last (merged) dimension. No two buffers may overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from ..common.broadcast import nest, operand
from ..common.calls import KernelCall, NodeView
from ..common.elements import narrowed, widened
from ..common.elementwise_ops import OPS, supported
from ..common.flat import Expr, Flat, primfunc
from ..common.fused import Body, fused_body, single_body
from .broadcast import walk
from .fallback import emit_fallback
from .families import Isa
from .narrowing import can_narrow, narrow, narrowing
from .registry import computes, emits


@computes(Body)
def fused(params: Body, isa: Isa, threads: int) -> Any:
    """(inputs ..., each broadcast to y) -> y."""
    loops = nest(params.y.shape, [tensor.shape for tensor in params.inputs])
    lanes = isa.lanes * (2 if params.is_costly else 4)
    direct = can_narrow(isa) and params.steps[-1].op == "Cast" and params.y.dtype == "bfloat16"

    def body(*buffers: Flat) -> None:
        *sources, y = buffers

        def vector(to: Expr, at: list[Expr], width: int) -> None:
            given = [
                widened(operand(source, index, strides, width), tensor.dtype, width)
                for source, tensor, index, strides in zip(sources, params.inputs, at, loops.strides, strict=True)
            ]
            wide = params.before_last(given, width)[0] if direct else None
            if wide is not None and wide.dtype == "float32":
                y.store(to, narrow(wide.value, width), width)
            else:
                y.store(to, narrowed(params.compute(given, width)), width)

        with narrowing() if direct else nullcontext():
            walk(loops, lanes, threads, params.cost, vector)

    return primfunc(params.inputs, [params.y], body)


@emits("hago", "Fused")
def emit_fused(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """A group of elementwise operators, in one loop."""
    return [KernelCall("elementwise", fused_body(node), fused, node.inputs, node.outputs, node.layer)]


@emits("", *(op for op in OPS if op not in ("QuantizeLinear", "DequantizeLinear")))
def emit_single(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """One operator; one without a vector expression (float64 functions, say) takes TVM's own lowering."""
    if not supported(node.op, [node.type(name).dtype if name else "" for name in node.inputs], node.attrs):
        return emit_fallback(node, isa)
    params, sources = single_body(node)
    return [KernelCall("elementwise", params, fused, sources, node.outputs, node.layer)]
