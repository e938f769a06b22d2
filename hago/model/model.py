"""Load an ONNX model, normalize it, name its layers.

Usage::

    model = load_model("resnet8.onnx", batch=1)
    for layer in model.layers:
        print(layer.name, layer.kind, layer.macs)
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import numpy as np
import onnx

from ..arguments import whole
from ..errors import ModelError
from ..files import hash_bytes
from ..tensor import TensorInfo
from .layer import Layer
from .layers import find_layers, mark
from .normalize import (
    BATCH,
    InputShapes,
    content_hash,
    damaged,
    free_inputs,
    is_quantized,
    normalize,
    read_proto,
)
from .structure import structure_hash


@dataclass(frozen=True, eq=False)
class Model:
    """A normalized model at one batch, and its layers in topological order.

    ``proto`` is at opset 21, with static shapes on every tensor; see ``hago.model.normalize``.
    ``hash`` is the SHA-256 of what was loaded, independent of the batch. ``is_quantized`` says that the model
    already contains quantized (QDQ) tensors or short floats. ``source_proto`` is the model as it was read.
    """

    proto: onnx.ModelProto = field(repr=False)
    hash: str
    source: str
    batch: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    layers: tuple[Layer, ...] = field(repr=False)
    tensor_shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    is_quantized: bool
    source_proto: onnx.ModelProto = field(repr=False)
    input_shapes: InputShapes | None = field(default=None, repr=False)
    transformation: str = "none"
    _layers: Mapping[str, Layer] = field(default_factory=dict, repr=False)
    _initializers: Mapping[str, onnx.TensorProto] = field(default_factory=dict, repr=False)

    def layer(self, name: str) -> Layer:
        """The layer of that name; ModelError, with the nearest names, if there is none."""
        try:
            return self._layers[name]
        except KeyError:
            near = difflib.get_close_matches(name, self._layers, n=3)
            hint = f"did you mean {', '.join(map(repr, near))}?" if near else "hago inspect lists the layers"
            raise ModelError(f"there is no layer {name!r}", where=self.source, hint=hint) from None

    def initializer(self, name: str) -> np.ndarray:
        """The constant tensor of that name (do not write to it); ModelError if there is none."""
        try:
            return onnx.numpy_helper.to_array(self._initializers[name])
        except KeyError:
            raise ModelError(f"there is no initializer {name!r}", where=self.source) from None

    @cached_property
    def structure(self) -> str:
        """A hash of everything but the weights: what this model shares with its fine-tuned versions."""
        return structure_hash(self.source_proto)

    @property
    def weights_hash(self) -> str:
        """A hash of the weights as they are now: ``hash`` where nothing was done to them. Ranges belong to it."""
        return self.hash if self.transformation == "none" else hash_bytes(self.hash, self.transformation)

    @property
    def macs(self) -> int:
        """Multiply-adds of one run at this batch."""
        return sum(layer.macs for layer in self.layers)

    @property
    def params(self) -> int:
        """The number of weights, biases and other constants in the layers."""
        return sum(layer.params for layer in self.layers)


ModelSource = str | os.PathLike[str] | bytes | onnx.ModelProto | Model


def load_model(
    model: ModelSource,
    batch: int = 1,
    *,
    input_shapes: InputShapes | None = None,
    sample_shapes: Callable[[], Mapping[str, tuple[int, ...]]] | None = None,
) -> Model:
    """Reads, checks and normalizes an ONNX model (path, bytes, ModelProto), or a Model at another batch.

    The first dimension of every input is the batch if it is dynamic. A model whose shapes are all
    fixed keeps its batch; requesting any other batch than 1 is then an error. ``input_shapes`` fixes further
    dynamic dimensions: whole shapes by input name, -1 for the batch. ``sample_shapes`` is called if any is
    still free: it returns shapes of one sample by input name, ``x`` for the only input.

    Raises ModelError, or UnsupportedOpError for an operator that cannot be compiled.
    """
    batch = whole("batch", batch, 1, ModelError)
    if isinstance(model, Model):
        if model.batch == batch and input_shapes in (None, model.input_shapes):
            return model
        shapes = model.input_shapes if input_shapes is None else input_shapes
        with damaged(model.source):
            return _build(model.source_proto, model.source, model.hash, batch, shapes)
    with damaged(model):
        proto, where = read_proto(model)
        input_shapes = _completed(proto, input_shapes, sample_shapes)
        return _build(proto, where, content_hash(proto), batch, input_shapes)


def _completed(
    proto: onnx.ModelProto,
    given: InputShapes | None,
    sample_shapes: Callable[[], Mapping[str, tuple[int, ...]]] | None,
) -> InputShapes | None:
    """The given shapes, and those of the samples for inputs that are still free."""
    free = [name for name in free_inputs(proto) if name not in (given or {})]
    if not free or sample_shapes is None:
        return given
    known = dict(sample_shapes())
    held = {tensor.name for tensor in proto.graph.initializer}
    if "x" in known and [info.name for info in proto.graph.input if info.name not in held] == free:
        known.setdefault(free[0], known["x"])
    return {**(given or {}), **{name: (BATCH, *known[name]) for name in free if name in known}} or None


def static_source(model: Model) -> onnx.ModelProto:
    """The model as it was read, with the input shapes that it was loaded with: for other engines."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.source_proto)
    shapes = {info.name: info.shape for info in model.inputs}
    for value in proto.graph.input:
        if value.name in shapes:
            element = value.type.tensor_type.elem_type
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, element, shapes[value.name]))
    return proto


def expose(model: Model, tensors: Iterable[str]) -> onnx.ModelProto:
    """The normalized graph with ``tensors`` as extra outputs, behind its own and in the given order.

    Repeated names and the model's outputs are left out. Raises ModelError for an unknown tensor.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    known = {v.name: v for v in [*proto.graph.value_info, *proto.graph.input]}
    present = {o.name for o in proto.graph.output}
    for name in dict.fromkeys(tensors):
        if name in present:
            continue
        if name not in known:
            raise ModelError(f"there is no activation tensor {name!r}", where=model.source)
        proto.graph.output.append(known[name])
    return proto


def _build(
    source_proto: onnx.ModelProto, where: str, digest: str, batch: int, input_shapes: InputShapes | None
) -> Model:
    proto, actual = normalize(source_proto, where, batch, input_shapes)
    graph = proto.graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        shapes[value.name] = _info(value).shape
    quantized = is_quantized(proto)
    layers = find_layers(proto, shapes, quantized)
    mark(proto, layers)
    return Model(
        proto=proto,
        hash=digest,
        source=where,
        batch=actual,
        inputs=tuple(map(_info, graph.input)),
        outputs=tuple(map(_info, graph.output)),
        layers=layers,
        tensor_shapes=MappingProxyType(shapes),
        is_quantized=quantized,
        source_proto=source_proto,
        input_shapes=input_shapes,
        _layers={layer.name: layer for layer in layers},
        _initializers={t.name: t for t in graph.initializer},
    )


def _info(value: onnx.ValueInfoProto) -> TensorInfo:
    tensor = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return TensorInfo(value.name, dtype.name, tuple(d.dim_value for d in tensor.shape.dim))
