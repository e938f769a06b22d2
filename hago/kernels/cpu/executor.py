"""Processors: numpy shares their memory, and a call is done when it returns."""

from ...runtime.executor import Executor

EXECUTOR = Executor("cpu", kind="cpu", shared_memory=True, timed_by_cpu=True)
