"""One model on several devices: each device's own search, and every device's answer run on every other."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from .. import arguments
from ..deadline import Deadline
from ..errors import BuildError, DeviceError, HagoError, StorageError, StrategyError
from ..folder_lock import filled_folder
from ..interrupts import Interrupts
from ..measure.metrics import get_metric, unit_of
from ..model import Layer, Model
from ..precision import find_fitting
from ..read_goal import read_goal
from ..record import Record
from ..report.data import ReportData
from ..search import SearchResult
from ..search.ledger import has_search
from ..search.stopping import parse_budget
from ..spec import HardwareSpec
from ..strategy import Strategy
from ..ways import check_choice, op_kind, ways_of
from .evaluator import TvmEvaluator

MEASURED, ESTIMATED, FAILED, CANNOT = "measured", "estimated", "failed", "cannot run"


@dataclass(frozen=True)
class OnDevice:
    """One device: its spec, what its search found, and the report of that."""

    name: str
    spec: HardwareSpec
    where: str  # its address
    estimated: bool
    strategy: Strategy
    result: SearchResult
    report: ReportData


@dataclass(frozen=True)
class Cell:
    """The answer of ``tuned_for``, run on ``run_on``, on the test samples.

    ``how`` is "measured", "estimated" (``ratio`` is one of instructions), "failed" or "cannot run", the last two with
    a ``reason``. ``ratio`` and ``change`` are to float32 on ``run_on``, with their 95 % intervals.
    """

    tuned_for: str
    run_on: str
    how: str
    ratio: float | None = None
    ratio_interval: tuple[float, float] | None = None
    accuracy: float | None = None
    change: float | None = None
    change_interval: tuple[float, float] | None = None
    within: bool | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Difference:
    """A layer that runs in another precision on another device, and the rules of the specs behind it."""

    layer: str
    kind: str
    precisions: Mapping[str, str]
    why: tuple[str, ...]


@dataclass(frozen=True)
class Across:
    """Devices side by side; those that are ``gone``, with the reason, are in nothing else.

    ``error`` is what kept files of the report from being written, such as a full disk.
    """

    model: Model
    devices: tuple[OnDevice, ...]
    cells: tuple[Cell, ...]
    differences: tuple[Difference, ...]
    gone: Mapping[str, str] = field(default_factory=dict)
    error: HagoError | None = None

    def cell(self, tuned_for: str, run_on: str) -> Cell:
        """What became of one device's answer on another."""
        return next(cell for cell in self.cells if (cell.tuned_for, cell.run_on) == (tuned_for, run_on))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "hago_devices": 1,
            "model": self.model.hash,
            "gone": dict(self.gone),
            "devices": [_device(device) for device in self.devices],
            "matrix": [asdict(cell) for cell in self.cells],
            "differences": [asdict(difference) for difference in self.differences],
        }


