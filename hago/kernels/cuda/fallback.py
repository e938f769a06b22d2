"""Operators that have no kernel here."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import UnsupportedOpError
from ..common.calls import KernelCall, NodeView
from .families import Gpu


def emit_fallback(node: NodeView, gpu: Gpu) -> Sequence[KernelCall]:
    """Raises UnsupportedOpError: there is no kernel for the operator."""
    raise UnsupportedOpError(f"operator {node.op!r} has no kernel for {gpu.name}", where=f"node {node.name!r}")
