"""Operators that only change how a value is held: QuantizeLinear, DequantizeLinear, Cast, Identity."""

from __future__ import annotations

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
    """DequantizeLinear from 8 bits per tensor: nothing is emitted until somebody needs real values."""
    params = tr.ahead.quantize_params(node)
    codes = tr.codes_of(node.inputs[0]) if params is not None else None
    if params is None or codes is None:
        return False
    tr.set(node.outputs[0], Value(quant=Quant(codes, params)))
    return True


def cast(tr: Translator, node: SourceNode) -> bool:
    """Widening a bfloat16 tensor: nothing is emitted until somebody needs float32."""
    if tr.source.type(node.inputs[0]).dtype != "bfloat16" or node.attrs["to"] != 1:
        return False
    tr.set(node.outputs[0], Value(bfloat16=tr.tensor(node.inputs[0])))
    return True


def narrow(tr: Translator, node: SourceNode) -> bool:
    """Cast of float32 to bfloat16, once per tensor."""
    if tr.source.type(node.inputs[0]).dtype != "float32" or node.attrs["to"] != 16:
        return False
    type_ = tr.source.type(node.outputs[0])
    tensor = tr.once(
        ("bfloat16", node.inputs[0]),
        lambda: tr.standard(
            "Cast",
            [tr.tensor(node.inputs[0])],
            type_,
            node.outputs[0],
            {"to": 16},
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
