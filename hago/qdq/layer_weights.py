"""The weights and biases of layers as integers, kept from one candidate to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from ..calibrate import Calibration
from ..calibrate.statistics import Need, statistic_of
from ..choice import Choice
from ..errors import ModelError
from ..methods import CORRECTION, ROUNDING, CorrectionTask, WeightTask
from ..methods.bias_correction import tap_coverage
from ..methods.quantized_weight import QuantizedWeight
from ..scheme import PER_CHANNEL, IntegerType
from . import bias as biases
from .index import GraphIndex

if TYPE_CHECKING:
    from ..model import Layer

# What an activation of 8 bits can be away from its zero point.
_ACTIVATION_SPAN = 255


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """Quantized weights with their TensorProto (unnamed), as :class:`WeightStore` keeps them.

    ``transposed``: ``proto`` holds [N, K] although the layer's MatMul reads [K, N].
    """

    weight: QuantizedWeight
    proto: TensorProto
    transposed: bool


class WeightStore:
    """Quantizes each weight once for each type, granularity and rounding, and remembers the result.

    ``calibration`` has the statistics that methods ask for.
    """

    def __init__(self, index: GraphIndex, calibration: Calibration) -> None:
        self._index, self._calibration = index, calibration
        self._stored: dict[tuple[object, ...], StoredWeight] = {}
        self._short: dict[tuple[str, str], TensorProto] = {}
        self._floats: dict[str, npt.NDArray[np.float32]] = {}
        self._corrections: dict[tuple[str, str, int], npt.NDArray[np.float32]] = {}

    def array(self, name: str) -> npt.NDArray[np.float32]:
        """The float initializer of that name."""
        if name not in self._floats:
            value = self._index.constant(name)
            assert value is not None
            self._floats[name] = value
        return self._floats[name]

    def axes(self, layer: Layer) -> tuple[int, int]:
        """(output channel axis, input channel axis) of the layer's weights."""
        assert layer.weight is not None
        node = next(self._index.nodes[n] for n in layer.nodes if layer.weight in self._index.nodes[n].input)
        if node.op_type == "MatMul":
            ndim = self.array(layer.weight).ndim
            return (ndim - 1, ndim - 2) if node.input[1] == layer.weight else (ndim - 2, ndim - 1)
        if node.op_type == "Gemm":
            flag = "transB" if node.input[1] == layer.weight else "transA"
            return (0, 1) if _int_attribute(node, flag) == (flag == "transB") else (1, 0)
        return (1, 0) if node.op_type == "ConvTranspose" else (0, 1)

    def weight(self, layer: Layer, integers: IntegerType, choice: Choice, s_x: np.float32 | None) -> StoredWeight:
        """The layer's weights, for activations of scale ``s_x``; None where activations are floats.

        Scales are raised where the accumulator would overflow (see `required_scale`).
        """
        assert layer.weight is not None
        floats = self.array(layer.weight)
        axes, bounded, rounding = self.axes(layer), s_x is not None, choice.value("rounding")
        if choice.granularity.group_size >= floats.shape[axes[1]]:
            choice = replace(choice, granularity=PER_CHANNEL)  # one group is one channel
        # What a rounding reads of a layer's inputs is the layer's own; without it, layers share a weight.
        reader = layer.name if ROUNDING[rounding].needs else ""
        key: tuple[object, ...] = (layer.weight, integers, choice.granularity, rounding, reader, axes, bounded)
        if key not in self._stored:
            self._stored[key] = self._quantize(layer, integers, choice, None, bounded=bounded)
        stored = self._stored[key]
        if layer.bias is None or s_x is None:
            return stored
        needed = biases.required_scale(self._flat_bias(layer, floats.shape[axes[0]]), s_x, stored.weight.scale)
        if needed is None:
            return stored
        key = (*key, needed.tobytes())
        if key not in self._stored:
            self._stored[key] = self._quantize(layer, integers, choice, needed)
        return self._stored[key]

    def bias(
        self, layer: Layer, stored: StoredWeight, s_x: np.float32, correction: str
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """(int32 bias [O], its scale [] or [O]), with this correction; a layer without a bias has zeros to correct."""
        outputs = stored.weight.outputs
        flat = np.zeros(outputs, np.float32) if layer.bias is None else self._flat_bias(layer, outputs)
        scale = biases.bias_scale(s_x, stored.weight.scale)
        return biases.quantize_bias(flat + self._correction(layer, stored, correction), scale), scale

    def _correction(self, layer: Layer, stored: StoredWeight, name: str) -> npt.NDArray[np.float32]:
        key = (layer.name, name, id(stored))
        if key not in self._corrections:
            method, floats = CORRECTION[name], self.array(layer.weight or "")
            task = CorrectionTask(floats, stored.weight, self._coverage(layer), self._statistics(layer, method.needs))
            self._corrections[key] = method.correct(task)
        return self._corrections[key]

    def _statistics(self, layer: Layer, needs: Sequence[Need]) -> dict[str, npt.NDArray[np.float32]]:
        return {need.statistic: self._calibration.statistic(statistic_of(need, layer)) for need in needs}

    def _flat_bias(self, layer: Layer, outputs: int) -> npt.NDArray[np.float32]:
        """The bias as [O]: a single value stands for all channels (a Gemm's C may be a scalar)."""
        assert layer.bias is not None
        flat = self.array(layer.bias).reshape(-1)
        if flat.size not in (1, outputs):
            raise ModelError(
                f"a bias of {flat.size} values does not fit {outputs} output channels",
                where=f"layer {layer.name}, bias {layer.bias}",
                hint="leave this layer in float32",
            )
        return np.broadcast_to(flat, (outputs,))

    def _coverage(self, layer: Layer) -> npt.NDArray[np.float64] | None:
        """How much of the output each tap of a convolution serves; None for a product."""
        node = self._index.nodes[layer.nodes[0]]
        if node.op_type != "Conv":
            return None
        found = {a.name: list(a.ints) for a in node.attribute if a.ints}
        _, _, *kernel = self.array(layer.weight or "").shape
        axes = len(kernel)
        return tap_coverage(
            layer.input_shapes[0][2:],
            layer.output_shape[2:],
            kernel,
            found.get("strides", [1] * axes),
            found.get("pads", [0] * 2 * axes)[:axes],
            found.get("dilations", [1] * axes),
        )

    def short(self, name: str, precision: str) -> TensorProto:
        """The initializer rounded to bfloat16 or float16 (unnamed); float16 saturates."""
        if (name, precision) not in self._short:
            floats = self.array(name)
            if precision == "bfloat16":
                rounded = floats.astype(ml_dtypes.bfloat16)
            else:
                limit = float(np.finfo(np.float16).max)  # see CandidateWriter._within_float16
                rounded = np.clip(floats, -limit, limit).astype(np.float16)
            self._short[name, precision] = numpy_helper.from_array(rounded)
        return self._short[name, precision]

    def _quantize(
        self,
        layer: Layer,
        integers: IntegerType,
        choice: Choice,
        min_scale: npt.NDArray[np.float32] | None,
        *,
        bounded: bool = True,
    ) -> StoredWeight:
        """``bounded``: the sum of products, at its worst, must fit what the bias leaves free of int32."""
        assert layer.weight is not None
        method, (out_axis, in_axis) = ROUNDING[choice.value("rounding")], self.axes(layer)
        task = WeightTask(
            self.array(layer.weight),
            integers,
            choice.granularity,
            out_axis,
            in_axis,
            min_scale,
            f"layer {layer.name}, weight {layer.weight}",
            self._statistics(layer, method.needs),
        )
        weight = method.round(task)
        worst = weight.absolute_sums().max(initial=0) * _ACTIVATION_SPAN if bounded else 0
        if worst > biases.PRODUCT_LIMIT:
            factor = np.float32(1.001 * worst / biases.PRODUCT_LIMIT)
            least = np.maximum(weight.scale * factor, np.float32(0) if min_scale is None else min_scale)
            weight = method.round(replace(task, min_scale=least))
            if weight.absolute_sums().max(initial=0) * _ACTIVATION_SPAN > biases.PRODUCT_LIMIT:
                raise ModelError(
                    "sums of products do not fit the int32 accumulator",
                    where=f"layer {layer.name}",
                    hint="leave this layer in float32",
                )
        values = weight.values
        transposed = weight.multipliers is not None and out_axis > in_axis and layer.op_type == "MatMul"
        if transposed:
            values = np.ascontiguousarray(values.T)
        return StoredWeight(weight, numpy_helper.from_array(values), transposed)


def _int_attribute(node: onnx.NodeProto, name: str) -> int:
    return next((a.i for a in node.attribute if a.name == name), 0)
