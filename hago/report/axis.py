"""Axes: from values to positions on the page, and the round numbers of their ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Scale:
    """A linear axis: ``low`` is at ``start``, ``high`` at ``end`` (pixels; ``end`` may be smaller)."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The position of ``value``, rounded to a tenth of a pixel; values outside are clipped."""
        inside = min(max(value, self.low), self.high)
        part = (inside - self.low) / (self.high - self.low)
        return round(self.start + part * (self.end - self.start), 1)

    def holds(self, value: float) -> bool:
        """Whether ``value`` is within the axis."""
        return self.low <= value <= self.high

    def ticks(self, most: int) -> list[float]:
        """Round numbers on the axis, 1, 2 or 5 times a power of ten apart, at most ``most`` of them."""
        step = nice_step(self.high - self.low, most)
        # The axis may lie between two multiples of that step: then use a finer one.
        for finer in (1.0, 2.5, 5.0):
            first = math.ceil(self.low * finer / step - 1e-9)
            last = math.floor(self.high * finer / step + 1e-9)
            if first <= last:
                return [i * step / finer for i in range(first, last + 1)][:most]
        return []


def nice_step(span: float, most: int) -> float:
    """The least 1, 2 or 5 times a power of ten of which at most ``most`` fit on ``span``."""
    rough = span / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def padded(low: float, high: float, share: float, least: float) -> tuple[float, float]:
    """A range widened on both sides by ``share`` of it, and to at least ``least`` in all."""
    span = high - low
    margin = max(span * share, (least - span) / 2, 0.0)
    return low - margin, high + margin


def decimals(ticks: list[float]) -> int:
    """The digits after the point needed to distinguish these ticks."""
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    return max(0, -math.floor(math.log10(step) + 1e-9))
