"""Where candidates are timed: a bench. This machine is one (local.py); boards and the emulator are others (rpc.py).

A search asks for ratios to float32 and for the costs of kernels, and need not know which machine gives them.
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
    """A network to be timed: its graph (the float model, or a QDQ form of it) and how it runs on this machine."""

    name: str
    proto: onnx.ModelProto
    artifact: Artifact
    quantized: bool = True


@dataclass(frozen=True)
class Timing:
    """What a bench found of each candidate, by name, and where; ``trouble`` tells of devices that failed before.

    ``checked`` counts the samples whose outputs were held against this machine's.
    """

    latency: Mapping[str, Latency | InstructionEstimate]
    device: str | None = None
    trouble: str | None = None
    checked: int | None = None


@dataclass(frozen=True)
class MeasurementBudget:
    """How long to measure: ``rounds`` and ``time``, both as multiples of what a trial gets; ``limit_s`` at most.

    ``spread`` is a relative error of ratios that is known from elsewhere (from float32 against itself).
    """

    rounds: float = 1.0
    time: float = 1.0
    limit_s: float | None = None
    settled: bool = True  # measured again where it scatters
    spread: float = 0.0


class Bench(Protocol):
    """The machine whose latency counts: this one, or another that is reached from here.

    ``spec`` is that of the machine; ``host`` is what networks are compiled for that run here, for calibration and for
    accuracy. ``estimated``: there is no board, and costs are instructions.
    """

    @property
    def spec(self) -> HardwareSpec:
        """The hardware whose latency counts."""
        ...

    @property
    def host(self) -> HardwareSpec:
        """The hardware that networks are compiled for that run here, for calibration and accuracy."""
        ...

    @property
    def estimated(self) -> bool:
        """Whether costs are instructions, there being no board."""
        ...

    @property
    def where(self) -> str:
        """What machine it is, for people; empty for this one."""
        ...

    def identity(self) -> Mapping[str, str]:
        """What must be the same for a search to be resumed, besides the spec."""
        ...

    def measure(self, candidates: Sequence[Candidate], samples: Sequence[Feeds], budget: MeasurementBudget) -> Timing:
        """Times the candidates in turns, on the first of ``samples``; ratios are to the first candidate.

        Another machine's outputs on ``samples`` are held against this machine's. Raises MeasureError where they are
        not what they must be, DeviceError where no device does it, NoDeviceError where none can be reached.
        """
        ...

    def runner(self, candidate: Candidate) -> AbstractContextManager[Runner]:
        """What tells the candidate's outputs: this machine where they are the same integers, else the device."""
        ...

    def kernel_costs(self, candidate: Candidate) -> Mapping[str, float]:
        """Layer -> seconds of its kernels (or instructions times `INSTRUCTION_S`); those of no layer under ``""``."""
        ...

    def save(self, candidate: Candidate, folder: Path) -> None:
        """Writes ``model.so``, as this machine runs it, and what else it takes there."""
        ...

    @property
    def files(self) -> tuple[str, ...]:
        """What `save` writes besides ``model.so``."""
        ...

    def close(self) -> None:
        """Lets go of all devices."""
        ...
