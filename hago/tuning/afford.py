"""How many samples a time budget can afford to read, to calibrate with, and to measure accuracy on.

What was chosen is kept with the search (``samples.json``), so that a resumed one has the same samples.
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

_READING = 0.1  # of the budget, for reading and dividing one set
_FEWEST = 300  # samples of one set, whatever they cost
_DIVIDING = 4  # dividing a sample takes about as long as reading and hashing it, times this
_TRIED = 64  # samples that tell what one costs

# Of the budget, for one pass over a part: every candidate takes one over the search samples.
_SHARES = {"calibration": 0.03, "search": 0.02, "test": 0.04}
_WORTH = {"calibration": 64, "search": 200, "test": 200}  # fewer only where these would take `_MOST` times the share
_MOST = 5
_FEWEST_RUN = 8  # samples of a part, whatever they cost
_OBSERVING = 4  # a call that calibrates costs about as much as so many that do not


class Affordable:
    """The samples of one job. ``budget_s`` is its whole time budget; None: all samples are taken.

    One that is ``resumed`` takes as many as before.
    """

    def __init__(self, budget_s: float | None, folder: Path | None, seed: int, resumed: bool = True) -> None:
        self._budget_s, self._seed = budget_s, seed
        self._file = None if folder is None else folder / FILE
        self._counts: dict[str, int] = self._kept() if resumed else {}

    def read(self, name: str, samples: Samples) -> Samples:
        """The samples, or as many of them as can be read and divided in good time."""

        def affordable() -> int:
            started = time.perf_counter()
            tried = min(_TRIED, len(samples))
            samples.subset(np.arange(tried)).digests()
            once = (time.perf_counter() - started) / tried * _DIVIDING
            return max(_FEWEST, int(_READING * (self._budget_s or 0.0) / once))

        count = self._count(name, len(samples), affordable)
        return drawn(samples, count, self._seed) if count < len(samples) else samples

    def divided(self, parts: DataParts, run_s: Callable[[], float]) -> DataParts:
        """The parts, or as much of each as can be run in good time; ``run_s()`` is what float32 takes for a sample."""
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
        """How many of ``total`` are taken: as an earlier run did, or as many as are affordable."""
        if name not in self._counts:
            if self._budget_s is None:
                return total
            self._counts[name] = min(total, affordable())
        count = min(total, self._counts[name])
        if count < total:
            warnings.warn(f"time budget: {count:,} of {total:,} samples are taken ({name})", HagoWarning, 2)
        return count

    def _kept(self) -> dict[str, int]:
        try:
            data = json.loads(self._file.read_text(encoding="utf-8")) if self._file is not None else {}
            return {str(name): int(count) for name, count in data.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}  # none yet, or damaged: chosen anew
