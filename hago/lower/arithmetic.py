"""Exact numpy arithmetic of the hago ops, as plain functions.

Notation: N batch, H W height and width, C input channels, O output channels, G groups, KH KW kernel.
Sums of integer products are computed as float32 or float64 matrix products: both are exact as long as
every partial sum is below 2**24 or 2**53.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray


def requantize(acc: Array, scale: Array | np.float32, zero_point: int, lo: int, hi: int) -> Array:
    """uint8: clamp(rint(float32(acc) * scale), lo - zero_point, hi - zero_point) + zero_point."""
    rounded = np.rint(acc.astype(np.float32) * scale)
    return (np.clip(rounded, lo - zero_point, hi - zero_point).astype(np.int32) + zero_point).astype(np.uint8)


def fma(a: Array, b: Array | np.float32, c: Array | np.float32) -> Array:
    """float32(a * b + c) with one rounding, like the instruction.

    The product of two float32 is exact in float64. Their sum is rounded to odd there (Boldo and Melquiond 2008),
    so that rounding it again, to float32, gives what a single rounding would.
    """
    product, addend = a.astype(np.float64) * np.float64(b), np.asarray(c, np.float64)
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    even = (total.view(np.int64) & 1) == 0
    odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where((error != 0) & even, odd, total).astype(np.float32)


def weighted_sum(a: Array, b: Array, a_scale: float, b_scale: float, offset: float, lo: int, hi: int) -> Array:
    """uint8: clamp(rint(fma(a, a_scale, fma(b, b_scale, offset))), lo, hi) of two arrays of codes."""
    inner = fma(b.astype(np.float32), np.float32(b_scale), np.float32(offset))
    total = fma(a.astype(np.float32), np.float32(a_scale), inner)
    return np.rint(np.clip(total, lo, hi)).astype(np.uint8)


def epilogue(acc: Array, scale: Array | np.float32, attrs: Mapping[str, Any]) -> Array:
    """The result of an operator from its int32 sums; ``scale`` broadcasts along the last axis."""
    if attrs["out"] == "uint8":
        return requantize(acc, scale, attrs["y_zero_point"], attrs["lo"], attrs["hi"])
    real = acc.astype(np.float32) * scale
    return np.minimum(np.maximum(real, np.float32(attrs["act_lo"])), np.float32(attrs["act_hi"]))


def finish(acc: Array, scale: Array, table: Array | None, r: Array | None, attrs: Mapping[str, Any]) -> Array:
    """`epilogue`, then the table, then the residual."""
    y = epilogue(acc, scale, attrs)
    if table is not None:
        y = table[y]
    if r is not None:
        first, second = (r, y) if attrs["r_first"] else (y, r)
        numbers = attrs["a_scale"], attrs["b_scale"], attrs["r_offset"], attrs["r_lo"], attrs["r_hi"]
        y = weighted_sum(first, second, *numbers)
    return y


def pad_image(x: Array, pads: Sequence[int], value: Any) -> Array:
    """[N, H, W, C] with ``pads`` (top, left, bottom, right) of ``value``."""
    if not any(pads):
        return x
    top, left, bottom, right = pads
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def windows(x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Array:
    """A view [N, OH, OW, KH, KW, C] of the padded image [N, H, W, C]."""
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(1, 2))
    view = view[:, :: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]
    return view.transpose(0, 1, 2, 4, 5, 3)


def exact_dtype(terms: int, largest: int) -> type[np.floating[Any]]:
    """The float type in which a sum of ``terms`` integers up to ``largest`` is exact."""
    return np.float32 if terms * largest < 2**24 else np.float64


def conv_sums(x: Array, w: Array, attrs: Mapping[str, Any], dtype: Any) -> Array:
    """sum x * w over the window, as ``dtype``: [N, OH, OW, O]; ``x`` is already padded, its zero point subtracted."""
    group = attrs["group"]
    outputs, kh, kw, depth = w.shape
    view = windows(x, (kh, kw), attrs["strides"], attrs["dilations"])
    n, oh, ow = view.shape[:3]
    if group > 1 and depth == 1 and outputs == group:
        total = np.zeros((n, oh, ow, outputs), dtype)
        for i in range(kh):
            for j in range(kw):
                total += view[:, :, :, i, j, :] * w[:, i, j, 0].astype(dtype)
        return total
    per = outputs // group
    parts = []
    for g in range(group):
        columns = view[..., g * depth : (g + 1) * depth].reshape(n * oh * ow, -1)
        rows = w[g * per : (g + 1) * per].reshape(per, -1).astype(dtype)
        parts.append((columns @ rows.T).reshape(n, oh, ow, per))
    return parts[0] if group == 1 else np.concatenate(parts, axis=-1)


def integer_conv(x: Array, w: Array, bias: Array, mult: Array | None, attrs: Mapping[str, Any]) -> Array:
    """int32 sums [N, OH, OW, O] of a QConv."""
    depth = w.shape[-1]
    dtype = exact_dtype(w[0].size, 255 * 128)
    offset = x.astype(dtype) - dtype(attrs["x_zero_point"])
    padded = pad_image(offset, attrs["pads"], 0)
    if mult is None:
        total = conv_sums(padded, w, attrs, dtype).astype(np.int64)
    else:
        size, total = attrs["group_size"], np.zeros((), np.int64)
        for g in range(mult.shape[1]):
            part = np.zeros_like(w)
            part[..., g * size : min((g + 1) * size, depth)] = w[..., g * size : min((g + 1) * size, depth)]
            total = total + conv_sums(padded, part, attrs, dtype).astype(np.int64) * mult[:, g].astype(np.int64)
    return (total + bias.astype(np.int64)).astype(np.int32)


def integer_gemm(x: Array, w: Array, bias: Array, mult: Array | None, attrs: Mapping[str, Any]) -> Array:
    """int32 sums [..., N] of a QGemm."""
    dtype = exact_dtype(w.shape[1], 255 * 128)
    offset = x.astype(dtype) - dtype(attrs["x_zero_point"])
    if mult is None:
        total = (offset @ w.T.astype(dtype)).astype(np.int64)
    else:
        size, total = attrs["group_size"], np.zeros((), np.int64)
        for g in range(mult.shape[1]):
            columns = slice(g * size, (g + 1) * size)
            part = (offset[..., columns] @ w[:, columns].T.astype(dtype)).astype(np.int64)
            total = total + part * mult[:, g].astype(np.int64)
    return (total + bias.astype(np.int64)).astype(np.int32)


def window_counts(shape: Sequence[int], attrs: Mapping[str, Any]) -> Array:
    """How many positions of each window count, [OH, OW]: all with count_include_pad, else those inside the image."""
    ones = np.ones((1, shape[1], shape[2], 1), np.int32)
    padded = pad_image(ones, attrs["pads"], int(attrs["count_include_pad"]))
    view = windows(padded, attrs["kernel_shape"], attrs["strides"], attrs["dilations"])
    return view.sum(axis=(3, 4, 5))[0]
