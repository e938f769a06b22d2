"""The large numbers at the top of a report: what the goal asks for comes first."""

from __future__ import annotations

from dataclasses import dataclass

from ..measure.metric_text import MetricText
from ..text import clock, factor, plural, ratio_interval, size
from .data import ReportData


@dataclass(frozen=True)
class SummaryTile:
    """One large number: what it is of, the number, and what belongs to it."""

    label: str
    value: str
    detail: str


def summary_tiles(report: ReportData, metric: MetricText) -> tuple[SummaryTile, ...]:
    """Latency, accuracy and size of the answer, as far as they were measured, and how long the search took."""
    tiles = {"latency": _latency(report), "accuracy": _accuracy(report, metric), "size": _size(report)}
    ordered = sorted(tiles, key=lambda name: name != report.goal.primary.name)  # stable
    return (*(tile for name in ordered for tile in tiles[name]), _search(report))


def _allowed(report: ReportData, name: str) -> str:
    """``; at most 0.2 ms``, where this is bounded."""
    bounds = {q.name: (q, q.bound(report.goal)) for q in report.goal.bounds}
    quantity, bound = bounds.get(name, (None, None))
    return "" if quantity is None or bound is None else f"; asked for: at most {quantity.text(bound)}"


def _latency(report: ReportData) -> list[SummaryTile]:
    record, cost, tiles = report.chosen, report.cost, []
    ratio, spent = record.latency_ratio, record.cost_s
    if report.joint and ratio:
        ratios = [f"{name} {part:.3f}" for name, part in record.ratios.items()]
        tiles.append(SummaryTile("Gain", f"{factor(1 / ratio)}×", f"parts of float32: {', '.join(ratios)}"))
    if spent is None:
        return tiles
    value, detail = cost.amount(spent), "float32, the answer here"
    if ratio and not report.is_float:
        part = ratio_interval(ratio, record.latency_ratio_interval)
        value = f"{factor(1 / ratio)}×"
        detail = f"{cost.amount(spent / ratio)} → {cost.amount(spent)}; takes {part} of float32's {cost.words.noun}"
    if ratio and not report.is_float and _allowed(report, "latency"):
        value = cost.amount(spent)
        detail = f"{cost.compared(ratio, factor(max(ratio, 1 / ratio)))} than float32 ({cost.amount(spent / ratio)})"
    label = "Speed" if value.endswith("×") and not report.estimated else cost.words.tile
    return [*tiles, SummaryTile(label, value, detail + _allowed(report, "latency"))]


def _accuracy(report: ReportData, metric: MetricText) -> list[SummaryTile]:
    record, info = report.chosen, report.metric
    # float32's distance from itself says nothing.
    if record.accuracy is None or (report.is_float and info.against_float):
        return []
    details = [f"95 % CI {metric.interval_ends(record.accuracy_interval)}"] if record.accuracy_interval else []
    if record.accuracy_change is not None and not report.is_float and not info.against_float:
        change = metric.change_interval(record.accuracy_change, record.accuracy_change_interval)
        floats = metric.value(record.accuracy - record.accuracy_change)
        details = [f"float32 {floats}", f"change {change} {metric.change_unit}".rstrip()]
    if record.n_samples:
        details.append(f"{record.n_samples:,} {record.part} samples")
    label = info.name if "_" in info.name else info.name[0].upper() + info.name[1:]
    return [SummaryTile(label, metric.value(record.accuracy), "; ".join(details))]


def _size(report: ReportData) -> list[SummaryTile]:
    ours, floats = report.chosen.size_bytes, report.baseline.size_bytes
    if not ours:
        return []
    value, details = size(ours), ["weights and other constants, as deployed"]
    if floats and not report.is_float:
        details = [f"float32 {size(floats)}", *details]
        if report.goal.primary.name == "size":
            value, details = f"{factor(floats / ours)}× smaller", [f"{size(floats)} → {size(ours)}", details[-1]]
    return [SummaryTile("Size", value, "; ".join(details) + _allowed(report, "size"))]


def _search(report: ReportData) -> SummaryTile:
    trials, failed = len(report.records), sum(record.state == "failed" for record in report.records)
    measured = "counted" if report.estimated else "measured"
    how = f"{failed} of them failed" if failed else f"all compiled and {measured}"
    detail = f"{plural(trials, 'trial')}, {how}" if trials else ""
    return SummaryTile("Last run" if report.resumed else "Search", clock(report.search.seconds), detail)
