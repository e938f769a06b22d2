"""The data for the templates, with every number already a text and every bar already a width."""

from __future__ import annotations

from dataclasses import dataclass

from ..text import (
    MINUS,
    NOTHING,
    count,
    factor,
    percent,
    plural,
    shape,
)
from .cost_axis import CostAxis, cost_axis
from .cost_text import CostText
from .data import LayerRow, ReportData
from .facts import facts, files, python_snippet, shell_snippet
from .insights import findings, readable, why
from .pareto import Plot, plot
from .phrases import metric_text
from .record_tables import BESIDE, BESIDE_NOTE, peers_table, records_table
from .sentence import Answer, tell
from .summary_tiles import SummaryTile, summary_tiles
from .tables import Name, Table
from .timestrip import Strip, strip

# Precisions with their own colour; the others share one and are labelled anyway.
COLOURED = ("int8", "int7", "bfloat16", "float16", "float32", "quantized", "other")


@dataclass(frozen=True)
class LayerView:
    """One row of the layer map. Widths are in percent of the longest bar of the column."""

    row: LayerRow
    what: str
    chip: str
    knobs: tuple[str, ...]
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
    """The whole page.

    ``second`` names what is compared with float32 layer by layer, ``knobs`` are the headings of what was chosen for
    each layer besides its precision, and each of ``totals`` is a name, float32's time, the second time, the change and
    the speed-up. ``ratio_note`` says what the ratios of trials refer to, where that needs a word.
    """

    report: ReportData
    answer: Answer
    tiles: tuple[SummaryTile, ...]
    axis: CostAxis
    plots: tuple[Plot, ...]
    front: Table
    findings: tuple[str, ...]
    strips: tuple[Strip, ...]
    second: str
    layers: tuple[LayerView, ...]
    totals: tuple[tuple[str, str, str, str, str], ...]
    has_times: bool
    has_noise: bool
    knobs: tuple[str, ...]
    layer_table: Table
    legend: tuple[str, ...]
    trials: Table
    ratio_note: str
    count: str
    failed: int
    peers: Table
    facts: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, str], ...]
    shell: str
    python: str


def make_page(report: ReportData) -> Page:
    """Everything that the templates show."""
    metric = metric_text(report)
    layers = _layers(report)
    trials = records_table(report, metric, report.records)
    plots = (plot(report, metric, 880, 430, "wide"), plot(report, metric, 420, 380, "narrow"))
    strips = (strip(report, 880, "wide"), strip(report, 400, "narrow"))
    second = "quantized" if report.is_float else "chosen"
    used = {view.row.precision for view in layers if not view.row.moves_data}
    return Page(
        report=report,
        answer=tell(report),
        tiles=summary_tiles(report, metric),
        axis=cost_axis(report),
        plots=tuple(p for p in plots if p is not None),
        front=records_table(report, metric, report.front),
        findings=findings(report),
        strips=tuple(s for s in strips if s is not None),
        second=second,
        layers=layers,
        totals=_totals(report),
        has_times=any(view.row.float_s is not None for view in layers),
        has_noise=any(view.row.sensitivity is not None for view in layers),
        knobs=tuple(knob.title for knob in report.knobs),
        layer_table=_layer_table(report, layers, second),
        legend=tuple(sorted(used, key=lambda p: (p == "float32", p))),
        trials=trials,
        ratio_note=BESIDE_NOTE if BESIDE in trials.header else "",
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


def _layers(report: ReportData) -> tuple[LayerView, ...]:
    others = [row.quantized_s if report.is_float else row.chosen_s for row in report.layers]
    longest = max([row.float_s or 0.0 for row in report.layers] + [t or 0.0 for t in others], default=0.0)
    loudest = max((_finite(row.sensitivity) for row in report.layers), default=0.0)
    return tuple(_layer(report, row, other, longest, loudest) for row, other in zip(report.layers, others, strict=True))


def _layer(report: ReportData, row: LayerRow, other: float | None, longest: float, loudest: float) -> LayerView:
    saved = None if row.float_s is None or other is None else row.float_s - other
    both = bool(row.float_s and other)
    values = dict(row.knobs) if row.is_quantized else {}
    noise = "failed" if row.sensitivity == float("inf") else percent(row.sensitivity)
    return LayerView(
        row=row,
        what=_what(row, report.batch),
        chip="" if row.moves_data else row.precision,
        knobs=tuple(readable(values.get(knob.name, "")) for knob in report.knobs),
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
    """The times that belong to no layer, and the sums of all kernels; empty if not timed."""
    if report.is_float or any(row.float_s is None or row.chosen_s is None for row in report.layers):
        return ()
    others = report.float_other_s or 0.0, report.chosen_other_s or 0.0
    found = [("conversions and layout changes", *others)] if any(others) else []
    found.append(("all kernels", report.float_kernels_s, report.chosen_kernels_s))
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
    """A shape without the batch dimension."""
    return shape(dims[1:] if len(dims) > 1 and dims[0] == batch else dims)


def _time(seconds: float | None, cost: CostText) -> str:
    return "in a neighbour's kernel" if seconds == 0 else cost.amount(seconds)


def _finite(value: float | None) -> float:
    return 0.0 if value is None or value == float("inf") else value


def _width(value: float, longest: float) -> float:
    return round(100 * value / longest, 2) if longest > 0 else 0.0


def _layer_table(report: ReportData, layers: tuple[LayerView, ...], second: str) -> Table:
    knobs = [knob.title[0].lower() + knob.title[1:] for knob in report.knobs]
    header = (
        *("layer", "operator", "parameters", "precision", *knobs, "sensitivity"),
        *("time, float32", f"time, {second}", "change", "speed-up", "remark"),
    )
    rows = [_layer_cells(view) for view in layers]
    blank = [""] * (len(knobs) + 4)
    rows += [(name, *blank, old, new, change, speed, "") for name, old, new, change, speed in _totals(report)]
    first = len(knobs) + 4  # the sensitivity
    return Table.of(header, rows, (2, *range(first, first + 5)), "All layers, in the order of the model")


def _layer_cells(view: LayerView) -> tuple[str, ...]:
    row, speed = view.row, f"{view.speed} (slower)" if view.slow else view.speed
    parameters = count(row.params) if row.params else ""
    return (
        *(Name(row.name), view.what, parameters, view.chip, *view.knobs, view.noise),
        *(view.float_text, view.other_text, view.change, speed, view.why),
    )


__all__ = ["LayerView", "Page", "colour_class", "make_page"]
