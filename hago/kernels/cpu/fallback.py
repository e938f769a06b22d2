"""Operators without a kernel here, by TVM's lowering (`hago.kernels.common.fallback`): one function, one thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..common.calls import KernelCall, NodeView
from ..common.fallback import Fallback, function_of, plan_fallback
from ..common.plans import planned
from .families import Isa
from .registry import TEMPLATES, computes


@computes(Fallback)
def fallback(params: Fallback, isa: Isa, threads: int) -> Any:
    """The function that TVM made; it runs in one thread."""
    return function_of(params)


def emit_fallback(node: NodeView, isa: Isa) -> Sequence[KernelCall]:
    """Calls of the kernels that TVM lowers the node to.

    Raises UnsupportedOpError for an operator of another domain, or one that TVM does not know either.
    """
    return planned(plan_fallback(node, "cpu"), node, TEMPLATES)