def compare_devices(
    model: Any,
    *,
    devices: Sequence[str],
    data: Any,
    out: str | os.PathLike[str],
    devices_file: str | os.PathLike[str] | None = None,
    budget: str | float | timedelta | None = None,
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Across:
    """Tunes the model for every device, runs every answer on every device, and writes the report across them.

    ``devices`` are names of ``devices_file`` (docs/devices.md); ``budget`` is that of each search, ``options`` are
    those of `hago.tune`. Each search has a folder of its name in ``out``; one that is there already goes on, or is
    done. A device that cannot be used is told so, and the others go on; after a signal, those that were not searched
    yet are told so; what cannot be written is told by the results' ``error``. ``out`` gets devices.html, devices.md,
    devices.json, devices.csv (the matrix) and fronts.csv. ``say`` hears what is being done. Raises HagoError.
    """
    from ..api import open_session
    from ..device.places import find_place
    from ..report.across import write_across

    devices = arguments.names("devices", devices, DeviceError)
    root, places = Path(arguments.path("out", out)), {name: find_place(name, devices_file) for name in devices}
    search = {name: options.pop(name) for name in _SEARCH if name in options}
    judge = options["metric"] = get_metric(options.get("metric", "top1"))
    asked = {name: options.pop(name) for name in _BOUND if name in options}
    search["goal"] = read_goal(judge, unit_of(judge), **asked)
    sessions, evaluators = ExitStack(), dict[str, TvmEvaluator]()
    sessions.enter_context(filled_folder(root))
    found: list[OnDevice] = []
    gone: dict[str, str] = {}
    try:
        interrupts = sessions.enter_context(Interrupts().installed())
        for name, place in places.items():
            if interrupts.signum is not None:
                gone[name] = _INTERRUPTED
                continue
            say(f"{name}: search")
            try:
                clocks: dict[str, Any] = {"deadline": Deadline(parse_budget(budget)), "interrupts": interrupts}
                session = open_session(model, data=data, out=root / name, places=[place], **clocks, **options)
                sessions.callback(session.close)
                assert isinstance(session.evaluator, TvmEvaluator)
                evaluators[name] = session.evaluator
                told = session.find(resume=has_search(root / name), **search)
                result = session.write(told).search
            except (DeviceError, BuildError) as error:  # of this device: the others go on
                gone[name] = str(error)
                continue
            about = (session.evaluator.spec, place.address, session.evaluator.estimated)
            found.append(OnDevice(name, *about, told.strategy, result, told.report))
        if not found:
            raise DeviceError("no device could be measured: " + "; ".join(f"{k}: {v}" for k, v in gone.items()))
        protos = {d.name: evaluators[d.name].qdq(d.strategy) for d in found if not d.strategy.is_float}
        cells: list[Cell] = []
        for device in found:
            say(f"{device.name}: every answer")
            cells += _column(device, found, protos, evaluators[device.name], interrupts.signum is not None)
        loaded = evaluators[found[0].name].model
        across = Across(loaded, tuple(found), tuple(cells), differences(loaded, found), gone)
        try:
            write_across(across, root)
        except StorageError as error:
            return replace(across, error=error)
        return across
    finally:
        sessions.close()


_BOUND = ("max_drop", "min_value", "max_value", "margin", "objectives", "max_latency", "max_size")
_SEARCH = ("trials", "sampler", "patience")
_INTERRUPTED = "the run was interrupted before; the same command goes on"


def _column(
    device: OnDevice, found: Sequence[OnDevice], protos: Mapping[str, Any], evaluator: TvmEvaluator, interrupted: bool
) -> list[Cell]:
    """Every device's answer on ``device``: the same QDQ networks, all timed in turns; its own alone if interrupted."""
    cannot = {other.name: _why_not(other.strategy, evaluator.model, device.spec) for other in found}
    can = {name: proto for name, proto in protos.items() if cannot[name] is None}
    records: dict[str, Record] = {}
    failure: str | None = _INTERRUPTED
    try:
        if interrupted:
            records = {} if device.result.test is None else {device.name: device.result.test}
        elif can:
            records = evaluator.test_together(can)
    except HagoError as error:
        failure = error.what
    cells = []
    for other in found:
        reason = cannot[other.name]
        if reason is not None:
            cells.append(Cell(other.name, device.name, CANNOT, reason=reason))
        elif not other.strategy.is_float and other.name not in records:
            cells.append(Cell(other.name, device.name, FAILED, reason=failure))
        else:
            record = records.get(other.name) or device.result.float_test or device.result.float
            cells.append(_told(other, device, record))
    return cells


def _why_not(strategy: Strategy, model: Model, spec: HardwareSpec) -> str | None:
    """What keeps a device of this spec from running the strategy; None where nothing does."""
    for layer in model.layers:
        choice = strategy.choice(layer.name)
        try:
            # Seven bits lie in eight: what computes the choice unchanged will do.
            fitting = find_fitting(choice.precision, [way.precision for way in ways_of(layer, spec)])
            check_choice(layer, replace(choice, precision=fitting or choice.precision), spec)
        except StrategyError as error:
            return f"{error.what} ({error.where})" if error.where else error.what
    return None


def _told(device: OnDevice, other: OnDevice, record: Record) -> Cell:
    if record.state != "ok":
        return Cell(device.name, other.name, FAILED, reason=record.reason)
    is_float = device.strategy.is_float
    return Cell(
        device.name,
        other.name,
        ESTIMATED if record.estimated else MEASURED,
        1.0 if is_float else record.latency_ratio,
        None if is_float else record.latency_ratio_interval,
        record.accuracy,
        0.0 if is_float else record.accuracy_change,
        None if is_float else record.accuracy_change_interval,
        is_float or other.result.goal.within(record),
    )


def differences(model: Model, devices: Sequence[OnDevice]) -> tuple[Difference, ...]:
    """The layers whose precision is not the same on all devices, in the order of the model."""
    found = []
    for layer in model.layers:
        precisions = {device.name: device.strategy.choice(layer.name).precision for device in devices}
        if layer.kind != "shape" and len(set(precisions.values())) > 1:
            found.append(Difference(layer.name, layer.kind, precisions, _why(layer, devices, precisions)))
    return tuple(found)


def _why(layer: Layer, devices: Sequence[OnDevice], precisions: Mapping[str, str]) -> tuple[str, ...]:
    """What the specs say of the precisions that differ: which is offered where, and as which instructions."""
    kind = op_kind(layer)
    lines = []
    for device in devices:
        mine = precisions[device.name]
        offered = {choice.precision: choice for choice in reversed(device.spec.choices(kind))}
        for other in dict.fromkeys(p for p in precisions.values() if p != mine):
            if other not in offered:
                lines.append(f"{device.spec.name} offers no {other} for {kind.replace('_', ' ')}")
            elif mine in offered:
                ways = f"{mine} is {offered[mine].instruction}, {other} is {offered[other].instruction}"
                lines.append(f"on {device.spec.name} {ways}, and the search chose {mine}")
    return tuple(dict.fromkeys(lines))


def _device(device: OnDevice) -> dict[str, Any]:
    return {
        "name": device.name,
        "spec": device.spec.name,
        "where": device.where,
        "estimated": device.estimated,
        "outcome": device.result.outcome,
        "strategy": device.strategy.to_dict(),
        "front": [record.to_dict() for record in device.result.front],
        "float32": None if device.result.float_test is None else device.result.float_test.to_dict(),
        "best": None if device.result.test is None else device.result.test.to_dict(),
    }
