"""Estimates for a machine that is not attached: instruction counts, which are not times."""

from __future__ import annotations

from dataclasses import dataclass

# Seconds of one instruction for cost models, in order of magnitude. Never reported as a time.
INSTRUCTION_S = 5e-10


@dataclass(frozen=True)
class InstructionEstimate:
    """Replaces a latency without a board: instructions of one call, counted in the emulator.

    ``ratio`` compares them with those of the first network. Never reported as a time.
    """

    name: str
    threads: int
    instructions: int
    ratio: float
