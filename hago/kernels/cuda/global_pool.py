"""Averages of codes over whole images in NHWC, by teams (`rowwise`): x [N, H, W, C] -> y [N, 1, 1, C].

A thread sums four neighbouring channels of some pixels where the number of channels allows.
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from ...tensor import TensorType
from ..common.epilogue import Epilogue, constants_type
from ..common.flat import Expr, Flat, primfunc
from ..common.math import named
from ..common.pools import GlobalPool
from .families import Gpu
from .registry import computes
from .rowwise import Piece, divide, local, teams
from .words import read, write


@computes(GlobalPool)
def q_global_avg_pool(params: GlobalPool, gpu: Gpu, threads: int) -> Any:
    """(x uint8, numbers int32 [1] x_zero_point, scale float32 [1], epilogue constants) -> y uint8 or float32.

    acc = sum of (x - x_zero_point) over the pixels; y = epilogue(float32(acc) * scale), where scale is already
    divided by H * W.
    """
    images, height, width, channels = params.x
    pixels, lanes = height * width, 1 if channels % 4 else 4

    def body(x: Flat, numbers: Flat, scales: Flat, constants: Flat, y: Flat) -> None:
        division = divide(gpu, images, pixels, channels // lanes, None)
        with teams(division, lanes) as team:
            zero, scale, epilogue = numbers.load(0), scales.load(0), Epilogue(params.out, constants)
            sums = [local("int32", T.int32(0)) for _ in range(lanes)]

            def add(piece: Piece) -> None:
                for held, value in zip(sums, read(x, piece.at * lanes, lanes), strict=True):
                    T.buffer_store(held, held[0] + piece.only(T.cast(value, "int32"), T.int32(0)), [0])

            team.along(add)
            totals = team.across(
                [named(held[0]) for held in sums], lambda a, b: [one + other for one, other in zip(a, b, strict=True)]
            )

            def finish(total: Expr) -> Expr:
                return epilogue(T.cast(total - pixels * zero, "float32") * scale, 1)

            with team.first():
                write(y, team.row * lanes, [finish(total) for total in totals])

    inputs = [TensorType("uint8", params.x), TensorType("int32", (1,)), TensorType("float32", (1,))]
    return primfunc([*inputs, constants_type(params.out)], [TensorType(params.out, params.y)], body)
