"""Tables of records: the front, all trials, other engines."""

from __future__ import annotations

from ..measure.metric_text import MetricText
from ..record import Record
from ..text import NOTHING, clock, duration_interval, ratio_interval, size
from .data import PeerRow, ReportData
from .facts import precisions
from .tables import Table

BESIDE = "float32 alongside"
BESIDE_NOTE = (
    "Every strategy takes turns with float32, whose speed varies over time: each ratio is to float32 in the same turns "
    f"(column {BESIDE})."
)


def records_table(report: ReportData, metric: MetricText, records: tuple[Record, ...]) -> Table:
    """One row per record: the strategy, its measurements and its state.

    Ratios are to float32 in the same turns; its time is shown (`BESIDE`) if it varies.
    """
    unit = f", {metric.change_unit}" if metric.change_unit else ""
    noun = report.cost.words.noun
    header = (
        "trial", "strategy", "state", f"{noun} / float32", noun, BESIDE, f"change of {report.metric.name}{unit}",
        report.metric.name, "size", "quantized", "took",
    )  # fmt: skip
    on_front = {record.id for record in report.front}
    beside = [_beside(report, record) for record in records]
    if len(set(beside) - {NOTHING}) < 2:
        beside = [NOTHING] * len(records)
    rows = []
    for record, floats in zip(records, beside, strict=True):
        state = "chosen" if record.id == report.chosen_search.id else record.state
        if state == "ok":
            state = "front" if record.id in on_front else "ok"
        is_float = record.id < 0
        change = metric.change_interval(record.accuracy_change, record.accuracy_change_interval)
        rows.append((
            NOTHING if is_float else str(record.id + 1),
            record.label,
            {"pruned": "stopped early", "failed": f"failed: {record.reason or 'no reason given'}"}.get(state, state),
            "1" if is_float else ratio_interval(record.latency_ratio, record.latency_ratio_interval),
            report.cost.amount(record.cost_s),
            floats,
            NOTHING if is_float else change,
            metric.value(record.accuracy),
            size(record.size_bytes),
            precisions(record.strategy),
            NOTHING if record.trial_s is None else clock(record.trial_s),
        ))  # fmt: skip
    return Table.of(header, rows, (0, 3, 4, 5, 6, 7, 8, 10))


def _beside(report: ReportData, record: Record) -> str:
    """float32's time in the turns with this record."""
    if record.id < 0 or not record.latency_ratio or record.cost_s is None:
        return NOTHING
    return report.cost.amount(record.cost_s / record.latency_ratio)


def peers_table(report: ReportData, metric: MetricText) -> Table:
    """One row per engine."""
    unit = f", {metric.change_unit}" if metric.change_unit else ""
    header = ("engine", "latency", "ratio", report.metric.name, f"change{unit}", "size", "remark")
    return Table.of(header, [_peer(row, metric) for row in report.peers], (1, 2, 3, 4, 5))


def _peer(row: PeerRow, metric: MetricText) -> tuple[str, ...]:
    return (
        row.label,
        duration_interval(row.latency_s, row.latency_interval),
        ratio_interval(row.latency_ratio, row.latency_ratio_interval),
        metric.interval(row.accuracy, row.accuracy_interval),
        metric.change_interval(row.accuracy_change, row.accuracy_change_interval),
        size(row.size_bytes),
        row.note or "",
    )
