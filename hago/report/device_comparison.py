"""One model on several devices, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import HagoError
from ..model import Model
from ..search import SearchResult
from ..spec import HardwareSpec
from ..strategy import Strategy
from .data import ReportData

MEASURED, ESTIMATED, FAILED, CANNOT = "measured", "estimated", "failed", "cannot run"


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
    """A layer whose precision differs between devices, and the rules of the specs behind it."""

    layer: str
    kind: str
    precisions: Mapping[str, str]
    why: tuple[str, ...]


@dataclass(frozen=True)
class DeviceComparison:
    """Devices side by side. Devices that are ``gone``, with the reason, appear nowhere else.

    ``error`` is what prevented files of the report from being written, such as a full disk.
    """

    model: Model
    devices: tuple[TunedDevice, ...]
    cells: tuple[Cell, ...]
    differences: tuple[Difference, ...]
    gone: Mapping[str, str] = field(default_factory=dict)
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
