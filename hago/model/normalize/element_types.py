"""Element types: what the tensors of a network may contain."""

from __future__ import annotations

import onnx_ir as ir

from ...errors import ModelError
from .quantizers import FLOAT8, SUB_BYTE


def check_types(graph: ir.Graph, where: str) -> None:
    """Raises ModelError for a tensor whose element type cannot be computed with.

    4 and 2 bits are allowed between QuantizeLinear and DequantizeLinear, and in constants; 8-bit floats in constants.
    """
    for side, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            if value.dtype in (*SUB_BYTE, *FLOAT8):
                raise _refused(value, f"{side} {value.name!r}", f"an {side} of the network cannot have", where)
    for node in graph:
        for value in node.outputs:
            cast = value.dtype in SUB_BYTE and node.op_type == "Cast"
            if value.dtype in FLOAT8 or cast:
                at = f"tensor {value.name!r} of {node.op_type} {node.name!r}"
                verb = "cannot be cast to" if cast else "cannot be computed in"
                raise _refused(value, at, f"it {verb}", where)


def _refused(value: ir.Value, at: str, what: str, where: str) -> ModelError:
    assert value.dtype is not None
    return ModelError(
        f"{what} element type {value.dtype.name.lower()}",
        where=f"{where}, {at}",
        hint="quantize activations to 8 or 16 bits; only constants may have fewer, or be 8-bit floats",
    )
