"""From a float model and a strategy to a standard QDQ model (opset 21, default domain).

Notation: x activation, w weight, b bias of a layer; real = scale * (q - zero_point).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx

from ..calibrate import scale_zero_point
from ..errors import StrategyError
from ..scheme import TensorScheme
from ..strategy import Strategy
from .index import GraphIndex
from .layer_weights import WeightStore
from .placement import place
from .writer import CandidateWriter

if TYPE_CHECKING:
    from ..calibrate import Calibration
    from ..model import Model
    from ..spec import HardwareSpec

IR_VERSION = 10  # that of opset 21; every runtime that reads opset 21 reads it


def quantize_model(model: Model, strategy: Strategy, calibration: Calibration, spec: HardwareSpec) -> onnx.ModelProto:
    """The QDQ form of the model under this strategy; see :class:`Quantizer`."""
    return Quantizer(model, calibration, spec).qdq(strategy)


def observed_tensors(model: Model) -> tuple[str, ...]:
    """The tensors whose ranges calibration must find, so that any strategy can be quantized."""
    index = GraphIndex(model)
    wanted: dict[str, None] = {}
    for layer in index.layers:
        if layer.quantizable:
            wanted.update(dict.fromkeys(index.activations(layer)))
        if layer.kind == "concat":
            wanted[layer.output] = None
        if (moved := index.moved_tensor(layer)) is not None:
            wanted[moved] = None
    return tuple(wanted)


class Quantizer:
    """Quantizes one model many times: weights and ranges are worked out once.

    ``weight_clip`` ("max" or "mse") finds the threshold of per-tensor weights. ``input_means`` (layer ->
    mean of each input channel [C], see `InputMeans`) turns on bias correction for the layers that it
    names. Raises StrategyError where a strategy does not fit, or a tensor has no calibrated range.
    """

    def __init__(
        self,
        model: Model,
        calibration: Calibration,
        spec: HardwareSpec,
        *,
        weight_clip: str = "max",
        input_means: Mapping[str, npt.NDArray[np.float32]] | None = None,
    ) -> None:
        self.model, self.calibration, self.spec = model, calibration, spec
        self.index = GraphIndex(model)
        self.weights = WeightStore(self.index, weight_clip)
        self.means = dict(input_means or {})
        self._parameters: dict[tuple[str, str, TensorScheme], tuple[np.float32, int]] = {}
        self._observed = frozenset(calibration.tensors)
        self.taken_names = frozenset(self.index.initializers).union(
            self.index.nodes,
            *(n.input for n in model.proto.graph.node),
            *(n.output for n in model.proto.graph.node),
        )
        # All but nodes and weights, copied for each candidate.
        self._frame = onnx.ModelProto()
        for field, value in model.proto.ListFields():
            if field.name != "graph":
                if field.is_repeated:
                    getattr(self._frame, field.name).extend(value)
                else:
                    setattr(self._frame, field.name, value)
        for field, value in model.proto.graph.ListFields():
            if field.name not in ("node", "initializer"):
                if field.is_repeated:
                    getattr(self._frame.graph, field.name).extend(value)
                else:
                    setattr(self._frame.graph, field.name, value)
        self._frame.ir_version = IR_VERSION
        self._frame.producer_name = "hago"

    def qdq(self, strategy: Strategy) -> onnx.ModelProto:
        """The QDQ model: inputs, outputs and names of the float tensors stay as they are."""
        strategy.check(self.model, self.spec)
        result = onnx.ModelProto()
        result.CopyFrom(self._frame)
        result.metadata_props.add(key="hago.strategy", value=strategy.key())
        placement = place(self.index, strategy, self.spec)
        CandidateWriter(self, strategy, placement, result.graph).write()
        return result

    def parameters(self, tensor: str, calibrator: str, scheme: TensorScheme) -> tuple[np.float32, int]:
        """(scale, zero point) of an activation, within the bounds of a folded Relu or Clip."""
        key = (tensor, calibrator, scheme)
        if key not in self._parameters:
            if tensor not in self._observed:
                raise StrategyError(
                    "no range was calibrated for this tensor",
                    where=f"tensor {tensor}",
                    hint="calibrate every tensor of hago.qdq.observed_tensors(model)",
                )
            lo, hi = self.calibration.range(tensor, calibrator, scheme)
            least, most = self.index.bounds.get(tensor, (-np.inf, np.inf))
            lo, hi = min(0.0, max(float(lo), least)), max(0.0, min(float(hi), most))
            self._parameters[key] = scale_zero_point(lo, hi, scheme)
        return self._parameters[key]
