"""Benches, which time candidates: this machine (local.py), boards and the emulator (rpc.py).

A search asks for ratios to float32 and for kernel costs; it need not know which machine they come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import onnx
from numpy.typing import NDArray

from ..measure.instructions import InstructionEstimate
from ..measure.latency import Latency

if TYPE_CHECKING:
    from ..measure.runner import Runner
    from ..runtime.artifact import Artifact
    from ..spec import HardwareSpec

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Candidate:
    """A network to time: its graph (the float model, or a QDQ form of it) and its compiled form for this machine."""

    name: str
    proto: onnx.ModelProto
    artifact: Artifact
    quantized: bool = True


@dataclass(frozen=True)
class Timing:
    """A bench's measurements of candidates, by name, and the device; ``trouble`` describes devices that failed before.

    ``checked`` counts the samples whose outputs were compared with this machine's.
    """

    latency: Mapping[str, Latency | InstructionEstimate]
    device: str | None = None
    trouble: str | None = None
    checked: int | None = None


@dataclass(frozen=True)
class MeasurementBudget:
    """How long to measure: ``rounds`` and ``time`` as multiples of a trial's; at most ``limit_s`` seconds.

    ``spread`` is a known relative error of ratios (from float32 against itself).
    """

    rounds: float = 1.0
    time: float = 1.0
    limit_s: float | None = None
    settled: bool = True  # repeat the measurement if the times scatter
    spread: float = 0.0


class Bench(Protocol):
    """The machine whose latency counts: this one, or another one reached from here.

    ``spec`` is the machine's; ``host`` is the spec of networks that run here, for calibration and accuracy. With
    ``estimated`` there is no board, and costs are instruction counts.
    """

    @property
    def spec(self) -> HardwareSpec:
        """The hardware whose latency counts."""
        ...

    @property
    def host(self) -> HardwareSpec:
        """The hardware that runs networks here, for calibration and accuracy."""
        ...

    @property
    def estimated(self) -> bool:
        """Whether costs are instruction counts, for lack of a board."""
        ...

    @property
    def where(self) -> str:
        """The machine, for people; empty for this one."""
        ...

    def identity(self) -> Mapping[str, str]:
        """What must not change when a search is resumed, besides the spec."""
        ...

    def measure(self, candidates: Sequence[Candidate], samples: Sequence[Feeds], budget: MeasurementBudget) -> Timing:
        """Times the candidates in turns, on the first of ``samples``; ratios are to the first candidate.

        Compares another machine's outputs on ``samples`` with this machine's. Raises MeasureError if they differ,
        DeviceError if every device fails, NoDeviceError if none can be reached.
        """
        ...

    def runner(self, candidate: Candidate) -> AbstractContextManager[Runner]:
        """Runs the candidate for its outputs: on this machine if both give the same integers, else on the device."""
        ...

    def kernel_costs(self, candidate: Candidate) -> Mapping[str, float]:
        """Layer -> seconds of its kernels (or instructions times `INSTRUCTION_S`); ``""`` for those of no layer."""
        ...

    def save(self, candidate: Candidate, folder: Path) -> None:
        """Writes ``model.so`` for the machine, and the other files that it needs there."""
        ...

    @property
    def files(self) -> tuple[str, ...]:
        """The files that `save` writes besides ``model.so``."""
        ...

    def close(self) -> None:
        """Releases all devices."""
        ...
