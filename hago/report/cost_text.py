"""Costs as text: a time where one was measured, instructions where they were counted, never one as the other.

For several devices at once there is neither: a layer's cost is a part of the whole network's in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..measure.instructions import INSTRUCTION_S
from ..text import NOTHING, duration, pair_of_durations, percent, significant


@dataclass(frozen=True)
class _CostWords:
    """The words of one kind of cost."""

    noun: str  # the quantity
    short: str  # the same, abbreviated
    absolute: str  # its absolute value
    of_layers: str  # column heading for the cost of layers
    gain: str  # column heading for the factor gained
    less: str  # as in "both faster and better"
    more: str  # as in "slower than in float32"
    is_slower: str
    are_slower: str
    tile: str  # heading of the first number


_TIME = _CostWords(
    "latency",
    "latency",
    "the time",
    "Time",
    "Speed-up",
    "faster",
    "slower",
    "is slower than float32",
    "are slower than float32",
    "Latency",
)
_COUNT = _CostWords(
    "instructions (estimated)",
    "instructions (est.)",
    "their number",
    "Instructions",
    "Gain",
    "cheaper",
    "more instructions",
    "takes more instructions than float32",
    "take more instructions than float32",
    "Instructions, estimated",
)
_PART = _CostWords(
    "cost on all devices", "cost", "the cost", "Part of float32", "Gain", "cheaper", "more expensive",
    "costs more than float32", "cost more than float32", "Cost",
)  # fmt: skip


@dataclass(frozen=True)
class CostText:
    """Writes seconds; where ``estimated``, the instructions that they represent; with ``whole_s``, parts of that."""

    estimated: bool = False
    whole_s: float | None = None

    @property
    def words(self) -> _CostWords:
        """The words for this kind of cost."""
        return _PART if self.whole_s is not None else _COUNT if self.estimated else _TIME

    @property
    def digits(self) -> int:
        """The number of significant digits of a rough number."""
        return 3 if self.estimated else 2

    def amount(self, seconds: float | None, digits: int = 3) -> str:
        """``0.194 ms``, ``2.07 M instr`` or ``4.1 %``."""
        if seconds is None:
            return NOTHING
        if self.whole_s is not None:
            return percent(seconds / self.whole_s) if self.whole_s and seconds else NOTHING
        return _instructions(seconds, digits) if self.estimated else duration(seconds, digits)

    def pair(self, first: float, second: float) -> tuple[str, str]:
        """Two costs, with enough digits to distinguish them."""
        if not self.estimated:
            return pair_of_durations(first, second)
        for digits in (2, 3, 4):
            texts = _instructions(first, digits), _instructions(second, digits)
            if texts[0] != texts[1]:
                break
        return texts

    def compared(self, ratio: float, factor: str) -> str:
        """``2.9 times faster``, or ``an estimated 2.9 times cheaper``."""
        if self.estimated:
            return f"an estimated {factor} times {'cheaper' if ratio < 1 else 'more expensive'}"
        return f"{factor} times {'faster' if ratio < 1 else 'slower'}"


def _instructions(seconds: float, digits: int) -> str:
    number = seconds / INSTRUCTION_S
    for unit, scale in ((" G", 1e9), (" M", 1e6), (" k", 1e3)):
        if abs(number) >= scale:
            return f"{significant(number / scale, digits)}{unit} instr"
    return f"{significant(number, digits)} instr" if number else NOTHING
