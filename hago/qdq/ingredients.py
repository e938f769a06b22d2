"""What all candidates of one model are made from: its graph, integer weights, parameters of activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..calibrate import scale_zero_point
from ..errors import StrategyError
from ..methods import RANGES
from ..scheme import IntegerType
from .index import GraphIndex
from .layer_weights import WeightStore

if TYPE_CHECKING:
    from ..calibrate import Calibration
    from ..model import Model


class Ingredients:
    """Computed on first use, and kept from one candidate to the next."""

    def __init__(self, model: Model, calibration: Calibration) -> None:
        self.model, self.calibration = model, calibration
        self.index = GraphIndex(model)
        self.weights = WeightStore(self.index, calibration)
        self._parameters: dict[tuple[str, str, IntegerType], tuple[np.float32, int]] = {}
        self._observed = frozenset(calibration.tensors)
        self.taken_names = frozenset(self.index.initializers).union(
            self.index.nodes,
            *(n.input for n in model.proto.graph.node),
            *(n.output for n in model.proto.graph.node),
        )

    def parameters(self, tensor: str, calibrator: str, scheme: IntegerType) -> tuple[np.float32, int]:
        """(scale, zero point) of an activation, within the bounds of a folded Relu or Clip."""
        key = (tensor, calibrator, scheme)
        if key not in self._parameters:
            if tensor not in self._observed:
                raise StrategyError(
                    "no range was calibrated for this tensor",
                    where=f"tensor {tensor}",
                    hint="calibrate every tensor of hago.qdq.observed_tensors(model)",
                )
            lo, hi = self.calibration.range(tensor, RANGES[calibrator], scheme)
            least, most = self.index.bounds.get(tensor, (-np.inf, np.inf))
            lo, hi = min(0.0, max(float(lo), least)), max(0.0, min(float(hi), most))
            self._parameters[key] = scale_zero_point(lo, hi, scheme)
        return self._parameters[key]
