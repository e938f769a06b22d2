"""What the plot has across: of every strategy the latency, or the size where that is the goal."""

from __future__ import annotations

from dataclasses import dataclass

from ..goal import QUANTITIES, Quantity
from ..record import Record
from ..text import listing, size
from .data import ReportData


@dataclass(frozen=True)
class CostAxis:
    """Latency or size, as a part of float32's.

    ``noun`` is what it shows (``short`` where there is little room), ``better`` the word for less of it.
    """

    report: ReportData
    quantity: Quantity
    noun: str
    short: str
    better: str

    def part(self, record: Record) -> float | None:
        """Where the record lies; None where it was not measured."""
        if self.quantity.name == "latency":
            return record.latency_ratio
        whole = self.report.float_search.size_bytes
        return record.size_bytes / whole if record.size_bytes and whole else None

    def ends(self, record: Record) -> tuple[float, float]:
        """The 95 % interval of `part`; sizes are exact."""
        part = self.part(record) or 0.0
        interval = record.latency_ratio_interval if self.quantity.name == "latency" else None
        return interval or (part, part)

    def amount(self, part: float) -> str:
        """The amount that this part of float32's is; empty where that is not known."""
        if self.quantity.name == "latency":
            whole = self.report.float_search.cost_s
            return "" if whole is None else self.report.cost.amount(part * whole, self.report.cost.digits)
        return size(part * (self.report.float_search.size_bytes or 0))

    @property
    def scale(self) -> str:
        """What the numbers below the axis are: ``below: the time, with float32 at 0.553 ms``."""
        floats = self.report.float_search
        if self.quantity.name == "size":
            return "below: the size"
        if floats.cost_s is None:
            return ""
        cost = self.report.cost
        return f"below: {cost.words.absolute}, with float32 at {cost.amount(floats.cost_s)}"

    @property
    def bound(self) -> float | None:
        """The bound as a part of float32's; None where there is none."""
        floats, bound = self.report.float_search, self.quantity.bound(self.report.goal)
        whole = floats.latency_s if self.quantity.name == "latency" else floats.size_bytes
        return bound / whole if bound and whole else None

    @property
    def bound_text(self) -> str:
        """``at most 0.2 ms``; empty where it is not bounded."""
        bound = self.quantity.bound(self.report.goal)
        return "" if bound is None else f"at most {self.quantity.text(bound)}"

    @property
    def unseen(self) -> tuple[Quantity, ...]:
        """What is bounded, and not drawn."""
        return tuple(q for q in self.report.goal.bounds if q.name not in ("accuracy", self.quantity.name))

    def breaks_unseen(self, record: Record) -> bool:
        """Whether the record breaks a bound that is not drawn."""
        return any(not self.report.goal.kept(quantity, record, likely=False) for quantity in self.unseen)

    @property
    def unseen_text(self) -> str:
        """``over 200 kB``, of the bounds that are not drawn."""
        bounds = [(q, q.bound(self.report.goal)) for q in self.unseen]
        return listing(f"over {q.text(bound)}" for q, bound in bounds if bound is not None)

    @property
    def unbeaten(self) -> str:
        """What makes a front: ``no other is both faster and more accurate``."""
        latency = self.report.cost.words.less
        words = [latency if q.name == "latency" else q.better for q in self.report.goal.axes]
        if len(words) == 1:
            return f"no other is {words[0]}"
        return f"no other is {'both ' if len(words) == 2 else ''}{listing(words)}{' at once' if len(words) > 2 else ''}"


def cost_axis(report: ReportData) -> CostAxis:
    """The axis of this report: size where that is what the goal asks for, or where it does not speak of latency."""
    goal, words = report.goal, report.cost.words
    if goal.primary.name == "size" or QUANTITIES["latency"] not in goal.axes:
        return CostAxis(report, QUANTITIES["size"], "size", "size", QUANTITIES["size"].better)
    return CostAxis(report, QUANTITIES["latency"], words.noun, words.short, words.less)
