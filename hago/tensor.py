"""Element type and shape of tensors, and of a model's inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np


@dataclass(frozen=True)
class TensorInfo:
    """Name, element type (numpy's name) and static shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TensorType:
    """Element type (numpy's name, or "bfloat16") and static shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @classmethod
    def of(cls, array: np.ndarray) -> TensorType:
        """The type of an array."""
        return cls(dtype_name(array.dtype), array.shape)

    def with_shape(self, shape: Iterable[int]) -> TensorType:
        """The same elements in another shape."""
        return TensorType(self.dtype, tuple(shape))


@lru_cache(maxsize=256)
def dtype_name(dtype: np.dtype) -> str:
    """numpy's name of a type, cached because numpy computes it anew each time."""
    return dtype.name
