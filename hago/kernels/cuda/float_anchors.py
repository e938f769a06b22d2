"""Emitters of convolutions and fully connected layers in floats."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import UnsupportedOpError
from ..common.calls import KernelCall, NodeView
from .anchors import emit_half
from .depthwise import emit_depthwise
from .families import Gpu
from .grouped import emit_grouped
from .registry import emits


@emits("hago", "Conv")
def emit_conv(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """Convolution: on tensor cores in 16-bit floats."""
    if node.attrs["precision"] != "float32":
        return emit_half(node, gpu)
    group = int(node.attrs["group"])
    is_depthwise = group > 1 and group == node.type(node.inputs[0]).shape[-1] == node.type(node.outputs[0]).shape[-1]
    return (emit_depthwise if is_depthwise else emit_grouped)(node, gpu)


@emits("hago", "Gemm")
def emit_gemm(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """Fully connected layer: on tensor cores in 16-bit floats."""
    if node.attrs["precision"] != "float32":
        return emit_half(node, gpu)
    raise UnsupportedOpError(f"Gemm in float32 has no kernel for {gpu.name}", where=f"node {node.name!r}")
