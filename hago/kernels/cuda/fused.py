"""Elementwise operators on GPUs, one element of the output in each thread (`hago.kernels.common.fused`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..common.broadcast import nest
from ..common.calls import KernelCall, NodeView
from ..common.elements import narrowed, widened
from ..common.elementwise_ops import OPS, supported
from ..common.flat import Expr, Flat, primfunc, unravel
from ..common.fused import Body, fused_body, single_body
from .fallback import emit_fallback
from .families import Gpu
from .grid import each
from .registry import emits


def fused(params: Body, gpu: Gpu, threads: int) -> Any:
    """(inputs ..., each broadcast to y) -> y."""
    loops = nest(params.y.shape, [tensor.shape for tensor in params.inputs])

    def body(*buffers: Flat) -> None:
        *sources, y = buffers

        def element(index: Expr) -> None:
            at = unravel(index, loops.dims)
            given = []
            for source, tensor, strides in zip(sources, params.inputs, loops.strides, strict=True):
                place = sum((i * s for i, s in zip(at, strides, strict=True) if s), 0)
                given.append(widened(source.load(place), tensor.dtype, 1))
            y.store(index, narrowed(params.compute(given, 1)))

        each(y.size, element)

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
