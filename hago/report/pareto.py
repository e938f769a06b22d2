"""The plot of latency (or size) against accuracy: where every mark goes. ``pareto.svg.j2`` draws it.

Notation: x is the cost as a part of float32's (cost_axis.py), y the change of the metric against float32 (better is up,
whatever the metric), both with 95 % intervals from paired measurements.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..measure.metric_text import MetricText
from ..record import Record
from ..text import NOTHING, ratio_interval, size
from .axis import Scale, decimals, padded
from .cost_axis import CostAxis, cost_axis
from .data import ReportData

# The frame ends at this many times the bound: larger losses are of no interest.
_FRAME_DROPS = 4.0
# The frame ends at this multiple of float32's latency: slower strategies are of no interest.
_FRAME_RATIO = 1.5

# Pixels: an axis title with its gaps, and one digit of a tick.
_TITLE_WIDTH, _DIGIT_WIDTH = 30, 7.5


@dataclass(frozen=True)
class Mark:
    """One record. ``kind``: "trial", "pruned", "front", "chosen", "test" or "float"; ``arms`` are the ends of
    its error bars (x low, x high, y low, y high), ``off`` says that it lies outside of the frame, ``breaks`` that it
    breaks a bound that is not drawn."""

    kind: str
    x: float
    y: float
    title: str
    arms: tuple[float, float, float, float] | None = None
    off: str = ""
    breaks: bool = False


@dataclass(frozen=True)
class Label:
    """A short text next to a mark."""

    text: str
    x: float
    y: float
    anchor: str
    kind: str


@dataclass(frozen=True)
class Tick:
    """A position on an axis, its number, and that number in the other unit."""

    at: float
    text: str
    second: str = ""


@dataclass(frozen=True)
class Plot:
    """Everything to draw, in pixels of ``width`` x ``height``; the frame is left, top, right, bottom.

    ``noun`` is what x shows, ``better`` what lies to the left. The shaded corner, what was asked for, ends at
    ``corner_x`` and ``bound_y``; ``bound_x`` is None where x is not bounded. ``breaking`` counts the marks that break a
    bound that is not drawn, ``outside`` those outside of the frame.
    """

    name: str
    noun: str
    better: str
    width: int
    height: int
    frame: tuple[float, float, float, float]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_title: str
    y_title: str
    y_title_right: str
    marks: tuple[Mark, ...]
    labels: tuple[Label, ...]
    front_line: str
    corner_x: float
    bound_x: float | None
    bound_x_text: str
    bound_y: float
    bound_text: str
    float_x: float
    float_y: float
    test_line: tuple[float, float, float, float] | None
    outside: int
    breaking: int


@dataclass(frozen=True)
class _Point:
    record: Record
    kind: str
    x: float
    y: float
    x_ends: tuple[float, float]
    y_ends: tuple[float, float]


def plot(report: ReportData, metric: MetricText, width: int, height: int, name: str) -> Plot | None:
    """The plot at this size, or None if there is nothing to draw."""
    axis = cost_axis(report)
    points = list(_points(report, axis))
    if len(points) < 2:
        return None
    compact = width < 600
    top, bottom = 14, height - 62
    sign = 1 if report.metric.higher_is_better else -1
    base = report.float_search.accuracy
    x_range, y_range = _ranges(points, report, axis.bound)
    y_axis = Scale(*y_range, bottom, top)
    y_ticks = tuple(Tick(y_axis(v), *_tick(report, metric, base, sign * v)) for v in y_axis.ticks(6 if compact else 8))
    left = _room(tick.text for tick in y_ticks)
    right = width - (14 if compact else _room(tick.second for tick in y_ticks))
    x_axis = Scale(*x_range, left, right)
    order = {"pruned": 0, "trial": 0, "front": 1, "float": 2, "test": 3, "chosen": 4}
    points.sort(key=lambda point: order[point.kind])
    marks = tuple(_mark(point, metric, axis, x_axis, y_axis) for point in points)
    front = [m for m in marks if m.kind in ("front", "float", "chosen")]
    on_front = {r.id for r in report.front}
    line = _staircase(
        (m.x, m.y) for p, m in zip(points, marks, strict=True) if m in front and p.record.id in on_front and not m.off
    )
    by_kind = {m.kind: m for m in marks}
    chosen, test = by_kind.get("chosen"), by_kind.get("test")
    across = x_axis.ticks(5 if compact else 9)
    places = decimals(across)
    return Plot(
        name=name,
        noun=axis.noun,
        better=axis.better,
        width=width,
        height=height,
        frame=(left, top, right, bottom),
        x_ticks=tuple(Tick(x_axis(v), f"{v:.{places}f}", axis.amount(v)) for v in across if v > 0),
        y_ticks=y_ticks,
        x_title=f"{axis.short if compact else axis.noun} as a part of float32’s"
        + ("" if compact or not axis.scale else f" ({axis.scale})"),
        y_title=report.metric.name
        if report.metric.against_float
        else f"change of {report.metric.name}" + (f", {metric.change_unit}" if metric.change_unit else ""),
        y_title_right="" if report.metric.against_float else report.metric.name,
        marks=marks,
        labels=tuple(_labels(by_kind, (left, top, right, bottom))),
        front_line=" ".join(f"{x},{y}" for x, y in line) if len(line) > 1 else "",
        corner_x=x_axis(1.0 if axis.bound is None else axis.bound),
        bound_x=None if axis.bound is None or not x_axis.holds(axis.bound) else x_axis(axis.bound),
        bound_x_text=axis.bound_text,
        bound_y=y_axis(-report.max_drop) if report.goal.bounds_accuracy else bottom,
        bound_text=""
        if not report.goal.bounds_accuracy
        else f"required: {_absolute(metric, base, -sign * report.max_drop)}"
        if report.asks_for_value
        else f"allowed: {metric.change(-sign * report.max_drop)}",
        float_x=x_axis(1.0),
        float_y=y_axis(0.0),
        test_line=(chosen.x, chosen.y, test.x, test.y) if chosen and test else None,
        outside=sum(bool(m.off) for m in marks),
        breaking=sum(m.breaks for m in marks),
    )


def _tick(report: ReportData, metric: MetricText, base: float | None, change: float) -> tuple[str, str]:
    """The texts on the left and on the right: changes and values, or only values for a distance from float32."""
    value = _absolute(metric, base, change)
    return (value, "") if report.metric.against_float else (metric.change(change), value)


def _absolute(metric: MetricText, base: float | None, change: float) -> str:
    return "" if base is None else metric.value(base + change)


def _staircase(places: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those places (pixels, y grows downwards) that no other beats in both: with three axes a front has more."""
    line: list[tuple[float, float]] = []
    for x, y in sorted(places):
        if not line or y < line[-1][1]:
            line.append((x, y))
    return line


