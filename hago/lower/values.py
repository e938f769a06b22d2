"""What is known about a tensor during lowering, and the arithmetic of quantization parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .source import SourceNode

SIGNED_SHIFT = 128
"""int8 codes are stored as uint8: code + 128, zero point + 128, the same real value."""


@dataclass(frozen=True)
class Params:
    """Quantization parameters of a uint8 tensor: real = scale * (code - zero_point)."""

    scale: np.float32
    zero_point: int

    def clamp_code(self, real: float) -> int:
        """The code of ``real``, rounded half to even and clamped to 0..255; also of infinities."""
        if math.isinf(real):
            return 255 if real > 0 else 0
        code = float(np.rint(np.float32(real) / self.scale)) + self.zero_point
        return int(min(max(code, 0), 255))

    def quantize(self, real: np.ndarray) -> np.ndarray:
        """uint8 codes of float32 values, as QuantizeLinear computes them."""
        rounded = np.rint(real.astype(np.float32) / self.scale)
        low, high = -self.zero_point, 255 - self.zero_point
        return (np.clip(rounded, low, high) + self.zero_point).astype(np.uint8)

    def reals(self) -> np.ndarray:
        """float32 [256]: the real value of every code, as DequantizeLinear computes it."""
        return (np.arange(256, dtype=np.int32) - self.zero_point).astype(np.float32) * self.scale


@dataclass(frozen=True)
class Quant:
    """A uint8 tensor of the lowered graph and its parameters."""

    tensor: str
    params: Params


@dataclass(frozen=True)
class ValueTable:
    """A real tensor that is a function of the codes of ``quant``: ``reals`` float32 [256].

    ``node`` is the source node that computes it; it is ``costly`` if a look-up is cheaper.
    """

    quant: Quant
    reals: np.ndarray
    node: SourceNode
    costly: bool


@dataclass
class Value:
    """The representations in which one tensor of the source graph is available; None: not in this one.

    tensor: the lowered tensor of exactly the source tensor's type. quant: the uint8 tensor that it is
    dequantized from. table: the function of a uint8 tensor that it is. codes: the uint8 codes that it is itself
    (the source tensor is then an integer one), ``signed`` if the source's are int8. short: the tensor of
    bfloat16 or float16 that it is widened from.
    """

    tensor: str | None = None
    quant: Quant | None = None
    table: ValueTable | None = None
    codes: str | None = None
    signed: bool = False
    short: str | None = None
