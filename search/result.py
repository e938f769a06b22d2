"""The result of a search, and how the answer is chosen among the records."""

from __future__ import annotations

import builtins
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..amounts import time_text
from ..errors import HagoError
from ..goal import Goal
from ..measure.metric_text import MetricText
from ..outcomes import INCONCLUSIVE, MET, NOT_FASTER, NOT_MET
from ..record import Record
from ..text import size
from .blockers import Blocker
from .sensitivity import Sensitivities
from .timing import TimeTable


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search. It always holds an answer.

    ``best`` is the answer, and ``outcome`` says what it is:

    - "met": the strategy that the goal asks for, such as the fastest within the bound, faster than float32 beyond the
      noise; if float32 itself breaks a bound, the best of those that keep it;
    - "not faster": float32, because no strategy found within the bounds is faster (or smaller, or more accurate,
      depending on the goal);
    - "not told": float32, because latencies cannot be measured reliably on this machine now: the interval of the ratio
      contains 1, or the A/A test failed;
    - "not met": the closest strategy (with the smallest drop), because none found keeps every bound; float32 if no
      candidate could be measured.

    ``test`` is the answer on the test part, the only unbiased measure of its accuracy, and ``float_test`` float32
    there; None if the search was cut short. ``front`` are the records, float32 included, that no other beats in
    everything the goal minimises or bounds, the fastest first. ``closest`` is the record with the smallest drop among
    those faster than float32. ``stopped`` says why the search ended, ``error`` holds what ended it early, such as a
    full disk, and ``signum`` the signal that did (Ctrl-C: 2). ``trials`` counts all trials of the study; ``seconds`` is
    the time of this run, and ``first_within_s`` the part of it until the first strategy within the bound.
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
        """Whether a strategy was found that keeps every bound and improves what the goal asks for."""
        return self.outcome == MET

    @property
    def test_within(self) -> bool | None:
        """Whether the answer keeps the bound on the test part too; None if it was not tested."""
        return None if self.test is None or self.test.state != "ok" else self.goal.within(self.test)

    @property
    def too_busy(self) -> bool:
        """Whether the last A/A test failed: float32 was not as fast as a second runner of itself."""
        last = self.float if self.float_test is None or self.float_test.aa_holds is None else self.float_test
        return last.aa_holds is False

    def summary(self) -> str:
        """The answer in a few sentences."""
        phrase, better = f" {self.goal.phrase}".rstrip(), self.goal.primary.better
        if self.outcome == MET:
            text = _gain(self.best, self.float, self.goal)
        elif self.outcome == NOT_FASTER:
            noise = "" if self.goal.primary.name == "size" else " beyond the noise"
            text = f"float32 stays: no strategy{phrase} is {better}{noise}"
        elif self.outcome == INCONCLUSIVE:
            text = f"float32 stays: whether a strategy{phrase} is faster cannot be determined on this machine now"
        elif self.best is self.float:
            text = f"float32 stays: no candidate could be measured{phrase}"
        else:
            closest = _closest(self.best, self.goal)
            text = f"no strategy keeps {self.goal.words}: the closest {closest}, {_speed(self.best)} than float32"
        sentences = [text[0].upper() + text[1:] + "."]
        if self.test is not None and self.test.state == "ok" and self.test.accuracy is not None:
            metric = MetricText.of_record(self.test)
            where = f"On the test samples its {metric.info.name} is {metric.value(self.test.accuracy)}"
            if self.test.accuracy_change is not None and not metric.info.against_float:
                where += f" (float32 {metric.value(self.test.accuracy - self.test.accuracy_change)})"
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


def _gain(record: Record, floats: Record, goal: Goal) -> str:
    """``2.00 times faster than float32 within a drop of at most 0.01``; of other goals, the goal first."""
    speed = f"{_speed(record)} than float32"
    if goal.primary.name == "size" and record.size_bytes and floats.size_bytes:
        return f"{goal.sentence}: {floats.size_bytes / record.size_bytes:.2f} times smaller and {speed}"
    if goal.primary.name == "accuracy":
        return f"{goal.sentence}: a drop of {max(0.0, goal.drop(record)):.4g} from float32, {speed}"
    return f"{speed} {goal.phrase}".rstrip() if goal.primary.name == "latency" else f"{goal.sentence}: {speed}"


