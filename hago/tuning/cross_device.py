"""One model on several devices: each device's own search, and every device's answer run on every other."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import arguments
from ..deadline import Deadline
from ..device.places import find_place
from ..errors import BuildError, DeviceError, HagoError, StorageError, StrategyError
from ..folder_lock import filled_folder
from ..interrupts import Interrupts
from ..model import Layer, Model
from ..options import OF_ONE_SEARCH, Options, read_options
from ..precision import find_fitting
from ..record import Record
from ..report.device_comparison import (
    CANNOT,
    ESTIMATED,
    FAILED,
    MEASURED,
    Cell,
    DeviceComparison,
    Difference,
    TunedDevice,
    gpu_cells,
)
from ..report.devices_page import write_devices
from ..report.gpu_results import read_gpu_results
from ..search.trial_store import has_search
from ..signature import takes_options
from ..spec import HardwareSpec
from ..strategy import Strategy
from ..ways import check_choice, op_kind, ways_of
from .evaluator import TvmEvaluator
from .opening import goal_of, open_session

_INTERRUPTED = "the run was interrupted before; the same command continues it"


@takes_options(*OF_ONE_SEARCH)
def compare_devices(
    model: Any,
    *,
    devices: Sequence[str],
    data: Any,
    out: str | os.PathLike[str],
    gpu: Sequence[str | os.PathLike[str]] = (),
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> DeviceComparison:
    """Tunes the model for every device, runs every answer on every device, and writes a cross-device report.

    ``devices`` are names in ``devices_file`` (docs/devices.md). ``options`` are those of `hago.tune`; ``budget`` is
    for each search. Each search has a folder with the device's name in ``out``; an existing search continues. A device
    that cannot be used, or was not searched before a signal, is in ``gone`` with the reason, and the others continue.
    ``error`` holds what could not be written. ``out`` gets devices.html, devices.md, devices.json, devices.csv (the
    matrix) and fronts.csv. ``gpu`` are results of bundles that ran on GPUs (scripts/gpu_bundle.py): each adds a column
    and tables. ``say`` is called with each step. Raises HagoError.
    """
    names = arguments.names("devices", devices, DeviceError)
    root = Path(arguments.path("out", out))
    gpus = tuple(map(read_gpu_results, gpu))
    columns = [*names, *(results.gpu for results in gpus)]
    if len(set(columns)) < len(columns):
        raise DeviceError(f"devices and GPUs must have different names, found {', '.join(columns)}")
    asked = read_options(options, caller="compare_devices", without=OF_ONE_SEARCH)
    places, goal = {name: find_place(name, asked.job.devices_file) for name in names}, goal_of(asked)
    sessions, evaluators = ExitStack(), dict[str, TvmEvaluator]()
    sessions.enter_context(filled_folder(root))
    found: list[TunedDevice] = []
    gone: dict[str, str] = {}
    try:
        interrupts = sessions.enter_context(Interrupts().installed())
        for name, place in places.items():
            if interrupts.signum is not None:
                gone[name] = _INTERRUPTED
                continue
            say(f"{name}: search")
            try:
                session = open_session(
                    model, data, _of_device(asked, root, name), goal, Deadline(asked.search.budget), interrupts
                )
                sessions.callback(session.close)
                assert isinstance(session.evaluator, TvmEvaluator)
                evaluators[name] = session.evaluator
                told = session.find()
                result = session.write(told).search
            except (DeviceError, BuildError) as error:  # only this device: continue with the others
                gone[name] = str(error)
                continue
            about = (session.evaluator.spec, place.address, session.evaluator.estimated)
            found.append(TunedDevice(name, *about, told.strategy, result, told.report))
        if not found:
            raise DeviceError("no device could be measured: " + "; ".join(f"{k}: {v}" for k, v in gone.items()))
        protos = {d.name: evaluators[d.name].qdq(d.strategy) for d in found if not d.strategy.is_float}
        cells: list[Cell] = []
        for device in found:
            say(f"{device.name}: every answer")
            cells += _column(device, found, protos, evaluators[device.name], interrupts.signum is not None)
        loaded = evaluators[found[0].name].model
        for results in gpus:
            cells += gpu_cells(results, loaded, found)
        comparison = DeviceComparison(loaded, tuple(found), tuple(cells), differences(loaded, found), gone, gpus)
        try:
            write_devices(comparison, root)
        except StorageError as error:
            return replace(comparison, error=error)
        return comparison
    finally:
        sessions.close()


def _of_device(options: Options, root: Path, name: str) -> Options:
    """The options of one device's search, in a folder with its name."""
    job = replace(options.job, devices=(name,), out=root / name)
    return replace(options, job=job, search=replace(options.search, resume=has_search(root / name)))


def _column(
    device: TunedDevice,
    found: Sequence[TunedDevice],
    protos: Mapping[str, Any],
    evaluator: TvmEvaluator,
    interrupted: bool,
) -> list[Cell]:
    """Every answer on ``device``: the same QDQ networks, all timed in turns; only its own if interrupted."""
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
    """The reason why a device with this spec cannot run the strategy, or None."""
    for layer in model.layers:
        choice = strategy.choice(layer.name)
        try:
            # 7-bit weights fit into 8 bits: any precision that computes the choice unchanged will do.
            fitting = find_fitting(choice.precision, [way.precision for way in ways_of(layer, spec)])
            check_choice(layer, replace(choice, precision=fitting or choice.precision), spec)
        except StrategyError as error:
            return f"{error.what} ({error.where})" if error.where else error.what
    return None


def _told(device: TunedDevice, other: TunedDevice, record: Record) -> Cell:
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


def differences(model: Model, devices: Sequence[TunedDevice]) -> tuple[Difference, ...]:
    """The layers whose precision differs between devices, in the order of the model."""
    found = []
    for layer in model.layers:
        precisions = {device.name: device.strategy.choice(layer.name).precision for device in devices}
        if layer.kind != "shape" and len(set(precisions.values())) > 1:
            found.append(Difference(layer.name, layer.kind, precisions, _why(layer, devices, precisions)))
    return tuple(found)


def _why(layer: Layer, devices: Sequence[TunedDevice], precisions: Mapping[str, str]) -> tuple[str, ...]:
    """The rules of the specs about differing precisions: which is offered where, with which instructions."""
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
