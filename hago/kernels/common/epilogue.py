"""From a sum to an element of the output, on any target: requantize, or clamp as float32 (see `hago.lower.ops`)."""

from __future__ import annotations

import numpy as np
from tvm.script.ir_builder import tirx as T

from ...errors import BuildError
from ...tensor import TensorType
from .calls import NodeView
from .flat import Expr, Flat, cast, factors_of, numbers_of, rint_to_int32


class Epilogue:
    """From products float32(acc) * scale, float32 [lanes], to output elements [lanes].

    uint8: clamp(rint(product), lo - zp, hi - zp) + zp; ``constants[at:at + 3]`` are int32 zp, lo, hi.
    float32: min(max(product, act_lo), act_hi); ``constants[at:at + 2]`` are float32 act_lo, act_hi.
    The constants are loaded once, where this object is made: before the loops.
    """

    def __init__(self, out: str, constants: Flat, at: int = 0) -> None:
        self.out = out
        if out == "uint8":
            self.zero_point = constants.load(at)
            self.low = T.bind(T.cast(constants.load(at + 1) - self.zero_point, "float32"))
            self.high = T.bind(T.cast(constants.load(at + 2) - self.zero_point, "float32"))
        else:
            self.low, self.high = constants.load(at), constants.load(at + 1)

    def __call__(self, product: Expr, lanes: int) -> Expr:
        """Elements [lanes] of type ``out``."""
        if self.out == "float32":
            return self._clamped(product)
        return cast(self.codes(product, lanes), "uint8", lanes)

    def codes(self, product: Expr, lanes: int) -> Expr:
        """Of an output of uint8: its codes as int32 [lanes]."""
        return rint_to_int32(self._clamped(product), lanes) + self.zero_point

    def _clamped(self, product: Expr) -> Expr:
        return T.min(T.max(product, self.low), self.high)


def constants_type(out: str) -> TensorType:
    """The type of the constants of an `Epilogue`."""
    return TensorType("int32", (3,)) if out == "uint8" else TensorType("float32", (2,))


def epilogue_constants(node: NodeView) -> tuple[str, np.ndarray]:
    """The output type of a node, and the constants of its epilogue."""
    attrs = node.attrs
    out = attrs.get("out", "uint8")
    if out == "uint8":
        return out, numbers_of(attrs.get("y_zero_point", 0), attrs["lo"], attrs["hi"])
    if out == "float32":
        return out, factors_of(attrs.get("act_lo", -np.inf), attrs.get("act_hi", np.inf))
    raise BuildError(f"the output of {node.op} must be uint8 or float32, not {out!r}", where=node.name)
