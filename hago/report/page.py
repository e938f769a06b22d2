"""What the templates are filled with: every number already a text, every bar already a width."""

from __future__ import annotations

from dataclasses import dataclass

from ..measure.metric_text import MetricText
from ..text import (
    MINUS,
    NOTHING,
    clock,
    count,
    factor,
    percent,
    plural,
    ratio_interval,
    shape,
    size,
)
from .cost_text import CostText
from .data import LayerRow, ReportData
from .facts import facts, files, python_snippet, shell_snippet
from .insights import findings, readable, why
from .pareto import Plot, plot
from .phrases import metric_text
from .record_tables import peers_table, records_table
from .sentence import Answer, tell
from .tables import Name, Table
from .timestrip import Strip, strip

# Precisions that have a colour of their own; every other one shares a colour, and says its name anyway.
COLOURED = ("int8", "int7", "bfloat16", "float16", "float32", "quantized", "other")


@dataclass(frozen=True)
class SummaryTile:
    """One large number: what it is of, the number, and what belongs to it."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class LayerView:
    """One row of the layer map. Widths are percent of the longest bar of their column."""

    row: LayerRow
    what: str
    chip: str
    ways: str
    noise: str
    noise_width: float
    float_text: str
    float_width: float
    other_text: str
    other_width: float
    other_colour: str
    speed: str
    change: str
    slow: bool
    why: str


@dataclass(frozen=True)
class Page:
    """The whole page. ``second`` names what is compared with float32 layer by layer; each of ``totals`` is a
    name, float32's time, the second time, the change and the speed-up."""

    report: ReportData
    answer: Answer
    tiles: tuple[SummaryTile, ...]
    plots: tuple[Plot, ...]
    front: Table
    findings: tuple[str, ...]
    strips: tuple[Strip, ...]
    second: str
    layers: tuple[LayerView, ...]
    totals: tuple[tuple[str, str, str, str, str], ...]
    has_times: bool
    has_noise: bool
    layer_table: Table
    legend: tuple[str, ...]
    trials: Table
    count: str
    failed: int
    peers: Table
    facts: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, str], ...]
    shell: str
    python: str


def make_page(report: ReportData) -> Page:
    """Everything that the templates show of this report."""
    metric = metric_text(report)
    layers = _layers(report)
    plots = (plot(report, metric, 880, 430, "wide"), plot(report, metric, 420, 380, "narrow"))
    strips = (strip(report, 880, "wide"), strip(report, 400, "narrow"))
    second = "quantized" if report.is_float else "chosen"
    used = {view.row.precision for view in layers if not view.row.moves_data}
    return Page(
        report=report,
        answer=tell(report),
        tiles=_tiles(report, metric),
        plots=tuple(p for p in plots if p is not None),
        front=records_table(report, metric, report.front),
        findings=findings(report),
        strips=tuple(s for s in strips if s is not None),
        second=second,
        layers=layers,
        totals=_totals(report),
        has_times=any(view.row.float_s is not None for view in layers),
        has_noise=any(view.row.sensitivity is not None for view in layers),
        layer_table=_layer_table(layers, _totals(report), second),
        legend=tuple(sorted(used, key=lambda p: (p == "float32", p))),
        trials=records_table(report, metric, report.records),
        count=plural(len(report.records), "trial"),
        failed=sum(record.state == "failed" for record in report.records),
        peers=peers_table(report, metric),
        facts=facts(report, metric),
        files=files(report),
        shell=shell_snippet(report),
        python=python_snippet(report),
    )


def colour_class(precision: str) -> str:
    """The CSS class of a precision."""
    return precision if precision in COLOURED else "unknown"


def _tiles(report: ReportData, metric: MetricText) -> tuple[SummaryTile, ...]:
    record, floats = report.chosen, report.baseline
    tiles = []
    cost, spent = report.cost, record.cost_s
    if report.joint and record.latency_ratio:
        ratios = [f"{name} {ratio:.3f}" for name, ratio in record.ratios.items()]
        tiles.append(
            SummaryTile("Gain", f"{factor(1 / record.latency_ratio)}×", f"parts of float32: {', '.join(ratios)}")
        )
    if spent is not None:
        value = cost.amount(spent)
        detail = "float32, the answer here"
        if record.latency_ratio and not report.is_float:
            value = f"{factor(1 / record.latency_ratio)}×"
            detail = (
                f"{cost.amount(spent / record.latency_ratio)} → {cost.amount(spent)}; takes "
                f"{ratio_interval(record.latency_ratio, record.latency_ratio_interval)} of float32's {cost.words.noun}"
            )
        tiles.append(SummaryTile(cost.words.tile if report.is_float or report.estimated else "Speed", value, detail))
    # float32's distance from itself says nothing.
    if record.accuracy is not None and not (report.is_float and report.metric.against_float):
        detail = f"95 % CI {metric.interval_ends(record.accuracy_interval)}" if record.accuracy_interval else ""
        if record.accuracy_change is not None and not report.is_float and not report.metric.against_float:
            unit = f" {metric.change_unit}".rstrip()
            change = metric.change_interval(record.accuracy_change, record.accuracy_change_interval)
            detail = f"float32 {metric.value(record.accuracy - record.accuracy_change)}; change {change}{unit}"
        if record.n_samples:
            detail += f"; {record.n_samples:,} {record.part} samples"
        name = report.metric.name
        tiles.append(
            SummaryTile(
                name if "_" in name else name[0].upper() + name[1:], metric.value(record.accuracy), detail.lstrip("; ")
            )
        )
    if record.size_bytes:
        detail = "weights and other constants, as deployed"
        if floats.size_bytes and not report.is_float:
            detail = f"float32 {size(floats.size_bytes)}; {detail}"
        tiles.append(SummaryTile("Size", size(record.size_bytes), detail))
    trials, failed = len(report.records), sum(r.state == "failed" for r in report.records)
    how = (
        f"{failed} of them failed"
        if failed
        else "all compiled and measured"
        if not report.estimated
        else "all compiled and counted"
    )
    told = f"{plural(trials, 'trial')}, {how}" if trials else ""
    tiles.append(SummaryTile("Last run" if report.resumed else "Search", clock(report.search.seconds), told))
    return tuple(tiles)


