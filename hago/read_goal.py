"""The goal of a search, as users ask for it.

read_goal(metric)                                          the fastest within a drop of 0.01
read_goal(metric, max_latency="5ms")                       the most accurate with at most 5 ms
read_goal(metric, max_size="2MB")                          the fastest within a drop of 0.01 and at most 2 MB
read_goal(metric, objectives="size,accuracy")              the smallest within a drop of 0.01
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from . import arguments
from .amounts import read_bytes, read_drop, read_seconds, read_value
from .errors import SearchError
from .goal import MAX_DROP, Goal, check_objectives
from .options import Default, GoalOptions


class Judge(Protocol):
    """The part of a metric that a goal needs."""

    @property
    def name(self) -> str: ...

    @property
    def higher_is_better(self) -> bool: ...


def read_goal(metric: Judge, unit: str = "", options: GoalOptions | None = None, **asked: Any) -> Goal:
    """The goal that a user asks for, with a metric of this ``unit`` ("share", "dB" or "").

    ``asked`` are fields of :class:`GoalOptions`, in place of ``options``. ``max_drop`` is a number or "1%";
    ``min_value`` or ``max_value`` bounds the metric itself instead, such as 30 or "30 dB". ``max_latency`` is a time
    such as "5ms", ``max_size`` a size such as "2MB". Without a bound on accuracy a drop of 0.01 is allowed, unless
    accuracy is what remains to be improved: an objective beside which every other is bounded.

    Raises SearchError for an invalid bound, with what was probably meant.
    """
    given = GoalOptions(**asked) if options is None else options
    wanted = arguments.names("objectives", given.objectives)
    check_objectives(wanted)
    latency_s = None if given.max_latency is None else read_seconds("max_latency", given.max_latency)
    size = None if given.max_size is None else read_bytes("max_size", given.max_size)
    bounded = {"latency": latency_s is not None, "size": size is not None}
    is_free = "accuracy" in wanted and all(bounded.get(name) for name in wanted if name != "accuracy")
    common: dict[str, Any] = {
        "margin": arguments.number("margin", given.margin), "objectives": wanted, "unit": unit,
        "higher_is_better": metric.higher_is_better, "max_latency_s": latency_s, "max_size": size,
    }  # fmt: skip
    if given.min_value is not None or given.max_value is not None:
        return Goal(limit=_read_limit(metric, unit, given), **common)
    drop = given.max_drop
    if isinstance(drop, Default) and is_free:
        if given.margin:
            raise SearchError("margin is a part of the bound on accuracy, and there is none", hint="give max_drop too")
        return Goal(math.inf, **common)
    if unit == "dB":
        replaced = "" if drop == MAX_DROP else f", in place of max_drop={drop}"
        raise SearchError(
            f"{metric.name} of float32 against itself is infinite, so there is nothing to drop from",
            hint=f"give the dB that the answer must reach: --min 30 (min_value=30){replaced}",
        )
    return Goal(read_drop(metric.name, drop, unit), **common)


def _read_limit(metric: Judge, unit: str, asked: GoalOptions) -> float:
    """The value that the metric must have. Raises SearchError."""
    name, better = metric.name, metric.higher_is_better
    drop, min_value, max_value = asked.max_drop, asked.min_value, asked.max_value
    if min_value is not None and max_value is not None:
        raise SearchError("give a minimum value or a maximum value, not both", where=f"the metric {name}")
    if (min_value is None) == better:
        given, other = ("max_value", "min_value (--min)") if better else ("min_value", "max_value (--max)")
        raise SearchError(
            f"{given} does not apply to {name}, where {'higher' if better else 'lower'} is better", hint=f"give {other}"
        )
    if isinstance(drop, str) or drop != MAX_DROP:
        raise SearchError(f"give a {'minimum' if better else 'maximum'} value of {name} or a drop (max_drop), not both")
    key, value = ("min_value", min_value) if better else ("max_value", max_value)
    return read_value(name, key, value, unit)
