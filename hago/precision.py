"""The number formats a layer computes in, as a value. Strategies, specs, studies and records contain its name.

int8, int4         activations and weights are integers with this many bits
int7               weights have 7 bits, activations 8: a sum of two products then fits 16 bits
w4a8               weights have 4 bits, activations 8
w4a16              weights are integers, activations float16; w4abf16: bfloat16, w4a32: float32 ("weight-only")
w4                 weights are integers, activations keep their type
bfloat16           activations and weights are floats
int8-dynamic       the ranges of activations are found at run time
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

from .documents import did_you_mean
from .errors import StrategyError

FLOAT32 = "float32"
"""The precision of a layer unless a strategy changes it."""

INTEGER_BITS = range(2, 9)


@dataclass(frozen=True)
class Format:
    """The format of one operand: an integer (``kind`` "int") of 2 to 8 bits, or the float that ``kind`` names."""

    kind: str
    bits: int

    @property
    def is_integer(self) -> bool:
        """Whether it is an integer, which needs a scale."""
        return self.kind == "int"

    @property
    def is_float32(self) -> bool:
        """Whether it is float32."""
        return self.kind == FLOAT32


_FLOAT_BITS = {"float32": 32, "bfloat16": 16, "float16": 16, "float8_e4m3": 8}
FLOATS: Mapping[str, Format] = MappingProxyType({name: Format(name, bits) for name, bits in _FLOAT_BITS.items()})
SHORT_FLOATS = tuple(name for name, held in FLOATS.items() if held.bits == 16)
"""Floats of 16 bits: operands are stored in them, sums are float32."""
_SHORT = {"float32": "32", "bfloat16": "bf16", "float16": "16", "float8_e4m3": "f8"}
"""Float activations in the name of a weight-only precision."""
_ALIASES = {"w7a8": "int7"}


def integer(bits: int) -> Format:
    """The integer format with this many bits."""
    return Format("int", bits)


@dataclass(frozen=True)
class Precision:
    """The number formats a layer computes in.

    ``activation`` None: activations keep their type. ``weight`` None: the layer has no weights, or they have the format
    of the activations. ``dynamic``: the ranges of activations are found at run time. ``accumulator`` is a detail of the
    hardware: precisions that differ only in it are equal.
    """

    activation: Format | None
    weight: Format | None = None
    dynamic: bool = False
    accumulator: str | None = field(default=None, compare=False)

    @property
    def weights(self) -> Format:
        """The format of weights, if a layer has any."""
        found = self.weight or self.activation
        assert found is not None
        return found

    @property
    def name(self) -> str:
        """Its name in strategies; `named` is the inverse."""
        activation, weights = self.activation, self.weights
        if not weights.is_integer:
            return weights.kind
        if activation is None:
            return f"w{weights.bits}"
        spelled = f"w{weights.bits}a{activation.bits if activation.is_integer else _SHORT[activation.kind]}"
        if weights == activation and f"int{weights.bits}" not in _ALIASES.values():
            spelled = f"int{weights.bits}"
        return _ALIASES.get(spelled, spelled) + ("-dynamic" if self.dynamic else "")

    @classmethod
    def named(cls, name: str) -> Precision:
        """The precision with this name. Raises StrategyError with the closest known name."""
        if name not in _precisions():
            raise StrategyError(f"there is no precision {name!r}", hint=did_you_mean(name, _precisions()))
        return _precisions()[name]

    @property
    def is_float32(self) -> bool:
        """Whether nothing is quantized."""
        return self.weights.is_float32

    @property
    def is_integer(self) -> bool:
        """Whether activations are integers, which need ranges."""
        return self.activation is not None and self.activation.is_integer

    @property
    def is_weight_only(self) -> bool:
        """Whether weights are integers and activations are not."""
        return self.weights.is_integer and not self.is_integer

    @property
    def is_short_float(self) -> bool:
        """Whether all are floats of fewer than 32 bits."""
        return not self.weights.is_integer and not self.is_float32

    def fits_in(self, other: Precision) -> bool:
        """Whether ``other`` computes it unchanged: equal activations, and integer weights with no more bits.

        7-bit weights fit into 8 bits; a float fits only into itself.
        """
        if (self.activation, self.dynamic) != (other.activation, other.dynamic):
            return False
        mine, its = self.weights, other.weights
        return mine == its or (mine.is_integer and its.is_integer and mine.bits <= its.bits)


@cache
def _precisions() -> Mapping[str, Precision]:
    """All precisions by name."""
    integers = [integer(bits) for bits in reversed(INTEGER_BITS)]
    found = [Precision(held, held) for held in FLOATS.values()]
    for weight in integers:
        found += [Precision(activation, weight) for activation in (*integers, *FLOATS.values(), None)]
        found += [Precision(activation, weight, dynamic=True) for activation in integers]
    return MappingProxyType({precision.name: precision for precision in found})


def find_fitting(name: str, offered: Iterable[str]) -> str | None:
    """The ``offered`` precision that computes ``name``: itself, else the first that it fits into, else None."""
    offered = tuple(offered)
    if name in offered:
        return name
    wanted = Precision.named(name)
    return next((other for other in offered if wanted.fits_in(Precision.named(other))), None)
