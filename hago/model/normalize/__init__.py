"""From any ONNX model to its normalized form: ``normalize``.

read      bytes -> ModelProto
validate  the ONNX standard, operators, finite weights
prepare   static inputs, standard operators, opset 21, named nodes
shapes    shape inference
half      float16 read as float32
qoperators, integers, quantizers   quantized operators as QDQ, unusual quantizers as arithmetic
constants folding, decided branches
simplify  operators that do nothing; clamps; arithmetic with constants
canonical explicit padding, Gemm as x @ W.T + b, one output per node
affine    BatchNormalization and other per-channel scales into the weights
patterns  GELU, hard-swish, layer normalization
"""

from __future__ import annotations

from collections import Counter

import onnx
import onnx_ir as ir

from ...errors import ModelError
from .affine import fold_affine
from .canonical import canonicalize
from .constants import check_inference_mode, fold_all
from .edit import QUANTIZE_OPS, Editor, constant, dims
from .element_types import check_types
from .half import widen
from .integers import expand_integers
from .patterns import recognise
from .prepare import BATCH, InputShapes, free_inputs, prepare
from .qoperators import expand_quantized
from .quantizers import expand_quantizers
from .read import content_hash, damaged, read_proto
from .shapes import infer, require_static
from .simplify import simplify
from .validate import check_numbers

_MAX_ROUNDS = 100


def normalize(
    source: onnx.ModelProto, where: str, batch: int, input_shapes: InputShapes | None = None
) -> tuple[onnx.ModelProto, int]:
    """The normalized form of a checked model, and its batch. Raises ModelError.

    It computes the same function (to float32 rounding), has the same inputs and outputs by name, static
    shapes throughout, and nodes with unique names that are those of the source.
    """
    proto, actual = prepare(source, where, batch, input_shapes)
    model = ir.from_proto(proto)
    graph = model.graph
    infer(graph, where)
    if widen(graph):
        for value in [v for n in graph.all_nodes() for v in n.outputs]:
            value.type = None
    fold_all(graph, where)
    _quantized_operators(graph, where)
    require_static(graph, where)
    check_inference_mode(graph, where)
    for _ in range(_MAX_ROUNDS):
        editor = Editor(graph)
        simplify(editor)
        canonicalize(editor)
        fold_affine(editor)
        recognise(editor)
        editor.drop_unused_initializers()
        if not editor.changed:
            break
        fold_all(graph, where)
    _unshare_weights(Editor(graph))
    _drop_dead(Editor(graph))
    infer(graph, where)
    require_static(graph, where)
    return _finish(model, where), actual


def _quantized_operators(graph: ir.Graph, where: str) -> None:
    """Turns every kind of quantization into 8-bit QDQ or arithmetic."""
    if expand_quantized(graph, where):
        fold_all(graph, where)
    check_types(graph, where)
    changed = expand_integers(graph, where)
    if expand_quantizers(graph, where) or changed:
        fold_all(graph, where)


def is_quantized(proto: onnx.ModelProto) -> bool:
    """Whether the model already contains quantized (QDQ), bfloat16 or float16 tensors, outputs aside."""
    short = (onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16)
    outputs = {o.name for o in proto.graph.output}

    def narrows(node: onnx.NodeProto) -> bool:
        return node.op_type == "Cast" and node.output[0] not in outputs and node.attribute[0].i in short

    return any(n.op_type in QUANTIZE_OPS or narrows(n) for n in proto.graph.node)


def _unshare_weights(editor: Editor) -> None:
    """Gives every layer a copy of shared weights, so that each can be quantized differently."""
    taken: Counter[str] = Counter()
    for node in editor.nodes("Conv", "ConvTranspose", "Gemm", "MatMul"):
        for index, value in enumerate(node.inputs[1:], start=1):
            array = constant(value)
            if array is None or value is None or value.name is None:
                continue
            taken[value.name] += 1
            if taken[value.name] > 1:
                editor.set_input(node, index, editor.initializer(array, f"{node.name}_{value.name}"))


def _drop_dead(editor: Editor) -> None:
    for node in reversed(editor.nodes()):
        editor.discard(node)
    editor.drop_unused_initializers()


def _finish(model: ir.Model, where: str) -> onnx.ModelProto:
    for node in model.graph:
        kept = {k: v for k, v in node.metadata_props.items() if k == "hago.layer"}
        node.metadata_props.clear()
        node.metadata_props.update(kept)
        node.doc_string = None
    proto = ir.to_proto(model)
    for field in ("metadata_props", "doc_string", "producer_version"):
        proto.ClearField(field)
    proto.producer_name = "hago"
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ModelError(
            f"normalizing it produced an invalid graph, which is a bug in Hago: {str(error)[:300]}",
            where=where,
        ) from error
    check_numbers(proto, where)
    return proto


__all__ = [
    "BATCH",
    "InputShapes",
    "content_hash",
    "damaged",
    "dims",
    "free_inputs",
    "is_quantized",
    "normalize",
    "read_proto",
]
