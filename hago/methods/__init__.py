"""Quantization methods: ranges, rounding, correction, and transformations of the network; one file per method.

A new method is a file with a value of its role (`hago.methods.task`) and a line here; a strategy names it by its key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..calibrate.statistics import Need
from .bias_correction import BIAS
from .mse_clipping import MSE
from .nearest import NEAREST
from .ranges import RANGES
from .task import Correction, CorrectionTask, Rounding, Transformation, WeightTask

if TYPE_CHECKING:
    from ..model import Model

__all__ = [
    "CORRECTION",
    "NEAREST",
    "RANGES",
    "ROUNDING",
    "TRANSFORMATIONS",
    "Correction",
    "CorrectionTask",
    "Need",
    "Rounding",
    "Transformation",
    "WeightTask",
    "needs_of",
    "transformed",
]

ROUNDING: Mapping[str, Rounding] = {"nearest": NEAREST, "mse": MSE}
CORRECTION: Mapping[str, Correction] = {
    "none": Correction(lambda task: np.zeros(task.quantized.outputs, np.float32)),
    "bias": BIAS,
}
TRANSFORMATIONS: Mapping[str, Transformation] = {"none": Transformation(lambda model: model)}

_ASKING: Mapping[str, Mapping[str, Rounding | Correction]] = {"rounding": ROUNDING, "correction": CORRECTION}


def needs_of(knobs: Mapping[str, Iterable[str]]) -> tuple[Need, ...]:
    """The statistics that calibration must gather for these values of knobs (`read_knobs` or `Strategy.used`)."""
    chosen = [methods[name] for knob, methods in _ASKING.items() for name in knobs.get(knob, ())]
    return tuple(sorted({need for method in chosen for need in method.needs}))


def transformed(model: Model, name: str) -> Model:
    """The float model after this transformation: what is calibrated and quantized.

    Strategies and records still know it by the hash of the model that was loaded.
    """
    if name == model.transformation:
        return model
    changed = TRANSFORMATIONS[name].apply(model)
    return replace(changed, hash=model.hash, source=model.source, source_proto=model.source_proto, transformation=name)
