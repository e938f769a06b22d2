"""Compares one model in several engines: latency in turns, accuracy on the same samples, size."""

from .comparison import Comparison
from .rows import ComparisonRow, Engine
from .side_by_side import TurnPlan, compare

__all__ = ["Comparison", "ComparisonRow", "Engine", "TurnPlan", "compare"]
