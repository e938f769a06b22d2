"""Several neighbouring elements in one thread, which meet memory as words of up to 16 bytes.

An index is in elements, and a multiple of as many elements as are read or written there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm.script.ir_builder import tirx as T

from ..common.calls import item_bytes
from ..common.flat import Expr, Flat
from ..common.math import named
from .families import Gpu
from .grid import THREADS, each

_WORD, _WIDEST = 4, 16  # bytes
_BUSY = 2 * THREADS
"""Threads of a multiprocessor below which it stands idle while it waits for memory."""


def per_thread(gpu: Gpu, count: int, dtype: str, *multiples: int) -> int:
    """How many of ``count`` neighbouring elements a thread takes: a power of two that divides ``multiples``.

    They are 16 bytes; fewer, but at least 4, where they would not keep the GPU busy.
    """
    bytes_each = item_bytes(dtype)
    lanes = max(_WIDEST // bytes_each, 1)
    while lanes > 1:
        idle = lanes * bytes_each > _WORD and count // lanes < gpu.multiprocessors * _BUSY
        if not idle and all(multiple % lanes == 0 for multiple in multiples):
            break
        lanes //= 2
    return lanes


def each_few(count: int, lanes: int, body: Callable[[Expr, int], None]) -> None:
    """Runs ``body(index, lanes)`` for every multiple of ``lanes`` below ``count``, and (index, 1) for the rest."""
    full, rest = divmod(count, lanes)
    if not rest:
        each(full, lambda i: body(i * lanes, lanes))
        return

    def some(i: Expr) -> None:
        with T.If(i < full):
            with T.Then():
                body(i * lanes, lanes)
            with T.Else():
                body(i + full * (lanes - 1), 1)

    each(full + rest, some if full else lambda i: body(i, 1))


def read(source: Flat, index: Expr, lanes: int) -> list[Expr]:
    """``lanes`` neighbours."""
    bytes_each = item_bytes(source.dtype)
    if bytes_each > _WORD or lanes * bytes_each < _WORD:
        return [source.load(index + k) for k in range(lanes)]
    per_word = _WORD // bytes_each
    held = _fetch(source, index, lanes)
    return [T.bind(_element(held[k // per_word], k % per_word, source.dtype)) for k in range(lanes)]


def write(target: Flat, index: Expr, values: Sequence[Expr]) -> None:
    """Stores neighbours from ``index`` on."""
    bytes_each = item_bytes(target.dtype)
    if bytes_each > _WORD or len(values) * bytes_each < _WORD:
        for k, value in enumerate(values):
            target.store(index + k, value)
        return
    per_word = _WORD // bytes_each
    packed = [_packed(values[k : k + per_word], target.dtype) for k in range(0, len(values), per_word)]
    held = T.alloc_buffer((len(packed),), "int32", scope="local")
    for k, word in enumerate(packed):
        T.buffer_store(held, word, [k])
    _put(target, index, held, len(values))


def copy(target: Flat, to: Expr, source: Flat, start: Expr, lanes: int) -> None:
    """Moves neighbours as they are; both tensors are of one type."""
    size = lanes * item_bytes(source.dtype)
    if size < _WORD:
        for k in range(lanes):
            target.store(to + k, source.load(start + k))
        return
    _put(target, to, _fetch(source, start, lanes), lanes)


def gather_runs(gpu: Gpu, x: Flat, y: Flat, run: int, start: Callable[[Expr], Expr]) -> None:
    """y [rows, run]: row i is what begins at element ``start(i)`` of x, of the same type."""

    def runs(index: Expr, lanes: int) -> None:
        copy(y, index, x, T.bind(start(index // run) + index % run), lanes)

    def elements(index: Expr, lanes: int) -> None:
        write(y, index, [x.load(start(index + k)) for k in range(lanes)])

    if run > 1:
        each_few(y.size, per_thread(gpu, y.size, y.dtype, run), runs)
    else:
        each_few(y.size, per_thread(gpu, y.size, y.dtype), elements)


def _fetch(source: Flat, index: Expr, lanes: int) -> Expr:
    """The words of ``lanes`` neighbours, in registers."""
    words, first, count = source.seen_as("int32"), *_words_of(source, index, lanes)
    held = T.alloc_buffer((count,), "int32", scope="local")
    for k, width in _pieces(count):
        T.buffer_store(held, words.load(first + k, width), [_span(k, width)])
    return held


def _put(target: Flat, index: Expr, held: Expr, lanes: int) -> None:
    words, first, count = target.seen_as("int32"), *_words_of(target, index, lanes)
    for k, width in _pieces(count):
        words.store(first + k, held[_span(k, width)], width)


def _words_of(tensor: Flat, index: Expr, lanes: int) -> tuple[Expr, int]:
    """The first word of ``lanes`` neighbours, and how many there are.

    The division shows TVM that the index is a multiple, without which it moves one word at a time.
    """
    count = lanes * item_bytes(tensor.dtype) // _WORD
    return index * count if lanes == 1 else index // lanes * count, count


def _pieces(count: int) -> list[tuple[int, int]]:
    """First word and number of words of each access."""
    width = min(count, _WIDEST // _WORD)
    return [(k, width) for k in range(0, count, width)]


def _span(first: int, width: int) -> Expr:
    return first if width == 1 else T.ramp(first, 1, width)


def _element(word: Expr, place: int, dtype: str) -> Expr:
    """One element of an int32."""
    bits = 8 * item_bytes(dtype)
    if bits == 32:
        return word if dtype == "int32" else T.reinterpret(word, dtype=dtype)
    part = T.bitwise_and(T.shift_right(word, T.int32(place * bits)), T.int32((1 << bits) - 1))
    if dtype == "float16":
        return T.reinterpret(T.bind(T.cast(part, "uint16")), dtype=dtype)
    return T.cast(part, dtype)


def _packed(values: Sequence[Expr], dtype: str) -> Expr:
    """The int32 of the elements that fill one."""
    bits = 8 * item_bytes(dtype)
    # C computes with small integers as int: naming them cuts off what they have no bits for.
    values = [named(value) for value in values]
    if bits == 32:
        return values[0] if dtype == "int32" else T.reinterpret(values[0], dtype="int32")
    word: Expr = None
    for place, value in enumerate(values):
        if dtype == "float16":
            value = T.reinterpret(value, dtype="uint16")
        part = T.cast(value, "int32")
        if dtype.startswith("int"):
            part = T.bitwise_and(part, T.int32((1 << bits) - 1))
        part = T.shift_left(part, T.int32(place * bits)) if place else part
        word = part if word is None else T.bitwise_or(word, part)
    return word
