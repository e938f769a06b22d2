"""QuantizeLinear and DequantizeLinear without an integer kernel, as the float arithmetic that defines them.

Kernels take 8 bits, with one constant scale and zero point for the whole tensor. All others are replaced: parameters
known at run time, one per channel or per block of an activation, 16 or 32 bits, and 4 or 2 bits, whose codes are then
float32 between the two. Constant codes stay, with a zero point of zero if they then fit into int8.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from .edit import Editor, attr_int, constant, dims, dtype_of
from .qoperators import Expansion

_BYTES = (ir.DataType.UINT8, ir.DataType.INT8)
SUB_BYTE = (ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2)
FLOAT8 = (
    ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E4M3FNUZ, ir.DataType.FLOAT8E5M2, ir.DataType.FLOAT8E5M2FNUZ,
    ir.DataType.FLOAT8E8M0, ir.DataType.FLOAT4E2M1,
)  # fmt: skip


def expand_quantizers(graph: ir.Graph, where: str) -> int:
    """Replaces what kernels do not take; returns the number of edits. Types of tensors must be known."""
    editor = Editor(graph)
    nodes = editor.nodes("QuantizeLinear", "DequantizeLinear")
    # Once a QuantizeLinear to 4 bits is replaced, its output is float32.
    types = [dtype_of(v) for n in nodes for v in (n.inputs[0], n.outputs[0]) if v is not None]
    for node, before, after in zip(nodes, types[::2], types[1::2], strict=True):
        if before is None or after is None or dims(node.outputs[0]) is None:
            continue
        e = Expansion(editor, node, where)
        new = _quantize(e, before, after) if node.op_type == "QuantizeLinear" else _dequantize(e, before)
        if new is not None:
            editor.forward(node.outputs[0], new)
    return editor.changed


def _plain(e: Expansion, scale: ir.Value | None, zero: ir.Value | None) -> bool:
    """Whether there is one constant scale and zero point."""
    return e.known(scale, zero) and e.is_scalar(scale) and e.is_scalar(zero)


def _dequantize(e: Expansion, dtype: ir.DataType) -> ir.Value | None:
    """``dtype`` is the type of the codes."""
    x, scale, zero = e.inputs(3)
    codes = constant(x)
    if codes is not None and e.known(scale, zero):
        return _constant(e, codes, dtype, scale, zero)
    if dtype in _BYTES and _plain(e, scale, zero):
        return None
    real = x if dtype in SUB_BYTE and codes is None else e.real(x)
    if zero is not None and dtype != ir.DataType.INT32:
        real = e.op("Sub", real, _spread(e, zero))
    return e.op("Mul", real, _spread(e, scale), last=True)


def _quantize(e: Expansion, real: ir.DataType, dtype: ir.DataType) -> ir.Value | None:
    """``real`` is the type of the input, ``dtype`` that of the codes."""
    x, scale, zero = e.inputs(3)
    if constant(x) is not None or (dtype in _BYTES and real == ir.DataType.FLOAT and _plain(e, scale, zero)):
        return None
    low, high = (float(limit) for limit in limits(dtype))
    codes = e.op("Round", e.op("Div", e.real(x), _spread(e, scale)))
    if zero is not None:
        codes = e.op("Add", codes, _spread(e, zero))
    clamped = e.op("Clip", codes, e.number(low), e.number(high), last=True)
    return clamped if dtype in SUB_BYTE else e.op("Cast", clamped, to=int(dtype))


def limits(dtype: ir.DataType) -> tuple[int, int]:
    """The smallest and the largest integer of a type."""
    info = ml_dtypes.iinfo(dtype.numpy())
    return int(info.min), int(info.max)


def _spread(e: Expansion, parameter: ir.Value | None) -> ir.Value:
    """Scales or zero points of a tensor, of its channels or blocks: float32, in a shape that broadcasts with it."""
    value, given, whole = e.real(parameter), dims(parameter), dims(e.node.outputs[0])
    if given is None or whole is None or not given:
        return value
    if int(np.prod(given)) == 1:
        return e.op("Reshape", value, e.integers())
    axis, block = attr_int(e.node, "axis", 1) % len(whole), attr_int(e.node, "block_size", 0)
    if not block:
        return e.op("Reshape", value, e.integers(*_along(e, len(whole))))
    between = e.op("Unsqueeze", value, e.integers(axis + 1))
    repeated = e.op("Expand", between, e.integers(*given[: axis + 1], block, *given[axis + 1 :]))
    long = e.op("Reshape", repeated, e.integers(*given[:axis], given[axis] * block, *given[axis + 1 :]))
    if given[axis] * block == whole[axis]:
        return long
    return e.op("Slice", long, e.integers(0), e.integers(whole[axis]), e.integers(axis))


def _constant(
    e: Expansion, codes: np.ndarray, dtype: ir.DataType, scale: ir.Value | None, zero: ir.Value | None
) -> ir.Value | None:
    """Stored codes: the real values of 8-bit floats, and integers with a zero point of zero if they fit into int8."""
    factor, middle = constant(scale), constant(zero)
    assert factor is not None
    if dtype in FLOAT8:
        shaped = factor if factor.size == 1 else factor.reshape(_along(e, codes.ndim))
        return e.editor.initializer(codes.astype(np.float32) * shaped.astype(np.float32), f"{e.node.name}_real")
    if factor.dtype != np.float32:
        e.editor.set_input(e.node, 1, e.editor.initializer(factor.astype(np.float32), f"{e.node.name}_scale"))
    small = dtype in SUB_BYTE
    offset = np.zeros((), np.int64) if middle is None else middle.astype(np.int64)
    centred = not offset.any() if dtype != ir.DataType.UINT8 else bool((offset == 128).all())
    if dtype not in (*_BYTES, *SUB_BYTE) or (centred and not small):
        return None
    shifted = codes.astype(np.int64) - _repeated(e, offset, codes.shape)
    if shifted.min(initial=0) >= -128 and shifted.max(initial=0) <= 127:
        e.editor.set_input(e.node, 0, e.editor.initializer(shifted.astype(np.int8), f"{e.node.name}_codes"))
        if zero is not None:
            none = e.editor.initializer(np.zeros(offset.shape, np.int8), f"{e.node.name}_zero")
            e.editor.set_input(e.node, 2, none)
    return None


def _along(e: Expansion, rank: int) -> tuple[int, ...]:
    axis = attr_int(e.node, "axis", 1) % rank
    return tuple(-1 if i == axis else 1 for i in range(rank))


def _repeated(e: Expansion, offset: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Zero points in a shape that broadcasts with the codes."""
    block = attr_int(e.node, "block_size", 0)
    if offset.size == 1:
        return offset.reshape(())
    if not block:
        return offset.reshape(_along(e, len(shape)))
    axis = attr_int(e.node, "axis", 1) % len(shape)
    return np.repeat(offset, block, axis).take(range(shape[axis]), axis)
