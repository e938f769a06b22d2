"""Reads that happen only where they may."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.script.ir_builder import tirx as T

from ..common.flat import Expr, Flat
from .words import read


def read_if(inside: Expr | None, value: Expr, otherwise: Expr) -> Expr:
    """``value``, an expression that is read only where ``inside`` holds (None: it always does)."""
    return T.bind(value if inside is None else T.if_then_else(inside, value, otherwise))


def read_where(inside: Expr | None, source: Flat, at: Expr, lanes: int) -> Sequence[Expr]:
    """``lanes`` neighbours as `read` gives them; zeros where not ``inside``."""
    if inside is None:
        return read(source, at, lanes)
    held = T.alloc_buffer((lanes,), source.dtype, scope="local")
    read_into(held, 0, inside, source, at, lanes)
    return [held[i] for i in range(lanes)]


def read_into(held: Expr, place: Expr, inside: Expr | None, source: Flat, at: Expr, lanes: int) -> None:
    """`read_where` of 32-bit elements, to those of a local buffer from ``place`` on: one, or four from a fourth on."""
    zero = getattr(T, source.dtype)(0)
    if lanes == 1:
        T.buffer_store(held, read_if(inside, source.at(at), zero), [place])
        return
    whole = [T.ramp(place, 1, lanes)]
    if inside is None:
        T.buffer_store(held, source.load(at, lanes), whole)
        return
    with T.If(inside):
        with T.Then():
            T.buffer_store(held, source.load(at, lanes), whole)
        with T.Else():
            T.buffer_store(held, T.broadcast(zero, lanes), whole)


def word_of(codes: Sequence[Expr]) -> Expr:
    """int32: up to four bytes, each in an int32, as one word; the first is the lowest."""
    word = codes[0]
    for i, code in enumerate(codes[1:], start=1):
        word = T.bitwise_or(word, T.shift_left(code, T.int32(8 * i)))
    return word
