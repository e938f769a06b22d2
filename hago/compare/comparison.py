"""One model in several engines, side by side: latency in turns, accuracy on the same samples, size.

Ratios and changes are relative to the first engine. An engine that cannot be opened or run
keeps its row, with the reason in place of the numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..measure.clocks import BUSY_SHARE
from ..measure.environment import Environment
from ..measure.latency import Latency
from .cells import markdown_table, ratio_text, rich_table, row_cells
from .faithful import warning
from .rows import ComparisonRow

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Comparison:
    """The rows, in the order of the engines, and how they were measured.

    ``aa`` is the A/A test: a second runner of the baseline against the first; None if nothing was timed.
    """

    rows: tuple[ComparisonRow, ...]
    model: str
    metric: str
    n_samples: int
    batch: int
    environment: Environment
    aa: Latency | None = None
    notes: tuple[str, ...] = ()

    @property
    def baseline(self) -> str:
        """The label of the first row, to which ratios and changes are relative."""
        return self.rows[0].label

    def row(self, label: str) -> ComparisonRow:
        """The row with this label. Raises KeyError if there is none."""
        return {row.label: row for row in self.rows}[label]

    def table(self) -> Table:
        """The table for a terminal."""
        return rich_table(self._header(), self._cells(), title=self.model, caption=self.provenance())

    def to_markdown(self) -> str:
        """The table in Markdown, with a description of the measurement below it."""
        return markdown_table(self._header(), self._cells()) + f"\n\n{self.provenance()}\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        measured = self.rows[0].latency is not None
        told = self.aa if self.aa is not None and self.aa.reliable else None
        return {
            "model": self.model,
            "metric": self.metric,
            "n_samples": self.n_samples,
            "batch": self.batch,
            "baseline": self.baseline,
            "aa_ratio": None if told is None else told.ratio,
            "aa_ratio_interval": None if told is None else [told.ratio_low, told.ratio_high],
            "too_busy": self.too_busy,
            "rows": [row.to_dict(measured) for row in self.rows],
            "notes": list(self.notes),
            "environment": self.environment.to_dict(),
        }

    def to_json(self) -> str:
        """The comparison as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)

    def provenance(self) -> str:
        """How and on which machine it was measured, in sentences."""
        rounds = max((row.latency.samples for row in self.rows if row.latency is not None), default=0)
        timed = f"Latency: median of {rounds} rounds in turns, batch {self.batch}, {self._clocks()}. " if rounds else ""
        sentences = (
            *self.notes,
            f"{timed}Accuracy: {self.metric} on {self.n_samples} samples. In brackets: 95 % intervals. "
            f"Ratio and change are relative to {self.baseline}. {self.environment.sentence()}.{self._quiet()}",
            self.warning(),
        )
        return " ".join(filter(None, sentences))

    def warning(self) -> str:
        """A warning about engines that do not compute what their file defines; empty if all do."""
        labels = [row.label for row in self.rows if row.unfaithful]
        return warning(labels, self.environment) if labels else ""

    @property
    def too_busy(self) -> bool:
        """Whether the A/A test failed, so that these latencies are unreliable."""
        return self.aa is not None and not (self.aa.reliable and self.aa.ratio_low <= 1 <= self.aa.ratio_high)

    def _clocks(self) -> str:
        return " and ".join(dict.fromkeys(row.latency.clock for row in self.rows if row.latency is not None))

    def _quiet(self) -> str:
        """How quiet the machine was, in sentences."""
        load, cores = self.environment.load, self.environment.cores
        busy = f" The machine was busy: load {load} on {cores} cores." if load and load > cores else ""
        shares = [row.latency.disturbed for row in self.rows if row.latency is not None and row.latency.disturbed]
        if shares and max(shares) >= BUSY_SHARE:
            busy += f" Other work interrupted {max(shares):.0%} of the calls."
        if self.aa is None:
            return busy
        if self.too_busy:
            found = f": {self.baseline} against itself has a ratio of {ratio_text(self.aa)}" if self.aa.reliable else ""
            return f"{busy} This machine is too busy to measure latencies now{found}."
        return f"{busy} A/A test ({self.baseline} against itself): {ratio_text(self.aa)}."

    def _header(self) -> list[str]:
        return ["", "latency", "ratio", self.metric, "change", "size", ""]

    def _cells(self) -> list[list[str]]:
        measured = self.rows[0].latency is not None
        return [row_cells(row, measured) for row in self.rows]
