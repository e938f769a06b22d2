"""Anchors (convolutions, fully connected layers, matrix products) as the emitters of every target read their nodes.

What depends on the calibration reaches a kernel in two small buffers, so that no code depends on it:

    bounds f32 [7]   lo, hi (less the zero point if the result is an integer), r_lo, r_hi, a_scale, b_scale, offset
    zero   i32 [3]   zero points of x, of y and, in a product of two activations, of the second one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import BuildError
from .calls import NodeView

BOUNDS, ZEROS = 7, 3
"""Elements of the two buffers."""


def bounds(low: float, high: float, residual: Sequence[float] = ()) -> np.ndarray:
    """The buffer ``bounds`` as kernels take it; ``residual`` are its last five elements."""
    return np.array([low, high, *(residual or (0.0,) * 5)], np.float32)


def zeros(x: int, y: int = 0, second: int = 0) -> np.ndarray:
    """The buffer ``zero`` as kernels take it."""
    return np.array([x, y, second], np.int32)


def bounds_of(node: NodeView, residual: bool = False) -> np.ndarray:
    """The buffer ``bounds`` of an anchor; ``residual``: with the numbers of its quantized addition."""
    a = node.attrs
    if a.get("out", "float32") == "float32":
        low, high = a.get("act_lo", -np.inf), a.get("act_hi", np.inf)
    else:
        low, high = a["lo"] - int(a["y_zero_point"]), a["hi"] - int(a["y_zero_point"])
    added = [float(a[name]) for name in ("r_lo", "r_hi", "a_scale", "b_scale", "r_offset")] if residual else []
    return bounds(low, high, added)


def geometry(node: NodeView) -> dict[str, Any]:
    """Strides, pads and dilations of a convolution, by name, as tuples of integers."""
    names = (("strides", (1, 1)), ("pads", (0, 0, 0, 0)), ("dilations", (1, 1)))
    return {name: tuple(int(v) for v in node.attrs.get(name, default)) for name, default in names}


def roles(node: NodeView) -> dict[str, Any]:
    """The optional inputs behind the scale, by role: arrays of constants, the name of ``r``."""
    found: dict[str, Any] = {}
    for role, name in zip(("mult", "table", "r"), node.inputs[4:], strict=False):
        if name:
            found[role] = name if role == "r" else value(node, name)
    return found


def bias_of(node: NodeView, channels: int, dtype: Any) -> np.ndarray:
    """The bias [O], or zeros."""
    if len(node.inputs) < 3 or not node.inputs[2]:
        return np.zeros(channels, dtype)
    return np.ascontiguousarray(value(node, node.inputs[2]).astype(dtype))


def integer_bias(node: NodeView, weight_sums: np.ndarray, zero_x: int) -> np.ndarray:
    """int32 [O]: the bias, less what the input's zero point adds to every sum; ``weight_sums`` is int64 [O]."""
    bias = bias_of(node, len(weight_sums), np.int64) - zero_x * weight_sums
    if np.abs(bias).max(initial=0) > 2**31 - 1:
        raise BuildError("the bias, less the zero point's share, does not fit in int32", where=f"node {node.name!r}")
    return bias.astype(np.int32)


def scale_of(node: NodeView, channels: int) -> np.ndarray:
    """float32 [O]: the scale of the sums of each channel."""
    return np.broadcast_to(constant(node, 3).astype(np.float32), (channels,))


def constant(node: NodeView, index: int) -> np.ndarray:
    """The value of an input. Raises BuildError if it is computed at run time."""
    return value(node, node.inputs[index])


def value(node: NodeView, name: str) -> np.ndarray:
    """The value of a constant by its name, like `constant`."""
    found = node.constant(name)
    if found is None:
        raise BuildError(f"input {name!r} must be a constant", where=f"node {node.name!r} ({node.op})")
    return found
