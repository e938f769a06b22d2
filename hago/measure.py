"""Latency and accuracy of runners: what the rest of Hago measures with."""

from .accuracy import BLOCK, Accuracy, Scores, StopRule, hopeless, measure_accuracy, summarize
from .latency import Clock, Latency, measure_latency
from .running import batch_of, collect_outputs, run_batch

__all__ = [
    "BLOCK",
    "Accuracy",
    "Clock",
    "Latency",
    "Scores",
    "StopRule",
    "batch_of",
    "collect_outputs",
    "hopeless",
    "measure_accuracy",
    "measure_latency",
    "run_batch",
    "summarize",
]
