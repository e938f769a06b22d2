"""The numpy reference of every hago op, and of a whole lowered graph.

The operators are `onnx.reference` ops of the domain ``hago``; standard operators run in ONNX's own
reference. Integer results are exact; float results have numpy's order of summation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from . import arithmetic as ar
from .graph import DOMAIN, LoweredGraph

Array = np.ndarray


class _HagoOp(OpRun):
    op_domain = DOMAIN


class QConv(_HagoOp):
    """Convolution of uint8 NHWC by int8 OHWI, sums int32."""

    def _run(self, x, w, bias, scale, mult=None, table=None, r=None, **attrs):  # type: ignore[no-untyped-def]
        return (ar.finish(ar.integer_conv(x, w, bias, mult, attrs), scale, table, r, attrs),)


class QGemm(_HagoOp):
    """Fully connected layer in integers."""

    def _run(self, x, w, bias, scale, mult=None, table=None, r=None, **attrs):  # type: ignore[no-untyped-def]
        return (ar.finish(ar.integer_gemm(x, w, bias, mult, attrs), scale, table, r, attrs),)


class QMatMul(_HagoOp):
    """Product of two quantized activations."""

    def _run(self, a, b, scale, **attrs):  # type: ignore[no-untyped-def]
        dtype = ar.exact_dtype(a.shape[-1], 255 * 255)
        left = a.astype(dtype) - dtype(attrs["a_zero_point"])
        right = b.astype(dtype) - dtype(attrs["b_zero_point"])
        return (ar.epilogue((left @ right).astype(np.int32), scale, attrs),)


class QAdd(_HagoOp):
    """Sum of two quantized tensors."""

    def _run(self, a, b, **attrs):  # type: ignore[no-untyped-def]
        numbers = attrs["a_scale"], attrs["b_scale"], attrs["offset"], attrs["lo"], attrs["hi"]
        return (ar.weighted_sum(a, b, *numbers),)


class QMul(_HagoOp):
    """Product of two quantized tensors, element by element."""

    def _run(self, a, b, **attrs):  # type: ignore[no-untyped-def]
        left = a.astype(np.int32) - attrs["a_zero_point"]
        right = b.astype(np.int32) - attrs["b_zero_point"]
        return (ar.epilogue(left * right, np.float32(attrs["scale"]), attrs),)


class QScaleShift(_HagoOp):
    """A factor and a summand for each channel."""

    def _run(self, x, mul, add, **attrs):  # type: ignore[no-untyped-def]
        real = np.clip(ar.fma(x.astype(np.float32), mul, add), attrs["lo"], attrs["hi"])
        return (np.rint(real).astype(np.uint8),)


class QLookup(_HagoOp):
    """A table of 256 entries applied to every code."""

    def _run(self, x, table, **attrs):  # type: ignore[no-untyped-def]
        return (table[x],)


class QConcat(_HagoOp):
    """Concatenation of codes, each input through its table, if it has one."""

    def _run(self, *inputs, axis, tables, **attrs):  # type: ignore[no-untyped-def]
        count = len(inputs) - len(tables)
        parts = list(inputs[:count])
        for index, table in zip(tables, inputs[count:], strict=True):
            parts[index] = table[parts[index]]
        return (np.concatenate(parts, axis=axis),)


def _max_pool(x: Array, lowest: Any, attrs: Mapping[str, Any]) -> Array:
    padded = ar.pad_image(x, attrs["pads"], lowest)
    return ar.windows(padded, attrs["kernel_shape"], attrs["strides"], attrs["dilations"]).max(axis=(3, 4))


class QMaxPool(_HagoOp):
    """Maximum over windows of codes."""

    def _run(self, x, **attrs):  # type: ignore[no-untyped-def]
        return (_max_pool(x, 0, attrs),)


class MaxPool(_HagoOp):
    """Maximum over windows of floats."""

    def _run(self, x, **attrs):  # type: ignore[no-untyped-def]
        return (_max_pool(x, -np.inf, attrs),)


class QAvgPool(_HagoOp):
    """Average over windows of codes."""

    def _run(self, x, **attrs):  # type: ignore[no-untyped-def]
        padded = ar.pad_image(x.astype(np.int32) - attrs["x_zero_point"], attrs["pads"], 0)
        view = ar.windows(padded, attrs["kernel_shape"], attrs["strides"], attrs["dilations"])
        counts = ar.window_counts(x.shape, attrs)[..., None]
        scale = (np.float64(np.float32(attrs["scale"])) / counts).astype(np.float32)
        return (ar.epilogue(view.sum(axis=(3, 4)), scale, attrs),)


class AvgPool(_HagoOp):
    """Average over windows of floats."""

    def _run(self, x, **attrs):  # type: ignore[no-untyped-def]
        padded = ar.pad_image(x, attrs["pads"], 0)
        view = ar.windows(padded, attrs["kernel_shape"], attrs["strides"], attrs["dilations"])
        counts = ar.window_counts(x.shape, attrs)[..., None].astype(np.float32)
        return (view.sum(axis=(3, 4)) / counts,)


class QGlobalAvgPool(_HagoOp):
    """Average over a whole image of codes."""

    def _run(self, x, **attrs):  # type: ignore[no-untyped-def]
        acc = (x.astype(np.int32) - attrs["x_zero_point"]).sum(axis=(1, 2), keepdims=True)
        return (ar.epilogue(acc, np.float32(attrs["scale"]), attrs),)


class GlobalAvgPool(_HagoOp):
    """Average over a whole image of floats."""

    def _run(self, x, **attrs):  # type: ignore[no-untyped-def]
        return (x.mean(axis=(1, 2), keepdims=True),)


class Quantize(_HagoOp):
    """Codes of real values."""

    def _run(self, x, **attrs):  # type: ignore[no-untyped-def]
        zero, perm = attrs["zero_point"], attrs.get("perm")
        rounded = np.rint(x / np.float32(attrs["scale"]))
        y = (np.clip(rounded, attrs["lo"] - zero, attrs["hi"] - zero).astype(np.int32) + zero).astype(np.uint8)
        return (y.transpose(perm) if perm else y,)


class Dequantize(_HagoOp):
    """Real values of codes."""

    def _run(self, x, **attrs):  # type: ignore[no-untyped-def]
        perm = attrs.get("perm")
        y = (x.astype(np.int32) - attrs["zero_point"]).astype(np.float32) * np.float32(attrs["scale"])
        return (y.transpose(perm) if perm else y,)


def _clamp(y: Array, attrs: Mapping[str, Any]) -> Array:
    return np.minimum(np.maximum(y, np.float32(attrs["act_lo"])), np.float32(attrs["act_hi"]))


class Conv(_HagoOp):
    """Convolution of floats, NHWC."""

    def _run(self, x, w, bias, r=None, **attrs):  # type: ignore[no-untyped-def]
        padded = ar.pad_image(x.astype(np.float32), attrs["pads"], 0)
        y = ar.conv_sums(padded, w.astype(np.float32), attrs, np.float32) + bias
        return (_rounded(_clamp(y if r is None else y + r, attrs), attrs),)


class Gemm(_HagoOp):
    """Fully connected layer in floats."""

    def _run(self, x, w, bias, r=None, **attrs):  # type: ignore[no-untyped-def]
        y = x.astype(np.float32) @ w.T.astype(np.float32) + bias
        y = _clamp(y if r is None else y + r, attrs)
        activation = attrs.get("activation")
        return (_rounded(y if not activation else _activation(activation, y), attrs),)


def _rounded(y: Array, attrs: Mapping[str, Any]) -> Array:
    to = attrs.get("to")
    return y if not to else y.astype(ml_dtypes.bfloat16 if to == "bfloat16" else to)


def _activation(name: str, x: Array) -> Array:
    """float32 result of the standard operator behind a Gemm's ``activation``."""
    op, _, approximate = name.partition("_")
    node = helper.make_node(op, ["x"], ["y"], **({"approximate": approximate} if approximate else {}))
    return _standard(onnx.helper.make_graph([node], "activation", [_any("x")], [_any("y")]), [x])[0]


