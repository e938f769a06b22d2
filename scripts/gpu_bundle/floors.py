"""The least time that a kernel needs: for its bytes at the speed of a copy, and for its operations at the peak."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# Operations (two for a multiply-add) of one multiprocessor in one cycle, without sparsity: tensor cores for int8 and
# float16, fused multiply-adds for float32.
_A_CYCLE: Mapping[tuple[int, int], Mapping[str, int]] = {
    (7, 5): {"int8": 2048, "float16": 1024, "float32": 128},
    (8, 0): {"int8": 4096, "float16": 2048, "float32": 128},
    (8, 6): {"int8": 2048, "float16": 1024, "float32": 256},
    (8, 7): {"int8": 4096, "float16": 2048, "float32": 256},
    (8, 9): {"int8": 2048, "float16": 1024, "float32": 256},
    (9, 0): {"int8": 8192, "float16": 4096, "float32": 256},
}
_BYTES = {"bool": 1, "int8": 1, "uint8": 1, "float16": 2, "bfloat16": 2, "uint16": 2, "int32": 4, "float32": 4}


def peaks(about: Mapping[str, Any]) -> dict[str, float]:
    """Precision -> operations a second of the device that ``about`` describes; empty if it is not known."""
    cycle = _A_CYCLE.get(tuple(about.get("capability", ())), {})
    rate = float(about.get("multiprocessors", 0)) * float(about.get("clock_hz", 0))
    return {precision: rate * count for precision, count in cycle.items() if rate}


def row(use: Mapping[str, Any], bytes_per_s: float, operations_per_s: Mapping[str, float]) -> dict[str, Any]:
    """A kernel with its bytes, operations, and the larger of the two least times."""
    size = sum(math.prod(shape) * _BYTES.get(dtype, 8) for dtype, shape in use["tensors"])
    by_bytes = size / bytes_per_s if bytes_per_s else 0.0
    peak = operations_per_s.get(use["precision"], 0.0)
    by_operations = use["operations"] / peak if peak else 0.0
    about = {key: use[key] for key in ("layer", "family", "precision", "operations")}
    bound = "operations" if by_operations > by_bytes else "bytes"
    return {**about, "bytes": size, "floor_s": max(by_bytes, by_operations), "bound": bound}
