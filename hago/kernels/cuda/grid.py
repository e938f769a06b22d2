"""Launching plain kernels: which thread computes what.

Blocks have `THREADS` threads along x, and as many blocks are launched as the work takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..common.flat import Expr
from ..common.math import registers_in

THREADS = 256
"""Threads of a block."""


def each(count: int, body: Callable[[Expr], None], threads: int = THREADS) -> None:
    """Runs ``body(index)`` for every index below ``count``, one in each thread: neighbours have neighbouring ones."""
    with blocks(-(-count // threads), threads) as (block, thread):
        index = T.bind(block * threads + thread)
        if count % threads == 0:
            body(index)
        else:
            with T.If(index < count), T.Then():
                body(index)


def each_of(parts: Sequence[tuple[int, Callable[[Expr], None]]]) -> None:
    """`each` for several (count, body): every block serves one of them."""
    counts = [-(-count // THREADS) for count, _ in parts]
    with blocks(sum(counts)) as (block, thread):
        for number, (count, body) in enumerate(parts):
            first = sum(counts[:number])
            with T.If(tirx.all(block >= first, block < first + counts[number])), T.Then():
                index = T.bind((block - first) * THREADS + thread)
                with T.If(index < count), T.Then():
                    body(index)


@contextmanager
def blocks(count: int, threads: int = THREADS) -> Iterator[tuple[Expr, Expr]]:
    """Launches ``count`` blocks; yields the numbers of a block and of a thread in it."""
    block, thread = T.env_thread("blockIdx.x"), T.env_thread("threadIdx.x")
    with T.launch_thread(block, count), T.launch_thread(thread, threads), registers_in("local"):
        yield block, thread


def barrier() -> None:
    """Waits until all threads of the block are here, and shows each what the others wrote to shared memory."""
    T.evaluate(T.tvm_storage_sync("shared"))
