"""Writes one candidate: the model's nodes, each quantized operand read through its pair."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from ..calibrate import scale_zero_point
from ..errors import StrategyError
from ..scheme import IntegerType
from ..strategy import Strategy
from ..ways import WEIGHTED_KINDS
from .graph_writer import GraphWriter
from .ingredients import Ingredients
from .layer_weights import StoredWeight
from .placement import Placement

if TYPE_CHECKING:
    from ..model import Layer

LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
_INTEGERS = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}
_JOINS = ("add", "mul", "concat", "matmul")


class CandidateWriter:
    """Writes the nodes, constants and types of one candidate to an empty graph."""

    def __init__(
        self, ingredients: Ingredients, strategy: Strategy, placement: Placement, graph: onnx.GraphProto
    ) -> None:
        self.q, self.index, self.strategy = ingredients, ingredients.index, strategy
        self.graph = GraphWriter(graph, ingredients.taken_names)
        self.placement = placement
        self._pairs: dict[tuple[str, IntegerType | str], str] = {}

    def write(self) -> None:
        """Writes every node of the model, in its order."""
        for node in self.q.model.proto.graph.node:
            layer = self.index.layer_of_node.get(node.name)
            inputs = list(node.input)
            if layer is not None:
                scheme = self.placement.input_scheme(layer.name)
                if scheme is not None:
                    inputs = [self._integer_input(layer, node, name, scheme) for name in inputs]
                    if node.op_type in ("Conv", "Gemm") and len(inputs) == 2 and layer.name in self.placement.integer:
                        inputs += self._added_bias(layer, node, scheme)
                else:
                    inputs = [self._float_input(layer, node, name) for name in inputs]
            kept = self.graph.keep_node(node, inputs, layer.name if layer else None)
            if kept.op_type == "AveragePool":
                _drop_unit_dilations(kept)
            self._keep_constants(inputs)
        self._keep_constants(sorted(self.index.outputs))

    def _keep_constants(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self.index.initializers:
                self.graph.keep_initializer(self.index.initializers[name])

    def _integer_input(self, layer: Layer, node: onnx.NodeProto, name: str, scheme: IntegerType) -> str:
        """One operand of an integer layer, dequantized; the operand itself if it is not quantized."""
        if name in layer.inputs and self.index.is_float(name):
            return self._activation_pair(layer, name, scheme)
        if layer.kind in WEIGHTED_KINDS and name:
            if name == layer.weight:
                return self._weight(layer, self._stored(layer, scheme))
            if name == layer.bias:
                return self._bias(layer, scheme)
        if _joins(layer, node) and name in self.index.initializers:
            return self._constant_operand(layer, name, scheme)
        return name

    def _activation_pair(self, layer: Layer, tensor: str, scheme: IntegerType) -> str:
        key = (tensor, scheme)
        if key not in self._pairs:
            scale, zero_point = self._activation_parameters(tensor, scheme)
            inputs = self._scale_and_zero(tensor, scale, np.asarray(zero_point, scheme.dtype))
            shape = self.q.model.tensor_shapes[tensor]
            quantized = self.graph.unique(f"{tensor}_quantized")
            self._pairs[key] = dequantized = self.graph.unique(f"{tensor}_dequantized")
            self.graph.add_node("QuantizeLinear", [tensor, *inputs], quantized, layer.name)
            self.graph.add_type(quantized, _INTEGERS[scheme.dtype.name], shape)
            self.graph.add_node("DequantizeLinear", [quantized, *inputs], dequantized, layer.name)
            self.graph.add_type(dequantized, TensorProto.FLOAT, shape)
        return self._pairs[key]

    def _activation_parameters(self, tensor: str, scheme: IntegerType) -> tuple[np.float32, int]:
        source = self.placement.source(tensor, scheme)
        return self.q.parameters(source[0], self.placement.calibrator[source], scheme)

    def _scale_and_zero(self, tensor: str, scale: npt.ArrayLike, zero_point: np.ndarray) -> list[str]:
        """Names of the scale and the zero point of one tensor.

        Equal ones of several tensors are not shared: OpenVINO 2026 changes a constant while it moves a
        FakeQuantize past a Transpose, and then rejects or miscomputes its other readers.
        """
        values = {"scale": np.asarray(scale, np.float32), "zero_point": zero_point}
        return [
            self.graph.add_initializer((tensor, name, value.tobytes(), value.dtype.str), f"{tensor}_{name}", value)
            for name, value in values.items()
        ]

    def _constant_operand(self, layer: Layer, name: str, scheme: IntegerType) -> str:
        """An initializer beside activations (an added table, a factor): integers per tensor, dequantized."""
        key = (name, scheme)
        if key not in self._pairs:
            value = self.q.weights.array(name)
            if value.dtype != np.float32:
                return name
            lo, hi = float(value.min(initial=0.0)), float(value.max(initial=0.0))
            if not np.isfinite(hi - lo):
                raise StrategyError(
                    f"its constant {name} holds infinity or NaN, which no integer can represent",
                    where=f"layer {layer.name}",
                    hint="leave this layer in float32",
                )
            scale, zero_point = scale_zero_point(lo, hi, scheme)
            steps = np.rint(value / scale) + zero_point
            integers = np.clip(steps, scheme.qmin, scheme.qmax).astype(scheme.dtype)
            stored = self.graph.add_initializer((name, scheme), f"{name}_quantized", integers)
            inputs = self._scale_and_zero(name, scale, np.asarray(zero_point, scheme.dtype))
            self._pairs[key] = output = self.graph.unique(f"{name}_dequantized")
            self.graph.add_node("DequantizeLinear", [stored, *inputs], output, layer.name)
            self.graph.add_type(output, TensorProto.FLOAT, value.shape)
        return self._pairs[key]

    def _weight(self, layer: Layer, stored: StoredWeight) -> str:
        assert layer.weight is not None
        weight, wanted = stored.weight, layer.weight
        integers = self.graph.add_initializer(("weight", id(stored)), f"{wanted}_quantized", stored.proto)
        output = self.graph.unique(f"{wanted}_dequantized")
        shape = stored.proto.dims
        if weight.multipliers is None:
            inputs = self._scale_and_zero(wanted, weight.scale, np.zeros(weight.scale.shape, np.int8))
            attributes = {"axis": weight.out_axis} if weight.scale.ndim else None
            self.graph.add_node("DequantizeLinear", [integers, *inputs], output, layer.name, attributes)
            self.graph.add_type(output, TensorProto.FLOAT, shape)
            return output
        axis = 1 if stored.transposed else weight.in_axis
        scale = _block_scales(weight.group_scale(), tuple(shape), axis)
        inputs = self._scale_and_zero(wanted, scale, np.zeros(scale.shape, np.int8))
        attributes = {"axis": axis, "block_size": weight.group_size}
        self.graph.add_node("DequantizeLinear", [integers, *inputs], output, layer.name, attributes)
        self.graph.add_type(output, TensorProto.FLOAT, shape)
        if not stored.transposed:
            return output
        # ONNX Runtime 1.31 fails on a MatMul whose weights are dequantized by blocks right before it.
        turned = self.graph.unique(f"{wanted}_transposed")
        self.graph.add_node("Transpose", [output], turned, layer.name, {"perm": [1, 0]})
        self.graph.add_type(turned, TensorProto.FLOAT, list(shape)[::-1])
        return turned

    def _bias(self, layer: Layer, scheme: IntegerType) -> str:
        stored, s_x = self._stored(layer, scheme), self._input_scale(layer, scheme)
        correction = self.strategy.choice(layer.name).value("correction")
        integers, scale = self.q.weights.bias(layer, stored, s_x, correction)
        return self._int32_bias(layer, layer.bias or f"{layer.weight}_bias", integers, scale)

    def _added_bias(self, layer: Layer, node: onnx.NodeProto, scheme: IntegerType) -> list[str]:
        """A bias for a layer without one if its choice corrects biases or its weights are per group; else none.

        ONNX Runtime 1.31 fuses a convolution without bias, even with blocked weights, into an operator
        that does not support blocks, and fails; with a bias it leaves the convolution alone.
        """
        blocked = node.op_type == "Conv" and self._stored(layer, scheme).weight.multipliers is not None
        corrected = layer.weight in node.input and self.strategy.choice(layer.name).value("correction") != "none"
        return [self._bias(layer, scheme)] if blocked or corrected else []

    def _int32_bias(
        self, layer: Layer, wanted: str, integers: npt.NDArray[np.int32], scale: npt.NDArray[np.float32]
    ) -> str:
        name = self.graph.add_initializer((wanted, integers.tobytes()), f"{wanted}_quantized", integers)
        inputs = self._scale_and_zero(wanted, scale, np.zeros(scale.shape, np.int32))
        output = self.graph.unique(f"{wanted}_dequantized")
        attributes = {"axis": 0} if scale.ndim else None
        self.graph.add_node("DequantizeLinear", [name, *inputs], output, layer.name, attributes)
        self.graph.add_type(output, TensorProto.FLOAT, integers.shape)
        return output

    def _stored(self, layer: Layer, scheme: IntegerType) -> StoredWeight:
        way, choice = self.placement.integer[layer.name], self.strategy.choice(layer.name)
        assert way.weight is not None
        return self.q.weights.weight(layer, way.weight, choice, self._input_scale(layer, scheme))

    def _input_scale(self, layer: Layer, scheme: IntegerType) -> np.float32:
        return self._activation_parameters(self.index.activations(layer)[0], scheme)[0]

    def _float_input(self, layer: Layer, node: onnx.NodeProto, name: str) -> str:
        """One operand of a layer whose activations are floats; its weights may be integers."""
        way = self.placement.weight_only.get(layer.name)
        if way is not None and name == layer.weight:
            assert way.weight is not None
            choice = self.strategy.choice(layer.name)
            return self._weight(layer, self.q.weights.weight(layer, way.weight, choice, None))
        if layer.name in self.placement.reduced:
            return self._short_input(layer, node, name, self.placement.reduced[layer.name])
        return name

    def _short_input(self, layer: Layer, node: onnx.NodeProto, name: str, precision: str) -> str:
        """One operand of a layer in a short float: rounded to it, then read as float32."""
        constant = name in self.index.initializers
        wanted = constant and (name == layer.weight if layer.kind in WEIGHTED_KINDS else _joins(layer, node))
        if not wanted and not (name in layer.inputs and self.index.is_float(name)):
            return name
        key = (name, precision)
        if key not in self._pairs:
            shape = self.q.model.tensor_shapes[name] if not constant else self.index.initializers[name].dims
            if constant:
                proto = self.q.weights.short(name, precision)
                short = self.graph.add_initializer(key, f"{name}_{precision}", proto)
            else:
                source = self._within_float16(name, layer) if precision == "float16" else name
                short, code = self.graph.unique(f"{name}_{precision}"), TensorProto.DataType.Value(precision.upper())
                self.graph.add_node("Cast", [source], short, layer.name, {"to": code})
                self.graph.add_type(short, code, shape)
            self._pairs[key] = output = self.graph.unique(f"{name}_from_{precision}")
            self.graph.add_node("Cast", [short], output, layer.name, {"to": TensorProto.FLOAT})
            self.graph.add_type(output, TensorProto.FLOAT, shape)
        return self._pairs[key]

    def _within_float16(self, name: str, layer: Layer) -> str:
        """The tensor, saturated so that the cast makes no infinity of a finite float32."""
        lo, hi = self.index.bounds.get(name, (-np.inf, np.inf))
        if lo >= -LARGEST_FLOAT16 and hi <= LARGEST_FLOAT16:
            return name
        bounds = [
            self.graph.add_initializer(("float16", edge), f"float16_{edge}", np.array(value, np.float32))
            for edge, value in (("lowest", -LARGEST_FLOAT16), ("highest", LARGEST_FLOAT16))
        ]
        saturated = self.graph.unique(f"{name}_saturated")
        self.graph.add_node("Clip", [name, *bounds], saturated, layer.name)
        self.graph.add_type(saturated, TensorProto.FLOAT, self.q.model.tensor_shapes[name])
        return saturated


def _joins(layer: Layer, node: onnx.NodeProto) -> bool:
    """Whether constant operands of this node are treated like its activations.

    The bounds of a folded Clip are not.
    """
    return layer.kind in _JOINS and node.name == layer.nodes[0]


def _drop_unit_dilations(pool: onnx.NodeProto) -> None:
    """Removes dilations of 1: ONNX Runtime's quantized average pool rejects the attribute."""
    for attribute in pool.attribute:
        if attribute.name == "dilations" and set(attribute.ints) <= {1}:
            pool.attribute.remove(attribute)
            return


def _block_scales(group_scale: npt.NDArray[np.float32], shape: tuple[int, ...], axis: int) -> np.ndarray:
    """[O, G] -> the scale tensor of a blocked DequantizeLinear: shaped like the weights, with G on the block axis."""
    assert axis == 1 or len(shape) == 2
    if axis == 0:
        return np.ascontiguousarray(group_scale.T)
    tail = shape[2:]
    spread = np.broadcast_to(group_scale.reshape(*group_scale.shape, *([1] * len(tail))), (*group_scale.shape, *tail))
    return np.ascontiguousarray(spread)
