"""Runs a runner so that any failure on the device becomes a MeasureError with its reason."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError, HagoError, MeasureError
from .runner import device_clock

if TYPE_CHECKING:
    from ..data import Samples
    from .runner import Runner


@contextmanager
def kept_affinity() -> Iterator[None]:
    """Restores the CPUs that the calling thread may run on.

    TVM permanently binds the first thread that runs something on several threads to one CPU; all threads that another
    engine starts later would inherit that and share this CPU.
    """
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        yield
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)


def call(runner: Runner, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """``runner.run``, with any failure as a MeasureError whose ``where`` is the runner's name."""
    try:
        return runner.run(feeds)
    except Exception as error:
        raise _failure(runner, error) from error


def timed(runner: Runner, feeds: Mapping[str, NDArray[Any]], count: int) -> float:
    """Seconds of ``count`` calls by the clock of the runner's device, with failures as in `call`."""
    clock = device_clock(runner)
    assert clock is not None
    try:
        return clock(feeds, count)
    except Exception as error:
        raise _failure(runner, error) from error


def _failure(runner: Runner, error: Exception) -> HagoError:
    if isinstance(error, DeviceError):  # names the device itself
        return error
    if isinstance(error, HagoError):
        named = isinstance(error, MeasureError) and error.where == runner.name
        return error if named else MeasureError(error.what, where=runner.name, hint=error.hint)
    reason = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
    return MeasureError(f"the run failed: {type(error).__name__}: {reason}", where=runner.name)


class Renamed:
    """A runner under another name, so that two of one engine can be measured together, without overhead."""

    def __init__(self, runner: Runner, name: str) -> None:
        self.name, self.threads, self.inputs = name, runner.threads, runner.inputs
        self.timed_by_cpu = bool(getattr(runner, "timed_by_cpu", True))
        self.time_calls = device_clock(runner)
        self.run, self.close = runner.run, runner.close


def run_batch(runner: Runner, feeds: Mapping[str, NDArray[Any]], n: int) -> list[NDArray[Any]]:
    """Outputs for ``n`` samples, at most the runner's batch, which is padded with the last sample.

    Raises MeasureError if the run fails or the outputs are not ``n`` samples of numbers.
    """
    batch = batch_of(runner)
    if n < batch:
        feeds = {name: np.concatenate([x, np.repeat(x[-1:], batch - n, axis=0)]) for name, x in feeds.items()}
    outputs = []
    for i, output in enumerate(call(runner, feeds)):
        if output.ndim == 0 or output.shape[0] != batch:
            raise MeasureError(
                f"output {i} must hold {batch} samples along its first axis, its shape is {output.shape}",
                where=runner.name,
            )
        kept = output[:n]
        if kept.dtype.kind == "f" and np.isnan(kept).any():
            raise MeasureError(f"output {i} holds NaN", where=runner.name)
        outputs.append(kept)
    return outputs


def batch_of(runner: Runner) -> int:
    """How many samples one call of the runner takes."""
    shape = runner.inputs[0].shape if runner.inputs else ()
    return int(shape[0]) if shape else 1


def collect_outputs(
    runner: Runner, samples: Samples, count: int | None = None, *, most_bytes: int | None = None
) -> list[NDArray[Any]]:
    """Every output of ``runner`` on all samples (the first ``count``), each ``[n, ...]``, in the order of the samples.

    Large outputs are kept in a temporary file. Raises MeasureError if they take more than ``most_bytes``, StorageError
    if the disk is full.
    """
    from ..data.sources import Spool

    total, batch = len(samples) if count is None else count, batch_of(runner)
    spools: list[Spool] = []
    for start in range(0, total, batch):
        end = min(start + batch, total)
        outputs = run_batch(runner, samples.batch(start, end), end - start)
        if not spools:
            spools = [Spool(array.shape[1:], array.dtype, f"output {i}") for i, array in enumerate(outputs)]
            row_bytes = sum(array.nbytes for array in outputs) // (end - start)
            if most_bytes is not None and row_bytes * total > most_bytes:
                raise MeasureError(
                    f"a metric of the whole set needs the outputs of all {total} samples at once: "
                    f"{row_bytes * total / 2**30:.1f} GiB, more than {most_bytes / 2**30:.1f}",
                    where=runner.name,
                    hint="give one score for each sample (set the function's attribute whole_set = False), give fewer "
                    "samples, or end the network with what is scored (ArgMax, NonMaxSuppression)",
                )
        for spool, array in zip(spools, outputs, strict=True):
            spool.append(array)
    return [spool.array() for spool in spools]
