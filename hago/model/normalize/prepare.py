"""From a checked model to one with static inputs, only standard operators, and opset 21."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx
from onnx import inliner, version_converter

from ...errors import ModelError
from .edit import QUANTIZE_OPS, STANDARD_DOMAINS
from .old_meanings import old_nodes, restore
from .qoperators import MICROSOFT
from .validate import default_opset, light, walk

OPSET = 21
IR_VERSION = 10
BATCH = -1  # in a given input shape: the requested batch

_MOST_LEVELS = 4  # operators may be defined by operators that are themselves defined by others
# Each passes ONNX's own tests: not every definition that ONNX ships does.
_WRITTEN_OUT = frozenset(
    {
        "Attention", "RMSNormalization", "RotaryEmbedding", "SwiGLU", "Swish",  # newer than this opset
        "MeanVarianceNormalization", "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss",
    }
)  # fmt: skip

InputShapes = Mapping[str, Sequence[int | None]]


def prepare(
    source: onnx.ModelProto, where: str, batch: int, input_shapes: InputShapes | None
) -> tuple[onnx.ModelProto, int]:
    """A model at opset 21 with static inputs and named nodes, and its batch. Raises ModelError."""
    proto = onnx.ModelProto()
    proto.CopyFrom(source)
    _drop_hidden_inputs(proto)
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    _standard_domain(proto)
    proto = _written_out(proto)
    name_nodes(proto.graph)
    _outputs_have_producers(proto.graph)
    actual = fix_inputs(proto, where, batch, input_shapes)
    return to_opset(proto, where), actual


def _drop_hidden_inputs(proto: onnx.ModelProto) -> None:
    # Before IR 4 every initializer was listed as an input too (one a user could override).
    held = {t.name for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in held]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.ir_version = IR_VERSION


def _outputs_have_producers(graph: onnx.GraphProto) -> None:
    """Constant folding of other tools leaves outputs that are initializers: gives them an Identity."""
    initializers = {t.name: t for t in graph.initializer}
    for name in [o.name for o in graph.output if o.name in initializers]:
        held = initializers[name]
        while held.name in initializers:
            held.name += "_value"
        for node in walk(graph.node):
            node.input[:] = [held.name if i == name else i for i in node.input]
        graph.node.insert(0, onnx.helper.make_node("Identity", [held.name], [name], held.name))


def _standard_domain(proto: onnx.ModelProto) -> None:
    """Moves ONNX Runtime's own Quantize/DequantizeLinear, the same operators, into the standard domain.

    Its other quantized operators stay there until they are replaced (`qoperators`).
    """
    for node in walk(proto.graph.node):
        if node.domain == "ai.onnx" or (node.domain == MICROSOFT and node.op_type in QUANTIZE_OPS):
            node.domain = ""
    version = default_opset(proto, proto.graph.name)
    others = [o for o in proto.opset_import if o.domain not in STANDARD_DOMAINS]
    del proto.opset_import[:]
    proto.opset_import.extend([onnx.helper.make_opsetid("", version), *others])


def _written_out(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Replaces operators without a kernel by the operators that define them in the standard.

    An operator whose definition cannot be expanded stays, and is refused later.
    """
    for _ in range(_MOST_LEVELS):
        version = default_opset(proto, proto.graph.name)
        nodes = [n for n in walk(proto.graph.node) if not n.domain and _is_function(n.op_type, version)]
        if not nodes:
            break
        for node in nodes:
            _write_defaults(node, version)
        wanted = sorted({("", node.op_type) for node in nodes})
        try:
            proto = inliner.inline_selected_functions(proto, wanted, inline_schema_functions=True)
        except Exception:  # anything that ONNX's C++ code raises, including assertions
            break
    return proto


def _write_defaults(node: onnx.NodeProto, version: int) -> None:
    """Adds the attributes that a node leaves at their defaults, which ONNX's inliner would lose."""
    given = {attribute.name for attribute in node.attribute}
    for name, attribute in onnx.defs.get_schema(node.op_type, version, "").attributes.items():
        if name not in given and attribute.default_value.type != onnx.AttributeProto.UNDEFINED:
            node.attribute.append(attribute.default_value)


def _is_function(op: str, version: int) -> bool:
    """Whether the standard defines an operator by others, and Hago uses those."""
    if op not in _WRITTEN_OUT or not onnx.defs.has(op, version, ""):
        return False
    schema = onnx.defs.get_schema(op, version, "")
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]


