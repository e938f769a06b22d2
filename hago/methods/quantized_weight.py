"""Weights as integers, per tensor, per channel or per group, always symmetric, rounded to nearest.

Notation: w [..., O, ..., I, ...] weights with output channels on ``out_axis`` and input channels on
``in_axis``; q = clamp(rint(w / s), -qmax, qmax), so that |w - s*q| <= s/2 wherever nothing is clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import ModelError, StrategyError
from ..scheme import MAX_MULTIPLIER, Granularity, IntegerType

# Below this the product of two scales would leave the normal float32 numbers. Smaller weights are zeros.
MIN_SCALE = np.float32(2.0**-60)

Thresholds = Callable[[npt.NDArray[np.float32], int], npt.NDArray[np.float32]]
"""Returns the clipping thresholds [R], given magnitudes [R, n], whose rows have one scale each, and qmax."""

# Largest group multiplier times a channel scale must be exact in float32: 24 bits less 4.
_CHANNEL_SCALE_BITS = 20


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """Integers and scales of one weight tensor.

    ``values`` int8, shaped as the float weights. ``scale`` float32: shape [] per tensor, [O] per channel
    or per group; for groups the scale of group g of channel o is ``scale[o] * multipliers[o, g]``, which is
    exact in float32, and the largest multiplier of each channel is 15.
    """

    values: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    scheme: IntegerType
    out_axis: int
    in_axis: int
    group_size: int = 0
    multipliers: npt.NDArray[np.int32] | None = None

    @property
    def outputs(self) -> int:
        """Output channels O."""
        return self.values.shape[self.out_axis]

    def group_scale(self) -> npt.NDArray[np.float32]:
        """Scales of the groups, float32 [O, G], if there are groups."""
        assert self.multipliers is not None
        return self.scale[:, None] * self.multipliers.astype(np.float32)

    def full_scale(self) -> npt.NDArray[np.float32]:
        """The scale of every weight, broadcastable to ``values``."""
        if self.multipliers is None:
            return _on_axis(self.scale, self.values.ndim, self.out_axis)
        return _spread_groups(self.group_scale(), self.group_size, self.values.ndim, self.out_axis, self.in_axis)

    def absolute_sums(self) -> npt.NDArray[np.int64]:
        """sum of |q| (times the group's multiplier) per output channel, int64 [O].

        Times the largest |x - zero_point|, this bounds the accumulator.
        """
        moved = np.moveaxis(self.values, (self.out_axis, self.in_axis), (0, 1))
        if self.multipliers is None:
            return np.abs(moved).sum(axis=tuple(range(1, moved.ndim)), dtype=np.int64)
        groups = self.multipliers.shape[1]
        split = moved.reshape(moved.shape[0], groups, self.group_size, *moved.shape[2:])
        sums = np.abs(split).sum(axis=tuple(range(2, split.ndim)), dtype=np.int64)
        return (sums * self.multipliers).sum(axis=1)

    def dequantize(self) -> npt.NDArray[np.float32]:
        """float32 values * scale, shaped as the float weights."""
        return self.values.astype(np.float32) * self.full_scale()


def quantize_weight(
    weight: npt.NDArray[np.float32],
    scheme: IntegerType,
    granularity: Granularity,
    *,
    out_axis: int = 0,
    in_axis: int = 1,
    thresholds: Thresholds | None = None,
    min_scale: npt.NDArray[np.float32] | None = None,
    where: str | None = None,
) -> QuantizedWeight:
    """Quantizes weights [.. O .. I ..] symmetrically; ties round to even.

    ``thresholds`` says where the weights of each scale are clipped, instead of at their max|w|.
    ``min_scale`` ([] or [O]) is a lower bound of the scales, for a bias that would not fit
    otherwise. Channels that hold only zeros take the scale that the whole tensor would have.

    Raises ModelError where the weights hold NaN or infinity, StrategyError where the scheme is not
    symmetric and signed or the groups do not divide the input channels.
    """
    if not (scheme.signed and scheme.symmetric):
        raise StrategyError(f"weights are quantized to symmetric signed integers, not {scheme}", where=where)
    weight = np.asarray(weight, np.float32)
    qmax = scheme.qmax
    magnitude = np.abs(weight)
    whole = np.float32(magnitude.max(initial=0.0))
    if not np.isfinite(whole):
        raise ModelError("weights hold NaN or infinity", where=where, hint="repair or retrain the model")
    rows = _rows(magnitude, granularity, out_axis, in_axis, where)
    peaks = rows.max(axis=1, initial=0.0) if thresholds is None else thresholds(rows, qmax)
    multipliers = None
    if granularity.kind == "per_tensor":
        scale = _scale_of(peaks.reshape(()), whole, qmax)
        if min_scale is not None:
            scale = np.maximum(scale, np.max(min_scale)).astype(np.float32)
    elif granularity.kind == "per_channel":
        scale = _scale_of(peaks, whole, qmax)
        if min_scale is not None:
            scale = np.maximum(scale, min_scale)
    else:
        groups = weight.shape[in_axis] // granularity.group_size
        scale, multipliers = two_level_scales(peaks.reshape(weight.shape[out_axis], groups), whole, qmax, min_scale)
    scale = np.asarray(scale, np.float32)
    empty = np.empty(0, np.int8)
    result = QuantizedWeight(empty, scale, scheme, out_axis, in_axis, granularity.group_size, multipliers)
    full = (
        _on_axis(scale, weight.ndim, out_axis)
        if multipliers is None
        else _spread_groups(result.group_scale(), granularity.group_size, weight.ndim, out_axis, in_axis)
    )
    values = np.rint(np.divide(weight, full, out=magnitude), out=magnitude)
    values = np.clip(values, -qmax, qmax, out=magnitude).astype(np.int8)
    return QuantizedWeight(values, scale, scheme, out_axis, in_axis, granularity.group_size, multipliers)


def two_level_scales(
    peaks: npt.NDArray[np.float32],
    whole: np.float32,
    qmax: int,
    min_scale: npt.NDArray[np.float32] | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Channel scales float32 [O] and group multipliers int32 [O, G] in 1..15 from peaks max|w| [O, G].

    Integer group factors over one float scale per channel keep the inner loop of a kernel in integers
    (VS-Quant, Dai et al. 2021). Multipliers round up, so that no weight is clipped. The channel scale
    keeps 20 significant bits: its product with a multiplier is then exact, and the channel scale is
    recovered exactly as the largest group scale / 15. ``min_scale`` [O] bounds channel scales from below.
    """
    wanted = _scale_of(peaks.max(axis=1, initial=0.0), whole, qmax).astype(np.float64) / MAX_MULTIPLIER
    if min_scale is not None:
        wanted = np.maximum(wanted, min_scale)
    channel = _round_up(wanted, _CHANNEL_SCALE_BITS)
    needed = np.ceil(peaks.astype(np.float64) / qmax / channel[:, None].astype(np.float64))
    multipliers = np.clip(needed, 1, MAX_MULTIPLIER).astype(np.int32)
    # The largest group gets 15 even if 14 would do (or if the channel is all zeros).
    rows = np.arange(len(multipliers))
    if multipliers.size:
        multipliers[rows, np.argmax(peaks, axis=1)] = MAX_MULTIPLIER
    return channel, multipliers


def _scale_of(peak: npt.NDArray[np.float32], whole: np.float32, qmax: int) -> npt.NDArray[np.float32]:
    """float32 scales, positive, from peaks; a peak of zero takes the scale of the whole tensor."""
    divided = np.asarray(peak, np.float32) / np.float32(qmax)
    spare = whole / np.float32(qmax) if whole > 0 else np.float32(1.0 / qmax)
    return np.maximum(np.where(np.asarray(peak) > 0, divided, spare), MIN_SCALE).astype(np.float32)


def _round_up(values: npt.NDArray[np.float64], bits: int) -> npt.NDArray[np.float32]:
    """The next number with this many significant bits that is not below the value."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.ceil(np.ldexp(mantissa, bits)), exponent - bits).astype(np.float32)


def _rows(
    magnitude: npt.NDArray[np.float32], granularity: Granularity, out_axis: int, in_axis: int, where: str | None
) -> npt.NDArray[np.float32]:
    """|w| as [R, n]: the whole tensor, a row for each channel o, or one for each group (o, g)."""
    if granularity.kind == "per_tensor":
        return magnitude.reshape(1, -1)
    moved = np.moveaxis(magnitude, (out_axis, in_axis), (0, 1))
    count, channels = moved.shape[:2]
    if granularity.kind == "per_group":
        if channels % granularity.group_size:
            raise StrategyError(
                f"groups of {granularity.group_size} do not divide {channels} input channels", where=where
            )
        count *= channels // granularity.group_size
    return moved.reshape(count, magnitude.size // max(count, 1))


def _on_axis(scale: npt.NDArray[np.float32], ndim: int, axis: int) -> npt.NDArray[np.float32]:
    return scale if scale.ndim == 0 else scale.reshape([-1 if a == axis else 1 for a in range(ndim)])


def _spread_groups(
    group_scale: npt.NDArray[np.float32], size: int, ndim: int, out_axis: int, in_axis: int
) -> npt.NDArray[np.float32]:
    """[O, G] -> the scale of every (output, input) channel pair, broadcastable to the weights."""
    spread = np.repeat(group_scale, size, axis=1)
    ordered = spread if out_axis < in_axis else spread.T
    shape = [1] * ndim
    shape[out_axis], shape[in_axis] = spread.shape
    return ordered.reshape(shape)
