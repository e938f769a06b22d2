"""The notes below the answer: its caveats, obstacles to the goal, and how the search went."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..goal import QUANTITIES
from ..outcomes import NOT_FASTER
from ..record import Record
from ..text import factor, listing, percent, ratio_interval
from .phrases import Phrases


@dataclass(frozen=True)
class Notes(Phrases):
    """The notes of one report, each a sentence or two."""

    def nearest_gain(self) -> list[str]:
        """The strategy within the bounds that came closest to beating float32."""
        report, primary = self.report, self.report.goal.primary
        within = [r for r in self.quantized_within() if math.isfinite(report.goal.cost(r))]
        if not within:
            return []
        best = min(within, key=report.goal.cost)
        if primary.name == "size":
            found = f"is {self.smaller(best)}"
        else:
            times = ratio_interval(best.latency_ratio, best.latency_ratio_interval)
            found = f"takes {times} times {'the instructions of' if report.estimated else 'as long as'} float32"
        return [f"The {primary.best} strategy within the {self.bounds_phrase()} ({best.label}) {found}."]

    def keeps_accuracy(self, record: Record) -> bool:
        """Whether it keeps the accuracy bound, if there is one, as measured."""
        goal = self.report.goal
        return not goal.bounds_accuracy or goal.kept(QUANTITIES["accuracy"], record, likely=False)

    def doubts(self, record: Record, within: bool) -> list[str]:
        """Why the numbers may look better than they are, or the bound may be missed elsewhere."""
        report = self.report
        notes: list[str] = []
        interval = record.accuracy_change_interval
        if record.part == "search":
            notes.append(
                "The search ended before the test samples: these numbers come from the samples that chose the "
                "strategy, where the best of many looks better than it is."
            )
        elif not within and self.keeps_accuracy(record):
            notes.append(
                "It was chosen by an earlier measurement, which kept the bound; a result this close to it does not "
                "always repeat. Set a slightly tighter bound than you need."
            )
        elif not within:
            search = report.chosen_search
            change = self.metric.change(search.accuracy_change) + f" {self.metric.change_unit}".rstrip()
            notes.append(
                f"It was chosen on the search samples, where its change was {change}; the best of many looks "
                "better there than it is. A margin (--margin), more samples, or a slower strategy of the front "
                "is a safer choice."
            )
        if within and report.asks_for_value:
            notes += self.doubtful_value(record)
        elif within and interval is not None:
            worst = -interval[0] if report.metric.higher_is_better else interval[1]
            if worst > report.max_drop:
                notes.append(
                    f"On {record.n_samples or 0:,} {record.part} samples the measured drop keeps the bound, but the "
                    f"true drop may not: its 95 % interval reaches {self.metric.beyond(worst, report.max_drop)[0]}."
                )
        return notes

    def doubtful_value(self, record: Record) -> list[str]:
        """A note if the interval of the value crosses the bound."""
        report, interval = self.report, record.accuracy_interval
        if interval is None or record.accuracy is None:
            return []
        worst = interval[0] if report.metric.higher_is_better else interval[1]
        change = (record.accuracy_change or 0.0) + worst - record.accuracy
        if report.within(replace(record, accuracy=worst, accuracy_change=change)):
            return []
        return [
            f"On {record.n_samples or 0:,} {record.part} samples the measured value keeps the bound, but the true "
            f"value may not: its 95 % interval reaches {self.metric.value(worst)}."
        ]

    def in_the_way(self) -> list[str]:
        """The layers that prevent the goal from being met, by cause."""
        told: list[str] = []
        for cause, text in (
            ("latency", "of float32's time, no faster when quantized"),
            ("accuracy", "of the loss"),
        ):
            rows = [b for b in self.report.blockers if b.cause == cause and self._asks_for(cause)]
            # If speed is what is missing, the accuracy cost is not an obstacle.
            if rows and not (self.report.outcome == NOT_FASTER and cause == "accuracy" and told):
                names = listing([f"{b.name} ({percent(b.share)} {text})" for b in rows])
                told.append(f"Main {'obstacle' if len(rows) == 1 else 'obstacles'}: {names}.")
        return told

    def _asks_for(self, name: str) -> bool:
        """Whether the goal bounds this quantity, or asks for the least of it."""
        goal = self.report.goal
        return goal.primary.name == name or QUANTITIES[name] in goal.bounds

    def faster_ones(self) -> list[str]:
        """If the closest strategy is no faster than float32, the closest one that is."""
        if self.report.chosen_search.is_faster or not self._asks_for("latency"):
            return []
        faster = [r for r in self.report.records if r.state == "ok" and r.is_faster]
        faster = [r for r in faster if r.accuracy_change is not None]
        if not faster:
            return ["No strategy tried is faster than float32."]
        best = min(faster, key=self.drop)
        name = self.report.metric.name
        told = f"changes {name} by {self.metric.change(best.accuracy_change)} {self.metric.change_unit}".rstrip()
        if self.report.asks_for_value:
            told = f"reaches {self.metric.value(best.accuracy)} of {name}"
        return [
            f"Of those faster than float32, the closest ({best.label}) {told}"
            + f" and is {factor(1 / (best.latency_ratio or 1.0))} times faster."
        ]

    def fastest(self) -> Record | None:
        """The fastest strategy within the bounds, as measured."""
        timed = (record for record in self.quantized_within() if record.latency_ratio)
        return min(timed, key=lambda record: record.latency_ratio or 0.0, default=None)

    def quantized_within(self) -> list[Record]:
        """The trials within the bounds that are not float32."""
        within = [record for record in self.report.records if record.state == "ok" and self.report.within(record)]
        return [record for record in within if record.strategy is None or not record.strategy.is_float]

    def bounds_phrase(self) -> str:
        """``bound``, or ``bounds`` if there are several."""
        return "bounds" if len(self.report.goal.bounds) > 1 else "bound"

    def search_notes(self) -> list[str]:
        """Notes on a busy machine, and on what ended the search early."""
        error = self.report.search.error
        return [*self.busy(), *([f"The search ended early: {error}"] if error else [])]
