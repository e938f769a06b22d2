"""Findings about the layers, in sentences: the largest gains, where integers are slower, what is sensitive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..text import listing, percent, plural
from .data import NOISE, NOISE_S, LayerRow, ReportData

_NAMED = 4  # layers named in a sentence; the rest is counted
_SMALL = 0.01  # shares below this are not worth a sentence
_DISAGREE = 1.5  # kernels timed one by one take longer than within a call, by about the same for both networks


def findings(report: ReportData) -> tuple[str, ...]:
    """Sentences about the layers, the most useful first; empty if nothing was timed or probed."""
    found = [
        *_disagreement(report),
        *_slower(report),
        *_gains(report),
        *_fragile(report),
        *_conversions(report),
        *_knobs(report),
    ]
    return tuple(found)


def why(report: ReportData, row: LayerRow) -> str:
    """A remark on one layer beyond its numbers, or an empty text."""
    if row.moves_data:
        return "moves data"
    if not row.quantizable:
        return row.reason or "cannot be quantized"
    if row.is_slower:
        return f"{report.cost.words.more} than in float32 by {report.cost.amount(-(row.saved_s or 0.0), 2)}"
    return "" if row.is_quantized else _left_in_float(report, row)


def _left_in_float(report: ReportData, row: LayerRow) -> str:
    """What quantizing a layer that stays in float32 would save and cost."""
    parts = []
    if row.float_s and row.quantized_s:
        saved = row.float_s - row.quantized_s
        if row.would_be_slower:
            parts.append(f"{report.cost.words.more}, {report.cost.amount(row.quantized_s, 2)}")
        else:
            parts.append(f"saves {report.cost.amount(saved, 2)}" if saved > NOISE * row.float_s else "no faster")
    share = noise_share(report, row)
    if share is not None and share >= _SMALL:
        parts.append(f"adds {percent(share)} of the noise")
    if parts:
        return f"if quantized: {', '.join(parts)}"
    return "" if report.is_float else "left in float32 by the search"


def noise_share(report: ReportData, row: LayerRow) -> float | None:
    """The share of the layer's group in the noise of all groups probed."""
    groups = _noise_by_group(report.layers)
    total = sum(groups.values())
    if row.sensitivity is None or not total or row.sensitivity == float("inf"):
        return None
    return row.sensitivity / total


def _noise_by_group(layers: Sequence[LayerRow]) -> dict[tuple[str, ...], float]:
    """The noise of each group of layers."""
    return {
        row.group or (row.name,): row.sensitivity
        for row in layers
        if row.sensitivity is not None and row.sensitivity != float("inf")
    }


def _disagreement(report: ReportData) -> list[str]:
    """A caveat where the kernels of one network, timed one by one, add up to far more of its call than the other's."""
    if report.estimated or report.joint or report.is_float:
        return []
    floats, chosen = report.float_search.latency_s, report.chosen_search.latency_s
    alone, quantized = report.float_kernels_s, report.chosen_kernels_s
    if not (floats and chosen and alone and quantized):
        return []
    shares = alone / floats, quantized / chosen
    if max(shares) < max(1.0, min(shares)) * _DISAGREE:
        return []
    amount = report.cost.amount
    return [
        f"Timed one by one, the kernels take {amount(alone, 2)} in float32 and {amount(quantized, 2)} as chosen; whole "
        f"calls take {amount(floats, 2)} and {amount(chosen, 2)}. Other work disturbed the times of layers: rely on "
        "those of whole calls."
    ]


