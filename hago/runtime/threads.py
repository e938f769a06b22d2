"""How many threads a network runs on."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import MeasureError

_MODE_BIG_CORES = 1
_configured: int | None = None


def default_threads() -> int:
    """The physical cores this process may run on: a second thread on a core only takes its own time."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return max(1, (os.cpu_count() or 2) // 2)
    siblings = set()
    for cpu in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            siblings.add(path.read_text().strip())
        except OSError:
            siblings.add(str(cpu))
    return max(1, len(siblings))


def check_threads(threads: int | None) -> int:
    """``threads``, or the default for None. Raises MeasureError for a number that cannot be."""
    if threads is None:
        return default_threads()
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise MeasureError(f"threads must be a whole number from 1 on, not {threads!r}")
    return threads


def use_threads(threads: int) -> None:
    """Sets TVM's pool to this many threads, where it is not already: networks of one process share it."""
    global _configured
    if threads == _configured or (_configured is None and threads == 1):
        return
    # Read once, when TVM makes its pool: left alone, that has half as many threads as there are processors.
    os.environ.setdefault("TVM_NUM_THREADS", str(max(threads, default_threads())))
    # Bound, the calling thread would keep to one processor, and so would every engine that it opens later.
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    import tvm

    tvm.get_global_func("runtime.config_threadpool")(_MODE_BIG_CORES, threads)
    _configured = threads
