"""Folds per-channel scales and shifts into the convolution or product before them.

With W the weight, b the bias and o an output channel, ``s[o] * (W[o] x + b[o]) + t[o]`` is
``(s[o] W[o]) x + (s[o] b[o] + t[o])``. A BatchNormalization at inference is such an s and t
(Ioffe and Szegedy 2015): ``s = gamma / sqrt(var + eps)``, ``t = beta - s * mean``.
Arithmetic in float64, rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .edit import Editor, attr_float, attr_int, constant, dims, is_float


@dataclass(frozen=True)
class Affine:
    """y[..., o, ...] = scale[o] * x[..., o, ...] + shift[o]; None means 1, or 0."""

    scale: np.ndarray | None
    shift: np.ndarray | None


def fold_affine(editor: Editor) -> None:
    """One pass over the graph; a chain of several affine nodes takes several passes."""
    with np.errstate(all="ignore"):  # numbers that are not finite are reported at the end
        for node in editor.nodes("Conv", "ConvTranspose", "Gemm", "MatMul"):
            if node.graph is not None:
                _fold_after(editor, node)


def _fold_after(editor: Editor, node: ir.Node) -> None:
    weight, shape = constant(node.inputs[1]), dims(node.outputs[0])
    if weight is None or shape is None or not is_float(node.outputs[0]):
        return
    if node.op_type == "MatMul" and weight.ndim != 2:
        return
    if len(node.inputs) > 2 and node.inputs[2] is not None and constant(node.inputs[2]) is None:
        return
    if node.op_type == "Gemm" and not (attr_int(node, "transB", 0) and attr_float(node, "alpha", 1.0) == 1.0):
        return  # not canonical yet
    axis = 1 if node.op_type.startswith("Conv") else len(shape) - 1
    follower = editor.sole_consumer(node.outputs[0])
    if follower is None:
        return
    if node.op_type == "MatMul":
        _fold_matmul(editor, node, follower, axis)
        return
    affine = _affine(follower, node.outputs[0], axis, shape)
    if affine is None:
        return
    _scale_weight(editor, node, affine.scale)
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    new = _compose(bias, affine, shape[axis])
    if new is not None and (bias is None or not np.array_equal(new, bias)):
        editor.set_input(node, 2, editor.initializer(new, f"{node.name}_bias"))
    editor.forward(follower.outputs[0], node.outputs[0])


def _fold_matmul(editor: Editor, node: ir.Node, follower: ir.Node, axis: int) -> None:
    """MatMul has no bias: an Add of a 1-D constant behind it is one."""
    shape = dims(node.outputs[0])
    assert shape is not None
    first = _affine(follower, node.outputs[0], axis, shape)
    if first is None:
        return
    if first.scale is not None or first.shift is None:
        _scale_weight(editor, node, first.scale)
        if first.shift is not None and first.shift.any():
            bias = editor.initializer(first.shift.astype(np.float32), f"{node.name}_bias")
            total = editor.node("Add", [node.outputs[0], bias], follower, name=f"{node.name}_bias", shape=shape)
            editor.forward(follower.outputs[0], total)
        else:
            editor.forward(follower.outputs[0], node.outputs[0])
        return
    held = constant(follower.inputs[1])
    if held is not None and held.shape != (shape[axis],):
        row = first.shift.astype(np.float32)
        editor.set_input(follower, 1, editor.initializer(row, f"{node.name}_bias"))
    after = editor.sole_consumer(follower.outputs[0])
    second = None if after is None else _affine(after, follower.outputs[0], axis, shape)
    if second is None or after is None:
        return
    _scale_weight(editor, node, second.scale)
    total_shift = _compose(first.shift, second, shape[axis])
    assert total_shift is not None
    editor.set_input(follower, 1, editor.initializer(total_shift, f"{node.name}_bias"))
    editor.forward(after.outputs[0], follower.outputs[0])


def _scale_weight(editor: Editor, node: ir.Node, scale: np.ndarray | None) -> None:
    weight_value = node.inputs[1]
    weight = constant(weight_value)
    if scale is None or weight is None or weight_value is None:
        return
    wide = weight.astype(np.float64)
    if node.op_type == "ConvTranspose":  # [C, O/g, ...], output channel = group * O/g + its index
        group = attr_int(node, "group", 1)
        grouped = wide.reshape(group, -1, *weight.shape[1:])
        per = scale.reshape(group, 1, weight.shape[1], *(1,) * (weight.ndim - 2))
        new = (grouped * per).reshape(weight.shape)
    elif node.op_type == "MatMul":  # [K, N]
        new = wide * scale
    else:  # [O, ...]
        new = wide * scale.reshape(-1, *(1,) * (weight.ndim - 1))
    editor.set_input(node, 1, editor.initializer(new.astype(np.float32), f"{node.name}_weight"))


def _compose(bias: np.ndarray | None, affine: Affine, channels: int) -> np.ndarray | None:
    """scale * bias + shift as float32 [O]; None if it is all zeros and there was none."""
    if bias is None and affine.shift is None:
        return None
    total = np.zeros(channels) if bias is None else bias.astype(np.float64).reshape(-1)
    if affine.scale is not None:
        total = total * affine.scale
    if affine.shift is not None:
        total = total + affine.shift
    return total.astype(np.float32)


def _affine(node: ir.Node, source: ir.Value, axis: int, shape: tuple[int, ...]) -> Affine | None:
    """What ``node`` does to each channel (``axis``) of ``source``, if that is all it does."""
    if node.domain or node.inputs[0] is not source:
        return None
    if node.op_type == "BatchNormalization":
        return batch_norm(node) if axis == 1 else None
    if node.op_type not in ("Add", "Mul") or dims(node.outputs[0]) != shape:
        return None
    array = constant(node.inputs[1])
    if array is None or not np.isfinite(array).all():
        return None
    row = _per_channel(array, axis, shape)
    if row is None:
        return None
    return Affine(None, row) if node.op_type == "Add" else Affine(row, None)


def batch_norm(node: ir.Node) -> Affine | None:
    """The scale and shift [C] (float64) of a BatchNormalization with constant parameters."""
    if attr_int(node, "training_mode", 0) or any(v.uses() for v in node.outputs[1:]):
        return None
    parameters = [constant(v) for v in node.inputs[1:5]]
    if any(p is None for p in parameters):
        return None
    gamma, beta, mean, var = (p.astype(np.float64) for p in parameters if p is not None)
    epsilon = np.float64(np.float32(attr_float(node, "epsilon", 1e-5)))
    with np.errstate(invalid="ignore", divide="ignore"):  # a bad variance is reported at the end
        scale = gamma / np.sqrt(var + epsilon)
    return Affine(scale, beta - scale * mean)


def _per_channel(array: np.ndarray, axis: int, shape: tuple[int, ...]) -> np.ndarray | None:
    """The constant as one number per channel (float64), if it is the same over every other axis."""
    if array.ndim > len(shape):
        return None
    full = (1,) * (len(shape) - array.ndim) + array.shape
    if any(d != 1 for i, d in enumerate(full) if i != axis) or full[axis] not in (1, shape[axis]):
        return None
    return np.broadcast_to(array.reshape(-1), (shape[axis],)).astype(np.float64)
