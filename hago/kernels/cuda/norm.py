"""LayerNormalization in float32 over the last axes (Ba, Kiros and Hinton 2016), by teams of threads (`rowwise`)."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T

from ..common.flat import Expr, Flat, primfunc
from ..common.math import named
from ..common.normalizations import LayerNorm
from .families import Gpu
from .registry import computes
from .rowwise import Piece, Terms, divide, teams
from .words import read, write


@computes(LayerNorm)
def layer_norm(params: LayerNorm, gpu: Gpu, threads: int) -> Any:
    """(x [R, n], scale [n] [, bias [n]]) -> y [R, n] [, mean [R] [, inverse deviation [R]]], all float32.

    y = (x - mean) / sqrt(mean of (x - mean)^2 + epsilon) * scale + bias, in two passes for accuracy.
    """
    division = divide(gpu, prod(params.shape) // params.n, params.n, 1, "float32")
    lanes = division.lanes

    def body(*buffers: Flat) -> None:
        x, scale, *rest = buffers
        bias = rest.pop(0) if params.bias is not None else None
        y, *statistics = rest
        with teams(division, 2) as team:
            elements = team.values(x)

            def average(terms: Terms) -> Expr:
                return named(team.total(terms, lambda a, b: a + b, T.float32(0), "float32") / T.float32(params.n))

            mean = average(elements)
            apart = team.held(lambda piece: [named(value - mean) for value in elements(piece)])
            variance = average(lambda piece: [value * value for value in apart(piece)])
            inverse = named(T.float32(1) / T.sqrt(variance + T.float32(params.epsilon)))

            def finish(piece: Piece) -> None:
                scales = read(scale, piece.place, lanes)
                values = [value * inverse * factor for value, factor in zip(apart(piece), scales, strict=True)]
                if bias is not None:
                    values = [v + b for v, b in zip(values, read(bias, piece.place, lanes), strict=True)]
                with team.owned(piece):
                    write(y, piece.at, values)

            team.along(finish)
            with team.first():
                for target, value in zip(statistics, (mean, inverse), strict=False):
                    target.store(team.row, value)

    return primfunc(params.inputs, params.outputs, body)
