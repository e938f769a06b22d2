"""How a cost is told: a time where one was measured, instructions where they were counted, never one as the other."""

from __future__ import annotations

from dataclasses import dataclass

from ..measure.instructions import INSTRUCTION_S
from .text import NOTHING, duration, pair_of_durations, significant


@dataclass(frozen=True)
class CostText:
    """Tells seconds; where ``estimated``, the instructions that they stand for."""

    estimated: bool = False

    @property
    def noun(self) -> str:
        """What is told: "latency", or "instructions (estimated)"."""
        return "instructions (estimated)" if self.estimated else "latency"

    @property
    def short(self) -> str:
        """The same, where there is little room."""
        return "instructions (est.)" if self.estimated else "latency"

    @property
    def digits(self) -> int:
        """How many digits of a rough number say something."""
        return 3 if self.estimated else 2

    @property
    def absolute(self) -> str:
        """What a number of it is: "the time"."""
        return "their number" if self.estimated else "the time"

    @property
    def of_layers(self) -> str:
        """The heading of a column of layers' costs."""
        return "Instructions" if self.estimated else "Time"

    @property
    def gain(self) -> str:
        """The heading of a column of how many times less it is."""
        return "Gain" if self.estimated else "Speed-up"

    @property
    def less(self) -> str:
        """``faster``, or ``of fewer instructions``."""
        return "of fewer instructions" if self.estimated else "faster"

    @property
    def tile(self) -> str:
        """The heading of the number that stands first."""
        return "Instructions, estimated" if self.estimated else "Latency"

    @property
    def more(self) -> str:
        """``slower``, or ``more instructions``."""
        return "more instructions" if self.estimated else "slower"

    @property
    def is_slower(self) -> str:
        """``is slower than float32``, or what an estimate can say."""
        return "takes more instructions than float32" if self.estimated else "is slower than float32"

    def amount(self, seconds: float | None, digits: int = 3) -> str:
        """``0.194 ms``, or ``2.07 M instr``"""
        if seconds is None or not self.estimated:
            return duration(seconds, digits)
        return _instructions(seconds, digits)

    def pair(self, first: float, second: float) -> tuple[str, str]:
        """Two costs, with digits enough to tell them apart."""
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
            return f"an estimated {factor} times {'cheaper' if ratio < 1 else 'dearer'}"
        return f"{factor} times {'faster' if ratio < 1 else 'slower'}"


def _instructions(seconds: float, digits: int) -> str:
    number = seconds / INSTRUCTION_S
    for unit, scale in ((" G", 1e9), (" M", 1e6), (" k", 1e3)):
        if abs(number) >= scale:
            return f"{significant(number / scale, digits)}{unit} instr"
    return f"{significant(number, digits)} instr" if number else NOTHING
