"""Adds up what blocks computed that share a product's reduction, and finishes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.flat import Expr, Flat, primfunc
from .families import Gpu
from .grid import each
from .thread_epilogue import WIDE, Epilogue, finish_of
from .words import read


@dataclass(frozen=True)
class CombineParams:
    """Shapes of what `combine` adds up, [parts, rows, columns]; bias and scale have ``channels`` elements."""

    parts: int
    rows: int
    columns: int
    channels: int
    epilogue: Epilogue
    y: tuple[int, ...]


def combine(params: CombineParams, gpu: Gpu, threads: int = 1) -> Any:
    """(sums [parts, rows, columns], buffers of the epilogue ...) -> y; parts are added up in order."""
    p = params
    lanes = 1 if p.columns % WIDE else WIDE
    sums, y = TensorType(p.epilogue.sums, (p.parts, p.rows, p.columns)), TensorType(p.epilogue.out, p.y)

    def body(sums: Flat, *rest: Flat) -> None:
        *buffers, y = rest

        def some(index: Expr) -> None:
            at, channel = T.bind(index * lanes), T.bind(index % (p.columns // lanes) * lanes)
            finish = finish_of(p.epilogue, buffers, y)
            totals = finish.starts(channel, lanes)
            for part in range(p.parts):
                more = read(sums, at + part * (p.rows * p.columns), lanes)
                totals = [T.bind(a + b) for a, b in zip(totals, more, strict=True)]
            finish.store(totals, finish.factors(channel, lanes), at)

        each(p.rows * p.columns // lanes, some)

    return primfunc([sums, *p.epilogue.arguments(p.channels, y)], [y], body)
