"""Mean inputs of layers, gathered while calibration runs, for bias correction (`bias.correction`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..strategy import WEIGHTED_KINDS

if TYPE_CHECKING:
    from ..model import Model

Run = Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]


class InputMeans:
    """Adds up, for each layer with weights, the mean of every input channel.

        means = InputMeans(model)
        calibration = calibrate(tensors, samples, means.watch(run), batch=1, limit=None)
        quantizer = Quantizer(model, calibration, spec, input_means=means.values())

    Memory: one float64 number per input channel of each layer.
    """

    def __init__(self, model: Model) -> None:
        self._sources: dict[str, tuple[str, int]] = {}
        for layer in model.layers:
            if layer.kind in WEIGHTED_KINDS and layer.quantizable:
                # Images have channels on axis 1, a product reduces over the last.
                self._sources[layer.name] = layer.inputs[0], 1 if layer.op_type == "Conv" else -1
        self._sums: dict[tuple[str, int], npt.NDArray[np.float64]] = {}
        self._counts: dict[tuple[str, int], int] = {}

    def watch(self, run: Run) -> Run:
        """The same run, observed."""

        def watched(feeds: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            values = run(feeds)
            self.add({**feeds, **values})
            return values

        return watched

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        """Takes in one batch: tensor -> array. Tensors that are not given are passed over."""
        for source in set(self._sources.values()):
            name, axis = source
            if name not in values:
                continue
            channels = np.moveaxis(values[name], axis, 0)
            rows = channels.reshape(channels.shape[0], -1)
            self._sums[source] = self._sums.get(source, 0.0) + rows.sum(axis=1, dtype=np.float64)
            self._counts[source] = self._counts.get(source, 0) + rows.shape[1]

    def values(self) -> dict[str, npt.NDArray[np.float32]]:
        """Layer name -> float32 [C], for the layers whose input was seen."""
        return {
            layer: (self._sums[source] / self._counts[source]).astype(np.float32)
            for layer, source in self._sources.items()
            if source in self._sums
        }
