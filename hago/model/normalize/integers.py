"""MatMulInteger and ConvInteger, exactly, by sums of products in float32 that are too small to be rounded.

An integer kernel returns the sum of products of codes as float32, which represents integers below 2**24. If a sum can
be larger, the reduction is cut into parts, whose sums are added as int32. A zero point that is known only at run time
(from DynamicQuantizeLinear) stays out of the product: its share of the sum is subtracted afterwards.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .edit import Editor, attr_int, constant, dims, dtype_of
from .qoperators import Expansion

_EXACT = 2**24  # float32 represents every integer up to here
_FLOAT, _INT32 = 1, 6


def expand_integers(graph: ir.Graph, where: str) -> int:
    """Replaces every MatMulInteger and ConvInteger whose shapes are known; the number of edits.

    Raises UnsupportedOpError for a convolution whose sums are too large for that.
    """
    editor = Editor(graph)
    for node in editor.nodes("MatMulInteger", "ConvInteger"):
        e = Expansion(editor, node, where)
        new = _matmul(e) if node.op_type == "MatMulInteger" else _conv(e)
        if new is not None:
            _forward(e, node.outputs[0], new)
    return editor.changed


def _forward(e: Expansion, old: ir.Value, new: ir.Value) -> None:
    """Replaces the old int32 sum; readers that cast it to float32 read it before the cast."""
    cast = new.producer()
    real = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
    if real is not None:
        for user, _ in list(old.uses()):
            if user.op_type == "Cast" and user.graph is e.editor.graph and attr_int(user, "to", 0) == _FLOAT:
                e.editor.forward(user.outputs[0], real)
    if old.uses() or old.is_graph_output():
        e.editor.forward(old, new)
    e.editor.discard(e.node)


def _reach(value: ir.Value | None, zero: np.ndarray | None) -> int:
    """The largest magnitude of a code minus its zero point, over all codes."""
    low, high = (-128, 127) if value is not None and dtype_of(value) == ir.DataType.INT8 else (0, 255)
    middle = np.zeros(1, np.int64) if zero is None else zero.astype(np.int64)
    return int(max(high - middle.min(), middle.max() - low))


def _codes(e: Expansion, value: ir.Value | None, zero: ir.Value | None, axis: int) -> ir.Value:
    """DequantizeLinear with scale 1, with a constant zero point (or None), which may vary along ``axis``."""
    array = constant(zero)
    ones = np.ones(() if array is None or array.size == 1 else array.reshape(-1).shape, np.float32)
    flat = zero if array is None or array.size == 1 else e.editor.initializer(array.reshape(-1), f"{e.node.name}_zero")
    return e.dequantize(value, e.editor.initializer(ones, f"{e.node.name}_one"), flat, axis)


def _runtime(zero: ir.Value | None) -> bool:
    return zero is not None and constant(zero) is None


def _minus(e: Expansion, value: ir.Value | None, zero: ir.Value | None, shape: tuple[int, ...] | None) -> ir.Value:
    """int32(value) - int32(zero), the zero point reshaped to ``shape`` first."""
    wide = e.op("Cast", value, to=_INT32)
    if zero is None:
        return wide
    offset = e.op("Cast", zero, to=_INT32)
    return e.op("Sub", wide, offset if shape is None else e.op("Reshape", offset, e.integers(*shape)))


def _total(e: Expansion, parts: list[ir.Value]) -> ir.Value:
    """The int32 sum of float32 parts."""
    total = e.op("Cast", parts[0], to=_INT32)
    for part in parts[1:]:
        total = e.op("Add", total, e.op("Cast", part, to=_INT32))
    return total


def _cuts(sizes: np.ndarray, limit: int) -> list[tuple[int, int]]:
    """The fewest ranges of rows of ``sizes`` [K, N] over which no column adds up to ``limit``."""
    found, start, total = [], 0, np.zeros(sizes.shape[1], np.int64)
    for k, row in enumerate(sizes):
        if k > start and (total + row).max() >= limit:
            found.append((start, k))
            start, total = k, np.zeros_like(total)
        total = total + row
    return [*found, (start, len(sizes))]


# --- MatMulInteger ----------------------------------------------------------------------------------


def _matmul(e: Expansion) -> ir.Value | None:
    a, b, a_zero, b_zero = e.inputs(4)
    a_shape, b_shape = dims(a), dims(b)
    if a_shape is None or b_shape is None:
        return None
    depth, late = b_shape[-2] if len(b_shape) > 1 else b_shape[0], _runtime(a_zero)
    weights, b_known = constant(b), constant(b_zero)
    reach = _reach(a, constant(a_zero))
    if weights is not None and weights.ndim == 2 and not _runtime(b_zero):
        real = weights.astype(np.int64) - (0 if b_known is None else b_known.astype(np.int64).reshape(1, -1))
        sizes = np.abs(real) * reach
    elif _runtime(b_zero):  # rare: int32 arithmetic at run time, then float32 products
        return _late_matmul(e, a, a_zero, b, b_zero)
    else:
        sizes = np.full((depth, 1), reach * _reach(b, b_known), np.int64)
    left = _left(e, a, None if late else a_zero)
    right = _codes(e, b, b_zero, -1)
    parts = []
    cuts = _cuts(sizes, _EXACT)
    for start, end in cuts:
        x, w = left, right
        if len(cuts) > 1:
            x = e.op("Slice", left, e.integers(start), e.integers(end), e.integers(-1))
            if weights is not None:
                piece = np.ascontiguousarray(weights[..., start:end, :])
                w = _codes(e, e.editor.initializer(piece, f"{e.node.name}_weight"), b_zero, -1)
            else:
                w = e.op("Slice", right, e.integers(start), e.integers(end), e.integers(-2))
        parts.append(e.op("MatMul", x, w, last=len(cuts) == 1))
    total = _total(e, parts)
    if late:
        columns = e.op("ReduceSum", _minus(e, b, b_zero, None), e.integers(-2), keepdims=1)
        total = e.op("Sub", total, e.op("Mul", _column(e, a_zero), columns))
    return total


def _left(e: Expansion, a: ir.Value | None, zero: ir.Value | None) -> ir.Value:
    """The left operand; a zero point per row varies along the last axis but one."""
    return _codes(e, a, zero, -2)


def _column(e: Expansion, zero: ir.Value | None) -> ir.Value:
    """A zero point as int32; one per row [M] as a column [M, 1]."""
    wide = e.op("Cast", zero, to=_INT32)
    shape = dims(zero)
    return e.op("Unsqueeze", wide, e.integers(1)) if shape is not None and len(shape) == 1 and shape[0] > 1 else wide


def _late_matmul(
    e: Expansion, a: ir.Value | None, a_zero: ir.Value | None, b: ir.Value | None, b_zero: ir.Value | None
) -> ir.Value | None:
    """Both zero points may be known only at run time."""
    shape = dims(b)
    assert shape is not None
    x = e.op("Cast", a, to=_INT32)
    x = x if a_zero is None else e.op("Sub", x, _column(e, a_zero))
    left = e.op("Cast", x, to=_FLOAT)
    right = e.op("Cast", _minus(e, b, b_zero, None), to=_FLOAT)
    parts, step = [], _EXACT // (255 * 255)
    for start in range(0, shape[-2], step):
        ends = e.integers(start), e.integers(min(start + step, shape[-2]))
        parts.append(
            e.op("MatMul", e.op("Slice", left, *ends, e.integers(-1)), e.op("Slice", right, *ends, e.integers(-2)))
        )
    return _total(e, parts)


# --- ConvInteger ------------------------------------------------------------------------------------


def _conv(e: Expansion) -> ir.Value | None:
    x, w, x_zero, w_zero = e.inputs(4)
    x_shape, w_shape = dims(x), dims(w)
    if x_shape is None or w_shape is None:
        return None
    weights, known, attributes = constant(w), constant(w_zero), e.attributes()
    late, rank = _runtime(x_zero), len(w_shape)
    reach = _reach(x, constant(x_zero))
    spread = (-1, *(1,) * (rank - 1))
    if weights is None or _runtime(w_zero):
        taps = int(np.prod(w_shape[1:]))
        if taps * reach * 255 >= _EXACT:
            raise e.refuse(
                "its weights are known only at run time, and its sums may exceed 2**24", "make its weights constant"
            )
        kernel = e.op("Cast", _minus(e, w, w_zero, spread), to=_FLOAT)
        pieces: list[tuple[ir.Value | None, tuple[int, int] | None]] = [(kernel, None)]
    else:
        real = weights.astype(np.int64) - (0 if known is None else known.astype(np.int64).reshape(spread))
        sizes = np.abs(real).reshape(w_shape[0], w_shape[1], -1).sum(2).T * reach
        pieces = [(None, cut) for cut in _cuts(sizes, _EXACT)]
    source = _codes(e, x, None if late else x_zero, 0)
    parts = []
    for kernel_value, cut in pieces:
        if kernel_value is None:
            assert weights is not None and cut is not None
            piece = np.zeros_like(weights) + (0 if known is None else known.reshape(spread).astype(weights.dtype))
            piece[:, cut[0] : cut[1]] = weights[:, cut[0] : cut[1]]
            kernel_value = _codes(e, e.editor.initializer(piece, f"{e.node.name}_weight"), w_zero, 0)
        parts.append(e.op("Conv", source, kernel_value, last=len(pieces) == 1, **attributes))
    total = _total(e, parts)
    if late:
        # The zero point's share of a sum: itself times the weights that meet the image, not its padding.
        ones = e.editor.initializer(np.ones((1, *x_shape[1:]), np.float32), f"{e.node.name}_ones")
        kernel_sum = e.op("Cast", _minus(e, w, w_zero, spread), to=_FLOAT)
        met = e.op("Cast", e.op("Conv", ones, kernel_sum, **attributes), to=_INT32)
        total = e.op("Sub", total, e.op("Mul", e.op("Cast", x_zero, to=_INT32), met))
    return total
