"""The answer in one sentence, and what honesty adds to it.

The sentence is told on the test part where there is one. `phrases.py` has its parts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..goal import QUANTITIES
from ..outcomes import INCONCLUSIVE, NOT_FASTER, NOT_MET
from ..record import Record
from ..text import (
    factor,
    listing,
    percent,
    ratio_interval,
)
from .data import ReportData
from .phrases import Phrases, layers_phrase, metric_text

GOOD, MIXED, BAD = "good", "mixed", "bad"


@dataclass(frozen=True)
class Answer:
    """``sentence`` is the whole answer, ``notes`` what to know with it.

    ``badge`` says in two or three words how it went; ``tone`` is `GOOD`, `MIXED` or `BAD`.
    """

    sentence: str
    badge: str
    tone: str
    notes: tuple[str, ...] = ()


_ESTIMATED = (
    "Estimated: there was no board. What is compared are instructions, counted in an emulator, which are no times; "
    "measure on the device before you rely on it (hago measure)."
)


def tell(report: ReportData) -> Answer:
    """The answer of this report."""
    answer = _tell(report)
    first = (_ESTIMATED,) if report.estimated else ()
    return replace(answer, notes=(*first, *_parts(report), *report.remarks, *answer.notes))


def _parts(report: ReportData) -> tuple[str, ...]:
    """The value of each quantity among the outputs, where a metric judges several."""
    parts, metric = report.chosen.accuracy_parts, metric_text(report)
    if report.is_float or len(parts) < 2:
        return ()
    told = listing([f"{metric.value(value)} in {name}" for name, value in parts.items()])
    return (f"By output, {report.metric.name} is {told}; each sample counts by its worst.",)


def _tell(report: ReportData) -> Answer:
    words = _AnswerPhrases(report, metric_text(report))
    if report.outcome == NOT_FASTER:
        return words.not_faster()
    if report.outcome == INCONCLUSIVE:
        return words.inconclusive()
    if report.outcome == NOT_MET:
        return words.nothing_measured() if report.is_float else words.not_met()
    return words.met()


@dataclass(frozen=True)
class _AnswerPhrases(Phrases):
    """The answers of one report, by outcome."""

    # The outcomes.

    def met(self) -> Answer:
        report, record = self.report, self.report.chosen
        within = report.within(record)
        head = f"On {self.where()}, running {layers_phrase(report.layers)} {self.speed(record)}"
        if within or record.accuracy_change is None:
            sentence = f"{head} and {self.cost(record)}{self.bound(record)}."
        elif not report.goal.bounds_accuracy or report.goal.kept(QUANTITIES["accuracy"], record, likely=False):
            sentence = f"{head} and {self.cost(record)}, but does not keep {self.other_bounds()}{self.on_part(record)}."
        elif report.asks_for_value:
            sentence = f"{head}, but {self.cost(record)}{self.on_part(record)}, {self.missed()}."
        else:
            drop, bound = self.metric.beyond(self.drop(record), report.max_drop)
            sentence = f"{head}, but {self.cost(record, drop)}, more than the allowed {bound}."
        notes = [*self.doubts(record, within), *self.search_notes()]
        if not within:
            return Answer(sentence, "Out of bound on the test samples", BAD, tuple(notes))
        if not record.is_faster:
            return Answer(sentence, "No clear gain", MIXED, tuple(notes))
        badge = "Within the bound" if record.part == "test" else "Within the bound, not tested"
        return Answer(sentence, badge, GOOD if record.part == "test" else MIXED, tuple(notes))

    def not_faster(self) -> Answer:
        report = self.report
        tried = {c.precision for r in report.records if r.strategy for c in r.strategy.choices.values()}
        tried -= {"float32"}
        stays = f"{report.model_name} stays in float32{self.float_numbers()}"
        if not tried:
            sentence = f"On {self.where()} there was nothing to quantize: {stays}."
            return Answer(sentence, "Nothing to quantize", MIXED, tuple(self.search_notes()))
        what = f"{next(iter(tried))} does not" if len(tried) == 1 else "Quantization does not"
        sentence = (
            f"{what} pay here: on {self.where()} no strategy tried that keeps {self.bound_words()} "
            f"{'takes fewer instructions' if report.estimated else 'is faster'} than float32, so {stays}."
        )
        notes, fastest = [], self.fastest()
        if fastest is not None:
            times = ratio_interval(fastest.latency_ratio, fastest.latency_ratio_interval)
            takes = f"{times} times {'the instructions of' if report.estimated else 'as long as'} float32"
            notes.append(f"The fastest strategy within the bound ({fastest.label}) takes {takes}.")
        notes += [*self.in_the_way(), *self.search_notes()]
        return Answer(sentence, "float32 stays", MIXED, tuple(notes))

    def inconclusive(self) -> Answer:
        """float32 stays because nothing else can be relied on, not because quantization does not pay."""
        report, fastest = self.report, self.fastest()
        head = "Whether quantization pays here cannot be determined on this machine now"
        stays = f"{report.model_name} stays in float32{self.float_numbers()}"
        if fastest is None:
            found = f"no latency of a strategy that keeps {self.bound_words()} could be measured on {self.where()}"
        else:
            times = ratio_interval(fastest.latency_ratio, fastest.latency_ratio_interval)
            found = (
                f"on {self.where()} the fastest strategy that keeps {self.bound_words()} ({fastest.label}) takes "
                f"{times} times as long as float32"
            )
        again = "Search once more where nothing else runs (hago tune --resume measures the finalists anew)."
        return Answer(f"{head}: {found}, so {stays}.", "Cannot be told", BAD, (*self.search_notes(), again))

    def not_met(self) -> Answer:
        report, record = self.report, self.report.chosen
        head = (
            f"No strategy tried keeps {report.model_name} {self.bound_words(named=False)} on {self.where()}: "
            f"the closest, {layers_phrase(report.layers)},"
        )
        sentence = f"{head} {self.cost(record)}{self.on_part(record)} and {self.speed(record, subject='is')}."
        notes = []
        search = report.chosen_search
        if record.part == "test" and report.within(record) and search.accuracy_change is not None:
            change = self.metric.change_interval(search.accuracy_change, search.accuracy_change_interval)
            notes.append(
                f"On the search samples, where strategies were judged, its change was {change} "
                f"{self.metric.change_unit}".rstrip()
                + ": the test samples alone are too few to overrule that."
            )
        if search.expected_change is not None and report.within(search):
            change = self.metric.change(search.expected_change)
            notes.append(
                f"On the search samples it kept the bound, but so many of its answers are not float32's that "
                f"{change} {self.metric.change_unit} are to be expected on others."
            )
        notes += [*self.in_the_way(), *self.faster_ones(), *self.search_notes()]
        return Answer(sentence, "Bound not met", BAD, tuple(notes))

    def nothing_measured(self) -> Answer:
        report = self.report
        failed = [r for r in report.records if r.state == "failed"]
        why = f"all {len(failed)} failed" if len(failed) > 1 else "it failed" if failed else "none was tried"
        sentence = (
            f"No candidate could be measured on {self.where()} ({why}), so {report.model_name} stays in float32"
            f"{self.float_numbers()}."
        )
        notes = [f"The first failed with: {failed[0].reason}"] if failed and failed[0].reason else []
        return Answer(sentence, "Nothing measured", BAD, (*notes, *self.search_notes()))

    # What honesty adds.

    def doubts(self, record: Record, within: bool) -> list[str]:
        report = self.report
        notes: list[str] = []
        interval = record.accuracy_change_interval
        if record.part == "search":
            notes.append(
                "The test samples were not reached: this is told on the samples that chose the strategy, where "
                "the best of many looks better than it is."
            )
        elif not within:
            search = report.chosen_search
            change = self.metric.change(search.accuracy_change) + f" {self.metric.change_unit}".rstrip()
            notes.append(
                f"It was chosen on the search samples, where its change was {change}; the best of many looks "
                "better there than it is. A margin (--margin), more samples, or a slower strategy of the front "
                "is the safer choice."
            )
        if within and report.asks_for_value:
            notes += self.doubtful_value(record)
        elif within and interval is not None:
            worst = -interval[0] if report.metric.higher_is_better else interval[1]
            if worst > report.max_drop:
                notes.append(
                    f"On {record.n_samples or 0:,} {record.part} samples the measured drop keeps the bound, the "
                    f"true one may not: its 95 % interval reaches {self.metric.beyond(worst, report.max_drop)[0]}."
                )
        return notes

    def doubtful_value(self, record: Record) -> list[str]:
        """Where the interval of the value reaches beyond the one asked for."""
        report, interval = self.report, record.accuracy_interval
        if interval is None or record.accuracy is None:
            return []
        worst = interval[0] if report.metric.higher_is_better else interval[1]
        change = (record.accuracy_change or 0.0) + worst - record.accuracy
        if report.within(replace(record, accuracy=worst, accuracy_change=change)):
            return []
        return [
            f"On {record.n_samples or 0:,} {record.part} samples the measured value keeps the bound, the true one may "
            f"not: its 95 % interval reaches {self.metric.value(worst)}."
        ]

    def in_the_way(self) -> list[str]:
        told: list[str] = []
        for cause, text in (
            ("latency", "of float32's time, no faster quantized"),
            ("accuracy", "of the loss"),
        ):
            rows = [b for b in self.report.blockers if b.cause == cause]
            # Where speed is what is missing, what accuracy costs is no obstacle.
            if rows and not (self.report.outcome == NOT_FASTER and cause == "accuracy" and told):
                names = listing([f"{b.name} ({percent(b.share)} {text})" for b in rows])
                verb = "stands" if len(rows) == 1 else "stand"
                told.append(f"In the way {verb} {names}.")
        return told

    def faster_ones(self) -> list[str]:
        """Where the closest strategy is no faster, the closest that is."""
        if self.report.chosen_search.is_faster:
            return []
        faster = [r for r in self.report.records if r.state == "ok" and r.is_faster]
        faster = [r for r in faster if r.accuracy_change is not None]
        if not faster:
            return ["No strategy that was tried is faster than float32."]
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
        """The strategy within the bound that came out fastest."""
        within = (r for r in self.report.records if self.report.within(r) and r.state == "ok" and r.latency_ratio)
        quantized = (r for r in within if r.strategy is None or not r.strategy.is_float)
        return min(quantized, key=lambda r: r.latency_ratio or 0.0, default=None)

    def search_notes(self) -> list[str]:
        error = self.report.search.error
        return [*self.busy(), *([f"The search ended early: {error}"] if error else [])]
