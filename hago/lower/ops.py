"""The operators of the domain ``hago``, version 1: their inputs and attributes. Their arithmetic is
defined by `hago.lower.reference` and described here.

Activations are uint8 with one scale and zero point per tensor, images are NHWC, weights int8 with the
output channel first, sums int32. *Requantize*:

    y = clamp(rint(float32(acc) * scale), lo - y_zero_point, hi - y_zero_point) + y_zero_point

with one rounding of the float32 product, rint half to even. The *epilogue* of an operator that makes
a sum is this for ``out = "uint8"`` (attributes y_zero_point, lo, hi), and for ``out = "float32"``
(attributes act_lo, act_hi) it is y = min(max(float32(acc) * scale, act_lo), act_hi).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ModelError
from .graph import DOMAIN, Node


@dataclass(frozen=True)
class OpSchema:
    """Names of inputs (optional ones end in ``?``, a variadic one in ``*``) and of attributes.

    ``optional`` attributes may be absent; the others are required.
    """

    inputs: tuple[str, ...]
    attrs: frozenset[str]
    optional: frozenset[str] = frozenset()


_RESIDUAL = ("r_first", "a_scale", "b_scale", "r_offset", "r_lo", "r_hi")
_EPILOGUE = ("y_zero_point", "lo", "hi", "act_lo", "act_hi")


def _schema(inputs: str, attrs: str, optional: tuple[str, ...] = ()) -> OpSchema:
    return OpSchema(tuple(inputs.split()), frozenset(attrs.split()), frozenset(optional))


SCHEMAS: Mapping[str, OpSchema] = {
    # acc = bias + sum (x - x_zero_point) * w; padding counts as x_zero_point. With mult [O, G]:
    # acc = bias + sum_g mult[o, g] * (the sum over the group_size input channels of group g).
    # table: y = table[y]. r, a residual: what QAdd makes of y and r (of r and y with r_first).
    "QConv": _schema(
        "x w bias scale mult? table? r?",
        "strides pads dilations group x_zero_point out",
        (*_EPILOGUE, *_RESIDUAL, "group_size"),
    ),
    "QGemm": _schema("x w bias scale mult? table? r?", "x_zero_point out", (*_EPILOGUE, *_RESIDUAL, "group_size")),
    "QMatMul": _schema("a b scale", "a_zero_point b_zero_point out", _EPILOGUE),
    # y = clamp(rint(fma(a, a_scale, fma(b, b_scale, offset))), lo, hi); offset holds all zero points.
    "QAdd": _schema("a b", "a_scale b_scale offset lo hi"),
    "QMul": _schema("a b", "a_zero_point b_zero_point scale out y_zero_point lo hi"),
    # y = clamp(rint(fma(x, mul, add)), lo, hi) per channel.
    "QScaleShift": _schema("x mul add", "lo hi"),
    # table uint8 [256], or float32 [256]: then y is float32.
    "QLookup": _schema("x table", ""),
    # `tables`: the indices of the inputs that go through a table; the tables follow the tensors.
    "QConcat": _schema("x*", "axis tables"),
    "QMaxPool": _schema("x", "kernel_shape strides pads dilations"),
    "QAvgPool": _schema("x", "kernel_shape strides pads dilations count_include_pad x_zero_point scale out", _EPILOGUE),
    # scale is already divided by H * W.
    "QGlobalAvgPool": _schema("x", "x_zero_point scale out", _EPILOGUE),
    # y = clamp(rint(x / scale) + zero_point, lo, hi), of x transposed by perm.
    "Quantize": _schema("x", "scale zero_point lo hi", ("perm",)),
    "Dequantize": _schema("x", "scale zero_point", ("perm",)),
    # precision bfloat16 or float16: x and w are of that type, the sum is float32. r is added before the clamp.
    # to: y is rounded to "bfloat16" or "float16" in the end.
    "Conv": _schema("x w bias r?", "strides pads dilations group act_lo act_hi precision", ("to",)),
    # activation, after the clamp: "Gelu" or "Gelu_tanh".
    "Gemm": _schema("x w bias r?", "act_lo act_hi precision", ("activation", "to")),
    "MaxPool": _schema("x", "kernel_shape strides pads dilations"),
    "AvgPool": _schema("x", "kernel_shape strides pads dilations count_include_pad"),
    "GlobalAvgPool": _schema("x", ""),
    # body: GraphProto of elementwise standard operators.
    "Fused": _schema("x*", "body"),
}


def check_node(node: Node) -> None:
    """Raises ModelError if a hago node does not match its schema; other nodes pass."""
    if node.domain != DOMAIN:
        return
    schema = SCHEMAS.get(node.op)
    if schema is None:
        raise ModelError(f"there is no operator hago.{node.op}", where=f"node {node.name!r}")
    names = set(node.attrs)
    missing, unknown = schema.attrs - names, names - schema.attrs - schema.optional
    if missing or unknown:
        raise ModelError(
            f"hago.{node.op} must have the attributes {sorted(schema.attrs)}: missing {sorted(missing)}, "
            f"unknown {sorted(unknown)}",
            where=f"node {node.name!r}",
        )
    variadic = schema.inputs[-1].endswith("*")
    required = [name for name in schema.inputs if not name.endswith(("?", "*"))]
    too_many = not variadic and len(node.inputs) > len(schema.inputs)
    if too_many or len(node.inputs) < len(required) or not all(node.inputs[: len(required)]):
        raise ModelError(
            f"hago.{node.op} takes the inputs {' '.join(schema.inputs)}, not {list(node.inputs)}",
            where=f"node {node.name!r}",
        )
    out: Any = node.attrs.get("out")
    needed = {"uint8": {"y_zero_point", "lo", "hi"}, "float32": {"act_lo", "act_hi"}, None: set()}.get(out)
    if needed is None or not needed <= names:
        raise ModelError(
            f"an epilogue to {out!r} must be uint8 with y_zero_point, lo, hi or float32 with act_lo, act_hi",
            where=f"node {node.name!r}",
        )
