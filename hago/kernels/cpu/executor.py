"""Processors: memory that numpy shares, and calls that are done when they return."""

from ...runtime.executor import Executor

EXECUTOR = Executor("cpu", kind="cpu", shared_memory=True, timed_by_cpu=True)
