"""Quantization methods: ranges of activations, rounding of weights, correction of biases; one file per method.

A new method is a file with a value of its role (`hago.methods.task`) and a line here; a strategy names it by its key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..calibrate.statistics import Need
from .bias_correction import BIAS
from .mse_clipping import MSE
from .nearest import NEAREST
from .ranges import RANGES
from .task import Correction, CorrectionTask, Rounding, Transformation, WeightTask

__all__ = [
    "CORRECTION",
    "NEAREST",
    "RANGES",
    "ROUNDING",
    "Correction",
    "CorrectionTask",
    "Need",
    "Rounding",
    "Transformation",
    "WeightTask",
    "needs_of",
]

ROUNDING: Mapping[str, Rounding] = {"nearest": NEAREST, "mse": MSE}
CORRECTION: Mapping[str, Correction] = {
    "none": Correction(lambda task: np.zeros(task.quantized.outputs, np.float32)),
    "bias": BIAS,
}

_ASKING: Mapping[str, Mapping[str, Rounding | Correction]] = {"rounding": ROUNDING, "correction": CORRECTION}


def needs_of(knobs: Mapping[str, Iterable[str]]) -> tuple[Need, ...]:
    """The statistics that calibration must gather for these values of knobs (`read_knobs` or `Strategy.used`)."""
    chosen = [methods[name] for knob, methods in _ASKING.items() for name in knobs.get(knob, ())]
    return tuple(sorted({need for method in chosen for need in method.needs}))
