"""Data movement: concat, reshapes, slices and the like, nearest-neighbour resize."""

from __future__ import annotations

import numpy as np

from ..tensor import TensorType
from .lookahead import RESHAPES
from .resize_taps import Resizing
from .source import SourceNode
from .translate import Translator
from .values import Quant, Value


def concat(tr: Translator, node: SourceNode) -> bool:
    """Concat of quantized tensors; real ones among them are quantized if the result is."""
    quants = [tr.quant(name) for name in node.inputs]
    params = tr.ahead.target(node.outputs[0])
    type_ = TensorType("uint8", tr.source.shape(node.outputs[0]))
    if params is None:
        first = quants[0]
        if first is None or any(q is None or q.params != first.params for q in quants):
            return False
        params = first.params
    if not tr.integers("concat"):
        return False
    inputs: list[str] = []
    tables: list[tuple[int, np.ndarray]] = []
    for index, (name, quant) in enumerate(zip(node.inputs, quants, strict=True)):
        if quant is None or quant.params == params or tr.source.constant(name) is not None:
            inputs.append(tr.quantized(name, params, node.layer))
        else:
            inputs.append(quant.tensor)
            tables.append((index, params.quantize(quant.params.reals())))
    inputs += [tr.build.constant(table, f"{node.name}_table") for _, table in tables]
    axis = node.attrs["axis"] % len(type_.shape)
    attrs = {"axis": axis, "tables": tuple(index for index, _ in tables)}
    output = tr.hago("QConcat", node, inputs, type_, f"{node.outputs[0]}_u8", attrs)
    tr.set(node.outputs[0], Value(quant=Quant(output, params)))
    return True


def move(tr: Translator, node: SourceNode) -> bool:
    """Data movement: on uint8 codes if the input is quantized; reshapes always become Reshape."""
    value = tr.value(node.inputs[0])
    quant = value.quant
    commutes = tr.ahead.commutes(node)
    params = tr.ahead.target(node.outputs[0]) if commutes else None
    if quant is None and value.table is not None and params is not None:
        quant = Quant(tr.quantized(node.inputs[0], params), params)
    if quant is None or not commutes:
        if node.op not in RESHAPES or tr.source.constant(node.inputs[0]) is not None:
            return False
        type_ = tr.source.type(node.outputs[0])
        tensor = reshape(tr, tr.tensor(node.inputs[0]), type_, node.outputs[0], node)
        tr.set(node.outputs[0], Value(tensor=tensor))
        return True
    type_ = TensorType("uint8", tr.source.shape(node.outputs[0]))
    hint = f"{node.outputs[0]}_u8"
    if node.op in RESHAPES:
        tensor = reshape(tr, quant.tensor, type_, hint, node)
    else:
        inputs = [quant.tensor] + [tr.tensor(name) if name else "" for name in node.inputs[1:]]
        if node.op == "Pad" and node.attrs.get("mode", "constant") == "constant":
            zero = tr.build.constant(np.array(quant.params.zero_point, np.uint8), f"{node.name}_value")
            inputs = [*inputs[:2], zero, *inputs[3:]]
        tensor = tr.standard(node.op, inputs, type_, hint, dict(node.attrs), name=node.name, layer=node.layer)
    tr.set(node.outputs[0], Value(quant=Quant(tensor, quant.params)))
    return True


def reshape(tr: Translator, tensor: str, type_: TensorType, hint: str, node: SourceNode) -> str:
    """Emits a Reshape to a static shape."""
    shape = tr.build.shared_constant(np.array(type_.shape, np.int64), "shape")
    return tr.standard("Reshape", [tensor, shape], type_, hint, name=node.name, layer=node.layer)


def split(tr: Translator, node: SourceNode) -> bool:
    """Split of a quantized tensor."""
    quant = tr.value(node.inputs[0]).quant
    if quant is None:
        return False
    inputs = [quant.tensor, *(tr.tensor(name) if name else "" for name in node.inputs[1:])]
    outputs = [
        (tr.build.fresh(f"{o}_u8"), TensorType("uint8", tr.source.shape(o))) if o else ("", TensorType("uint8", ()))
        for o in node.outputs
    ]
    tr.build.add("Split", inputs, outputs, name=node.name, attrs=node.attrs, layer=node.layer)
    for name, (tensor, _) in zip(node.outputs, outputs, strict=True):
        if name:
            tr.set(name, Value(quant=Quant(tensor, quant.params)))
    return True


def resize(tr: Translator, node: SourceNode) -> bool:
    """Nearest-neighbour Resize as one Gather per resized axis, which works in every layout and type."""
    name, out = node.inputs[0], node.outputs[0]
    optional = [tr.source.array(node.input(i)) if node.input(i) else None for i in (1, 2, 3)]
    computed = any(node.input(i) and held is None for i, held in zip((1, 2, 3), optional, strict=True))
    if tr.source.constant(name) is not None or node.attrs.get("mode", "nearest") != "nearest" or computed:
        return False
    resizing = Resizing(node.attrs, tr.source.shape(name), tr.source.shape(out), *optional)
    along = [resizing.taps(axis) for axis in range(len(resizing.x))]
    if any(t.outside.any() for t in along):
        return False
    quant = tr.value(name).quant
    tensor = quant.tensor if quant is not None else tr.tensor(name)
    type_ = tr.build.types[tensor]
    for axis, taken in enumerate(along):
        if taken.identity:
            continue
        indices = tr.build.shared_constant(taken.positions[:, 0], "indices")
        type_ = type_.with_shape(resizing.y[axis] if i == axis else size for i, size in enumerate(type_.shape))
        hint = out if axis == len(along) - 1 else f"{out}_axis{axis}"
        tensor = tr.standard("Gather", [tensor, indices], type_, hint, {"axis": axis}, name=node.name, layer=node.layer)
    tr.set(out, Value(quant=Quant(tensor, quant.params)) if quant is not None else Value(tensor=tensor))
    return True
