"""The answer in one sentence.

Its numbers come from the test part if that was measured. `phrases.py` has its parts, `notes.py` its caveats.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..outcomes import INCONCLUSIVE, NOT_FASTER, NOT_MET
from ..precision import FLOAT32
from ..record import Record
from ..text import listing, ratio_interval
from .data import ReportData
from .notes import Notes
from .phrases import layers_phrase, metric_text

GOOD, MIXED, BAD = "good", "mixed", "bad"


@dataclass(frozen=True)
class Answer:
    """``sentence`` is the whole answer, ``notes`` are its caveats.

    ``badge`` sums it up in two or three words; ``tone`` is `GOOD`, `MIXED` or `BAD`.
    """

    sentence: str
    badge: str
    tone: str
    notes: tuple[str, ...] = ()


_ESTIMATED = (
    "Estimated: no board was attached. The comparison uses instructions counted in an emulator, not times; "
    "measure on the device before you rely on it (hago measure)."
)


def tell(report: ReportData) -> Answer:
    """The answer that this report gives."""
    answer = _tell(report)
    first = (_ESTIMATED,) if report.estimated else ()
    return replace(answer, notes=(*first, *_parts(report), *report.remarks, *answer.notes))


def _parts(report: ReportData) -> tuple[str, ...]:
    """The value of each quantity among the outputs, if the metric scores several."""
    parts, metric = report.chosen.accuracy_parts, metric_text(report)
    if report.is_float or len(parts) < 2:
        return ()
    told = listing([f"{metric.value(value)} in {name}" for name, value in parts.items()])
    return (f"By output, {report.metric.name} is {told}; each sample counts by its worst output.",)


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
class _AnswerPhrases(Notes):
    """The answers of one report, by outcome."""

    def met(self) -> Answer:
        report, record = self.report, self.report.chosen
        within = report.within(record)
        head = f"On {self.where()}, running {layers_phrase(report.layers)} {self.gain(record)}"
        if within or record.accuracy_change is None:
            sentence = f"{head}{self._kept(record)}."
        elif self.keeps_accuracy(record):
            sentence = f"{head} and {self.cost(record)}, but {self.limits_missed(record)}."
        elif report.asks_for_value:
            sentence = f"{head}, but {self.cost(record)}{self.on_part(record)}, {self.missed()}."
        else:
            drop, bound = self.metric.beyond(self.drop(record), report.max_drop)
            sentence = f"{head}, but {self.cost(record, drop)}, more than the allowed {bound}."
        notes, bounds = [*self.doubts(record, within), *self.search_notes()], self.bounds_phrase()
        if not within and self.keeps_accuracy(record):
            return Answer(sentence, f"Outside the {bounds} in the final measurement", BAD, tuple(notes))
        if not within:
            return Answer(sentence, f"Outside the {bounds} on the test samples", BAD, tuple(notes))
        if not report.gains(record):
            return Answer(sentence, "No clear gain", MIXED, tuple(notes))
        badge = f"Within the {bounds}{'' if record.part == 'test' else ', not tested'}"
        return Answer(sentence, badge, GOOD if record.part == "test" else MIXED, tuple(notes))

    def _kept(self, record: Record) -> str:
        """What follows the gain if every bound is kept: the cost, and how it relates to the bounds."""
        if self.report.goal.primary.name == "accuracy" and self.limits():
            allowed = f", within the allowed {listing(self.limits().values())}"
            return f"{allowed}, and {self.cost(record)}{self.bound(record)}: the most accurate strategy found"
        comma = "," if self.report.goal.primary.name == "size" else ""
        return f"{comma} and {self.cost(record)}{self.bound(record)}{self.limits_kept(record)}"

    def not_faster(self) -> Answer:
        """float32 stays: nothing is better in what the goal asks for."""
        report, primary = self.report, self.report.goal.primary
        tried = {c.precision for r in report.records if r.strategy for c in r.strategy.choices.values()} - {FLOAT32}
        stays = f"{report.model_name} stays in float32{self.float_numbers()}"
        if not tried:
            sentence = f"On {self.where()} there was nothing to quantize: {stays}."
            return Answer(sentence, "Nothing to quantize", MIXED, tuple(self.search_notes()))
        bound = self.bound_words()
        if primary.name == "accuracy":
            sentence = (
                f"On {self.where()}, {stays}: float32 {bound} itself, and no strategy tried is more accurate beyond "
                "the noise."
            )
            return Answer(sentence, f"float32 keeps the {self.bounds_phrase()}", MIXED, tuple(self.search_notes()))
        what = f"{next(iter(tried))} does not" if len(tried) == 1 else "Quantization does not"
        kind = f" that {bound}" if bound else ""
        is_better = f"is {primary.better}"
        if primary.name == "latency" and report.estimated:
            is_better = "takes fewer instructions"
        sentence = (
            f"{what} pay off here: on {self.where()} no strategy tried{kind} {is_better} than float32, so {stays}."
        )
        notes = [*self.nearest_gain(), *self.in_the_way(), *self.search_notes()]
        return Answer(sentence, "float32 stays", MIXED, tuple(notes))

    def inconclusive(self) -> Answer:
        """float32 stays because nothing else is certain, not because quantization does not pay off."""
        report, fastest = self.report, self.fastest()
        head = "The measurements do not show whether quantization pays off here"
        stays = f"{report.model_name} stays in float32{self.float_numbers()}"
        if fastest is None:
            found = f"no latency of a strategy that {self.bound_words()} could be measured on {self.where()}"
        else:
            times = ratio_interval(fastest.latency_ratio, fastest.latency_ratio_interval)
            found = (
                f"on {self.where()} the fastest strategy that {self.bound_words()} ({fastest.label}) takes "
                f"{times} times as long as float32"
            )
        again = "Repeat the search on an idle machine (hago tune --resume measures the finalists again)."
        return Answer(f"{head}: {found}, so {stays}.", "Inconclusive", BAD, (*self.search_notes(), again))

    def not_met(self) -> Answer:
        report, record = self.report, self.report.chosen
        head = (
            f"No strategy tried keeps {report.model_name} {self.bound_words(verb=False)} on {self.where()}: "
            f"the closest, {layers_phrase(report.layers)},"
        )
        parts = [f"{self.cost(record)}{self.on_part(record)}", self.speed(record, subject="is")]
        if "size" in self.limits() or report.goal.primary.name == "size":
            parts.append(f"is {self.smaller(record)}")
        sentence = f"{head} {listing(parts)}."
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
                "On the search samples it kept the bound, but so many of its answers differ from float32's that a "
                f"change of {change} {self.metric.change_unit} is to be expected on other samples."
            )
        notes += [*self.in_the_way(), *self.faster_ones(), *self.search_notes()]
        return Answer(sentence, f"{self.bounds_phrase().capitalize()} not met", BAD, tuple(notes))

    def nothing_measured(self) -> Answer:
        report = self.report
        failed = [r for r in report.records if r.state == "failed"]
        why = f"all {len(failed)} failed" if len(failed) > 1 else "it failed" if failed else "none was tried"
        sentence = (
            f"No candidate could be measured on {self.where()} ({why}), so {report.model_name} stays in float32"
            f"{self.float_numbers()}."
        )
        notes = [f"The first failure: {failed[0].reason}"] if failed and failed[0].reason else []
        return Answer(sentence, "Nothing measured", BAD, (*notes, *self.search_notes()))
