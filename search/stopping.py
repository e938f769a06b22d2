"""When a search ends: its time budget, a front that stands still, Ctrl-C and its like."""

from __future__ import annotations

import math
import numbers
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

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


class Stopped(KeyboardInterrupt):
    """Ctrl-C, or another signal that asks for the end."""

    def __init__(self, signum: int = signal.SIGINT) -> None:
        super().__init__()
        self.signum = signum


class Interrupts:
    """Ctrl-C, SIGTERM and SIGHUP, taken where they do no harm.

    Inside :meth:`allowed` the first one raises :class:`Stopped` at once; within :meth:`careful` and outside of
    `allowed` (while a result is being written) it is kept and raised at the next `allowed`. A second one raises
    at once, wherever it comes. ``signum`` is the first, None as long as none came. Outside the main thread signals are
    left alone, and so are those that are ignored (nohup) or, but for Ctrl-C, that the program takes itself.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._pending = False
        self._allowed = True

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        again, self.signum = self.signum is not None, self.signum or signum
        if again or self._allowed:
            self._pending = False
            raise Stopped(self.signum)
        self._pending = True

    @contextmanager
    def installed(self) -> Iterator[Interrupts]:
        """Takes the signals for the time of the block."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        kept = {}
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            usual = (signal.SIG_DFL,) if number != signal.SIGINT else (signal.SIG_DFL, signal.default_int_handler)
            if number is not None and signal.getsignal(number) in usual:
                kept[number] = signal.signal(number, self._handle)
        try:
            yield self
        finally:
            for number, before in kept.items():
                signal.signal(number, before)

    @contextmanager
    def careful(self) -> Iterator[None]:
        """A block that the first signal may leave within :meth:`allowed` alone."""
        before, self._allowed = self._allowed, False
        try:
            yield
        finally:
            self._allowed = before

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """A block that a signal may leave at any point."""
        before, self._allowed = self._allowed, True
        try:
            if self._pending:
                self._pending = False
                raise Stopped(self.signum or signal.SIGINT)
            yield
        finally:
            self._allowed = before
