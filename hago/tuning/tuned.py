"""What `hago.tune` returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..record import Record
from ..strategy import Strategy

if TYPE_CHECKING:
    from ..search import SearchResult


@dataclass(frozen=True)
class Result:
    """The result of `tune`.

    ``best`` is the answer and ``float`` is float32, both measured on the test part, which the search never sees;
    ``front`` holds the Pareto-optimal records (on the search part), the fastest first. ``search`` has all
    details: every record, why the search stopped, and what prevents the bound from being met.
    """

    search: SearchResult
    strategy: Strategy
    folder: Path | None
    answer: str

    @property
    def float(self) -> Record:
        """float32, on the test part."""
        return self.search.float_test or self.search.float

    @property
    def best(self) -> Record:
        """The answer, on the test part (on the search part if the search was cut short)."""
        return self.search.test or self.search.best

    @property
    def front(self) -> tuple[Record, ...]:
        """The Pareto front: records of the search that no other beats in everything the goal asks for."""
        return self.search.front

    @property
    def met(self) -> bool:
        """Whether a strategy within ``max_drop`` and faster than float32 was found."""
        return self.search.met

    @property
    def outcome(self) -> str:
        """``"met"``, ``"not faster"``, ``"not met"`` or ``"not told"``: what `best` is."""
        return self.search.outcome

    @property
    def too_busy(self) -> bool:
        """Whether the A/A test failed, that is, the machine was too busy to measure latencies."""
        return self.search.too_busy

    def summary(self) -> str:
        """The answer in a few sentences, as in the report."""
        return self.answer