def name_nodes(graph: onnx.GraphProto) -> None:
    """Gives every node a unique name: its own, or that of its first output."""
    taken: set[str] = set()
    nodes = list(walk(graph.node))
    for node in nodes:
        if not node.name or node.name in taken:
            node.name = ""
        taken.add(node.name)
    for node in nodes:
        if not node.name:
            hint = next((o for o in node.output if o), node.op_type)
            name, i = hint, 0
            while name in taken:
                i += 1
                name = f"{hint}_{i}"
            node.name = name
            taken.add(name)


def fix_inputs(proto: onnx.ModelProto, where: str, batch: int, input_shapes: InputShapes | None) -> int:
    """Makes every input static and drops all other shapes; returns the batch that the model now has.

    The first dimension of an input is its batch if it is dynamic, and so is every other dimension with
    the same symbol. A model whose inputs are static keeps them; requesting another batch than 1 or its
    own is an error. ``input_shapes`` gives whole shapes, with -1 or None for the batch.
    """
    graph = proto.graph
    if batch < 1:
        raise ModelError(f"batch must be at least 1, not {batch}", where=where)
    unknown = set(input_shapes or {}) - {i.name for i in graph.input}
    if unknown:
        raise ModelError(
            f"input_shapes names {sorted(unknown)}, which the model does not have",
            where=where,
            hint=f"its inputs are {[i.name for i in graph.input]}",
        )
    for info in graph.input:
        if not info.type.HasField("tensor_type"):
            raise ModelError("is not a tensor", where=f"{where}, input {info.name!r}")
    symbols = _batch_symbols(graph.input)
    for info in graph.input:
        given = None if input_shapes is None else input_shapes.get(info.name)
        _fix_one(info, where, batch, symbols, given)
    first = graph.input[0].type.tensor_type.shape.dim if graph.input else []
    actual = int(first[0].dim_value) if first else 1
    if batch not in (1, actual):
        raise ModelError(
            f"the batch is fixed at {actual} inside the model, but {batch} was requested",
            where=f"{where}, input {graph.input[0].name if graph.input else '(none)'!r}",
            hint=f"use batch={actual}, or export the model with a dynamic batch",
        )
    fixed = {info.name: info.type for info in graph.input}
    for value in [*graph.value_info, *graph.output]:
        if value.name in fixed:  # an output that is an input
            value.type.CopyFrom(fixed[value.name])
        elif value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return actual


def free_inputs(proto: onnx.ModelProto) -> list[str]:
    """The inputs with a free dimension that is not the batch, or with no shape at all."""
    held = {tensor.name for tensor in proto.graph.initializer}
    inputs = [info for info in proto.graph.input if info.name not in held and info.type.HasField("tensor_type")]
    symbols = _batch_symbols(inputs)
    return [
        info.name
        for info in inputs
        if not info.type.tensor_type.HasField("shape")
        or any(
            dim.dim_value <= 0 and not (dim.dim_param and dim.dim_param in symbols)
            for dim in info.type.tensor_type.shape.dim[1:]
        )
    ]


def _batch_symbols(inputs: Iterable[onnx.ValueInfoProto]) -> set[str]:
    """The names of the batch: the symbols of leading dimensions."""
    leading = [info.type.tensor_type.shape.dim[0] for info in inputs if info.type.tensor_type.shape.dim]
    return {dim.dim_param for dim in leading if dim.dim_value <= 0 and dim.dim_param}


def _fix_one(
    info: onnx.ValueInfoProto, where: str, batch: int, symbols: set[str], given: Sequence[int | None] | None
) -> None:
    at = f"{where}, input {info.name!r}"
    tensor = info.type.tensor_type
    if given is not None:
        wanted = [batch if d in (None, BATCH) else int(d) for d in given]  # type: ignore[arg-type]
        if not tensor.HasField("shape"):
            tensor.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in wanted)
        declared = [d.dim_param or (d.dim_value if d.dim_value > 0 else "?") for d in tensor.shape.dim]
        fits = len(wanted) == len(declared) and all(w > 0 for w in wanted)
        if not fits or any(isinstance(d, int) and d != w for d, w in zip(declared, wanted, strict=True)):
            raise ModelError(
                f"the given shape {tuple(given)} does not fit the declared ({', '.join(map(str, declared))})",
                where=at,
                hint="give one positive number per dimension, -1 for the batch",
            )
        for dim, size in zip(tensor.shape.dim, wanted, strict=True):
            dim.dim_value = size
        return
    if not tensor.HasField("shape"):
        raise ModelError(
            "its shape is unknown",
            where=at,
            hint=f'pass input_shapes={{"{info.name}": (-1, ...)}} (-1: the batch), or --input-shape {info.name}=-1,...',
        )
    for index, dim in enumerate(tensor.shape.dim):
        if dim.dim_value > 0:
            continue
        if index == 0 or (dim.dim_param and dim.dim_param in symbols):
            dim.dim_value = batch
            continue
        shown = [d.dim_param or str(d.dim_value if d.dim_value > 0 else "?") for d in tensor.shape.dim]
        example = ["-1", *(s if s.isdigit() else "SIZE" for s in shown[1:])]
        raise ModelError(
            f"dimension {index} ({dim.dim_param or 'unnamed'}) is dynamic; only the batch may be "
            f"(its shape is {', '.join(shown)})",
            where=at,
            hint=f'pass input_shapes={{"{info.name}": ({", ".join(example)})}}, or --input-shape '
            f"{info.name}={','.join(example)}",
        )


