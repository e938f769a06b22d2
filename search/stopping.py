"""When a search ends: its time budget, a front that stands still."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Sequence
from datetime import timedelta

from ..errors import SearchError

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def parse_budget(text: str | float | timedelta | None) -> float | None:
    """Seconds of a time budget: ``"10m"``, ``"90s"``, ``"1h30m"``, ``"1.5h"``, or a number of seconds.

    A timedelta too. None is no limit. Raises SearchError for anything else, and for no time at all.
    """
    if text is None:
        return None
    seconds = math.nan
    if isinstance(text, str):
        parts = re.fullmatch(
            r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip().replace(" ", "")
        )
        if parts and any(parts.groups()):
            seconds = sum(
                float(part) * unit for part, unit in zip(parts.groups(), _UNITS.values(), strict=True) if part
            )
    elif isinstance(text, timedelta):
        seconds = text.total_seconds()
    elif isinstance(text, numbers.Real) and not isinstance(text, bool):
        seconds = float(text)
    if not (math.isfinite(seconds) and seconds > 0):
        raise SearchError(f"a time budget is written like 10m, 90s or 1h30m, got {text!r}", hint="--budget 10m")
    return seconds


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """The area that the points dominate (both coordinates minimised) within the reference point."""
    area, edge = 0.0, reference[1]
    for x, y in sorted(points):
        if x < reference[0] and y < edge:
            area += (reference[0] - x) * (edge - y)
            edge = y
    return area


def trials_without_gain(
    points: Sequence[tuple[float, float]], reference: tuple[float, float], tolerance: float = 5e-3
) -> int:
    """How many of the last points in a row added no more than ``tolerance`` of the box to the front."""
    floor = (min(0.0, *(x for x, _ in points), 0.0), min(0.0, *(y for _, y in points), 0.0))
    box = (reference[0] - floor[0]) * (reference[1] - floor[1])
    best, last_gain = 0.0, 0
    for i in range(1, len(points) + 1):
        area = hypervolume(points[:i], reference)
        if area > best + tolerance * box:
            best, last_gain = area, i
    return len(points) - last_gain
