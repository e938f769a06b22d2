"""What is told of a machine that is not attached: counts of instructions, which are no times."""

from __future__ import annotations

from dataclasses import dataclass

# What models of cost take an instruction for where they need seconds: its order of magnitude. Never told as a time.
INSTRUCTION_S = 5e-10


@dataclass(frozen=True)
class InstructionEstimate:
    """What stands in for a latency where there is no board: instructions of one call, counted in the emulator.

    ``ratio`` is to those of the first network of the same count. No time, and never told as one.
    """

    name: str
    threads: int
    instructions: int
    ratio: float
