"""Windows over an image in canonical form: explicit padding, no rounding up, and no LpPool."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ...errors import ModelError
from .edit import Editor, attr_int, attr_ints, attr_string, dims

POOLS = ("MaxPool", "AveragePool", "LpPool")
WINDOWED = ("Conv", "ConvTranspose", *POOLS)


def window(editor: Editor, node: ir.Node) -> None:
    """Makes kernel_shape, strides, dilations and pads explicit; ceil_mode becomes padding if possible."""
    shape, result = dims(node.inputs[0]), dims(node.outputs[0])
    if shape is None or result is None:
        return
    n = len(shape) - 2
    kernel = attr_ints(node, "kernel_shape")
    if kernel is None:
        weight = dims(node.inputs[1]) if len(node.inputs) > 1 else None
        if weight is None:
            return
        kernel = weight[2:]
    strides = attr_ints(node, "strides") or (1,) * n
    dilations = attr_ints(node, "dilations") or (1,) * n
    pads = list(attr_ints(node, "pads") or (0,) * (2 * n))
    auto, ceil = attr_string(node, "auto_pad", "NOTSET"), attr_int(node, "ceil_mode", 0)
    spread = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if node.op_type == "ConvTranspose":
        pads = _transposed_pads(node, shape[2:], spread, strides, pads)
        extra = [o + max(-(b + a), 0) for o, b, a in zip(_output_padding(node, n), pads[:n], pads[n:], strict=True)]
        editor.set_attributes(
            node, kernel_shape=kernel, strides=strides, dilations=dilations, pads=tuple(max(p, 0) for p in pads),
            output_padding=tuple(extra) if any(extra) else None, auto_pad=None, output_shape=None,
        )  # fmt: skip
        return
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        for i in range(n):
            total = max((-(-shape[2 + i] // strides[i]) - 1) * strides[i] + spread[i] - shape[2 + i], 0)
            small, large = total // 2, total - total // 2
            pads[i], pads[n + i] = (small, large) if auto == "SAME_UPPER" else (large, small)
    elif auto == "VALID":
        pads = [0] * (2 * n)
    if ceil and (filled := _filled(node, shape[2:], spread, strides, pads)) is not None:
        pads, ceil = filled, 0
    # ONNX Runtime's fusion of a quantized average pool cannot take dilations (new in opset 19), not even 1.
    spread_out = node.op_type != "AveragePool" or set(dilations) != {1}
    editor.set_attributes(
        node, kernel_shape=kernel, strides=strides, dilations=dilations if spread_out else None, pads=tuple(pads),
        auto_pad=None, ceil_mode=ceil or None, storage_order=None,
        group=attr_int(node, "group", 1) if node.op_type == "Conv" else None,
    )  # fmt: skip
    if node.op_type == "LpPool":
        _lp_pool(editor, node)


def _transposed_pads(
    node: ir.Node, size: Sequence[int], spread: Sequence[int], strides: Sequence[int], pads: list[int]
) -> list[int]:
    """What a ConvTranspose crops at the start and end of each axis; negative if the result is longer."""
    n, auto = len(size), attr_string(node, "auto_pad", "NOTSET")
    declared = attr_ints(node, "output_shape")
    if declared is None and auto in ("NOTSET", "VALID"):
        return pads if auto == "NOTSET" else [0] * (2 * n)
    wanted = [s * stride for s, stride in zip(size, strides, strict=True)] if declared is None else list(declared[-n:])
    extra = _output_padding(node, n)
    total = [
        stride * (s - 1) + more + k - out
        for s, stride, more, k, out in zip(size, strides, extra, spread, wanted, strict=True)
    ]
    half = [t // 2 if t > 0 else 0 for t in total]
    rest = [t - h for t, h in zip(total, half, strict=True)]
    # The larger half is at the end for SAME_UPPER, and at the start otherwise.
    return [*half, *rest] if auto == "SAME_UPPER" else [*rest, *half]


def _output_padding(node: ir.Node, n: int) -> tuple[int, ...]:
    return attr_ints(node, "output_padding") or (0,) * n


def _lp_pool(editor: Editor, node: ir.Node) -> None:
    """The p-norm of a window: an average of powers (padding adds nothing), times their number."""
    source, p = node.inputs[0], attr_int(node, "p", 2)
    shape, result = dims(source), dims(node.outputs[0])
    attributes = {name: a.value for name, a in node.attributes.items() if name != "p"}
    dilations = attr_ints(node, "dilations") or ()
    if set(dilations) == {1}:
        del attributes["dilations"]

    def number(value: float, name: str) -> ir.Value:
        return editor.initializer(np.array(value, np.float32), f"{node.name}_{name}")

    def step(op: str, inputs: list[ir.Value | None], name: str, shape: Sequence[int] | None) -> ir.Value:
        return editor.node(op, inputs, node, name=f"{node.name}_{name}", shape=shape)

    powers = step("Mul", [source, source], "square", shape) if p == 2 else step("Abs", [source], "abs", shape)
    if p > 2:
        powers = step("Pow", [powers, number(p, "p")], "power", shape)
    pooled = editor.node("AveragePool", [powers], node, {**attributes, "count_include_pad": 1}, shape=result)
    count = float(math.prod(attr_ints(node, "kernel_shape") or ()))
    total = step("Mul", [pooled, number(count, "count")], "sum", result)
    if p == 2:
        total = step("Sqrt", [total], "root", result)
    elif p > 2:
        total = step("Pow", [total, number(1 / p, "inverse")], "root", result)
    editor.forward(node.outputs[0], total)


def resolve_ceil_mode(node: ir.Node, where: str) -> bool:
    """Replaces ceil_mode of a pool by padding where its inferred shape is not that of the standard.

    A window must start inside the input or its front padding (opset 22 says so, ONNX Runtime and PyTorch always did);
    shape inference counts those behind it as well. Returns whether the node was changed, so that all shapes behind it
    must be inferred anew. Raises ModelError where no padding says the same.
    """
    if node.op_type not in POOLS or node.domain or not attr_int(node, "ceil_mode", 0):
        return False
    shape, inferred, kernel = dims(node.inputs[0]), dims(node.outputs[0]), attr_ints(node, "kernel_shape")
    auto = attr_string(node, "auto_pad", "NOTSET")
    if shape is None or inferred is None or kernel is None or auto not in ("NOTSET", "VALID"):
        return False
    n, size = len(shape) - 2, shape[2:]
    strides = attr_ints(node, "strides") or (1,) * n
    dilations = attr_ints(node, "dilations") or (1,) * n
    spread = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = list(attr_ints(node, "pads") or (0,) * (2 * n)) if auto == "NOTSET" else [0] * (2 * n)
    counts = tuple(_count(size[i], spread[i], strides[i], pads[i], pads[n + i]) for i in range(n))
    if counts == inferred[2:]:
        return False
    filled = _filled(node, size, spread, strides, pads)
    if filled is None:
        raise ModelError(
            f"with ceil_mode its output has shape {(*shape[:2], *counts)}, and shape inference says {inferred}",
            where=f"{where}, node {node.name!r} ({node.op_type})",
            hint="export the model with ceil_mode=False and explicit padding",
        )
    del node.attributes["ceil_mode"]
    node.attributes.pop("auto_pad", None)
    node.attributes["pads"] = ir.AttrInt64s("pads", filled)
    return True


def _filled(
    node: ir.Node, size: Sequence[int], spread: Sequence[int], strides: Sequence[int], pads: Sequence[int]
) -> list[int] | None:
    """The padding with which a pool needs no ceil_mode; None where the new padding would be counted in averages."""
    n = len(size)
    missing = []
    for i in range(n):
        last = (_count(size[i], spread[i], strides[i], pads[i], pads[n + i]) - 1) * strides[i] + spread[i]
        missing.append(max(last - size[i] - pads[i] - pads[n + i], 0))
    if any(missing) and node.op_type == "AveragePool" and attr_int(node, "count_include_pad", 0):
        return None
    return [*pads[:n], *(p + m for p, m in zip(pads[n:], missing, strict=True))]


def _count(size: int, spread: int, stride: int, before: int, after: int) -> int:
    """How many windows an axis has in ceil_mode: the last one starts inside the input or its front padding."""
    count = -(-(size + before + after - spread) // stride) + 1
    return count - 1 if (count - 1) * stride >= size + before else count
