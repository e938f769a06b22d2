"""The report across devices: ``devices.html``, ``devices.md``, and the numbers as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import write_atomic
from ..measure.metric_text import MetricText
from ..record import Record
from ..text import NOTHING, factor, listing, plural, ratio_interval
from .device_comparison import ABSENT, CANNOT, Cell, DeviceComparison, TunedDevice
from .gpu_results import GpuResults
from .gpu_tables import PUBLISHED, exactness_table, kernels_table, times_table
from .pareto import Plot, plot
from .phrases import layers_phrase, metric_text
from .tables import Name, Table
from .write import templates

_MATRIX = (
    "tuned_for", "run_on", "how", "ratio", "ratio_low", "ratio_high", "accuracy", "change", "change_low", "change_high",
    "within", "reason",
)  # fmt: skip
_NAMED = 3  # layers named in a row; the rest is counted
_FRONT = ("device", "estimated", "trial", "strategy", "ratio", "ratio_low", "ratio_high", "accuracy", "change")


@dataclass(frozen=True)
class Panel:
    """One device's plot."""

    title: str
    plot: Plot


@dataclass(frozen=True)
class MatrixCell:
    """One cell as shown: ``main`` is the ratio or the reason there is none, with ``lines`` below it."""

    main: str
    lines: tuple[str, ...]
    kind: str  # "measured", "estimated", "failed", "cannot"
    own: bool
    within: bool


@dataclass(frozen=True)
class GpuPart:
    """What a bundle measured on one GPU."""

    title: str
    tables: tuple[tuple[str, Table], ...]


@dataclass(frozen=True)
class DevicesPage:
    """Everything that the templates show."""

    model_name: str
    metric: str
    title: str
    notes: tuple[str, ...]
    devices: Table
    links: tuple[tuple[str, str], ...]
    panels: tuple[Panel, ...]
    names: tuple[str, ...]
    columns: tuple[str, ...]
    matrix: tuple[tuple[str, tuple[MatrixCell, ...]], ...]
    matrix_table: Table
    differences: Table
    gpus: tuple[GpuPart, ...]
    published: str
    facts: tuple[tuple[str, str], ...]
    made: str


def write_devices(comparison: DeviceComparison, folder: Path) -> None:
    """Writes all files, each whole or not at all. Raises StorageError."""
    page = {"page": make_page(comparison)}
    write_atomic(folder / "devices.html", templates().get_template("devices.html.j2").render(page))
    write_atomic(folder / "devices.md", templates().get_template("devices.md.j2").render(page))
    write_atomic(folder / "devices.json", json.dumps(comparison.to_dict(), indent=1, ensure_ascii=False) + "\n")
    write_atomic(folder / "devices.csv", _csv(_MATRIX, [_matrix_row(cell) for cell in comparison.cells]))
    fronts = [_front_row(device, record) for device in comparison.devices for record in device.result.front]
    write_atomic(folder / "fronts.csv", _csv(_FRONT, fronts))


def make_page(comparison: DeviceComparison) -> DevicesPage:
    """Everything shown about these devices."""
    first = comparison.devices[0].report
    metric = metric_text(first)
    names = tuple(device.name for device in comparison.devices)
    columns = (*names, *(results.gpu for results in comparison.gpus))
    rows = tuple(
        (name, tuple(_shown(comparison, comparison.cell(name, other), metric) for other in columns)) for name in names
    )
    plots = [plot(device.report, metric, 420, 360, f"device{i}") for i, device in enumerate(comparison.devices)]
    panels = zip(comparison.devices, plots, strict=True)
    return DevicesPage(
        model_name=first.model_name,
        metric=first.metric.name,
        title=_title(comparison),
        notes=_notes(comparison),
        devices=_devices(comparison, metric),
        links=tuple((name, f"{name}/report.html") for name in names),
        panels=tuple(Panel(f"{d.name} ({d.spec.name}), {_how(d)}", drawn) for d, drawn in panels if drawn is not None),
        names=names,
        columns=columns,
        matrix=rows,
        matrix_table=_matrix_table(rows, columns),
        differences=_differences(comparison, names),
        gpus=tuple(_gpu(results, comparison) for results in comparison.gpus),
        published=PUBLISHED,
        facts=_facts(comparison),
        made=(first.chosen.created or "")[:10],
    )


