"""Operators without a kernel here, by TVM's lowering (`hago.kernels.common.fallback`).

16-bit floats are computed as float32: TVM's code for them needs a header of CUDA's, and sums in 16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from ...tensor import TensorType
from ..common.calls import KernelCall, NodeView
from ..common.elements import HALF
from ..common.fallback import Fallback, function_of, plan_fallback
from ..common.fused import single_body
from ..common.plans import Plan, planned
from .families import Gpu
from .launches import launches
from .registry import TEMPLATES, computes


@computes(Fallback)
def fallback(params: Fallback, gpu: Gpu, threads: int) -> Any:
    """One nest of loops of the function that TVM made."""
    return function_of(params)


def emit_fallback(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """Calls of the kernels that TVM lowers the node to.

    Raises UnsupportedOpError for an operator of another domain, one that TVM does not know either, or one whose code
    does not run on GPUs.
    """
    halves = [name for name in dict.fromkeys((*node.inputs, *node.outputs)) if name and node.type(name).dtype in HALF]
    plans = _in_float32(node, halves) if halves else plan_fallback(node, "cuda", launches)
    return planned(plans, node, TEMPLATES)


def _in_float32(node: NodeView, halves: Sequence[str]) -> list[Plan]:
    """The node with these tensors as float32."""
    wide = {name: f"{name}:float32" for name in halves}
    types = {new: TensorType("float32", node.type(name).shape) for name, new in wide.items()}
    view = replace(
        node,
        inputs=tuple(wide.get(name, name) for name in node.inputs),
        outputs=tuple(wide.get(name, name) for name in node.outputs),
        types={**node.types, **types},
        constants={wide.get(n, n): c.astype(np.float32) if n in wide else c for n, c in node.constants.items()},
    )
    before = [
        _cast(view, name, wide[name], TensorProto.FLOAT)
        for name in halves
        if name in node.inputs and node.constant(name) is None
    ]
    found = plan_fallback(view, "cuda", launches)
    made = {name: types[name] for name in view.outputs if name in types}
    found[-1] = replace(found[-1], temporaries={**found[-1].temporaries, **made})
    code = {name: helper.np_dtype_to_tensor_dtype(np.dtype(node.type(name).dtype)) for name in halves}
    return [*before, *found, *(_cast(view, wide[n], n, code[n]) for n in halves if n in node.outputs)]


def _cast(view: NodeView, source: str, target: str, code: int) -> Plan:
    one = replace(view, op="Cast", domain="", inputs=(source,), outputs=(target,), attrs={"to": code}, constants={})
    params, sources = single_body(one)
    new = {target: view.type(target)} if target.endswith(":float32") else {}
    return Plan("elementwise", params, sources, (target,), new)
