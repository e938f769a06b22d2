"""When a search ends: its time budget, a front that stands still, Ctrl-C."""

from __future__ import annotations

import math
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from ..errors import SearchError

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def parse_budget(text: str | float | int | None) -> float | None:
    """Seconds of a time budget: ``"10m"``, ``"90s"``, ``"1h30m"``, ``"1.5h"``, or a number of seconds.

    None is no limit. Raises SearchError for anything else, and for no time at all.
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
    elif not isinstance(text, bool):
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


class Interrupts:
    """Ctrl-C, taken where it does no harm.

    Inside :meth:`allowed` it raises KeyboardInterrupt at once; elsewhere (while a result is being written) it
    is kept and raised at the next :meth:`allowed`. Outside the main thread signals are left alone.
    """

    def __init__(self) -> None:
        self._pending = False
        self._allowed = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._allowed:
            raise KeyboardInterrupt
        self._pending = True

    @contextmanager
    def installed(self) -> Iterator[Interrupts]:
        """Takes Ctrl-C for the time of the block."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGINT, self._handle)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """A block that Ctrl-C may leave at any point."""
        self._allowed = True
        try:
            if self._pending:
                self._pending = False
                raise KeyboardInterrupt
            yield
        finally:
            self._allowed = False

    def pending(self) -> bool:
        """Whether a Ctrl-C is waiting; asking takes it."""
        waiting, self._pending = self._pending, False
        return waiting
