"""The shapes of samples, which a model with dynamic inputs needs before it is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .images import first_image_shape
from .npz import NpzFile, open_npy
from .samples import Samples
from .sources import is_array_like

ONLY = "x"
"""The name of an array for the model's only input, whatever the input's name."""


def sample_shapes(data: object) -> Mapping[str, tuple[int, ...]]:
    """Name -> shape of one sample, without the leading dimension; empty if it cannot be determined.

    ``data`` is what `make_samples` takes. Iterables give nothing, as they can be read only once. Raises DataError
    for a damaged file.
    """
    if isinstance(data, Samples):
        return {info.name: info.shape[1:] for info in data.inputs}
    if isinstance(data, (str, os.PathLike)):
        return _of_path(Path(data))
    if isinstance(data, tuple) and len(data) == 2:
        data = data[0]
    if isinstance(data, Mapping):
        return {str(name): shape for name, array in data.items() if (shape := _of_array(array)) is not None}
    shape = _of_array(data)
    return {} if shape is None else {ONLY: shape}


def _of_path(path: Path) -> Mapping[str, tuple[int, ...]]:
    if path.is_dir():
        return {ONLY: first_image_shape(path)}
    if path.suffix == ".npz" and path.is_file():
        file = NpzFile(path)
        return {name: shape for name in file if (shape := _of_array(file[name])) is not None}
    if path.suffix == ".npy" and path.is_file():
        return {ONLY: open_npy(path).shape[1:]}
    return {}


def _of_array(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, list) and value and not is_array_like(value):
        value = np.asarray(value[0])[None] if is_array_like(value[0]) else None
    if not is_array_like(value) or len(value.shape) == 0:
        return None
    return tuple(int(size) for size in value.shape[1:])
