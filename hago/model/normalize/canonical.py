"""A canonical form for each heavy operator: explicit padding, Gemm as x @ W.T + b, one output per node."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .edit import Editor, attr_float, attr_int, attr_ints, attr_string, constant, dims, is_float, scalar
from .spelled import spell_out
from .windows import WINDOWED, window


def canonicalize(editor: Editor) -> None:
    """One pass of every rule below over the graph."""
    for node in editor.nodes():
        if node.graph is None or node.domain:
            continue
        if node.op_type == "Gemm":
            _gemm(editor, node)
        elif node.op_type == "MatMul":
            _matmul_weight(editor, node)
        elif node.op_type == "Split":
            _split(editor, node)
        elif node.op_type == "ReduceMean":
            _spatial_mean(editor, node)
        elif node.op_type in WINDOWED:
            window(editor, node)
        else:
            spell_out(editor, node)
        if node.graph is not None and node.op_type == "Conv":
            _absorb_pad(editor, node)
        if node.graph is not None and node.op_type == "AveragePool":
            _global_pool(editor, node)


def _gemm(editor: Editor, node: ir.Node) -> None:
    """alpha * A' @ B' + beta * C, to x @ W.T + b with constant W [N, K] and b [N]; else to MatMul and Add."""
    a, b = node.inputs[:2]
    c = node.inputs[2] if len(node.inputs) > 2 else None
    alpha, beta = attr_float(node, "alpha", 1.0), attr_float(node, "beta", 1.0)
    weight, shape = constant(b), dims(node.outputs[0])
    if shape is None or not is_float(node.outputs[0]) or a is None or b is None:
        return
    if weight is None and (b.producer() is not None and b.producer().op_type == "DequantizeLinear"):  # type: ignore[union-attr]
        _quantized_gemm(editor, node)
        return
    if attr_int(node, "transA", 0):
        a = editor.node("Transpose", [a], node, {"perm": [1, 0]}, name=f"{node.name}_transpose", shape=_flipped(a))
        editor.set_attributes(node, transA=None)
        editor.set_input(node, 0, a)
    if weight is None:
        _gemm_of_activations(editor, node, shape)
        return
    bias = constant(c)
    if c is not None and (bias is None or not _fits_row(bias, shape[1])):
        # An addend that is not a bias of the columns: computed at run time, or different in each row.
        addend = _scaled(editor, node, c, "beta")
        product = editor.node("Gemm", [a, b], node, {**_attributes(node), "beta": 1.0}, shape=shape)
        total = editor.node("Add", [product, addend], node, name=f"{node.name}_add", shape=shape)
        editor.forward(node.outputs[0], total)
        return
    trans_b = attr_int(node, "transB", 0)
    if alpha != 1.0 or not trans_b:
        wide = weight.astype(np.float64) * alpha
        new = np.ascontiguousarray(wide if trans_b else wide.T).astype(np.float32)
        editor.set_input(node, 1, editor.initializer(new, f"{b.name}_t" if not trans_b else f"{b.name}_scaled"))
    if bias is not None and c is not None and (beta != 1.0 or bias.shape != (shape[1],)):
        row = np.broadcast_to(bias.reshape(-1) * np.float32(beta), (shape[1],))
        editor.set_input(node, 2, editor.initializer(row.astype(np.float32), f"{c.name}_row"))
    editor.set_attributes(node, alpha=None, beta=None, transA=None, transB=1)


def _attributes(node: ir.Node) -> dict[str, object]:
    return {name: a.value for name, a in node.attributes.items()}


def _flipped(value: ir.Value) -> tuple[int, ...] | None:
    shape = dims(value)
    return None if shape is None else shape[::-1]


def _fits_row(bias: np.ndarray, n: int) -> bool:
    return bias.size in (1, n) and bias.shape in ((), (1,), (n,), (1, n), (1, 1))


def _gemm_of_activations(editor: Editor, node: ir.Node, shape: tuple[int, ...]) -> None:
    """alpha * A @ B' + beta * C of tensors computed at run time, A as it is: MatMul, Mul and Add."""
    a, b = node.inputs[:2]
    assert a is not None and b is not None
    if attr_int(node, "transB", 0):
        b = editor.node("Transpose", [b], node, {"perm": [1, 0]}, name=f"{node.name}_transpose", shape=_flipped(b))
    result = _scaled(editor, node, editor.node("MatMul", [a, b], node, shape=shape), "alpha")
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        addend = _scaled(editor, node, node.inputs[2], "beta")
        result = editor.node("Add", [result, addend], node, name=f"{node.name}_add", shape=shape)
    editor.forward(node.outputs[0], result)


def _scaled(editor: Editor, node: ir.Node, value: ir.Value, attribute: str) -> ir.Value:
    """``value`` times a Gemm's ``alpha`` or ``beta``."""
    number = attr_float(node, attribute, 1.0)
    if number == 1.0:
        return value
    factor = editor.initializer(np.array(number, np.float32), f"{node.name}_{attribute}")
    return editor.node("Mul", [value, factor], node, name=f"{node.name}_{attribute}", shape=dims(value))