def _gpu(results: GpuResults, comparison: DeviceComparison) -> GpuPart:
    models = results.names(comparison.model.hash)
    tables = (
        ("One call, the median of rounds in turns", times_table(results, models)),
        ("Outputs against those expected", exactness_table(results, models)),
        ("The kernels furthest from their floor", kernels_table(results, models)),
    )
    about = f"{results.gpu}, measured{f' ({results.about})' if results.about else ''}"
    return GpuPart(about, tuple((title, table) for title, table in tables if table.rows))


def _how(device: TunedDevice) -> str:
    return "estimated" if device.estimated else "measured"


def _title(comparison: DeviceComparison) -> str:
    """The gain on each device, in one sentence."""
    parts = []
    for device in comparison.devices:
        ratio = device.report.chosen.latency_ratio
        if device.report.is_float or not ratio:
            parts.append(f"float32 stays on {device.name}")
        else:
            gain = device.report.cost.compared(ratio, factor(max(ratio, 1 / ratio)))
            parts.append(f"{gain} than float32 on {device.name}")
    return f"{comparison.devices[0].report.model_name}: {listing(parts)}"


def _notes(comparison: DeviceComparison) -> tuple[str, ...]:
    notes = []
    guessed = [device.name for device in comparison.devices if device.estimated]
    if guessed:
        notes.append(
            f"Estimated, on {listing(guessed)}: no board was attached. The comparison there uses instructions counted "
            "in an emulator, not times."
        )
    for results in comparison.gpus:
        if not results.names(comparison.model.hash):
            notes.append(f"Nothing was measured of this model on {results.gpu}: the bundle did not have it.")
    notes += [f"{name} could not be measured: {reason}" for name, reason in comparison.gone.items()]
    kept = [other.name for other in comparison.devices if _fits_all(comparison, other)]
    if kept:
        notes.append(f"The answer of {listing(kept)} runs on all devices and keeps the bound on each.")
    for device in comparison.devices:
        best = comparison.cell(device.name, device.name)
        rivals = [c for c in comparison.cells if c.run_on == device.name and c.ratio and c.within and c is not best]
        faster = min(rivals, key=lambda c: c.ratio or 0.0, default=None)
        if faster is not None and best.ratio and faster.ratio and faster.ratio < 0.97 * best.ratio:
            notes.append(
                f"On {device.name} the answer of {faster.tuned_for} does better than its own "
                f"({faster.ratio:.3f} against {best.ratio:.3f}): a longer search there would find it."
            )
    return tuple(notes)


def _fits_all(comparison: DeviceComparison, device: TunedDevice) -> bool:
    names = {other.name for other in comparison.devices}
    return all(cell.within for cell in comparison.cells if cell.tuned_for == device.name and cell.run_on in names)


def _devices(comparison: DeviceComparison, metric: MetricText) -> Table:
    unit = f", {metric.change_unit}" if metric.change_unit else ""
    header = (
        "device", "spec", "where", "how", "best strategy", "part of float32", "cost", metric.info.name,
        f"change{unit}", "bound",
    )  # fmt: skip
    return Table.of(header, [_device_row(device, metric) for device in comparison.devices], (5, 6, 7, 8))


def _device_row(device: TunedDevice, metric: MetricText) -> tuple[str, ...]:
    report, record = device.report, device.report.chosen
    within = report.is_float or report.within(record)
    return (
        device.name,
        Name(device.spec.name),
        device.where,
        _how(device),
        layers_phrase(report.layers),
        "1" if report.is_float else ratio_interval(record.latency_ratio, record.latency_ratio_interval),
        report.cost.amount(record.cost_s),
        metric.value(record.accuracy),
        NOTHING if report.is_float else metric.change_interval(record.accuracy_change, record.accuracy_change_interval),
        "kept" if within else "missed",
    )


