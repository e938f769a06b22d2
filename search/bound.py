"""What an answer has to keep, as users write it: a drop from float32 at most, or a value of the metric itself."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import SearchError

MAX_DROP = 0.01

# What a user may give: a number, or a text such as "0.01", "1%" or "30 dB".
Amount = float | str


@dataclass(frozen=True)
class Bound:
    """At most ``max_drop`` worse than float32; or, where there is a ``limit``, a value as good as that.

    Both are in the metric's unit (top-1: a fraction). Where more is better the limit is a floor, else a ceiling.
    """

    max_drop: float = MAX_DROP
    limit: float | None = None


class Judge(Protocol):
    """A metric, as far as a bound needs it."""

    @property
    def name(self) -> str: ...

    @property
    def higher_is_better(self) -> bool: ...


def read_bound(
    metric: Judge, max_drop: Any = MAX_DROP, min_value: Any = None, max_value: Any = None, *, unit: str = ""
) -> Bound:
    """The bound for a metric of this ``unit`` ("share", "dB" or "").

    Raises SearchError for what is no bound, with what was probably meant.
    """
    name, better = metric.name, metric.higher_is_better
    if min_value is None and max_value is None:
        if unit == "dB":
            raise SearchError(
                f"{name} of float32 against itself has no value to drop from",
                hint=f"say how many dB the answer must have: --min 30 (min_value=30){_of(max_drop)}",
            )
        return Bound(_drop(name, max_drop, unit))
    if min_value is not None and max_value is not None:
        raise SearchError("give a least value or a largest one, not both", where=f"the metric {name}")
    if (min_value is None) == better:
        given, other = ("max_value", "min_value (--min)") if better else ("min_value", "max_value (--max)")
        raise SearchError(
            f"{given} says nothing of {name}, of which {'more' if better else 'less'} is better", hint=f"give {other}"
        )
    if isinstance(max_drop, str) or max_drop != MAX_DROP:
        raise SearchError(f"give {'a least' if better else 'a largest'} value of {name} or a drop (max_drop), not both")
    key, value = ("min_value", min_value) if better else ("max_value", max_value)
    limit = read_amount(key, value, unit)
    if unit == "share" and not 0 <= limit <= 1:
        raise SearchError(
            f"{name} is a fraction: {key} must be from 0 to 1, got {value!r}",
            hint=f"{limit / 100:g} is {limit:g} %" if 1 < limit <= 100 else None,
        )
    return Bound(limit=limit)


def read_amount(name: str, value: Any, unit: str = "") -> float:
    """A finite number of the metric's unit. ``1%`` is 0.01, ``30 dB`` is 30."""
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
        told = {"share": "a number, such as 0.01 or '1%'", "dB": "a number of dB, such as 30"}.get(unit, "a number")
        raise SearchError(f"{name} must be {told}, got {value!r}")
    return found


def _drop(name: str, value: Any, unit: str) -> float:
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
            f"max_drop={value} would let {name}, a fraction, drop by {100 * drop:g} points: "
            f"{'was one point' if drop == 1 else f'were {drop:g} points'} meant?",
            hint=f"--max-drop {meant} (max_drop={meant})"
            + (" is one point; 1.0 is no bound at all" if drop == 1 else ""),
        )
    return drop


def _of(max_drop: Any) -> str:
    return "" if max_drop == MAX_DROP else f", in place of max_drop={max_drop}"
