"""Operators that only change how a value is represented: QuantizeLinear, DequantizeLinear, Cast, Identity."""

from __future__ import annotations

from ..precision import SHORT_FLOATS
from .source import SourceNode
from .translate import Translator
from .values import Quant, Value


def quantize_linear(tr: Translator, node: SourceNode) -> bool:
    """QuantizeLinear to 8 bits per tensor."""
    params = tr.ahead.quantize_params(node)
    if params is None or tr.source.type(node.inputs[0]).dtype != "float32":
        return False
    signed = tr.source.type(node.outputs[0]).dtype == "int8"
    tr.set(node.outputs[0], Value(codes=tr.quantized(node.inputs[0], params, node.layer), signed=signed))
    return True


def dequantize_linear(tr: Translator, node: SourceNode) -> bool:
    """DequantizeLinear from 8 bits per tensor: nothing is emitted until an operator needs real values."""
    params = tr.ahead.quantize_params(node)
    codes = tr.codes_of(node.inputs[0]) if params is not None else None
    if params is None or codes is None:
        return False
    tr.set(node.outputs[0], Value(quant=Quant(codes, params)))
    return True


def cast(tr: Translator, node: SourceNode) -> bool:
    """Widening a short float: nothing is emitted until an operator needs float32."""
    if tr.source.type(node.inputs[0]).dtype not in SHORT_FLOATS or node.attrs["to"] != 1:
        return False
    tr.set(node.outputs[0], Value(short=tr.tensor(node.inputs[0])))
    return True


def narrow(tr: Translator, node: SourceNode) -> bool:
    """Cast of float32 to a short float, once per tensor."""
    type_ = tr.source.type(node.outputs[0])
    if tr.source.type(node.inputs[0]).dtype != "float32" or type_.dtype not in SHORT_FLOATS:
        return False
    tensor = tr.once(
        (type_.dtype, node.inputs[0]),
        lambda: tr.standard(
            "Cast",
            [tr.tensor(node.inputs[0])],
            type_,
            node.outputs[0],
            {"to": node.attrs["to"]},
            name=node.name,
            layer=node.layer,
        ),
    )
    tr.set(node.outputs[0], Value(tensor=tensor))
    return True


def identity(tr: Translator, node: SourceNode) -> bool:
    """Identity: another name for the same value."""
    if tr.source.constant(node.inputs[0]) is not None:
        return False
    tr.set(node.outputs[0], tr.value(node.inputs[0]))
    return True
