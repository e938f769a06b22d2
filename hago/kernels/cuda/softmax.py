"""Softmax and LogSoftmax in float32 along any axis, after subtracting the largest element, by teams (`rowwise`)."""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common import math as vm
from ..common.flat import Expr, Flat, primfunc
from ..common.normalizations import Softmax
from .families import Gpu
from .registry import computes
from .rowwise import Piece, divide, teams
from .words import write


@computes(Softmax)
def softmax(params: Softmax, gpu: Gpu, threads: int) -> Any:
    """(x float32) -> y float32 = e^(x - max) / sum, or x - max - ln sum."""

    def body(x: Flat, y: Flat) -> None:
        division = divide(gpu, params.outer, params.n, params.inner, "float32")
        with teams(division, 2) as team:
            elements = team.values(x)
            largest = team.total(elements, lambda a, b: T.max(a, b), T.float32("-inf"), "float32")
            less = team.held(lambda piece: [vm.named(value - largest) for value in elements(piece)])
            powers = team.held(lambda piece: [vm.exp(value, 1) for value in less(piece)])
            total = team.total(powers, lambda a, b: a + b, T.float32(0), "float32")
            factor = vm.log(total, 1) if params.log else vm.named(T.float32(1) / total)

            def finish(piece: Piece) -> None:
                values: list[Expr]
                if params.log:
                    values = [value - factor for value in less(piece)]
                else:
                    values = [value * factor for value in powers(piece)]
                with team.owned(piece):
                    write(y, piece.at, values)

            team.along(finish)

    x = TensorType("float32", params.shape)
    return primfunc([x], [x], body)
