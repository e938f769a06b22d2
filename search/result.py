"""What a search hands back, and how the answer is chosen among the records."""

from __future__ import annotations

import builtins
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import HagoError
from ..record import Record
from .blockers import Blocker
from .objective import Goal, is_faster, is_untold
from .sensitivity import Sensitivities
from .timing import TimeTable

# Ratios this close are the same: of such candidates the one nearer to float32 is taken.
_SAME_RATIO = 1.03

MET, NOT_FASTER, UNTOLD, NOT_MET = "met", "not faster", "not told", "not met"


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search. It always holds an answer.

    ``best`` is the answer, and ``outcome`` says what it is:

    - "met": the fastest strategy within the bound, faster than float32 beyond the noise;
    - "not faster": float32 itself, since no strategy found within the bound is faster;
    - "not told": float32 itself, since on this machine, now, it cannot be told whether any is: the interval of its
      ratio holds 1, or float32 was not even as fast as itself;
    - "not met": the closest strategy (the least drop), since none found keeps the bound; float32 where no
      candidate could be measured at all.

    ``test`` is the answer on the test part, from which alone its accuracy is to be told, ``float_test`` is
    float32 there; None where the search was cut short. ``front`` are the records, float32 included, that no
    other beats in both latency and accuracy, the fastest first. ``closest`` is the least drop among those
    faster than float32. ``stopped`` says why the search ended, and ``error`` holds what ended it early, such
    as a full disk; ``signum`` is the signal that did (Ctrl-C: 2). ``trials`` counts all trials of the study;
    ``seconds`` is the time of this run, and ``first_within_s`` how much of it had passed when a strategy within the
    bound was first measured.
    """

    float: Record
    best: Record
    front: tuple[Record, ...]
    records: tuple[Record, ...]
    outcome: str
    goal: Goal
    closest: Record | None = None
    test: Record | None = None
    float_test: Record | None = None
    blockers: tuple[Blocker, ...] = ()
    sensitivities: Sensitivities = field(default_factory=Sensitivities)
    times: TimeTable = field(default_factory=TimeTable)
    stopped: str = ""
    error: HagoError | None = None
    signum: int | None = None
    trials: int = 0
    seconds: builtins.float = 0.0
    first_within_s: builtins.float | None = None

    @property
    def met(self) -> bool:
        """Whether a strategy within the bound and faster than float32 was found."""
        return self.outcome == MET

    @property
    def test_within(self) -> bool | None:
        """Whether the answer keeps the bound on the test part too; None where it was not tested."""
        return None if self.test is None or self.test.state != "ok" else self.goal.within(self.test)

    @property
    def too_busy(self) -> bool:
        """Whether the last A/A test failed: float32 was not as fast as a second runner of itself."""
        last = self.float if self.float_test is None or self.float_test.aa_holds is None else self.float_test
        return last.aa_holds is False

    def summary(self) -> str:
        """The answer in a few sentences."""
        bound, within = self.goal.words, "within" if self.goal.limit is None else "with"
        if self.outcome == MET:
            text = f"{_speed(self.best)} than float32 {within} {bound}"
        elif self.outcome == NOT_FASTER:
            text = f"float32 stays: no strategy {within} {bound} is faster beyond the noise"
        elif self.outcome == UNTOLD:
            text = f"float32 stays: whether a strategy {within} {bound} is faster cannot be told on this machine now"
        elif self.best is self.float:
            text = f"float32 stays: no candidate could be measured {within} {bound}"
        else:
            drop, value = self.goal.drop(self.best), self.best.accuracy
            closest = f"drops by {drop:.4g}" if self.goal.limit is None or value is None else f"has {value:.4g}"
            text = f"no strategy keeps {bound}: the closest {closest}, {_speed(self.best)} than float32"
        sentences = [text[0].upper() + text[1:] + "."]
        if self.test is not None and self.test.state == "ok" and self.test.accuracy is not None:
            where = f"On the test samples its accuracy is {self.test.accuracy:.4g}"
            if self.test.accuracy_change is not None:
                where += f" (float32 {self.test.accuracy - self.test.accuracy_change:.4g})"
            if self.outcome == MET and not self.test_within:
                where += ", outside the bound: it was chosen on other samples, where it looked better"
            sentences.append(where + ".")
        if self.blockers:
            sentences.append("In the way: " + "; ".join(map(str, self.blockers)) + ".")
        if self.too_busy:
            sentences.append("The machine is too busy: float32 was not as fast as itself.")
        if self.error is not None:
            sentences.append(f"The search ended early: {self.error.what}")
        return " ".join(sentences)


def _speed(record: Record) -> str:
    ratio = record.latency_ratio
    if ratio is None or ratio <= 0:
        return "of unknown speed other"
    return f"{1 / ratio:.2f} times faster" if ratio < 1 else f"{ratio:.2f} times slower"


def choose(
    float_record: Record, records: Sequence[Record], goal: Goal, noise: Mapping[int, float] | None = None
) -> tuple[Record, str]:
    """The answer and its outcome.

    Of candidates as fast as the fastest within 3 %, the one with the least ``noise`` (record's id -> noise
    power of its outputs): a difference of accuracy on a few hundred samples is mostly luck, which does not
    come back on others. Without noise, the most accurate. With a margin, candidates that keep it come
    first; where none does, the bound itself counts.
    """
    noise = noise or {}
    within = [record for record in records if goal.within(record)]
    for margin in dict.fromkeys((goal.margin, 0.0)):
        faster = [record for record in within if goal.within(record, margin) and is_faster(record)]
        if faster:
            fastest = min(_ratio(record) for record in faster)
            close = [record for record in faster if _ratio(record) <= fastest * _SAME_RATIO]
            return min(close, key=lambda r: (noise.get(r.id, math.inf), goal.likely_drop(r), _ratio(r), r.id)), MET
    if within:
        quiet = float_record.aa_holds is not False
        return float_record, NOT_FASTER if quiet and not any(map(is_untold, within)) else UNTOLD
    measured = [record for record in records if record.state in ("ok", "pruned")]
    if not measured:
        return float_record, NOT_MET
    # A stopped measurement knows the drop of some samples alone: complete ones come first.
    return min(measured, key=lambda r: (r.state != "ok", goal.likely_drop(r), _ratio(r), r.id)), NOT_MET


def find_closest(records: Sequence[Record], goal: Goal) -> Record | None:
    """The record faster than float32 with the least drop, complete ones first."""
    faster = [record for record in records if is_faster(record)]
    return min(faster, key=lambda r: (r.state != "ok", goal.likely_drop(r), _ratio(r), r.id), default=None)


def pareto_front(records: Sequence[Record], goal: Goal) -> tuple[Record, ...]:
    """The complete records that none equals or beats in both latency and accuracy; the fastest first."""
    points = sorted(
        (r for r in records if r.state == "ok" and r.latency_ratio is not None),
        key=lambda r: (_ratio(r), goal.drop(r), r.id),
    )
    front: list[Record] = []
    for record in points:
        if not front or goal.drop(record) < goal.drop(front[-1]):
            front.append(record)
    return tuple(front)


def _ratio(record: Record) -> float:
    return float("inf") if record.latency_ratio is None else record.latency_ratio