def _layers(report: ReportData) -> tuple[LayerView, ...]:
    others = [row.quantized_s if report.is_float else row.chosen_s for row in report.layers]
    longest = max([row.float_s or 0.0 for row in report.layers] + [t or 0.0 for t in others], default=0.0)
    loudest = max((_finite(row.sensitivity) for row in report.layers), default=0.0)
    return tuple(_layer(report, row, other, longest, loudest) for row, other in zip(report.layers, others, strict=True))


def _layer(report: ReportData, row: LayerRow, other: float | None, longest: float, loudest: float) -> LayerView:
    saved = None if row.float_s is None or other is None else row.float_s - other
    both = bool(row.float_s and other)
    ways = [readable(way) for way in (row.granularity, row.calibrator) if way]
    noise = "failed" if row.sensitivity == float("inf") else percent(row.sensitivity)
    return LayerView(
        row=row,
        what=_what(row, report.batch),
        chip="" if row.moves_data else row.precision,
        ways=" · ".join(ways) if row.is_quantized else "",
        noise=noise,
        noise_width=_width(_finite(row.sensitivity), loudest),
        float_text=_time(row.float_s, report.cost),
        float_width=_width(row.float_s or 0.0, longest),
        other_text=_time(other, report.cost),
        other_width=_width(other or 0.0, longest),
        other_colour="quantized" if report.is_float and row.quantizable else row.precision,
        speed=f"{factor(row.float_s / other)}×" if both and row.float_s and other else NOTHING,
        change=_change(saved, report.cost),
        slow=row.is_slower or (report.is_float and row.would_be_slower),
        why=why(report, row),
    )


def _totals(report: ReportData) -> tuple[tuple[str, str, str, str, str], ...]:
    """What belongs to no layer, and the sums of all kernels; nothing where they were not timed."""
    layers = report.layers
    if report.is_float or any(row.float_s is None or row.chosen_s is None for row in layers):
        return ()
    others = report.float_other_s or 0.0, report.chosen_other_s or 0.0
    sums = sum(row.float_s or 0.0 for row in layers), sum(row.chosen_s or 0.0 for row in layers)
    found = [("conversions and layout changes", *others)] if any(others) else []
    found.append(("all kernels", sums[0] + others[0], sums[1] + others[1]))
    return tuple(
        (
            name,
            report.cost.amount(old),
            report.cost.amount(new),
            _change(old - new, report.cost),
            f"{factor(old / new)}×" if old and new else NOTHING,
        )
        for name, old, new in found
    )


def _change(saved: float | None, cost: CostText) -> str:
    return NOTHING if not saved else f"{MINUS if saved > 0 else '+'}{cost.amount(abs(saved), 2)}"


def _what(row: LayerRow, batch: int) -> str:
    """Operator, shapes of one sample, and multiply-adds of a layer in one line."""
    inputs = [_one(dims, batch) for dims in dict.fromkeys(row.input_shapes)]
    output = _one(row.output_shape, batch)
    shapes = output if inputs in ([], [output]) else f"{', '.join(inputs)} → {output}"
    text = f"{row.op_type} {shapes}"
    return text + (f" · {count(row.macs)} MAC" if row.macs else "")


def _one(dims: tuple[int, ...], batch: int) -> str:
    """A shape without its batch."""
    return shape(dims[1:] if len(dims) > 1 and dims[0] == batch else dims)


def _time(seconds: float | None, cost: CostText) -> str:
    return "in a neighbour's kernel" if seconds == 0 else cost.amount(seconds)


def _finite(value: float | None) -> float:
    return 0.0 if value is None or value == float("inf") else value


def _width(value: float, longest: float) -> float:
    return round(100 * value / longest, 2) if longest > 0 else 0.0


def _layer_table(
    layers: tuple[LayerView, ...], totals: tuple[tuple[str, str, str, str, str], ...], second: str
) -> Table:
    header = (
        *("layer", "operator", "parameters", "precision", "weights, ranges", "sensitivity"),
        *("time, float32", f"time, {second}", "change", "speed-up", "remark"),
    )
    rows = [_layer_cells(view) for view in layers]
    rows += [(name, "", "", "", "", "", old, new, change, speed, "") for name, old, new, change, speed in totals]
    return Table.of(header, rows, (2, 5, 6, 7, 8, 9), "All layers, in the order of the model")


def _layer_cells(view: LayerView) -> tuple[str, ...]:
    row, speed = view.row, f"{view.speed} (slower)" if view.slow else view.speed
    parameters = count(row.params) if row.params else ""
    return (
        *(Name(row.name), view.what, parameters, view.chip, view.ways, view.noise),
        *(view.float_text, view.other_text, view.change, speed, view.why),
    )


__all__ = ["LayerView", "Page", "SummaryTile", "colour_class", "make_page"]
