"""The number of threads of a search: as stored by an earlier run, or what is faster for float32."""

from __future__ import annotations

import json
from pathlib import Path

from ..compiler.build import build
from ..compiler.cache import KernelCache
from ..data import DataParts
from ..documents import read_document
from ..errors import HagoError, StorageError
from ..files import write_atomic
from ..kernels import backend_of
from ..lower import lower
from ..measure.latency import measure_latency
from ..model import Model
from ..runners import TvmRunner
from ..runtime.threads import check_threads, default_threads
from ..spec import HardwareSpec

# Several threads must be worth their cost in energy and to other work: at most this ratio to one thread.
_WORTH_THREADS = 0.9


def kept_threads(path: Path) -> int | None:
    """The number of threads that an earlier run stored; None if missing or damaged."""
    try:
        return check_threads(read_document(path, error=StorageError).data.get("threads"))
    except HagoError:
        return None


def chosen_threads(model: Model, spec: HardwareSpec, parts: DataParts, cache: KernelCache, folder: Path | None) -> int:
    """One thread, or all physical cores if float32 is clearly faster on them; a resumed search keeps its number."""
    if not backend_of(spec).executor.timed_by_cpu:
        return 1  # another device computes
    kept = None if folder is None else folder / "threads.json"
    if kept is not None and (count := kept_threads(kept)) is not None:
        return count
    most, chosen = default_threads(), 1
    if most > 1:
        lowered = lower(model.proto, spec)
        runners = [TvmRunner(build(lowered, spec, threads=count, cache=cache), name=str(count)) for count in (1, most)]
        (feeds,) = parts.search.whole_batches(model.batch, 1)
        latency = measure_latency(runners, feeds, rounds=15, budget_s=2.0)[str(most)]
        chosen = most if latency.ratio_high < _WORTH_THREADS else 1
    if kept is not None:
        write_atomic(kept, json.dumps({"threads": chosen}) + "\n")
    return chosen
