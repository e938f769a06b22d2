"""Shape inference over an ``onnx_ir`` graph without copying its weights."""

from __future__ import annotations

import math

import onnx
import onnx_ir as ir

from ...errors import ModelError, UnsupportedOpError
from .edit import CONTROL_FLOW_OPS, dims
from .prepare import IR_VERSION, OPSET
from .windows import resolve_ceil_mode

_SHAPE_OF_INPUT = ("GroupNormalization",)
_LARGEST_BYTES = 1 << 36  # of one tensor
_SMALL = 4096  # elements: shapes, axes and bounds are never larger


def infer(graph: ir.Graph, where: str) -> None:
    """Sets every type and shape that can be inferred. Raises ModelError if they conflict."""
    _infer_once(graph, where)
    for node in graph:
        # onnx infers no shape for these, though it is that of their first input.
        if node.op_type in _SHAPE_OF_INPUT and dims(node.outputs[0]) is None:
            known = dims(node.inputs[0])
            if known is not None:
                node.outputs[0].shape = ir.Shape(known)
                _infer_once(graph, where)
    while any(resolve_ceil_mode(node, where) for node in graph):  # any stops at the first: what follows is stale
        _infer_once(graph, where)


def _infer_once(graph: ir.Graph, where: str) -> None:
    slim = onnx.ModelProto(ir_version=IR_VERSION)
    slim.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    slim.opset_import.extend(onnx.helper.make_opsetid(d, 1) for d in {n.domain for n in graph if n.domain})
    slim.graph.name = graph.name or "main"
    slim.graph.input.extend(ir.serde.serialize_value(v) for v in graph.inputs)
    for value in graph.initializers.values():
        tensor = value.const_value
        assert tensor is not None
        if tensor.size <= _SMALL:
            slim.graph.initializer.append(ir.serde.serialize_tensor(tensor))
            slim.graph.initializer[-1].name = value.name or ""
        else:
            slim.graph.input.append(
                onnx.helper.make_tensor_value_info(value.name or "", int(tensor.dtype), list(tensor.shape.numpy()))
            )
    slim.graph.node.extend(ir.serde.serialize_node(n) for n in graph)
    slim.graph.value_info.extend(
        ir.serde.serialize_value(n.outputs[0])
        for n in graph
        if n.op_type in _SHAPE_OF_INPUT and dims(n.outputs[0]) is not None
    )
    for output in graph.outputs:
        slim.graph.output.add().name = output.name or ""
    try:
        inferred = onnx.shape_inference.infer_shapes(slim, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:
        raise ModelError(
            f"its shapes or types do not fit together: {' '.join(str(error).split())[:400]}",
            where=where,
            hint="check the requested batch and input shapes; a model with a fixed batch inside "
            "(a Reshape to a constant shape, say) runs only at that batch",
        ) from None
    infos = {v.name: v for v in [*inferred.graph.value_info, *inferred.graph.output]}
    for node in graph:
        for value in node.outputs:
            info = infos.get(value.name or "")
            if info is None or not info.type.HasField("tensor_type"):
                continue
            if info.type.tensor_type.elem_type:
                value.type = ir.TensorType(ir.DataType(info.type.tensor_type.elem_type))
            if info.type.tensor_type.HasField("shape"):
                value.shape = ir.serde.deserialize_tensor_shape(info.type.tensor_type.shape)


def require_static(graph: ir.Graph, where: str) -> None:
    """Raises ModelError unless every tensor has a known type and shape, and no control flow is left."""
    for value in graph.inputs:
        require_size(value, f"{where}, input {value.name!r}")
        if value.dtype in (ir.DataType.DOUBLE, ir.DataType.BFLOAT16, ir.DataType.STRING):
            raise ModelError(
                f"it is {value.dtype.name.lower()}; Hago compiles float32",
                where=f"{where}, input {value.name!r}",
                hint="export the model in float32 (module.float() in PyTorch)",
            )
    for node in graph:
        if node.op_type in CONTROL_FLOW_OPS:
            raise UnsupportedOpError(
                f"operator {node.op_type} of domain ai.onnx cannot be compiled: "
                "its effect depends on values known only at run time",
                where=f"{where}, node {node.name!r}",
                hint="export the model without control flow (a fixed branch, an unrolled loop)",
            )
        if node.op_type in ("SplitToSequence", "SequenceAt"):
            raise UnsupportedOpError(
                f"operator {node.op_type} of domain ai.onnx cannot be compiled: it works on a sequence",
                where=f"{where}, node {node.name!r}",
                hint="export the model with Split in its place",
            )
        _check_reshape(node, where)
        for value in node.outputs:
            if not value.name or (not value.uses() and not value.is_graph_output()):
                continue
            at = f"{where}, tensor {value.name!r} of {node.op_type} {node.name!r}"
            if dims(value) is None:
                raise ModelError(
                    "its shape is not known before the model runs",
                    where=at,
                    hint="only static shapes compile: cut the model before this node, or pass input_shapes",
                )
            require_size(value, at)
            if value.dtype == ir.DataType.DOUBLE or (value.dtype == ir.DataType.BFLOAT16 and node.op_type != "Cast"):
                raise ModelError(
                    f"it is computed in {value.dtype.name.lower()}; Hago compiles float32",
                    where=at,
                    hint="export the model in float32 (module.float() in PyTorch)",
                )


def require_size(value: ir.Value, at: str) -> None:
    """Raises ModelError for a tensor too large for any machine: its shape is damaged or wrong."""
    shape = dims(value)
    if shape is not None and 4 * math.prod(shape) > _LARGEST_BYTES:
        raise ModelError(
            f"its shape {shape} takes {4 * math.prod(shape) / 2**30:,.0f} GiB; "
            f"a tensor has {_LARGEST_BYTES >> 30} GiB at most",
            where=at,
            hint="check the shapes of the model's inputs and the batch; export the model again",
        )


def _check_reshape(node: ir.Node, where: str) -> None:
    """Raises ModelError if the elements do not match, as with a batch that is written into a Reshape."""
    if node.op_type != "Reshape" or node.domain:
        return
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    if before is not None and after is not None and math.prod(before) != math.prod(after):
        raise ModelError(
            f"its shapes do not fit together: {before} cannot become {after}",
            where=f"{where}, node {node.name!r} (Reshape)",
            hint="the batch is written into the model: use the batch it was exported with",
        )