def to_opset(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """The same model at opset 21, node names kept. Raises ModelError if it cannot be expressed there."""
    version = default_opset(proto, where)
    if version > OPSET:
        _check_backward(proto, where, version)
    elif any(
        onnx.defs.get_schema(n.op_type, version, "").since_version
        != onnx.defs.get_schema(n.op_type, OPSET, "").since_version
        for n in walk(proto.graph.node)
        if not n.domain and onnx.defs.has(n.op_type, OPSET, "")
    ):
        proto = _convert(proto, where, version)
    for node in walk(proto.graph.node):
        if node.op_type == "MeanVarianceNormalization" and not node.attribute:
            # Inference expands it but ignores its defaults.
            node.attribute.append(onnx.helper.make_attribute("axes", [0, 2, 3]))
        if not node.domain and not onnx.defs.has(node.op_type, OPSET, ""):
            raise ModelError(
                f"operator {node.op_type} is gone from opset {OPSET} and could not be converted",
                where=f"{where}, node {node.name!r}",
                hint="export the model again at opset 17 or newer",
            )
    others = [o for o in proto.opset_import if o.domain]
    del proto.opset_import[:]
    proto.opset_import.extend([onnx.helper.make_opsetid("", OPSET), *others])
    proto.ir_version = IR_VERSION
    return proto


def _convert(proto: onnx.ModelProto, where: str, version: int) -> onnx.ModelProto:
    slim, heavy = light(proto)
    kept = {i.name for i in proto.graph.input}
    try:
        new = version_converter.convert_version(slim, OPSET)
    except Exception as error:  # the converter raises RuntimeError and several exceptions of its own
        raise ModelError(
            f"cannot be converted from opset {version} to {OPSET}: {' '.join(str(error).split())[:300]}",
            where=where,
            hint="export the model again at opset 17 or 21",
        ) from None
    names = {o: n.name for n in walk(proto.graph.node) for o in n.output if o}
    for node in walk(new.graph.node):
        known = next((names[o] for o in node.output if o in names), None)
        if known is not None:
            node.name = known
    restore(new, old_nodes(proto, version), where)
    name_nodes(new.graph)
    inputs = [i for i in new.graph.input if i.name in kept]
    del new.graph.input[:]
    new.graph.input.extend(inputs)
    new.graph.initializer.extend(heavy)
    for value in [*new.graph.value_info, *new.graph.output]:
        if value.name not in kept and value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return new


def _check_backward(proto: onnx.ModelProto, where: str, version: int) -> None:
    """A newer model may be read at opset 21 if its operators changed only in the types they take."""
    for node in walk(proto.graph.node):
        if node.domain:
            continue
        new = onnx.defs.get_schema(node.op_type, version, "")
        if new.since_version <= OPSET:
            continue
        old = onnx.defs.get_schema(node.op_type, OPSET, "") if onnx.defs.has(node.op_type, OPSET, "") else None
        why = None
        if old is None:
            why = f"opset {OPSET} does not have it"
        elif len(node.input) > old.max_input or len(node.output) > old.max_output:
            why = "it uses an input or output that came later"
        else:
            for attribute in node.attribute:
                known = old.attributes.get(attribute.name)
                if known is None and attribute != new.attributes[attribute.name].default_value:
                    why = f"it uses attribute {attribute.name!r}, which came later"
            for name, held in old.attributes.items():
                now = new.attributes.get(name)
                if now is not None and now.default_value != held.default_value:
                    why = f"the default of its attribute {name!r} changed"
        if why:
            raise ModelError(
                f"operator {node.op_type} of opset {version} cannot be expressed at opset {OPSET}: {why}",
                where=f"{where}, node {node.name!r}",
                hint="export the model at opset 21",
            )
        for attribute in [a for a in node.attribute if a.name not in old.attributes]:  # type: ignore[union-attr]
            node.attribute.remove(attribute)


__all__ = [
    "BATCH",
    "IR_VERSION",
    "OPSET",
    "InputShapes",
    "fix_inputs",
    "free_inputs",
    "name_nodes",
    "prepare",
    "to_opset",
]
