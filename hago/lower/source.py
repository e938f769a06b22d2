"""A read-only view of the ONNX graph that is lowered: nodes as plain values, types, and constants.

Constants are initializers, and what DequantizeLinear or a widening Cast makes of an initializer:
their values are computed on first use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from ..errors import ModelError, UnsupportedOpError
from ..precision import SHORT_FLOATS
from ..tensor import TensorType
from .graph import array_of, attribute_value, code_dtype, type_of


@dataclass(frozen=True, eq=False)
class SourceNode:
    """A node of the source graph. Compared by identity."""

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    layer: str | None

    def input(self, index: int) -> str:
        """The name of an input, ``""`` if it is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""


@dataclass(frozen=True)
class Codes:
    """Quantized constant: real = scale * (codes - zero_point), integers as stored.

    ``scale`` and ``zero_point`` have shape [] or [1] (per tensor), [channels] along ``axis``, or, if
    ``block_size`` > 0, that of ``codes`` with ``axis`` divided by the block size, rounded up.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int
    block_size: int

    def dequantize(self, dtype: type[np.floating[Any]] = np.float32) -> np.ndarray:
        """Real values: float32 as DequantizeLinear computes them, or float64 without that rounding."""
        scale, zero = self.scale, self.zero_point
        if self.block_size:
            size = self.codes.shape[self.axis]
            scale = np.repeat(scale, self.block_size, self.axis).take(range(size), self.axis)
            if zero.ndim:
                zero = np.repeat(zero, self.block_size, self.axis).take(range(size), self.axis)
        elif scale.size > 1:
            shape = [1] * self.codes.ndim
            shape[self.axis] = scale.size
            scale = scale.reshape(shape)
            zero = zero.reshape(shape) if zero.size > 1 else zero.reshape(())
        else:
            scale, zero = scale.reshape(()), zero.reshape(())
        return (self.codes.astype(np.int64) - zero.astype(np.int64)).astype(dtype) * scale.astype(dtype)


class Constant:
    """A constant tensor.

    ``codes`` is set if it is dequantized from stored integers, ``short`` if it is widened from bfloat16 or float16.
    """

    def __init__(
        self, array: np.ndarray | None = None, codes: Codes | None = None, short: np.ndarray | None = None
    ) -> None:
        self._array, self.codes, self.short = array, codes, short

    @property
    def array(self) -> np.ndarray:
        """The value; float32 if it is stored quantized or as a short float."""
        if self._array is None:
            if self.codes is not None:
                self._array = self.codes.dequantize()
            else:
                assert self.short is not None
                self._array = self.short.astype(np.float32)
        return self._array

    @property
    def exact(self) -> np.ndarray:
        """float64 values, from which an int32 bias can be recovered: float32 is too short for that."""
        return self.array.astype(np.float64) if self.codes is None else self.codes.dequantize(np.float64)


class SourceGraph:
    """The graph that is lowered. Raises ModelError if a tensor has no static type."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        graph = proto.graph
        self.name = graph.name or "model"
        self.opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 21)
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = tuple(i.name for i in graph.input if i.name not in self._tensors)
        self.outputs = tuple(o.name for o in graph.output)
        self.nodes = tuple(_source_node(item) for item in graph.node)
        self.producers = {output: node for node in self.nodes for output in node.outputs if output}
        self.consumers: dict[str, list[SourceNode]] = {}
        for node in self.nodes:
            for name in node.inputs:
                if name:
                    self.consumers.setdefault(name, []).append(node)
        self._output_set = frozenset(self.outputs)
        self._infos = {i.name: i for i in (*graph.value_info, *graph.input, *graph.output)}
        if any(name not in self._infos and not self._is_quantize(node) for name, node in self.producers.items()):
            inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
            self._infos = {i.name: i for i in (*inferred.value_info, *inferred.input, *inferred.output)}
        self._types: dict[str, TensorType] = {}
        self._constants: dict[str, Constant | None] = {}

    @staticmethod
    def _is_quantize(node: SourceNode) -> bool:
        return node.op in ("QuantizeLinear", "DequantizeLinear")

    def is_output(self, name: str) -> bool:
        """Whether the tensor is an output of the graph."""
        return name in self._output_set

    def sole_consumer(self, name: str) -> SourceNode | None:
        """The only reader of a tensor, or None, also if the tensor is an output of the graph."""
        readers = self.consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._output_set else None

    def layer_of(self, node: SourceNode) -> str | None:
        """The layer of a node; a quantizer that names none belongs to its reader."""
        while node.layer is None and self._is_quantize(node):
            readers = self.consumers.get(node.outputs[0])
            if not readers:
                break
            node = readers[0]
        return node.layer

    def type(self, name: str) -> TensorType:
        """The static type of a tensor."""
        known = self._types.get(name)
        if known is None:
            known = self._types[name] = self._find_type(name)
        return known

    def shape(self, name: str) -> tuple[int, ...]:
        """The static shape of a tensor."""
        return self.type(name).shape

    def _find_type(self, name: str) -> TensorType:
        tensor = self._tensors.get(name)
        if tensor is not None:
            return TensorType(code_dtype(tensor.data_type), tuple(tensor.dims))
        info = self._infos.get(name)
        if info is not None:
            return type_of(info)
        node = self.producers.get(name)
        if node is None or not self._is_quantize(node):
            raise ModelError(
                "the shape of this tensor cannot be inferred",
                where=f"tensor {name!r}",
                hint="load the model through hago.model.load_model(path, batch=...)",
            )
        shape = self.shape(node.inputs[0])
        if node.op == "DequantizeLinear":
            return TensorType(self.type(node.inputs[1]).dtype, shape)
        zero = node.input(2)
        return TensorType(self.type(zero).dtype if zero else "uint8", shape)

    def constant(self, name: str) -> Constant | None:
        """The constant of that name, or None if the tensor is computed at run time."""
        if name not in self._constants:
            self._constants[name] = self._find_constant(name)
        return self._constants[name]

    def array(self, name: str) -> np.ndarray | None:
        """The value of a constant, or None."""
        constant = self.constant(name) if name else None
        return None if constant is None else constant.array

    def _find_constant(self, name: str) -> Constant | None:
        tensor = self._tensors.get(name)
        if tensor is not None:
            return Constant(array_of(tensor))
        node = self.producers.get(name)
        if node is None:
            return None
        if node.op == "Constant" and "value" in node.attrs:
            return Constant(node.attrs["value"])
        if node.op == "QuantizeLinear":
            return self._quantized_constant(node)
        if node.op == "DequantizeLinear":
            stored = self.constant(node.inputs[0])
            scale = self.array(node.inputs[1])
            if stored is None or scale is None:
                return None
            zero = self.array(node.input(2))
            if zero is None:
                zero = np.zeros((), stored.array.dtype)
            axis = node.attrs.get("axis", 1) % max(stored.array.ndim, 1)
            codes = Codes(stored.array, scale, zero, axis, node.attrs.get("block_size", 0))
            return Constant(codes=codes)
        if node.op == "Cast" and self._types_cast(node):
            stored = self.constant(node.inputs[0])
            return None if stored is None else Constant(short=stored.array)
        return None

    def _quantized_constant(self, node: SourceNode) -> Constant | None:
        """Codes of a constant: some exporters write float weights with QuantizeLinear behind them."""
        real, scale = self.array(node.inputs[0]), self.array(node.inputs[1])
        zero = self.array(node.input(2))
        if zero is None and not node.input(2):
            zero = np.zeros((), np.uint8)
        if real is None or scale is None or zero is None or zero.dtype not in (np.uint8, np.int8):
            return None
        if node.attrs.get("block_size", 0):
            return None
        shape = [1] * real.ndim
        if scale.size > 1:
            shape[node.attrs.get("axis", 1) % real.ndim] = scale.size
        limits = np.iinfo(zero.dtype)
        offset = zero.astype(np.int32).reshape(shape if zero.size > 1 else ())
        codes = np.rint(real / scale.reshape(shape if scale.size > 1 else ())) + offset
        return Constant(np.clip(codes, limits.min, limits.max).astype(zero.dtype))

    def _types_cast(self, node: SourceNode) -> bool:
        """Whether a Cast widens a short float to float32."""
        return self.type(node.inputs[0]).dtype in SHORT_FLOATS and code_dtype(node.attrs["to"]) == "float32"

    @cached_property
    def names(self) -> frozenset[str]:
        """All tensor names in use."""
        return frozenset({*self._tensors, *self.inputs, *self.outputs, *self.producers})


def _source_node(item: onnx.NodeProto) -> SourceNode:
    attrs = {a.name: attribute_value(a) for a in item.attribute}
    if any(isinstance(value, onnx.GraphProto) for value in attrs.values()):
        raise UnsupportedOpError(
            f"{item.op_type} contains a subgraph: control flow cannot be compiled",
            where=f"node {item.name!r}",
        )
    layer = None
    for entry in item.metadata_props:
        if entry.key == "hago.layer":
            layer = entry.value
    domain = "" if item.domain == "ai.onnx" else item.domain
    return SourceNode(item.name, item.op_type, domain, tuple(item.input), tuple(item.output), attrs, layer)
