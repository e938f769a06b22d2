"""Checks arguments: numbers of any library, paths, and lists as written on the command line.

Every check returns the value as a plain Python type, or raises ``error`` with one sentence that names the argument.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
from collections.abc import Iterable
from typing import Any

from .errors import HagoError, SearchError


def whole(name: str, value: Any, least: int, error: type[HagoError] = SearchError) -> int:
    """A whole number of at least ``least``."""
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < least:
        raise error(f"{name} must be a whole number of at least {least}, got {value!r}")
    return found


def optional_whole(name: str, value: Any, least: int, error: type[HagoError] = SearchError) -> int | None:
    """A whole number of at least ``least``, or None for no limit."""
    return None if value is None else whole(name, value, least, error)


def number(name: str, value: Any, hint: str | None = None, error: type[HagoError] = SearchError) -> float:
    """A finite number of at least 0."""
    found = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(found) and found >= 0):
        raise error(f"{name} must be a number of at least 0, got {value!r}", hint=hint)
    return found


def names(name: str, value: Any, error: type[HagoError] = SearchError) -> tuple[str, ...]:
    """A list of names, or text with names separated by commas."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    found = tuple(value) if isinstance(value, Iterable) else (None,)
    if all(isinstance(part, str) for part in found):
        return found
    raise error(f"{name} must be a list of names, got {value!r}")


def path(name: str, value: Any, error: type[HagoError] = SearchError) -> str:
    """A path as text."""
    try:
        found = os.fspath(value)
    except TypeError:
        found = b""
    if not isinstance(found, str) or not found or "\0" in found:
        raise error(f"{name} must be a path, got {value!r}")
    return found
