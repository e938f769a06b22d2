"""Emitters of convolutions and fully connected layers in floats."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import UnsupportedOpError
from ..common.calls import KernelCall, NodeView
from .depthwise import emit_depthwise
from .families import Gpu
from .grouped import emit_grouped
from .registry import emits


@emits("hago", "Conv")
def emit_conv(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """Convolution in float32."""
    precision = node.attrs["precision"]
    if precision != "float32":
        raise UnsupportedOpError(
            f"convolutions in {precision} have no kernel for {gpu.name}", where=f"node {node.name!r}"
        )
    group = int(node.attrs["group"])
    is_depthwise = group > 1 and group == node.type(node.inputs[0]).shape[-1] == node.type(node.outputs[0]).shape[-1]
    return (emit_depthwise if is_depthwise else emit_grouped)(node, gpu)