def _shown(comparison: DeviceComparison, cell: Cell, metric: MetricText) -> MatrixCell:
    own = cell.tuned_for == cell.run_on
    if cell.ratio is None:
        kind = "cannot" if cell.how in (CANNOT, ABSENT) else "failed"
        return MatrixCell(cell.how, (cell.reason or "",), kind, own, False)
    if cell.run_on in {results.gpu for results in comparison.gpus}:
        return MatrixCell(f"{cell.ratio:.3f}", (cell.how,), cell.how, own, True)
    best = comparison.cell(cell.run_on, cell.run_on).ratio
    lines = [f"{metric.value(cell.accuracy)} ({metric.change(cell.change)})"]
    if not own and best:
        over = cell.ratio / best - 1
        lines.append("as its own" if abs(over) < 0.005 else f"{100 * abs(over):.0f} % {'more' if over > 0 else 'less'}")
    lines.append(cell.how)
    if not cell.within:
        lines.append("misses the bound")
    return MatrixCell(f"{cell.ratio:.3f}", tuple(lines), cell.how, own, bool(cell.within))


def _matrix_table(rows: Sequence[tuple[str, tuple[MatrixCell, ...]]], names: Sequence[str]) -> Table:
    header = ("tuned for", *(f"run on {name}" for name in names))
    return Table.of(header, [(name, *("; ".join([c.main, *c.lines]) for c in cells)) for name, cells in rows])


def _differences(comparison: DeviceComparison, names: Sequence[str]) -> Table:
    header = ("layers", "kind", *names, "the specs' rules")
    alike: dict[tuple[str, ...], list[str]] = {}
    for d in comparison.differences:
        key = (d.kind.replace("_", " "), *(d.precisions[name] for name in names), "; ".join(d.why))
        alike.setdefault(key, []).append(d.layer)
    rows = [(listing(layers, _NAMED), *key) for key, layers in alike.items()]
    return Table.of(header, rows)


def _facts(comparison: DeviceComparison) -> tuple[tuple[str, str], ...]:
    report = comparison.devices[0].report
    return (
        ("Model", f"{report.model_source}, SHA-256 {report.model_hash[:16]}…, {plural(len(report.layers), 'layer')}."),
        (
            "Samples",
            f"The same for all: {', '.join(f'{n:,} for {part}' for part, n in report.split.sizes.items())}. Every "
            "device had its own search; this page shows the test samples, which no search saw.",
        ),
        (
            "Ratios",
            "To float32 on the same device, compiled by the same compiler. Measured: float32 and all answers are timed "
            "in turns on that device, so that the cells of a column are comparable. "
            "Estimated: instructions of one call, counted in an emulator; exact, but not times.",
        ),
        (
            "Accuracy",
            "That of the compiled network. Networks that are all integers have one right answer on every machine: "
            "their accuracy is measured here, and samples on the device must be the same, bit for bit. Float layers "
            "may round differently: for a board the accuracy is its own, for an emulated one it is this machine's.",
        ),
    )


def _matrix_row(cell: Cell) -> tuple[object, ...]:
    ratio, change = cell.ratio_interval or ("", ""), cell.change_interval or ("", "")
    return (
        cell.tuned_for, cell.run_on, cell.how, cell.ratio, *ratio, cell.accuracy, cell.change, *change, cell.within,
        cell.reason,
    )  # fmt: skip


def _front_row(device: TunedDevice, record: Record) -> tuple[object, ...]:
    interval = record.latency_ratio_interval or ("", "")
    return (
        device.name, device.estimated, "" if record.id < 0 else record.id + 1, record.label, record.latency_ratio,
        *interval, record.accuracy, record.accuracy_change,
    )  # fmt: skip


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([["" if value is None else value for value in row] for row in rows])
    return text.getvalue()