def _points(report: ReportData, axis: CostAxis) -> Iterable[_Point]:
    """float32 at (1, 0), the trials, and the answer: on the search samples and on the test samples."""
    yield _Point(report.float_search, "float", 1.0, 0.0, (1.0, 1.0), (0.0, 0.0))
    on_front = {record.id for record in report.front}
    chosen = report.chosen_search
    shown = [] if report.is_float else [(chosen, "chosen")]
    if not report.is_float and report.chosen_test is not None and report.chosen_test.state == "ok":
        shown.append((report.chosen_test, "test"))
    for record in report.records:
        if shown and record.id == chosen.id:
            continue
        kind = "pruned" if record.state == "pruned" else "front" if record.id in on_front else "trial"
        shown.append((record, kind))
    sign = 1 if report.metric.higher_is_better else -1
    for record, kind in shown:
        x, change = axis.part(record), record.accuracy_change
        if record.state == "failed" or x is None or change is None or not abs(change) < float("inf"):
            continue
        low, high = record.accuracy_change_interval or (change, change)
        y_ends = (low, high) if sign > 0 else (-high, -low)
        yield _Point(record, kind, x, sign * change, axis.ends(record), y_ends)


def _room(texts: Iterable[str]) -> float:
    """The pixels an axis needs for its title and tick texts."""
    return _TITLE_WIDTH + _DIGIT_WIDTH * max(map(len, texts), default=0)


