"""Data movement at regular strides: Transpose, Slice, Split, Expand, DepthToSpace ...

The kernels take any element type, seen as unsigned integers of its width; x and y may not overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ...errors import BuildError
from ...tensor import TensorType
from ..common.calls import KernelCall, NodeView, known
from ..common.flat import Expr, Flat, primfunc, unravel
from .families import Isa
from .registry import emits
from .transpose import order, permute
from .vector import chunks, copy_lanes, rows, spans


@dataclass(frozen=True)
class Permute:
    """Shape ``x``, seen as ``shape``, transposed by ``perm``, and seen as ``y``."""

    dtype: str
    x: tuple[int, ...]
    y: tuple[int, ...]
    shape: tuple[int, ...]
    perm: tuple[int, ...]


def permuted(params: Permute, isa: Isa, threads: int) -> Any:
    """(x [shape]) -> y [shape[perm]]."""
    how, lanes = order(params.shape, params.perm), copy_lanes(isa, params.dtype)

    def body(x: Flat, y: Flat) -> None:
        permute(x, y, how, lanes, threads)

    x, y = TensorType(params.dtype, params.x), TensorType(params.dtype, params.y)
    return primfunc([x], [y], body, raw=True)


@dataclass(frozen=True)
class Strided:
    """y[i, j, ...] = x.flat[offset + i * strides[0] + j * strides[1] ...], with shape ``y`` seen as ``dims``.

    Strides count elements; they may be 0 or negative.
    """

    dtype: str
    x: tuple[int, ...]
    y: tuple[int, ...]
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


def strided(params: Strided, isa: Isa, threads: int) -> Any:
    """(x) -> y [dims]: vectors run along the last dimension, rows are cut into threads."""
    lanes, offset = copy_lanes(isa, params.dtype), params.offset
    inner, outer = params.dims[-1], params.dims[:-1]
    step = params.strides[-1]

    def body(x: Flat, y: Flat) -> None:
        def move(to: Expr, start: Expr, width: int) -> None:
            y.store(to, x.load(start, width) if step == 1 else x.strided(start, step, width), width)

        if not outer:
            chunks(inner, lanes, threads, y.size, lambda i, width: move(i, i * step + offset, width))
            return

        def row_body(row: Expr) -> None:
            at = unravel(row, outer)
            start = sum((i * s for i, s in zip(at, params.strides, strict=False) if s), offset)
            spans(inner, lanes, lambda i, width: move(row * inner + i, start + i * step, width))

        rows(prod(outer), threads, y.size, row_body)

    x, y = TensorType(params.dtype, params.x), TensorType(params.dtype, params.y)
    return primfunc([x], [y], body, raw=True)


def strided_params(x: TensorType, y: TensorType, strides: Sequence[int], offset: int) -> Strided:
    """The parameters with the fewest dimensions; ``strides`` are x's, one for each dimension of ``y``."""
    dims: list[int] = []
    steps: list[int] = []
    for size, stride in zip(y.shape, strides, strict=True):
        if size == 1:
            continue
        if dims and steps[-1] == stride * size:
            dims[-1] *= size
            steps[-1] = stride
        else:
            dims.append(size)
            steps.append(stride)
    return Strided(x.dtype, x.shape, y.shape, tuple(dims or [1]), tuple(steps or [1]), offset)


def contiguous_strides(shape: Sequence[int]) -> list[int]:
    """Distance in elements between neighbours along each dimension of a row-major tensor."""
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def call(node: NodeView, params: Any, template: Any, inputs: Sequence[str | np.ndarray], output: str) -> KernelCall:
    """A call of this family with one output."""
    return KernelCall("movement", params, template, tuple(inputs), (output,), node.layer)


def _emit_permute(node: NodeView, shape: Sequence[int], perm: Sequence[int]) -> list[KernelCall]:
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    params = Permute(x.dtype, x.shape, y.shape, tuple(shape), tuple(perm))
    return [call(node, params, permuted, node.inputs[:1], node.outputs[0])]


@emits("", "Transpose")
def emit_transpose(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """Transpose."""
    shape = node.type(node.inputs[0]).shape
    return _emit_permute(node, shape, node.attrs.get("perm") or range(len(shape))[::-1])


@emits("", "DepthToSpace")
def emit_depth_to_space(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """DepthToSpace as a transposition."""
    n, c, h, w = node.type(node.inputs[0]).shape
    b = int(node.attrs["blocksize"])
    if node.attrs.get("mode", "DCR") == "DCR":
        return _emit_permute(node, (n, b, b, c // (b * b), h, w), (0, 3, 4, 1, 5, 2))
    return _emit_permute(node, (n, c // (b * b), b, b, h, w), (0, 1, 4, 2, 5, 3))


@emits("", "SpaceToDepth")
def emit_space_to_depth(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """SpaceToDepth as a transposition."""
    n, c, h, w = node.type(node.inputs[0]).shape
    b = int(node.attrs["blocksize"])
    return _emit_permute(node, (n, c, h // b, b, w // b, b), (0, 3, 5, 1, 2, 4))


@emits("", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
def emit_alias(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """A plain copy. The build treats these operators as another view of the same memory and emits no call."""
    return emit_copy(node)


def emit_copy(node: NodeView) -> list[KernelCall]:
    """The call that copies the first input to the output, whatever the shapes."""
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    params = Strided(x.dtype, x.shape, y.shape, (x.size,), (1,), 0)
    return [call(node, params, strided, node.inputs[:1], node.outputs[0])]


@emits("", "Expand")
def emit_expand(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """Expand: broadcasting to a shape."""
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    shape = (1,) * (len(y.shape) - len(x.shape)) + x.shape
    strides = [s if size > 1 else 0 for s, size in zip(contiguous_strides(shape), shape, strict=True)]
    return [call(node, strided_params(x, y, strides, 0), strided, node.inputs[:1], node.outputs[0])]


@emits("", "Slice")
def emit_slice(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """Slice with constant bounds."""
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    starts, ends = known(node, 1, "the starts"), known(node, 2, "the ends")
    if starts is None or ends is None:
        raise BuildError("Slice needs starts and ends", where=node.name)
    axes, steps = known(node, 3, "the axes"), known(node, 4, "the steps")
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    strides, offset = contiguous_strides(x.shape), 0
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes.tolist(), steps.tolist(), strict=True):
        at = axis % len(x.shape)
        offset += slice(start, _end(end, step), step).indices(x.shape[at])[0] * strides[at]
        strides[at] *= step
    return [call(node, strided_params(x, y, strides, offset), strided, node.inputs[:1], node.outputs[0])]


def _end(end: int, step: int) -> int | None:
    """ONNX writes "down to the first, inclusive" as a very negative end, which Python would wrap around."""
    return None if step < 0 and end < -(2**31) + 1 else end


@emits("", "Split")
def emit_split(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """Split as one slice for each output."""
    x = node.type(node.inputs[0])
    axis = int(node.attrs.get("axis", 0)) % len(x.shape)
    strides, begin, calls = contiguous_strides(x.shape), 0, []
    for name in node.outputs:
        y = node.type(name)
        params = strided_params(x, y, strides, begin * strides[axis])
        calls.append(call(node, params, strided, node.inputs[:1], name))
        begin += y.shape[axis]
    return calls
