"""The end of a job's time budget: one clock for all of its parts."""

from __future__ import annotations

import math
import numbers
import re
import time
from collections.abc import Callable
from datetime import timedelta

from .errors import SearchError


class Deadline:
    """A deadline in ``seconds`` from now; None: no end. It can be shortened but never extended."""

    def __init__(self, seconds: float | None = None, clock: Callable[[], float] | None = None) -> None:
        self.seconds = seconds
        self._clock = clock or time.monotonic
        self._begin = self._clock()
        self._end = None if seconds is None else self._begin + seconds

    def elapsed_s(self) -> float:
        """Seconds since it was created."""
        return self._clock() - self._begin

    def left_s(self) -> float | None:
        """Seconds left, at least 0; None if there is no end."""
        return None if self._end is None else max(0.0, self._end - self._clock())

    def share_s(self, share: float) -> float | None:
        """This share of the remaining seconds; None if there is no end."""
        left = self.left_s()
        return None if left is None else share * left

    @property
    def over(self) -> bool:
        """Whether no time is left."""
        return self.left_s() == 0

    def shorten(self, seconds: float) -> None:
        """Ends in ``seconds`` from now at the latest."""
        end = self._clock() + seconds
        self._end = end if self._end is None else min(self._end, end)


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def parse_budget(text: str | float | timedelta | None) -> float | None:
    """Seconds of a time budget: ``"10m"``, ``"90s"``, ``"1h30m"``, ``"1.5h"``, or a number of seconds.

    A timedelta works too. None means no limit. Raises SearchError for anything else, and for zero.
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
