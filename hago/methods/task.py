"""The roles of methods, and their inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..calibrate.statistics import Need
from ..scheme import Granularity, IntegerType
from .quantized_weight import QuantizedWeight

if TYPE_CHECKING:
    from ..model import Model

Statistics = Mapping[str, npt.NDArray[np.float32]]
"""The statistics of one layer that a method needs, by name."""


@dataclass(frozen=True, eq=False)
class WeightTask:
    """One weight [.. O .. I ..] to be rounded; ``min_scale`` ([] or [O]) bounds its scales from below."""

    weight: npt.NDArray[np.float32]
    integers: IntegerType
    granularity: Granularity
    out_axis: int = 0
    in_axis: int = 1
    min_scale: npt.NDArray[np.float32] | None = None
    where: str | None = None
    statistics: Statistics | None = None


@dataclass(frozen=True)
class Rounding:
    """How weights become integers."""

    round: Callable[[WeightTask], QuantizedWeight]
    needs: tuple[Need, ...] = ()


@dataclass(frozen=True, eq=False)
class CorrectionTask:
    """One weight as floats and as integers, for correcting the bias.

    ``coverage``, shaped as the kernel of a convolution, is how much of the output each tap serves (see `tap_coverage`).
    """

    weight: npt.NDArray[np.float32]
    quantized: QuantizedWeight
    coverage: npt.NDArray[np.float64] | None
    statistics: Statistics


@dataclass(frozen=True)
class Correction:
    """What to add to the bias, float32 [O], to bring the layer closer to float32."""

    correct: Callable[[CorrectionTask], npt.NDArray[np.float32]]
    needs: tuple[Need, ...] = ()


@dataclass(frozen=True)
class Transformation:
    """A rewrite of the float model that keeps its function, its inputs and outputs, and the names of its layers.

    It comes before calibration. ``apply`` returns another model, such as one that `hago.load_model` made of the changed
    ``model.proto``.
    """

    apply: Callable[[Model], Model]
