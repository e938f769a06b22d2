"""Times of several networks, taken in turns: whatever disturbs the machine disturbs all of them."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bundle import Notes

_ROUNDS = 11
_LEAST_CALLS, _MOST_CALLS = 10, 500
_TURN_S = 2e-3


@dataclass(frozen=True)
class Contender:
    """``seconds(n)`` runs a network n times in a row, and returns the GPU's time for all of them."""

    name: str
    seconds: Callable[[int], float]


def measured(contenders: Sequence[Contender], notes: Notes) -> dict[str, Any]:
    """Name -> seconds of one call: the median of the rounds, and their 10 and 90 % points."""
    calls = {}
    for contender in contenders:
        contender.seconds(2)
        once = contender.seconds(_LEAST_CALLS) / _LEAST_CALLS
        calls[contender.name] = min(max(math.ceil(_TURN_S / max(once, 1e-7)), _LEAST_CALLS), _MOST_CALLS)
    found: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    order, shuffle = list(contenders), random.Random(0).shuffle
    for _ in range(_ROUNDS):
        shuffle(order)
        for contender in order:
            count = calls[contender.name]
            found[contender.name].append(contender.seconds(count) / count)
        if notes.left < 2:
            break
    return {name: {**_spread(times), "calls": calls[name]} for name, times in found.items()}


def _spread(times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    last = len(ordered) - 1
    return {
        "median_s": statistics.median(ordered),
        "low_s": ordered[round(0.1 * last)],
        "high_s": ordered[round(0.9 * last)],
        "rounds": len(ordered),
    }
