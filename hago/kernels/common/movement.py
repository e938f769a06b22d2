"""Data movement at regular strides, on any target: Transpose, Slice, Split, Expand, DepthToSpace ..."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ...errors import BuildError
from ...tensor import TensorType
from .calls import NodeView, known
from .plans import Plan, plans


@dataclass(frozen=True)
class Permute:
    """Shape ``x``, seen as ``shape``, transposed by ``perm``, and seen as ``y``."""

    dtype: str
    x: tuple[int, ...]
    y: tuple[int, ...]
    shape: tuple[int, ...]
    perm: tuple[int, ...]


@dataclass(frozen=True)
class Order:
    """Output dimensions after merging, and the input's element stride along each."""

    dims: tuple[int, ...]
    strides: tuple[int, ...]


def order(shape: Sequence[int], perm: Sequence[int]) -> Order:
    """What ``perm`` (numpy's transpose) does to ``shape``, in the fewest dimensions."""
    below = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
    dims: list[int] = []
    strides: list[int] = []
    for axis in perm:
        if shape[axis] == 1:
            continue
        if dims and strides[-1] == below[axis] * shape[axis]:
            dims[-1] *= shape[axis]
            strides[-1] = below[axis]
        else:
            dims.append(shape[axis])
            strides.append(below[axis])
    return Order(tuple(dims or [1]), tuple(strides or [1]))


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


def table_starts(axes: Sequence[int], shape: Sequence[int]) -> tuple[dict[int, int], int]:
    """Where the table of each axis begins, of tables one after the other with shape[axis] entries, and their total."""
    starts, count = {}, 0
    for axis in axes:
        starts[axis] = count
        count += shape[axis]
    return starts, count


def contiguous_strides(shape: Sequence[int]) -> list[int]:
    """Distance in elements between neighbours along each dimension of a row-major tensor."""
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def plan(params: Any, inputs: Sequence[str | np.ndarray], output: str) -> Plan:
    """A plan of this family with one output."""
    return Plan("movement", params, tuple(inputs), (output,))


def _plan_permute(node: NodeView, shape: Sequence[int], perm: Sequence[int]) -> list[Plan]:
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    params = Permute(x.dtype, x.shape, y.shape, tuple(shape), tuple(perm))
    return [plan(params, node.inputs[:1], node.outputs[0])]


@plans("", "Transpose")
def plan_transpose(node: NodeView) -> Sequence[Plan]:
    """Transpose."""
    shape = node.type(node.inputs[0]).shape
    return _plan_permute(node, shape, node.attrs.get("perm") or range(len(shape))[::-1])


@plans("", "DepthToSpace")
def plan_depth_to_space(node: NodeView) -> Sequence[Plan]:
    """DepthToSpace as a transposition."""
    n, c, h, w = node.type(node.inputs[0]).shape
    b = int(node.attrs["blocksize"])
    if node.attrs.get("mode", "DCR") == "DCR":
        return _plan_permute(node, (n, b, b, c // (b * b), h, w), (0, 3, 4, 1, 5, 2))
    return _plan_permute(node, (n, c // (b * b), b, b, h, w), (0, 1, 4, 2, 5, 3))


@plans("", "SpaceToDepth")
def plan_space_to_depth(node: NodeView) -> Sequence[Plan]:
    """SpaceToDepth as a transposition."""
    n, c, h, w = node.type(node.inputs[0]).shape
    b = int(node.attrs["blocksize"])
    return _plan_permute(node, (n, c, h // b, b, w // b, b), (0, 3, 5, 1, 2, 4))


@plans("", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
def plan_alias(node: NodeView) -> Sequence[Plan]:
    """A plain copy. The build treats these operators as another view of the same memory and emits no call."""
    return plan_copy(node)


def plan_copy(node: NodeView) -> list[Plan]:
    """The plan that copies the first input to the output, whatever the shapes."""
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    params = Strided(x.dtype, x.shape, y.shape, (x.size,), (1,), 0)
    return [plan(params, node.inputs[:1], node.outputs[0])]


@plans("", "Expand")
def plan_expand(node: NodeView) -> Sequence[Plan]:
    """Expand: broadcasting to a shape."""
    x, y = node.type(node.inputs[0]), node.type(node.outputs[0])
    shape = (1,) * (len(y.shape) - len(x.shape)) + x.shape
    strides = [s if size > 1 else 0 for s, size in zip(contiguous_strides(shape), shape, strict=True)]
    return [plan(strided_params(x, y, strides, 0), node.inputs[:1], node.outputs[0])]


@plans("", "Slice")
def plan_slice(node: NodeView) -> Sequence[Plan]:
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
    return [plan(strided_params(x, y, strides, offset), node.inputs[:1], node.outputs[0])]


def _end(end: int, step: int) -> int | None:
    """ONNX writes "down to the first, inclusive" as a very negative end, which Python would wrap around."""
    return None if step < 0 and end < -(2**31) + 1 else end


@plans("", "Split")
def plan_split(node: NodeView) -> Sequence[Plan]:
    """Split as one slice for each output."""
    x = node.type(node.inputs[0])
    axis = int(node.attrs.get("axis", 0)) % len(x.shape)
    strides, begin, calls = contiguous_strides(x.shape), 0, []
    for name in node.outputs:
        y = node.type(name)
        params = strided_params(x, y, strides, begin * strides[axis])
        calls.append(plan(params, node.inputs[:1], name))
        begin += y.shape[axis]
    return calls
