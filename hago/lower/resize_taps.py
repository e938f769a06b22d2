"""The input positions that make each output position of a Resize: tables per axis, in numpy.

Notation: along one axis, ``size`` input and ``out`` output positions; a tap is an input position and its share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UnsupportedOpError

_NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
_REACH = {"linear": 1, "cubic": 2}  # of the filter, in input positions
_CROP = "tf_crop_and_resize"


@dataclass(frozen=True)
class Taps:
    """Of one axis: input positions and shares, [out, taps] each; ``outside`` [out] marks what is extrapolated."""

    size: int
    positions: np.ndarray
    shares: np.ndarray
    outside: np.ndarray

    @property
    def identity(self) -> bool:
        """Whether every output position is the input position of the same number."""
        straight = np.array_equal(self.positions[:, :1], np.arange(self.size)[:, None])
        return straight and self.positions.shape[1] == 1 and not self.outside.any()


@dataclass(frozen=True)
class Resizing:
    """A Resize node: its attributes, the shapes of input and output, and its optional inputs (None: absent)."""

    attrs: Mapping[str, Any]
    x: tuple[int, ...]
    y: tuple[int, ...]
    roi: np.ndarray | None = None
    scales: np.ndarray | None = None
    sizes: np.ndarray | None = None

    def taps(self, axis: int) -> Taps:
        """The taps along ``axis``. Raises UnsupportedOpError for an unknown mode."""
        size, out = self.x[axis], self.y[axis]
        scale = np.float32(self._scale(axis))
        at = self._coordinates(axis, scale)
        outside = (at < 0) | (at > size - 1) if self._coordinate_mode == _CROP else np.zeros(out, bool)
        if size == out and np.array_equal(at, np.arange(out)):
            return Taps(size, np.arange(out)[:, None], np.ones((out, 1)), outside)
        if self.mode == "nearest":
            nearest = _NEAREST[self.attrs.get("nearest_mode", "round_prefer_floor")](at)
            return Taps(size, np.clip(nearest, 0, size - 1).astype(np.int64)[:, None], np.ones((out, 1)), outside)
        if self.mode not in _REACH:
            raise UnsupportedOpError(f"Resize in the mode {self.mode!r} is unknown")
        positions, shares = self._filtered(at.astype(np.float64), float(scale))
        if self.attrs.get("exclude_outside", 0):
            shares = np.where((positions >= 0) & (positions < size), shares, 0.0)
            shares /= shares.sum(axis=1, keepdims=True)
        return Taps(size, np.clip(positions, 0, size - 1), shares, outside)

    @property
    def mode(self) -> str:
        """The interpolation."""
        return str(self.attrs.get("mode", "nearest"))

    @property
    def _coordinate_mode(self) -> str:
        return str(self.attrs.get("coordinate_transformation_mode", "half_pixel"))

    @property
    def _listed(self) -> list[int]:
        """The axes that roi, scales and sizes refer to."""
        rank = len(self.x)
        return [int(a) % rank for a in self.attrs.get("axes", ())] or list(range(rank))

    def _scale(self, axis: int) -> float:
        """Output size over input size, as the model states it (the sizes themselves are rounded)."""
        listed = self._listed
        if self.scales is not None and self.scales.size:
            return float(self.scales[listed.index(axis)]) if axis in listed else 1.0
        policy = self.attrs.get("keep_aspect_ratio_policy", "stretch")
        if policy == "stretch" or axis not in listed or self.sizes is None:
            return self.y[axis] / self.x[axis]
        choose = min if policy == "not_larger" else max
        return float(choose(wanted / self.x[a] for wanted, a in zip(self.sizes.tolist(), listed, strict=True)))

    def _region(self, axis: int) -> tuple[np.float32, np.float32]:
        """Start and end of the part of the input that is used, as shares of its size."""
        listed = self._listed
        if self.roi is None or not self.roi.size or axis not in listed:
            return np.float32(0), np.float32(1)
        at = listed.index(axis)
        return np.float32(self.roi[at]), np.float32(self.roi[at + len(listed)])

    def _coordinates(self, axis: int, scale: np.float32) -> np.ndarray:
        """The position in the input of every output position along ``axis``.

        In float32, as in ONNX Runtime: a position half way between two elements must round alike.
        """
        size, out, kind = np.float32(self.x[axis]), self.y[axis], self._coordinate_mode
        at, half, one = np.arange(out, dtype=np.float32), np.float32(0.5), np.float32(1)
        if kind == "asymmetric":
            return at / scale
        if kind == "align_corners":
            return at * (size - one) / np.float32(out - 1) if out > 1 else np.zeros(1, np.float32)
        if kind == "pytorch_half_pixel":
            return (at + half) / scale - half if out > 1 else np.zeros(1, np.float32)
        if kind == "half_pixel":
            return (at + half) / scale - half
        if kind == "half_pixel_symmetric":
            adjustment = np.float32(out) / (scale * size)
            return size * half * (one - adjustment) + (at + half) / scale - half
        if kind == _CROP:
            start, end = self._region(axis)
            if out > 1:
                return start * (size - one) + at * (end - start) * (size - one) / np.float32(out - 1)
            return np.array([half * (start + end) * (size - one)], np.float32)
        raise UnsupportedOpError(f"Resize with coordinate_transformation_mode {kind!r} is unknown")

    def _filtered(self, at: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Positions, not yet clipped to the input, and shares that add up to 1, [out, taps] each."""
        shrinks = bool(self.attrs.get("antialias", 0)) and scale < 1
        stretch = scale if shrinks else 1.0
        reach = _REACH[self.mode] / stretch
        first = int(np.floor(-reach)) + 1
        positions = np.floor(at)[:, None] + np.arange(first, int(np.ceil(reach)) + 1)
        distance = np.abs(positions - at[:, None]) * stretch
        if self.mode == "linear":
            shares = np.maximum(1 - distance, 0)
        else:
            shares = _cubic(distance, float(self.attrs.get("cubic_coeff_a", -0.75)))
        if shrinks:
            shares = shares / shares.sum(axis=1, keepdims=True)
        return positions.astype(np.int64), shares


def _cubic(d: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
