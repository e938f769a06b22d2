"""How one tensor is quantized: bits, symmetric or not, granularity, and the numbers that follow.

Notation: real = scale * (q - zero_point), with q an integer in [qmin, qmax].
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .errors import StrategyError


@dataclass(frozen=True, order=True)
class Granularity:
    """The elements that share one scale: the whole tensor, one output channel, or one group of inputs.

    ``kind`` is ``"per_tensor"``, ``"per_channel"`` or ``"per_group"``; ``group_size`` counts the
    consecutive input channels that share a scale and is 0 unless ``kind`` is ``"per_group"``.
    The written form is ``per_tensor``, ``per_channel`` or ``per_group:64``.
    """

    kind: str
    group_size: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("per_tensor", "per_channel", "per_group"):
            raise StrategyError(f"granularity must be per_tensor, per_channel or per_group:SIZE, not {self.kind!r}")
        if (self.kind == "per_group") != (self.group_size > 0):
            raise StrategyError(f"group size {self.group_size} does not fit granularity {self.kind!r}")

    @classmethod
    def parse(cls, text: str) -> Granularity:
        """Reads the written form; raises StrategyError on anything else."""
        match = re.fullmatch(r"per_group:(\d+)", text)
        return cls("per_group", int(match[1])) if match else cls(text)

    def __str__(self) -> str:
        return f"{self.kind}:{self.group_size}" if self.group_size else self.kind


PER_TENSOR = Granularity("per_tensor")
PER_CHANNEL = Granularity("per_channel")

MAX_MULTIPLIER = 15
"""Group multipliers are 4-bit integers, 1 to 15 (VS-Quant, Dai et al. 2021)."""


@dataclass(frozen=True)
class IntegerType:
    """The integer type of a tensor. ``bits`` may be fewer than the 8 bits of its storage."""

    bits: int
    signed: bool
    symmetric: bool

    @property
    def qmin(self) -> int:
        """The smallest integer."""
        # Symmetric signed types exclude -2**(b-1), so that the range is the same on both sides.
        if not self.signed:
            return 0
        return -(2 ** (self.bits - 1)) + (1 if self.symmetric else 0)

    @property
    def qmax(self) -> int:
        """The largest integer."""
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    @property
    def dtype(self) -> np.dtype:
        """The storage type: int8 or uint8."""
        return np.dtype(np.int8 if self.signed else np.uint8)
