"""The cells of a comparison, for terminals and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from ..text import NOTHING, plain, size
from ..visible import cell, plain_markdown

if TYPE_CHECKING:
    from ..measure.accuracy import Accuracy
    from ..measure.latency import Latency
    from .rows import ComparisonRow

_ROUNDING = 1e-9  # of a value: smaller changes are float rounding


def row_cells(row: ComparisonRow, baseline_measured: bool) -> list[str]:
    """Label, latency, ratio, accuracy, change, size and note, as text."""
    latency, accuracy = row.latency, row.accuracy
    return [
        row.label,
        NOTHING if latency is None else latency_text(latency),
        NOTHING if latency is None or not baseline_measured else ratio_text(latency),
        NOTHING if accuracy is None else accuracy_text(accuracy),
        NOTHING if accuracy is None or accuracy.change is None else change_text(accuracy),
        size(row.size_bytes),
        row.note or row.unfaithful or "",
    ]


def latency_text(latency: Latency) -> str:
    """``1.23 ms [1.20, 1.27]``, or in microseconds below one millisecond."""
    unit, factor = ("ms", 1e3) if latency.median_s >= 1e-3 else ("µs", 1e6)
    median, low, high = (value * factor for value in (latency.median_s, latency.low_s, latency.high_s))
    digits = 2 if median < 10 else 1 if median < 100 else 0
    return f"{median:.{digits}f} {unit} [{low:.{digits}f}, {high:.{digits}f}]"


def ratio_text(latency: Latency) -> str:
    """``0.52 [0.50, 0.53]``; 1 for the baseline."""
    if latency.ratio_low == latency.ratio == latency.ratio_high == 1.0:
        return "1"
    return f"{latency.ratio:.2f} [{latency.ratio_low:.2f}, {latency.ratio_high:.2f}]"


def accuracy_text(accuracy: Accuracy) -> str:
    """``87.4 % [85.3, 89.3]`` for shares, else four digits."""
    value, low, high = accuracy.value, accuracy.low, accuracy.high
    if accuracy.is_share:
        ends = "" if low is None or high is None else f" [{low * 100:.1f}, {high * 100:.1f}]"
        return f"{value * 100:.1f} %{ends}"
    return plain(value) + ("" if low is None or high is None else f" [{plain(low)}, {plain(high)}]")


def change_text(accuracy: Accuracy) -> str:
    """``-0.3 points [-1.1, +0.5], p = 0.45`` for shares, else four digits."""
    change, low, high = accuracy.change, accuracy.change_low, accuracy.change_high
    if change is None:
        return NOTHING
    if not accuracy.is_share:
        nothing = _ROUNDING * abs(accuracy.value)
        told = ["0" if abs(x) <= nothing else f"{x:+.4g}" for x in (change, low, high) if x is not None]
        return told[0] if low is None or high is None else f"{told[0]} [{told[1]}, {told[2]}]"
    if low is None or high is None:
        return f"{change * 100:+.1f} points"
    p_value = "" if accuracy.p_value is None else f", p = {accuracy.p_value:.2g}"
    return f"{change * 100:+.1f} points [{low * 100:+.1f}, {high * 100:+.1f}]{p_value}"


def rich_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str, caption: str) -> Table:
    """The table for a terminal, without empty columns."""
    heading = cell(title) if title else None
    table = Table(title=heading, caption=cell(caption), caption_justify="left", title_justify="left")
    kept = _kept_columns(header, rows)
    for i in kept:
        table.add_column(header[i], justify="left" if i in (0, len(header) - 1) else "right", overflow="fold")
    for row in rows:
        table.add_row(*(cell(row[i]) for i in kept))
    return table


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table in Markdown, without empty columns."""
    kept = _kept_columns(header, rows)
    lines = [[header[i] for i in kept], ["---" if i == 0 else "---:" for i in kept]]
    lines += [[plain_markdown(row[i]) for i in kept] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _kept_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [i for i in range(len(header)) if i == 0 or any(row[i] not in ("", NOTHING) for row in rows)]
