"""Emitters of the anchors, the operators that do most of the work: convolutions and fully connected layers.

A node becomes one call of dense.py, depthwise.py or one of their variants for an instruction set, with its weights
packed, its zero point moved into the bias, and a fused residual; a table, an activation, or a residual that the kernel
cannot take follows as another call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from ...errors import BuildError
from ...tensor import TensorType
from ..common.anchor import bias_of, bounds_of, constant, geometry, integer_bias, roles, scale_of, zeros
from ..common.calls import KernelCall, NodeView, Template
from ..common.remembered import remembered
from .anchor_weights import Params, best_dot, pack_floats, pack_integers, pack_multiplier, per_channel
from .dense import DenseParams, dense
from .depthwise import (
    MIN_CHANNELS,
    DepthwiseParams,
    depthwise,
    half_depthwise_fits,
)
from .depthwise_bytes import depthwise_bytes
from .dot import DOTS
from .families import Isa
from .float16 import halved
from .group_scales import spread_groups
from .pairs import paired
from .registry import EMITTERS, emits
from .tiles import tiled


@emits("hago", "QConv")
def emit_qconv(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """Integer convolution: a depthwise or a dense kernel, and whatever was fused behind it."""
    node, before = spread_groups(node, isa)
    weights = constant(node, 1)
    n, h, w, c = node.type(node.inputs[0]).shape
    shape_of = geometry(node)
    groups = int(node.attrs.get("group", 1))
    if groups == c == weights.shape[0] and c >= MIN_CHANNELS and "mult" not in roles(node):
        shape: Params = DepthwiseParams("vnni", "uint8", n, h, w, c, weights.shape[1:3], **shape_of)
    else:
        kernel = weights.shape[1:3]
        shape = DenseParams("vnni", "uint8", n, h, w, c, weights.shape[0], kernel, **shape_of, groups=groups)
    return [*before, *_integer(node, isa, shape, weights)]


@emits("hago", "QGemm")
def emit_qgemm(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """Integer fully connected layer: a 1x1 convolution over the rows of x [.., K], seen as [1, 1, rows, K]."""
    node, before = spread_groups(node, isa)
    weights = constant(node, 1)
    shape = _rows(node, weights, "vnni", "uint8")
    return [*before, *_integer(node, isa, shape, weights.reshape(len(weights), 1, 1, -1))]


@emits("hago", "Conv")
def emit_conv(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """Convolution in float32, bfloat16 or float16."""
    weights = constant(node, 1)
    n, h, w, c = node.type(node.inputs[0]).shape
    shape_of, groups = geometry(node), int(node.attrs.get("group", 1))
    dot = _float_dot(node, isa)
    thin = groups == c == weights.shape[0] and c >= MIN_CHANNELS
    in_vectors = dot == "fma" or (dot == "half" and half_depthwise_fits(weights.shape[1:3]))
    if thin and in_vectors and len(node.inputs) < 4:
        shape: Params = DepthwiseParams(dot, "float32", n, h, w, c, weights.shape[1:3], **shape_of)
    else:
        kernel = weights.shape[1:3]
        shape = DenseParams(dot, "float32", n, h, w, c, weights.shape[0], kernel, **shape_of, groups=groups)
    return _float(node, isa, shape, weights)


@emits("hago", "Gemm")
def emit_gemm(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """Fully connected layer in float32, bfloat16 or float16."""
    weights = constant(node, 1)
    shape = _rows(node, weights, _float_dot(node, isa), "float32")
    return _float(node, isa, shape, weights.reshape(len(weights), 1, 1, -1))


def _integer(node: NodeView, isa: Isa, p: Params, weights: np.ndarray) -> Sequence[KernelCall]:
    """The calls of an integer anchor with weights int8 [O, KH, KW, C/G]; ``p`` names no instruction yet."""
    found = roles(node)
    attrs = node.attrs
    out = attrs.get("out", "uint8")
    multiplier = found.get("mult")
    p = replace(p, out=out)
    dot, packed, sums = pack_integers(p, isa, weights, multiplier, attrs)
    p = replace(p, dot=dot)
    if isinstance(p, DenseParams) and multiplier is not None:
        p = replace(p, group_steps=int(attrs["group_size"]) // DOTS[dot].pack)
    residual = found.get("r")
    fused = residual is not None and isinstance(p, DenseParams)
    if isinstance(p, DenseParams):
        p = replace(p, residual=("first" if attrs["r_first"] else "second") if fused else "")
    channels = len(weights)
    zero_x, zero_y = int(attrs["x_zero_point"]), int(attrs.get("y_zero_point", 0))
    weight_sums = sums.sum(-1)
    if multiplier is not None:
        size = int(attrs["group_size"])
        weight_sums = (np.add.reduceat(sums, range(0, sums.shape[1], size), axis=1) * multiplier).sum(1)
    bias = integer_bias(node, weight_sums, zero_x - DOTS[dot].shift)
    inputs: list[Any] = [node.inputs[0], packed, per_channel(bias, p, isa)]
    inputs += [per_channel(scale_of(node, channels), p, isa), zeros(zero_x, zero_y), bounds_of(node, fused)]
    if multiplier is not None:
        inputs.append(pack_multiplier(multiplier, p, isa))
    if fused:
        inputs.append(residual)
    calls, temporaries = [], {}
    y_type = node.type(node.outputs[0])
    result = node.outputs[0]
    behind = [name for name in ("table", "r") if name in found and not (name == "r" and fused)]
    if behind:
        result = f"{node.outputs[0]}:accumulated"
        temporaries[result] = TensorType("uint8", y_type.shape)
    calls.append(_call(p, node, inputs, result, temporaries))
    for index, name in enumerate(behind):
        target = node.outputs[0] if index == len(behind) - 1 else f"{result}:{name}"
        view = _behind(node, name, found, result, target)
        follow = [_with_constants(call, view) for call in EMITTERS["hago", view.op](view, isa)]
        if target != node.outputs[0]:
            last = follow[-1]
            follow = [
                *follow[:-1],
                replace(last, temporaries={**last.temporaries, target: temporaries[result]}),
            ]
        calls.extend(follow)
        result = target
    return calls


def _with_constants(call: KernelCall, view: NodeView) -> KernelCall:
    """The call with constants in place of their names, which the graph does not know."""
    inputs = tuple(view.constants.get(i, i) if isinstance(i, str) else i for i in call.inputs)
    return replace(call, inputs=inputs)


def _behind(node: NodeView, name: str, roles: dict[str, Any], source: str, target: str) -> NodeView:
    """A fused table or residual that the kernel cannot take, as the node that it would be."""
    shape = node.type(node.outputs[0]).shape
    types = {**node.types, source: TensorType("uint8", shape), target: TensorType("uint8", shape)}
    a = node.attrs
    if name == "table":
        table = f"{node.name}:table"
        types[table] = TensorType("uint8", (256,))
        constants = {table: np.asarray(roles["table"], np.uint8)}
        view = NodeView(f"{node.name}:table", "QLookup", "hago", (source, table), (target,), {}, types, constants)
    else:
        attrs = {
            "a_scale": a["a_scale"], "b_scale": a["b_scale"], "offset": a["r_offset"], "lo": a["r_lo"], "hi": a["r_hi"],
        }  # fmt: skip
        inputs = (roles["r"], source) if a["r_first"] else (source, roles["r"])
        view = NodeView(f"{node.name}:add", "QAdd", "hago", inputs, (target,), attrs, types, node.constants)
    return replace(view, layer=node.layer)


def _float(node: NodeView, isa: Isa, p: Params, weights: np.ndarray) -> Sequence[KernelCall]:
    """The calls of a float anchor with weights [O, KH, KW, C/G], and an activation behind it."""
    residual = node.inputs[3] if len(node.inputs) > 3 and node.inputs[3] else None
    if weights.dtype == ml_dtypes.bfloat16:
        weights = weights.view(np.uint16)
    if isinstance(p, DenseParams):
        p = replace(p, residual="second" if residual is not None else "")
        p = replace(p, dot=best_dot(p, isa))
    packed = remembered(weights, (p, isa), lambda w: pack_floats(w, p, isa))
    bias = bias_of(node, len(weights), np.float32)
    inputs: list[Any] = [node.inputs[0], packed[0], per_channel(bias, p, isa), *packed[1:], bounds_of(node)]
    if residual is not None:
        inputs.append(residual)
    activation = node.attrs.get("activation", "")
    if not activation:
        return [_call(p, node, inputs, node.outputs[0], {})]
    before = f"{node.outputs[0]}:linear"
    y_type = node.type(node.outputs[0])
    op, _, approximate = activation.partition("_")
    attrs = {"approximate": approximate or "none"} if op == "Gelu" else {}
    types = {**node.types, before: y_type}
    view = NodeView(f"{node.name}:{op}", op, "", (before,), node.outputs, attrs, types, {}, node.layer)
    return [_call(p, node, inputs, before, {before: y_type}), *EMITTERS["", op](view, isa)]


def _call(p: Params, node: NodeView, inputs: list[Any], output: str, temporaries: dict[str, TensorType]) -> KernelCall:
    template = _template(p)
    return KernelCall(template.__name__, p, template, tuple(inputs), (output,), node.layer, temporaries)


def _template(p: Params) -> Template:
    dot = DOTS[p.dot]
    if isinstance(p, DepthwiseParams):
        return depthwise_bytes if dot.narrow else depthwise
    return tiled if dot.tiles else paired if dot.pairs else halved if dot.half else dense


def _rows(node: NodeView, weights: np.ndarray, dot: str, out: str) -> DenseParams:
    x, y = node.type(node.inputs[0]).shape, node.type(node.outputs[0]).shape
    rows, columns = int(np.prod(x[:-1], dtype=np.int64)), x[-1]
    return DenseParams(dot, out, 1, 1, rows, columns, len(weights), x_shape=x, y_shape=y)


def _float_dot(node: NodeView, isa: Isa) -> str:
    precision = node.attrs.get("precision", "float32")
    dot = {"bfloat16": isa.bf16_dot, "float16": isa.fp16_dot}.get(precision, "fma")
    if not dot:
        raise BuildError(f"{isa.name} has no instruction for {precision}", where=f"node {node.name!r}")
    return dot
