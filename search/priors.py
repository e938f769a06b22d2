"""What precisions take and lose as a rule, where nothing has been measured yet: relative to each other, no more."""

from __future__ import annotations

_TIMES = {"int8": 0.4, "int7": 0.4, "bfloat16": 0.7, "float16": 0.7}
_NOISES = {"int7": 4.0, "bfloat16": 0.02, "float16": 0.001}
_KINDS = {"per_tensor": 2.0, "per_group": 0.7}
_STORED_BITS = {"float32": 32, "bfloat16": 16, "float16": 16}


def typical_time(precision: str) -> float:
    """Time over float32's."""
    return _TIMES.get(precision, 1.0)


def typical_noise(precision: str, kind: str = "") -> float:
    """Loss over that of int8 per channel; ``kind`` is the granularity's. Half a bit of range is a factor 2."""
    return _NOISES.get(precision, 1.0) * _KINDS.get(kind, 1.0)


def stored_bits(precision: str) -> int:
    """Bits that one weight takes where it is stored: seven are stored in eight."""
    return _STORED_BITS.get(precision, 8)
