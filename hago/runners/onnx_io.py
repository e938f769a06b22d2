"""What the runners of ONNX files share: static shapes, and descriptions of the inputs."""

from __future__ import annotations

import os

import numpy as np
import onnx

from ..errors import MeasureError, ModelError
from ..model.normalize.read import damaged, read_unchecked
from ..tensor import TensorInfo

ModelLike = onnx.ModelProto | bytes | str | os.PathLike[str]


def static_model(model: ModelLike, batch: int | None) -> onnx.ModelProto:
    """The model with the batch, the first axis of every input, fixed if it is dynamic.

    ``batch`` None takes the file's batch, or 1 if it has none. A path may have external data beside it.
    Raises ModelError if it cannot be read, another axis is dynamic, or it has a different fixed batch.
    """
    with damaged(model):
        return _static(_read(model), batch)


def _static(proto: onnx.ModelProto, batch: int | None) -> onnx.ModelProto:
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    fixed: dict[str, int] = {}
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            known = dim.dim_value if dim.HasField("dim_value") else fixed.get(dim.dim_param, 0)
            if known <= 0 and axis == 0:
                known = batch or 1
            if known <= 0:
                raise ModelError(
                    f"axis {axis} has no fixed size",
                    where=f"input {value.name}",
                    hint="only the first axis may be dynamic: export the model with fixed sizes",
                )
            if axis == 0 and batch is not None and known != batch:
                raise ModelError(f"the model is made for batch {known}, not for {batch}", where=f"input {value.name}")
            if dim.dim_param:
                fixed[dim.dim_param] = known
            dim.dim_value = known
    # The same symbol elsewhere means the same size; if it stays, engines warn of a mismatch on every run.
    for value in [*proto.graph.output, *proto.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in fixed:
                dim.dim_value = fixed[dim.dim_param]
    return proto


def input_infos(proto: onnx.ModelProto) -> tuple[TensorInfo, ...]:
    """Name, type and static shape of each input that is not a weight."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    return tuple(
        TensorInfo(
            name=value.name,
            dtype=np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)).name,
            shape=tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
        )
        for value in proto.graph.input
        if value.name not in weights
    )


def serialized(proto: onnx.ModelProto, engine: str) -> bytes:
    """The model's bytes. Raises MeasureError beyond 2 GB, the limit of a protobuf message."""
    try:
        return proto.SerializeToString()
    except ValueError as error:
        raise MeasureError(f"the model is larger than 2 GB: {error}", where=engine) from error


def weight_bytes(proto: onnx.ModelProto) -> int:
    """Bytes of all weights as stored in the file (initializers and Constant nodes; int4 packed in pairs)."""
    tensors = list(proto.graph.initializer)
    for node in proto.graph.node:
        if node.op_type == "Constant":
            tensors += [attribute.t for attribute in node.attribute if attribute.HasField("t")]
    return sum(_tensor_bytes(tensor) for tensor in tensors)


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    count = int(np.prod(tensor.dims, dtype=np.int64))
    if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return (count + 1) // 2
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    return count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _read(model: ModelLike) -> onnx.ModelProto:
    if isinstance(model, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy
    return read_unchecked(model)[0]