def _slower(report: ReportData) -> list[str]:
    """Layers where integers take longer than float32, chosen or not."""
    found = []
    chosen = sorted((row for row in report.layers if row.is_slower), key=lambda row: row.saved_s or 0.0)
    if chosen:
        lost = -sum(row.saved_s or 0.0 for row in chosen)
        precisions = dict.fromkeys(row.precision for row in chosen)
        slower = report.cost.words.is_slower if len(precisions) == 1 else report.cost.words.are_slower
        names = listing([f"{row.name} (+{report.cost.amount(-(row.saved_s or 0), 2)})" for row in chosen], _NAMED)
        together = f"Together they lose {report.cost.amount(lost, 2)}. " if len(chosen) > 1 else ""
        found.append(
            f"{listing(precisions)} {slower} in {plural(len(chosen), 'layer')}: {names}. {together}"
            "This can still pay off, since returning to float between quantized neighbours costs conversions."
        )
    kept = [row for row in report.layers if row.would_be_slower]
    if kept:
        kept.sort(key=lambda row: (row.float_s or 0.0) - (row.quantized_s or 0.0))
        names = listing(
            [
                f"{row.name} ({report.cost.amount(row.quantized_s, 2)} against {report.cost.amount(row.float_s, 2)})"
                for row in kept
            ],
            _NAMED,
        )
        found.append(f"Left in float32 and {report.cost.words.more} when quantized: {names}.")
    if not found and any(row.is_quantized and row.chosen_s for row in report.layers):
        noise = f"{100 * NOISE:.0f} % and {report.cost.amount(NOISE_S, 2)}"
        found.append(f"No quantized layer is slower than it was in float32 by more than the noise ({noise}).")
    return found


def _gains(report: ReportData) -> list[str]:
    """The layers that save the most time."""
    gains = [(row, row.saved_s) for row in report.layers if row.is_quantized and row.saved_s]
    total = sum(saved for _, saved in gains if saved > 0)
    best = sorted((g for g in gains if g[1] > 0), key=lambda gain: -gain[1])[:3]
    if not best or total <= 0 or len(gains) <= 3:
        return []
    names = listing([f"{row.name} ({report.cost.amount(saved, 2)})" for row, saved in best])
    share = sum(saved for _, saved in best) / total
    part = "all" if share > 0.995 else f"{percent(share)} of all"
    return [f"Largest gains: {names}, {part} that quantized layers save."]


def _fragile(report: ReportData) -> list[str]:
    """The groups of layers that would contribute most of the noise."""
    groups = _noise_by_group(report.layers)
    total = sum(groups.values())
    if not total or len(groups) < 3:
        return []
    worst = sorted(groups.items(), key=lambda item: -item[1])[:2]
    precision = {row.name: row.precision for row in report.layers}
    names = [
        f"{group[0]} ({percent(noise / total)} of the noise, chosen: {precision.get(group[0], 'float32')})"
        for group, noise in worst
    ]
    return [f"Most sensitive to quantization: {listing(names)}."]


def _conversions(report: ReportData) -> list[str]:
    """The time of conversions and layout changes, if it matters."""
    other = report.chosen_other_s
    if not other or report.is_float or all(row.chosen_s is None for row in report.layers):
        return []
    total = report.chosen_kernels_s
    if other < _SMALL * total:
        return []
    return [
        f"Conversions between floats and integers, and changes of layout, take {report.cost.amount(other, 2)}: "
        f"{percent(other / total)} of the time in kernels."
    ]


def _knobs(report: ReportData) -> list[str]:
    """What was chosen for the quantized layers, knob by knob: ``Ranges of activations: min-max in 12 layers.``"""
    quantized = [row for row in report.layers if row.is_quantized]
    sentences = []
    for knob in report.knobs:
        counted = Counter(value for row in quantized for name, value in row.knobs if name == knob.name).most_common()
        parts = [f"{readable(value)} in {plural(number, 'layer')}" for value, number in counted]
        if parts:
            sentences.append(f"{knob.title}: {listing(parts)}.")
    return [" ".join(sentences)] if sentences else []


def readable(value: str) -> str:
    """``per_group:32`` as "per group of 32", ``minmax`` as "min-max", ``mse`` as "squared error"."""
    known = {"minmax": "min-max", "mse": "squared error", "entropy": "entropy (KL)"}
    kind, _, group = value.partition(":")
    text = known.get(kind, kind.replace("_", " "))
    return f"{text} of {group}" if group else text