def _quantized_gemm(editor: Editor, node: ir.Node) -> None:
    """Transposes the integer weight of a quantized Gemm to [N, K], and its scales with it."""
    weight = node.inputs[1]
    dequantize = weight.producer() if weight is not None else None
    if attr_int(node, "transB", 0) or dequantize is None or weight is None:
        return
    integers = constant(dequantize.inputs[0])
    if integers is None or integers.ndim != 2 or attr_int(dequantize, "block_size", 0):
        return
    if editor.sole_consumer(weight) is not node:
        return
    turned = np.ascontiguousarray(integers.T)
    flipped = editor.initializer(turned, f"{weight.name}_t")
    scale = constant(dequantize.inputs[1])
    axis = attr_int(dequantize, "axis", 1) % 2
    attributes = {"axis": 1 - axis} if scale is not None and scale.ndim else {}
    inputs = [flipped, *dequantize.inputs[1:]]
    new = editor.node("DequantizeLinear", inputs, dequantize, attributes, shape=turned.shape)
    editor.set_input(node, 1, new)
    editor.set_attributes(node, transB=1)


def _matmul_weight(editor: Editor, node: ir.Node) -> None:
    """A constant right operand [1, ..., K, N] to [K, N], if the result's rank stays the same."""
    left, right = node.inputs
    weight, shape = constant(right), dims(left)
    if weight is None or right is None or shape is None or weight.ndim <= 2 or len(shape) < weight.ndim:
        return
    if all(d == 1 for d in weight.shape[:-2]):
        flat = weight.reshape(weight.shape[-2:])
        editor.set_input(node, 1, editor.initializer(flat, f"{right.name}_2d"))


def _split(editor: Editor, node: ir.Node) -> None:
    """Split to one Slice per output, so that every node has one output."""
    source = node.inputs[0]
    shape = dims(source)
    if source is None or shape is None:
        return
    axis = attr_int(node, "axis", 0) % len(shape)
    start = 0
    for i, output in enumerate(node.outputs):
        part = dims(output)
        if part is None:
            return
        end = start + part[axis]
        if output.uses() or output.is_graph_output():
            starts, ends, axes = (
                editor.initializer(np.array([x], np.int64), f"{node.name}_{i}_{n}")
                for n, x in (("start", start), ("end", end), ("axis", axis))
            )
            piece = editor.node("Slice", [source, starts, ends, axes], node, name=f"{node.name}_{i}", shape=part)
            piece.type = output.type
            editor.forward(output, piece)
        start = end


def _spatial_mean(editor: Editor, node: ir.Node) -> None:
    """The mean over all of H and W (or L) is a global average pool; without kept axes, a Reshape follows."""
    source, output = node.inputs[0], node.outputs[0]
    shape, result = dims(source), dims(output)
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if source is None or shape is None or result is None or axes is None or not is_float(source):
        return
    rank = len(shape)
    # At rank 3 the last axis may also be the features of a sequence (a layer norm's mean).
    if rank != 4 or {int(a) % rank for a in axes} != {2, 3}:
        return
    pooled = editor.node("GlobalAveragePool", [source], node, shape=(*shape[:2], 1, 1))
    if len(result) != rank:
        target = editor.initializer(np.array(result, np.int64), f"{node.name}_shape")
        pooled = editor.node("Reshape", [pooled, target], node, name=f"{node.name}_reshape", shape=result)
    editor.forward(output, pooled)


def _absorb_pad(editor: Editor, node: ir.Node) -> None:
    """Zero padding before a convolution becomes part of the convolution."""
    source = node.inputs[0]
    pad = source.producer() if source is not None else None
    if source is None or pad is None or pad.op_type != "Pad" or pad.domain:
        return
    if editor.sole_consumer(source) is not node or attr_string(pad, "mode", "constant") != "constant":
        return
    amounts, shape = constant(pad.inputs[1]), dims(pad.inputs[0])
    fill = pad.inputs[2] if len(pad.inputs) > 2 else None
    if amounts is None or shape is None or (fill is not None and scalar(fill) != 0.0):
        return
    rank = len(shape)
    axes_in = pad.inputs[3] if len(pad.inputs) > 3 else None
    axes = constant(axes_in) if axes_in is not None else np.arange(rank)
    own = attr_ints(node, "pads")
    if axes is None or own is None or amounts.min() < 0 or "auto_pad" in node.attributes:
        return
    before, after = np.zeros(rank, np.int64), np.zeros(rank, np.int64)
    before[axes], after[axes] = amounts[: len(axes)], amounts[len(axes) :]
    if before[:2].any() or after[:2].any():
        return
    added = [*before[2:], *after[2:]]
    editor.set_attributes(node, pads=tuple(int(p + q) for p, q in zip(own, added, strict=True)))
    editor.set_input(node, 0, pad.inputs[0])


def _global_pool(editor: Editor, node: ir.Node) -> None:
    """An average over the whole image is a GlobalAveragePool."""
    shape, kernel, pads = dims(node.inputs[0]), attr_ints(node, "kernel_shape"), attr_ints(node, "pads")
    dilations = attr_ints(node, "dilations") or ()
    if shape is None or kernel != shape[2:] or any(pads or ()) or set(dilations) - {1}:
        return
    result = dims(node.outputs[0])
    if result is not None and all(d == 1 for d in result[2:]):
        editor.forward(node.outputs[0], editor.node("GlobalAveragePool", [node.inputs[0]], node, shape=result))
