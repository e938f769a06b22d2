"""Pools, on integers and in float."""

from __future__ import annotations

import math
from typing import Any

from ..tensor import TensorType
from .dot_products import accumulator, window
from .lookahead import FusedEpilogue
from .source import SourceNode
from .translate import Translator
from .values import Quant, Value


def max_pool(tr: Translator, node: SourceNode) -> bool:
    """MaxPool without indices, and GlobalMaxPool, over 1 or 2 spatial dimensions."""
    shape = tr.source.shape(node.inputs[0])
    if len(shape) not in (3, 4) or any(node.outputs[1:]) or tr.source.constant(node.inputs[0]) is not None:
        return False
    kernel = tuple(node.attrs.get("kernel_shape", shape[2:]))
    attrs = window(node, shape, kernel, tr.source.shape(node.outputs[0]))
    attrs["kernel_shape"] = kernel if len(kernel) == 2 else (1, *kernel)
    quant = tr.quant(node.inputs[0])
    type_ = tr.source.type(node.outputs[0])
    if quant is not None and tr.integers("max_pool"):
        type_ = TensorType("uint8", type_.shape)
        tensor = tr.hago("QMaxPool", node, [quant.tensor], type_, f"{node.outputs[0]}_u8", attrs)
        tr.set(node.outputs[0], Value(quant=Quant(tensor, quant.params)))
        return True
    if type_.dtype != "float32":
        return False
    tensor = tr.hago("MaxPool", node, [tr.tensor(node.inputs[0])], type_, node.outputs[0], attrs)
    tr.set(node.outputs[0], Value(tensor=tensor))
    return True


def average_pool(tr: Translator, node: SourceNode) -> bool:
    """AveragePool over 1 or 2 spatial dimensions."""
    shape, out = tr.source.shape(node.inputs[0]), tr.source.shape(node.outputs[0])
    if len(shape) not in (3, 4) or tr.source.constant(node.inputs[0]) is not None:
        return False
    kernel = tuple(node.attrs["kernel_shape"])
    attrs = window(node, shape, kernel, out)
    include = int(node.attrs.get("count_include_pad", 0))
    if include and node.attrs.get("ceil_mode", 0):
        # Positions that only ceil_mode adds do not count, those of the padding do: no attribute expresses that.
        return False
    attrs |= {"kernel_shape": kernel if len(kernel) == 2 else (1, *kernel), "count_include_pad": include}
    return _average(tr, node, "AvgPool", attrs, 1.0)


def global_average_pool(tr: Translator, node: SourceNode) -> bool:
    """GlobalAveragePool, and ReduceMean over exactly the spatial dimensions."""
    shape = tr.source.shape(node.inputs[0])
    if len(shape) not in (3, 4) or tr.source.constant(node.inputs[0]) is not None:
        return False
    if node.op == "ReduceMean":
        axes = tr.source.array(node.input(1)) if node.input(1) else node.attrs.get("axes")
        if axes is None or sorted(int(a) % len(shape) for a in axes) != list(range(2, len(shape))):
            return False
        if len(shape) == 3:  # more often tokens than a one-dimensional image
            return False
    return _average(tr, node, "GlobalAvgPool", {}, 1.0 / math.prod(shape[2:]))


def _average(tr: Translator, node: SourceNode, op: str, attrs: dict[str, Any], factor: float) -> bool:
    """Emits the integer or the float op of a pool; a ReduceMean without keepdims is reshaped."""
    name = node.inputs[0]
    if tr.source.type(name).dtype != "float32":
        return False
    epilogue = tr.ahead.epilogue(node)
    pooled = tr.source.type(epilogue.out)
    flat = pooled.rank == 2
    kind = "avg_pool" if op == "AvgPool" else "global_avg_pool"
    quant = tr.quant(name)
    if quant is not None and tr.integers(kind):
        attrs["x_zero_point"] = quant.params.zero_point
        accumulator(tr, f"Q{op}", node, epilogue, [quant.tensor], attrs, float(quant.params.scale) * factor)
    else:
        output = tr.hago(op, node, [tr.tensor(name)], pooled, node.outputs[0], attrs)
        tr.set(node.outputs[0], Value(tensor=output))
        epilogue = FusedEpilogue(node.outputs[0], [])
    if flat:
        tr.flatten_result(epilogue.out, (*pooled.shape, 1, 1))
    return True
