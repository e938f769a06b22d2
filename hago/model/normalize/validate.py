"""Refuses, with a reason, a model that violates the ONNX standard or that Hago cannot handle."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import onnx

from ...errors import ModelError, UnsupportedOpError
from .edit import QUANTIZE_OPS, STANDARD_DOMAINS
from .qoperators import MICROSOFT, can_expand

OLDEST_OPSET = 7
_LIMIT_BYTES = 2**31 - 1  # of one protobuf message

# Inputs of these operators are trained numbers; an infinity there is damage, elsewhere it may be a mask.
_WEIGHTED_OPS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization",
    "InstanceNormalization", "GroupNormalization", "GRU", "LSTM", "RNN", "PRelu",
)  # fmt: skip
_RECURRENT = "recurrent layers have no kernels yet"
_STANDARD = "export the model with standard ONNX operators only"
_LEFT_OUT = "export the model without that part, and compute it before or after the network"
# Operators of the standard that a static, deterministic program on tensors cannot contain.
_REFUSED_OPS = {
    "RandomNormal": "it is random", "RandomNormalLike": "it is random", "RandomUniform": "it is random",
    "RandomUniformLike": "it is random", "Multinomial": "it is random", "Bernoulli": "it is random",
    "SequenceConstruct": "it makes a sequence", "SequenceEmpty": "it makes a sequence",
    "SequenceInsert": "it changes a sequence", "SequenceErase": "it changes a sequence",
    "SequenceLength": "it reads a sequence", "SequenceMap": "it maps a sequence",
    "ConcatFromSequence": "it reads a sequence", "Optional": "it makes an optional",
    "OptionalGetElement": "it reads an optional", "OptionalHasElement": "it reads an optional",
    "StringNormalizer": "it works on strings", "StringConcat": "it works on strings",
    "StringSplit": "it works on strings", "RegexFullMatch": "it works on strings",
    "GRU": _RECURRENT, "LSTM": _RECURRENT, "RNN": _RECURRENT,
    "TfIdfVectorizer": "it works on text", "ImageDecoder": "it decodes files",
}  # fmt: skip


def check(proto: onnx.ModelProto, where: str) -> None:
    """Raises ModelError unless a model follows the ONNX standard and Hago can handle it."""
    opset = default_opset(proto, where)
    if not proto.graph.node:
        raise ModelError("the graph is empty: it has no operators", where=where, hint="export the model again")
    if not proto.graph.output:
        raise ModelError("the graph has no outputs", where=where, hint="export the model again")
    if proto.ByteSize() > _LIMIT_BYTES:
        raise ModelError("the model is larger than 2 GiB, which is not supported", where=where)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ModelError(
            f"the model's opset is {opset}; {OLDEST_OPSET} to {newest} are supported",
            where=where,
            hint="export the model again, at opset 17 or 21 say",
        )
    if proto.graph.sparse_initializer:
        raise ModelError("sparse initializers are not supported", where=where, hint="export dense weights")
    check_operators(proto, where)
    try:
        slim, heavy = light(proto)
        onnx.checker.check_model(_with_ranks(slim))
        for tensor in heavy:
            onnx.checker.check_tensor(tensor)
    except onnx.checker.ValidationError as error:
        text = " ".join(str(error).split())
        raise ModelError(
            f"breaks the ONNX standard: {text[:400]}", where=where, hint="export the model again"
        ) from None
    check_numbers(proto, where)


def _with_ranks(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every input and output has a shape: unknown ones are common, and reported later."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for value in [*copy.graph.input, *copy.graph.output]:
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
    return copy


def default_opset(proto: onnx.ModelProto, where: str) -> int:
    """The version of the standard operator set that the model uses."""
    versions = [o.version for o in proto.opset_import if o.domain in STANDARD_DOMAINS]
    if not versions:
        raise ModelError(
            "is not an ONNX model, or is truncated: it names no operator set",
            where=where,
            hint="check the path and the size of the file, then export or download it again",
        )
    return max(versions)


def check_operators(proto: onnx.ModelProto, where: str) -> None:
    """Raises UnsupportedOpError for an operator that is unknown or cannot be compiled."""
    opset = default_opset(proto, where)
    functions = {(f.domain, f.name) for f in proto.functions}
    bad: list[tuple[onnx.NodeProto, str]] = []
    graphs = [proto.graph.node, *(f.node for f in proto.functions)]
    for node in (n for nodes in graphs for n in walk(nodes)):
        if (node.domain, node.op_type) in functions:
            continue
        if node.domain not in STANDARD_DOMAINS:
            known = node.domain == MICROSOFT and node.op_type in QUANTIZE_OPS
            if not (known or can_expand(node.domain, node.op_type)):
                bad.append((node, f"domain {node.domain!r} is not the ONNX standard's"))
        elif not onnx.defs.has(node.op_type, opset, ""):
            bad.append((node, f"the standard has no such operator at opset {opset}"))
        elif node.op_type in _REFUSED_OPS:
            bad.append((node, _REFUSED_OPS[node.op_type]))
    if bad:
        node, why = bad[0]
        others = sorted({n.op_type for n, _ in bad[1:]} - {node.op_type})
        more = f" (nor can {', '.join(others)})" if others else ""
        domain = node.domain or "ai.onnx"
        raise UnsupportedOpError(
            f"operator {node.op_type} of domain {domain} cannot be compiled: {why}{more}",
            where=f"{where}, node {node.name or node.output[0]!r}",
            hint=_LEFT_OUT if why == _REFUSED_OPS.get(node.op_type) else _STANDARD,
        )


def check_numbers(proto: onnx.ModelProto, where: str) -> None:
    """Raises ModelError for NaN in any constant, and for infinities among trained weights."""
    trained: dict[str, onnx.NodeProto] = {}
    for node in walk(proto.graph.node):
        if node.op_type in _WEIGHTED_OPS:
            trained.update((name, node) for name in node.input)
    for tensor in proto.graph.initializer:
        if tensor.data_type not in (
            onnx.TensorProto.FLOAT,
            onnx.TensorProto.DOUBLE,
            onnx.TensorProto.FLOAT16,
        ):
            continue
        try:
            array = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise ModelError(
                f"its data does not fit its shape {tuple(tensor.dims)}: {error}",
                where=f"{where}, initializer {tensor.name!r}",
                hint="the file is damaged: export or download it again",
            ) from None
        with np.errstate(all="ignore"):
            if np.isfinite(array).all():
                continue
        nan = int(np.isnan(array).sum())
        if nan == 0 and tensor.name not in trained:
            continue
        found = f"{nan} NaN" if nan else f"{int(np.isinf(array).sum())} infinite"
        reader = trained.get(tensor.name)
        by = f" (read by {reader.op_type} {reader.name or reader.output[0]!r})" if reader else ""
        raise ModelError(
            f"{found} of {array.size} values{by}; weights must be finite",
            where=f"{where}, initializer {tensor.name!r}",
            hint="the training or the export went wrong: take an earlier checkpoint",
        )


def walk(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """All nodes, including those in the bodies of If, Loop and Scan."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from walk(attribute.g.node)


def light(proto: onnx.ModelProto, limit: int = 4096) -> tuple[onnx.ModelProto, list[onnx.TensorProto]]:
    """The model with initializers of more than ``limit`` elements turned into inputs, and those initializers.

    The checker, shape inference and the opset converter copy the whole model; they need only the numbers of
    small constants (shapes, axes, bounds).
    """
    graph = proto.graph
    heavy = [t for t in graph.initializer if math.prod(t.dims) > limit]
    if not heavy:
        return proto, []
    names = {t.name for t in heavy}
    slim = onnx.ModelProto(ir_version=proto.ir_version)
    slim.opset_import.extend(proto.opset_import)
    slim.functions.extend(proto.functions)
    slim.graph.name = graph.name
    slim.graph.node.extend(graph.node)
    slim.graph.input.extend(i for i in graph.input if i.name not in names)
    slim.graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in heavy)
    slim.graph.output.extend(graph.output)
    slim.graph.value_info.extend(graph.value_info)
    slim.graph.initializer.extend(t for t in graph.initializer if t.name not in names)
    slim.graph.quantization_annotation.extend(graph.quantization_annotation)
    return slim, heavy
