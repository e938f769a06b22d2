"""Time per layer: one bar for float32 and one for the chosen strategy, on one scale."""

from __future__ import annotations

from dataclasses import dataclass

from .data import LayerRow, ReportData

_LETTER = 6.3  # average width of a small letter, in pixels
_BAR, _GAP, _TOP, _FOOT = 34, 52, 24, 14


@dataclass(frozen=True)
class Segment:
    """The time of one layer. ``kind`` is the class of its precision, ``slow`` marks it as slower than in float32."""

    x: float
    y: float
    width: float
    kind: str
    title: str
    label: str
    slow: bool = False


@dataclass(frozen=True)
class Strip:
    """The bars, in pixels; ``heads`` are their titles with positions."""

    name: str
    width: int
    height: int
    bar: int
    segments: tuple[Segment, ...]
    heads: tuple[tuple[float, str, str], ...]


def strip(report: ReportData, width: int, name: str) -> Strip | None:
    """The bars at this width, or None if layers were not timed.

    If float32 is the answer, the second bar shows the model quantized as far as possible.
    """
    rows = [row for row in report.layers if row.float_s is not None]
    second = [_second(report, row) for row in rows]
    floats, others = [row.float_s or 0.0 for row in rows], [time or 0.0 for time in second]
    if not rows or not sum(floats) or not sum(others):
        return None
    # Conversions belong to no layer; they were not timed for the fully quantized model.
    other = report.float_other_s or 0.0, 0.0 if report.is_float else report.chosen_other_s or 0.0
    totals = sum(floats) + other[0], sum(others) + other[1]
    scale = width / max(totals)
    names = ("float32", "quantized where possible" if report.is_float else "chosen")
    segments: list[Segment] = []
    heads = []
    for line, (times, rest) in enumerate(zip((floats, others), other, strict=True)):
        y, x = _TOP + line * (_BAR + _GAP), 0.0
        heads.append((y - 7.0, names[line], f"{report.cost.amount(totals[line])} in kernels"))
        for row, time in zip(rows, times, strict=True):
            if time <= 0:
                continue
            precision = _precision(report, row) if line else "float32"
            title = f"{row.name}\n{precision}: {report.cost.amount(time)}"
            slow = bool(line) and (row.is_slower or (report.is_float and row.would_be_slower))
            if line:
                title += f", float32: {report.cost.amount(row.float_s)}"
            segments.append(_segment(x, y, time * scale, precision, title, row.name, slow))
            x += time * scale
        if rest > 0:
            title = f"conversions and layout changes between layers: {report.cost.amount(rest)}"
            segments.append(_segment(x, y, rest * scale, "other", title, "conversions", False))
    return Strip(name, width, _TOP + 2 * _BAR + _GAP + _FOOT, _BAR, tuple(segments), tuple(heads))


def _second(report: ReportData, row: LayerRow) -> float | None:
    if not report.is_float:
        return row.chosen_s
    return row.float_s if row.quantized_s is None else row.quantized_s


def _precision(report: ReportData, row: LayerRow) -> str:
    if report.is_float:
        return "float32" if row.quantized_s is None else "quantized"
    return "float32" if row.moves_data else row.precision


def _segment(x: float, y: float, width: float, kind: str, title: str, name: str, slow: bool) -> Segment:
    label = name if len(name) * _LETTER + 8 < width else ""
    return Segment(round(x, 2), y, round(max(width - 1, 0.4), 2), kind, title, label, slow)
