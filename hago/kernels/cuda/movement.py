"""Data movement at regular strides on GPUs (`hago.kernels.common.movement`).

The kernels take any element type, seen as unsigned integers of its width; x and y may not overlap.
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.flat import Expr, Flat, primfunc, unravel
from ..common.movement import Permute, Strided, order
from .families import Gpu
from .registry import computes
from .transpose import permute
from .words import copy, each_few, per_thread, write


@computes(Permute)
def permuted(params: Permute, gpu: Gpu, threads: int) -> Any:
    """(x [shape]) -> y [shape[perm]]."""

    def body(x: Flat, y: Flat) -> None:
        permute(x, y, order(params.shape, params.perm), gpu)

    x, y = TensorType(params.dtype, params.x), TensorType(params.dtype, params.y)
    return primfunc([x], [y], body, raw=True)


@computes(Strided)
def strided(params: Strided, gpu: Gpu, threads: int) -> Any:
    """(x) -> y [dims]: whole words where the last stride is 1, else element by element."""
    *outer, step = params.strides

    def start(index: Expr) -> Expr:
        at = unravel(index, params.dims)
        return sum((i * s for i, s in zip(at, params.strides, strict=True) if s), T.int32(params.offset))

    def body(x: Flat, y: Flat) -> None:
        def rows(index: Expr, lanes: int) -> None:
            copy(y, index, x, T.bind(start(index)), lanes)

        def elements(index: Expr, lanes: int) -> None:
            write(y, index, [x.load(start(index + k)) for k in range(lanes)])

        if step == 1:
            parts = (params.offset, *outer, *(params.dims[-1:] if outer else ()))
            each_few(y.size, per_thread(gpu, y.size, y.dtype, *parts), rows)
        else:
            each_few(y.size, per_thread(gpu, y.size, y.dtype), elements)

    x, y = TensorType(params.dtype, params.x), TensorType(params.dtype, params.y)
    return primfunc([x], [y], body, raw=True)
