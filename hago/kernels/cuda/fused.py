"""Elementwise operators on GPUs, some neighbouring elements in each thread (`hago.kernels.common.fused`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..common.broadcast import nest
from ..common.calls import KernelCall, NodeView
from ..common.elements import narrowed, widened
from ..common.elementwise_ops import OPS, supported
from ..common.flat import Expr, Flat, primfunc
from ..common.fused import Body, fused_body, single_body
from .broadcast import operands
from .fallback import emit_fallback
from .families import Gpu
from .registry import computes, emits
from .words import each_few, per_thread, write

_MOST_COSTLY = 4
"""Elements in a thread that computes elementary functions of them."""


@computes(Body)
def fused(params: Body, gpu: Gpu, threads: int) -> Any:
    """(inputs ..., each broadcast to y) -> y."""
    loops = nest(params.y.shape, [tensor.shape for tensor in params.inputs])
    lanes = min(per_thread(gpu, params.y.size, tensor.dtype) for tensor in (params.y, *params.inputs))
    lanes = min(lanes, _MOST_COSTLY) if params.is_costly else lanes

    def body(*buffers: Flat) -> None:
        *sources, y = buffers

        def elements(index: Expr, width: int) -> None:
            given = operands(loops, sources, index, width)
            results = []
            for values in zip(*given, strict=True):
                vecs = [widened(value, x.dtype, 1) for value, x in zip(values, params.inputs, strict=True)]
                results.append(narrowed(params.compute(vecs, 1)))
            write(y, index, results)

        each_few(y.size, lanes, elements)

    return primfunc(params.inputs, [params.y], body)


@emits("hago", "Fused")
def emit_fused(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """A group of elementwise operators, in one kernel."""
    return [KernelCall("elementwise", fused_body(node), fused, node.inputs, node.outputs, node.layer)]


@emits("", *(op for op in OPS if op not in ("QuantizeLinear", "DequantizeLinear")))
def emit_single(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """One operator; one without an expression (float64 functions, say) takes TVM's own lowering."""
    if not supported(node.op, [node.type(name).dtype if name else "" for name in node.inputs], node.attrs):
        return emit_fallback(node, gpu)
    params, sources = single_body(node)
    return [KernelCall("elementwise", params, fused, sources, node.outputs, node.layer)]
