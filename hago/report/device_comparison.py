"""One model on several devices, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import HagoError
from ..model import Model
from ..search import SearchResult
from ..spec import HardwareSpec
from ..strategy import Strategy
from .data import ReportData
from .gpu_results import GpuResults, strategy_hash

MEASURED, ESTIMATED, FAILED, CANNOT, ABSENT = "measured", "estimated", "failed", "cannot run", "absent"


@dataclass(frozen=True)
class TunedDevice:
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

    ``how`` is "measured", "estimated" (``ratio`` is one of instructions), "failed", "cannot run" or "absent", the last
    three with a ``reason``. ``ratio`` and ``change`` are to float32 on ``run_on``, with their 95 % intervals.
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
    """A layer whose precision differs between devices, and the rules of the specs behind it."""

    layer: str
    kind: str
    precisions: Mapping[str, str]
    why: tuple[str, ...]


@dataclass(frozen=True)
class DeviceComparison:
    """Devices side by side. Devices that are ``gone``, with the reason, appear nowhere else.

    ``gpus`` were measured by a bundle: answers run on them, but no search did. ``error`` is what prevented files of the
    report from being written, such as a full disk.
    """

    model: Model
    devices: tuple[TunedDevice, ...]
    cells: tuple[Cell, ...]
    differences: tuple[Difference, ...]
    gone: Mapping[str, str] = field(default_factory=dict)
    gpus: tuple[GpuResults, ...] = ()
    error: HagoError | None = None

    def cell(self, tuned_for: str, run_on: str) -> Cell:
        """The result of one device's answer on another device."""
        return next(cell for cell in self.cells if (cell.tuned_for, cell.run_on) == (tuned_for, run_on))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "hago_devices": 1,
            "model": self.model.hash,
            "gone": dict(self.gone),
            "gpus": [_gpu(results, self.model) for results in self.gpus],
            "devices": [_device(device) for device in self.devices],
            "matrix": [asdict(cell) for cell in self.cells],
            "differences": [asdict(difference) for difference in self.differences],
        }


def _device(device: TunedDevice) -> dict[str, Any]:
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


def _gpu(results: GpuResults, model: Model) -> dict[str, Any]:
    names = results.names(model.hash)
    return {
        "name": results.gpu,
        "about": results.about,
        "made": results.made,
        "times": [
            {"batch": batch, "engine": engine, **asdict(time)}
            for (name, batch), engines in results.times.items()
            if name in names
            for engine, time in engines.items()
        ],
        "networks": [asdict(network) for network in results.networks if network.model in names],
    }


def gpu_cells(results: GpuResults, model: Model, devices: Sequence[TunedDevice]) -> list[Cell]:
    """Every answer on a GPU at batch 1, where the bundle had that very strategy; nothing is estimated."""
    ratios: dict[str, float] = {}  # strategy -> part of float32
    for network in results.networks:
        times = results.times.get((network.model, network.batch), {})
        own, plain = times.get(f"hago {network.precision}"), times.get("hago float32")
        if network.batch == 1 and network.model in results.names(model.hash) and own and plain:
            ratios[network.strategy] = own.median_s / plain.median_s

    def cell(device: TunedDevice) -> Cell:
        ratio = ratios.get(strategy_hash(device.strategy))
        if ratio is None:
            return Cell(device.name, results.gpu, ABSENT, reason="the bundle did not have this strategy")
        return Cell(device.name, results.gpu, MEASURED, ratio)

    return [cell(device) for device in devices]
