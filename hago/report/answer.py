"""The answer in one sentence, and what honesty adds to it.

The sentence is told on the test part where there is one. Its parts are small functions, one per phrase, so
that each outcome reads as plain words with numbers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..record import Record
from .data import MET, NOT_FASTER, NOT_MET, LayerRow, ReportData
from .metric_text import MetricText
from .text import (
    cpu_name,
    duration,
    factor,
    listing,
    pair_of_durations,
    percent,
    plural,
    ratio_interval,
)

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


def metric_text(report: ReportData) -> MetricText:
    """How this report tells values of its metric."""
    return MetricText.of(report.metric, report.max_drop, report.chosen.n_samples, report.chosen.accuracy)


def tell(report: ReportData) -> Answer:
    """The answer of this report."""
    words = _Words(report, metric_text(report))
    if report.outcome == NOT_FASTER:
        return words.not_faster()
    if report.outcome == NOT_MET:
        return words.nothing_measured() if report.is_float else words.not_met()
    return words.met()


def layers_phrase(layers: tuple[LayerRow, ...]) -> str:
    """``18 of 21 layers in int8 and 2 in bfloat16``; layers that only move data are not counted."""
    counted = [layer for layer in layers if not layer.moves_data]
    precisions = Counter(layer.precision for layer in counted if layer.is_quantized).most_common()
    if not precisions:
        return "every layer in float32"
    first, number = precisions[0]
    if number == len(counted):
        return f"{'its only layer' if number == 1 else f'all {number} layers'} in {first}"
    others = [f"{n} in {name}" for name, n in precisions[1:]]
    return listing([f"{number} of {len(counted)} layers in {first}", *others])


@dataclass(frozen=True)
class _Words:
    report: ReportData
    metric: MetricText

    # The outcomes.

    def met(self) -> Answer:
        report, record = self.report, self.report.chosen
        within = report.within(record)
        head = f"On {self.where()}, running {layers_phrase(report.layers)} {self.speed(record)}"
        if within or record.accuracy_change is None:
            sentence = f"{head} and {self.cost(record)}{self.bound(record)}."
        elif report.metric.against_float:
            sentence = f"{head}, but {self.cost(record)}{self.on_part(record)}, {self.missed()}."
        else:
            drop, bound = self.metric.beyond(self.drop(record), report.max_drop)
            sentence = f"{head}, but {self.cost(record, drop)}, more than the allowed {bound}."
        notes = [*self.doubts(record, within), *self.search_notes()]
        if not within:
            return Answer(sentence, "Out of bound on the test samples", BAD, tuple(notes))
        if not _is_faster(record):
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
            f"{what} pay here: on {self.where()} no strategy tried that keeps {self.bound_words()} is faster "
            f"than float32, so {stays}."
        )
        notes = []
        fastest = min(
            (r for r in report.records if report.within(r) and r.state == "ok" and r.latency_ratio),
            key=lambda r: r.latency_ratio or 0.0,
            default=None,
        )
        if fastest is not None:
            times = ratio_interval(fastest.latency_ratio, fastest.latency_ratio_interval)
            notes.append(
                f"The fastest strategy within the bound ({fastest.label}) takes {times} times as long as float32."
            )
        notes += [*self.in_the_way(), *self.search_notes()]
        return Answer(sentence, "float32 stays", MIXED, tuple(notes))

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

    # Their phrases.

    def where(self) -> str:
        environment = self.report.environment
        threads = self.report.chosen.threads or environment.threads or 1
        batch = "" if self.report.batch == 1 else f", batches of {self.report.batch}"
        return f"this {cpu_name(environment.cpu)} ({plural(threads, 'thread')}{batch})"

    def float_numbers(self) -> str:
        record, parts = self.report.baseline, []
        if record.latency_s is not None:
            parts.append(duration(record.latency_s, 2))
        if record.accuracy is not None and not self.report.metric.against_float:
            parts.append(f"{self.report.metric.name} {self.metric.value(record.accuracy)}")
        return f" ({', '.join(parts)})" if parts else ""

    def speed(self, record: Record, subject: str = "makes") -> str:
        """``makes NAME 2.9 times faster (0.19 ms instead of 0.55 ms)``, or ``is 2.9 times ...``."""
        model = f"{subject} {self.report.model_name} " if subject != "is" else "is "
        ratio, latency_s = record.latency_ratio, record.latency_s
        if not ratio or latency_s is None:
            return "was not timed" if subject == "is" else f"gives {self.report.model_name} a speed not measured"
        # The ratio is of two medians of the same rounds: this is float32's in those.
        ours, floats = pair_of_durations(latency_s, latency_s / ratio)
        low, high = record.latency_ratio_interval or (ratio, ratio)
        if low <= 1 <= high:
            model = "is " if subject == "is" else f"leaves {self.report.model_name} "
            return f"{model}as fast as float32 within the noise ({ours} against {floats})"
        compared = f"{factor(1 / ratio)} times faster" if ratio < 1 else f"{factor(ratio)} times slower"
        return f"{model}{compared} ({ours} instead of {floats})"

    def cost(self, record: Record, amount: str | None = None) -> str:
        """``costs 0.2 points of top-1 (91.3 % → 91.1 %, 95 % CI −0.8 to +0.4)``."""
        metric, info = self.metric, self.report.metric
        change, value = record.accuracy_change, record.accuracy
        part = "" if record.part == "test" or self.report.outcome == NOT_MET else " on the search samples"
        if change is None or value is None:
            return f"gives {info.name} {metric.value(value)}{part}"
        if info.against_float:
            interval = record.accuracy_interval
            ci = f" (95 % CI {metric.interval_ends(interval)})" if interval else ""
            verb = "keeps" if self.report.within(record) else "has"
            return f"{verb} {_article(info.name)} {info.name} of {metric.value(value)} to float32's outputs{ci}{part}"
        interval = record.accuracy_change_interval
        ends = f"{metric.change(interval[0])} to {metric.change(interval[1])}" if interval else ""
        if amount is None and float(metric.number(change)) == 0:
            unit = f" {metric.change_unit}".rstrip()
            ci = f" (95 % CI of the change {ends}{unit})" if ends else ""
            return f"leaves {info.name} at {metric.value(value)}{part}{ci}"
        told = amount or metric.amount(change)
        if amount is not None and record.part == "test":
            part = " on the test samples"
        ci = f", 95 % CI {ends}" if ends else ""
        numbers = f"({metric.value(value - change)} → {metric.value(value)}{ci})"
        if not info.higher_is_better:
            verb = "raises" if change > 0 else "lowers"
            return f"{verb} the {info.name} by {told}{part} {numbers}"
        return f"{'costs' if change < 0 else 'gains'} {told} of {info.name}{part} {numbers}"

    def on_part(self, record: Record) -> str:
        if self.report.outcome == NOT_MET:
            return " on the test samples" if record.part == "test" else " on the search samples"
        return " on the test samples" if record.part == "test" else ""

    def bound(self, record: Record) -> str:
        """``, within the allowed 1.0``."""
        if self.report.metric.against_float:
            side = "above" if self.report.metric.higher_is_better else "below"
            return f", {side} the required {self.limit()}"
        number = self.metric.number(self.report.max_drop)
        change = record.accuracy_change
        if change is None:
            return ""
        if self.drop(record) > 0 and float(self.metric.number(change)) != 0:
            return f", within the allowed {number}"
        word = "drop" if self.report.metric.higher_is_better else "rise"
        return f"; a {word} of {number} was allowed"

    def missed(self) -> str:
        side = "below" if self.report.metric.higher_is_better else "above"
        return f"{side} the required {self.limit()}"

    def limit(self) -> str:
        """The value that a metric against float32's outputs has to keep."""
        best = self.report.baseline.accuracy or 0.0
        sign = -1 if self.report.metric.higher_is_better else 1
        return self.metric.value(best + sign * self.report.max_drop)

    def bound_words(self, named: bool = True) -> str:
        """``within 1.0 points of float32's top-1``."""
        info = self.report.metric
        if info.against_float:
            side = "at least" if info.higher_is_better else "at most"
            return f"{'' if named else 'at '}{_article(info.name)} {info.name} of {side} {self.limit()}"
        return f"within {self.metric.amount(self.report.max_drop)} of float32's {info.name}"

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
        if within and interval is not None and not report.metric.against_float:
            worst = -interval[0] if report.metric.higher_is_better else interval[1]
            if worst > report.max_drop:
                notes.append(
                    f"On {record.n_samples or 0:,} {record.part} samples the measured drop keeps the bound, the "
                    f"true one may not: its 95 % interval reaches {self.metric.amount(worst)}."
                )
        return notes

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
        if _is_faster(self.report.chosen_search):
            return []
        faster = [r for r in self.report.records if r.state == "ok" and _is_faster(r)]
        faster = [r for r in faster if r.accuracy_change is not None]
        if not faster:
            return ["No strategy that was tried is faster than float32."]
        best = min(faster, key=self.drop)
        return [
            f"Of those faster than float32, the closest ({best.label}) changes {self.report.metric.name} by "
            f"{self.metric.change(best.accuracy_change)} {self.metric.change_unit}".rstrip()
            + f" and is {factor(1 / (best.latency_ratio or 1.0))} times faster."
        ]

    def search_notes(self) -> list[str]:
        error = self.report.search.error
        return [f"The search ended early: {error}"] if error else []

    def drop(self, record: Record) -> float:
        return self.report.drop(record) or 0.0


def _article(noun: str) -> str:
    """The article of a noun as it is spoken: "an SQNR", "a cosine similarity"."""
    spelt = noun[:2].isupper() and noun[0] in "AEFHILMNORSX"
    return "an" if spelt or (noun[:1] in "aeio" and not spelt) else "a"


def _is_faster(record: Record) -> bool:
    interval = record.latency_ratio_interval
    high = interval[1] if interval else record.latency_ratio
    return high is not None and high < 1


__all__ = ["BAD", "GOOD", "MET", "MIXED", "Answer", "layers_phrase", "metric_text", "tell"]
