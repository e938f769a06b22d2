"""What a model's input or output looks like from outside."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorInfo:
    """Name, element type (numpy's name) and static shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]
