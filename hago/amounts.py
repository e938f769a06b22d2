"""Amounts as users write them: metric values (``1%``, ``30 dB``), times (``5ms``), sizes (``2MB``)."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from .errors import SearchError

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_BYTES = {
    "gb": 1e9, "mb": 1e6, "kb": 1e3, "b": 1.0, "gib": 2.0**30, "mib": 2.0**20, "kib": 2.0**10, "": 1.0,
}  # fmt: skip


def read_amount(name: str, value: Any, unit: str = "") -> float:
    """A finite number in the metric's unit ("share", "dB" or ""). ``1%`` is 0.01, ``30 dB`` is 30.

    Raises SearchError.
    """
    text = value.strip() if isinstance(value, str) else ""
    number, factor = value, 1.0
    if text.endswith("%") and unit != "dB":
        number, factor = text[:-1], 0.01
    elif text.lower().endswith("db") and unit == "dB":
        number = text[:-2]
    try:
        if isinstance(value, bool) or not isinstance(value, numbers.Real | str):
            raise TypeError
        found = float(number) * factor
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        wanted = {"share": "a number, such as 0.01 or '1%'", "dB": "a number of dB, such as 30"}.get(unit, "a number")
        raise SearchError(f"{name} must be {wanted}, got {value!r}")
    return found


def read_drop(metric: str, value: Any, unit: str = "") -> float:
    """The largest drop allowed, in the metric's unit. Raises SearchError with a guess of what was meant."""
    drop = read_amount("max_drop", value, unit)
    if drop < 0:
        raise SearchError(
            f"max_drop must be a number of at least 0, got {drop:g}",
            hint="max_drop=0.01 allows a loss of one point of top-1",
        )
    vague = (isinstance(value, int) or (isinstance(value, str) and value.strip() == "1")) and drop == 1
    if unit == "share" and (drop > 1 or vague):
        meant = f"{drop / 100:g}"
        raise SearchError(
            f"max_drop={value} would let {metric}, a fraction, drop by {100 * drop:g} points: "
            f"{'was one point' if drop == 1 else f'were {drop:g} points'} meant?",
            hint=f"--max-drop {meant} (max_drop={meant})" + (" is one point; 1.0 means no bound" if drop == 1 else ""),
        )
    return drop


def read_value(metric: str, key: str, value: Any, unit: str = "") -> float:
    """The value that the metric must reach; ``key`` is the argument's name. Raises SearchError."""
    limit = read_amount(key, value, unit)
    if unit == "share" and not 0 <= limit <= 1:
        raise SearchError(
            f"{metric} is a fraction: {key} must be from 0 to 1, got {value!r}",
            hint=f"{limit / 100:g} is {limit:g} %" if 1 < limit <= 100 else None,
        )
    return limit


def read_seconds(name: str, value: Any) -> float:
    """Seconds of a time with a unit, such as ``5ms`` or ``200 us``, of a timedelta, or of a number of seconds.

    Raises SearchError.
    """
    if isinstance(value, timedelta):
        found = value.total_seconds()
    else:
        found = _with_unit(value, _SECONDS) if isinstance(value, str) else _number(value)
    if not (math.isfinite(found) and found > 0):
        raise SearchError(f"{name} must be a time with its unit, such as '5ms' or '200us', got {value!r}")
    return found


def read_bytes(name: str, value: Any) -> int:
    """Bytes of a size such as ``2MB``, ``200 kB`` or ``1MiB``, or of a number. Raises SearchError."""
    found = _with_unit(value.lower(), _BYTES) if isinstance(value, str) else _number(value)
    if not (math.isfinite(found) and found >= 1):
        raise SearchError(f"{name} must be a size, such as '2MB' or '200kB', got {value!r}")
    return int(found)


def time_text(seconds: float) -> str:
    """``0.2 ms``, ``12 µs``."""
    unit, scale = next(((u, s) for u, s in (("s", 1.0), ("ms", 1e-3)) if seconds >= 0.1 * s), ("µs", 1e-6))
    return f"{seconds / scale:.4g} {unit}"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan


def _with_unit(text: str, units: Mapping[str, float]) -> float:
    """The number times its unit; NaN for anything else."""
    parts = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*([a-zµ]*)\s*", text)
    return float(parts[1]) * units[parts[2]] if parts and parts[2] in units else math.nan
