"""Functions of one quantized tensor, as tables of 256 values.

A table is made by running the ONNX operator on the real values of all codes, so that a look-up gives exactly
what dequantize, operator, quantize would.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from .source import SourceNode
from .translate import Translator
from .values import Quant, Value, ValueTable

CHEAP = frozenset({"Relu", "Clip", "Neg", "Abs", "Add", "Sub", "Mul", "Min", "Max"})
COSTLY = frozenset({
    "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Gelu", "LeakyRelu", "Elu", "Selu", "Celu", "Softplus",
    "Softsign", "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Mish", "ThresholdedRelu", "Swish", "PRelu",
    "Pow", "Div", "Sin", "Cos", "Floor", "Ceil", "Round", "Sign",
})  # fmt: skip


def unary(tr: Translator, node: SourceNode) -> bool:
    """An elementwise operator of one quantized tensor and of scalar constants."""
    reals: list[np.ndarray | None] = []
    found: Quant | None = None
    costly = node.op in COSTLY
    for name in node.inputs:
        if not name:
            reals.append(None)
            continue
        constant = tr.source.constant(name)
        if constant is not None:
            if constant.array.size != 1:
                return False
            reals.append(constant.array.reshape(()))
            continue
        value = tr.value(name)
        if value.table is not None:
            quant, array, costly = value.table.quant, value.table.reals, costly or value.table.costly
        elif value.quant is not None:
            quant, array = value.quant, value.quant.params.reals()
        else:
            return False
        if found is not None and quant != found:
            return False
        found = quant
        reals.append(array)
    out = node.outputs[0]
    if found is None or not tr.integers("lookup"):
        return False
    if tr.source.type(out).shape != tr.build.types[found.tensor].shape:
        return False
    tr.set(out, Value(table=ValueTable(found, evaluate(node.op, node.attrs, reals, tr.source.opset), node, costly)))
    return True


def evaluate(op: str, attrs: Mapping[str, Any], inputs: list[np.ndarray | None], opset: int) -> np.ndarray:
    """float32 result of one standard operator on these inputs (None: absent)."""
    with np.errstate(all="ignore"):
        if op == "Relu" and inputs[0] is not None:
            return np.maximum(inputs[0], np.float32(0))
        arguments = tuple(None if a is None else (a.tobytes(), a.dtype.str, a.shape) for a in inputs)
        return _evaluate(op, tuple(sorted(attrs.items())), arguments, opset)


@lru_cache(maxsize=4096)
def _evaluate(
    op: str,
    attrs: tuple[tuple[str, Any], ...],
    arguments: tuple[tuple[bytes, str, tuple[int, ...]] | None, ...],
    opset: int,
) -> np.ndarray:
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(arguments)]
    feeds = {n: np.frombuffer(a[0], a[1]).reshape(a[2]) for n, a in zip(names, arguments, strict=True) if a is not None}
    outputs: Any = _evaluator(op, attrs, tuple(names), opset).run(None, feeds)
    result = np.asarray(outputs[0], np.float32)
    result.setflags(write=False)
    return result


@lru_cache(maxsize=256)
def _evaluator(op: str, attrs: tuple[tuple[str, Any], ...], names: tuple[str, ...], opset: int) -> ReferenceEvaluator:
    node = helper.make_node(op, names, ["y"], **dict(attrs))
    inputs = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names if n]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "table", inputs, [output])
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))
