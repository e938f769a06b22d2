"""Phrases of the answer: where it was measured, how fast it is, what it costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..goal import QUANTITIES
from ..measure.clocks import BUSY_SHARE
from ..measure.metric_text import MetricText
from ..outcomes import NOT_MET
from ..record import Record
from ..text import cpu_name, factor, listing, percent, plural, ratio_interval, size
from .data import LayerRow, ReportData


def metric_text(report: ReportData) -> MetricText:
    """How this report writes values of its metric."""
    bound = report.limit if report.limit is not None else report.max_drop if report.goal.bounds_accuracy else 0.0
    return MetricText.of(report.metric, bound, report.chosen.n_samples, report.chosen.accuracy)


def layers_phrase(layers: tuple[LayerRow, ...]) -> str:
    """``18 of 21 layers in int8 and 2 in bfloat16``, not counting layers that only move data."""
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
class Phrases:
    """The phrases of one report, each a part of a sentence."""

    report: ReportData
    metric: MetricText

    def where(self) -> str:
        """``this AMD EPYC (1 thread)``."""
        environment = self.report.environment
        threads = self.report.chosen.threads or environment.threads or 1
        batch = "" if self.report.batch == 1 else f", batches of {self.report.batch}"
        machine = self.report.where or f"this {cpu_name(environment.cpu)}"
        return f"{machine} ({plural(threads, 'thread')}{batch})"

    def busy(self) -> list[str]:
        """How busy the machine was, and what that means for the latencies; empty on a quiet machine."""
        report, told = self.report, []
        load, cores = report.environment.load, report.environment.cores
        if not report.where and load is not None and load > cores:
            told.append(f"load average {load:.1f} on {plural(cores, 'core')}")
        disturbed = max((r.disturbed or 0.0 for r in (report.chosen, report.baseline)), default=0.0)
        if disturbed >= BUSY_SHARE:
            told.append(f"other work interrupted {percent(disturbed)} of the calls")
        notes = [f"The machine was busy: {', '.join(told)}."] if told else []
        if report.baseline.aa_holds is False:
            times = ratio_interval(report.baseline.aa_ratio, report.baseline.aa_ratio_interval)
            notes.append(
                "The machine is too busy to resolve small gains: measured in turns against itself, float32 took "
                f"{times} times as long."
            )
        return notes

    def float_numbers(self) -> str:
        """`` (0.55 ms, top-1 91.3 %)``: float32's cost and accuracy."""
        record, parts = self.report.baseline, []
        if record.cost_s is not None:
            parts.append(self.report.cost.amount(record.cost_s, 2))
        if record.accuracy is not None and not self.report.metric.against_float:
            parts.append(f"{self.report.metric.name} {self.metric.value(record.accuracy)}")
        return f" ({', '.join(parts)})" if parts else ""

    def gain(self, record: Record) -> str:
        """What becomes of the model, first what the goal asks for: ``makes NAME 3.9 times smaller (...) and ...``."""
        primary, name = self.report.goal.primary.name, self.report.model_name
        if primary == "size":
            return f"makes {name} {self.smaller(record)} and {self.faster(record) or 'of unknown latency'}"
        if primary == "accuracy" and self.limits():
            return f"brings {name} to {listing(self.amounts(record))}"
        return self.speed(record)

    def speed(self, record: Record, subject: str = "makes") -> str:
        """``makes NAME 2.9 times faster (0.19 ms instead of 0.55 ms)``, or ``is 2.9 times ...``."""
        faster, name = self.faster(record), self.report.model_name
        if subject == "is":
            return f"is {faster}" if faster else "was not timed"
        if not faster:
            return f"leaves {name} with a latency that was not measured"
        return f"{'leaves' if faster.startswith('as fast') else 'makes'} {name} {faster}"

    def faster(self, record: Record) -> str:
        """``2.9 times faster (0.19 ms instead of 0.55 ms)``; empty where it was not measured."""
        ratio, spent, cost = record.latency_ratio, record.cost_s, self.report.cost
        if not ratio or (spent is None and not self.report.joint):
            return ""
        compared = cost.compared(ratio, factor(max(ratio, 1 / ratio)))
        if self.report.joint or spent is None:
            return compared
        # The ratio compares medians of the same rounds: derive float32's latency in those.
        ours, floats = cost.pair(spent, spent / ratio)
        low, high = record.latency_ratio_interval or (ratio, ratio)
        if low <= 1 <= high:
            return f"as fast as float32 within the noise ({ours} against {floats})"
        return f"{compared} ({ours} instead of {floats})"

    def smaller(self, record: Record, numbers: bool = True) -> str:
        """``3.9 times smaller (283 kB instead of 1.09 MB)``."""
        ours, floats = record.size_bytes, self.report.float_search.size_bytes
        if not ours or not floats:
            return "of unknown size"
        if ours == floats:
            return f"as large as float32 ({size(ours)})"
        compared = f"{factor(max(floats / ours, ours / floats))} times {'smaller' if ours < floats else 'larger'}"
        return f"{compared} ({size(ours)} instead of {size(floats)})" if numbers else compared

    def amounts(self, record: Record) -> list[str]:
        """What it has of each bounded quantity but the accuracy: ``0.19 ms (2.9 times faster than float32)``."""
        told = []
        for name in self.limits():
            amount, compared = size(record.size_bytes), self.smaller(record, numbers=False)
            if name == "latency":
                ratio = record.latency_ratio
                amount = self.report.cost.amount(record.cost_s)
                compared = self.report.cost.compared(ratio, factor(max(ratio, 1 / ratio))) if ratio else "unknown"
            told.append(f"{amount} ({compared}{' than float32' if compared.endswith('er') else ''})")
        return told

    def limits(self) -> dict[str, str]:
        """Each bounded quantity but the accuracy, and its bound: ``{"latency": "0.2 ms"}``."""
        goal = self.report.goal
        bounds = {q: q.bound(goal) for q in goal.bounds if q.name != "accuracy"}
        return {q.name: q.text(bound) for q, bound in bounds.items() if bound is not None}

    def limits_kept(self, record: Record) -> str:
        """``; its size of 198 kB keeps the bound of 200 kB``, for each bound besides the accuracy's."""
        amounts = {"latency": self.report.cost.amount(record.cost_s), "size": size(record.size_bytes)}
        return "".join(f"; its {name} of {amounts[name]} keeps the bound of {b}" for name, b in self.limits().items())

    def limits_missed(self, record: Record) -> str:
        """``takes 0.21 ms, more than the allowed 0.2 ms``; empty where it keeps them."""
        goal, missed = self.report.goal, []
        spent = {"latency": record.latency_s, "size": record.size_bytes}
        for name, bound in self.limits().items():
            quantity, value = QUANTITIES[name], spent[name]
            if goal.kept(quantity, record, likely=False):
                continue
            verb = "takes" if name == "latency" else "has"
            if value is None:
                missed.append(f"its {name} was not measured, and {bound} are allowed")
            elif value < 1.005 * (quantity.bound(goal) or 0.0):
                missed.append(f"{verb} a little more than the allowed {bound}")
            else:
                amount = self.report.cost.amount(value) if name == "latency" else size(value)
                missed.append(f"{verb} {amount}, more than the allowed {bound}")
        return " and ".join(missed)

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
        """The samples that the numbers are from, if that needs a word."""
        if self.report.outcome == NOT_MET:
            return " on the test samples" if record.part == "test" else " on the search samples"
        return " on the test samples" if record.part == "test" else ""

    def bound(self, record: Record) -> str:
        """``, within the allowed 1.0``; empty where the accuracy is not bounded."""
        if not self.report.goal.bounds_accuracy:
            return ""
        if self.report.asks_for_value:
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
        """``below the required 35.0 dB``."""
        side = "below" if self.report.metric.higher_is_better else "above"
        return f"{side} the required {self.limit()}"

    def limit(self) -> str:
        """The bound as a value: the one asked for, or float32's value less the allowed drop."""
        if self.report.limit is not None:
            return self.metric.value(self.report.limit)
        best = self.report.baseline.accuracy or 0.0
        sign = -1 if self.report.metric.higher_is_better else 1
        return self.metric.value(best + sign * self.report.max_drop)

    def bound_words(self, verb: bool = True) -> str:
        """``stays within 1.0 points of float32's top-1 and within 200 kB``, or without its ``verb``."""
        info, limits = self.report.metric, listing(self.limits().values())
        parts = [f"within {limits}"] if limits else []
        if self.report.goal.bounds_accuracy and not self.report.asks_for_value:
            parts = [f"within {self.metric.amount(self.report.max_drop)} of float32's {info.name}", *parts]
        stays = f"{'stays ' if verb else ''}{' and '.join(parts)}" if parts else ""
        if not self.report.asks_for_value or not self.report.goal.bounds_accuracy:
            return stays
        side = "at least" if info.higher_is_better else "at most"
        has = f"{'has' if verb else 'at'} {_article(info.name)} {info.name} of {side} {self.limit()}"
        return f"{has} and {stays}" if stays else has

    def drop(self, record: Record) -> float:
        """The drop of the record; 0 if it was not measured."""
        return self.report.drop(record) or 0.0


def _article(noun: str) -> str:
    """The indefinite article: "an SQNR", "a cosine similarity"."""
    spelt = noun[:2].isupper() and noun[0] in "AEFHILMNORSX"
    return "an" if spelt or (noun[:1] in "aeio" and not spelt) else "a"