def _closest(record: Record, goal: Goal) -> str:
    """The closest record in the terms of each bound: ``drops by 0.02, takes 6 ms``."""
    said = []
    for quantity in goal.bounds:
        if quantity.name == "latency":
            said.append("takes an unknown time" if record.latency_s is None else f"takes {time_text(record.latency_s)}")
        elif quantity.name == "size":
            said.append("is of unknown size" if record.size_bytes is None else f"has {size(record.size_bytes)}")
        elif goal.limit is None or record.accuracy is None:
            said.append(f"drops by {goal.drop(record):.4g}")
        else:
            said.append(f"has {record.accuracy:.4g}")
    return ", ".join(said)


def _speed(record: Record) -> str:
    ratio = record.latency_ratio
    if ratio is None or ratio <= 0:
        return "of unknown speed other"
    return f"{1 / ratio:.2f} times faster" if ratio < 1 else f"{ratio:.2f} times slower"


def choose(
    float_record: Record, records: Sequence[Record], goal: Goal, noise: Mapping[int, float] | None = None
) -> tuple[Record, str]:
    """The answer and its outcome.

    The answer keeps every bound (and beats float32, if float32 keeps them too) and is best in what the goal minimises.
    Among candidates alike in that (as fast as the fastest within 3 %), the one with the least ``noise`` (record's id ->
    noise power of its outputs) wins: a difference of accuracy on a few hundred samples is mostly chance, and does not
    recur on others. Without noise, the most accurate wins. With a margin, candidates that keep it come first; if none
    does, the bound itself counts.
    """
    noise = noise or {}
    within = [record for record in records if goal.within(record)]
    # float32 has no drop, measured or not.
    float_keeps = goal.within(replace(float_record, state="ok", accuracy_change=0.0, expected_change=None))
    rivals = [r for r in within if not float_keeps or goal.primary.gains(goal, r, float_record)]
    for margin in dict.fromkeys((goal.margin, 0.0)):
        kept = [record for record in rivals if goal.within(record, margin)]
        if kept:
            least = min(map(goal.cost, kept))
            close = [record for record in kept if goal.cost(record) <= least * goal.primary.same]
            return min(close, key=lambda r: (noise.get(r.id, math.inf), goal.likely_drop(r), _ratio(r), r.id)), MET
    if within or (float_keeps and not goal.bounds_accuracy):
        is_conclusive = goal.primary.name != "latency" or not _is_busy(float_record, within)
        return float_record, NOT_FASTER if is_conclusive else INCONCLUSIVE
    measured = [record for record in records if record.state in ("ok", "pruned")]
    if not measured:
        return float_record, NOT_MET
    if goal.max_latency_s is not None and all(record.latency_s is None for record in measured):
        return float_record, INCONCLUSIVE
    # A stopped measurement covers only some of the samples: complete ones come first.
    return min(measured, key=lambda r: (r.state != "ok", _missed(r, goal), _ratio(r), r.id)), NOT_MET


def _missed(record: Record, goal: Goal) -> float:
    """How far the record is from keeping every bound: the largest miss relative to its bound.

    With a bound on accuracy only, the likely drop.
    """
    if [quantity.name for quantity in goal.bounds] == ["accuracy"]:
        return goal.likely_drop(record)
    return max((goal.missed_share(quantity, record) for quantity in goal.bounds), default=0.0)


def _is_busy(float_record: Record, within: Sequence[Record]) -> bool:
    """Whether one of them may be faster than float32, but the machine was too busy to measure it."""
    return float_record.aa_holds is False or any(record.is_inconclusive for record in within)


def find_closest(records: Sequence[Record], goal: Goal) -> Record | None:
    """The record faster than float32 with the smallest drop, complete ones first."""
    faster = [record for record in records if record.is_faster]
    return min(faster, key=lambda r: (r.state != "ok", goal.likely_drop(r), _ratio(r), r.id), default=None)


def pareto_front(records: Sequence[Record], goal: Goal) -> tuple[Record, ...]:
    """The complete records that no other equals or beats along every axis of the goal; the fastest first."""
    measured = [(tuple(q.cost(goal, record) for q in goal.axes), record) for record in records if record.state == "ok"]
    front: list[tuple[tuple[float, ...], Record]] = []
    for point, record in sorted(measured, key=lambda pair: (pair[0], pair[1].id)):
        # Later records in this order can at most equal earlier ones.
        beaten = any(all(a <= b for a, b in zip(other, point, strict=True)) for other, _ in front)
        if not beaten and all(map(math.isfinite, point)):
            front.append((point, record))
    return tuple(record for _, record in front)


def _ratio(record: Record) -> float:
    return math.inf if record.latency_ratio is None else record.latency_ratio
