"""Looks ahead in the source graph: how a tensor will be quantized, and what an epilogue can include."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .source import SourceGraph, SourceNode
from .values import SIGNED_SHIFT, Params

# Quantizing before or after these gives the same codes (Concat: with the same parameters everywhere).
RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
DATA_MOVEMENT = frozenset(
    {"Transpose", "Slice", "Gather", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Pad", "Resize"}
)


@dataclass
class FusedEpilogue:
    """What follows an accumulator: y = min(max((acc + bias) * factor, low), high), the source tensor ``out``.

    ``bias`` is in the units of the result before ``factor``, or None. ``nodes`` are those that it includes.
    """

    out: str
    nodes: list[SourceNode]
    bias: np.ndarray | None = None
    factor: float = 1.0
    low: float = -math.inf
    high: float = math.inf


class Lookahead:
    """Answers from the source graph alone; nothing here depends on what was lowered before."""

    def __init__(self, source: SourceGraph) -> None:
        self._source = source
        self._targets: dict[str, Params | None] = {}

    def target(self, name: str) -> Params | None:
        """The parameters with which *every* reader quantizes the tensor if all agree, else None.

        Operators that commute with quantization are looked through.
        """
        if name not in self._targets:
            self._targets[name] = None
            self._targets[name] = self._find_target(name)
        return self._targets[name]

    def _find_target(self, name: str) -> Params | None:
        if self._source.is_output(name):
            return None
        found: Params | None = None
        for reader in self._source.consumers.get(name, ()):
            if reader.op == "QuantizeLinear" and reader.inputs[0] == name:
                params = self.quantize_params(reader)
            elif self.commutes(reader) and (reader.inputs[0] == name or reader.op == "Concat"):
                params = self.target(reader.outputs[0])
            else:
                return None
            if params is None or (found is not None and params != found):
                return None
            found = params
        return found

    def commutes(self, node: SourceNode) -> bool:
        """Whether quantizing the input instead of the output gives the same codes."""
        if node.domain != "" or len([o for o in node.outputs if o]) != 1:
            return False
        if node.op == "Pad":
            value = self._source.array(node.input(2))
            mode = node.attrs.get("mode", "constant")
            return mode != "constant" or not node.input(2) or (value is not None and not value.any())
        if node.op == "Resize":
            return node.attrs.get("mode", "nearest") == "nearest"
        return node.op in RESHAPES or node.op in DATA_MOVEMENT or node.op in ("Concat", "MaxPool", "Identity")

    def quantize_params(self, node: SourceNode) -> Params | None:
        """Parameters of a QuantizeLinear or DequantizeLinear to or from 8 bits per tensor, else None."""
        scale = self._source.array(node.input(1))
        if scale is None or scale.size != 1 or scale.dtype != np.float32 or node.attrs.get("block_size", 0):
            return None
        if not 0 < float(scale.reshape(())) < math.inf:
            return None
        if node.input(2):
            zero = self._source.array(node.input(2))
            if zero is None or zero.size != 1 or zero.dtype not in (np.uint8, np.int8):
                return None
            shift = SIGNED_SHIFT if zero.dtype == np.int8 else 0
            return Params(np.float32(scale.reshape(())), int(zero.reshape(())) + shift)
        integers = node.outputs[0] if node.op == "QuantizeLinear" else node.inputs[0]
        dtype = self._source.type(integers).dtype
        if dtype not in ("uint8", "int8"):
            return None
        return Params(np.float32(scale.reshape(())), SIGNED_SHIFT if dtype == "int8" else 0)

    def epilogue(self, node: SourceNode, *, bias_axis: int | None = None, factor: bool = False) -> FusedEpilogue:
        """The operators behind a node that its epilogue can include, each the only reader of the one before.

        These are: adding a constant along ``bias_axis`` (if given), multiplying by a positive
        constant (if ``factor``), Relu and Clip.
        """
        found = FusedEpilogue(node.outputs[0], [])
        while (reader := self._source.sole_consumer(found.out)) is not None and reader.domain == "":
            if not self._extend(found, reader, bias_axis, factor):
                break
            found.nodes.append(reader)
            found.out = reader.outputs[0]
        return found

    def _extend(self, epilogue: FusedEpilogue, reader: SourceNode, bias_axis: int | None, factor: bool) -> bool:
        clamped = epilogue.low != -math.inf or epilogue.high != math.inf
        bounds = self.clip_bounds(reader)
        if bounds is not None:
            low, high = bounds
            epilogue.low, epilogue.high = (min(max(edge, low), high) for edge in (epilogue.low, epilogue.high))
            return True
        if clamped or reader.op not in ("Add", "Mul", "Div"):
            return False
        other = reader.inputs[1] if reader.inputs[0] == epilogue.out else reader.inputs[0]
        constant = self._source.constant(other)
        if constant is None or self._source.shape(reader.outputs[0]) != self._source.shape(epilogue.out):
            return False
        array = constant.exact
        if reader.op == "Add" and bias_axis is not None and epilogue.factor == 1.0:
            vector = along_axis(array, self._source.shape(epilogue.out), bias_axis)
            if vector is None:
                return False
            epilogue.bias = vector if epilogue.bias is None else epilogue.bias + vector
            return True
        if reader.op == "Div" and reader.inputs[0] != epilogue.out:
            return False
        if reader.op == "Add" or not factor or array.size != 1:
            return False
        scalar = float(array.reshape(()))
        if not (0.0 < scalar < math.inf):
            return False
        epilogue.factor = epilogue.factor * scalar if reader.op == "Mul" else epilogue.factor / scalar
        return True

    def clip_bounds(self, node: SourceNode) -> tuple[float, float] | None:
        """(low, high) of a Relu or of a Clip with constant bounds, else None."""
        if node.op == "Relu":
            return 0.0, math.inf
        if node.op != "Clip":
            return None
        bounds = [node.attrs.get("min", -math.inf), node.attrs.get("max", math.inf)]
        for index in (0, 1):
            if node.input(index + 1):
                array = self._source.array(node.input(index + 1))
                if array is None or array.size != 1:
                    return None
                bounds[index] = float(array.reshape(()))
        return bounds[0], bounds[1]


def along_axis(array: np.ndarray, shape: Sequence[int], axis: int) -> np.ndarray | None:
    """The [shape[axis]] vector that ``array`` is when broadcast to ``shape`` along one axis, else None."""
    rank, axis = len(shape), axis % len(shape)
    if array.ndim > rank:
        return None
    full = (1,) * (rank - array.ndim) + array.shape
    if any(size != 1 for position, size in enumerate(full) if position != axis):
        return None
    return np.broadcast_to(array.reshape(-1), (shape[axis],))