def _any(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


def _standard(graph: onnx.GraphProto, inputs: list[Array]) -> list[Array]:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    names = [i.name for i in graph.input]
    results: Any = ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))
    return results


class Fused(_HagoOp):
    """The body's inputs are the node's inputs, in order."""

    def __init__(self, onnx_node: onnx.NodeProto, run_params: dict[str, Any], schema: Any = None) -> None:
        super().__init__(onnx_node, run_params, schema)
        self.graph = next(a.g for a in onnx_node.attribute if a.name == "body")

    def _run(self, *inputs, **attrs):  # type: ignore[no-untyped-def]
        return tuple(_standard(self.graph, list(inputs)))


OPS: tuple[type[OpRun], ...] = tuple(_HagoOp.__subclasses__())


class Reference:
    """Runs a lowered graph in numpy: ``reference(lowered)(feeds)`` -> outputs in the graph's order."""

    def __init__(self, lowered: LoweredGraph) -> None:
        self.graph = lowered
        self._evaluator = ReferenceEvaluator(lowered.proto, new_ops=list(OPS))

    def __call__(self, feeds: Mapping[str, Array]) -> list[Array]:
        """The outputs, for one array per graph input."""
        outputs: Any = self._evaluator.run(None, dict(feeds))
        return outputs

    def tensors(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every tensor of the graph by name: inputs, constants, intermediate ones, outputs."""
        tensors: Any = self._evaluator.run(None, dict(feeds), intermediate=True)
        return tensors


def reference(lowered: LoweredGraph) -> Reference:
    """The numpy reference of a lowered graph."""
    return Reference(lowered)
