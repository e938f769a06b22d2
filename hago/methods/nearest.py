"""Rounds weights to the nearest integer without clipping."""

from __future__ import annotations

from .quantized_weight import QuantizedWeight, Thresholds, quantize_weight
from .task import Rounding, WeightTask


def nearest(task: WeightTask, thresholds: Thresholds | None = None) -> QuantizedWeight:
    """Rounds to nearest, clipped at ``thresholds`` if given."""
    return quantize_weight(
        task.weight,
        task.integers,
        task.granularity,
        out_axis=task.out_axis,
        in_axis=task.in_axis,
        thresholds=thresholds,
        min_scale=task.min_scale,
        where=task.where,
    )


NEAREST = Rounding(nearest)
