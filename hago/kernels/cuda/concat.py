"""Concat and QConcat on GPUs (`hago.kernels.common.concat`): some blocks for each input."""

from __future__ import annotations

from math import prod
from typing import Any

from ...tensor import TensorType
from ..common.concat import Concat
from ..common.flat import Expr, Flat, primfunc
from .families import Gpu
from .grid import each_of
from .pointwise import looked_up
from .registry import computes
from .words import copy, per_thread, read, write


@computes(Concat)
def concat(params: Concat, gpu: Gpu, threads: int) -> Any:
    """(x_0, x_1 ..., a table uint8 [256] for each index in ``tables``) -> y; all but tables of one type."""
    count = len(params.shapes)
    runs = [prod(shape[params.axis :]) for shape in params.shapes]
    total = sum(runs)

    def body(*buffers: Flat) -> None:
        y = buffers[-1]
        tables = dict(zip(params.tables, buffers[count:-1], strict=True))

        def part(number: int) -> tuple[int, Any]:
            """The threads that an input takes, and what each of them does."""
            x, run, begin, table = buffers[number], runs[number], sum(runs[:number]), tables.get(number)
            lanes = per_thread(gpu, y.size, y.dtype, run, total, begin)

            def few(index: Expr) -> None:
                start = index * lanes
                to = start // run * total + begin + start % run
                if table is None:
                    copy(y, to, x, start, lanes)
                else:
                    write(y, to, [looked_up(table, code) for code in read(x, start, lanes)])

            return x.size // lanes, few

        each_of([part(number) for number in range(count)])

    inputs = [TensorType(params.dtype, shape) for shape in params.shapes]
    inputs += [TensorType("uint8", (256,))] * len(params.tables)
    return primfunc(inputs, [TensorType(params.dtype, params.y)], body, raw=True)
