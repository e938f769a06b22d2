"""How many samples a time budget allows to read, to calibrate with, and to measure accuracy on.

The numbers are stored with the search (``samples.json``), so that a resumed search has the same samples.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..data import DataParts, Samples
from ..data.split import drawn
from ..errors import HagoWarning
from ..files import write_atomic

FILE = "samples.json"

_READING = 0.1  # share of the budget for reading and splitting one set
_FEWEST = 300  # minimum number of samples of one set, at any cost
_DIVIDING = 4  # splitting a sample takes about this many times as long as reading and hashing it
_TRIED = 64  # samples timed to find the cost of one

# Share of the budget for one pass over a part. Every candidate makes one pass over the search samples.
_SHARES = {"calibration": 0.03, "search": 0.02, "test": 0.04}
_WORTH = {"calibration": 64, "search": 200, "test": 200}  # fewer only if these would take `_MOST` times the share
_MOST = 5
_FEWEST_RUN = 8  # minimum number of samples of a part, at any cost
_OBSERVING = 4  # a calibrating call costs about as much as this many plain calls


class Affordable:
    """The samples of one job. ``budget_s`` is its whole time budget; None: take all samples.

    A ``resumed`` job takes as many as before.
    """

    def __init__(self, budget_s: float | None, folder: Path | None, seed: int, resumed: bool = True) -> None:
        self._budget_s, self._seed = budget_s, seed
        self._file = None if folder is None else folder / FILE
        self._counts: dict[str, int] = self._kept() if resumed else {}

    def read(self, name: str, samples: Samples) -> Samples:
        """The samples, or as many as can be read and split within their share of the budget."""

        def affordable() -> int:
            started = time.perf_counter()
            tried = min(_TRIED, len(samples))
            samples.subset(np.arange(tried)).digests()
            once = (time.perf_counter() - started) / tried * _DIVIDING
            return max(_FEWEST, int(_READING * (self._budget_s or 0.0) / once))

        count = self._count(name, len(samples), affordable)
        return drawn(samples, count, self._seed) if count < len(samples) else samples

    def divided(self, parts: DataParts, run_s: Callable[[], float]) -> DataParts:
        """The parts, limited to their share of the budget; ``run_s()`` gives float32's seconds per sample."""
        for name, share in _SHARES.items():

            def affordable(name: str = name, share: float = share) -> int:
                once = run_s() * (_OBSERVING if name == "calibration" else 1)
                count = share * (self._budget_s or 0.0) / once
                return max(_FEWEST_RUN, int(max(count, min(_WORTH[name], _MOST * count))))

            size = len(getattr(parts, name))
            parts = parts.limited(name, self._count(f"{name} part", size, affordable), self._seed)
        if self._file is not None and self._counts:
            write_atomic(self._file, json.dumps(self._counts) + "\n")
        return parts

    def _count(self, name: str, total: int, affordable: Callable[[], int]) -> int:
        """How many of ``total`` to take: as in an earlier run, or as many as are affordable."""
        if name not in self._counts:
            if self._budget_s is None:
                return total
            self._counts[name] = min(total, affordable())
        count = min(total, self._counts[name])
        if count < total:
            warnings.warn(f"time budget: using {count:,} of {total:,} samples ({name})", HagoWarning, 2)
        return count

    def _kept(self) -> dict[str, int]:
        try:
            data = json.loads(self._file.read_text(encoding="utf-8")) if self._file is not None else {}
            return {str(name): int(count) for name, count in data.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}  # missing or damaged: choose again
