"""One model in several engines, side by side: latency in turns, accuracy on the same samples, size."""

from .comparison import Comparison, compare
from .rows import ComparisonRow, Engine

__all__ = ["Comparison", "ComparisonRow", "Engine", "compare"]
