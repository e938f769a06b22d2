"""Constant weights of anchors: stored integers with their scales, in the order that the hago ops take.

Two-level group scales: scale[o, g] = channel_scale[o] * mult[o, g] with mult an integer in 1..15
(VS-Quant, Dai et al. 2021, arXiv 2102.04503).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..scheme import MAX_MULTIPLIER
from .source import Codes


@dataclass(frozen=True)
class IntegerWeight:
    """codes int8 [O, ...], scale float32 [1] or [O], and for groups mult int32 [O, G] of ``group_size``."""

    codes: np.ndarray
    scale: np.ndarray
    mult: np.ndarray | None = None
    group_size: int = 0


def integer_weight(
    codes: Codes, out_axis: int, group_axis: int, base_scale: np.ndarray | None = None
) -> IntegerWeight | None:
    """The weight with output channels first, or None if hago's integer ops cannot represent it.

    They represent int8 and uint8 codes with the zero point in the middle of the range, scales per tensor,
    per output channel, or per group of ``group_axis`` with two levels. ``base_scale`` [O] is the
    channel scale to try first, the one that the bias was quantized with.
    """
    stored = _signed(codes)
    if stored is None:
        return None
    stored = np.moveaxis(stored, out_axis, 0)
    outputs = stored.shape[0]
    if codes.block_size:
        if codes.axis != group_axis:
            return None
        scale = np.moveaxis(codes.scale, out_axis, 0)
        # [O, G, ...]: equal along all other axes, or it is no scale per group.
        scale = np.moveaxis(scale, 1 + group_axis - (out_axis < group_axis), 1)
        flat = scale.reshape(outputs, scale.shape[1], -1)
        if not np.array_equal(flat, np.broadcast_to(flat[..., :1], flat.shape)):
            return None
        levels = two_level(flat[..., 0], base_scale)
        return None if levels is None else IntegerWeight(stored, *levels, codes.block_size)
    if codes.scale.size == 1:
        return IntegerWeight(stored, codes.scale.reshape(1))
    if codes.axis != out_axis or codes.scale.size != outputs:
        return None
    return IntegerWeight(stored, codes.scale.reshape(-1))


def _signed(codes: Codes) -> np.ndarray | None:
    """int8 codes with zero point 0, or None."""
    if codes.codes.dtype == np.int8 and not codes.zero_point.any():
        return codes.codes
    if codes.codes.dtype == np.uint8 and bool((codes.zero_point == 128).all()):
        return (codes.codes ^ np.uint8(128)).view(np.int8)
    return None


def two_level(scale: np.ndarray, base: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray] | None:
    """(channel scale float32 [O], mult int32 [O, G]) whose product is ``scale`` [O, G], or None."""
    exact = scale.astype(np.float64)
    channel = np.zeros(len(exact))
    least = exact.min(axis=1)
    candidates = [] if base is None else [base.astype(np.float64)]
    candidates += [least / divisor for divisor in range(1, MAX_MULTIPLIER + 1)]
    for candidate in candidates:
        ratio = exact / candidate[:, None]
        mult = np.rint(ratio)
        # float32 products are within 2**-24 of the exact ones, and so is the divided minimum.
        fits = ((np.abs(ratio - mult) <= 4e-6 * mult) & (mult >= 1) & (mult <= MAX_MULTIPLIER)).all(axis=1)
        channel = np.where((channel == 0) & fits, candidate, channel)
        if (channel > 0).all():
            break
    else:
        return None
    return channel.astype(np.float32), np.rint(exact / channel[:, None]).astype(np.int32)


def with_integer_bias(
    codes: np.ndarray, factor: np.ndarray, real: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(codes, factor float64, bias int32 [O]) with bias = rint(real / factor), or None if not finite.

    A channel whose bias would not fit in int32 (its weights are close to zero) gets a factor that is larger by a
    power of two, and its weight codes are rounded to match: relative to a bias of 2**29 steps that
    error is below one part in 2**29 per product.
    """
    factor = np.broadcast_to(factor.astype(np.float64), real.shape)
    if not (np.isfinite(real).all() and np.isfinite(factor).all() and (factor >= 0).all()):
        return None
    # A factor of zero means that all weights of the channel are zero: any factor will do.
    steps = np.abs(real) / np.where(factor > 0, factor, 1.0)
    shift = np.where(steps >= 2.0**30, np.ceil(np.log2(np.maximum(steps, 1.0))) - 29, 0.0)
    dead = (factor == 0) | ~np.isfinite(shift)
    if shift.any() or dead.any():
        divisor = 2.0 ** np.where(dead, 0.0, np.minimum(shift, 1000.0))
        rows = np.where(dead, 0.0, 1.0 / divisor).reshape(-1, *(1,) * (codes.ndim - 1))
        codes = np.rint(codes * rows).astype(np.int8)
        factor = np.where(dead, np.maximum(np.abs(real), 1e-30) / 2.0**29, factor * divisor)
    return codes, factor, np.rint(real / factor).astype(np.int32)


def sum_fits(codes: np.ndarray, bias: np.ndarray, zero_point: int, mult: np.ndarray | None) -> bool:
    """Whether no sum of products with uint8 codes (minus ``zero_point``) plus bias can overflow int32."""
    reach = max(zero_point, 255 - zero_point)
    largest = int(np.abs(bias.astype(np.int64)).max(initial=0))
    products = codes[0].size * 128 * reach * (int(mult.max()) if mult is not None else 1)
    if products + largest < 2**31:
        return True
    rows = np.abs(codes.reshape(len(codes), -1).astype(np.int64))
    most = int(rows.sum(axis=1).max()) * reach * (int(mult.max()) if mult is not None else 1)
    return most + largest < 2**31
