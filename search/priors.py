"""Typical time and loss of precisions, relative to each other, until something has been measured."""

from __future__ import annotations

from ..precision import Precision

_SHORT_FLOAT_NOISE = {"bfloat16": 0.02, "float16": 0.001}
_KINDS = {"per_tensor": 2.0, "per_group": 0.7}


def typical_time(precision: str) -> float:
    """Time over float32's."""
    numbers = Precision.named(precision)
    return 0.4 if numbers.is_integer else 0.7 if numbers.is_short_float else 1.0


def typical_noise(precision: str, kind: str = "") -> float:
    """Loss over that of int8 per channel; ``kind`` is the granularity's. Half a bit of range is a factor 2."""
    weights = Precision.named(precision).weights
    noise = 4.0 ** (8 - weights.bits) if weights.is_integer else _SHORT_FLOAT_NOISE.get(weights.kind, 1.0)
    return noise * _KINDS.get(kind, 1.0)


def stored_bits(precision: str) -> int:
    """Bits that one stored weight takes: five to seven bits are stored in eight."""
    weights = Precision.named(precision).weights
    return 8 if weights.is_integer and weights.bits > 4 else weights.bits
