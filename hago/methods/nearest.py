"""Rounds weights to the nearest integer without clipping."""

from __future__ import annotations

from .quantized_weight import QuantizedWeight, Threshold, quantize_weight
from .task import Rounding, WeightTask


def nearest(task: WeightTask, threshold: Threshold | None = None) -> QuantizedWeight:
    """Rounds to nearest, clipped at ``threshold`` if given."""
    return quantize_weight(
        task.weight,
        task.integers,
        task.granularity,
        out_axis=task.out_axis,
        in_axis=task.in_axis,
        threshold=threshold,
        min_scale=task.min_scale,
        where=task.where,
    )


NEAREST = Rounding(nearest)
