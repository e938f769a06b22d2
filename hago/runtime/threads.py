"""How many threads a network runs on, and what happens to them when the process forks.

TVM keeps a pool of workers for each thread that runs something in parallel. A forked process has only the thread that
forked, and its pool, whose workers are gone: jobs for them are never done. Destroying the pool, which also happens
when the process ends, waits for ever for workers that were asleep at the time of the fork. So all are woken just
before it (they fall asleep about a tenth of a second after their last job), and the forked process has TVM create
the pool again.
"""

from __future__ import annotations

import ctypes
import operator
import os
from threading import RLock, local
from weakref import WeakSet

from ..errors import MeasureError
from .processor import SYSTEM_CPUS

_MODE_BIG_CORES = 1
_MOST_THREADS = 1024
_RESET = "_ZN3tvm7runtime9threading15ResetThreadPoolEv"  # tvm::runtime::threading::ResetThreadPool()


def default_threads() -> int:
    """The physical cores this process may run on: a second thread on a core would only compete with the first."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return max(1, (os.cpu_count() or 2) // 2)
    siblings = set()
    for cpu in allowed:
        path = SYSTEM_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        try:
            siblings.add(path.read_text().strip())
        except OSError:
            siblings.add(str(cpu))
    return max(1, len(siblings))


def check_threads(threads: int | None) -> int:
    """``threads``, or the default for None. Raises MeasureError for an impossible number."""
    if threads is None:
        return default_threads()
    try:
        count = 0 if isinstance(threads, bool) else operator.index(threads)
    except TypeError:
        count = 0
    if not 1 <= count <= _MOST_THREADS:
        raise MeasureError(f"threads must be a whole number from 1 to {_MOST_THREADS}, not {threads!r}")
    return count


class _Pool(local):
    """What Hago knows about the calling thread's pool: the threads it is set to, or 0 if there is no pool yet."""

    threads = 0


_pool = _Pool()
_most_threads = 0
_forking = RLock()
_locks: WeakSet[RLock] = WeakSet()
_held: list[RLock] = []


def use_threads(threads: int) -> None:
    """Sets the calling thread's pool to this many threads; code for one thread needs no pool."""
    global _most_threads
    if threads in (1, _pool.threads):
        return
    # A pool keeps the size it was created with; it can be set to fewer threads, never to more.
    _most_threads = max(_most_threads, threads, default_threads())
    os.environ["TVM_NUM_THREADS"] = str(_most_threads)
    # Binding would pin the calling thread to one processor, and with it every engine that it opens later.
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    _configure(threads)
    _pool.threads = threads


def _configure(threads: int) -> None:
    import tvm

    tvm.get_global_func("runtime.config_threadpool")(_MODE_BIG_CORES, threads)


def make_lock() -> RLock:
    """A lock for what a fork must not split: the fork waits until it is free, and it is free in both processes."""
    lock = RLock()
    _locks.add(lock)
    return lock


def _before_fork() -> None:
    _forking.acquire()
    for lock in list(_locks):
        lock.acquire()
        _held.append(lock)
    if _pool.threads:
        _configure(_MOST_THREADS)  # all of them
        _pool.threads = -1
        runtime = ctypes.CDLL(None)
        # A job for each worker: any C function that needs no arguments and returns 0.
        runtime.TVMBackendParallelLaunch(ctypes.cast(runtime.sched_yield, ctypes.c_void_p), None, 0)


def _after_fork() -> None:
    while _held:
        _held.pop().release()
    _forking.release()


def _after_fork_in_child() -> None:
    if _pool.threads:
        ctypes.CDLL(None)[_RESET]()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
