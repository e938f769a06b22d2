"""Labels: numbers as an array, and anything else (boxes, texts, ragged lists, mappings) as Python objects.

Notation: ``n`` samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any

import numpy as np

from ..errors import DataError
from .sources import Array, is_array_like

# An array [n, ...], or a list of n objects.
Labels = Array | list[Any]


def as_labels(labels: object, total: int, where: str) -> Array:
    """One label for each of ``total`` samples: an array [n, ...] of plain values, or one of Python objects [n].

    Numbers and booleans of one shape become an array; an array of texts stays one. Other labels are not inspected:
    the metric decides whether they fit. Raises DataError if their number is not ``total``.
    """
    rows = _rows(labels)
    if rows is None or len(rows) != total:
        found = "a single one" if rows is None else f"{len(rows)}"
        raise DataError(f"{total} samples need {total} labels, found {found}", where=where, hint=_hint(labels))
    if isinstance(rows, list):
        rows = _regular(rows)
    if rows.dtype.kind in "iu" and rows.ndim == 2 and rows.shape[1] == 1:
        rows = rows[:, 0]
    return rows


def _rows(labels: object) -> Array | list[Any] | None:
    """An array of plain values unchanged, anything else as a list of its items; None for a single value."""
    if hasattr(labels, "detach"):  # a torch tensor, possibly with a gradient or on a device
        labels = labels.detach().cpu().numpy()
    elif is_array_like(labels) and not isinstance(labels, np.ndarray) and hasattr(labels, "__array__"):
        labels = np.asarray(labels)
    if isinstance(labels, np.ndarray):
        return None if labels.ndim == 0 else list(labels) if labels.dtype.hasobject else labels
    if isinstance(labels, (str, bytes, Mapping)) or not isinstance(labels, Iterable):
        return None
    return list(labels)


def _regular(rows: list[Any]) -> Array:
    """An array if the rows are numbers of one shape; else the rows, as objects."""
    if rows and _is_number_like(rows[0]):
        try:
            array = np.asarray(rows)
        except Exception:  # ragged, or an object that raises some exception: kept as objects
            array = np.empty(0, object)
        if array.dtype.kind in "biuf" and len(array) == len(rows):
            return array
    objects = np.empty(len(rows), object)
    for i, row in enumerate(rows):
        objects[i] = row
    return objects


def _is_number_like(row: object) -> bool:
    """Whether a row may be numbers: numpy would iterate over any other object, or parse a text."""
    return isinstance(row, (bool, int, float, np.generic, np.ndarray, list, tuple)) or hasattr(row, "__array__")


def _hint(labels: object) -> str | None:
    if isinstance(labels, Mapping):
        return "give one label for each sample, such as a list of mappings"
    if isinstance(labels, tuple) and any(isinstance(part, Sized) for part in labels):
        return "several arrays become one label for each sample by list(zip(boxes, classes))"
    return None
