"""When a job must end: one clock that all of its parts look at."""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """``seconds`` from now on; None: no end. It can be drawn nearer, and is never put off."""

    def __init__(self, seconds: float | None = None, clock: Callable[[], float] | None = None) -> None:
        self.seconds = seconds
        self._clock = clock or time.monotonic
        self._begin = self._clock()
        self._end = None if seconds is None else self._begin + seconds

    def elapsed_s(self) -> float:
        """Seconds since it was made."""
        return self._clock() - self._begin

    def left_s(self) -> float | None:
        """Seconds left, at least 0; None where there is no end."""
        return None if self._end is None else max(0.0, self._end - self._clock())

    def share_s(self, share: float) -> float | None:
        """That part of what is left."""
        left = self.left_s()
        return None if left is None else share * left

    @property
    def over(self) -> bool:
        return self.left_s() == 0

    def shorten(self, seconds: float) -> None:
        """Ends ``seconds`` from now, if not earlier."""
        end = self._clock() + seconds
        self._end = end if self._end is None else min(self._end, end)
