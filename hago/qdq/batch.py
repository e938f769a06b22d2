"""A QDQ model for any batch, if the model that it was made from allows any.

Hago's networks have a fixed batch, and so does the normalized model that a QDQ model is made from; the file that a
user takes elsewhere should have the batch of the user's own file.

Notation: ``B`` the model's batch, ``C`` another one. Exactly what differs between the model normalized at ``B`` and at
``C`` depends on the batch.
"""

from __future__ import annotations

import numpy as np
import onnx

from ..errors import HagoError
from ..model import Model, load_model
from ..tensor import TensorInfo

_OTHER = 7  # C: a number that seldom occurs in shapes
_TOLD = "N"


def free_batch(qdq: onnx.ModelProto, model: Model) -> onnx.ModelProto:
    """``qdq`` with a free batch if the file of ``model`` leaves its batch free; else unchanged.

    It also stays unchanged if anything but a Reshape depends on the batch, such as a constant of one row per sample.
    """
    symbols = _symbols(model)
    if not symbols:
        return qdq
    other = load_model(model, _OTHER if model.batch != _OTHER else _OTHER + 4)
    targets = _reshape_targets(model.proto, other.proto)
    if targets is None:
        return qdq
    proto = onnx.ModelProto()
    proto.CopyFrom(qdq)
    for tensor in proto.graph.initializer:
        if tensor.name in targets:
            tensor.CopyFrom(onnx.numpy_helper.from_array(targets[tensor.name], tensor.name))
    del proto.graph.value_info[:]
    symbol = next(iter(symbols.values()))
    for value in proto.graph.input:
        if value.name in symbols:
            value.type.tensor_type.shape.dim[0].dim_param = symbols[value.name]
    for value, here, there in zip(proto.graph.output, model.outputs, other.outputs, strict=True):
        _free(value, here, there, symbol)
    return proto if _agrees(proto, other) else qdq


def _symbols(model: Model) -> dict[str, str]:
    """Input -> the file's name of the batch; inputs whose leading dimension is fixed are left out."""
    found = {}
    for value in model.source_proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        if any(info.name == value.name and info.shape for info in model.inputs) and not (
            dims and dims[0].dim_value > 0
        ):
            found[value.name] = (dims[0].dim_param if dims else "") or _TOLD
    return found


def _reshape_targets(here: onnx.ModelProto, there: onnx.ModelProto) -> dict[str, np.ndarray] | None:
    """Shape constants with -1 for the one size that depends on the batch; None if more depends on it."""
    if [_about(node) for node in here.graph.node] != [_about(node) for node in there.graph.node]:
        return None
    others = {tensor.name: tensor for tensor in there.graph.initializer}
    found: dict[str, np.ndarray] = {}
    for tensor in here.graph.initializer:
        other = others.get(tensor.name)
        if other is None or list(tensor.dims) != list(other.dims):
            return None
        if tensor.raw_data == other.raw_data and tensor == other:
            continue
        readers = [(node.op_type, i) for node in here.graph.node for i, n in enumerate(node.input) if n == tensor.name]
        sizes, other_sizes = onnx.numpy_helper.to_array(tensor), onnx.numpy_helper.to_array(other)
        differ = np.flatnonzero(sizes.ravel() != other_sizes.ravel())
        if any(reader != ("Reshape", 1) for reader in readers) or len(differ) != 1 or (sizes < 0).any():
            return None
        found[tensor.name] = sizes.copy()
        found[tensor.name][differ[0]] = -1
    return found


def _about(node: onnx.NodeProto) -> bytes:
    return node.SerializeToString(deterministic=True)


def _free(value: onnx.ValueInfoProto, here: TensorInfo, there: TensorInfo, symbol: str) -> None:
    for index, (dim, size, other) in enumerate(
        zip(value.type.tensor_type.shape.dim, here.shape, there.shape, strict=True)
    ):
        if size != other:
            dim.Clear()
            if index == 0:
                dim.dim_param = symbol


def _agrees(proto: onnx.ModelProto, other: Model) -> bool:
    """Whether the model, read at another batch, has the same outputs as the float model."""
    try:
        read = load_model(proto, other.batch)
    except HagoError:
        return False
    return [o.shape for o in read.outputs] == [o.shape for o in other.outputs]
