"""From a float model and a strategy to a standard QDQ model (opset 21, default domain).

Notation: x activation, w weight, b bias of a layer; real = scale * (q - zero_point).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from ..errors import StrategyError
from ..strategy import Strategy
from .index import GraphIndex
from .ingredients import Ingredients
from .placement import place
from .writer import CandidateWriter

if TYPE_CHECKING:
    from ..calibrate import Calibration
    from ..model import Model
    from ..spec import HardwareSpec

IR_VERSION = 10  # that of opset 21; every runtime that reads opset 21 reads it


def quantize_model(model: Model, strategy: Strategy, calibration: Calibration, spec: HardwareSpec) -> onnx.ModelProto:
    """The model quantized by this strategy, as QDQ; see :class:`Quantizer`."""
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
    """Quantizes one model many times: weights and ranges are computed once.

    Raises StrategyError if a strategy does not fit or a tensor has no calibrated range, DataError if the
    calibration lacks a statistic that one of the strategy's methods reads.
    """

    def __init__(self, model: Model, calibration: Calibration, spec: HardwareSpec) -> None:
        self.model, self.spec = model, spec
        self._ingredients = Ingredients(model, calibration)
        # Everything but nodes and weights, copied for each candidate.
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
        if strategy.transformation != self.model.transformation:
            raise StrategyError(
                f"the strategy needs the transformation {strategy.transformation!r} of the network, this one went "
                f"through {self.model.transformation!r}",
                where=self.model.source,
                hint="quantize hago.methods.transformed(model, strategy.transformation), calibrated anew",
            )
        result = onnx.ModelProto()
        result.CopyFrom(self._frame)
        result.metadata_props.add(key="hago.strategy", value=strategy.key())
        placement = place(self._ingredients.index, strategy, self.spec)
        CandidateWriter(self._ingredients, strategy, placement, result.graph).write()
        return result