def _ranges(
    points: list[_Point], report: ReportData, bound_x: float | None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ranges of the axes: everything that matters, and other trials that are near."""
    bound = _lowest(points, report)
    answer = [p for p in points if p.kind in ("chosen", "test")]
    if not answer:
        # If float32 is the answer, the trials that competed with it matter.
        answer = [p for p in points if p.x <= _FRAME_RATIO and p.y >= -bound]
    core = [*answer, *(p for p in points if p.kind in ("front", "float") and p.y >= -_FRAME_DROPS * bound)]
    xs = [x for p in core for x in p.x_ends]
    if bound_x is not None and bound_x <= _FRAME_RATIO:
        xs.append(bound_x)
    ys = [y for p in core for y in p.y_ends] + [0.0, -bound]
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(ys), max(ys)
    x_room, y_room = x_high + 0.25 * (x_high - x_low), y_low - 0.5 * (y_high - y_low)
    near = [p for p in points if p.x <= x_room and p.y >= y_room]
    x_low, x_high = padded(min(x_low, *(p.x for p in near)), max(x_high, *(p.x for p in near)), 0.06, 0.1)
    y_low, y_high = padded(min(y_low, *(p.y for p in near)), max(y_high, *(p.y for p in near)), 0.07, max(bound, 1e-12))
    return (max(x_low, 0.0), x_high), (y_low, y_high)


def _lowest(points: list[_Point], report: ReportData) -> float:
    """The drop that the picture has to show: the bound, or where there is none the largest of the front."""
    if report.goal.bounds_accuracy:
        return report.max_drop
    return max((-p.y for p in points if p.kind in ("front", "chosen", "test")), default=0.0)


def _mark(point: _Point, metric: MetricText, axis: CostAxis, x_axis: Scale, y_axis: Scale) -> Mark:
    off = "" if y_axis.holds(point.y) else "down" if point.y < y_axis.low else "up"
    off = off or ("" if x_axis.holds(point.x) else "right")
    arms = None
    if point.kind in ("front", "chosen", "test") and not off:
        (left, right), (low, high) = point.x_ends, point.y_ends
        arms = (x_axis(left), x_axis(right), y_axis(low), y_axis(high))
    breaks = point.kind != "float" and axis.breaks_unseen(point.record)
    return Mark(point.kind, x_axis(point.x), y_axis(point.y), _title(point, metric, axis), arms, off, breaks)


def _title(point: _Point, metric: MetricText, axis: CostAxis) -> str:
    record, cost = point.record, axis.report.cost
    amounts = [cost.amount(record.cost_s), size(record.size_bytes)]
    told = ", ".join(amount for amount in amounts if amount != NOTHING)
    if point.kind == "float":
        return f"float32: {told}, {metric.info.name} {metric.value(record.accuracy)}"
    name = {"chosen": "chosen: ", "test": "chosen, on the test samples: "}.get(point.kind, "")
    unit = f" {metric.change_unit}".rstrip()
    text = (
        f"{name}{record.label}\n"
        f"{axis.noun} {ratio_interval(point.x, point.x_ends)} of float32’s, {told}\n"
        f"{metric.info.name} {metric.value(record.accuracy)}, "
        f"change {metric.change_interval(record.accuracy_change, record.accuracy_change_interval)}{unit}"
    )
    return text + ("\nstopped early: hopeless" if record.state == "pruned" else "")


def _labels(by_kind: dict[str, Mark], frame: tuple[float, float, float, float]) -> Iterable[Label]:
    """Names of the important marks, placed where there is room."""
    left, top, right, bottom = frame
    chosen, test = by_kind.get("chosen"), by_kind.get("test")
    for kind, text in (("float", "float32"), ("chosen", "chosen"), ("test", "chosen, test samples")):
        mark = by_kind.get(kind)
        if mark is None or mark.off:
            continue
        above = kind != "float"
        if kind == "test" and chosen is not None:
            above = mark.y < chosen.y
        if kind == "chosen" and test is not None:
            above = mark.y <= test.y
        anchor, x = ("end", mark.x - 10) if mark.x > (left + right) / 2 else ("start", mark.x + 10)
        y = mark.y - 10 if above else mark.y + 20
        yield Label(text, x, min(max(y, top + 14), bottom - 6), anchor, kind)
