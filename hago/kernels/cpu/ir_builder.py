"""Small helpers for templates, which are written with TVMScript's IR builder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T


def argument(name: str, shape: tuple[int, ...], dtype: str) -> Any:
    """A buffer argument. All arguments come before anything else in a function."""
    return T.arg(name, T.buffer(shape, dtype))


def flat(buffer: Any) -> Any:
    """The same memory, seen as a buffer [elements]."""
    size = prod(int(extent) for extent in buffer.shape)
    return T.decl_buffer((size,), buffer.dtype, data=buffer.data)


class Registers:
    """Vectors that LLVM is to keep in registers: each is a separate variable on the stack.

    As one array of more than 1 KiB, or in scope "local", they would live in memory that TVM allocates, and in a
    parallel loop every sum would be stored each time it changes. Scalar buffers that are live at other times than
    these belong in scope "local": otherwise TVM lets both share memory and then rejects the two types.
    """

    def __init__(self, count: int, dtype: str) -> None:
        self._buffers = [T.alloc_buffer((1,), dtype) for _ in range(count)]

    def __getitem__(self, index: int) -> Any:
        return self._buffers[index][0]

    def __setitem__(self, index: int, value: Any) -> None:
        T.buffer_store(self._buffers[index], value, [0])


def vector_index(at: Any, lanes: int) -> Any:
    """The index of ``lanes`` neighbouring elements, the first at ``at``."""
    return T.ramp(at, 1, lanes)


def moved_back(index: Any, step: int, total: int) -> Any:
    """Start of the index-th block of ``step`` elements; the last block is moved back to end at ``total``."""
    return T.min(index * step, total - step) if total % step else index * step


def prefetch(address: Any) -> None:
    """Prefetches the cache line at an address, which need not exist."""
    read, nearest, data = T.int32(0), T.int32(3), T.int32(1)
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", address, read, nearest, data))


def channel_start(vector: Any, channels: int, lanes: int) -> Any:
    """First channel of a vector; the last vector is moved back to end with the channels, if these fill one."""
    return moved_back(vector, lanes, channels) if channels >= lanes else vector * lanes


@contextmanager
def maybe_parallel(total: int, chunks: int) -> Iterator[tuple[Any, Any]]:
    """Cuts [0, total) into ``chunks`` that run in parallel; yields the bounds of one chunk."""
    if chunks <= 1:
        yield 0, total
        return
    with T.parallel(0, chunks) as chunk:
        yield T.bind(chunk * total // chunks), T.bind((chunk + 1) * total // chunks)
