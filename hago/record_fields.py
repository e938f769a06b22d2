"""The fields of a record by kind: checked, and made plain values that JSON can hold."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .errors import StorageError

_WHOLE = ("id", "n_samples", "size_bytes", "threads", "instructions", "checked")
_REAL = (
    "accuracy",
    "accuracy_change",
    "expected_change",
    "p_value",
    "latency_s",
    "latency_ratio",
    "aa_ratio",
    "disturbed",
    "build_s",
    "trial_s",
)
_INTERVALS = tuple(
    f"{name}_interval" for name in ("accuracy", "accuracy_change", "latency", "latency_ratio", "aa_ratio")
)
_NUMBERS_BY_NAME = ("layer_times", "ratios", "accuracy_parts")
_TEXTS = ("label", "state", "reason", "metric", "part", "environment", "created", "device", "trouble", "clock")
_FLAGS = ("estimated",)
_REQUIRED = ("id", "label", "state", "part", "created", *_FLAGS, *_NUMBERS_BY_NAME)


def plain_fields(record: Any) -> dict[str, Any]:
    """The values of a record's fields but those that are missing: numpy's scalars and JSON's lists become plain numbers
    and tuples, so that equal records are equal. Raises StorageError naming the field."""
    found: dict[str, Any] = {}
    for names, read in _READERS:
        for name in names:
            value = getattr(record, name)
            if value is not None or name in _REQUIRED:
                found[name] = read(name, value)
    return found


def json_value(value: Any) -> Any:
    """The value as JSON can hold it: infinity, which JSON lacks, as text."""
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _whole(name: str, value: Any) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise StorageError(f"{name} must be a whole number, not {value!r}")


def _real(name: str, value: Any) -> float:
    is_infinite = isinstance(value, str) and value in ("inf", "-inf")
    if is_infinite or (isinstance(value, numbers.Real) and not isinstance(value, bool)):
        number = float(value)
        if not math.isnan(number):
            return number
    raise StorageError(f"{name} must be a number, not {value!r}")


def _interval(name: str, value: Any) -> tuple[float, float]:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        low, high = (_real(name, bound) for bound in value)
        if low <= high:
            return low, high
    raise StorageError(f"{name} must be [low, high], not {value!r}")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise StorageError(f"{name} must be text, not {value!r}")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise StorageError(f"{name} must be true or false, not {value!r}")
    return value


def _numbers_by_name(name: str, value: Any) -> Mapping[str, float]:
    if not isinstance(value, Mapping):
        raise StorageError(f"{name} must map names to numbers, not {value!r}")
    return MappingProxyType({str(key): _real(name, number) for key, number in value.items()})


_READERS = (
    (_WHOLE, _whole),
    (_REAL, _real),
    (_INTERVALS, _interval),
    (_TEXTS, _text),
    (_FLAGS, _flag),
    (_NUMBERS_BY_NAME, _numbers_by_name),
)
