"""Reads that happen only where they may."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.script.ir_builder import tirx as T

from ..common.elements import widened
from ..common.flat import Expr, Flat
from .words import read


def read_if(inside: Expr | None, value: Expr, otherwise: Expr) -> Expr:
    """``value``, an expression that is read only where ``inside`` holds (None: it always does)."""
    return T.bind(value if inside is None else T.if_then_else(inside, value, otherwise))


def floats_where(inside: Expr | None, source: Flat, at: Expr, lanes: int, dtype: str) -> Sequence[Expr]:
    """float32: ``lanes`` neighbours of a tensor of floats of that ONNX type; zeros where not ``inside``."""
    if inside is None:
        return [widened(value, dtype, 1).value for value in read(source, at, lanes)]
    held = T.alloc_buffer((lanes,), "float32", scope="local")
    with T.If(inside):
        with T.Then():
            for i, value in enumerate(read(source, at, lanes)):
                T.buffer_store(held, widened(value, dtype, 1).value, [i])
        with T.Else():
            for i in range(lanes):
                T.buffer_store(held, T.float32(0), [i])
    return [held[i] for i in range(lanes)]


def read_into(held: Expr, place: Expr, inside: Expr | None, source: Flat, at: Expr, lanes: int) -> None:
    """float32 neighbours, to the elements of a local buffer from ``place`` on; zeros where not ``inside``."""
    if lanes == 1:
        T.buffer_store(held, read_if(inside, source.at(at), T.float32(0)), [place])
        return
    whole = [T.ramp(place, 1, lanes)]
    if inside is None:
        T.buffer_store(held, source.load(at, lanes), whole)
        return
    with T.If(inside):
        with T.Then():
            T.buffer_store(held, source.load(at, lanes), whole)
        with T.Else():
            T.buffer_store(held, T.broadcast(T.float32(0), lanes), whole)


def word_of(codes: Sequence[Expr]) -> Expr:
    """int32: up to four bytes, each in an int32, as one word; the first is the lowest."""
    word = codes[0]
    for i, code in enumerate(codes[1:], start=1):
        word = T.bitwise_or(word, T.shift_left(code, T.int32(8 * i)))
    return word
