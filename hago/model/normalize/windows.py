"""Windows over an image in canonical form: explicit padding, no rounding up, and no LpPool."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ...errors import ModelError
from .edit import Editor, attr_int, attr_ints, attr_string, dims

POOLS = ("MaxPool", "AveragePool", "LpPool")
WINDOWED = ("Conv", "ConvTranspose", *POOLS)


@dataclass(frozen=True)
class _Frame:
    """Where the windows of a node lie, axis by axis; ``pads`` are all starts, then all ends, auto_pad resolved."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @classmethod
    def of(cls, node: ir.Node) -> _Frame | None:
        """That of a node; None while its shapes are not known. A ConvTranspose has its own rules of auto_pad."""
        shape, kernel = dims(node.inputs[0]), attr_ints(node, "kernel_shape")
        weight = dims(node.inputs[1]) if kernel is None and len(node.inputs) > 1 else None
        kernel = weight[2:] if weight is not None else kernel
        if shape is None or dims(node.outputs[0]) is None or kernel is None:
            return None
        n = len(shape) - 2
        strides, dilations = attr_ints(node, "strides") or (1,) * n, attr_ints(node, "dilations") or (1,) * n
        found = cls(shape[2:], kernel, strides, dilations, attr_ints(node, "pads") or (0,) * (2 * n))
        auto = attr_string(node, "auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = [
                max((-(-i // s) - 1) * s + k - i, 0) for i, s, k in zip(shape[2:], strides, found.spread, strict=True)
            ]
            small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
            return replace(found, pads=(*small, *large) if auto == "SAME_UPPER" else (*large, *small))
        return replace(found, pads=(0,) * (2 * n)) if auto == "VALID" else found

    @property
    def spread(self) -> tuple[int, ...]:
        """How far a window reaches."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def ends(self) -> tuple[tuple[int, int], ...]:
        """The padding at the start and the end of each axis."""
        n = len(self.size)
        return tuple(zip(self.pads[:n], self.pads[n:], strict=True))

    def counts(self) -> tuple[int, ...]:
        """How many windows each axis has in ceil_mode: the last one starts inside the input or its front padding."""
        found = []
        for size, spread, stride, (before, after) in zip(self.size, self.spread, self.strides, self.ends, strict=True):
            count = -(-(size + before + after - spread) // stride) + 1
            found.append(count - 1 if (count - 1) * stride >= size + before else count)
        return tuple(found)

    def filled(self, node: ir.Node) -> tuple[int, ...] | None:
        """The padding with which a pool needs no ceil_mode; None where the new padding would be counted in averages."""
        axes = zip(self.counts(), self.size, self.spread, self.strides, self.ends, strict=True)
        missing = [
            max((count - 1) * stride + spread - size - sum(ends), 0) for count, size, spread, stride, ends in axes
        ]
        if any(missing) and node.op_type == "AveragePool" and attr_int(node, "count_include_pad", 0):
            return None
        n = len(self.size)
        return *self.pads[:n], *(p + m for p, m in zip(self.pads[n:], missing, strict=True))


def window(editor: Editor, node: ir.Node) -> None:
    """Makes kernel_shape, strides, dilations and pads explicit; ceil_mode becomes padding if possible."""
    frame = _Frame.of(node)
    if frame is None:
        return
    if node.op_type == "ConvTranspose":
        n, pads = len(frame.size), _transposed_pads(node, frame)
        extra = [o + max(-(b + a), 0) for o, b, a in zip(_output_padding(node, n), pads[:n], pads[n:], strict=True)]
        editor.set_attributes(
            node, kernel_shape=frame.kernel, strides=frame.strides, dilations=frame.dilations,
            pads=tuple(max(p, 0) for p in pads), output_padding=tuple(extra) if any(extra) else None,
            auto_pad=None, output_shape=None,
        )  # fmt: skip
        return
    padding, ceil = frame.pads, attr_int(node, "ceil_mode", 0)
    if ceil and (filled := frame.filled(node)) is not None:
        padding, ceil = filled, 0
    # ONNX Runtime's fusion of a quantized average pool cannot take dilations (new in opset 19), not even 1.
    spread_out = node.op_type != "AveragePool" or set(frame.dilations) != {1}
    editor.set_attributes(
        node, kernel_shape=frame.kernel, strides=frame.strides, dilations=frame.dilations if spread_out else None,
        pads=padding, auto_pad=None, ceil_mode=ceil or None, storage_order=None,
        group=attr_int(node, "group", 1) if node.op_type == "Conv" else None,
    )  # fmt: skip
    if node.op_type == "LpPool":
        _lp_pool(editor, node)


def _transposed_pads(node: ir.Node, frame: _Frame) -> Sequence[int]:
    """What a ConvTranspose crops at the start and end of each axis; negative if the result is longer."""
    n, auto = len(frame.size), attr_string(node, "auto_pad", "NOTSET")
    declared = attr_ints(node, "output_shape")
    if declared is None and auto in ("NOTSET", "VALID"):
        return frame.pads
    strided = [s * stride for s, stride in zip(frame.size, frame.strides, strict=True)]
    wanted = strided if declared is None else declared[-n:]
    extra = _output_padding(node, n)
    total = [
        stride * (s - 1) + more + k - out
        for s, stride, more, k, out in zip(frame.size, frame.strides, extra, frame.spread, wanted, strict=True)
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
    frame, inferred = _Frame.of(node), dims(node.outputs[0])
    if frame is None or inferred is None or attr_string(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return False
    counts = frame.counts()
    if counts == inferred[2:]:
        return False
    filled = frame.filled(node)
    if filled is None:
        raise ModelError(
            f"with ceil_mode its output has shape {(*inferred[:2], *counts)}, and shape inference says {inferred}",
            where=f"{where}, node {node.name!r} ({node.op_type})",
            hint="export the model with ceil_mode=False and explicit padding",
        )
    del node.attributes["ceil_mode"]
    node.attributes.pop("auto_pad", None)
    node.attributes["pads"] = ir.AttrInt64s("pads", filled)
    return True
