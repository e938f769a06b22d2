"""Sums of products: convolution, fully connected and MatMul, on integers, short floats and float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..tensor import TensorType
from .lookahead import FusedEpilogue, along_axis
from .source import Constant, SourceNode
from .translate import Translator
from .values import Quant, Value
from .weights import IntegerWeight, integer_weight, sum_fits, with_integer_bias


def window(
    node: SourceNode, in_shape: Sequence[int], kernel: Sequence[int], out_shape: Sequence[int]
) -> dict[str, Any]:
    """strides, pads (t, l, b, r), dilations of a sliding window, always two-dimensional.

    auto_pad and ceil_mode are resolved from the output's shape; one-dimensional windows get H = 1.
    """
    spatial = len(in_shape) - 2
    strides = tuple(node.attrs.get("strides") or (1,) * spatial)
    dilations = tuple(node.attrs.get("dilations") or (1,) * spatial)
    pads = list(node.attrs.get("pads") or (0,) * 2 * spatial)
    auto = node.attrs.get("auto_pad", "NOTSET")
    for axis in range(spatial):
        reach = (out_shape[2 + axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        needed = reach - in_shape[2 + axis]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = max(needed, 0)
            small, large = total // 2, total - total // 2
            pads[axis], pads[spatial + axis] = (small, large) if auto == "SAME_UPPER" else (large, small)
        elif auto == "NOTSET":
            # More than the node says only in ceil_mode; never less, as windows may leave a remainder unread.
            pads[spatial + axis] = max(pads[spatial + axis], needed - pads[axis])
    if spatial == 1:
        strides, dilations = (1, *strides), (1, *dilations)
        pads = [0, pads[0], 0, pads[1]]
    return {"strides": strides, "pads": tuple(pads), "dilations": dilations}


def accumulator(
    tr: Translator, op: str, node: SourceNode, epilogue: FusedEpilogue, inputs: list[str], attrs: dict[str, Any],
    factor: np.ndarray | float,
) -> None:  # fmt: skip
    """Emits an integer op with the common epilogue; real result = acc * factor * epilogue.factor.

    ``inputs`` has "" in the position of the scale, or no such position: then ``scale`` is an attribute. Products and
    quotients of scales are computed in float32, step by step, as ONNX Runtime does, to get the same codes.
    """
    scale = np.asarray(factor, np.float32)
    if epilogue.factor != 1.0:
        scale = (scale * np.float64(epilogue.factor)).astype(np.float32)
    type_ = tr.source.type(epilogue.out)
    params = tr.ahead.target(epilogue.out)
    if params is not None:
        scale = scale / params.scale
        low, high = params.clamp_code(epilogue.low), params.clamp_code(epilogue.high)
        attrs |= {"out": "uint8", "y_zero_point": params.zero_point, "lo": low, "hi": high}
        type_ = TensorType("uint8", type_.shape)
    else:
        attrs |= {"out": "float32", "act_lo": epilogue.low, "act_hi": epilogue.high}
    if scale.ndim:
        inputs[3 if op in ("QConv", "QGemm") else 2] = tr.build.constant(scale, f"{node.name}_scale")
    else:
        attrs["scale"] = float(scale)
    hint = f"{epilogue.out}_u8" if params is not None else epilogue.out
    output = tr.hago(op, node, inputs, type_, hint, attrs)
    tr.finish(epilogue, Value(quant=Quant(output, params)) if params is not None else Value(tensor=output))


@dataclass(frozen=True)
class _Anchor:
    """A convolution or product to be emitted: ``alpha`` * (x * weight) + ``bias`` [O] (real), then ``epilogue``."""

    node: SourceNode
    epilogue: FusedEpilogue
    bias: np.ndarray | None
    attrs: dict[str, Any] = field(default_factory=dict)
    alpha: float = 1.0


def _integer_anchor(tr: Translator, op: str, anchor: _Anchor, x: Quant, weight: IntegerWeight) -> bool:
    """Emits QConv or QGemm. False if int32 cannot hold the sums."""
    node, epilogue, bias, attrs = anchor.node, anchor.epilogue, anchor.bias, dict(anchor.attrs)
    factor: np.ndarray = weight.scale * x.params.scale  # float32: see `accumulator`
    if anchor.alpha != 1.0:
        factor = factor * np.float64(anchor.alpha)
    real = np.zeros(weight.codes.shape[0]) if bias is None else bias.astype(np.float64)
    if epilogue.bias is not None:
        real = real + epilogue.bias
    fitted = with_integer_bias(weight.codes, factor, real)
    if fitted is None:
        return False
    codes, exact, stored = fitted
    if not sum_fits(codes, stored, x.params.zero_point, weight.mult):
        return False
    factor = exact[:1] if factor.size == 1 and (exact == exact[0]).all() else exact
    inputs = [
        x.tensor,
        tr.build.constant(codes, f"{node.name}_weight"),
        tr.build.constant(stored, f"{node.name}_bias"),
        "",
    ]
    attrs["x_zero_point"] = x.params.zero_point
    if weight.mult is not None:
        inputs.append(tr.build.constant(weight.mult, f"{node.name}_mult"))
        attrs["group_size"] = weight.group_size
    accumulator(tr, op, node, epilogue, inputs, attrs, factor)
    return True


def _bias_scale(bias: Constant | None, x: Quant) -> np.ndarray | None:
    """The weight scale [O] that an int32 bias was quantized with; None for another bias."""
    if bias is None or bias.codes is None or bias.codes.block_size or bias.codes.scale.size == 1:
        return None
    return bias.codes.scale.reshape(-1) / x.params.scale


def _float_anchor(tr: Translator, op: str, anchor: _Anchor, x: str, weight: np.ndarray, precision: str) -> bool:
    """Emits Conv or Gemm; ``weight``, which holds ``alpha``, and ``x`` are of that precision."""
    node, epilogue, bias = anchor.node, anchor.epilogue, anchor.bias
    total = np.zeros(weight.shape[0], np.float32) if bias is None else bias.astype(np.float32)
    if epilogue.bias is not None:
        total = total + epilogue.bias.astype(np.float32)
    inputs = [
        x,
        tr.build.constant(weight, f"{node.name}_weight"),
        tr.build.constant(np.ascontiguousarray(total), f"{node.name}_bias"),
    ]
    attrs = {**anchor.attrs, "act_lo": epilogue.low, "act_hi": epilogue.high, "precision": precision}
    output = tr.hago(op, node, inputs, tr.source.type(epilogue.out), epilogue.out, attrs)
    tr.finish(epilogue, Value(tensor=output))
    return True


def _float_operands(
    tr: Translator, kind: str, name: str, weight: Constant, short: bool = True
) -> tuple[str, np.ndarray, str]:
    """Input, weight and precision: a short float if input, weight and hardware have it, else float32."""
    x = tr.value(name).short if short else None
    if x is not None and weight.short is not None:
        precision = tr.build.types[x].dtype
        if weight.short.dtype.name == precision and tr.offers(kind, precision):
            return x, weight.short, precision
    return tr.tensor(name), weight.array, "float32"


def conv(tr: Translator, node: SourceNode) -> bool:
    """Conv over 1 or 2 spatial dimensions with a constant weight."""
    shape, weight = tr.source.shape(node.inputs[0]), tr.source.constant(node.inputs[1])
    bias = tr.source.constant(node.input(2)) if node.input(2) else None
    if weight is None or len(shape) not in (3, 4) or (node.input(2) and bias is None):
        return False
    w_shape = tr.source.shape(node.inputs[1])
    group = node.attrs.get("group", 1)
    attrs = window(node, shape, w_shape[2:], tr.source.shape(node.outputs[0])) | {"group": group}
    epilogue = tr.ahead.epilogue(node, bias_axis=1)
    anchor = _Anchor(node, epilogue, None if bias is None else bias.exact, attrs)
    x = tr.quant(node.inputs[0])
    kind = "depthwise_conv" if group > 1 and group == shape[1] else "conv"
    if x is not None and weight.codes is not None and tr.integers(kind):
        whole = integer_weight(weight.codes, 0, 1, _bias_scale(bias, x))
        if whole is not None:
            whole = IntegerWeight(_channels_last(whole.codes), whole.scale, whole.mult, whole.group_size)
            if _integer_anchor(tr, "QConv", anchor, x, whole):
                return True
    source, real, precision = _float_operands(tr, kind, node.inputs[0], weight)
    return _float_anchor(tr, "Conv", anchor, source, _channels_last(real), precision)


def _channels_last(weight: np.ndarray) -> np.ndarray:
    """[O, C/g, (KH,) KW] -> [O, KH, KW, C/g]; a view."""
    if weight.ndim == 3:
        weight = weight[:, :, None, :]
    return weight.transpose(0, 2, 3, 1)


def gemm(tr: Translator, node: SourceNode) -> bool:
    """Gemm with constant weight and bias, x not transposed."""
    return _fully_connected(tr, node, bool(node.attrs.get("transB", 0)))


def _fully_connected(tr: Translator, node: SourceNode, transposed: bool) -> bool:
    weight = tr.source.constant(node.inputs[1])
    shape, w_shape = tr.source.shape(node.inputs[0]), tr.source.shape(node.inputs[1])
    if weight is None or len(w_shape) != 2 or len(shape) < 2 or node.attrs.get("transA", 0):
        return False
    alpha, beta = node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)
    bias = tr.source.constant(node.input(2)) if node.input(2) else None
    values = None
    if node.input(2):
        array = None if bias is None else along_axis(bias.exact, tr.source.shape(node.outputs[0]), -1)
        if array is None:
            return False
        values = array * beta if beta != 1.0 else array
    out_axis = 0 if transposed else 1
    epilogue = tr.ahead.epilogue(node, bias_axis=-1)
    if bias is None and epilogue.bias is not None:
        bias = _epilogue_bias(tr, epilogue)
    anchor = _Anchor(node, epilogue, values, alpha=alpha)
    x = tr.quant(node.inputs[0])
    if x is not None and weight.codes is not None and alpha > 0 and tr.integers("fully_connected"):
        whole = integer_weight(weight.codes, out_axis, 1 - out_axis, _bias_scale(bias, x))
        if whole is not None and _integer_anchor(tr, "QGemm", anchor, x, whole):
            return True
    source, real, precision = _float_operands(tr, "fully_connected", node.inputs[0], weight, alpha == 1.0)
    if alpha != 1.0:
        real = real * np.float32(alpha)
    real = real if transposed else real.T
    return _float_anchor(tr, "Gemm", anchor, source, real, precision)


def _epilogue_bias(tr: Translator, epilogue: FusedEpilogue) -> Constant | None:
    """The constant of the Add that follows a MatMul: its scale shows how the bias was quantized."""
    first = epilogue.nodes[0]
    return next((c for name in first.inputs if (c := tr.source.constant(name)) is not None), None)


def matmul(tr: Translator, node: SourceNode) -> bool:
    """MatMul: with a constant [K, N] it is fully connected; of two quantized tensors, QMatMul."""
    if tr.source.constant(node.inputs[1]) is not None and len(tr.source.shape(node.inputs[1])) == 2:
        return _fully_connected(tr, node, transposed=False)
    shapes = [tr.source.shape(name) for name in node.inputs]
    if min(len(shape) for shape in shapes) < 2 or not tr.integers("matmul"):
        return False
    a, b = tr.quant(node.inputs[0]), tr.quant(node.inputs[1])
    if a is None or b is None or shapes[0][-1] * 255 * 255 >= 2**31:
        return False
    epilogue = tr.ahead.epilogue(node, factor=True)
    attrs = {"a_zero_point": a.params.zero_point, "b_zero_point": b.params.zero_point}
    factor = np.array([a.params.scale * b.params.scale])
    accumulator(tr, "QMatMul", node, epilogue, [a.tensor, b.tensor, ""], attrs, factor)
    return True
